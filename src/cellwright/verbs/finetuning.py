"""Fine-tuning a model for a task, scored on held-out cells beside simple baselines: one verb for all tasks.

Annotation is done here; other tasks have verbs of their own with more options, which are called from here
(`cellwright.verbs.finetuned_tasks`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellwright.config import did_you_mean
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.labelled import LabelledCells, annotation_record, annotation_study, baselines_on, labelled_cells
from cellwright.verbs.opening import ReadOptions, open_model
from cellwright.verbs.training import publish, removed_if_futile

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.train.run import FitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """A fine-tuned model, its scores beside the baselines', and the report of both."""

    model: Model
    fit: FitResult | None
    """How training went; ``None`` where several models were trained (perturb: one a fold, and one on all cells)."""
    evaluation: Evaluation | None
    """``None`` where there is nothing to score by (multiome without labels and proteins)."""
    folder: Path
    report: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneAsk:
    """What `finetune` was asked for."""

    adata: Any
    model: Model
    folder: Path
    label: str | None
    split_by: str | None
    changes: tuple[str, ...]
    read: ReadOptions
    run: InferenceOptions
    split_seed: int | None = None
    """Seed by which cells are held out, and of scores; ``None`` = that of training. (``integrate`` and ``perturb``
    take these from ``run``.)"""
    has_rivals: bool = True
    """Whether what takes long and does not depend on the model is run too, to stand beside it."""


def finetune(
    adata: Any,
    model: Model | str | Path,
    *,
    task: Literal["annotate", "integrate", "multiome", "perturb"] = "annotate",
    label: str | None = None,
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
        Cells: AnnData or path; ``multiome``: whatever `multiome` takes.
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one. It is not changed.
    task
        ``annotate``: cell types. ``integrate``: sequencing batches into one space, see `integrate`. ``multiome``:
        several modalities, see `multiome`. ``perturb``: from controls to perturbed cells, see `perturb`.
    label
        Column of obs. ``annotate``: the cell types, needed; a cell without one is an error. ``integrate``,
        ``multiome``: cell types, for scores alone. ``perturb``: what was done to each cell; unset = found by its name.
    out
        Run folder to make: model, recipe, metrics, log, evaluation, report.
    split_by
        Column of obs whose groups are held out whole (``annotate``, ``multiome``). ``None`` = a donor- or study-like
        column where there is one, else random cells; ``"cells"`` = random cells.
    changes
        Changes to the task's configuration such as ``"mode=lora"`` (probe | blocks | lora | full | scratch) or
        ``"train.max_epochs=3"``: `cellwright.tasks.annotate.AnnotateConfig`, ``integrate.IntegrateConfig``,
        ``multiome.MultiomeConfig``, ``perturb_cells.CellPerturbConfig``.
    read, run
        How the cells are read (``integrate`` needs ``tech_batch``), how the model is run for prediction.

    Raises
    ------
    ValueError
        When an option, the data, the labels or the folder cannot be used; nothing is left behind then.
    """
    from cellwright.verbs.finetuned_tasks import finetune_integrate, finetune_multiome, finetune_perturb

    tasks = {
        "annotate": finetune_annotate,
        "integrate": finetune_integrate,
        "multiome": finetune_multiome,
        "perturb": finetune_perturb,
    }
    if task not in tasks:
        near = did_you_mean(task, tasks) or f"; choose {', '.join(tasks)}"
        raise ValueError(f"task {task!r} cannot be fine-tuned for{near}")
    return tasks[task](
        FinetuneAsk(
            adata=adata,
            model=open_model(model),
            folder=Path(out),
            label=label,
            split_by=split_by,
            changes=tuple(changes),
            read=read or ReadOptions(),
            run=run or InferenceOptions(),
        )
    )


def finetune_annotate(asked: FinetuneAsk) -> FinetuneResult:
    """Fine-tune for annotation; see `finetune`."""
    from cellwright.data.write import check_place
    from cellwright.tasks.annotate import AnnotateConfig, train_annotator
    from cellwright.train.run import open_run

    if asked.label is None:
        raise ValueError("annotation is learnt from cell types; name their column of obs (label, --label)")
    model, folder, run = asked.model, asked.folder, asked.run
    config = AnnotateConfig().override(asked.changes)
    cells = labelled_cells(
        asked.adata,
        model.with_inputs(**config.inputs),
        asked.label,
        split_by=asked.split_by,
        seed=config.train.seed,
        read=asked.read,
        run=run,
    )
    check_place(folder)
    start = time.perf_counter()
    with removed_if_futile(folder):
        open_run(folder, annotation_record(cells, model, config))
        tuned, fit = train_annotator(
            model,
            cells.source,
            cells.rows,
            cells.classes,
            config=config,
            folder=folder,
            is_progress_shown=run.progress,
        )
    seconds = {"fine-tuning": time.perf_counter() - start}
    evaluation = _evaluate(tuned, fit, cells, run, seconds)
    report = publish(evaluation, folder)
    return FinetuneResult(model=tuned, fit=fit, evaluation=evaluation, folder=folder, report=report)


def _evaluate(
    tuned: Model, fit: FitResult, cells: LabelledCells, run: InferenceOptions, seconds: dict[str, float]
) -> Evaluation:
    from cellwright.evaluate.annotation import Contender
    from cellwright.evaluate.study import evaluate_study
    from cellwright.tasks.annotate import annotate_cells
    from cellwright.tasks.embed import embed_cells

    query = cells.query
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
    baselines = baselines_on(cells)
    seconds["baselines"] = time.perf_counter() - start
    study = annotation_study(cells, [main, *baselines], tuned, embedding_nd, seconds=seconds)
    rivals = [(main.name, baseline.name) for baseline in baselines if baseline.name != "majority"]
    return evaluate_study(
        replace(
            study,
            against=rivals,
            fits={"fine-tuning": ("cross entropy", fit)},
            limitations=("One data set, one split, one training seed.",),
        )
    )
