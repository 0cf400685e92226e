"""Score annotations beside baselines on the same cells, and say plainly who is best.

Everything here works on class probabilities, so that models and baselines are treated alike. Cells whose true class no
training cell has cannot be named by any method; they are counted, and not scored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.baselines.annotation import ANNOTATION_BASELINES
from cellwright.data.cells import Cells
from cellwright.evaluate.parts import Difference, Method, Score
from cellwright.metrics import METRICS, bootstrap_interval, paired_difference_interval

PRIMARY = "macro_f1_present"
"""Mean F1 over the classes that the query has. The usual macro-F1, over the union with predicted classes, hangs on
single stray answers: three cells given a class that the query lacks move it by a seventh."""
SHOWN = (PRIMARY, "macro_f1", "accuracy", "balanced_accuracy", "ece")
NUM_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One method's answer for every query cell."""

    name: str
    what: str
    prob_nk: np.ndarray
    """float ``[n, k]``, rows sum to 1."""
    is_baseline: bool
    seconds: float
    """Wall time of training and answering."""
    trained_parameters: int | None = None


def run_baselines(
    train: Cells, train_code_n: np.ndarray, query: Cells, *, num_classes: int, seed: int
) -> list[Contender]:
    """Train every annotation baseline on ``train`` and let it answer for ``query``.

    Both are given as log1p of counts per 10,000 over the genes that both have.
    """
    shared = np.intersect1d(train.contract.genes.matched_ids, query.contract.genes.matched_ids)
    if not len(shared):
        raise ValueError("training and query cells share no gene of the vocabulary; baselines cannot be run")
    train_ng, query_ng = train.logcp10k(shared), query.logcp10k(shared)
    found = []
    for name, baseline in ANNOTATION_BASELINES.items():
        start = time.perf_counter()
        prob_nk = baseline.fit_predict(train_ng, train_code_n, query_ng, num_classes=num_classes, seed=seed)
        seconds = time.perf_counter() - start
        found.append(Contender(name=name, what=baseline.what, prob_nk=prob_nk, is_baseline=True, seconds=seconds))
    return found


def score_contenders(
    contenders: Sequence[Contender], truth_n: np.ndarray, *, groups: np.ndarray | None, seed: int
) -> list[Method]:
    """Score every contender on the cells whose ``truth_n`` is 0 or more, with bootstrap intervals.

    Parameters
    ----------
    contenders
        Answers for the same cells.
    truth_n
        int64 ``[n]`` codes, -1 = not scored.
    groups
        Codes of donors or studies, resampled whole when there are at least five; else cells are resampled.
    """
    is_scored_n = truth_n >= 0
    if not is_scored_n.any():
        raise ValueError("no query cell has a label that the training cells know; there is nothing to score")
    truth_n, groups = truth_n[is_scored_n], usable_groups(groups, is_scored_n)
    methods = []
    for contender in contenders:
        prob_nk = contender.prob_nk[is_scored_n]
        scores = {}
        for metric in SHOWN:
            answer = prob_nk if metric == "ece" else prob_nk.argmax(1)
            low, high = bootstrap_interval(
                metric, truth_n, answer, groups=groups, num_resamples=NUM_RESAMPLES, seed=seed
            )
            value = METRICS[metric].function(truth_n, answer)
            counts = {"cells": len(truth_n)}
            scores[metric] = Score(value=value, low=min(low, value), high=max(high, value), cells=counts)
        methods.append(
            Method(
                name=contender.name,
                what=contender.what,
                is_baseline=contender.is_baseline,
                scores=scores,
                seconds=contender.seconds,
                trained_parameters=contender.trained_parameters,
            )
        )
    return methods


def compare(
    contenders: Sequence[Contender],
    truth_n: np.ndarray,
    pairs: Sequence[tuple[str, str]],
    *,
    groups: np.ndarray | None,
    seed: int,
) -> list[Difference]:
    """Return the paired differences of the primary metric for these (method, other) names."""
    is_scored_n = truth_n >= 0
    answers = {c.name: c.prob_nk[is_scored_n].argmax(1) for c in contenders}
    truth_n, groups = truth_n[is_scored_n], usable_groups(groups, is_scored_n)
    score = METRICS[PRIMARY].function
    found = []
    for method, other in pairs:
        both = (answers[method], answers[other])
        low, high = paired_difference_interval(
            PRIMARY, truth_n, both, groups=groups, num_resamples=NUM_RESAMPLES, seed=seed
        )
        value = score(truth_n, both[0]) - score(truth_n, both[1])
        low, high = min(low, value), max(high, value)
        found.append(Difference(method=method, other=other, metric=PRIMARY, value=value, low=low, high=high))
    return found


def usable_groups(groups: np.ndarray | None, is_scored_n: np.ndarray) -> np.ndarray | None:
    """Return the groups of the scored cells where there are enough of them to be drawn whole, else nothing."""
    if groups is None or len(np.unique(groups[is_scored_n])) < 5:
        return None
    return groups[is_scored_n]


def interval_note(groups: np.ndarray | None, truth_n: np.ndarray) -> str:
    """Say in words how the intervals were made."""
    what = "cells" if usable_groups(groups, truth_n >= 0) is None else "whole groups"
    return (
        f"95 % intervals: percentile bootstrap over {what}, {NUM_RESAMPLES} resamples; they speak of other cells from "
        "the same source, not of other laboratories or training seeds."
    )
