"""Scores of made cells against real ones: distributions, markers, detected genes, copies. Pure numpy and scipy.

Both sides hold cells of one type in the same unit (for a family that writes levels: levels, of the real cells too).
Distances are Euclidean over all genes: a projection fitted to real cells would hide what is wrong outside of it, and
one fitted to made cells would give each method a space of its own.

Each score is a `CellScore`: ``prepare`` does what is the same for all resamples (distances, say), ``finish`` turns
numbers of draws of each cell into scores, for many resamples at once. Pairs of a cell with itself, drawn twice, are in
no mean: they would make every bootstrap look nearer than it is.

Sources: E-distance of Peidli et al. 2024 (Nature Methods 21:531), MMD of Gretton et al. 2012 (JMLR 13:723), classifier
two-sample test of Lopez-Paz and Oquab 2017 (ICLR). scMulan's authors report none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.spatial.distance import pdist

from cellwright.metrics.table import Metric, percentiles

_CHUNK_ENTRIES = 4_000_000  # entries of a table of resamples or distances held at once: 32 MB
COPY_FRACTION = 0.5
"""A made cell is called a copy when it is nearer to a training cell than this part of what real cells are."""


@dataclass(frozen=True)
class Prepared:
    """What a score keeps of the cells; the parts are the score's own."""

    num_made: int
    num_real: int
    """0 where the real cells are not resampled."""
    parts: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CellScore:
    """A score of made cells against real cells. Call it with the arrays that ``prepare`` takes."""

    prepare: Callable[..., Prepared]
    finish: Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray], np.ndarray]
    """``(parts, made_count_rn, real_count_rm) -> score_r``; counts say how often each cell was drawn."""

    def __call__(self, *arrays: Any) -> float:
        """Return the score of these cells."""
        cells = self.prepare(*arrays)
        return float(self.finish(cells.parts, np.ones((1, cells.num_made)), np.ones((1, cells.num_real)))[0])


@dataclass(frozen=True, eq=False)
class Markers:
    """Marker genes of a type, and what they stand out from."""

    gene_k: np.ndarray
    """int64: columns, most marked first."""
    background_g: np.ndarray
    """float64: mean of each gene in cells of other types."""


def choose_markers(value_ng: Any, code_n: np.ndarray, code: int, *, num_markers: int = 20) -> Markers:
    """Choose the genes whose mean in real cells of a type lies highest above that in other types.

    Other types weigh alike, however many cells they have; with none, the background is 0. Genes that stand out by less
    than three standard errors are no markers, so there may be fewer than ``num_markers``.

    Raises
    ------
    ValueError
        When there is no cell of the type, or no gene stands out.
    """
    code_n = np.asarray(code_n)
    if not (code_n == code).any():
        raise ValueError(f"no real cell of type code {code} to choose markers from")
    mean_g, noise_g = _mean_and_noise(value_ng, code_n == code)
    others = [_mean_and_noise(value_ng, code_n == other) for other in np.unique(code_n[code_n >= 0]) if other != code]
    background_g = np.mean([mean for mean, _ in others], axis=0) if others else np.zeros_like(mean_g)
    noise_g = noise_g + sum(noise for _, noise in others) / max(len(others), 1) ** 2
    excess_g = mean_g - background_g
    excess_g[excess_g <= 3 * np.sqrt(noise_g)] = 0
    gene_k = _standing_out(excess_g[None], num_markers)[0]
    if not len(gene_k):
        raise ValueError(f"no gene stands out in cells of type code {code}; are its labels those of the cells?")
    return Markers(gene_k, background_g)


