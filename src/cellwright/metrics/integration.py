"""Scores of an embedding of several sequencing batches: are cell types kept, are batches mixed?

Sources: Luecken et al. 2022 (Nature Methods 19:41, the package scib); Korsunsky et al. 2019 (Nature Methods 16:1289,
LISI); Rautenstrauch and Ohler 2025 (Nature Biotechnology, BRAS); averages as in scGPT (Nature Methods 21:1470). All
are scaled so that 1 is best. ``nmi`` and ``ari`` of clusters against labels are those of `cellwright.metrics.METRICS`.

A score is a function of one number a cell (its silhouette, its LISI, whether it lies in the largest component of its
type), or of sums over cells. An interval therefore counts cells otherwise and leaves neighbourhoods, clusters and
components as they are: it speaks of other cells of the same kinds, not of another embedding.

Not here: kBET, isolated labels, and scores of trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from cellwright.metrics.neighbourhoods import EmbeddedCells, embedded_cells, lisi, neighbor_graph, silhouettes
from cellwright.metrics.table import Metric

__all__ = ["INTEGRATION_METRICS", "EmbeddedCells", "IntegrationScore", "averages", "embedded_cells"]

Parts = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class IntegrationScore:
    """A score that resamples share their work in: call it with `EmbeddedCells`."""

    prepare: Callable[[EmbeddedCells], Parts]
    finish: Callable[[Parts, np.ndarray], np.ndarray]
    """(parts, ``count_rn``: how often each cell counts in each resample) -> score ``[r]``; NaN = not defined there."""
    needs_labels: bool = True

    def __call__(self, cells: EmbeddedCells) -> float:
        """Return the score of these cells."""
        return float(self.finish(self.prepare(cells), np.ones((1, len(cells.tech_batch_n))))[0])


def _lisi_parts(cells: EmbeddedCells, code_n: np.ndarray) -> Parts:
    value_n = lisi(cells.distance_nk, cells.index_nk, code_n)
    return {"value": (value_n - 1) / code_n.max()}


def _within_labels(cells: EmbeddedCells, values: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Parts:
    """Return a value of batches within each type, where the type has several batches and not each cell its own."""
    value_n, is_counted_n = np.zeros(len(cells.label_n)), np.zeros(len(cells.label_n), bool)
    for label in np.unique(cells.label_n):
        at_n = np.flatnonzero(cells.label_n == label)
        num_batches = len(np.unique(cells.tech_batch_n[at_n]))
        if 1 < num_batches < len(at_n):
            batch_n = np.unique(cells.tech_batch_n[at_n], return_inverse=True)[1]
            value_n[at_n], is_counted_n[at_n] = values(cells.embedding_nd[at_n], batch_n), True
    return {"value": value_n, "group": np.where(is_counted_n, cells.label_n, -1)}


def _component_parts(cells: EmbeddedCells) -> Parts:
    from scipy.sparse.csgraph import connected_components

    graph_nn, is_largest_n = neighbor_graph(cells), np.zeros(len(cells.label_n))
    for label in np.unique(cells.label_n):
        at_n = np.flatnonzero(cells.label_n == label)
        part_n = connected_components(graph_nn[at_n][:, at_n], directed=False)[1]
        is_largest_n[at_n] = part_n == np.bincount(part_n).argmax()
    return {"value": is_largest_n, "group": cells.label_n}


def _between_parts(cells: EmbeddedCells) -> Parts:
    if cells.unintegrated_nd is None:
        raise ValueError("pcr_comparison compares with the cells before integration; give unintegrated_nd")
    return {"after": cells.embedding_nd, "before": cells.unintegrated_nd, "batch": cells.tech_batch_n}


def _between_share(x_nd: np.ndarray, batch_n: np.ndarray, count_rn: np.ndarray) -> np.ndarray:
    """Return the share of variance that lies between batches, ``[r]``.

    It is the variance-weighted mean over all principal components of what batches explain of each: the sum over
    components does not depend on how the axes lie, so none have to be found.
    """
    total_r = count_rn.sum(1)
    square_n = (x_nd**2).sum(1)
    sums_r, between_r = np.zeros((len(count_rn), x_nd.shape[1])), np.zeros(len(count_rn))
    for batch in np.unique(batch_n):
        at_n = np.flatnonzero(batch_n == batch)
        of_batch_rd, num_r = count_rn[:, at_n] @ x_nd[at_n], count_rn[:, at_n].sum(1)
        sums_r += of_batch_rd
        between_r += (of_batch_rd**2).sum(1) / np.maximum(num_r, 1)
    grand_r = (sums_r**2).sum(1) / total_r
    whole_r = count_rn @ square_n - grand_r
    return np.where(whole_r > 1e-12, (between_r - grand_r) / np.where(whole_r > 1e-12, whole_r, 1), 0.0)


def _compare_shares(parts: Parts, count_rn: np.ndarray) -> np.ndarray:
    after_r, before_r = (_between_share(parts[name], parts["batch"], count_rn) for name in ("after", "before"))
    is_there_r = before_r > 1e-12  # else there is nothing to take away
    return np.where(is_there_r, np.clip(1 - after_r / np.where(is_there_r, before_r, 1), 0, 1), np.nan)


def _mean(parts: Parts, count_rn: np.ndarray) -> np.ndarray:
    return count_rn @ parts["value"] / count_rn.sum(1)


def _mean_of_groups(parts: Parts, count_rn: np.ndarray) -> np.ndarray:
    """Return the mean over groups of the mean over their cells; groups that a resample lacks do not count."""
    group_n, at_n = parts["group"], np.flatnonzero(parts["group"] >= 0)
    if not len(at_n):
        return np.full(len(count_rn), np.nan)
    is_in_nk = sparse.csr_array((np.ones(len(at_n)), (at_n, group_n[at_n])), shape=(len(group_n), group_n.max() + 1))
    sum_rk, num_rk = count_rn @ is_in_nk.multiply(parts["value"][:, None]).tocsr(), count_rn @ is_in_nk
    is_there_rk = num_rk > 0
    mean_rk = np.where(is_there_rk, sum_rk / np.where(is_there_rk, num_rk, 1), 0)
    num_r = is_there_rk.sum(1)
    return np.where(num_r > 0, mean_rk.sum(1) / np.maximum(num_r, 1), np.nan)


def _median(parts: Parts, count_rn: np.ndarray) -> np.ndarray:
    value_n = parts["value"]
    order_n = np.argsort(value_n, kind="stable")
    until_rn, num_r = np.cumsum(count_rn[:, order_n], axis=1), count_rn.sum(1, keepdims=True)
    middle = [(until_rn < least).sum(1) for least in (np.floor((num_r + 1) / 2), np.floor(num_r / 2) + 1)]
    return value_n[order_n[np.array(middle)]].mean(0)


asw_label = IntegrationScore(lambda c: {"value": (silhouettes(c.embedding_nd, c.label_n) + 1) / 2}, _mean)
asw_batch = IntegrationScore(
    lambda c: _within_labels(c, lambda x_nd, batch_n: 1 - np.abs(silhouettes(x_nd, batch_n))), _mean_of_groups
)
bras = IntegrationScore(
    lambda c: _within_labels(
        c, lambda x_nd, batch_n: 1 - np.abs(silhouettes(x_nd, batch_n, distance="cosine", others="all"))
    ),
    _mean_of_groups,
)
clisi = IntegrationScore(lambda c: {"value": 1 - _lisi_parts(c, c.label_n)["value"]}, _median)
ilisi = IntegrationScore(lambda c: _lisi_parts(c, c.tech_batch_n), _median, needs_labels=False)
graph_connectivity = IntegrationScore(_component_parts, _mean_of_groups)
pcr_comparison = IntegrationScore(_between_parts, _compare_shares, needs_labels=False)


def averages(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the averages of scGPT's paper of scores (numbers or arrays over resamples); empty where one is lacking."""
    if not {"nmi", "ari", "asw_label", "asw_batch", "graph_connectivity"} <= set(scores):
        return {}
    bio = (scores["nmi"] + scores["ari"] + scores["asw_label"]) / 3
    batch = (scores["asw_batch"] + scores["graph_connectivity"]) / 2
    return {"overall": 0.6 * bio + 0.4 * batch, "avg_bio": bio, "avg_batch": batch}


