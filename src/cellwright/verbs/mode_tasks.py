"""Ways of fine-tuning for tasks that have verbs of their own: every run is the verb, its evaluation is kept.

What a task must say stands in one table: which field is the training seed, which method was trained, what its data are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.verbs.finetuned_tasks import finetune_integrate, finetune_multiome, finetune_perturb, screen_options
from cellwright.verbs.finetuning import FinetuneAsk, FinetuneResult
from cellwright.verbs.mode_annotators import facts_of
from cellwright.verbs.mode_runs import WORTH_KEEPING, MadeRun, ModeRuns
from cellwright.verbs.multiome_record import HELD_OUT
from cellwright.verbs.training import removed_if_futile

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.evaluate.modes import ModeRun
    from cellwright.evaluate.task_modes import RunScores
    from cellwright.verbs.comparing import ModeAsk

ASKED = "asked.json"
"""Recipe of a run, beside what its verb writes."""
_NAMES, _DRAWS = "name_m2", "score_mr"


def compare_verb(asked: ModeAsk) -> tuple[Evaluation, dict[str, tuple[ModeRun, ...]]]:
    """Make the runs of all ways and seeds by the task's verb, and put their evaluations into one."""
    from cellwright.evaluate.task_modes import TaskModeStudy, evaluate_task_modes

    job = _Job(asked, _TASKS[asked.task])
    job.check()
    made = job.runs(job.task.look(job.asked_of(asked.folder, asked.modes[0], job.first_seed(asked.modes[0]))))
    made.check_folder()
    with removed_if_futile(asked.folder, WORTH_KEEPING):
        runs = made.all(asked.record() | job.shared() | {"task": asked.task})
    scored = {mode: tuple(job.scores(made.place(mode, one.seed), one) for one in those) for mode, those in runs.items()}
    study = TaskModeStudy(
        family=asked.model.family.title,
        runs=runs,
        scored=scored,
        model_sha256=asked.model.sha256(),
    )
    return evaluate_task_modes(study), runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _VerbTask:
    """What a task must say for its ways to be compared."""

    verb: Callable[[FinetuneAsk], FinetuneResult]
    look: Callable[[FinetuneAsk], str]
    """Looks at the cells before anything is trained, and returns a hash of all that runs read of them."""
    seed: str = "train.seed"
    """Field of its options that is the training seed."""
    main: str | None = None
    """Name of the method that is trained; ``None`` = the first of the evaluation."""
    has_groups: bool = False
    """Whether groups of cells can be held out (``split_by``)."""
    asides: Mapping[str, str] = field(default_factory=dict)
    """Heading -> folder of a further evaluation, in that of a run."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What was asked for, and the task."""

    asked: ModeAsk
    task: _VerbTask

    def check(self) -> None:
        """Refuse options that are not for the task."""
        how, name = self.asked.how, self.asked.task
        if how.held_out:
            raise ValueError(f"held_out names {how.held_out[0]!r}: groups are named for annotate, not for {name}")
        if how.split_by is not None and not self.task.has_groups:
            raise ValueError(f"split_by = {how.split_by!r}: {name} holds out no groups of cells; leave it out")

    def runs(self, data_sha256: str) -> ModeRuns:
        """Return the runs of the comparison."""
        asked = self.asked

        def recipe(mode: str, seed: int) -> dict[str, Any]:
            options = asked.configs[mode].override([f"{self.task.seed}={seed}"]).record()
            has_rivals = {"has_rivals": self._has_rivals(mode, seed)}
            return options | self.shared() | has_rivals | {"task": asked.task, "data_sha256": data_sha256}

        return ModeRuns(
            folder=asked.folder,
            first_seeds={mode: self.first_seed(mode) for mode in asked.modes},
            seeds=asked.how.seeds,
            recipe=recipe,
            make=self.make,
            recipe_file=ASKED,
            is_progress_shown=asked.run.progress,
        )

    def shared(self) -> dict[str, Any]:
        """Return what all runs have in common, in JSON form."""
        asked = self.asked
        return {
            "model": {"source": asked.model.report.source, "sha256": asked.model.sha256()},
            "columns": {"label": asked.label, "split_by": asked.how.split_by},
            "split_seed": self.first_seed(asked.modes[0]),
            "read": asked.read.record(),
            "prediction": asked.prediction(),
        }

    def first_seed(self, mode: str) -> int:
        """Return the seed of a way's first run."""
        found: Any = self.asked.configs[mode]
        for name in self.task.seed.split("."):
            found = getattr(found, name)
        return self.asked.run.seed if found is None else found

    def _has_rivals(self, mode: str, seed: int) -> bool:
        """Return whether a run brings what stands beside the ways and takes long: the first of every way does."""
        return seed == self.first_seed(mode)

    def asked_of(self, place: Path, mode: str, seed: int) -> FinetuneAsk:
        """Return what the verb is asked for in a run."""
        asked = self.asked
        return FinetuneAsk(
            adata=asked.adata,
            model=asked.model,
            folder=place,
            label=asked.label,
            split_by=asked.how.split_by,
            changes=(*asked.changes[mode], f"mode={mode}", f"{self.task.seed}={seed}"),
            read=asked.read,
            run=asked.run,
            split_seed=self.first_seed(asked.modes[0]),
            has_rivals=self._has_rivals(mode, seed),
        )

    def make(self, place: Path, mode: str, seed: int) -> MadeRun:
        """Let the verb make a run, and keep its scores on resamples."""
        done = self.task.verb(self.asked_of(place, mode, seed))
        if done.evaluation is None:
            raise ValueError("too few held-out cells have proteins to score ways by; name a label (label, --label)")
        main = self._main(done.evaluation)
        facts = {} if done.fit is None else facts_of(done.fit) | {"seconds": done.fit.seconds}
        trained = next(method for method in done.evaluation.methods if method.name == main)
        if done.fit is None:  # several models were trained
            facts = {"seconds": trained.seconds, "trained_parameters": trained.trained_parameters}
            facts |= {"num_parameters": done.model.num_parameters}
        names = [(name, metric) for name, found in done.evaluation.draws.items() for metric in found]
        score_mr = np.array([done.evaluation.draws[name][metric] for name, metric in names])
        return MadeRun(answers={_NAMES: np.array(names, np.str_).reshape(-1, 2), _DRAWS: score_mr}, facts=facts)

    def scores(self, place: Path, run: ModeRun) -> RunScores:
        """Return what a finished run scored."""
        from cellwright.evaluate.evaluation import Evaluation
        from cellwright.evaluate.task_modes import RunScores

        evaluation = Evaluation.load(place)
        draws: dict[str, dict[str, np.ndarray]] = {}
        for (name, metric), score_r in zip(run.answers[_NAMES].tolist(), run.answers[_DRAWS], strict=True):
            draws.setdefault(name, {})[metric] = score_r
        asides = {heading: place / part for heading, part in self.task.asides.items() if (place / part).is_dir()}
        return RunScores(
            evaluation=evaluation,
            main=self._main(evaluation),
            draws=draws,
            asides={
                heading: found
                for heading, part in asides.items()
                if (found := Evaluation.load(part)).primary_metric != evaluation.primary_metric
            },
        )

    def _main(self, evaluation: Evaluation) -> str:
        return self.task.main or evaluation.methods[0].name


