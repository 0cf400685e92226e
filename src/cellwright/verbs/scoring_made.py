"""Scoring of made cells, the half of `cellwright.score` that opens, checks, and lets the model make cells."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.config import did_you_mean
from cellwright.data.cells import Cells, open_cells
from cellwright.data.splits import label_codes
from cellwright.evaluate.apart import check_apart, seen_in_training
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.generation import LevelCells, read_levels
from cellwright.evaluate.made_cells import MadeCells, read_made
from cellwright.evaluate.making import GenerationStudy, evaluate_made
from cellwright.evaluate.scored_types import TypeCount, count_types
from cellwright.models import Model
from cellwright.tasks.generate import CellPrompt, generate_cells
from cellwright.tasks.tell import check_writes
from cellwright.verbs.making import as_anndata, check_trained, in_order
from cellwright.verbs.scoring import Asked, ScoreConfig, source_name
from cellwright.verbs.using import open_data

if TYPE_CHECKING:
    from anndata import AnnData


def evaluate_generate(asked: Asked) -> tuple[Evaluation, AnnData | None]:
    """Score made cells; return the record, and the cells where they were made here."""
    model, config = asked.model, asked.config
    category = _check(asked)
    train = open_cells(asked.train, model.vocab, accepts=("raw",), **config.reading.of_matrix())
    held_out = open_data(asked.held_out, model, config.reading)
    apart = check_apart(train, held_out, config.group)
    (train_code_n, held_code_n), classes = _numbered_together((train, held_out), asked.label)
    given = None if asked.made is None else read_made(asked.made, model, category)
    train_levels = read_levels(model, train.read(np.arange(len(train))), train_code_n)
    types = count_types(
        train_levels,
        held_code_n,
        classes=classes,
        words=model.vocab.categories[category],
        num_made=None if given is None else given.counts(),
    )
    start = time.perf_counter()
    cells = None if given else _make(asked, held_out, held_code_n, types, category)
    seconds = {} if given else {"making cells": time.perf_counter() - start}
    made = given or read_made(cells, model, category)
    code_of = {name: code for code, name in enumerate(classes)}
    made_code_n = np.array([code_of.get(name, -1) for name in made.type_n], np.int64)
    name = model.family.title
    study = GenerationStudy(
        title=f"Cells made by {name}, held against {held_out.contract.title}",
        dataset=held_out.contract.title,
        model=model,
        made=LevelCells(made.level_ng, made_code_n),
        what=f"{name} of {model.num_parameters:,} parameters, asked for the type in words",
        train=train,
        train_levels=train_levels,
        held_out=held_out,
        held_code_n=held_code_n,
        classes=classes,
        types=types,
        num_real=config.num_real,
        num_resamples=config.num_resamples,
        seed=config.seed,
        split_sha256=apart.sha256,
        hashes=_made_by(made, source_name(asked.made)),
        seconds=seconds,
        notes=(*apart.notes, *_notes(made, classes)),
        limitations=(*seen_in_training(model, held_out), *_unsaid(model, made, config.making.word)),
    )
    return evaluate_made(study), cells


def _check(asked: Asked) -> str:
    """Refuse what cannot be scored before anything is read; return the category of the types."""
    model, config = asked.model, asked.config
    check_writes(model)
    if asked.train is None:
        raise ValueError("made cells are scored beside baselines, which need training cells; give train (TRAIN)")
    if asked.made is None:
        check_trained(model, config.making.word)
    elif config.words or config.max_genes:
        raise ValueError(
            "words and max_genes say how cells are made; cells that were made already are scored as they are"
        )
    category = model.family.category(config.category or "cell_type")
    _words(model, category)
    return category


def _words(model: Model, category: str) -> tuple[str, ...]:
    known = {name: words for name, words in model.vocab.categories.items() if words}
    if category not in known:
        near = did_you_mean(category, known) or f"; it has {', '.join(known) or 'no words at all, only genes'}"
        raise ValueError(f"{model.report.source} has no words of {category!r}{near}")
    return known[category]


def _numbered_together(sources: Sequence[Cells], label: str) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return the codes of the labels of each set of cells, and the names of all."""
    found = [label_codes(cells.obs, label) for cells in sources]
    classes = tuple(sorted({name for _, names in found for name in names}))
    at = {name: code for code, name in enumerate(classes)}
    return [np.array([at[name] for name in names], np.int64)[code_n] for code_n, names in found], classes