def nearest_distances(query_ng: Any, train_mg: Any) -> np.ndarray:
    """Return the Euclidean distance of each query cell to its nearest training cell: float64 ``[n]``.

    Equal cells have the distance 0 exactly. Either matrix may be sparse, and sparse training cells stay so.
    """
    query_ng = _rows("query cells", query_ng, 1)
    if sparse.issparse(train_mg) and train_mg.shape[0]:
        train_mg = train_mg.tocsr().astype(np.float64)
    else:
        train_mg = _rows("training cells", train_mg, 1)
    step = max(1, _CHUNK_ENTRIES // train_mg.shape[0])
    blocks = [query_ng[at : at + step] for at in range(0, len(query_ng), step)]
    return np.concatenate([_distances(block, train_mg).min(1) for block in blocks])


def _mean_and_noise(value_ng: Any, is_in_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each gene's mean over some cells and the squared standard error of that mean."""
    own_ng = sparse.csr_matrix(value_ng[np.flatnonzero(is_in_n)], dtype=np.float64)
    mean_g = own_ng.mean(axis=0).A1
    variance_g = np.maximum(own_ng.multiply(own_ng).mean(axis=0).A1 - mean_g**2, 0)
    return mean_g, variance_g / max(own_ng.shape[0] - 1, 1)


def _standing_out(excess_rg: np.ndarray, num: int) -> list[np.ndarray]:
    """Return the genes of largest positive excess of each row; equal ones by column."""
    order_rk = np.argsort(-excess_rg, axis=1, kind="stable")[:, :num]
    return [row[excess_g[row] > 0] for row, excess_g in zip(order_rk, excess_rg, strict=True)]


def _rows(name: str, value_ng: Any, least: int = 2) -> np.ndarray:
    """Return dense float64 rows, or say what is wrong with them."""
    value_ng = value_ng.toarray() if sparse.issparse(value_ng) else np.asarray(value_ng)
    if value_ng.ndim != 2 or len(value_ng) < least:
        raise ValueError(f"{name} have shape {value_ng.shape}; at least {least} rows of genes are needed")
    if not np.isfinite(value_ng).all():
        raise ValueError(f"{name} hold values that are not finite")
    return value_ng.astype(np.float64)


def _column(name: str, value_n: Any) -> np.ndarray:
    return _rows(name, np.asarray(value_n)[:, None] if np.ndim(value_n) == 1 else value_n, 1)[:, 0]


def _distances(a_ng: np.ndarray, b_mg: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """Return ``[n, m]``; what is left by rounding between equal rows is taken away."""
    if a_ng.shape[1] != b_mg.shape[1]:
        raise ValueError(f"cells of {a_ng.shape[1]} and of {b_mg.shape[1]} genes; both need the same genes")
    square_m = np.asarray(b_mg.multiply(b_mg).sum(1)).ravel() if sparse.issparse(b_mg) else (b_mg**2).sum(1)
    whole_nm = (a_ng**2).sum(1)[:, None] + square_m
    square_nm = whole_nm - 2 * (b_mg @ a_ng.T).T
    return np.sqrt(np.where(square_nm > 1e-12 * whole_nm, square_nm, 0.0))


def _prepare_distances(made_ng: Any, real_mg: Any) -> Prepared:
    made_ng, real_mg = _rows("made cells", made_ng), _rows("real cells", real_mg)
    pairs = {"between": (made_ng, real_mg), "made": (made_ng, made_ng), "real": (real_mg, real_mg)}
    return Prepared(len(made_ng), len(real_mg), {name: _distances(*pair) for name, pair in pairs.items()})


def _prepare_kernel(made_ng: Any, real_mg: Any) -> Prepared:
    cells = _prepare_distances(made_ng, real_mg)
    pooled = pdist(np.concatenate([_rows("made cells", made_ng), _rows("real cells", real_mg)]))
    width = np.median(pooled) or pooled.mean()  # more than half of the pairs may be equal cells
    if width == 0:
        return cells  # all cells are the same: all distances are 0 already
    parts = {name: -np.expm1(-(distance**2) / (2 * width**2)) for name, distance in cells.parts.items()}
    return Prepared(cells.num_made, cells.num_real, parts)


def _energy(parts: Mapping[str, np.ndarray], made_rn: np.ndarray, real_rm: np.ndarray) -> np.ndarray:
    """Twice the mean distance between the sides less the mean distance within each (0 for a single cell)."""
    between_r = ((made_rn @ parts["between"]) * real_rm).sum(1) / (made_rn.sum(1) * real_rm.sum(1))
    return 2 * between_r - _within(parts["made"], made_rn) - _within(parts["real"], real_rm)


def _within(distance_nn: np.ndarray, count_rn: np.ndarray) -> np.ndarray:
    pairs_r = count_rn.sum(1) ** 2 - (count_rn**2).sum(1)
    return ((count_rn @ distance_nn) * count_rn).sum(1) / np.maximum(pairs_r, 1)


def _prepare_scores(made_n: Any, real_m: Any) -> Prepared:
    made_n, real_m = _column("scores of made cells", made_n), _column("scores of real cells", real_m)
    is_won_nm = (made_n[:, None] > real_m) + 0.5 * (made_n[:, None] == real_m)
    return Prepared(len(made_n), len(real_m), {"is_won": is_won_nm})


def _auroc(parts: Mapping[str, np.ndarray], made_rn: np.ndarray, real_rm: np.ndarray) -> np.ndarray:
    return ((made_rn @ parts["is_won"]) * real_rm).sum(1) / (made_rn.sum(1) * real_rm.sum(1))


def _prepare_markers(made_ng: Any, markers: Markers) -> Prepared:
    made_ng = _rows("made cells", made_ng, 1)
    if made_ng.shape[1] != len(markers.background_g):
        raise ValueError(f"made cells have {made_ng.shape[1]} genes, the markers {len(markers.background_g)}")
    return Prepared(
        len(made_ng), 0, {"made": made_ng, "background": markers.background_g, "marker": np.asarray(markers.gene_k)}
    )


def _marker_recall(parts: Mapping[str, np.ndarray], made_rn: np.ndarray, real_rm: np.ndarray) -> np.ndarray:
    marker_k = parts["marker"]
    excess_rg = made_rn @ parts["made"] / made_rn.sum(1, keepdims=True) - parts["background"]
    found = [np.isin(marker_k, top_k).mean() for top_k in _standing_out(excess_rg, len(marker_k))]
    return np.array(found)


def _prepare_numbers(made_n: Any, real_m: Any) -> Prepared:
    made_n, real_m = _column("numbers of made cells", made_n), _column("numbers of real cells", real_m)
    if min(made_n.min(), real_m.min()) < 0:
        raise ValueError("numbers of genes and distances cannot be negative")
    return Prepared(len(made_n), len(real_m), {"made": made_n, "real": real_m})


def _median(value_n: np.ndarray, count_rn: np.ndarray) -> np.ndarray:
    order_n = np.argsort(value_n, kind="stable")
    until_rn, num_r = np.cumsum(count_rn[:, order_n], axis=1), count_rn.sum(1, keepdims=True)
    middle = [(until_rn < least).sum(1) for least in (np.floor((num_r + 1) / 2), np.floor(num_r / 2) + 1)]
    return value_n[order_n[np.array(middle)]].mean(0)


def _mean(value_n: np.ndarray, count_rn: np.ndarray) -> np.ndarray:
    return count_rn @ value_n / count_rn.sum(1)


def _over(part_r: np.ndarray, whole_r: np.ndarray) -> np.ndarray:
    """Divide; 0 over 0 is 1 (alike), more than that over 0 infinite."""
    safe_r = np.where(whole_r > 0, whole_r, 1.0)
    return np.where(whole_r > 0, part_r / safe_r, np.where(part_r > 0, np.inf, 1.0))


def _copied(parts: Mapping[str, np.ndarray], made_rn: np.ndarray, real_rm: np.ndarray) -> np.ndarray:
    least_r = COPY_FRACTION * _median(parts["real"], real_rm)
    return (made_rn * (parts["made"] < least_r[:, None])).sum(1) / made_rn.sum(1)


e_distance = CellScore(_prepare_distances, _energy)
mmd = CellScore(_prepare_kernel, _energy)
c2st_auroc = CellScore(_prepare_scores, _auroc)
marker_recall = CellScore(_prepare_markers, _marker_recall)
detected_ratio = CellScore(_prepare_numbers, lambda p, n, m: _over(_median(p["made"], n), _median(p["real"], m)))
detected_difference = CellScore(_prepare_numbers, lambda p, n, m: _median(p["made"], n) - _median(p["real"], m))
nearest_ratio = CellScore(_prepare_numbers, lambda p, n, m: _over(_mean(p["made"], n), _mean(p["real"], m)))
copied_share = CellScore(_prepare_numbers, _copied)

_INF = float("inf")
_TABLE = (
    Metric(
        "e_distance", e_distance, -_INF, _INF, 0, "distance in the unit of the values",
        "2 E|made - real| - E|made - made'| - E|real - real'|, unbiased: a little below 0 as often as above when alike",
    ),
    Metric(
        "mmd", mmd, -2, 2, 0, "",
        "squared maximum mean discrepancy, unbiased; Gaussian kernel as wide as the median distance of pooled cells",
    ),
    Metric(
        "c2st_auroc", c2st_auroc, 0, 1, 0.5, "",
        "how well a classifier that has not seen a cell tells made (higher) from real; 0.5 = not at all",
    ),
    Metric("marker_recall", marker_recall, 0, 1, 1, "share of markers", "markers of the type that made cells have too"),
    Metric("detected_ratio", detected_ratio, 0, _INF, 1, "", "median number of expressed genes, made over real"),
    Metric(
        "detected_difference", detected_difference, -_INF, _INF, 0, "genes",
        "median number of expressed genes, made less real",
    ),
    Metric(
        "nearest_ratio", nearest_ratio, 0, _INF, 1, "",
        "mean distance to the nearest training cell, made over held-out real; far below 1 = copies, above = far off",
    ),
    Metric(
        "copied_share", copied_share, 0, 1, 0, "share of made cells",
        "made cells nearer to a training cell than half the median distance of held-out real cells",
    ),
)  # fmt: skip
GENERATION_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Name -> metric. All take made, then real: cells ``[n, g]`` and ``[m, g]`` (``e_distance``, ``mmd``), a classifier's
scores (``c2st_auroc``), numbers of genes (``detected_*``), distances to the nearest training cell (``nearest_ratio``,
``copied_share``); ``marker_recall`` takes made cells and `Markers`."""


def resampled_scores(metric: str, *arrays: Any, num_resamples: int = 1000, seed: int) -> np.ndarray:
    """Return a metric of ``GENERATION_METRICS`` on resamples of made and of real cells: float64 ``[r]``.

    Made and real cells are drawn with replacement, each on their own. Training cells, markers and a classifier stay as
    they are, so the spread speaks of other cells, not of another training.
    """
    if metric not in GENERATION_METRICS:
        raise ValueError(f"no metric {metric!r}; there are {', '.join(GENERATION_METRICS)}")
    if num_resamples < 1:
        raise ValueError(f"{num_resamples} resamples; at least one is needed")
    score = GENERATION_METRICS[metric].function
    cells = score.prepare(*arrays)
    sides = list(zip(np.random.default_rng(seed).spawn(2), (cells.num_made, cells.num_real), strict=True))
    widest = max(cells.num_made, cells.num_real, *(part.shape[-1] for part in cells.parts.values()))
    step = max(1, _CHUNK_ENTRIES // widest)
    found = []
    for start in range(0, num_resamples, step):
        num = min(step, num_resamples - start)
        counts = [_draws(generator, size, num) for generator, size in sides]
        found.append(score.finish(cells.parts, *counts))
    return np.concatenate(found)


def _draws(generator: np.random.Generator, size: int, num: int) -> np.ndarray:
    if size == 0:
        return np.zeros((num, 0))
    return generator.multinomial(size, np.full(size, 1 / size), num).astype(np.float64)


def generation_interval(
    metric: str, *arrays: Any, num_resamples: int = 1000, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric of ``GENERATION_METRICS``; see `resampled_scores`."""
    return percentiles(resampled_scores(metric, *arrays, num_resamples=num_resamples, seed=seed), level)
