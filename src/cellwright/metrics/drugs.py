"""Scores of predicted drug responses, and intervals over cell lines or drugs. Pure numpy and scipy.

Axes: ``p`` a measured pair of line and drug, ``u`` what is resampled (a cell line, or a drug), ``r`` a resample, ``k``
a drug.

The overall correlation is nearly all difference between drugs: the mean of each drug reaches .84 on GDSC without a
look at the cells. What cells tell is seen *within* a drug only, so `within_drug_pearson` stands beside it. A
prediction that is constant for a drug tells no lines apart and counts as correlation 0 there; so does one whose spread
is rounding (below ``CONSTANT`` of the truth's spread), which published predictions have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from cellwright.metrics.table import Metric, percentiles

MIN_PAIRS = 8
"""Fewest pairs of a drug that is scored by itself."""
CONSTANT = 1e-5
_CHUNK = 200

Sums = Mapping[str, np.ndarray]
"""n, t, p, tt, pp, tp -> ``[r, k]``: number and sums of truth and prediction, squares and products."""


@dataclass(frozen=True)
class PairScore:
    """A score that depends on the pairs only through sums over the pairs of each drug.

    Call it with true values, predictions and the drug of each pair; ``finish`` makes scores of sums, for many resamples
    at once.
    """

    finish: Callable[[Sums], np.ndarray]
    is_by_drug: bool
    """Sums are kept for each drug with at least `MIN_PAIRS` pairs, about the drug's own means."""

    def __call__(self, truth_p: Any, pred_p: Any, drug_p: Any) -> float:
        """Return the score of these pairs; NaN where no drug has enough of them."""
        truth_p, pred_p, drug_p = checked(truth_p, pred_p, drug_p)
        parts = self.parts(truth_p, pred_p, drug_p, np.zeros(len(truth_p), np.int64))
        return float(self.finish({name: part.toarray() for name, part in parts.items()})[0])

    def parts(
        self, truth_p: np.ndarray, pred_p: np.ndarray, drug_p: np.ndarray, unit_p: np.ndarray
    ) -> dict[str, sparse.csr_array]:
        """Return what one drawing of each unit adds to the sums, ``[u, k]``."""
        if not self.is_by_drug:
            group_p, offset = np.zeros(len(truth_p), np.int64), (truth_p.mean(), pred_p.mean())
            shape = (int(unit_p.max()) + 1, 1)
        else:
            count_k = np.bincount(drug_p)
            is_scored_p = count_k[drug_p] >= MIN_PAIRS
            truth_p, pred_p, unit_kept_p = truth_p[is_scored_p], pred_p[is_scored_p], unit_p[is_scored_p]
            names, group_p = np.unique(drug_p[is_scored_p], return_inverse=True)
            shape = (int(unit_p.max()) + 1, len(names))
            unit_p, size_k = unit_kept_p, np.maximum(np.bincount(group_p, minlength=len(names)), 1)
            offset = tuple(
                (np.bincount(group_p, value_p, minlength=len(names)) / size_k)[group_p] for value_p in (truth_p, pred_p)
            )
        t_p, p_p = truth_p - offset[0], pred_p - offset[1]
        e_p = p_p - t_p if self.is_by_drug else pred_p - truth_p
        columns = {
            "n": np.ones(len(t_p)),
            "t": t_p,
            "p": p_p,
            "tt": t_p**2,
            "pp": p_p**2,
            "tp": t_p * p_p,
            "ee": e_p**2,
        }
        return {name: sparse.csr_array((value, (unit_p, group_p)), shape=shape) for name, value in columns.items()}


def checked(truth_p: Any, pred_p: Any, *codes: Any) -> list[np.ndarray]:
    """Return float64 values and int64 codes of the same pairs, or raise ``ValueError``."""
    values = [np.asarray(given, np.float64) for given in (truth_p, pred_p)]
    for name, value_p in zip(("true", "predicted"), values, strict=True):
        if value_p.ndim != 1 or not len(value_p):
            raise ValueError(f"{name} values are {value_p.shape}; one number a pair is needed, and at least one pair")
        if not np.isfinite(value_p).all():
            raise ValueError(
                f"{int((~np.isfinite(value_p)).sum())} {name} values are not finite; leave these pairs out"
            )
    out = [*values]
    for given in codes:
        code_p = np.asarray(given)
        if code_p.dtype.kind not in "iu" or (len(code_p) and code_p.min() < 0):
            raise ValueError(f"codes are {code_p.dtype}, not integers from 0")
        out.append(code_p.astype(np.int64))
    if len({len(part) for part in out}) > 1:
        raise ValueError(f"arrays hold {[len(part) for part in out]} pairs; all need the same")
    return out


