"""Verbs that make models: pre-train a new one, fine-tune one for a task. Each leaves a run folder that is a model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellwright.config import did_you_mean
from cellwright.models import FAMILIES, Model
from cellwright.recipes import Recipe, pretrain_model
from cellwright.recipes import recipe as find_recipe
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.using import ReadOptions, open_data, open_model

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.train.run import FitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainResult:
    """A pre-trained model and how its training went."""

    model: Model
    fit: FitResult
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """A fine-tuned model, its scores beside the baselines', and the report of both."""

    model: Model
    fit: FitResult
    evaluation: Evaluation
    folder: Path
    report: Path


def pretrain(
    data: Any,
    *,
    recipe: str | Recipe = "scgpt_tiny",
    out: str | Path,
    changes: Sequence[str] = (),
    resume: bool = False,
    is_progress_shown: bool = False,
) -> PretrainResult:
    """Pre-train a new model.

    Parameters
    ----------
    data
        One AnnData or path, or a list of them; their genes make the vocabulary.
    recipe
        Name of a recipe, or one of your own.
    out
        Run folder to make; it is a model.
    changes
        Changes to the recipe such as ``"train.max_steps=100"``.
    resume
        Continue the interrupted run in ``out``.
    is_progress_shown
        Show progress bars on standard error.

    Raises
    ------
    ValueError
        When an option, the data or the folder cannot be used.
    """
    chosen = (find_recipe(recipe) if isinstance(recipe, str) else recipe).override(changes)
    if chosen.family not in FAMILIES:
        near = did_you_mean(chosen.family, FAMILIES)
        raise ValueError(f"no model family {chosen.family!r}{near}; known: {', '.join(FAMILIES)}")
    sources = list(data) if isinstance(data, list | tuple) else [data]
    folder = Path(out)
    with removed_if_futile(folder):
        model, fit = pretrain_model(chosen, sources, folder, resume=resume, is_progress_shown=is_progress_shown)
    return PretrainResult(model=model, fit=fit, folder=folder)


