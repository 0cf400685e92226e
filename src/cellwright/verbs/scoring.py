"""The verb that scores a model on labelled cells it has not seen, beside simple baselines. Nothing is printed.

Scores are those of `cellwright.evaluate`; here data and model are opened and checked, cells are labelled or made, and
the folder is written, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cellwright.config import Config, did_you_mean
from cellwright.files import atomic_path, write_json
from cellwright.models import Model
from cellwright.tasks.generate import GenerateConfig
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.mapping import IndexConfig
from cellwright.verbs.opening import check_new
from cellwright.verbs.training import publish
from cellwright.verbs.using import ReadOptions, annotation, model_record, open_data, open_model

if TYPE_CHECKING:
    from anndata import AnnData

    from cellwright.data.cells import Cells
    from cellwright.evaluate.evaluation import Evaluation

MADE_FILE, RECIPE_FILE = "generated.h5ad", "recipe.json"


class FillScoring(Config):
    """How filling in is scored."""

    start: Literal["genes", "embedding", "type"] = "genes"
    """What cells start from: genes (a random part is known) | embedding (of the whole cell) | type (mean embedding of
    the training cells of the type)."""
    known_fraction: float = 0.5
    """genes: the part that is known, 0 .. 1."""
    steps: tuple[int, ...] = (2, 3, 4, 8)
    """Numbers of steps K that are compared with one pass."""
    shown: int = 3
    """The one of them that stands in the comparison."""
    orders: tuple[str, ...] = ()
    """Orders that are compared: confident, agreement, gate, random, fixed; empty = all that the model can give."""
    max_train: int = Field(3000, ge=20)
    """Most training cells that baselines learn from, drawn at random."""


class ScoreConfig(Config):
    """How a model is scored."""

    group: str | None = None
    """Column of obs with donors or studies: refused when one of them is in training and held-out cells, and resampled
    whole for intervals of annotation and denoising where there are five or more."""
    category: str | None = None
    """Category of the model's words that the labels are; unset = a trained label head where there is one, else
    cell_type."""
    words: dict[str, str] = {}
    """generate: further categories of the prompt -> column of obs of the held-out cells that says them."""
    num_cells: int = Field(100, ge=10)
    """generate: cells made of each type."""
    num_real: int = Field(500, ge=10)
    """Most held-out cells that are compared with. generate: of a type; unmask: of all."""
    max_genes: int | None = Field(None, ge=1)
    """generate: most genes written a cell; unset = what the architecture was built for."""
    num_resamples: int = Field(1000, ge=100)
    """generate, denoise, unmask: bootstrap resamples of each interval."""
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.01, 0.05, 0.1, 0.2), min_length=1)
    """denoise: parts of the molecules that are kept."""
    num_query: int = Field(400, ge=10)
    """denoise: most cells that are thinned, drawn at random."""
    further: tuple[str, ...] = ()
    """denoise: baselines that need a package of their own, to be run too: magic, scvi."""
    filling: FillScoring = FillScoring()
    """unmask: what cells start from, in how many steps and in which orders."""
    making: GenerateConfig = GenerateConfig()
    """generate: how words are drawn; its seed is that below."""
    index: IndexConfig = IndexConfig()
    """map_reference: distance, kind of search, number of neighbours."""
    seed: int = Field(0, ge=0)
    """Of everything random."""
    reading: ReadOptions = ReadOptions()
    """How the cells are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """A model's scores beside the baselines', and the report of both."""

    evaluation: Evaluation
    folder: Path
    report: Path
    made: AnnData | None = None
    """Cells that were made to be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `score` was asked for."""

    held_out: Any
    model: Model
    label: str | None
    out: Path
    train: Any
    made: Any
    config: ScoreConfig
    run: InferenceOptions


