"""Simple ways to denoise cells of few molecules: what a model must beat, minutes on one core.

Every way has the shape of `DenoiseCells`: deep training cells and shallow query cells in, values of the query cells
at a greater depth out, as log1p of counts per 10,000. Nothing is learned from the query cells' own deep counts. What
learns from training cells (``training_neighbors``, ``ridge``, ``gene_mean``) knows other deep cells as a pre-trained
model does; what does not (``neighbors``, ``pca``) has the query cells alone, all of them at once. Settings are plain
ones and are not tuned.

MAGIC and scVI are run where they are asked for and installed, see `cellwright.baselines.packages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, Protocol

import numpy as np
from scipy import sparse

from cellwright.baselines.counts import counts_of, per_ten_thousand, scale_of
from cellwright.baselines.packages import magic, scvi
from cellwright.types import CellBatch

NUM_COMPONENTS = 50
NUM_NEIGHBORS = 15
RIDGE = 1.0
"""Penalty of the ridge regression, on components scaled to variance 1, for each training cell."""


class DenoiseCells(Protocol):
    """Predicts what cells would hold at a greater depth."""

    def __call__(
        self, train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
    ) -> np.ndarray:
        """Return float32 ``[query cells, genes]``, log1p of counts per 10,000, never negative.

        Parameters
        ----------
        train, query
            Raw counts; ``total_n`` is what values are parts of.
        gene_ids
            Genes to answer for, int ``[g]``.
        target_total_n
            Molecules of each query cell at the depth that is asked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class DenoisingBaseline:
    """One entry of the table: how to run it and how to describe it in a report."""

    denoise: DenoiseCells
    what: str
    role: Literal["floor", "baseline"] = "baseline"
    needs_train: bool = False
    """Whether it learns from training cells; others know the query cells alone."""
    package: str | None = None
    """Optional distribution that must be installed (not the name of its module: another package has a ``magic``)."""
    extra: str = ""
    """The extra of cellwright that installs it."""

    @property
    def install(self) -> str:
        """How to install what it needs; empty where nothing is needed."""
        return f'pip install "cellwright[{self.extra}]"' if self.extra else ""

    @property
    def is_available(self) -> bool:
        """Whether what it needs is installed."""
        try:
            return self.package is None or bool(version(self.package))
        except PackageNotFoundError:
            return False