def _pearson_rk(sums: Sums) -> np.ndarray:
    """Return correlations; NaN where truth is constant, 0 where only the prediction is."""
    num = np.maximum(sums["n"], 1e-12)
    truth = np.maximum(sums["tt"] - sums["t"] ** 2 / num, 0)
    pred = np.maximum(sums["pp"] - sums["p"] ** 2 / num, 0)
    both = sums["tp"] - sums["t"] * sums["p"] / num
    has_truth = truth > 1e-12 * num
    has_both = has_truth & (pred > CONSTANT**2 * truth)
    found = np.divide(both, np.sqrt(truth * pred), out=np.zeros_like(both), where=has_both)
    return np.where(has_truth, np.clip(found, -1, 1), np.nan)


def _mean_over_drugs(value_rk: np.ndarray) -> np.ndarray:
    is_there = np.isfinite(value_rk)
    num = is_there.sum(axis=1)
    total = np.where(is_there, value_rk, 0.0).sum(axis=1)
    return np.divide(total, num, out=np.full(len(num), np.nan), where=num > 0)


def _mse(sums: Sums) -> np.ndarray:
    return sums["ee"].sum(axis=1) / np.maximum(sums["n"].sum(axis=1), 1e-12)


pearson = PairScore(lambda sums: _pearson_rk(sums)[:, 0], False)
mse = PairScore(_mse, False)
rmse = PairScore(lambda sums: np.sqrt(_mse(sums)), False)
within_drug_pearson = PairScore(lambda sums: _mean_over_drugs(_pearson_rk(sums)), True)

_WITHIN = f"mean over drugs with at least {MIN_PAIRS} pairs of the correlation over lines; constant = 0"
_TABLE = (
    Metric("within_drug_pearson", within_drug_pearson, -1, 1, 1, "", _WITHIN),
    Metric("pearson", pearson, -1, 1, 1, "", "correlation over all pairs; mostly differences between drugs"),
    Metric("rmse", rmse, 0, float("inf"), 0, "ln IC50", "root mean square error"),
    Metric("mse", mse, 0, float("inf"), 0, "ln IC50 squared", "mean square error"),
)
DRUG_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Name -> metric. All take (truth_p, pred_p, drug_p)."""


def drug_correlations(truth_p: Any, pred_p: Any, drug_p: Any) -> dict[int, float]:
    """Return drug code -> correlation over lines, for drugs with enough pairs and a truth that varies."""
    truth_p, pred_p, drug_p = checked(truth_p, pred_p, drug_p)
    parts = within_drug_pearson.parts(truth_p, pred_p, drug_p, np.zeros(len(truth_p), np.int64))
    value_k = _pearson_rk({name: part.toarray() for name, part in parts.items()})[0]
    code_k = np.flatnonzero(np.bincount(drug_p) >= MIN_PAIRS)
    return {int(code): float(value) for code, value in zip(code_k, value_k, strict=True) if np.isfinite(value)}


def share_better(truth_p: Any, answers: tuple[Any, Any], drug_p: Any) -> float:
    """Return the share of drugs whose lines the first answer orders better than the second; equal counts half.

    0 .. 1; NaN where no drug has enough pairs. One number a drug, whatever its number of pairs.
    """
    first, second = (drug_correlations(truth_p, pred_p, drug_p) for pred_p in answers)
    gains = np.array([first[code] - second[code] for code in first])
    return float(((gains > 0) + 0.5 * (gains == 0)).mean()) if len(gains) else float("nan")


def response_interval(
    metric: str,
    truth_p: Any,
    answers: Any,
    drug_p: Any,
    *,
    unit_p: Any,
    num_resamples: int = 1000,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric of ``DRUG_METRICS``.

    Parameters
    ----------
    answers
        Predictions, or a pair (A, B) of them for the interval of score(A) - score(B) on the same resamples.
    unit_p
        Code of what is drawn again: the cell line of each pair when the question is about new lines, its drug when it
        is about new drugs. At least two.
    """
    pairs = answers if isinstance(answers, tuple) else (answers,)
    each = [
        resampled_responses(metric, truth_p, pred_p, drug_p, unit_p=unit_p, num_resamples=num_resamples, seed=seed)
        for pred_p in pairs
    ]
    value_r = each[0] - each[1] if len(each) == 2 else each[0]
    return percentiles(value_r[np.isfinite(value_r)], level) if np.isfinite(value_r).any() else (np.nan, np.nan)


