"""Scores of labels and of groupings, and their intervals: the table ``METRICS``.

Labels are integer codes ``0 .. k-1``. A prediction of -1 means *unassigned*: it is wrong wherever it is counted, but
it is not a class of its own. Each score is a function of sums over cells (how many of each class, how many predicted,
how many right), see `cellwright.metrics.sums`.

Not here: scores that know which class is a kind of which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from cellwright.metrics.sums import Sums, SumScore, Tally, resample
from cellwright.metrics.table import Metric, percentiles

ECE_BINS = 15


def _codes(**code_n: Any) -> list[np.ndarray]:
    """Return int64 codes; names are those of the arguments, for the message."""
    out = []
    for name, given in code_n.items():
        given = np.asarray(given)
        if given.ndim != 1 or len(given) == 0:
            raise ValueError(f"{name} has shape {given.shape}; one code a cell is needed, and at least one cell")
        if given.dtype.kind not in "iu":
            raise ValueError(f"{name} holds {given.dtype}, not integer class codes; encode the names first")
        out.append(given.astype(np.int64))
    _same_cells(*out)
    return out


def _same_cells(truth_n: np.ndarray, *answers: np.ndarray) -> None:
    for answer in answers:
        if len(answer) != len(truth_n):
            raise ValueError(f"{len(truth_n)} true labels but {len(answer)} answers; both need the same cells")


def _labels(truth_n: Any, pred_n: Any) -> tuple[np.ndarray, np.ndarray]:
    truth_n, pred_n = _codes(truth_n=truth_n, pred_n=pred_n)
    if truth_n.min() < 0:
        raise ValueError(f"{(truth_n < 0).sum()} cells have no true label (code < 0); leave them out")
    if pred_n.min() < -1:
        raise ValueError(f"predicted code {pred_n.min()} is neither a class nor -1 (unassigned)")
    return truth_n, pred_n


def _one_hot(code_m: np.ndarray, width: int, is_counted_m: np.ndarray | bool = True) -> sparse.csr_array:
    row_m = np.flatnonzero(np.broadcast_to(is_counted_m, code_m.shape))
    return sparse.csr_array((np.ones(len(row_m)), (row_m, code_m[row_m])), shape=(len(code_m), width))


def _tally_labels(truth_n: Any, pred_n: Any) -> Tally:
    truth_n, pred_n = _labels(truth_n, pred_n)
    width = int(max(truth_n.max(), pred_n.max())) + 1
    (truth_m, pred_m), kind_n = np.unique([truth_n, pred_n], axis=1, return_inverse=True)
    parts = {
        "true": _one_hot(truth_m, width),
        "pred": _one_hot(pred_m, width, pred_m >= 0),
        "right": _one_hot(truth_m, width, truth_m == pred_m),
    }
    return Tally(kind_n.ravel(), parts)


def _tally_clusters(truth_n: Any, pred_n: Any) -> Tally:
    pairs_2m, kind_n = np.unique(_codes(truth_n=truth_n, pred_n=pred_n), axis=1, return_inverse=True)
    columns = {"true": pairs_2m[0], "pred": pairs_2m[1], "pair": np.arange(pairs_2m.shape[1])}
    codes = {name: np.unique(code_m, return_inverse=True)[1] for name, code_m in columns.items()}
    parts = {name: _one_hot(code_m, int(code_m.max()) + 1) for name, code_m in codes.items()}
    return Tally(kind_n.ravel(), parts)


def _tally_confidence(truth_n: Any, probability_nk: Any) -> Tally:
    [truth_n], probability_nk = _codes(truth_n=truth_n), np.asarray(probability_nk, dtype=np.float64)
    _same_cells(truth_n, probability_nk)
    if probability_nk.ndim != 2 or not (probability_nk.min() >= 0 and probability_nk.max() <= 1 + 1e-5):
        raise ValueError("probabilities must be cells x classes, finite, in 0 .. 1; are these logits?")
    confidence_n = np.minimum(probability_nk.max(axis=1), 1.0)
    gap_n = (probability_nk.argmax(axis=1) == truth_n) - confidence_n
    cell_n = np.arange(len(truth_n))
    gap = sparse.csr_array((gap_n, (cell_n, confidence_bins(confidence_n))), shape=(len(truth_n), ECE_BINS))
    return Tally(cell_n, {"gap": gap, "cell": sparse.csr_array(np.ones((len(truth_n), 1)))})


def confidence_bins(confidence_n: np.ndarray) -> np.ndarray:
    """Return the bin (0 .. 14) of each confidence: equal widths, open below and closed above, 0 in the first."""
    return np.clip(np.ceil(np.asarray(confidence_n) * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; nothing out of nothing is 0."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _share(part_rk: np.ndarray, whole_rk: np.ndarray) -> np.ndarray:
    return _ratio(part_rk.sum(axis=1), whole_rk.sum(axis=1))


def _f1(sums: Sums) -> np.ndarray:
    return _ratio(2 * sums["right"], sums["true"] + sums["pred"])


def _recall(sums: Sums) -> np.ndarray:
    return _ratio(sums["right"], sums["true"])


def _over_present(score_rk: np.ndarray, sums: Sums) -> np.ndarray:
    """Mean over classes that the truth holds."""
    return _share(score_rk * (sums["true"] > 0), sums["true"] > 0)


def _over_union(score_rk: np.ndarray, sums: Sums) -> np.ndarray:
    """Mean over classes that the truth or the prediction holds; others score 0 and do not count."""
    return _share(score_rk, (sums["true"] + sums["pred"]) > 0)


def _entropy(count_rk: np.ndarray) -> np.ndarray:
    share_rk = count_rk / count_rk.sum(axis=1, keepdims=True)
    return -(share_rk * np.log(np.where(share_rk > 0, share_rk, 1.0))).sum(axis=1)


def _nmi(sums: Sums) -> np.ndarray:
    whole = _entropy(sums["true"]) + _entropy(sums["pred"])
    shared = np.clip(whole - _entropy(sums["pair"]), 0.0, whole / 2)  # rounding can leave the range by 1e-16
    return np.where(whole > 0, _ratio(2 * shared, whole), 1.0)


def _ari(sums: Sums) -> np.ndarray:
    both, in_a, in_b = ((sums[k] * (sums[k] - 1)).sum(axis=1) / 2 for k in ("pair", "true", "pred"))
    num_cells = sums["pair"].sum(axis=1)
    expected = _ratio(in_a * in_b, num_cells * (num_cells - 1) / 2)
    room = (in_a + in_b) / 2 - expected
    return np.where(room > 0, (both - expected) / np.where(room > 0, room, 1.0), 1.0)


accuracy = SumScore(_tally_labels, lambda sums: _share(sums["right"], sums["true"]))
balanced_accuracy = SumScore(_tally_labels, lambda sums: _over_present(_recall(sums), sums))
macro_f1 = SumScore(_tally_labels, lambda sums: _over_union(_f1(sums), sums))
macro_f1_present = SumScore(_tally_labels, lambda sums: _over_present(_f1(sums), sums))
weighted_f1 = SumScore(_tally_labels, lambda sums: _share(_f1(sums) * sums["true"], sums["true"]))
macro_precision = SumScore(_tally_labels, lambda sums: _over_union(_ratio(sums["right"], sums["pred"]), sums))
macro_recall = SumScore(_tally_labels, lambda sums: _over_union(_recall(sums), sums))
assigned_share = SumScore(_tally_labels, lambda sums: _share(sums["pred"], sums["true"]))
assigned_accuracy = SumScore(_tally_labels, lambda sums: _share(sums["right"], sums["pred"]))
nmi = SumScore(_tally_clusters, _nmi)
ari = SumScore(_tally_clusters, _ari)
ece = SumScore(_tally_confidence, lambda sums: _share(np.abs(sums["gap"]), sums["cell"]))

_UNION = "over classes that the truth or the prediction holds (as published scGPT), 0 for a class never right"
_TABLE = (
    Metric("accuracy", accuracy, 0, 1, 1, "share of cells", "cells given their true class; unassigned is wrong"),
    Metric("balanced_accuracy", balanced_accuracy, 0, 1, 1, "", "mean recall over the classes of the truth"),
    Metric("macro_f1", macro_f1, 0, 1, 1, "", f"mean F1 {_UNION}"),
    Metric("macro_f1_present", macro_f1_present, 0, 1, 1, "", "mean F1 over the classes of the truth only"),
    Metric("weighted_f1", weighted_f1, 0, 1, 1, "", "mean F1, classes weighted by their true number of cells"),
    Metric("macro_precision", macro_precision, 0, 1, 1, "", f"mean precision {_UNION}"),
    Metric("macro_recall", macro_recall, 0, 1, 1, "", f"mean recall {_UNION}"),
    Metric("assigned_share", assigned_share, 0, 1, 1, "share of cells", "cells that were given any class"),
    Metric("assigned_accuracy", assigned_accuracy, 0, 1, 1, "share of assigned cells", "of those, the right ones"),
    Metric("nmi", nmi, 0, 1, 1, "", "normalised mutual information of two groupings (arithmetic mean)"),
    Metric("ari", ari, -0.5, 1, 1, "", "adjusted Rand index of two groupings; 0 = agreement by chance"),
    Metric("ece", ece, 0, 1, 0, "", "expected calibration error: mean |accuracy - confidence| over 15 bins"),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Name -> metric. All take (truth_n, pred_n), ``ece`` takes (truth_n, probability_nk)."""


