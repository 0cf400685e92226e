"""Counts of a minibatch as a matrix of cells and genes, and the scale that values of denoising are on."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cellwright.types import CellBatch

TARGET_SUM = 1e4


def counts_of(cells: CellBatch, gene_ids: np.ndarray) -> sparse.csr_matrix:
    """Return counts of these genes, float64 CSR ``[n, g]``.

    Raises
    ------
    ValueError
        When the cells hold something else than raw counts.
    """
    if cells.state != "raw":
        raise ValueError(f"cells are {cells.state}; denoising is of raw counts")
    width = int(max(cells.gene_z.max(initial=-1), np.max(gene_ids))) + 1
    entries = (cells.value_z.astype(np.float64), cells.gene_z, cells.indptr_n1)
    return sparse.csr_matrix(entries, shape=(len(cells), width))[:, gene_ids]


def per_ten_thousand(cells: CellBatch, gene_ids: np.ndarray, total_n: np.ndarray | None = None) -> sparse.csr_matrix:
    """Return counts per 10,000 molecules, float64 CSR ``[n, g]``; ``total_n`` = other totals than the cells' own."""
    return counts_of(cells, gene_ids).multiply(scale_of(cells.total_n if total_n is None else total_n)[:, None]).tocsr()


def scale_of(total_n: np.ndarray) -> np.ndarray:
    """Return what a count is multiplied by to be per 10,000 molecules; a cell without any keeps its zeros."""
    return TARGET_SUM / np.where(total_n > 0, total_n, 1.0)
