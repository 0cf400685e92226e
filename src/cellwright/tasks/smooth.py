"""Labels by the vote of neighbouring cells: published scMulan's last step of annotation, as a pure function.

Source: ``cell_type_smoothing`` of the published code, which takes 15 neighbours of a PCA; `neighbour_distances` finds
them among embeddings. Smoothing by neighbours
makes labels follow clusters: it repairs single cells and erases rare types among many others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

UNCLASSIFIED = "Unclassified"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SmoothedLabels:
    """Labels after the vote."""

    label_n: np.ndarray
    """str ``[n]``."""
    score_n: np.ndarray
    """float64 ``[n]``: share of the vote that the winner had, 0 .. 1; 0 for a cell without neighbours."""


def smooth_labels(
    label_n: Sequence[str],
    distance_nn: np.ndarray | sp.sparray | sp.spmatrix,
    *,
    threshold: float = 0.5,
    is_weighted: bool = True,
    num_neighbours: int = 15,
    unclassified: str = UNCLASSIFIED,
) -> SmoothedLabels:
    """Give each cell the label that most of its neighbours have.

    Parameters
    ----------
    label_n
        Label of each cell. The cell's own label does not vote.
    distance_nn
        Distance of each cell (row) to its neighbours; entries above 0 are neighbours, so exact duplicates are not.
    threshold
        A winner with a smaller share is ``unclassified``. A whole number t counts votes: t / (num_neighbours - 1).
    is_weighted
        Whether votes weigh 1 / distance; otherwise each counts 1 / (num_neighbours - 1).
    num_neighbours
        Neighbours that were asked for, the cell itself among them.
    unclassified
        What to call cells without a clear winner.

    Raises
    ------
    ValueError
        When labels and distances are not of the same cells, or the threshold is negative.
    """
    label_n = np.asarray(label_n, dtype=object)
    rows = sp.csr_matrix(distance_nn)
    if rows.shape != (len(label_n), len(label_n)):
        raise ValueError(f"distances are {rows.shape[0]} x {rows.shape[1]} for {len(label_n)} labels")
    if not threshold >= 0 or num_neighbours < 2:
        raise ValueError(f"threshold = {threshold}, num_neighbours = {num_neighbours}: at least 0 and 2 are needed")
    share = threshold / (num_neighbours - 1) if isinstance(threshold, int | np.integer) else threshold
    smoothed, score_n = np.full(len(label_n), unclassified, dtype=object), np.zeros(len(label_n))
    for cell in range(len(label_n)):
        own = slice(rows.indptr[cell], rows.indptr[cell + 1])
        is_near = rows.data[own] > 0
        weight = 1 / rows.data[own][is_near] if is_weighted else np.ones(is_near.sum())
        weight = weight / weight.sum() if is_weighted else weight
        votes: dict[str, float] = {}
        for neighbour, part in zip(rows.indices[own][is_near], weight, strict=True):
            votes[label_n[neighbour]] = votes.get(label_n[neighbour], 0.0) + part
        if votes:
            winner = max(votes, key=votes.__getitem__)  # the first seen wins ties
            # counted first and divided once: seven of fourteen are exactly one half
            score_n[cell] = min(votes[winner], 1.0) if is_weighted else votes[winner] / (num_neighbours - 1)
            if score_n[cell] >= share:
                smoothed[cell] = winner
    return SmoothedLabels(label_n=smoothed.astype(str), score_n=score_n)


def neighbour_distances(
    embedding_nd: np.ndarray, *, num_neighbours: int = 15, num_components: int = 10
) -> sp.csr_matrix:
    """Return the distances of each cell to its nearest others, in the first principal components (published: 10).

    Parameters
    ----------
    embedding_nd
        float ``[n, d]``; the components are those of these cells.
    num_neighbours
        Neighbours of each cell, itself among them (so one fewer others); all others where there are not so many.
    num_components
        Principal components, no more than cells and dimensions allow.

    Returns
    -------
    ``[n, n]``, distances of row to column; what is not stored is no neighbour. Exact: no approximate search, no random
    numbers.

    Raises
    ------
    ValueError
        When the embedding is not finite, or a number is too small.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    n = len(embedding_nd)
    if num_neighbours < 2 or num_components < 1:
        raise ValueError(
            f"num_neighbours = {num_neighbours}, num_components = {num_components}: at least 2 and 1 are needed"
        )
    if not np.isfinite(embedding_nd).all():
        raise ValueError("the embedding is not finite; cells cannot be compared by it")
    if n < 2:
        return sp.csr_matrix((n, n))
    num = min(num_components, n - 1, embedding_nd.shape[1])
    x_nd = PCA(num, svd_solver="full").fit_transform(embedding_nd.astype(np.float64))
    return NearestNeighbors(n_neighbors=min(num_neighbours - 1, n - 1)).fit(x_nd).kneighbors_graph(mode="distance")
