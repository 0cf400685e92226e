"""Ways of fine-tuning for annotation: runs that name the same held-out cells, and their evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellwright.models import load
from cellwright.verbs.labelled import (
    LabelledCells,
    annotation_record,
    annotation_study,
    baselines_on,
    labelled_cells,
)
from cellwright.verbs.mode_runs import WORTH_KEEPING, MadeRun, ModeRuns
from cellwright.verbs.training import removed_if_futile

if TYPE_CHECKING:
    import numpy as np

    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.evaluate.modes import ModeRun
    from cellwright.evaluate.study import AnnotationStudy
    from cellwright.tasks.annotate import AnnotateConfig
    from cellwright.verbs.comparing import ModeAsk

Runs = Mapping[str, Sequence["ModeRun"]]


def compare_annotators(asked: ModeAsk) -> tuple[Evaluation, dict[str, tuple[ModeRun, ...]]]:
    """Make the runs of all ways and seeds, and score them on the same cells beside the baselines."""
    from cellwright.evaluate.annotation_modes import ModeStudy, drawn_contender, evaluate_modes
    from cellwright.evaluate.modes import mode_name
    from cellwright.evaluate.study import cells_sha256

    if asked.label is None:
        raise ValueError("annotation is learnt from cell types; name their column of obs (label, --label)")
    how, first = asked.how, asked.configs[asked.modes[0]]
    cells = labelled_cells(
        asked.adata, asked.model.with_inputs(**first.inputs), asked.label, split_by=how.split_by,
        held_out=how.held_out, seed=first.train.seed, read=asked.read, run=asked.run,
    )  # fmt: skip
    job = _Job(asked, cells, cells_sha256(cells.source))
    made = job.runs()
    made.check_folder()
    with removed_if_futile(asked.folder, WORTH_KEEPING):
        runs = made.all(job.record())
    start = time.perf_counter()
    baselines = baselines_on(cells)
    seconds = {f"fine-tuning, {mode}": sum(one.seconds for one in of_mode) for mode, of_mode in runs.items()}
    seconds["baselines"] = time.perf_counter() - start
    drawn = runs["full" if "full" in runs else asked.modes[0]][0]
    title = asked.model.family.title
    contenders = [drawn_contender(mode_name(title, drawn.mode), drawn), *baselines]
    embedding_nd = job.embedding(made.place(drawn.mode, drawn.seed))
    about = annotation_study(cells, contenders, asked.model, embedding_nd, seconds=seconds)
    study = ModeStudy(family=title, runs=runs, baselines=baselines, cells=job.described(about, runs, made))
    return evaluate_modes(study), runs


@dataclass(frozen=True, slots=True)
class _Job:
    """What was asked for, and the labelled cells."""

    asked: ModeAsk
    cells: LabelledCells
    data_sha256: str
    """Of the values that are read, all cells."""

    def runs(self) -> ModeRuns:
        """Return the runs of the comparison."""
        return ModeRuns(
            folder=self.asked.folder,
            first_seeds={mode: config.train.seed for mode, config in self.asked.configs.items()},
            seeds=self.asked.how.seeds,
            recipe=self.recipe,
            make=self.make,
            is_progress_shown=self.asked.run.progress,
        )

    def record(self) -> dict[str, Any]:
        """Return what the comparison is, in JSON form."""
        shared = annotation_record(self.cells, self.asked.model, self.asked.configs[self.asked.modes[0]])
        return self.asked.record() | {name: shared[name] for name in ("task", "model", "contract", "label", "split")}

    def recipe(self, mode: str, seed: int) -> dict[str, Any]:
        """Return the recipe of a run in JSON form."""
        record = annotation_record(self.cells, self.asked.model, self._config(mode, seed))
        return record | {"data_sha256": self.data_sha256, "prediction": self.asked.prediction()}

    def _config(self, mode: str, seed: int) -> AnnotateConfig:
        config = self.asked.configs[mode]
        return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})

    def make(self, place: Path, mode: str, seed: int) -> MadeRun:
        """Train a model in a folder, and let it answer for the held-out cells."""
        from cellwright.evaluate.annotation_modes import ANSWER
        from cellwright.tasks.annotate import annotate_cells, train_annotator
        from cellwright.train.memory import peak_memory
        from cellwright.train.run import open_run

        cells, run, start = self.cells, self.asked.run, time.perf_counter()
        open_run(place, self.recipe(mode, seed))
        with peak_memory() as memory:  # without that of answering
            tuned, fit = train_annotator(
                self.asked.model,
                cells.source,
                cells.rows,
                cells.classes,
                config=self._config(mode, seed),
                folder=place,
                is_progress_shown=run.progress,
            )
        took = {"peak_memory_gb": memory.gb, "highest_memory_gb": memory.highest_gb}
        facts = facts_of(fit) | took | {"seconds": time.perf_counter() - start}
        return MadeRun(answers={ANSWER: annotate_cells(tuned, cells.query, run).prob_nk}, facts=facts)

    def embedding(self, place: Path) -> np.ndarray:
        """Return the held-out cells' embedding by the run whose answers are drawn."""
        from cellwright.tasks.embed import embed_cells

        return embed_cells(load(place), self.cells.query, self.asked.run)

    def described(self, about: AnnotationStudy, runs: Runs, made: ModeRuns) -> AnnotationStudy:
        """Return the study of the cells with curves of every way's first run, and what limits it."""
        from cellwright.evaluate.apart import seen_in_training
        from cellwright.evaluate.modes import WORDS
        from cellwright.train.callbacks import METRICS, read_metrics

        fits = {}
        for mode, of_mode in runs.items():
            history = read_metrics(made.place(mode, of_mode[0].seed) / METRICS)
            fits[WORDS[mode][0]] = (f"cross entropy, seed {of_mode[0].seed}", _History(history))
        num = self.asked.how.seeds
        drawn = f"Drawn cells, confusions and calibration: {about.main}, first seed."
        limitations = (
            *seen_in_training(self.asked.model, self.cells.query),
            f"One data set, one split; {num} training seed{'s' * (num > 1)}.",
            "The ways were trained with the options given; no option was searched for. A way may want another "
            "learning rate than it had.",
        )
        return replace(about, fits=fits, summary=(*about.summary, drawn), limitations=limitations)


def facts_of(fit: Any) -> dict[str, Any]:
    """Return what a `cellwright.train.run.FitResult` says of a run."""
    return {
        "trained_parameters": fit.num_trained,
        "num_parameters": fit.num_parameters,
        "num_steps": fit.num_steps,
        "best_step": fit.best_step,
        "best_loss": fit.best_loss,
    }


@dataclass(frozen=True, slots=True)
class _History:
    """The part of a `cellwright.train.run.FitResult` that curves are drawn from."""

    history: list[dict[str, float]]
