"""Simple ways to tell proteins from RNA, and to put two modalities into one embedding.

What a multi-omic model must beat. RNA is log1p of counts per 10,000; proteins are centred log ratios; peaks are TF-IDF.
Settings are chosen on a fifth of the training cells, and on no others. Linear regression on RNA is close to the
published deep models for many surface proteins (compare Lakkis et al., Nature Machine Intelligence 4:940, 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import sparse

NUM_GENES = 1500
NUM_COMPONENTS = 50
NUM_SHARED = 20
"""Components of canonical correlation."""
ALPHAS = tuple(10.0 ** np.arange(0, 6.1, 0.5))
NEIGHBORS = (5, 10, 20, 40, 80)


class FitPredict(Protocol):
    """Learns from cells with both modalities and answers for cells of which only RNA is seen."""

    def __call__(self, train_ng: Any, train_nf: np.ndarray, query_ng: Any, *, seed: int) -> np.ndarray:
        """Return float64 ``[query cells, f]``."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureBaseline:
    """One entry of the table: how to run it and how to describe it in a report."""

    fit_predict: FitPredict
    what: str


def mean_value(train_ng, train_nf, query_ng, *, seed: int) -> np.ndarray:
    """Give every cell the mean of the training cells; RNA is not looked at."""
    train_ng, train_nf, query_ng = _checked(train_ng, train_nf, query_ng)
    return np.tile(train_nf.mean(0), (query_ng.shape[0], 1))


def ridge(train_ng, train_nf, query_ng, *, seed: int) -> np.ndarray:
    """Linear regression with a squared penalty on the 1,500 most variable genes, a penalty for each feature."""
    train_ng, train_nf, query_ng = _checked(train_ng, train_nf, query_ng)
    train_nx, query_nx = _scaled_genes(train_ng, query_ng)
    fit, held = _fifth(len(train_nf), seed)
    middle_f = train_nf[fit].mean(0)
    error_af = np.array(
        [
            ((train_nx[held] @ weight_xf + middle_f - train_nf[held]) ** 2).mean(0)
            for weight_xf in _ridge_weights(train_nx[fit], train_nf[fit] - middle_f)
        ]
    )
    best_f = error_af.argmin(0)
    weights = _ridge_weights(train_nx, train_nf - train_nf.mean(0))
    weight_xf = np.stack([weights[a][:, f] for f, a in enumerate(best_f)], axis=1)
    return query_nx @ weight_xf + train_nf.mean(0)


def nearest(train_ng, train_nf, query_ng, *, seed: int) -> np.ndarray:
    """Mean of the nearest training cells (Euclidean, 50 principal components); their number is chosen from 5 .. 80."""
    from sklearn.neighbors import NearestNeighbors

    train_ng, train_nf, query_ng = _checked(train_ng, train_nf, query_ng)
    train_nd, query_nd = _components(train_ng, query_ng)
    fit, held = _fifth(len(train_nf), seed)
    most = min(max(NEIGHBORS), len(fit))
    at_nk = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(train_nd[fit]).kneighbors(train_nd[held])[1]
    sizes = [k for k in NEIGHBORS if k <= most] or [most]
    error = [((train_nf[fit][at_nk[:, :k]].mean(1) - train_nf[held]) ** 2).mean() for k in sizes]
    best = sizes[int(np.argmin(error))]
    at_nk = NearestNeighbors(n_neighbors=best, algorithm="brute").fit(train_nd).kneighbors(query_nd)[1]
    return train_nf[at_nk].mean(1)


FEATURE_BASELINES: Mapping[str, FeatureBaseline] = {
    "mean": FeatureBaseline(mean_value, "mean of the training cells, the same answer for every cell"),
    "kNN": FeatureBaseline(nearest, "mean of the nearest training cells in 50 principal components of RNA"),
    "ridge": FeatureBaseline(ridge, "linear regression on the 1,500 most variable genes, penalty chosen a feature"),
}
"""Name -> baseline, weakest idea first."""


def joint_embeddings(rna_ng: Any, other_nf: Any, *, is_peaks: bool) -> dict[str, tuple[np.ndarray, str]]:
    """Return simple embeddings of cells with two modalities, name -> (float64 ``[n, d]``, one line about it).

    Parameters
    ----------
    rna_ng
        log1p of counts per 10,000.
    other_nf
        Proteins (centred log ratios), or peaks (TF-IDF).
    is_peaks
        Of peaks the first component, which is depth, is left out (Cusanovich et al. 2018).
    """
    rna_ng, other_nf = sparse.csr_array(rna_ng).astype(np.float64), sparse.csr_array(other_nf).astype(np.float64)
    rna_nd = _components(rna_ng, None)[0]
    if is_peaks:
        other_nd, name = _singular_vectors(other_nf)[:, 1:], "peaks"
    else:
        other_nd, name = _components(other_nf, None, is_scaled=True)[0], "proteins"
    both_nd = np.concatenate([_unit(rna_nd), _unit(other_nd)], axis=1)
    a_nd, b_nd = canonical_variates(rna_nd, other_nd)
    num = [rna_nd.shape[1], other_nd.shape[1]]
    return {
        "PCA of RNA": (rna_nd, f"{num[0]} principal components of RNA"),
        f"PCA of {name}": (other_nd, f"{num[1]} components of {name}" + (", the first left out" if is_peaks else "")),
        "PCA of both": (both_nd, "both sets of components side by side, each scaled to the same total spread"),
        "CCA": ((a_nd + b_nd) / 2, f"mean of the {a_nd.shape[1]} canonical variates of both sets of components"),
        "shuffled": (np.random.default_rng(0).permutation(both_nd), "PCA of both, cells exchanged at random"),
    }