def _average(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda scores: averages(scores)[name]


_TABLE = (
    Metric("overall", _average("overall"), 0, 1, 1, "", "0.6 x AvgBIO + 0.4 x AvgBATCH"),
    Metric("avg_bio", _average("avg_bio"), 0, 1, 1, "", "types kept: mean of NMI, ARI and ASW of types"),
    Metric("avg_batch", _average("avg_batch"), 0, 1, 1, "", "batches mixed: mean of ASW of batches and connectivity"),
    Metric("asw_label", asw_label, 0, 1, 1, "", "silhouette of cell types, (s + 1) / 2; 0.5 = types lie anyhow"),
    Metric("clisi", clisi, 0, 1, 1, "", "median purity of neighbourhoods: 1 = one type each (LISI, scaled)"),
    Metric("ilisi", ilisi, 0, 1, 1, "", "median mixture of neighbourhoods: 1 = all batches alike (LISI, scaled)"),
    Metric("asw_batch", asw_batch, 0, 1, 1, "", "1 - |silhouette of batches| within each type, mean over types"),
    Metric("bras", bras, 0, 1, 1, "", "the same by cosine, against all other batches rather than the nearest"),
    Metric("graph_connectivity", graph_connectivity, 0, 1, 1, "",
           "share of each type's cells in the largest component of its neighbour graph, mean over types"),
    Metric("pcr_comparison", pcr_comparison, 0, 1, 1, "",
           "share of the variance between batches that is gone, against principal components; 0 = none"),
)  # fmt: skip
INTEGRATION_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Name -> metric. All take `EmbeddedCells`, the averages (``overall``, ``avg_*``) the scores of the others by name."""
