"""Simple ways to make cells of a type: what a generative model must beat, and what it can reach at best.

Every way has the shape of `MakeCells`: raw counts of labelled training cells and the types that are wanted in, as many
cells out. They come as `CellBatch`, raw or log1p, so that they can be read as real cells are: a family that writes
levels compares levels, and `cellwright.evaluate.generation` brings made and real cells to them alike.

``training_cells`` is the roof and ``any_type`` the floor: what a model reaches that does not listen to the type it is
asked for. Both are copies by construction, so in scores of copying they show what a copy scores, not what is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import sparse

from cellwright.types import CellBatch

NUM_COMPONENTS = 50
TARGET_SUM = 1e4


class MakeCells(Protocol):
    """Learns from labelled cells and makes others."""

    def __call__(self, train: CellBatch, code_n: np.ndarray, wanted_m: np.ndarray, *, seed: int) -> CellBatch:
        """Make one cell of each type code in ``wanted_m``, in that order.

        Parameters
        ----------
        train
            Raw counts.
        code_n
            Type of each training cell, int ``[n]``; -1 = not known, not used.
        wanted_m
            Type of each cell to make; each has training cells.
        """
        ...


@dataclass(frozen=True, slots=True)
class GenerationBaseline:
    """One entry of the table: how to run it and how to describe it in a report."""

    make: MakeCells
    what: str
    role: Literal["roof", "floor", "baseline"]


def training_cells(train: CellBatch, code_n: np.ndarray, wanted_m: np.ndarray, *, seed: int) -> CellBatch:
    """Draw training cells of the type: none twice before all of the type were drawn."""
    code_n, wanted_m = _checked(train, code_n, wanted_m)
    generator = np.random.default_rng(seed)
    row_m = np.empty(len(wanted_m), np.int64)
    for code in np.unique(wanted_m):
        at_m = wanted_m == code
        row_m[at_m] = _draw(np.flatnonzero(code_n == code), at_m.sum(), generator)
    return _renumbered(train.take(row_m))


def any_type(train: CellBatch, code_n: np.ndarray, wanted_m: np.ndarray, *, seed: int) -> CellBatch:
    """Draw training cells of all types as they come, whatever type is wanted."""
    code_n, wanted_m = _checked(train, code_n, wanted_m)
    generator = np.random.default_rng(seed)
    return _renumbered(train.take(_draw(np.flatnonzero(code_n >= 0), len(wanted_m), generator)))


def class_nb(train: CellBatch, code_n: np.ndarray, wanted_m: np.ndarray, *, seed: int) -> CellBatch:
    """Draw each gene on its own from a negative binomial of its type, fitted by moments.

    A cell of library size l has the mean l p of a gene and the variance l p + f (l p)^2. For each type p is the gene's
    share of all molecules, and f is what the squared residuals leave beyond the Poisson part, not below 0. Library
    sizes are those of training cells of the type, drawn with replacement. Genes do not know of each other.
    """
    code_n, wanted_m = _checked(train, code_n, wanted_m)
    generator = np.random.default_rng(seed)
    counts_nv = _matrix(train)
    parts, places, total_m = [], [], np.empty(len(wanted_m))
    for code in np.unique(wanted_m):
        row_n, at_m = np.flatnonzero(code_n == code), np.flatnonzero(wanted_m == code)
        share_v, excess_v = _moments(counts_nv[row_n], train.total_n[row_n])
        total_m[at_m] = generator.choice(train.total_n[row_n], len(at_m))
        parts += [_negative_binomial(total, share_v, excess_v, generator) for total in total_m[at_m]]
        places.append(at_m)
    made_mv = sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(places))]
    return _batch(made_mv, np.maximum(total_m, made_mv.sum(axis=1).A1), "raw")


def class_gaussian(train: CellBatch, code_n: np.ndarray, wanted_m: np.ndarray, *, seed: int) -> CellBatch:
    """Draw from a Gaussian of the type in 50 principal components of log1p counts per 10,000.

    Components are those of all training cells with a type; mean and covariance are those of the type's own cells. Back
    in genes, each gene gets Gaussian noise of the variance that the components leave in the type's cells; without it
    made cells are far too smooth. What then lies under half a molecule at the type's median library size is set to 0,
    since real cells hold whole molecules and a sum of components is almost never 0.
    """
    from sklearn.decomposition import PCA

    code_n, wanted_m = _checked(train, code_n, wanted_m)
    generator = np.random.default_rng(seed)
    scale_n = TARGET_SUM / np.maximum(train.total_n, 1e-12)
    logcp10k_nv = _matrix(train).multiply(scale_n[:, None]).tocsr().log1p()
    known_n = np.flatnonzero(code_n >= 0)
    num = min(NUM_COMPONENTS, len(known_n) - 1, logcp10k_nv.shape[1] - 1)
    if num < 1:
        raise ValueError(f"principal components need 2 cells and 2 genes; the matrix is {logcp10k_nv.shape}")
    pca = PCA(num, svd_solver="arpack", random_state=seed).fit(logcp10k_nv[known_n])
    parts, places = [], []
    for code in np.unique(wanted_m):
        row_n, at_m = np.flatnonzero(code_n == code), np.flatnonzero(wanted_m == code)
        place_nd = pca.transform(logcp10k_nv[row_n])
        centred_nd = place_nd - place_nd.mean(0)
        # normal weights of the centred cells have exactly the cells' own covariance
        weight_mn = generator.standard_normal((len(at_m), len(row_n))) / np.sqrt(max(len(row_n) - 1, 1))
        made_mv = pca.inverse_transform(place_nd.mean(0) + weight_mn @ centred_nd)
        left_v = (logcp10k_nv[row_n].toarray() - pca.inverse_transform(place_nd)).std(0)
        made_mv += left_v * generator.standard_normal(made_mv.shape)
        made_mv[made_mv < np.log1p(0.5 * TARGET_SUM / np.median(train.total_n[row_n]))] = 0
        parts.append(sparse.csr_matrix(made_mv))
        places.append(at_m)
    made_mv = sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(places))]
    return _batch(made_mv, np.full(len(wanted_m), TARGET_SUM), "log1p")


GENERATION_BASELINES: Mapping[str, GenerationBaseline] = {
    "any_type": GenerationBaseline(any_type, "training cells of all types, whatever is asked for", "floor"),
    "class_nb": GenerationBaseline(class_nb, "negative binomial of each gene and type, genes independent", "baseline"),
    "class_gaussian": GenerationBaseline(class_gaussian, "Gaussian of the type in 50 principal components", "baseline"),
    "training_cells": GenerationBaseline(training_cells, "training cells of the type themselves", "roof"),
}
"""Name -> baseline, weakest idea first."""


def _checked(train: CellBatch, code_n: np.ndarray, wanted_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if train.state != "raw":
        raise ValueError(f"training cells are {train.state}; these baselines are fitted to raw counts")
    code_n, wanted_m = np.asarray(code_n), np.asarray(wanted_m)
    for name, given, num in (("code_n", code_n, len(train)), ("wanted_m", wanted_m, len(wanted_m))):
        if given.shape != (num,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"{name} is {given.dtype} {given.shape}; one integer code for each of {num} cells is needed"
            )
    if not len(wanted_m):
        raise ValueError("no cells were asked for; wanted_m is empty")
    if absent := sorted(set(wanted_m.tolist()) - set(code_n[code_n >= 0].tolist())):
        raise ValueError(f"type code {absent[0]} is wanted, but no training cell has it")
    return code_n.astype(np.int64), wanted_m.astype(np.int64)


def _draw(row_n: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
    rounds = [generator.permutation(row_n) for _ in range(-(-num // len(row_n)))]
    return np.concatenate(rounds)[:num]


def _matrix(cells: CellBatch) -> sparse.csr_matrix:
    """Return float64 ``[n, v]``, columns up to the last gene that any cell has."""
    width = int(cells.gene_z.max(initial=0)) + 1
    return sparse.csr_matrix(
        (cells.value_z.astype(np.float64), cells.gene_z, cells.indptr_n1), shape=(len(cells), width)
    )


def _moments(counts_nv: sparse.csr_matrix, total_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each gene's share of molecules and its variance beyond Poisson, in squared means."""
    whole = max(float(total_n.sum()), 1e-12)
    share_v = counts_nv.sum(axis=0).A1 / whole
    # sum of (x - l p)^2 - l p, multiplied out so that zeros need not be stored
    cross_v = counts_nv.T @ total_n
    squares_v = counts_nv.multiply(counts_nv).sum(axis=0).A1
    mean_squares_v = share_v**2 * (total_n**2).sum()
    beyond_v = squares_v - 2 * share_v * cross_v + mean_squares_v - share_v * whole
    excess_v = np.divide(beyond_v, mean_squares_v, out=np.zeros_like(beyond_v), where=mean_squares_v > 0)
    return share_v, np.maximum(excess_v, 0.0)


def _negative_binomial(
    total: float, share_v: np.ndarray, excess_v: np.ndarray, generator: np.random.Generator
) -> sparse.csr_matrix:
    rate_v = total * share_v
    is_spread_v = excess_v > 1e-8
    spread_v = excess_v[is_spread_v]
    rate_v[is_spread_v] *= generator.gamma(1 / spread_v) * spread_v
    return sparse.csr_matrix(generator.poisson(rate_v)[None].astype(np.float64))


def _batch(made_mv: sparse.csr_matrix, total_m: np.ndarray, state: str) -> CellBatch:
    made_mv.sort_indices()
    return CellBatch(
        indptr_n1=made_mv.indptr.astype(np.int64),
        gene_z=made_mv.indices.astype(np.int32),
        value_z=made_mv.data.astype(np.float32),
        row_n=np.arange(made_mv.shape[0]),
        total_n=np.asarray(total_m, np.float64).ravel(),
        state=state,
    )


def _renumbered(cells: CellBatch) -> CellBatch:
    return CellBatch(
        indptr_n1=cells.indptr_n1,
        gene_z=cells.gene_z,
        value_z=cells.value_z,
        row_n=np.arange(len(cells)),
        total_n=cells.total_n,
        state=cells.state,
    )
