"""Scores of denoised cells against the same cells sequenced more deeply. Pure numpy.

A cell's molecules are split: a method sees a part, and its answer is held against all of them (log1p of counts per
10,000), or against the part that was held out. Published scores look at the genes that the deep cell expresses;
answering too high costs nothing where a gene is silent, so `silent_mae` stands beside them.

The deep cell is no truth but a larger sample: its own noise is in every score here except in `gene_pearson` and
`held_out_deviance`, where it costs all methods alike. Each score is a function of sums over cells (`DepthScore`), so
that a bootstrap is a matrix product.

Sources: scFoundation (Hao et al., Nature Methods 21:1481, 2024) for the errors and the correlation within cells,
molecular cross-validation (Batson, Royer and Webber 2019) for the held-out molecules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellwright.metrics.table import Metric

Parts = Mapping[str, np.ndarray]
"""Name -> array whose first axis are the cells."""
_CHUNK_ENTRIES = 4_000_000  # entries of a table of resamples held at once: 32 MB
_LEAST_CELLS = 3
"""A gene enters ``gene_pearson`` when so many cells express it."""
_LARGEST_LOG = 600.0
"""Whose exponential, summed over genes, is still a number."""
BACKGROUND = 0.01
"""Part of the rates that ``held_out_deviance`` takes from the background: a rate of 0 would cost without end."""


@dataclass(frozen=True)
class DepthScore:
    """A score of denoised cells. Call it with the arrays that ``prepare`` takes."""

    prepare: Callable[..., Parts]
    finish: Callable[[Parts, np.ndarray], np.ndarray]
    """``(parts, count_rn) -> score_r``; counts say how often each cell was drawn."""

    def __call__(self, *arrays: Any) -> float:
        """Return the score of these cells."""
        parts = self.prepare(*arrays)
        return float(self.finish(parts, np.ones((1, len(next(iter(parts.values()))))))[0])


def _pair(predicted_ng: Any, truth_ng: Any) -> tuple[np.ndarray, np.ndarray]:
    pair = [np.asarray(values, np.float64) for values in (predicted_ng, truth_ng)]
    for name, value_ng in zip(("predicted", "true"), pair, strict=True):
        if value_ng.ndim != 2 or not value_ng.size or value_ng.shape != pair[0].shape:
            raise ValueError(
                f"{name} values have shape {value_ng.shape}, predicted ones {pair[0].shape}; both are cells x genes"
            )
        if not (np.isfinite(value_ng).all() and (value_ng >= 0).all()):
            raise ValueError(f"{name} values must be finite and not negative")
    return pair[0], pair[1]


def _expressed(error: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., Parts]:
    """Return what sums an error over the genes that the deep cell expresses."""

    def prepare(predicted_ng: Any, truth_ng: Any) -> Parts:
        predicted_ng, truth_ng = _pair(predicted_ng, truth_ng)
        is_in_ng = truth_ng > 0
        error_ng = np.where(is_in_ng, error(predicted_ng, np.where(is_in_ng, truth_ng, 1.0)), 0.0)
        return {"sum": error_ng.sum(1), "num": is_in_ng.sum(1).astype(np.float64)}

    return prepare


def _silent(predicted_ng: Any, truth_ng: Any) -> Parts:
    predicted_ng, truth_ng = _pair(predicted_ng, truth_ng)
    is_silent_ng = truth_ng == 0
    return {"sum": (predicted_ng * is_silent_ng).sum(1), "num": is_silent_ng.sum(1).astype(np.float64)}


def _within_cells(predicted_ng: Any, truth_ng: Any) -> Parts:
    predicted_ng, truth_ng = _pair(predicted_ng, truth_ng)
    is_in_ng = truth_ng > 0
    num_n = np.maximum(is_in_ng.sum(1, keepdims=True), 1)
    p_ng, x_ng = (
        np.where(is_in_ng, v_ng - (v_ng * is_in_ng).sum(1, keepdims=True) / num_n, 0)
        for v_ng in (predicted_ng, truth_ng)
    )
    spread_n = (x_ng**2).sum(1)
    is_defined_n = spread_n > 1e-12
    return {"sum": correlation((p_ng * x_ng).sum(1), (p_ng**2).sum(1), spread_n), "num": is_defined_n.astype(float)}


def _across_cells(predicted_ng: Any, truth_ng: Any) -> Parts:
    predicted_ng, truth_ng = _pair(predicted_ng, truth_ng)
    is_in_g = (truth_ng > 0).sum(0) >= min(_LEAST_CELLS, len(truth_ng))
    if not is_in_g.any():
        raise ValueError(f"no gene is expressed by {_LEAST_CELLS} cells; score more cells")
    # centred, so that sums of squares keep their digits
    return {name: v_ng[:, is_in_g] - v_ng[:, is_in_g].mean(0) for name, v_ng in (("p", predicted_ng), ("x", truth_ng))}


def _gene_pearson(parts: Parts, count_rn: np.ndarray) -> np.ndarray:
    p_ng, x_ng = parts["p"], parts["x"]
    num_r1 = count_rn.sum(1, keepdims=True)
    p_rg, x_rg, pp_rg, xx_rg, px_rg = (count_rn @ v_ng / num_r1 for v_ng in (p_ng, x_ng, p_ng**2, x_ng**2, p_ng * x_ng))
    spread_rg = xx_rg - x_rg**2
    is_defined_rg = spread_rg > 1e-12
    r_rg = correlation(px_rg - p_rg * x_rg, pp_rg - p_rg**2, spread_rg)
    return (r_rg * is_defined_rg).sum(1) / np.maximum(is_defined_rg.sum(1), 1)


def correlation(shared: np.ndarray, spread: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Pearson's r from sums of products; 0 where a side does not vary."""
    whole = np.sqrt(np.maximum(spread, 0) * np.maximum(other, 0))
    is_defined = (spread > 1e-12) & (other > 1e-12)
    return np.clip(np.where(is_defined, shared / np.where(is_defined, whole, 1.0), 0.0), -1, 1)


