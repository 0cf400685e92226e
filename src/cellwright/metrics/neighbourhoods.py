"""Embedded cells, their neighbourhoods and clusters: what scores of integration are computed from.

Sources: LISI from Korsunsky et al. 2019 (Nature Methods 16:1289); the silhouette against all other groups from
Rautenstrauch and Ohler 2025 (Nature Biotechnology, BRAS); clusters as in Luecken et al. 2022 (Nature Methods 19:41).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import sparse

NUM_NEIGHBORS = 90
"""Of LISI, the cell itself counted, as published; its perplexity is a third of it."""
NUM_GRAPH_NEIGHBORS = 15
"""Of the graph whose components and communities are looked at, the cell itself counted, as published."""
_BLOCK_ENTRIES = 4_000_000  # distances held at once: 32 MB
_TOLERANCE, _MAX_HALVINGS = 1e-5, 50


@dataclass(frozen=True, eq=False)
class EmbeddedCells:
    """An embedding and what it is scored by; made by `embedded_cells`."""

    embedding_nd: np.ndarray
    """float64."""
    tech_batch_n: np.ndarray
    """int64 codes ``0 ..``, each of them present."""
    label_n: np.ndarray | None
    """int64 codes of cell types, each of them present; ``None`` = not known."""
    unintegrated_nd: np.ndarray | None
    """The same cells before integration."""
    index_nk: np.ndarray
    """int64: nearest cells, the cell itself first."""
    distance_nk: np.ndarray


def embedded_cells(
    embedding_nd: Any, tech_batch_n: Any, label_n: Any = None, *, unintegrated_nd: Any = None
) -> EmbeddedCells:
    """Check an embedding and find its nearest neighbours (exact, Euclidean).

    Parameters
    ----------
    embedding_nd
        float ``[n, d]``, finite; at least 16 cells.
    tech_batch_n, label_n
        Integer codes, none missing; at least two sequencing batches, and two types where there are labels.
    unintegrated_nd
        The same cells before integration, for `pcr_comparison`.

    Raises
    ------
    ValueError
        When the arrays do not fit together, or there is nothing to compare.
    """
    x_nd = np.asarray(embedding_nd, np.float64)
    if x_nd.ndim != 2 or len(x_nd) <= NUM_GRAPH_NEIGHBORS or x_nd.shape[1] == 0 or not np.isfinite(x_nd).all():
        raise ValueError(
            f"the embedding is {x_nd.shape}; integration is scored on finite vectors of at least "
            f"{NUM_GRAPH_NEIGHBORS + 1} cells"
        )
    batch_n = _codes("sequencing batches", tech_batch_n, len(x_nd))
    label_n = None if label_n is None else _codes("cell types", label_n, len(x_nd))
    if unintegrated_nd is not None and len(unintegrated_nd) != len(x_nd):
        raise ValueError(f"{len(unintegrated_nd)} cells before integration, {len(x_nd)} after it; both need the same")
    index_nk, distance_nk = _neighbors(x_nd, min(NUM_NEIGHBORS, len(x_nd)))
    before_nd = None if unintegrated_nd is None else np.asarray(unintegrated_nd, np.float64)
    return EmbeddedCells(x_nd, batch_n, label_n, before_nd, index_nk, distance_nk)


def _codes(what: str, given: Any, num: int) -> np.ndarray:
    code_n = np.asarray(given)
    if code_n.shape != (num,) or code_n.dtype.kind not in "iu" or code_n.min() < 0:
        raise ValueError(f"{what}: one code (0 or more) a cell is needed, got {code_n.dtype} {code_n.shape}")
    names, code_n = np.unique(code_n, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{what}: all {num} cells have the same; integration is scored over at least two")
    return code_n.astype(np.int64)


def _neighbors(x_nd: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    distance_nk, index_nk = NearestNeighbors(n_neighbors=num, algorithm="brute").fit(x_nd).kneighbors(x_nd)
    # among equal cells the cell itself may stand anywhere, or fall off the end: it is put first
    is_self_nk = index_nk == np.arange(len(x_nd))[:, None]
    is_self_nk[~is_self_nk.any(1), -1] = True
    order_nk = np.argsort(~is_self_nk, axis=1, kind="stable")
    index_nk = np.take_along_axis(index_nk, order_nk, 1)
    distance_nk = np.take_along_axis(np.where(is_self_nk, 0.0, distance_nk), order_nk, 1)
    index_nk[:, 0] = np.arange(len(x_nd))
    return index_nk.astype(np.int64), distance_nk


def neighbor_graph(cells: EmbeddedCells) -> sparse.csr_matrix:
    """Return which cells are near: symmetric, weighted by how much two cells' neighbourhoods overlap (Jaccard)."""
    num, near_nk = len(cells.index_nk), cells.index_nk[:, :NUM_GRAPH_NEIGHBORS]
    width = near_nk.shape[1]
    indptr = np.arange(num + 1) * width
    near_nn = sparse.csr_matrix((np.ones(near_nk.size), near_nk.ravel(), indptr), (num, num))
    shared_nn = (near_nn @ near_nn.T).multiply((near_nn + near_nn.T) > 0).tocsr()
    shared_nn.data = shared_nn.data / (2 * width - shared_nn.data)
    return shared_nn