def resampled_responses(
    metric: str, truth_p: Any, pred_p: Any, drug_p: Any, *, unit_p: Any, num_resamples: int = 1000, seed: int
) -> np.ndarray:
    """Return a metric of ``DRUG_METRICS`` on resamples of the units, float64 ``[r]``; NaN where it is not defined.

    The same seed draws the same units for every method. Parameters as in `response_interval`.
    """
    if metric not in DRUG_METRICS:
        raise ValueError(f"no metric {metric!r}; there are {', '.join(DRUG_METRICS)}")
    score = DRUG_METRICS[metric].function
    unit_k, unit_p = np.unique(np.asarray(unit_p), return_inverse=True)
    if len(unit_k) < 2:
        raise ValueError("all pairs are of one line or drug; an interval needs at least two to draw from")
    parts = score.parts(*checked(truth_p, pred_p, drug_p, unit_p))
    generator = np.random.default_rng(seed)
    values = []
    for start in range(0, num_resamples, _CHUNK):
        num = min(_CHUNK, num_resamples - start)
        count_ru = generator.multinomial(len(unit_k), np.full(len(unit_k), 1 / len(unit_k)), num).astype(float)
        values.append(score.finish({name: count_ru @ part for name, part in parts.items()}))
    return np.concatenate(values)


def auroc(label_n: Any, score_n: Any) -> float:
    """Return the chance that a positive cell scores above a negative one, ties half; labels are 0 and 1.

    Raises
    ------
    ValueError
        When a class is absent, or a score is not finite.
    """
    score_n, label_n = np.asarray(score_n, np.float64), np.asarray(label_n)
    if score_n.shape != label_n.shape or not set(np.unique(label_n)) <= {0, 1}:
        raise ValueError(f"labels {label_n.shape} must be 0 or 1, one for each of {score_n.shape} scores")
    num_positive = int((label_n == 1).sum())
    num_negative = len(label_n) - num_positive
    if not num_positive or not num_negative or not np.isfinite(score_n).all():
        raise ValueError(
            f"{num_positive} positive and {num_negative} negative cells; both are needed, finite scores too"
        )
    rank_n = rankdata(score_n)
    return float((rank_n[label_n == 1].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def fold_auroc(label_n: Any, score_n: Any, fold_n: Any) -> float:
    """Return the mean over folds of `auroc`: networks of different folds are not calibrated to each other.

    Pooled over folds the score would also measure by how much the networks' answers are shifted.
    """
    label_n, score_n, fold_n = np.asarray(label_n), np.asarray(score_n), np.asarray(fold_n)
    return float(np.mean([auroc(label_n[fold_n == k], score_n[fold_n == k]) for k in np.unique(fold_n)]))


def resampled_auroc(
    label_n: Any, score_n: Any, *, fold_n: Any = None, unit_n: Any = None, num_resamples: int = 1000, seed: int
) -> np.ndarray:
    """Return `auroc` (with folds `fold_auroc`) on resamples, float64 ``[r]``; NaN where a resample lacks a class.

    Parameters
    ----------
    fold_n
        Fold of each cell; ``None`` = all of one.
    unit_n
        Code of what is drawn whole (a donor, a cell line); ``None`` = cells. The same seed draws the same units.
    """
    label_n, score_n = np.asarray(label_n), np.asarray(score_n, np.float64)
    fold_n = np.zeros(len(label_n), np.int64) if fold_n is None else np.asarray(fold_n)
    unit_n = np.arange(len(label_n)) if unit_n is None else np.unique(unit_n, return_inverse=True)[1]
    num_units = int(unit_n.max()) + 1
    generator = np.random.default_rng(seed)
    count_rn = generator.multinomial(num_units, np.full(num_units, 1 / num_units), num_resamples)[:, unit_n]
    each = []
    for fold in np.unique(fold_n):
        at_n = np.flatnonzero(fold_n == fold)
        place_n = np.unique(score_n[at_n], return_inverse=True)[1]
        sums = []
        for label in (1, 0):
            is_label_n = (label_n[at_n] == label).astype(np.float64)
            table = sparse.csr_array((is_label_n, (np.arange(len(at_n)), place_n)))
            sums.append(count_rn[:, at_n].astype(np.float64) @ table)
        positive_rs, negative_rs = sums
        won_r = (positive_rs * (negative_rs.cumsum(1) - 0.5 * negative_rs)).sum(1)
        num_r = positive_rs.sum(1) * negative_rs.sum(1)
        each.append(np.divide(won_r, num_r, out=np.full(num_resamples, np.nan), where=num_r > 0))
    return np.mean(each, axis=0)


TRANSFER_METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "cell_auroc", auroc, 0, 1, 1, "", "chance that a sensitive cell scores above another; 0.5 = by chance",
        ),
        Metric(
            "bulk_auroc", fold_auroc, 0, 1, 1, "",
            "the same of held-out bulk samples, mean over folds; it says nothing of the cells",
        ),
    )
}  # fmt: skip
"""Name -> metric of a response carried to cells."""
