"""Ways of fine-tuning for a task whose verb scores each run by itself: its runs' evaluations put together into one.

A run brings its evaluation and its scores on every resample (`Evaluation.draws`), which are the same resamples of the
same cells for all runs: intervals of means and of differences are paired in cells and in training seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from cellwright.config import versions
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.mode_sections import runs_section, worth_section
from cellwright.evaluate.modes import (
    WORDS,
    ModeRun,
    ModeScores,
    headline,
    interval_note,
    mode_name,
    way_differences,
    way_methods,
)
from cellwright.evaluate.parts import Cost, Curve, Method, Score, Section, Table
from cellwright.evaluate.study import machine
from cellwright.metrics.runs import mean_over_runs

_DOING = {
    "integrate": ("cells", "putting sequencing batches of {} into one space"),
    "multiome": ("cells", "embedding cells of {} from all of their modalities"),
    "perturb": ("perturbations", "predicting perturbations of {} that were held out"),
}
"""Task -> what is resampled, and what is done."""
_TOLD = ("proteins", "telling proteins of held-out cells of {} from RNA")
_OF_ONE_RUN = re.compile(r"\bone (training seed|seed of training)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunScores:
    """What one run scored."""

    evaluation: Evaluation
    main: str
    """Name of the method that was trained."""
    draws: Mapping[str, Mapping[str, np.ndarray]]
    """Method -> metric -> score on every resample."""
    asides: Mapping[str, Evaluation] = field(default_factory=dict)
    """Heading -> a further evaluation of the run, which is no part of the comparison."""

    def method(self, evaluation: Evaluation | None = None) -> Method:
        """Return the trained method of an evaluation; ``None`` = the main one."""
        methods = (evaluation or self.evaluation).methods
        return next(method for method in methods if method.name == self.main)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskModeStudy:
    """Runs of all ways and what they scored."""

    family: str
    runs: Mapping[str, Sequence[ModeRun]]
    """Mode -> its runs, in the order of seeds; the same seeds in every mode."""
    scored: Mapping[str, Sequence[RunScores]]
    """The same for what they scored."""
    model_sha256: str
    """Of the model that was fine-tuned."""

    @property
    def shown(self) -> str:
        """The way whose first run brings the rivals: full where there is one."""
        return "full" if "full" in self.runs else next(iter(self.runs))


def evaluate_task_modes(study: TaskModeStudy) -> Evaluation:
    """Put the evaluations of all runs into one, in which every way is a method.

    Raises
    ------
    ValueError
        The runs were not scored on the same cells, or a run has a metric more or less than another.
    """
    first = study.scored[study.shown][0].evaluation
    _check_alike(study, first)
    unit, doing = _TOLD if first.primary_metric == "feature_pearson" else _DOING[first.task]
    scores = _scores(study, unit)
    differences = way_differences(scores)
    num_resamples = len(next((a for d in scores.drawn.values() for a in d.values()), ()))
    highest = [run.highest_memory_gb for runs in study.runs.values() for run in runs if run.highest_memory_gb]
    shown = f"{WORDS[study.shown][0]}, seed {study.runs[study.shown][0].seed}"
    floors = [method.name for method in scores.rivals if method.bound == "floor"]
    return Evaluation(
        title=f"Ways of fine-tuning: {first.title[0].lower()}{first.title[1:]}",
        task=first.task,
        dataset=first.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=headline(scores, differences, doing.format(first.dataset or "these data")),
        summary=(*_summary(study), f"Whatever is no way of fine-tuning was scored in one run ({shown})."),
        measures={name: first.measures[name] for name in first.measures if name in scores.by_run[study.shown]},
        primary_metric=first.primary_metric,
        drawn=first.drawn,
        methods=(*way_methods(scores), *scores.rivals),
        differences=differences,
        interval_note=interval_note(
            scores,
            num_resamples,
            "A score without an interval has none in its runs either. What stands beside the ways has one run.",
        ),
        contracts=first.contracts,
        curves=_curves(study),
        sections=(
            worth_section(scores, differences),
            runs_section(
                scores,
                floors=floors,
                memory="the highest of the whole run, baselines and drawing included, above what was held before",
                lines=("Each run has a report of its own: <way>/seed_<seed>/report.html in the folder of this one.",),
            ),
            *_asides(study),
        ),
        provenance=first.provenance.model_copy(update={"versions": versions(), "model_sha256": study.model_sha256}),
        cost=Cost(
            seconds={
                f"fine-tuning, {WORDS[mode][0]}": sum(run.seconds for run in runs) for mode, runs in study.runs.items()
            },
            machine=machine(),
            peak_memory_gb=max(highest, default=None),
        ),
        citations=first.citations,
        licences=first.licences,
        limitations=_limitations(study, scores),
    )


def _check_alike(study: TaskModeStudy, first: Evaluation) -> None:
    for mode, those in study.scored.items():
        for run, one in zip(study.runs[mode], those, strict=True):
            found, wanted = one.evaluation.provenance, first.provenance
            if (found.data_sha256, found.split_sha256) != (wanted.data_sha256, wanted.split_sha256):
                raise ValueError(f"the run {mode}, seed {run.seed}, was scored on other cells or on another split")
            if one.evaluation.primary_metric != first.primary_metric:
                raise ValueError(
                    f"the run {mode}, seed {run.seed}, was scored by {one.evaluation.primary_metric}, "
                    f"others by {first.primary_metric}"
                )


def _scores(study: TaskModeStudy, unit: str) -> ModeScores:
    first = study.scored[study.shown][0]
    metrics = [
        name
        for name in first.evaluation.measures
        if all(name in one.method().scores for those in study.scored.values() for one in those)
    ]
    by_run = {
        mode: {metric: [one.method().scores[metric].value for one in those] for metric in metrics}
        for mode, those in study.scored.items()
    }
    drawn = {name: dict(found) for name, found in first.draws.items() if name != first.main}
    for mode, those in study.scored.items():
        draws = [one.draws.get(one.main, {}) for one in those]
        shared = [metric for metric in metrics if all(metric in found for found in draws)]
        seed = first.evaluation.provenance.seed
        drawn[mode_name(study.family, mode)] = {m: mean_over_runs([found[m] for found in draws], seed) for m in shared}
    return ModeScores(
        family=study.family,
        runs=study.runs,
        primary=first.evaluation.primary_metric,
        measure=first.evaluation.measures[first.evaluation.primary_metric],
        by_run=by_run,
        drawn=drawn,
        rivals=[_kept(method, metrics) for method in first.evaluation.methods if method.name != first.main],
        unit=unit,
        counts=first.method().scores[first.evaluation.primary_metric].cells,
    )


def _kept(rival: Method, metrics: Sequence[str]) -> Method:
    """Return a rival with the metrics that all runs have."""

    def kept(scores: Mapping[str, Score]) -> dict[str, Score]:
        return {name: score for name, score in scores.items() if name in metrics}

    parts = {part: kept(scores) for part, scores in rival.parts.items()}
    return rival.model_copy(update={"scores": kept(rival.scores), "parts": parts})


def _summary(study: TaskModeStudy) -> list[str]:
    """Return what the shown run has to say, and what every run has to say of the model that it trained."""
    shown = study.scored[study.shown][0]
    others = [line for line in shown.evaluation.summary if not _is_of(shown, line)]
    said: dict[str, list[str]] = {}  # line -> runs that say it
    for mode, run, one in _each(study):
        for line in one.evaluation.summary:
            if _is_of(one, line):
                text = f"the fine-tuned model{line.removeprefix(one.main)}"
                said.setdefault(text, []).append(f"{WORDS[mode][0]}, seed {run.seed}")
    num = sum(map(len, study.runs.values()))
    own = [text if len(runs) == num else f"{'; '.join(runs)}: {text}" for text, runs in said.items()]
    return [*own, *others]


def _is_of(one: RunScores, line: str) -> bool:
    return line.startswith(f"{one.main} ")


def _each(study: TaskModeStudy) -> list[tuple[str, ModeRun, RunScores]]:
    return [
        (mode, run, one)
        for mode, those in study.scored.items()
        for run, one in zip(study.runs[mode], those, strict=True)
    ]


def _curves(study: TaskModeStudy) -> tuple[Curve, ...]:
    """Return the losses of every way's first run."""
    return tuple(
        curve.model_copy(update={"name": WORDS[mode][0], "stage": f"{curve.stage}, seed {study.runs[mode][0].seed}"})
        for mode, those in study.scored.items()
        for curve in those[0].evaluation.curves[:1]
    )