def _make(asked: Asked, held_out: Cells, code_n: np.ndarray, types: Sequence[TypeCount], category: str) -> AnnData:
    """Make cells of each type that is scored."""
    model, config = asked.model, asked.config
    further = _further_words(held_out, model, config, category)
    prompts = []
    for count in types:
        if not count.reason:
            own = {name: word_n[code_n == count.code] for name, word_n in further.items()}
            for kind, num in _kinds(own, config.num_cells):
                words = in_order(model, {category: count.name, **kind})
                prompts.append(CellPrompt.read({"words": words, "num_cells": num}, "evaluate"))
    how = config.making.model_copy(update={"seed": config.seed})
    made = generate_cells(model, prompts, how, max_genes=config.max_genes, options=asked.run)
    return as_anndata(model, made, prompts, how, max_genes=config.max_genes, run=asked.run)


def _kinds(further: Mapping[str, np.ndarray], num_cells: int) -> Iterator[tuple[dict[str, str], int]]:
    """Yield further words of a prompt and how many cells to make, in the shares that a type's cells have."""
    if not further:
        yield {}, num_cells
        return
    kinds, num_k = np.unique(np.stack(list(further.values()), axis=1), axis=0, return_counts=True)
    for kind, num in zip(kinds.tolist(), shares(num_k, num_cells).tolist(), strict=True):
        if num:
            yield dict(zip(further, kind, strict=True)), num


def _further_words(held_out: Cells, model: Model, config: ScoreConfig, category: str) -> dict[str, np.ndarray]:
    """Return the words of each held-out cell for the further categories of the prompt."""
    found = {}
    for given, column in config.words.items():
        name = model.family.category(given)
        known = _words(model, name)
        if name == category:
            raise ValueError(f"words: {given!r} is what the labels are already; name another category")
        code_n, names = label_codes(held_out.obs, column)
        for word in names:
            if word not in known:
                near = did_you_mean(word, known)
                raise ValueError(f"column {column!r}: {word!r} is no {name} that the model knows{near}")
        found[name] = np.array(names)[code_n]
    return found


def shares(num_k: np.ndarray, total: int) -> np.ndarray:
    """Divide ``total`` in the proportions of ``num_k``, largest remainders first: int64 ``[k]``."""
    exact_k = num_k / num_k.sum() * total
    share_k = np.floor(exact_k).astype(np.int64)
    share_k[np.argsort(share_k - exact_k, kind="stable")[: total - share_k.sum()]] += 1
    return share_k


def _prompts(made: MadeCells) -> list[dict[str, Any]]:
    """Return the prompts that are on record, also where they were stored as text."""
    found = made.record.get("prompts", [])
    found = json.loads(found) if isinstance(found, str) else found
    return [prompt for prompt in found if isinstance(prompt, dict)]


def _made_by(made: MadeCells, source: str | None) -> dict[str, str]:
    options = dict(made.record.get("options", {}))
    facts = {"made cells, seed": str(options.get("seed", "unknown"))}
    return facts if source is None else {"made cells": source, **facts}


def _notes(made: MadeCells, classes: Sequence[str]) -> list[str]:
    """Say of made cells what a reader of their scores should know."""
    notes = [
        f"not scored: {num:,} made cells of {name!r}, of which there are no real cells"
        for name, num in made.counts().items()
        if name not in classes
    ]
    if made.num_cut:
        notes.append(f"{made.num_cut:,} of {len(made.type_n):,} made cells did not come to their end and were cut.")
    if any(prompt.get("levels") for prompt in _prompts(made)):
        notes.append("Some made cells were given levels of genes; they are scored as they are.")
    return notes


def _unsaid(model: Model, made: MadeCells, asking: str) -> list[str]:
    """Say which categories were said in training and not in the prompts."""
    said = {model.family.category(name) for prompt in _prompts(made) for name in prompt.get("words", {})}
    for line in model.origin.get("pretraining", {}).get("sentences", ()):
        word, _, sentence = line.partition(": ")
        missing = [name for name in sentence.partition(" -> ")[0].split(", ") if name not in said]
        if said and word == asking and missing:
            return [f"Prompts of training said {', '.join(missing)} too; these did not, and cells may be worse for it."]
    return []
