"""Scores of values that were filled in: predicted bins of unknown genes against those that the cells have. Pure numpy.

Known genes enter no score. Each score is a function of sums over cells (`DepthScore`), so that a bootstrap is a matrix
product. All take (predicted ``[n, g]``, true ``[n, g]``, is scored ``[n, g]``); values where nothing is scored may be
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cellwright.metrics.depth import DepthScore, Parts, correlation, mean_of_parts
from cellwright.metrics.table import Metric

_LEAST_CELLS = 3
"""A gene enters ``filled_gene_pearson`` when it is scored in so many cells."""


def _checked(predicted_ng: Any, truth_ng: Any, is_scored_ng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    is_scored_ng = np.asarray(is_scored_ng, bool)
    pair = [np.asarray(values, np.float64) for values in (predicted_ng, truth_ng)]
    for name, value_ng in zip(("predicted", "true"), pair, strict=True):
        if value_ng.ndim != 2 or value_ng.shape != is_scored_ng.shape:
            raise ValueError(f"{name} values have shape {value_ng.shape}, what is scored {is_scored_ng.shape}")
        if not np.isfinite(value_ng[is_scored_ng]).all():
            raise ValueError(f"{name} values must be finite where they are scored")
    if not is_scored_ng.any():
        raise ValueError("no value is scored; ask for genes that are not known")
    return *(np.where(is_scored_ng, value_ng, 0.0) for value_ng in pair), is_scored_ng


def _error(of: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Parts]:
    def prepare(predicted_ng: Any, truth_ng: Any, is_scored_ng: Any) -> Parts:
        predicted_ng, truth_ng, is_scored_ng = _checked(predicted_ng, truth_ng, is_scored_ng)
        return {"sum": of(predicted_ng - truth_ng).sum(1), "num": is_scored_ng.sum(1).astype(np.float64)}

    return prepare


def _across_cells(predicted_ng: Any, truth_ng: Any, is_scored_ng: Any) -> Parts:
    predicted_ng, truth_ng, is_scored_ng = _checked(predicted_ng, truth_ng, is_scored_ng)
    is_in_g = is_scored_ng.sum(0) >= _LEAST_CELLS
    if not is_in_g.any():
        raise ValueError(f"no gene is scored in {_LEAST_CELLS} cells; score more cells")
    is_scored_ng = is_scored_ng[:, is_in_g]
    num_g = is_scored_ng.sum(0)
    parts = {"w": is_scored_ng.astype(np.float64)}
    for name, value_ng in (("p", predicted_ng[:, is_in_g]), ("x", truth_ng[:, is_in_g])):
        # centred, so that sums of squares keep their digits
        parts[name] = np.where(is_scored_ng, value_ng - value_ng.sum(0) / num_g, 0.0)
    return parts


def _gene_pearson(parts: Parts, count_rn: np.ndarray) -> np.ndarray:
    p_ng, x_ng = parts["p"], parts["x"]
    num_rg = np.maximum(count_rn @ parts["w"], 1e-12)
    p_rg, x_rg, pp_rg, xx_rg, px_rg = (count_rn @ v_ng / num_rg for v_ng in (p_ng, x_ng, p_ng**2, x_ng**2, p_ng * x_ng))
    spread_rg = xx_rg - x_rg**2
    is_defined_rg = spread_rg > 1e-12
    r_rg = correlation(px_rg - p_rg * x_rg, pp_rg - p_rg**2, spread_rg)
    return (r_rg * is_defined_rg).sum(1) / np.maximum(is_defined_rg.sum(1), 1)


def _within_cells(predicted_ng: Any, truth_ng: Any, is_scored_ng: Any) -> Parts:
    from scipy.stats import rankdata

    predicted_ng, truth_ng, is_scored_ng = _checked(predicted_ng, truth_ng, is_scored_ng)
    sum_n, num_n = np.zeros(len(truth_ng)), np.zeros(len(truth_ng))
    for cell, is_in_g in enumerate(is_scored_ng):
        if is_in_g.sum() < 2 or np.ptp(truth_ng[cell, is_in_g]) == 0:
            continue
        p_g, x_g = (rankdata(value_ng[cell, is_in_g]) for value_ng in (predicted_ng, truth_ng))
        p_g, x_g = p_g - p_g.mean(), x_g - x_g.mean()
        sum_n[cell], num_n[cell] = correlation(p_g @ x_g, p_g @ p_g, x_g @ x_g), 1
    return {"sum": sum_n, "num": num_n}


filled_mse = DepthScore(_error(np.square), mean_of_parts)
filled_mae = DepthScore(_error(np.abs), mean_of_parts)
filled_gene_pearson = DepthScore(_across_cells, _gene_pearson)
filled_cell_spearman = DepthScore(_within_cells, mean_of_parts)

_INF = float("inf")
_TABLE = (
    Metric("filled_mse", filled_mse, 0, _INF, 0, "squared bins", "mean (predicted - true)^2 over unknown genes"),
    Metric("filled_mae", filled_mae, 0, _INF, 0, "bins", "mean |predicted - true| over unknown genes"),
    Metric(
        "filled_gene_pearson", filled_gene_pearson, -1, 1, 1, "",
        "correlation over the cells in which a gene is unknown, mean over genes; 0 where a prediction does not vary",
    ),
    Metric(
        "filled_cell_spearman", filled_cell_spearman, -1, 1, 1, "",
        "rank correlation over a cell's unknown genes, mean over cells; 0 where a prediction does not vary",
    ),
)  # fmt: skip
FILLED_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Name -> metric of values that were filled in."""
