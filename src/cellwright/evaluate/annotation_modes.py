"""Ways of fine-tuning for annotation side by side, all asked of the same cells; see `cellwright.evaluate.modes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.evaluate.annotation import PRIMARY, SHOWN, Contender, usable_groups
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.mode_sections import runs_section, worth_section
from cellwright.evaluate.modes import (
    WORDS,
    ModeRun,
    ModeScores,
    headline,
    interval_note,
    mode_name,
    score_over,
    way_differences,
    way_methods,
)
from cellwright.evaluate.parts import Method, Section, Table
from cellwright.evaluate.study import AnnotationStudy, study_record
from cellwright.metrics import METRICS, per_class
from cellwright.metrics.runs import NUM_RESAMPLES, resampled_means

FLOOR = "majority"
ANSWER = "prob_nk"
"""Name of a run's answers: float ``[n, k]`` of the held-out cells, rows sum to 1."""


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


def evaluate_modes(study: ModeStudy) -> Evaluation:
    """Score every mode over its runs beside the baselines, and put everything a report shows into one record."""
    cells = study.cells
    is_scored_n = cells.truth_n >= 0
    if not is_scored_n.any():
        raise ValueError("no held-out cell has a label that the training cells know; there is nothing to score")
    scores = _scores(study, is_scored_n)
    differences = way_differences(scores)
    highest = [run.highest_memory_gb for runs in study.runs.values() for run in runs if run.highest_memory_gb]
    return study_record(
        cells,
        [*way_methods(scores), *scores.rivals],
        differences,
        headline=headline(scores, differences, f"naming {cells.where}"),
        interval_note=interval_note(
            scores,
            NUM_RESAMPLES,
            "They speak of other cells from the same source, not of other laboratories. Baselines have one run.",
        ),
        sections=(
            worth_section(scores, differences),
            runs_section(scores, floors=(FLOOR,), weights="Weights are those of the best step."),
            classes_section(study, cells.truth_n[is_scored_n], is_scored_n),
        ),
        memory_gb=max(highest, default=None),
    )


def _scores(study: ModeStudy, is_scored_n: np.ndarray) -> ModeScores:
    groups_n = usable_groups(study.cells.groups_n, is_scored_n)
    truth_n = study.cells.truth_n[is_scored_n]
    probs = {
        mode_name(study.family, mode): [run.answers[ANSWER][is_scored_n] for run in runs]
        for mode, runs in study.runs.items()
    }
    probs |= {baseline.name: [baseline.prob_nk[is_scored_n]] for baseline in study.baselines}
    by_run: dict[str, dict[str, list[float]]] = {name: {} for name in probs}
    drawn: dict[str, dict[str, np.ndarray]] = {name: {} for name in probs}
    for metric in SHOWN:
        answers = {name: _answers(metric, runs) for name, runs in probs.items()}
        resampled = resampled_means(metric, truth_n, answers, groups=groups_n, seed=study.cells.seed)
        for name, runs in answers.items():
            by_run[name][metric] = [METRICS[metric].function(truth_n, answer) for answer in runs]
            drawn[name][metric] = resampled[name]
    counts = {"cells": len(truth_n)}
    rivals = [
        Method(
            name=baseline.name,
            what=baseline.what,
            is_baseline=True,
            bound="floor" if baseline.name == FLOOR else None,
            scores={
                metric: score_over(float(np.mean(values)), drawn[baseline.name][metric], {**counts, "runs": 1})
                for metric, values in by_run[baseline.name].items()
            },
            seconds=baseline.seconds,
        )
        for baseline in study.baselines
    ]
    return ModeScores(
        family=study.family,
        runs=study.runs,
        primary=PRIMARY,
        measure=measures_of([PRIMARY])[PRIMARY],
        by_run={mode: by_run[mode_name(study.family, mode)] for mode in study.runs},
        drawn=drawn,
        rivals=rivals,
        unit="cells" if groups_n is None else "whole groups",
        counts=counts,
    )


def _answers(metric: str, probs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return list(probs) if metric == "ece" else [prob_nk.argmax(1) for prob_nk in probs]


def classes_section(study: ModeStudy, truth_n: np.ndarray, is_scored_n: np.ndarray) -> Section:
    """Return the F1 of each class, mean over runs."""
    classes = study.cells.classes
    answers = {WORDS[mode][0]: [run.answers[ANSWER][is_scored_n] for run in runs] for mode, runs in study.runs.items()}
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


def drawn_contender(study_name: str, run: ModeRun) -> Contender:
    """Return the run whose answers are drawn, as a contender of the study of the cells."""
    return Contender(
        name=study_name,
        what=WORDS[run.mode][1],
        prob_nk=run.answers[ANSWER],
        is_baseline=False,
        seconds=run.seconds,
        trained_parameters=run.trained_parameters,
    )
