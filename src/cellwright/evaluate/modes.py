"""Ways of fine-tuning one model side by side: probe, low-rank, full, from scratch; each trained with several seeds.

Every way is a method; its score is the mean over its runs, and its interval is of other cells and other training seeds
at once (`cellwright.metrics.runs`). What pre-training was worth is the paired difference of *full* and *scratch*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cellwright.evaluate.annotation import PRIMARY, SHOWN, Contender, usable_groups
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.mode_sections import (
    FLOOR,
    WORDS,
    WORTH,
    ModeRun,
    ModeStudy,
    classes_section,
    runs_section,
    worth_of,
    worth_section,
    worth_words,
)
from cellwright.evaluate.parts import Difference, Method, Score
from cellwright.evaluate.study import study_record
from cellwright.metrics import percentiles
from cellwright.metrics.runs import NUM_RESAMPLES, mean_score, resampled_means


def evaluate_modes(study: ModeStudy) -> Evaluation:
    """Score every mode over its runs beside the baselines, and put everything a report shows into one record."""
    cells = study.cells
    is_scored_n = cells.truth_n >= 0
    if not is_scored_n.any():
        raise ValueError("no held-out cell has a label that the training cells know; there is nothing to score")
    groups_n = usable_groups(cells.groups_n, is_scored_n)
    probs = {study.name(mode): [run.prob_nk[is_scored_n] for run in runs] for mode, runs in study.runs.items()}
    probs |= {baseline.name: [baseline.prob_nk[is_scored_n]] for baseline in study.baselines}
    truth_n, values, drawn = cells.truth_n[is_scored_n], {}, {}
    for metric in SHOWN:
        answers = {name: _answers(metric, runs) for name, runs in probs.items()}
        values[metric] = {name: mean_score(metric, truth_n, runs) for name, runs in answers.items()}
        drawn[metric] = resampled_means(metric, truth_n, answers, groups=groups_n, seed=cells.seed)
    differences = _differences(study, values[PRIMARY], drawn[PRIMARY])
    highest = [run.highest_memory_gb for runs in study.runs.values() for run in runs if run.highest_memory_gb]
    return study_record(
        cells,
        _methods(study, values, drawn, len(truth_n)),
        differences,
        headline=_headline(study, differences),
        interval_note=_interval_note(study, groups_n),
        sections=(
            worth_section(study, differences),
            runs_section(study, truth_n, is_scored_n),
            classes_section(study, truth_n, is_scored_n),
        ),
        memory_gb=max(highest, default=None),
    )


def _answers(metric: str, probs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return list(probs) if metric == "ece" else [prob_nk.argmax(1) for prob_nk in probs]


def _methods(
    study: ModeStudy, values: Mapping[str, Mapping], drawn: Mapping[str, Mapping], num_cells: int
) -> list[Method]:
    def scores(name: str, num_runs: int) -> dict[str, Score]:
        found = {}
        for metric in SHOWN:
            value, (low, high) = values[metric][name], percentiles(drawn[metric][name])
            counts = {"cells": num_cells, "runs": num_runs}
            found[metric] = Score(value=value, low=min(low, value), high=max(high, value), cells=counts)
        return found

    methods = [
        Method(
            name=study.name(mode),
            what=f"{WORDS[mode][1]}; {_times(len(runs))}",
            is_baseline=False,
            scores=scores(study.name(mode), len(runs)),
            seconds=float(np.mean([run.seconds for run in runs])),
            trained_parameters=runs[0].trained_parameters,
        )
        for mode, runs in study.runs.items()
    ]
    for baseline in study.baselines:
        methods.append(
            Method(
                name=baseline.name,
                what=baseline.what,
                is_baseline=True,
                bound="floor" if baseline.name == FLOOR else None,
                scores=scores(baseline.name, 1),
                seconds=baseline.seconds,
            )
        )
    return methods


def _times(num: int) -> str:
    return "one run" if num == 1 else f"mean of {num} runs, seconds are of one"


def _differences(
    study: ModeStudy, values: Mapping[str, float], drawn: Mapping[str, np.ndarray]
) -> tuple[Difference, ...]:
    modes = list(study.runs)
    pairs = [(study.name(a), study.name(b)) for a, b in WORTH if a in modes and b in modes]
    rivals = [baseline.name for baseline in study.baselines if baseline.name != FLOOR]
    pairs += [(study.name(mode), rival) for mode in modes for rival in rivals]
    found = []
    for method, other in pairs:
        value, (low, high) = values[method] - values[other], percentiles(drawn[method] - drawn[other])
        low, high = min(low, value), max(high, value)
        found.append(Difference(method=method, other=other, metric=PRIMARY, value=value, low=low, high=high))
    return tuple(found)


def _headline(study: ModeStudy, differences: Sequence[Difference]) -> str:
    num = len(next(iter(study.runs.values())))
    runs = f"{num} seeds each" if num > 1 else "one seed each"
    text = f"{len(study.runs)} ways of fine-tuning {study.family}, {runs}, naming {study.cells.where}."
    worth = worth_of(study, differences)
    return text if worth is None else f"{text} {worth_words(worth)}"


def _interval_note(study: ModeStudy, groups_n: np.ndarray | None) -> str:
    num = len(next(iter(study.runs.values())))
    what = "cells" if groups_n is None else "whole groups"
    seeds = (
        f"training seeds ({num - 1} of the {num} runs a resample, so that their spread is not understated), the same "
        f"for all ways; {num} seeds tell little of the spread itself"
        if num > 1
        else "no training seeds, since there is one; another seed may move a score further than the interval says"
    )
    return (
        f"95 % intervals: percentile bootstrap over {what}, {NUM_RESAMPLES} resamples, and in each over {seeds}. "
        "They speak of other cells from the same source, not of other laboratories. Baselines have one run."
    )


def drawn_contender(study_name: str, run: ModeRun) -> Contender:
    """Return the run whose answers are drawn, as a contender of the study of the cells."""
    return Contender(
        name=study_name,
        what=WORDS[run.mode][1],
        prob_nk=run.prob_nk,
        is_baseline=False,
        seconds=run.seconds,
        trained_parameters=run.trained_parameters,
    )