def cluster_cells(
    cells: EmbeddedCells, *, how: Literal["kmeans", "leiden"] = "kmeans", seed: int = 0
) -> tuple[np.ndarray, float | None]:
    """Group cells, for ``nmi`` and ``ari`` against their labels.

    ``kmeans`` makes as many clusters as there are labels. ``leiden`` finds communities of `neighbor_graph` at the
    resolutions 0.1, 0.2, .. 2 and keeps those of the highest NMI with the labels, as published (by Louvain, there); it
    needs leidenalg. Both look at the labels (how many, which resolution): neither is a figure for clusters found blind.

    Returns
    -------
    int64 codes, and the resolution that was kept.
    """
    if cells.label_n is None:
        raise ValueError("clusters are made to be compared with labels, and these cells have none")
    if how == "kmeans":
        from sklearn.cluster import KMeans

        made = KMeans(int(cells.label_n.max()) + 1, n_init=10, random_state=seed).fit(cells.embedding_nd)
        return made.labels_.astype(np.int64), None
    from cellwright.metrics import nmi

    graph = _igraph(neighbor_graph(cells))
    found = [(step / 10, _communities(graph, step / 10, seed)) for step in range(1, 21)]
    resolution, code_n = max(found, key=lambda pair: nmi(cells.label_n, pair[1]))
    return code_n, resolution


def _igraph(weight_nn: sparse.csr_matrix) -> Any:
    try:
        import igraph
        import leidenalg  # noqa: F401 - asked for here, so that both are missed at once
    except ImportError:
        raise ValueError('clusters = "leiden" needs leidenalg: pip install "cellwright[modules]"') from None
    edges = sparse.triu(weight_nn, k=1).tocoo()
    graph = igraph.Graph(n=weight_nn.shape[0], edges=np.stack([edges.row, edges.col], 1).tolist())
    graph.es["weight"] = edges.data.tolist()
    return graph


def _communities(graph: Any, resolution: float, seed: int) -> np.ndarray:
    import leidenalg

    found = leidenalg.find_partition(
        graph, leidenalg.RBConfigurationVertexPartition, weights="weight", seed=seed,
        resolution_parameter=resolution, n_iterations=2,
    )  # fmt: skip
    return np.asarray(found.membership, np.int64)


def silhouettes(
    x_nd: np.ndarray,
    code_n: np.ndarray,
    *,
    distance: Literal["euclidean", "cosine"] = "euclidean",
    others: Literal["nearest", "all"] = "nearest",
) -> np.ndarray:
    """Return each cell's silhouette, -1 .. 1: how much nearer its own group is than the others.

    ``others``: the nearest other group (Rousseeuw 1987), or the mean over all cells of other groups (BRAS). A cell
    that is alone in its group has 0.
    """
    from sklearn.metrics import pairwise_distances

    num, size_k = len(x_nd), np.bincount(code_n)
    is_in_nk = sparse.csr_array((np.ones(num), (np.arange(num), code_n)), shape=(num, len(size_k)))
    step, sum_nk = max(1, _BLOCK_ENTRIES // num), np.empty((num, len(size_k)))
    for start in range(0, num, step):
        sum_nk[start : start + step] = pairwise_distances(x_nd[start : start + step], x_nd, metric=distance) @ is_in_nk
    row_n = np.arange(num)
    own_n = sum_nk[row_n, code_n] / np.maximum(size_k[code_n] - 1, 1)
    sum_nk[row_n, code_n] = 0
    if others == "all":
        other_n = sum_nk.sum(1) / np.maximum(num - size_k[code_n], 1)
    else:
        mean_nk = sum_nk / size_k
        mean_nk[row_n, code_n] = np.inf
        other_n = mean_nk.min(1)
    widest_n = np.maximum(own_n, other_n)
    is_defined_n = (widest_n > 0) & (size_k[code_n] > 1)
    return np.where(is_defined_n, (other_n - own_n) / np.where(widest_n > 0, widest_n, 1), 0.0)


def lisi(distance_nk: np.ndarray, index_nk: np.ndarray, code_n: np.ndarray) -> np.ndarray:
    """Return each cell's local inverse Simpson index, 1 .. number of groups: how many groups its neighbourhood mixes.

    Neighbours count by a Gaussian-like kernel of their distance, as wide as makes the perplexity a third of their
    number. The cell itself, first in each row, does not count. A cell whose neighbours all lie upon it weighs them
    alike.
    """
    distance_nk, near_nk = distance_nk[:, 1:], code_n[index_nk[:, 1:]]
    target = np.log((distance_nk.shape[1] + 1) // 3)
    low_n, high_n = np.zeros(len(distance_nk)), np.full(len(distance_nk), np.inf)
    rate_n = np.ones(len(distance_nk))
    near0_nk = distance_nk - distance_nk.min(1, keepdims=True)  # a shift changes no share, and keeps exp() away from 0
    for _ in range(_MAX_HALVINGS):
        share_nk = np.exp(-near0_nk * rate_n[:, None])
        total_n = share_nk.sum(1)
        gap_n = np.log(total_n) + rate_n * (near0_nk * share_nk).sum(1) / total_n - target
        if (np.abs(gap_n) < _TOLERANCE).all():
            break
        is_wide_n, is_settled_n = gap_n > 0, np.abs(gap_n) < _TOLERANCE
        low_n, high_n = np.where(is_wide_n, rate_n, low_n), np.where(is_wide_n, high_n, rate_n)
        next_n = np.where(np.isinf(high_n), 2 * rate_n, (low_n + np.where(np.isinf(high_n), low_n, high_n)) / 2)
        rate_n = np.where(is_settled_n, rate_n, next_n)
    share_nk /= total_n[:, None]
    simpson_n = np.zeros(len(share_nk))
    for code in np.unique(code_n):
        simpson_n += np.where(near_nk == code, share_nk, 0).sum(1) ** 2
    return 1 / simpson_n
