"""Scores of a ranking of perturbations by a wanted state: is the right one near the top? Pure numpy.

Candidates with equal scores share their places: a hit counts as often as it would if they were put in a random order.
So a method that cannot tell candidates apart scores what chance scores, exactly and without drawing.

Source: scGPT (Cui et al., Nature Methods 2024, reverse perturbation): hit@K = the very perturbation is among the first
K; relevant@K = one that shares a gene with it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from cellwright.metrics.table import Metric


def hit_at(score_k: np.ndarray, truth: int, num: int) -> float:
    """Return the chance that candidate ``truth`` is among the ``num`` of highest score, ties in random order."""
    above = int((score_k > score_k[truth]).sum())
    tied = int((score_k == score_k[truth]).sum())
    return float(np.clip((num - above) / tied, 0, 1))


def relevant_at(score_k: np.ndarray, is_relevant_k: np.ndarray, num: int) -> float:
    """Return the chance that a relevant candidate is among the ``num`` of highest score, ties in random order."""
    if num >= len(score_k):
        return float(is_relevant_k.any())
    least = np.partition(score_k, -num)[-num]
    is_above_k, is_tied_k = score_k > least, score_k == least
    if is_relevant_k[is_above_k].any():
        return 1.0
    room, tied = num - int(is_above_k.sum()), int(is_tied_k.sum())
    relevant = int(is_relevant_k[is_tied_k].sum())
    return 1.0 - comb(tied - relevant, room) / comb(tied, room)


def rank_share(score_k: np.ndarray, truth: int) -> float:
    """Return the share of other candidates that score higher than ``truth``, ties half: 0 = first, 0.5 = chance."""
    above = (score_k > score_k[truth]).sum() + 0.5 * ((score_k == score_k[truth]).sum() - 1)
    return float(above / max(len(score_k) - 1, 1))


def reverse_metrics(sizes: Sequence[int]) -> dict[str, Metric]:
    """Return the table of metrics for these numbers of candidates looked at; their functions are means over queries."""
    table = [
        Metric(f"hit_at_{num}", _mean, 0, 1, 1, "share of queries", f"the very perturbation is among the first {num}")
        for num in sizes
    ]
    table += [
        Metric(f"relevant_at_{num}", _mean, 0, 1, 1, "share of queries", f"one of the first {num} shares a gene")
        for num in sizes
    ]
    what = "candidates ranked before the right one; 0.5 = chance"
    table.append(Metric("rank_share", _mean, 0, 1, 0, "share of candidates", what))
    return {metric.name: metric for metric in table}


def _mean(value_q: np.ndarray) -> float:
    return float(np.mean(value_q))