def confusion(truth_n: Any, pred_n: Any, num_classes: int) -> np.ndarray:
    """Count cells by true (row) and predicted (column) class: int64 ``[k, k]``. Unassigned cells are not in it."""
    truth_n, pred_n = _labels(truth_n, pred_n)
    if max(truth_n.max(), pred_n.max()) >= num_classes:
        raise ValueError(f"class code {max(truth_n.max(), pred_n.max())}, but there are {num_classes} classes")
    flat_n = (truth_n * num_classes + pred_n)[pred_n >= 0]
    return np.bincount(flat_n, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(truth_n: Any, pred_n: Any, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row a class: class, num_true, num_predicted, precision, recall, f1 (0 where undefined)."""
    counts = confusion(truth_n, pred_n, len(classes))
    right_k, num_pred_k = np.diag(counts), counts.sum(axis=0)
    num_true_k = np.bincount(truth_n, minlength=len(classes))  # unassigned cells are not in the counts
    columns = {
        "class": classes,
        "num_true": num_true_k.tolist(),
        "num_predicted": num_pred_k.tolist(),
        "precision": _ratio(right_k, num_pred_k).tolist(),
        "recall": _ratio(right_k, num_true_k).tolist(),
        "f1": _ratio(2 * right_k, num_true_k + num_pred_k).tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def bootstrap_interval(
    metric: str, *arrays: Any, groups: Any = None, num_resamples: int = 1000, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric of ``METRICS``.

    Parameters
    ----------
    arrays
        What the metric takes; one row a cell.
    groups
        Code of each cell's donor, study, ...: whole groups are drawn instead of cells, which is right when the
        question is about new donors. At least two groups.
    level
        Share of resamples inside the interval.

    Notes
    -----
    The interval speaks of other cells (or groups) from the same source, not of another laboratory or training seed.
    With groups, a dozen or more are wanted; with two the interval is only a hint.
    """
    value_r = resampled_labels(metric, *arrays, groups=groups, num_resamples=num_resamples, seed=seed)
    return percentiles(value_r, level)


def resampled_labels(metric: str, *arrays: Any, groups: Any = None, num_resamples: int = 1000, seed: int) -> np.ndarray:
    """Return a metric of ``METRICS`` on resamples as in `bootstrap_interval`: float64 ``[r]``.

    With groups (one a cell, where cells are drawn) the same seed draws the same ones whatever the arrays hold.
    """
    return resample(_score(metric), [arrays], groups, num_resamples, seed)[0]


def paired_difference_interval(
    metric: str,
    truth_n: Any,
    answers: tuple[Any, Any],
    *,
    groups: Any = None,
    num_resamples: int = 1000,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of score(A) - score(B), both scored on the same resampled cells.

    ``answers`` is (A, B): predicted codes, or probabilities for ``ece``. Narrower and fairer than comparing two
    intervals, since a hard cell is hard for both. Groups, seed and level as in `bootstrap_interval`.
    """
    calls = [(truth_n, answer) for answer in answers]
    a_r, b_r = resample(_score(metric), calls, groups, num_resamples, seed)
    return percentiles(a_r - b_r, level)


def _score(name: str) -> SumScore:
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    return METRICS[name].function
