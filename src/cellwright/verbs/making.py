"""The verb that makes cells, by whichever way the family has; here, kinds of cells in words. Nothing is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.config import versions
from cellwright.models import Model
from cellwright.tasks.inference import MachineOptions
from cellwright.verbs.filling import FillConfig, FillRequest, fill
from cellwright.verbs.using import model_record, open_model

if TYPE_CHECKING:
    from anndata import AnnData

    from cellwright.tasks.generate import CellPrompt, GenerateConfig, GeneratedCells


def generate(
    model: Model | str | Path,
    data: Any = None,
    *,
    prompt: Mapping[str, str] | Sequence[Mapping[str, str]] = (),
    num_cells: int = 1,
    seed: int = 0,
    force: Mapping[str, int] | None = None,
    config: GenerateConfig | FillConfig | None = None,
    max_genes: int | None = None,
    run: MachineOptions | None = None,
) -> AnnData:
    """Make cells: written gene by gene by a model of sentences, or filled in by one that predicts unknown genes.

    Parameters
    ----------
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one; it was trained to make cells.
    data
        For a model that fills in: the cells whose unknown genes are wanted, or those that a ``prompt`` speaks of
        (AnnData or path). A model of sentences takes none.
    prompt
        A kind of cell, or several. Of a model of sentences: category -> word, such as ``{"organ": "Heart",
        "cell_type": "Fibroblast"}``; published names of categories are understood, and words are said in the order of
        the family's categories, as in training. Of one that fills in: column of the data's obs -> value; cells start
        from the embeddings of the cells that have it.
    num_cells
        Cells of each kind.
    seed
        Of what is drawn; the i-th cell depends on (seed, i) alone. It counts before that of ``config``.
    force
        Gene -> level (sentences) or bin (filling in) that every cell is given as known; 0 = held silent.
    config
        How words are drawn (`cellwright.tasks.generate.GenerateConfig`), or what genes are filled in from, in how many
        steps and in which order (`FillConfig`).
    max_genes
        Most genes written a cell; ``None`` = what the architecture was built for. Sentences only.
    run
        Device, precision and minibatch size.

    Returns
    -------
    AnnData. Of sentences: X levels as parts of the highest, 0 .. 1 (float32 CSR), relative to each cell's own highest
    value, no counts; obs the words of the prompt, ``is_ended``, ``num_other_words``. Filled in: X bins (float32), known
    ones as given, others as predicted; layers ``is_known``, ``step`` (in which a gene joined) and, where the model says
    it, ``expected_error``; obs that of the data, or the prompt. ``uns["cellwright"]["generated"]``: provenance.

    Raises
    ------
    ValueError
        When the model makes no cells, a category, word, gene or level is not one that it knows, or an option is not for
        its kind of model.

    Examples
    --------
    >>> made = cellwright.generate("runs/mulan", prompt={"cell_type": "B cell"}, num_cells=100)  # doctest: +SKIP
    >>> whole = cellwright.generate("runs/gpt", "cells.h5ad", config=FillConfig(known_fraction=0.5))  # doctest: +SKIP
    """
    from cellwright.tasks.generate import CellPrompt, GenerateConfig, generate_cells
    from cellwright.tasks.tell import check_writes

    model, run = open_model(model), run or MachineOptions()
    kinds = [prompt] if isinstance(prompt, Mapping) else list(prompt)
    if model.family.decoding == "unmask":
        if isinstance(config, GenerateConfig) or max_genes is not None:
            what = "max_genes" if max_genes is not None else "a GenerateConfig"
            raise ValueError(f"{what} is for models of sentences; {model.family.title} fills in genes (FillConfig)")
        asked = FillRequest(
            kinds=kinds, num_cells=num_cells, seed=seed, force=force or {}, config=config or FillConfig(), run=run
        )
        return fill(model, data, asked)
    check_writes(model)
    if data is not None or isinstance(config, FillConfig):
        what = "data" if data is not None else "a FillConfig"
        raise ValueError(f"{what} is for models that fill in genes; {model.family.title} writes cells from a prompt")
    config = GenerateConfig.read((config or GenerateConfig()).record() | {"seed": seed}, "generate")
    check_trained(model, config.word)
    prompts = [
        CellPrompt.read(
            {"words": in_order(model, kind), "levels": dict(force or {}), "num_cells": num_cells}, "generate"
        )
        for kind in kinds
    ]
    made = generate_cells(model, prompts, config, max_genes=max_genes, options=run)
    return as_anndata(model, made, prompts, config, max_genes=max_genes, run=run)


def in_order(model: Model, words: Mapping[str, str]) -> dict[str, str]:
    """Return the words of a prompt by our names of categories, in the family's order; unknown categories come last."""
    given = {model.family.category(name): word for name, word in words.items()}
    known = [name for name in model.family.categories if name in given]
    return {name: given[name] for name in [*known, *(name for name in given if name not in known)]}


def check_trained(model: Model, word: str) -> None:
    """Refuse a task word that the model never saw in training, where its checkpoint says what it saw."""
    sentences = model.origin.get("pretraining", {}).get("sentences")
    if sentences is not None and not any(line.startswith(f"{word}: ") for line in sentences):
        raise ValueError(
            f"{model.report.source} was never trained on the task {word!r} (its sentences: {'; '.join(sentences)}); "
            "pre-train it with metadata of the cells that it is to make"
        )


def as_anndata(
    model: Model,
    made: GeneratedCells,
    prompts: Sequence[CellPrompt],
    config: GenerateConfig,
    *,
    max_genes: int | None,
    run: MachineOptions,
) -> AnnData:
    """Return made cells with their prompts in obs and how they were made in ``uns["cellwright"]["generated"]``."""
    import pandas as pd
    from anndata import AnnData

    from cellwright.data.write import storable

    record = {
        "model": model_record(model),
        "values": "levels / highest level, relative to each cell's highest value; not counts",
        "prompts": [kind.record() for kind in prompts],
        "max_genes": max_genes,
        "options": config.record() | {"device": run.device, "precision": run.precision},
        "versions": versions(),
    }
    names = dict.fromkeys(name for kind in prompts for name in kind.words)
    obs = pd.DataFrame(index=[f"made_{i}" for i in range(len(made.prompt_n))])
    for name in names:
        word_k = np.array([kind.words.get(name) for kind in prompts], dtype=object)
        obs[name] = pd.Categorical(word_k[made.prompt_n])
    obs["is_ended"] = made.is_ended_n
    obs["num_other_words"] = made.num_other_n
    uns = {"cellwright": {"generated": storable(record)}}
    return AnnData(made.level_ng, obs=obs, var=pd.DataFrame(index=list(made.genes)), uns=uns)