def finetune(
    adata: Any,
    model: Model | str | Path,
    *,
    task: Literal["annotate"] = "annotate",
    label: str,
    out: str | Path,
    split_by: str | None = None,
    changes: Sequence[str] = (),
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> FinetuneResult:
    """Fine-tune a model for a task, and score it on held-out cells beside simple baselines.

    Parameters
    ----------
    adata
        Labelled cells: AnnData or path.
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one. It is not changed.
    task
        ``annotate``.
    label
        Column of obs with the cell types; a cell without one is an error.
    out
        Run folder to make: model, recipe, metrics, log, evaluation, report.
    split_by
        Column of obs whose groups are held out whole. ``None`` = a donor- or study-like column where there is one,
        else random cells; ``"cells"`` = random cells.
    changes
        Changes to `cellwright.tasks.annotate.AnnotateConfig` such as ``"mode=lora"`` or ``"train.max_epochs=3"``.
    read, run
        How the cells are read, how the model is run for prediction.

    Raises
    ------
    ValueError
        When an option, the data, the labels or the folder cannot be used; nothing is left behind then.
    """
    if task != "annotate":
        raise ValueError(f"task {task!r} cannot be fine-tuned for; choose annotate")
    return _finetune_annotate(
        adata,
        open_model(model),
        AnnotationPlan(label=label, split_by=split_by, folder=Path(out), changes=tuple(changes)),
        read or ReadOptions(),
        run or InferenceOptions(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationPlan:
    """What `finetune` was asked for."""

    label: str
    split_by: str | None
    folder: Path
    changes: tuple[str, ...]


def _finetune_annotate(
    adata: Any, model: Model, plan: AnnotationPlan, read: ReadOptions, run: InferenceOptions
) -> FinetuneResult:
    from cellwright.data.splits import label_codes, split_cells
    from cellwright.data.write import check_place
    from cellwright.tasks.annotate import AnnotateConfig, train_annotator
    from cellwright.train.run import open_run

    config = AnnotateConfig().override(plan.changes)
    source = open_data(adata, model, read)
    code_n, names = label_codes(source.obs, plan.label)
    check_labels(code_n, names, plan.label)
    if plan.split_by not in (None, "cells"):
        check_groups(label_codes(source.obs, plan.split_by)[1], plan.split_by)
    seed = config.train.seed
    split = split_cells(source.obs, by=plan.split_by, valid=0.1, test=0.2, seed=seed, label=plan.label)
    code_n, classes = known_classes(code_n, names, split.train)
    rows = without_unknown(split, code_n)
    if len(classes) < 2 or not len(rows.valid):
        what = "validation cells have none of the training cells' classes"
        what = f"all training cells are {classes[0]!r}" if len(classes) < 2 else what
        raise ValueError(f"split by {split.by!r}, {what}; choose another column to split by, or cells (--split-by)")
    source = source.with_obs({"label": code_n})
    record = config.record() | {
        "task": "annotate",
        "model": {"source": model.report.source, "sha256": model.sha256()},
        "contract": source.contract.record(),
        "label": plan.label,
        "split": split.record(),
    }
    check_place(plan.folder)
    start = time.perf_counter()
    with removed_if_futile(plan.folder):
        open_run(plan.folder, record)
        shown = run.progress
        tuned, fit = train_annotator(
            model, source, rows, classes, config=config, folder=plan.folder, is_progress_shown=shown
        )
    seconds = {"fine-tuning": time.perf_counter() - start}
    evaluation = _evaluate(tuned, fit, source, split, plan, run, seconds)
    report = publish(evaluation, plan.folder)
    return FinetuneResult(model=tuned, fit=fit, evaluation=evaluation, folder=plan.folder, report=report)


@contextmanager
def removed_if_futile(folder: Path) -> Iterator[None]:
    """Take away a run folder that was new when the block began and failed before its first checkpoint.

    A run with a checkpoint stays, since it can be looked into and resumed; so does one that the user interrupts.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    is_new = bool(made) or (folder.is_dir() and not any(folder.iterdir()))
    try:
        yield
    except Exception:
        if is_new and folder.is_dir() and not any(folder.glob("**/checkpoints")):
            for item in folder.iterdir():
                shutil.rmtree(item) if item.is_dir() else item.unlink()
            for place in made:
                if not any(place.iterdir()):
                    place.rmdir()
        raise


def check_labels(code_n: np.ndarray, names: Sequence[str], column: str) -> None:
    """Refuse a column that is no labelling of these cells: one class, blank names, or nearly one label a cell."""
    if len(names) < 2:
        raise ValueError(f"column {column!r} holds a single class ({names[0]!r}); annotation needs at least two")
    is_blank_k = np.array([not name.strip() for name in names])
    if is_blank_k.any():
        raise ValueError(
            f"column {column!r} is blank for {int(is_blank_k[code_n].sum())} of {len(code_n)} cells; drop these cells, "
            "or give them a label such as 'unknown'"
        )
    if 2 * len(names) > len(code_n):
        raise ValueError(
            f"column {column!r} holds {len(names)} labels for {len(code_n)} cells, too few cells a label to train, "
            "validate and test on; is it the column of cell types?"
        )


def check_groups(names: Sequence[str], column: str) -> None:
    """Refuse a column with too few groups to hold some of them out."""
    if len(names) < 3:
        raise ValueError(
            f"column {column!r} has {len(names)} of the 3 groups that training, validation and test need "
            f"({', '.join(map(repr, names))}); choose another column, or --split-by cells"
        )


def known_classes(code_n: np.ndarray, names: Sequence[str], train: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the classes that training cells have; cells of other classes get -1."""
    seen = np.unique(code_n[train])
    new_k = np.full(len(names), -1, np.int64)
    new_k[seen] = np.arange(len(seen))
    return new_k[code_n], tuple(names[k] for k in seen)


def without_unknown(split: Any, code_n: np.ndarray) -> Any:
    """Return the rows for training, validation cells of classes that training cells lack left out."""
    from cellwright.tasks.annotate import Rows

    return Rows(train=split.train, valid=split.valid[code_n[split.valid] >= 0])


def _evaluate(
    tuned: Model,
    fit: Any,
    source: Any,
    split: Any,
    plan: AnnotationPlan,
    run: InferenceOptions,
    seconds: dict[str, float],
) -> Evaluation:
    from cellwright.evaluate.annotation import Contender, run_baselines
    from cellwright.evaluate.evaluation import Grouping
    from cellwright.evaluate.study import AnnotationStudy, evaluate_study
    from cellwright.tasks.annotate import annotate_cells
    from cellwright.tasks.embed import embed_cells

    query, train = source.select(split.test), source.select(split.train)
    code_n = source.codes("label")
    start = time.perf_counter()
    found = annotate_cells(tuned, query, run)
    embedding_nd = embed_cells(tuned, query, run)
    seconds["prediction"] = time.perf_counter() - start
    main = Contender(
        name=f"{tuned.family.title} fine-tuned",
        what=f"{tuned.family.title} of {tuned.num_parameters:,} parameters, fine-tuned on the training cells",
        prob_nk=found.prob_nk,
        is_baseline=False,
        seconds=seconds["fine-tuning"] + seconds["prediction"],
        trained_parameters=fit.num_trained,
    )
    start = time.perf_counter()
    baselines = run_baselines(train, code_n[split.train], query, num_classes=len(found.classes), seed=split.seed)
    seconds["baselines"] = time.perf_counter() - start
    groups_n, group_names = grouping_of(query.obs, split.by)
    rivals = [(main.name, baseline.name) for baseline in baselines if baseline.name != "majority"]
    return evaluate_study(
        AnnotationStudy(
            title=f"Cell types of {Path(source.contract.source).name}",
            where=f"{len(query):,} held-out cells ({split_words(split)})",
            classes=found.classes,
            query=query,
            truth_n=code_n[split.test],
            contenders=[main, *baselines],
            main=main.name,
            against=rivals,
            embedding_nd=embedding_nd,
            groupings={} if groups_n is None else {split.by: Grouping(groups_n, group_names)},
            groups_n=groups_n,
            contracts={"Data": source.contract},
            fits={"fine-tuning": ("cross entropy", fit)},
            model=tuned,
            split_sha256=split.sha256,
            seed=split.seed,
            seconds=seconds,
            summary=(f"Split: {split_words(split)}.", *split.notes),
            limitations=("One data set, one split, one training seed.",),
        )
    )


def grouping_of(obs: Any, column: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return codes and names of a column of obs; nothing where cells were split at random."""
    if column == "cells":
        return None, ()
    from cellwright.data.splits import label_codes

    return label_codes(obs, column)


def split_words(split: Any) -> str:
    """Say how cells were held out."""
    if split.by == "cells":
        return "random cells of the same data set"
    return f"whole groups of {split.by!r}: {', '.join(split.groups['test'])}"


def publish(evaluation: Evaluation, folder: Path) -> Path:
    """Save an evaluation, its scores as rows and its report into a run folder; return the report's path."""
    from cellwright.evaluate.report import write_report
    from cellwright.evaluate.results import RESULTS_FILE, write_results

    evaluation.save(folder)
    write_results(evaluation, folder / RESULTS_FILE)
    report = folder / "report.html"
    write_report(evaluation, report)
    return report