def score(
    adata: Any,
    model: Model | str | Path,
    *,
    task: Literal["annotate", "denoise", "generate", "map_reference", "unmask"],
    label: str | None = None,
    out: str | Path,
    train: Any = None,
    made: Any = None,
    config: ScoreConfig | None = None,
    run: InferenceOptions | None = None,
) -> ScoreResult:
    """Score a model on cells that it has not seen, beside simple baselines, and write a report.

    Parameters
    ----------
    adata
        Held-out cells: AnnData or path.
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one. For ``annotate`` it has a trained label
        head or tells types in words; for ``generate`` it was trained to make cells; for ``denoise`` it knows depth.
    task
        ``annotate``: its labels against the true ones. ``generate``: its cells against the real ones, type by type.
        ``map_reference``: the votes of the nearest training cells against the true labels, and whether types that are
        taken out of the reference stand out. ``denoise``: its values for thinned cells against all of their molecules.
        ``unmask``: the unknown genes that it fills in against those that cells have, over steps and orders.
    label
        Column of obs with the cell types, in both sets of cells. ``denoise`` and ``unmask`` can do without it.
    out
        Folder to make: evaluation, rows of results, figures, report, and cells that were made.
    train
        Cells that baselines learn from, AnnData or path; those that the model was trained on, where they are at hand.
        ``annotate``: without them no baseline is run. ``generate``, ``unmask``: needed (raw counts).
        ``map_reference``: the reference. ``denoise``: without them baselines know the thinned cells alone.
    made
        For ``generate``: cells that this model made before (AnnData or path, see `generate`), instead of new ones.
    config
        What is compared, and how.
    run
        How the model is run.

    Returns
    -------
    `ScoreResult`. Types that cannot be scored (the model has no word for them, too few cells) are named in the
    report and in ``evaluation.summary``.

    Raises
    ------
    ValueError
        When an option, the data, the labels or the folder cannot be used, no type can be scored, or held-out cells are
        training cells; nothing is left behind then.

    Examples
    --------
    >>> cellwright.score("held.h5ad", "runs/mulan", task="generate", label="cell_type", train="train.h5ad",
    ...                  out="runs/scores")  # doctest: +SKIP
    """
    if task not in _TASKS:
        raise ValueError(f"task {task!r} cannot be evaluated{did_you_mean(task, _TASKS)}; choose {', '.join(_TASKS)}")
    if label is None and task not in ("denoise", "unmask"):
        raise ValueError(f"task {task!r} scores labelled cells; name their column of obs (label, --label)")
    check_new(out)
    asked = Asked(
        held_out=adata,
        model=open_model(model),
        label=label,
        out=Path(out),
        train=train,
        made=made,
        config=config or ScoreConfig(),
        run=run or InferenceOptions(),
    )
    evaluation, cells = _TASKS[task](asked)
    record = {
        "task": task,
        "label": label,
        "model": model_record(asked.model),
        "held_out": source_name(adata),
        "train": source_name(train),
        "made": source_name(made),
        "config": asked.config.record(),
    }
    with atomic_path(asked.out) as draft:
        draft.mkdir()
        write_json(draft / RECIPE_FILE, record)
        if cells is not None:
            cells.write_h5ad(draft / MADE_FILE)
        report = publish(evaluation, draft)
    return ScoreResult(evaluation=evaluation, folder=asked.out, report=asked.out / report.name, made=cells)


def source_name(data: Any) -> str | None:
    """Return the path of data, its name, or what kind of object it is."""
    from cellwright.data.sources import name_of

    return None if data is None else name_of(data)


def _evaluate_annotate(asked: Asked) -> tuple[Evaluation, None]:
    from cellwright.evaluate.answers import AnswerStudy, evaluate_answers, spread_words
    from cellwright.tasks.annotate import head_classes

    if asked.made is not None:
        raise ValueError("made cells belong to the task generate; annotate labels real ones")
    model, config = asked.model, asked.config
    category = _told_category(model, config)
    classes = head_classes(model) if category is None else model.vocab.categories[category]
    held_out = open_data(asked.held_out, model, config.reading, run=asked.run)
    study = AnswerStudy(
        model=model,
        held_out=held_out,
        label=asked.label,
        classes=classes,
        train=None if asked.train is None else open_data(asked.train, model, config.reading),
        group=config.group,
        seed=config.seed,
        is_told=category is not None,
    )

    def answer(cells: Cells) -> np.ndarray:
        if category is None:
            return annotation(model, cells, asked.run).prob_nk
        told = annotation(model, cells, asked.run, tell=(category,))
        return spread_words(told.words[category], told.probs[category], classes)

    return evaluate_answers(study, answer, asked.run), None


def _told_category(model: Model, config: ScoreConfig) -> str | None:
    """Return the category that cells are told by; ``None`` = the model has a label head, which answers."""
    from cellwright.tasks.annotate import HEAD
    from cellwright.tasks.tell import choose_questions

    if config.category is None and (HEAD in model.heads or not model.family.questions):
        return None
    category = model.family.category(config.category or "cell_type")
    choose_questions(model, [category])
    return category


def _evaluate_generate(asked: Asked) -> tuple[Evaluation, AnnData | None]:
    from cellwright.verbs.scoring_made import evaluate_generate

    return evaluate_generate(asked)


def _evaluate_map_reference(asked: Asked) -> tuple[Evaluation, None]:
    from cellwright.verbs.scoring_mapping import evaluate_map_reference

    return evaluate_map_reference(asked)


def _evaluate_denoise(asked: Asked) -> tuple[Evaluation, None]:
    from cellwright.verbs.scoring_denoised import evaluate_denoise

    return evaluate_denoise(asked)


def _evaluate_unmask(asked: Asked) -> tuple[Evaluation, None]:
    from cellwright.verbs.scoring_filled import evaluate_unmask

    return evaluate_unmask(asked)


_TASKS: dict[str, Callable[[Asked], tuple[Evaluation, Any]]] = {
    "annotate": _evaluate_annotate,
    "denoise": _evaluate_denoise,
    "generate": _evaluate_generate,
    "map_reference": _evaluate_map_reference,
    "unmask": _evaluate_unmask,
}