def _asides(study: TaskModeStudy) -> list[Section]:
    """Return what runs score beside the main thing: means over the runs, lowest and highest."""
    first = study.scored[study.shown][0]
    shared = [h for h in first.asides if all(h in one.asides for _, _, one in _each(study))]
    return [_aside(study, heading, first.asides[heading]) for heading in shared]


def _aside(study: TaskModeStudy, heading: str, first: Evaluation) -> Section:
    rows: list[tuple[str, ...]] = []
    for mode, those in study.scored.items():
        methods = [one.method(one.asides[heading]) for one in those]
        values = {m: [method.scores[m].value for method in methods] for m in first.measures}
        words = [f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})" for found in values.values()]
        rows.append((WORDS[mode][0], *words))
    others = [method for method in first.methods if method.name != study.scored[study.shown][0].main]
    rows += [(m.name, *(f"{m.scores[name].value:.3f}" for name in first.measures)) for m in others]
    return Section(
        heading=heading,
        note="Scored by every run too, and no part of the comparison: means over the runs, in brackets the lowest and "
        "the highest. Intervals and pictures are in the runs' own reports.",
        tables={"": Table(columns=("way", *(m.label for m in first.measures.values())), rows=tuple(rows))},
    )


def _limitations(study: TaskModeStudy, scores: ModeScores) -> tuple[str, ...]:
    seeds = f"{scores.num_runs} training seed{'s' * (scores.num_runs > 1)}"
    kept = [line for line in study.scored[study.shown][0].evaluation.limitations if not _OF_ONE_RUN.search(line)]
    return (
        f"One data set, one split; {seeds}.",
        "The ways were trained with the options given; no option was searched for. A way may want another learning "
        "rate than it had.",
        *kept,
    )