def _deviance(predicted_ng: Any, held_out_ng: Any, background_g: Any) -> Parts:
    predicted_ng, held_out_ng = _pair(predicted_ng, held_out_ng)
    background_g = np.asarray(background_g, np.float64)
    if background_g.shape != predicted_ng.shape[1:] or not (background_g >= 0).all() or not background_g.sum() > 0:
        raise ValueError(f"the background needs a rate for each of {predicted_ng.shape[1]} genes, not all of them 0")
    # only ratios within a cell count, so that a network's absurd answers are scored as what they are
    excess_n1 = np.maximum(predicted_ng.max(1, keepdims=True) - _LARGEST_LOG, 0)
    rate_ng = np.maximum(np.exp(predicted_ng - excess_n1) - np.exp(-excess_n1), 0)
    rate_ng = np.where(excess_n1 > 0, rate_ng, np.expm1(np.minimum(predicted_ng, _LARGEST_LOG)))
    rate_ng /= np.maximum(rate_ng.sum(1, keepdims=True), 1e-300)
    own_n1 = BACKGROUND + (1 - BACKGROUND) * (rate_ng.sum(1, keepdims=True) <= 0)  # nothing predicted: the background
    # genes that no training cell expresses get a little too
    background_g = 0.99 * background_g / background_g.sum() + 0.01 / len(background_g)
    rate_ng = (1 - own_n1) * rate_ng + own_n1 * background_g
    total_n1 = held_out_ng.sum(1, keepdims=True)
    is_in_ng = held_out_ng > 0
    surprise_ng = np.zeros_like(rate_ng)
    np.log(held_out_ng / np.where(is_in_ng, rate_ng * total_n1, 1.0), out=surprise_ng, where=is_in_ng)
    return {"sum": np.maximum(2 * (held_out_ng * surprise_ng).sum(1), 0.0), "num": total_n1[:, 0]}


def mean_of_parts(parts: Parts, count_rn: np.ndarray) -> np.ndarray:
    """Return the mean over resampled cells from their sums and numbers; 0 of nothing."""
    num_r = count_rn @ parts["num"]
    return np.divide(count_rn @ parts["sum"], num_r, out=np.zeros(len(num_r)), where=num_r > 0)


