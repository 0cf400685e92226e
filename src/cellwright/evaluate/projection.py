"""Two dimensions for drawing cells. Positions are for looking at; no score is computed from them."""

from __future__ import annotations

import warnings

import numpy as np

_MAX_EXACT_CELLS = 30_000
MIN_UMAP_CELLS = 10
"""Below this a neighbour graph says nothing, and principal components are drawn instead."""


def projection_name(num_cells: int) -> str:
    """Return what `umap_embedding` draws for so many cells: UMAP, or PCA when they are too few."""
    return "UMAP" if num_cells >= MIN_UMAP_CELLS else "PCA"


def umap_embedding(x_nd: np.ndarray, seed: int, *, num_neighbors: int = 15) -> np.ndarray:
    """Place cells in two dimensions by UMAP (McInnes et al. 2018), the same way every time.

    Parameters
    ----------
    x_nd
        float ``[n, d]``: cell embeddings; at least one cell, all values finite.
    seed
        Of the layout. One thread is used, since only then the result is repeatable.
    num_neighbors
        Neighbours of the graph; fewer when there are not enough cells.

    Returns
    -------
    numpy.ndarray
        float32 ``[n, 2]``. Fewer than 10 cells: their first two principal components, zero where there are none.
    """
    x_nd = np.asarray(x_nd, dtype=np.float32)
    if x_nd.ndim != 2 or 0 in x_nd.shape:
        raise ValueError(f"embeddings have shape {x_nd.shape}; cells x width is needed, neither of them 0")
    if not np.isfinite(x_nd).all():
        raise ValueError("embeddings hold values that are not finite; nothing can be drawn from them")
    if projection_name(len(x_nd)) == "PCA":
        return _principal_components(x_nd)
    neighbors = min(num_neighbors, len(x_nd) - 1)
    # few cells leave the spectral start without enough eigenvectors
    start = "spectral" if len(x_nd) > 4 * MIN_UMAP_CELLS else "random"
    with warnings.catch_warnings():
        # remarks on what is not used here: a part that needs TensorFlow, and placing further cells later
        warnings.simplefilter("ignore", ImportWarning)
        warnings.filterwarnings("ignore", message="precomputed_knn", category=UserWarning)
        import torch
        from umap import UMAP

        num_threads = torch.get_num_threads()
        model = UMAP(
            n_neighbors=neighbors,
            min_dist=0.3,
            random_state=seed,
            n_jobs=1,
            init=start,
            precomputed_knn=_neighbors(x_nd, neighbors),
        )
        try:
            return np.asarray(model.fit_transform(x_nd), dtype=np.float32)
        finally:
            torch.set_num_threads(num_threads)  # its compiled loops set OpenMP's number of threads for the process


def _neighbors(x_nd: np.ndarray, num_neighbors: int) -> tuple[np.ndarray | None, ...]:
    """Return each cell's neighbours, itself first, and their distances; nothing where UMAP should approximate.

    UMAP's own search is compiled in each process anew, for 40 s; the exact search takes as long for some 40,000 cells.
    """
    if len(x_nd) > _MAX_EXACT_CELLS:
        return (None, None, None)
    from sklearn.neighbors import NearestNeighbors

    distance_nk, index_nk = NearestNeighbors(n_neighbors=num_neighbors).fit(x_nd).kneighbors(x_nd)
    return index_nk, distance_nk.astype(np.float32), None


def _principal_components(x_nd: np.ndarray) -> np.ndarray:
    centred_nd = x_nd - x_nd.mean(axis=0)
    left_nm, size_m, right_md = np.linalg.svd(centred_nd, full_matrices=False)
    sign_m = np.sign(right_md[np.arange(len(right_md)), np.abs(right_md).argmax(axis=1)])
    out_n2 = np.zeros((len(x_nd), 2), dtype=np.float32)
    width = min(2, len(size_m))
    out_n2[:, :width] = (left_nm * size_m * sign_m)[:, :width]
    return out_n2
