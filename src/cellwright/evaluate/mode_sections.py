"""Sections of a report on ways of fine-tuning: what pre-training was worth, every run, every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.evaluate.annotation import PRIMARY, Contender
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Difference, Entry, Picture, Section, Table
from cellwright.evaluate.study import AnnotationStudy
from cellwright.metrics import METRICS, per_class

WORDS = {
    "probe": ("probe", "the network as it is, only the class head trained"),
    "blocks": ("blocks", "some transformer blocks and the class head"),
    "lora": ("LoRA", "low-rank changes of attention and the class head"),
    "full": ("full", "all weights, begun from the pre-trained ones"),
    "scratch": ("from scratch", "all weights, newly drawn: what the same network learns without pre-training"),
}
"""Mode -> its name and what is trained."""
WORTH = (("full", "scratch"), ("lora", "scratch"), ("probe", "scratch"), ("full", "lora"), ("full", "probe"))
"""Differences that are told, the worth of pre-training first."""
FLOOR = "majority"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRun:
    """One training run and its answers for the held-out cells."""

    mode: str
    seed: int
    prob_nk: np.ndarray
    seconds: float
    """Wall time of training."""
    trained_parameters: int
    num_parameters: int
    num_steps: int
    best_step: int | None
    best_loss: float | None
    """Lowest validation loss."""
    peak_memory_gb: float | None
    """Memory that training took."""
    highest_memory_gb: float | None
    """The same with what the process held before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeStudy:
    """Runs and baselines that answered for the same cells."""

    family: str
    """Title of the model's family, for the methods' names."""
    runs: Mapping[str, Sequence[ModeRun]]
    """Mode -> its runs, in the order of seeds; the same seeds in every mode."""
    baselines: Sequence[Contender]
    cells: AnnotationStudy
    """Where, what, with whose drawn answers; its contenders are not scored here."""

    def name(self, mode: str) -> str:
        """Return the method's name of a mode."""
        return mode_name(self.family, mode)


def mode_name(family: str, mode: str) -> str:
    """Return the name of a way of fine-tuning a family's model."""
    return f"{family}, {WORDS[mode][0]}"


def worth_of(study: ModeStudy, differences: Sequence[Difference]) -> Difference | None:
    """Return full - scratch, where both were run."""
    pair = {"full", "scratch"}
    if not pair <= set(study.runs):
        return None
    names = study.name("full"), study.name("scratch")
    return next(found for found in differences if (found.method, found.other) == names)


def worth_words(worth: Difference) -> str:
    """Say what pre-training was worth, and whether these cells and seeds settle it."""
    is_settled = worth.low > 0 or worth.high < 0
    end = "which excludes zero" if is_settled else "so these cells and seeds do not settle it"
    return f"Pre-training was worth {worth.value:+.3f} [{worth.low:+.3f}, {worth.high:+.3f}] (full - scratch), {end}."


def worth_section(study: ModeStudy, differences: Sequence[Difference]) -> Section:
    """Return the differences between ways, and of ways and baselines."""
    names = {study.name(mode): WORDS[mode][0] for mode in study.runs}
    rows: list[tuple[Entry, ...]] = [
        (f"{names[found.method]} - {names[found.other]}", found.value, found.low, found.high, _settled(found))
        for found in differences
        if found.other in names
    ]
    rivals: list[tuple[Entry, ...]] = [
        (f"{names[found.method]} - {found.other}", found.value, found.low, found.high, _settled(found))
        for found in differences
        if found.other not in names
    ]
    columns = ("difference", _label(), "low", "high", "settled by these cells and seeds")
    tables = {"Between ways": Table(columns=columns, rows=tuple(rows))} if rows else {}
    if rivals:
        tables["Against baselines"] = Table(columns=columns, rows=tuple(rivals))
    worth = worth_of(study, differences)
    note = "" if worth is None else f"{worth_words(worth)} "
    return Section(
        heading="What pre-training is worth",
        note=f"{note}Differences are of the mean over seeds, on the same cells, runs of one seed beside each other.",
        tables=tables,
    )