def gene_mean(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Give every cell the mean of the training cells; the query cells are not looked at."""
    mean_g = np.asarray(_logcp10k(train, gene_ids).mean(axis=0)).ravel()
    return np.tile(mean_g.astype(np.float32), (len(query), 1))


def query_mean(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Give every cell the counts of all query cells added up: what is known of them when no cell is looked at."""
    pooled_g = np.asarray(counts_of(query, gene_ids).sum(axis=0)).ravel() * scale_of(query.total_n.sum())
    return np.tile(np.log1p(pooled_g).astype(np.float32), (len(query), 1))


def unchanged(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Leave the counts as they are, however many molecules the cell is said to have at the depth asked for."""
    return _answer(per_ten_thousand(query, gene_ids, np.asarray(target_total_n, np.float64)))


def library_size(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Scale each cell's counts to the depth asked for: what normalisation does, and the published "raw" input."""
    return _answer(per_ten_thousand(query, gene_ids))


def neighbors(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Add up the counts of the 15 nearest query cells, the cell itself among them.

    Nearest in 50 principal components of the query cells (Euclidean).
    """
    place_nd, _ = _components(_logcp10k(query, gene_ids), seed)
    near_nk = _nearest(place_nd, place_nd, min(NUM_NEIGHBORS, len(query)))
    pool_nn = sparse.csr_matrix(
        (np.ones(near_nk.size), near_nk.ravel(), np.arange(0, near_nk.size + 1, near_nk.shape[1])),
        shape=(len(query), len(query)),
    )
    total_n = pool_nn @ query.total_n
    return _answer((pool_nn @ counts_of(query, gene_ids)).multiply(scale_of(total_n)[:, None]))


def pca(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Rebuild the query cells' log values from their own 50 principal components; negative values become 0."""
    place_nd, model = _components(_logcp10k(query, gene_ids), seed)
    return np.maximum(model.inverse_transform(place_nd), 0).astype(np.float32)


def training_neighbors(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Take the mean log values of the 15 nearest training cells, in 50 principal components of the training cells.

    Training cells are thinned to the query cells' depth before they are compared, and answer with their deep values.
    """
    deep_ng = _logcp10k(train, gene_ids)
    shallow_ng = _logcp10k(_thinned(train, query, target_total_n, seed), gene_ids)
    place_md, model = _components(shallow_ng, seed)
    query_nd = model.transform(_logcp10k(query, gene_ids))
    near_nk = _nearest(query_nd, place_md, min(NUM_NEIGHBORS, len(train)))
    return np.stack([np.asarray(deep_ng[near_k].mean(axis=0)).ravel() for near_k in near_nk]).astype(np.float32)


def ridge(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Predict deep log values linearly from 50 principal components of shallow ones; negative values become 0.

    Learned from the training cells and copies of them thinned to the query cells' depth: the linear counterpart of a
    network that is trained on read depth.
    """
    deep_ng = _logcp10k(train, gene_ids).toarray()
    place_md, model = _components(_logcp10k(_thinned(train, query, target_total_n, seed), gene_ids), seed)
    query_nd = model.transform(_logcp10k(query, gene_ids))
    spread_d = np.maximum(place_md.std(axis=0), 1e-12)
    place_md, query_nd = place_md / spread_d, query_nd / spread_d
    mean_g = deep_ng.mean(axis=0)
    gram_dd = place_md.T @ place_md + RIDGE * np.eye(place_md.shape[1])
    weight_dg = np.linalg.solve(gram_dd, place_md.T @ (deep_ng - mean_g))
    return np.maximum(query_nd @ weight_dg + mean_g, 0).astype(np.float32)


DENOISING_BASELINES: Mapping[str, DenoisingBaseline] = {
    "gene_mean": DenoisingBaseline(
        gene_mean, "mean of the training cells, the same answer for every cell", "floor", needs_train=True
    ),
    "query_mean": DenoisingBaseline(query_mean, "all query cells added up, the same answer for every cell", "floor"),
    "unchanged": DenoisingBaseline(unchanged, "counts as they are, on the scale of the depth asked for"),
    "library_size": DenoisingBaseline(library_size, "counts scaled to the depth asked for"),
    "pca": DenoisingBaseline(pca, "rebuilt from 50 principal components of the query cells"),
    "neighbors": DenoisingBaseline(neighbors, "counts of the 15 nearest query cells added up"),
    "training_neighbors": DenoisingBaseline(
        training_neighbors, "mean of the 15 nearest deep training cells", needs_train=True
    ),
    "ridge": DenoisingBaseline(
        ridge, "linear map from thinned to deep training cells, 50 components", needs_train=True
    ),
    "magic": DenoisingBaseline(
        magic, "counts of the query cells diffused over MAGIC's graph", package="magic-impute", extra="magic"
    ),
    "scvi": DenoisingBaseline(scvi, "scVI trained on the query cells", package="scvi-tools", extra="scvi"),
}
"""Name -> baseline, weakest idea first; those with a ``package`` only where it is installed."""
PLAIN_BASELINES = tuple(name for name, entry in DENOISING_BASELINES.items() if entry.package is None)
"""Those that need no further package."""


def _logcp10k(cells: CellBatch, gene_ids: np.ndarray) -> sparse.csr_matrix:
    return per_ten_thousand(cells, gene_ids).log1p()


def _answer(linear_ng: sparse.spmatrix) -> np.ndarray:
    return np.log1p(linear_ng.toarray()).astype(np.float32)


def _components(value_ng: sparse.csr_matrix, seed: int):
    """Return the cells' places in principal components, and the fitted model."""
    from sklearn.decomposition import PCA

    num = min(NUM_COMPONENTS, min(value_ng.shape) - 1)
    if num < 1:
        raise ValueError(f"principal components need 2 cells and 2 genes; the matrix is {value_ng.shape}")
    model = PCA(num, svd_solver="arpack", random_state=seed).fit(value_ng)
    return model.transform(value_ng), model


def _nearest(query_nd: np.ndarray, place_md: np.ndarray, num: int) -> np.ndarray:
    """Return the nearest places of each query cell, int ``[n, num]``."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=num, algorithm="brute").fit(place_md).kneighbors(query_nd)[1]


def _thinned(train: CellBatch, query: CellBatch, target_total_n: np.ndarray, seed: int) -> CellBatch:
    """Thin training cells by the share of molecules that the query cells have of those asked for (their median)."""
    has_n = np.asarray(target_total_n) > 0
    share = float(np.clip(np.median(query.total_n[has_n] / np.asarray(target_total_n)[has_n]), 0, 1))
    generator = np.random.default_rng(seed)
    count_z = train.value_z.astype(np.int64)
    own_n = sparse.csr_matrix((count_z, train.gene_z, train.indptr_n1)).sum(axis=1).A1
    kept_z = generator.binomial(count_z, share)
    kept_n = sparse.csr_matrix((kept_z, train.gene_z, train.indptr_n1)).sum(axis=1).A1
    other_n = generator.binomial(np.maximum(np.rint(train.total_n).astype(np.int64) - own_n, 0), share)
    return replace(train, value_z=kept_z.astype(np.float32), total_n=(kept_n + other_n).astype(np.float64))
