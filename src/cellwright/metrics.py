"""Scores with their range, best value and unit, and intervals for them. Pure numpy and scipy.

Labels are integer codes ``0 .. k-1``. A prediction of -1 means *unassigned*: it is wrong wherever it is counted, but
it is not a class of its own. ``METRICS`` is the table of everything that can be reported.

Most scores are a function of sums over cells (how many cells of each class, how many predicted, how many right). Such
a score has two parts: ``tally`` says which sums, ``finish`` turns sums into the score, for many resamples at once.
That makes a bootstrap of a thousand resamples a matrix product; a metric without these parts is resampled in a loop.

This module does not do perturbation, integration or network scores yet, and knows nothing of class names' hierarchy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

ECE_BINS = 15
_CHUNK_ENTRIES = 4_000_000  # resample counts held at once: 32 MB

Sums = Mapping[str, np.ndarray]
"""Name -> float ``[r, ...]``: sums over cells in each of r resamples."""


@dataclass(frozen=True)
class Tally:
    """Cells sorted into kinds that are alike for a score, and what one cell of each kind adds to the sums."""

    kind_n: np.ndarray
    parts: Mapping[str, sparse.csr_array]
    """Name -> ``[kinds, columns]``."""


@dataclass(frozen=True)
class Metric:
    """One score and what a reader must know about it."""

    name: str
    function: Callable[..., float]
    low: float
    high: float
    best: float
    unit: str
    """What the number is a share of, or empty."""
    what: str
    tally: Callable[..., Tally] | None = None
    finish: Callable[[Sums], np.ndarray] | None = None

    @property
    def is_higher_better(self) -> bool:
        """Whether a larger value is a better one."""
        return self.best == self.high


def _codes(name: str, code_n: Any) -> np.ndarray:
    code_n = np.asarray(code_n)
    if code_n.ndim != 1 or len(code_n) == 0:
        raise ValueError(f"{name} has shape {code_n.shape}; a score needs at least one cell and one code a cell")
    if code_n.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {code_n.dtype}, not integer class codes; encode the names first")
    return code_n.astype(np.int64)


def _two_codes(truth_n: Any, pred_n: Any) -> tuple[np.ndarray, np.ndarray]:
    truth_n, pred_n = _codes("truth_n", truth_n), _codes("pred_n", pred_n)
    if len(truth_n) != len(pred_n):
        raise ValueError(f"{len(truth_n)} true labels but {len(pred_n)} predictions; they must be the same cells")
    return truth_n, pred_n


def _label_codes(truth_n: Any, pred_n: Any) -> tuple[np.ndarray, np.ndarray]:
    truth_n, pred_n = _two_codes(truth_n, pred_n)
    if truth_n.min() < 0:
        raise ValueError(f"{(truth_n < 0).sum()} cells have no true label (code < 0); leave them out of the score")
    if pred_n.min() < -1:
        raise ValueError(f"predicted code {pred_n.min()} is neither a class nor -1 (unassigned)")
    return truth_n, pred_n


def _one_hot(code_m: np.ndarray, width: int, is_counted_m: np.ndarray | None = None) -> sparse.csr_array:
    row_m = np.arange(len(code_m)) if is_counted_m is None else np.flatnonzero(is_counted_m)
    return sparse.csr_array((np.ones(len(row_m)), (row_m, code_m[row_m])), shape=(len(code_m), width))


def _tally_labels(truth_n: Any, pred_n: Any) -> Tally:
    truth_n, pred_n = _label_codes(truth_n, pred_n)
    width = int(max(truth_n.max(), pred_n.max())) + 1
    pair_m, kind_n = np.unique(truth_n * (width + 1) + pred_n + 1, return_inverse=True)
    truth_m, pred_m = pair_m // (width + 1), pair_m % (width + 1) - 1
    parts = {
        "true": _one_hot(truth_m, width),
        "pred": _one_hot(pred_m, width, pred_m >= 0),
        "right": _one_hot(truth_m, width, truth_m == pred_m),
    }
    return Tally(kind_n, parts)


def _tally_clusters(truth_n: Any, pred_n: Any) -> Tally:
    sides = [np.unique(code_n, return_inverse=True)[1] for code_n in _two_codes(truth_n, pred_n)]
    width_a, width_b = (int(code_n.max()) + 1 for code_n in sides)
    pair_m, kind_n = np.unique(sides[0] * width_b + sides[1], return_inverse=True)
    identity = _one_hot(np.arange(len(pair_m)), len(pair_m))
    parts = {"true": _one_hot(pair_m // width_b, width_a), "pred": _one_hot(pair_m % width_b, width_b)}
    return Tally(kind_n, {"pair": identity, **parts})


def _tally_calibration(truth_n: Any, probability_nk: Any) -> Tally:
    truth_n, probability_nk = _codes("truth_n", truth_n), np.asarray(probability_nk, dtype=np.float64)
    if probability_nk.ndim != 2 or len(probability_nk) != len(truth_n):
        raise ValueError(f"probabilities have shape {probability_nk.shape}; {len(truth_n)} rows are needed")
    if not (np.isfinite(probability_nk).all() and probability_nk.min() >= 0 and probability_nk.max() <= 1 + 1e-5):
        raise ValueError("probabilities must be finite and lie in 0 .. 1; are these logits?")
    confidence_n = np.minimum(probability_nk.max(axis=1), 1.0)
    gap_n = (probability_nk.argmax(axis=1) == truth_n) - confidence_n
    row_n, bin_n = np.arange(len(truth_n)), confidence_bins(confidence_n)
    shape = (len(truth_n), ECE_BINS)
    return Tally(row_n, {"gap": sparse.csr_array((gap_n, (row_n, bin_n)), shape=shape), "cell": np.ones((len(truth_n), 1))})


def confidence_bins(confidence_n: np.ndarray, num_bins: int = ECE_BINS) -> np.ndarray:
    """Return the bin of each confidence: ``num_bins`` bins of equal width, each open below and closed above."""
    return np.clip(np.ceil(np.asarray(confidence_n) * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; nothing out of nothing is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def _mean_over(score_rk: np.ndarray, is_class_rk: np.ndarray) -> np.ndarray:
    return (score_rk * is_class_rk).sum(axis=1) / is_class_rk.sum(axis=1)


def _union(sums: Sums) -> np.ndarray:
    return (sums["true"] + sums["pred"]) > 0


def _precision(sums: Sums) -> np.ndarray:
    return _ratio(sums["right"], sums["pred"])


def _recall(sums: Sums) -> np.ndarray:
    return _ratio(sums["right"], sums["true"])


def _f1(sums: Sums) -> np.ndarray:
    return _ratio(2 * sums["right"], sums["true"] + sums["pred"])


def _finish_accuracy(sums: Sums) -> np.ndarray:
    return sums["right"].sum(axis=1) / sums["true"].sum(axis=1)


def _finish_balanced_accuracy(sums: Sums) -> np.ndarray:
    return _mean_over(_recall(sums), sums["true"] > 0)


def _finish_macro_f1(sums: Sums) -> np.ndarray:
    return _mean_over(_f1(sums), _union(sums))


def _finish_macro_f1_present(sums: Sums) -> np.ndarray:
    return _mean_over(_f1(sums), sums["true"] > 0)


def _finish_weighted_f1(sums: Sums) -> np.ndarray:
    return (_f1(sums) * sums["true"]).sum(axis=1) / sums["true"].sum(axis=1)


def _finish_macro_precision(sums: Sums) -> np.ndarray:
    return _mean_over(_precision(sums), _union(sums))


def _finish_macro_recall(sums: Sums) -> np.ndarray:
    return _mean_over(_recall(sums), _union(sums))


def _finish_assigned_share(sums: Sums) -> np.ndarray:
    return sums["pred"].sum(axis=1) / sums["true"].sum(axis=1)


def _finish_assigned_accuracy(sums: Sums) -> np.ndarray:
    return _ratio(sums["right"].sum(axis=1), sums["pred"].sum(axis=1))


def _finish_ece(sums: Sums) -> np.ndarray:
    return np.abs(sums["gap"]).sum(axis=1) / sums["cell"][:, 0]


def _entropy(count_rk: np.ndarray) -> np.ndarray:
    share_rk = count_rk / count_rk.sum(axis=1, keepdims=True)
    return -(share_rk * np.log(np.where(share_rk > 0, share_rk, 1.0))).sum(axis=1)


def _finish_nmi(sums: Sums) -> np.ndarray:
    entropy_a, entropy_b = _entropy(sums["true"]), _entropy(sums["pred"])
    shared = np.maximum(entropy_a + entropy_b - _entropy(sums["pair"]), 0.0)
    whole = entropy_a + entropy_b
    return np.where(whole > 0, np.minimum(2 * _ratio(shared, whole), 1.0), 1.0)


def _finish_ari(sums: Sums) -> np.ndarray:
    both, in_a, in_b = ((sums[k] * (sums[k] - 1)).sum(axis=1) / 2 for k in ("pair", "true", "pred"))
    num_cells = sums["pair"].sum(axis=1)
    expected = _ratio(in_a * in_b, num_cells * (num_cells - 1) / 2)
    room = (in_a + in_b) / 2 - expected
    return np.where(room > 0, (both - expected) / np.where(room > 0, room, 1.0), 1.0)


def _score(name: str, *arrays: Any) -> float:
    metric = METRICS[name]
    tally = metric.tally(*arrays)
    count_m = np.bincount(tally.kind_n)[None].astype(np.float64)
    return float(metric.finish({part: count_m @ table for part, table in tally.parts.items()})[0])