def _label() -> str:
    return measures_of([PRIMARY])[PRIMARY].label


def _settled(found: Difference) -> str:
    return "no" if found.low <= 0 <= found.high else "yes"


def runs_section(study: ModeStudy, truth_n: np.ndarray, is_scored_n: np.ndarray) -> Section:
    """Return every run, and what each way took."""
    from cellwright.evaluate.mode_figures import runs_figure

    score_by = {
        mode: [METRICS[PRIMARY].function(truth_n, run.prob_nk[is_scored_n].argmax(1)) for run in runs]
        for mode, runs in study.runs.items()
    }
    lines = {
        baseline.name: METRICS[PRIMARY].function(truth_n, baseline.prob_nk[is_scored_n].argmax(1))
        for baseline in study.baselines
    }
    shown = {WORDS[mode][0]: scores for mode, scores in score_by.items()}
    picture = Picture(
        name="runs",
        alt="Score of every run by way of fine-tuning, and baselines as lines; the numbers are in the table below",
        svg=runs_figure(shown, lines, _label()),
    )
    ways: list[tuple[Entry, ...]] = []
    for mode, runs in study.runs.items():
        scores, seconds = score_by[mode], [run.seconds for run in runs]
        memory = [mb for run in runs if (mb := _megabytes(run)) is not None]
        share = runs[0].trained_parameters / runs[0].num_parameters
        row = (float(np.mean(scores)), min(scores), max(scores), runs[0].trained_parameters, share)
        row += (round(float(np.mean(seconds)), 1), round(float(np.median(memory))) if memory else None)
        ways.append((WORDS[mode][0], *row))
    every: list[tuple[Entry, ...]] = [
        (WORDS[mode][0], run.seed, score, run.best_loss, run.best_step, run.num_steps, run.seconds, _megabytes(run))
        for mode, runs in study.runs.items()
        for run, score in zip(runs, score_by[mode], strict=True)
    ]
    memory_note = (
        "Seconds are the mean, memory is the median of the runs: the highest in training above what the process held "
        "before. The first run of all loads libraries too. A dash = not measured here."
    )
    columns = ("way", f"mean {_label()}", "lowest", "highest", "trained parameters", "share of all", "seconds", "MB")
    by_run = ("way", "seed", _label(), "validation loss", "best step", "steps", "seconds", "MB")
    return Section(
        heading="Runs",
        pictures=(picture,),
        tables={
            "Ways of fine-tuning": Table(columns=columns, rows=tuple(ways), note=memory_note),
            "Every run": Table(columns=by_run, rows=tuple(every), note="Weights are those of the best step."),
        },
    )


def _megabytes(run: ModeRun) -> int | None:
    return None if run.peak_memory_gb is None else round(1000 * run.peak_memory_gb)


def classes_section(study: ModeStudy, truth_n: np.ndarray, is_scored_n: np.ndarray) -> Section:
    """Return the F1 of each class, mean over runs."""
    classes = study.cells.classes
    answers = {WORDS[mode][0]: [run.prob_nk[is_scored_n] for run in runs] for mode, runs in study.runs.items()}
    answers |= {b.name: [b.prob_nk[is_scored_n]] for b in study.baselines if b.name != FLOOR}
    f1: dict[str, np.ndarray] = {}
    for name, probs in answers.items():
        rows = [[row["f1"] for row in per_class(truth_n, prob_nk.argmax(1), classes)] for prob_nk in probs]
        f1[name] = np.mean(rows, axis=0)
    num_k = np.bincount(truth_n, minlength=len(classes))
    table = Table(
        columns=("class", "cells", *f1),
        rows=tuple(
            (classes[k], int(num_k[k]), *(float(f1_k[k]) for f1_k in f1.values())) for k in np.flatnonzero(num_k)
        ),
        note="Classes that the held-out cells have.",
    )
    return Section(heading="Classes by way", tables={"F1 of each class, mean over runs": table})