expressed_mae = DepthScore(_expressed(lambda p, x: np.abs(p - x)), mean_of_parts)
expressed_relative_error = DepthScore(_expressed(lambda p, x: np.abs(p - x) / x), mean_of_parts)
expressed_squared_relative_error = DepthScore(_expressed(lambda p, x: (p - x) ** 2 / x), mean_of_parts)
silent_mae = DepthScore(_silent, mean_of_parts)
cell_pearson = DepthScore(_within_cells, mean_of_parts)
gene_pearson = DepthScore(_across_cells, _gene_pearson)
held_out_deviance = DepthScore(_deviance, mean_of_parts)

_INF, _UNIT = float("inf"), "log1p of counts per 10,000"
_TABLE = (
    Metric(
        "expressed_mae", expressed_mae, 0, _INF, 0, _UNIT,
        "mean |predicted - deep| over the genes that each deep cell expresses (published MAE)",
    ),
    Metric(
        "expressed_relative_error", expressed_relative_error, 0, _INF, 0, "",
        "mean |predicted - deep| / deep over the genes that each deep cell expresses",
    ),
    Metric(
        "expressed_squared_relative_error", expressed_squared_relative_error, 0, _INF, 0, _UNIT,
        "mean (predicted - deep)^2 / deep over the same genes: the formula that is published as MRE",
    ),
    Metric(
        "silent_mae", silent_mae, 0, _INF, 0, _UNIT, "mean prediction over the genes that each deep cell lacks",
    ),
    Metric(
        "cell_pearson", cell_pearson, -1, 1, 1, "",
        "correlation over the genes that the deep cell expresses, mean over cells; 0 where a prediction does not vary",
    ),
    Metric(
        "gene_pearson", gene_pearson, -1, 1, 1, "",
        "correlation over all cells, mean over genes that 3 cells express; 0 where a prediction does not vary",
    ),
    Metric(
        "held_out_deviance", held_out_deviance, 0, _INF, 0, "per held-out molecule",
        "Poisson deviance of the molecules that were held out, rates scaled to each cell's number of them",
    ),
)  # fmt: skip
DENOISING_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Name -> metric. All take (predicted_ng, deep_ng) as log1p of counts per 10,000, but ``held_out_deviance`` takes
(predicted_ng, held_out counts ``[n, g]``, background rates ``[g]``)."""


def resampled_denoising(
    metric: str, *arrays: Any, groups_n: Any = None, num_resamples: int = 1000, seed: int
) -> np.ndarray:
    """Return a metric of ``DENOISING_METRICS`` on resamples of the cells: float64 ``[r]``.

    The same seed draws the same cells for every method, so that differences of two methods can be taken draw by draw.

    Parameters
    ----------
    groups_n
        Code of each cell's donor or study: whole groups are drawn instead of cells. At least two groups.
    """
    if metric not in DENOISING_METRICS:
        raise ValueError(f"no metric {metric!r}; there are {', '.join(DENOISING_METRICS)}")
    if num_resamples < 1:
        raise ValueError(f"{num_resamples} resamples; at least one is needed")
    score = DENOISING_METRICS[metric].function
    parts = score.prepare(*arrays)
    num_cells = len(next(iter(parts.values())))
    unit_n = np.arange(num_cells) if groups_n is None else np.unique(groups_n, return_inverse=True)[1]
    num_units = int(unit_n.max()) + 1
    if len(unit_n) != num_cells or (groups_n is not None and num_units < 2):
        raise ValueError(f"{len(unit_n)} codes of {num_units} groups for {num_cells} cells; at least two are needed")
    generator = np.random.default_rng(seed)
    widest = max(num_cells, *(part.shape[-1] for part in parts.values()))
    step = max(1, _CHUNK_ENTRIES // (5 * widest))
    found = []
    for start in range(0, num_resamples, step):
        share_u = np.full(num_units, 1 / num_units)
        count_ru = generator.multinomial(num_units, share_u, min(step, num_resamples - start))
        found.append(score.finish(parts, count_ru[:, unit_n].astype(np.float64)))
    return np.concatenate(found)