def canonical_variates(a_nd: np.ndarray, b_nd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what two sets of components share (Hotelling 1936), float64 ``[n, k]`` each, most correlated first.

    Both are whitened with a ridge of 1 % of their mean variance and rotated so that the pairs correlate most.
    """
    white = []
    for x_nd in (a_nd, b_nd):
        x_nd = x_nd - x_nd.mean(0)
        value_d, vector_dd = np.linalg.eigh(x_nd.T @ x_nd / len(x_nd))
        white.append(x_nd @ vector_dd / np.sqrt(np.maximum(value_d, 0) + 0.01 * value_d.mean()))
    left_dk, size_k, right_kd = np.linalg.svd(white[0].T @ white[1] / len(a_nd), full_matrices=False)
    num = min(NUM_SHARED, len(size_k))
    return white[0] @ left_dk[:, :num], white[1] @ right_kd[:num].T


def _unit(x_nd: np.ndarray) -> np.ndarray:
    x_nd = x_nd - x_nd.mean(0)
    return x_nd / np.sqrt(max(float((x_nd**2).sum(1).mean()), 1e-12))


def _singular_vectors(x_nf: sparse.csr_array) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    num = min(NUM_COMPONENTS + 1, min(x_nf.shape) - 1)
    return TruncatedSVD(num, algorithm="arpack", random_state=0).fit_transform(x_nf)


def _components(train_ng, query_ng, *, is_scaled: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Return principal components of the most variable columns, of query cells along the same axes."""
    from sklearn.decomposition import PCA

    variance_g = _variance(train_ng)
    kept_g = np.sort(np.argsort(-variance_g, kind="stable")[:NUM_GENES])
    train_nx = train_ng[:, kept_g].toarray()
    size_x = train_nx.std(0) if is_scaled else np.ones(len(kept_g))
    size_x[size_x == 0] = 1.0
    num = min(NUM_COMPONENTS, min(train_nx.shape) - 1)
    if num < 1:
        raise ValueError(f"principal components need 2 cells and 2 features; the matrix is {train_nx.shape}")
    model = PCA(num, svd_solver="arpack", random_state=0).fit(train_nx / size_x)
    query_nd = None if query_ng is None else model.transform(query_ng[:, kept_g].toarray() / size_x)
    return model.transform(train_nx / size_x), query_nd


def _variance(x_ng: sparse.csr_array) -> np.ndarray:
    mean_g = np.asarray(x_ng.mean(axis=0)).ravel()
    return np.asarray(x_ng.multiply(x_ng).mean(axis=0)).ravel() - mean_g**2


def _scaled_genes(train_ng, query_ng) -> tuple[np.ndarray, np.ndarray]:
    kept_g = np.sort(np.argsort(-_variance(train_ng), kind="stable")[:NUM_GENES])
    train_nx, query_nx = train_ng[:, kept_g].toarray(), query_ng[:, kept_g].toarray()
    mean_x, size_x = train_nx.mean(0), train_nx.std(0)
    size_x[size_x == 0] = 1.0
    # a gene that hardly any training cell has must not blow up in a query cell
    return (train_nx - mean_x) / size_x, np.clip((query_nx - mean_x) / size_x, -10, 10)


def _ridge_weights(train_nx: np.ndarray, train_nf: np.ndarray) -> list[np.ndarray]:
    """Return the weights ``[x, f]`` for each penalty; one decomposition serves all."""
    value_x, vector_xx = np.linalg.eigh(train_nx.T @ train_nx)
    turned_xf = vector_xx.T @ (train_nx.T @ train_nf)
    return [vector_xx @ (turned_xf / (np.maximum(value_x, 0) + alpha)[:, None]) for alpha in ALPHAS]


def _fifth(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng([seed, 5]).permutation(num)
    return order[num // 5 :], order[: num // 5]


def _checked(train_ng, train_nf, query_ng) -> tuple[sparse.csr_array, np.ndarray, sparse.csr_array]:
    train_nf = np.asarray(train_nf, np.float64)
    if train_ng.shape[1] != query_ng.shape[1]:
        raise ValueError(f"training cells have {train_ng.shape[1]} genes, query cells {query_ng.shape[1]}")
    if train_nf.ndim != 2 or len(train_nf) != train_ng.shape[0] or len(train_nf) < 10:
        raise ValueError(f"{train_nf.shape} values for {train_ng.shape[0]} training cells; at least 10 are needed")
    matrices = [sparse.csr_array(matrix_ng).astype(np.float64) for matrix_ng in (train_ng, query_ng)]
    if not all(np.isfinite(m.data).all() for m in matrices) or not np.isfinite(train_nf).all():
        raise ValueError("RNA or features have values that are not finite; clean the matrices first")
    return matrices[0], train_nf, matrices[1]