def _look_at_batches(asked: FinetuneAsk) -> str:
    from cellwright.data.cells import open_cells

    source = open_cells(asked.adata, asked.model.vocab, accepts=asked.model.family.accepts, **asked.read.of_matrix())
    return _sha256(source, (asked.read.tech_batch, asked.label))


def _look_at_modalities(asked: FinetuneAsk) -> str:
    from cellwright.data.multimodal import feature_tokens, open_multimodal, read_studies

    studies = read_studies(asked.adata, None)
    vocab = asked.model.vocab.extended(feature_tokens(studies, None))
    reading = {"layer": asked.read.layer, "assume": asked.read.assume, "genes": asked.read.genes}
    data = open_multimodal(studies, vocab, accepts=("raw",), **reading)
    if asked.label is None and "protein" not in data.modalities:
        raise ValueError("there is nothing to score ways by: neither labels (label, --label) nor proteins")
    return _sha256(data.cells, (asked.read.tech_batch, asked.label, asked.split_by))


def _look_at_screen(asked: FinetuneAsk) -> str:
    from cellwright.evaluate.perturbation_report import screen_sha256
    from cellwright.tasks.screen import open_screen

    screen = open_screen(asked.adata, screen_options(asked), seed=asked.run.seed)
    digest = hashlib.sha256(screen_sha256(screen).encode())
    for codes in (screen.profile_n, screen.context_n, screen.tech_batch_n):
        digest.update(b"" if codes is None else np.asarray(codes, "<i8").tobytes())
    digest.update("\t".join(map(str, screen.perturbations.names)).encode())
    return digest.hexdigest()


def _sha256(cells: Any, columns: tuple[str | None, ...]) -> str:
    """Return a hash of the values that are read and of some columns of obs; one that is not there is left out."""
    from cellwright.evaluate.study import cells_sha256

    digest = hashlib.sha256(cells_sha256(cells).encode())
    for name in columns:
        if name in cells.obs:
            digest.update("\t".join([name, *map(str, cells.obs[name])]).encode())
    return digest.hexdigest()


_TASKS: dict[str, _VerbTask] = {
    "integrate": _VerbTask(verb=finetune_integrate, look=_look_at_batches),
    "multiome": _VerbTask(
        verb=finetune_multiome, look=_look_at_modalities, has_groups=True, asides={HELD_OUT: "proteins"}
    ),
    "perturb": _VerbTask(verb=finetune_perturb, look=_look_at_screen, seed="seed", main="cells"),
}
