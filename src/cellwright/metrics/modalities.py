"""Scores of one modality told from another: predicted against measured features, feature by feature.

The unit is the feature (a protein): a score is the mean over features, its interval resamples them. What Pearson's r
says is whether cells are put in the right order along a feature; the error also asks for the right height.
"""

from __future__ import annotations

import numpy as np

from cellwright.metrics.table import Metric


def feature_pearson(truth_nf: np.ndarray, pred_nf: np.ndarray) -> np.ndarray:
    """Return Pearson's r over cells for each feature, float64 ``[f]``; NaN where the truth is constant.

    A constant prediction has r = 0: it tells no cell from another.
    """
    truth_nf, pred_nf = _checked(truth_nf, pred_nf)
    return _correlation(truth_nf, pred_nf)


def feature_spearman(truth_nf: np.ndarray, pred_nf: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation over cells for each feature, as `feature_pearson`."""
    from scipy.stats import rankdata

    truth_nf, pred_nf = _checked(truth_nf, pred_nf)
    return _correlation(rankdata(truth_nf, axis=0), rankdata(pred_nf, axis=0))


def feature_rmse(truth_nf: np.ndarray, pred_nf: np.ndarray) -> np.ndarray:
    """Return the root of the mean squared error over cells for each feature, float64 ``[f]``."""
    truth_nf, pred_nf = _checked(truth_nf, pred_nf)
    return np.sqrt(((truth_nf - pred_nf) ** 2).mean(0))


def _mean_of(score):
    def mean(truth_nf: np.ndarray, pred_nf: np.ndarray) -> float:
        return float(np.nanmean(score(truth_nf, pred_nf)))

    return mean


MODALITY_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("feature_pearson", _mean_of(feature_pearson), -1.0, 1.0, 1.0, "",
               "Pearson's r of predicted and measured values over cells, mean over features"),
        Metric("feature_spearman", _mean_of(feature_spearman), -1.0, 1.0, 1.0, "",
               "Spearman's rank correlation of the same, mean over features"),
        Metric("feature_rmse", _mean_of(feature_rmse), 0.0, np.inf, 0.0, "centred log ratio",
               "root mean squared error over cells, mean over features"),
    )
}  # fmt: skip
FEATURE_SCORES = {
    "feature_pearson": feature_pearson,
    "feature_spearman": feature_spearman,
    "feature_rmse": feature_rmse,
}
"""Metric -> score of each feature, ``[f]``."""


def _correlation(a_nf: np.ndarray, b_nf: np.ndarray) -> np.ndarray:
    a_nf, b_nf = a_nf - a_nf.mean(0), b_nf - b_nf.mean(0)
    # rounding leaves a trace of spread in a constant column
    size_f = [np.sqrt((x_nf**2).sum(0)) for x_nf in (a_nf, b_nf)]
    is_flat_f = [size < 1e-9 * np.sqrt(len(a_nf)) for size in size_f]
    product_f = size_f[0] * size_f[1]
    r_f = np.divide((a_nf * b_nf).sum(0), product_f, out=np.zeros(len(product_f)), where=product_f > 0)
    r_f[is_flat_f[1]] = 0.0
    r_f[is_flat_f[0]] = np.nan
    return np.clip(r_f, -1.0, 1.0)


def _checked(truth_nf: np.ndarray, pred_nf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth_nf, pred_nf = np.asarray(truth_nf, np.float64), np.asarray(pred_nf, np.float64)
    if truth_nf.shape != pred_nf.shape or truth_nf.ndim != 2 or len(truth_nf) < 2:
        raise ValueError(
            f"{pred_nf.shape} predictions for {truth_nf.shape} values; both are 2 or more cells x features"
        )
    if not (np.isfinite(truth_nf).all() and np.isfinite(pred_nf).all()):
        raise ValueError("predicted or measured values are not finite")
    return truth_nf, pred_nf
