"""Ways of fine-tuning beside each other: one split, every way with several seeds, one report with the baselines.

Every run leaves its own folder, ``OUT/<way>/seed_<seed>``, which is a model. A run that is finished is taken as it is
when the comparison is made again, with more seeds or further ways for instance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.labelled import annotation_study, baselines_on, labelled_cells
from cellwright.verbs.mode_runs import CompareOptions, ModeRuns
from cellwright.verbs.opening import ReadOptions, open_model
from cellwright.verbs.training import publish, removed_if_futile

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.evaluate.mode_sections import ModeRun
    from cellwright.tasks.annotate import AnnotateConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeComparison:
    """Ways of fine-tuning beside each other and beside baselines."""

    evaluation: Evaluation
    runs: Mapping[str, tuple[ModeRun, ...]]
    """Way -> its runs, in the order of seeds."""
    folder: Path
    report: Path


def compare_modes(
    adata: Any,
    model: Model | str | Path,
    *,
    task: Literal["annotate"] = "annotate",
    label: str,
    out: str | Path,
    how: CompareOptions | None = None,
    changes: Sequence[str] = (),
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> ModeComparison:
    """Fine-tune a model in several ways with several seeds, and score all on the same held-out cells.

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
        Folder for runs, evaluation and report. That of an earlier comparison is taken up: finished runs of the same
        recipe are not made again.
    how
        Ways, seeds, held-out cells.
    changes
        Changes to `cellwright.tasks.annotate.AnnotateConfig` such as ``"train.max_epochs=3"``; with the name of a way
        before a colon they are for that way alone, ``"probe:optim.lr=0.01"``.
    read, run
        How the cells are read, how the model is run for prediction.

    Returns
    -------
    `ModeComparison`. Scores are means over seeds; intervals are over cells (or groups) and seeds at once. The first
    difference is *full* - *scratch*, the worth of pre-training, where both were run.

    Raises
    ------
    ValueError
        When an option, the data, the labels or the folder cannot be used, or the folder holds a run of another recipe.
    """
    from cellwright.evaluate.mode_sections import ModeStudy, mode_name
    from cellwright.evaluate.modes import drawn_contender, evaluate_modes
    from cellwright.evaluate.study import cells_sha256

    if task != "annotate":
        raise ValueError(f"ways of fine-tuning are compared for annotate, not for {task!r}")
    model, how, run, folder = open_model(model), how or CompareOptions(), run or InferenceOptions(), Path(out)
    configs = configs_of(how.modes, changes)
    first_seed = configs[how.modes[0]].train.seed
    cells = labelled_cells(
        adata, model, label, split_by=how.split_by, held_out=how.held_out, seed=first_seed, read=read, run=run
    )
    job = ModeRuns(
        model=model,
        cells=cells,
        configs=configs,
        folder=folder,
        options=run,
        data_sha256=cells_sha256(cells.source),
    )
    job.check_folder(how)
    with removed_if_futile(folder):
        runs = job.make(how)
    start = time.perf_counter()
    baselines = baselines_on(cells)
    seconds = {f"fine-tuning, {mode}": sum(one.seconds for one in of_mode) for mode, of_mode in runs.items()}
    seconds["baselines"] = time.perf_counter() - start
    drawn = runs["full" if "full" in runs else how.modes[0]][0]
    title = model.family.title
    contenders = [drawn_contender(mode_name(title, drawn.mode), drawn), *baselines]
    about = annotation_study(cells, contenders, model, job.embedding(drawn), seconds=seconds)
    study = ModeStudy(family=title, runs=runs, baselines=baselines, cells=job.described(about, runs))
    evaluation = evaluate_modes(study)
    return ModeComparison(evaluation=evaluation, runs=runs, folder=folder, report=publish(evaluation, folder))


def configs_of(modes: Sequence[str], changes: Sequence[str]) -> dict[str, AnnotateConfig]:
    """Return the options of each way: those for all, then those for it alone.

    Raises
    ------
    ValueError
        A change names a way that is not compared, or sets the mode or, for one way alone, the seed.
    """
    from cellwright.tasks.annotate import AnnotateConfig

    configs = {}
    ways = {change: _way_of(change, modes) for change in changes}
    for mode in modes:
        own = [change.partition(":")[2] for change, way in ways.items() if way == mode]
        shared = [change for change, way in ways.items() if way is None]
        configs[mode] = AnnotateConfig().override([*shared, *own, f"mode={mode}"])
    return configs


def _way_of(change: str, modes: Sequence[str]) -> str | None:
    """Return the way that a change is for; ``None`` = all."""
    name = change.partition("=")[0]
    way, colon, field = name.rpartition(":")
    if colon and way not in modes:
        raise ValueError(f"{change!r} is for the way {way!r}, which is not compared; compared: {', '.join(modes)}")
    if field.strip() == "mode" or (colon and field.strip() == "train.seed"):
        raise ValueError(f"{change!r}: ways and seeds are what is compared; choose them with modes and seeds")
    return way if colon else None
