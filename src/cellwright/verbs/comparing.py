"""Ways of fine-tuning beside each other: one split, every way with several seeds, one report with the baselines.

Every run leaves its own folder, ``OUT/<way>/seed_<seed>``, as the task's own verb makes it. A run that is finished is
taken as it is when the comparison is made again, with more seeds or further ways for instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cellwright.config import Config, did_you_mean
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.mode_runs import USUAL, CompareOptions
from cellwright.verbs.opening import ReadOptions, open_model
from cellwright.verbs.training import publish

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.evaluate.modes import ModeRun

TASKS = ("annotate", "integrate", "multiome", "perturb")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeComparison:
    """Ways of fine-tuning beside each other and beside baselines."""

    evaluation: Evaluation
    runs: Mapping[str, tuple[ModeRun, ...]]
    """Way -> its runs, in the order of seeds."""
    folder: Path
    report: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeAsk:
    """What `compare_modes` was asked for."""

    task: str
    adata: Any
    model: Model
    folder: Path
    label: str | None
    how: CompareOptions
    configs: Mapping[str, Config]
    """Way -> its options, in the order of the comparison."""
    changes: Mapping[str, tuple[str, ...]]
    """Way -> the changes that were asked for."""
    read: ReadOptions
    run: InferenceOptions

    @property
    def modes(self) -> tuple[str, ...]:
        """The ways."""
        return tuple(self.configs)

    def prediction(self) -> dict[str, Any]:
        """Return what decides answers of the way a model is run, in JSON form."""
        asked = self.run.record()
        return {name: asked[name] for name in ("seed", "ties", "max_length", "precision")}

    def record(self) -> dict[str, Any]:
        """Return what is compared, in JSON form."""
        compare = self.how.record() | {"modes": list(self.modes)}
        return {"compare": compare, "ways": {mode: config.record() for mode, config in self.configs.items()}}


def compare_modes(
    adata: Any,
    model: Model | str | Path,
    *,
    task: Literal["annotate", "integrate", "multiome", "perturb"] = "annotate",
    label: str | None = None,
    out: str | Path,
    how: CompareOptions | None = None,
    changes: Sequence[str] = (),
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> ModeComparison:
    """Fine-tune a model for a task in several ways with several seeds, and score all on the same held-out data.

    Parameters
    ----------
    adata
        Cells, as `finetune` takes them for the task.
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one. It is not changed.
    task
        What for, see `finetune`. ``multiome`` with labels: the main scores are of embeddings by cell type; proteins
        told of held-out cells, which are the main scores without labels, stand in a section of their own.
    label
        Column of obs. ``annotate``: the cell types, needed; a cell without one is an error. Others: see `finetune`.
    out
        Folder for runs, evaluation and report. That of an earlier comparison is taken up: finished runs of the same
        recipe are not made again.
    how
        Ways, seeds, held-out cells.
    changes
        Changes to the task's configuration as in `finetune`, such as ``"train.max_epochs=3"``; with the name of a way
        before a colon they are for that way alone, ``"probe:optim.lr=0.01"``.
    read, run
        How the cells are read (``integrate`` needs ``tech_batch``), how the model is run for prediction.

    Returns
    -------
    `ModeComparison`. Scores are means over seeds; intervals are over cells (groups of them, perturbations, proteins)
    and seeds at once. The first difference is *full* - *scratch*, the worth of pre-training, where both were run.

    Raises
    ------
    ValueError
        When an option, the data, the labels or the folder cannot be used, or the folder holds a run of another recipe.
    """
    from cellwright.verbs.mode_annotators import compare_annotators
    from cellwright.verbs.mode_tasks import compare_verb

    if task not in TASKS:
        near = did_you_mean(task, TASKS) or f"; choose {', '.join(TASKS)}"
        raise ValueError(f"ways of fine-tuning for task {task!r} cannot be compared{near}")
    how, folder = how or CompareOptions(), Path(out)
    configs = configs_of(how.modes, changes, task=task)
    asked = ModeAsk(
        task=task,
        adata=adata,
        model=open_model(model),
        folder=folder,
        label=label,
        how=how,
        configs=configs,
        changes={mode: _changes_for(mode, changes, tuple(configs)) for mode in configs},
        read=read or ReadOptions(),
        run=run or InferenceOptions(),
    )
    evaluation, runs = (compare_annotators if task == "annotate" else compare_verb)(asked)
    return ModeComparison(evaluation=evaluation, runs=runs, folder=folder, report=publish(evaluation, folder))


def config_of(task: str) -> type[Config]:
    """Return the class of a task's options; its field ``mode`` says which ways there are."""
    from cellwright.tasks.annotate import AnnotateConfig
    from cellwright.tasks.integrate import IntegrateConfig
    from cellwright.tasks.multiome import MultiomeConfig
    from cellwright.tasks.perturb_cells import CellPerturbConfig

    return dict(zip(TASKS, (AnnotateConfig, IntegrateConfig, MultiomeConfig, CellPerturbConfig), strict=True))[task]


def configs_of(modes: Sequence[str] | None, changes: Sequence[str], *, task: str = "annotate") -> dict[str, Config]:
    """Return the options of each way (``None`` = the usual ones that the task has): those for all, then its own.

    Raises
    ------
    ValueError
        The task has no such way; a change names a way that is not compared, or sets the mode or, for one way alone,
        the seed.
    """
    kind = config_of(task)
    known = get_args(kind.model_fields["mode"].annotation)
    modes = tuple(mode for mode in USUAL if mode in known) if modes is None else tuple(modes)
    if strange := [mode for mode in modes if mode not in known]:
        raise ValueError(f"modes: {task} has no way {strange[0]!r}; it has {', '.join(known)}")
    return {mode: kind().override([*_changes_for(mode, changes, modes), f"mode={mode}"]) for mode in modes}


def _changes_for(mode: str, changes: Sequence[str], modes: Sequence[str]) -> tuple[str, ...]:
    """Return the changes for all ways, then those for this one."""
    ways = {change: _way_of(change, modes) for change in changes}
    own = [change.partition(":")[2] for change, way in ways.items() if way == mode]
    return (*(change for change, way in ways.items() if way is None), *own)


def _way_of(change: str, modes: Sequence[str]) -> str | None:
    """Return the way that a change is for; ``None`` = all."""
    name = change.partition("=")[0]
    way, colon, field = name.rpartition(":")
    if colon and way not in modes:
        raise ValueError(f"{change!r} is for the way {way!r}, which is not compared; compared: {', '.join(modes)}")
    if field.strip() == "mode" or (colon and field.strip() in ("train.seed", "seed")):
        raise ValueError(f"{change!r}: ways and seeds are what is compared; choose them with modes and seeds")
    return way if colon else None
