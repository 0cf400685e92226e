"""Sections of a report on ways of fine-tuning, whatever for: what pre-training was worth, and every run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellwright.evaluate.modes import MOST_RIVALS, WORDS, ModeRun, ModeScores, worth_of, worth_words
from cellwright.evaluate.parts import Difference, Entry, Picture, Section, Table


def worth_section(scores: ModeScores, differences: Sequence[Difference]) -> Section:
    """Return the differences between ways, and of ways and rivals."""
    names = {scores.name(mode): WORDS[mode][0] for mode in scores.runs}
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
    columns = ("difference", scores.measure.label, "low", "high", f"settled by these {_drawn(scores)}")
    tables = {"Between ways": Table(columns=columns, rows=tuple(rows))} if rows else {}
    if rivals:
        num = sum(rival.bound is None for rival in scores.rivals)
        note = f"The best {MOST_RIVALS} of the {num} that stand beside the ways." if num > MOST_RIVALS else ""
        tables["Against baselines"] = Table(columns=columns, rows=tuple(rivals), note=note)
    worth = worth_of(scores, differences)
    said = "" if worth is None else f"{worth_words(worth)} "
    paired = "" if scores.num_runs == 1 else ", runs of one seed beside each other"
    return Section(
        heading="What pre-training is worth",
        note=f"{said}Differences are of the mean over seeds, on the same {scores.unit}{paired}.",
        tables=tables,
    )


def _drawn(scores: ModeScores) -> str:
    return f"{scores.unit} and seeds" if scores.num_runs > 1 else scores.unit


def _settled(found: Difference) -> str:
    return "no" if found.low <= 0 <= found.high else "yes"


TRAINING = "the highest in training above what the process held before"
"""What memory is, where it is that of training alone."""


def runs_section(
    scores: ModeScores,
    *,
    floors: Sequence[str] = (),
    memory: str = TRAINING,
    weights: str = "",
    lines: Sequence[str] = (),
) -> Section:
    """Return every run, and what each way took.

    Parameters
    ----------
    floors
        Names of rivals that are drawn beside those that ways are held against.
    memory
        What the memory of a run is.
    weights
        Which weights are kept, in a sentence.
    lines
        What else there is to say.
    """
    from cellwright.evaluate.mode_figures import runs_figure

    label, primary = scores.measure.label, scores.primary
    score_by = {mode: scores.by_run[mode][primary] for mode in scores.runs}
    shown = [rival for rival in scores.rivals if rival in scores.competing() or rival.name in floors]
    reached = {rival.name: rival.scores[primary].value for rival in shown}
    picture = Picture(
        name="runs",
        alt="Score of every run by way of fine-tuning, and baselines as lines; the numbers are in the table below",
        svg=runs_figure({WORDS[mode][0]: list(values) for mode, values in score_by.items()}, reached, label),
    )
    every: list[tuple[Entry, ...]] = [
        (WORDS[mode][0], run.seed, score, run.best_loss, run.best_step, run.num_steps, run.seconds, _megabytes(run))
        for mode, runs in scores.runs.items()
        for run, score in zip(runs, score_by[mode], strict=True)
    ]
    took = (
        f"Seconds are the mean, memory is the median of the runs: {memory}. The first run of all loads libraries too. "
        "A dash = not measured here."
    )
    columns = ("way", f"mean {label}", "lowest", "highest", "trained parameters", "share of all", "seconds", "MB")
    by_run = ("way", "seed", label, "validation loss", "best step", "steps", "seconds", "MB")
    ways = tuple(_way_row(mode, runs, score_by[mode]) for mode, runs in scores.runs.items())
    return Section(
        heading="Runs",
        pictures=(picture,),
        lines=tuple(lines),
        tables={
            "Ways of fine-tuning": _table(columns, ways, took),
            "Every run": _table(by_run, every, weights),
        },
    )


def _table(columns: Sequence[str], rows: Sequence[tuple[Entry, ...]], note: str) -> Table:
    """Return a table without the columns that hold nothing."""
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    return Table(
        columns=tuple(columns[at] for at in kept), rows=tuple(tuple(row[at] for at in kept) for row in rows), note=note
    )


def _way_row(mode: str, runs: Sequence[ModeRun], scores: Sequence[float]) -> tuple[Entry, ...]:
    memory = [mb for run in runs if (mb := _megabytes(run)) is not None]
    trained, num = runs[0].trained_parameters, runs[0].num_parameters
    return (
        WORDS[mode][0],
        float(np.mean(scores)),
        min(scores),
        max(scores),
        trained,
        None if trained is None or num is None else trained / num,
        round(float(np.mean([run.seconds for run in runs])), 1),
        round(float(np.median(memory))) if memory else None,
    )


def _megabytes(run: ModeRun) -> int | None:
    return None if run.peak_memory_gb is None else round(1000 * run.peak_memory_gb)
