"""Choose highly variable genes, streaming over any source of cells.

On counts: the variance of analytic Pearson residuals of a negative binomial null model (Lause, Berens and Kobak,
Genome Biology 22:258, 2021) with overdispersion theta = 100, residuals clipped to +- sqrt(n). On normalised or
log1p values, for which that model does not hold: the dispersion (variance / mean) of log1p counts per 10,000,
standardised among genes of similar mean (20 bins by rank of the mean; Satija et al., Nature Biotechnology 33:495,
2015, with ranks in place of equal widths).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from cellwright.protocols import CellSource
from cellwright.types import CellBatch

_THETA = 100.0
_NUM_BINS = 20
_DENSE_VALUES = 10_000_000


def select_genes(
    source: CellSource, num_genes: int, *, rows: np.ndarray | None = None, block: int = 2048
) -> np.ndarray:
    """Return the most variable genes.

    Parameters
    ----------
    num_genes
        How many; genes that no cell expresses are never chosen.
    rows
        Cells to look at (training cells, to keep a comparison honest); default all.
    block
        Cells read at a time.

    Returns
    -------
    numpy.ndarray
        int64 vocabulary ids, sorted. Equal scores go to the smaller id.

    Raises
    ------
    ValueError
        Fewer than ``num_genes`` genes are expressed, or there are no cells.
    """
    rows = np.arange(len(source)) if rows is None else np.asarray(rows, np.int64)
    if not len(rows) or num_genes < 1:
        raise ValueError(f"cannot choose {num_genes} genes from {len(rows)} cells")
    score_v = _scores(source, rows, block)
    _check_enough(num_genes, score_v, len(rows))
    return np.sort(np.argsort(-score_v, kind="stable")[:num_genes])


def select_genes_of_groups(source: CellSource, num_genes: int, code_n: np.ndarray, *, block: int = 2048) -> np.ndarray:
    """Return the genes that vary within groups of cells (sequencing batches), not between them.

    Each group ranks the genes by itself (see `select_genes`). Genes come first that are among the ``num_genes`` best
    of more groups, and of those the ones with the better median rank in these groups.

    Parameters
    ----------
    num_genes
        How many; genes that no cell expresses are never chosen.
    code_n
        Group of each cell of ``source``.

    Returns
    -------
    numpy.ndarray
        int64 vocabulary ids, sorted.

    Raises
    ------
    ValueError
        Fewer than ``num_genes`` genes are expressed.
    """
    groups = np.unique(code_n)
    rank_gv = np.full((len(groups), len(source.vocab)), np.nan)
    best_v = np.full(len(source.vocab), -np.inf)
    for g, group in enumerate(groups):
        score_v = _scores(source, np.flatnonzero(code_n == group), block)
        order = np.argsort(-score_v, kind="stable")
        top = order[:num_genes][np.isfinite(score_v[order[:num_genes]])]
        rank_gv[g, top] = np.arange(len(top))
        best_v = np.maximum(best_v, score_v)
    _check_enough(num_genes, best_v, len(code_n))
    num_v = np.isfinite(rank_gv).sum(0)
    median_v = np.full(rank_gv.shape[1], np.inf)
    median_v[num_v > 0] = np.nanmedian(rank_gv[:, num_v > 0], axis=0)
    # what is in no group's best comes last, by its best score
    return np.sort(np.lexsort((-best_v, median_v, -num_v))[:num_genes])


def _scores(source: CellSource, rows: np.ndarray, block: int) -> np.ndarray:
    """Return how variable each gene of the vocabulary is; -inf for genes that no cell expresses."""
    score_v, num_cells_v = (_residual_variance if source.state == "raw" else _dispersion)(source, rows, block)
    score_v[num_cells_v == 0] = -np.inf
    return score_v


def _check_enough(num_genes: int, score_v: np.ndarray, num_cells: int) -> None:
    num_expressed = int(np.isfinite(score_v).sum())
    if num_genes > num_expressed:
        raise ValueError(f"{num_genes} genes wanted, but only {num_expressed} are expressed in these {num_cells} cells")


def _batches(source: CellSource, rows: np.ndarray, block: int) -> Iterator[CellBatch]:
    for first in range(0, len(rows), block):
        yield source.read(rows[first : first + block])


def _csr(cells: CellBatch, num_vocab: int) -> sp.csr_matrix:
    return sp.csr_matrix((cells.value_z, cells.gene_z, cells.indptr_n1), shape=(len(cells), num_vocab))


def _residual_variance(source: CellSource, rows: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    num_vocab = len(source.vocab)
    sum_v, num_cells_v = np.zeros(num_vocab), np.zeros(num_vocab, np.int64)
    for cells in _batches(source, rows, block):
        sum_v += np.bincount(cells.gene_z, weights=cells.value_z, minlength=num_vocab)
        num_cells_v += np.bincount(cells.gene_z, minlength=num_vocab)
    genes = np.flatnonzero(sum_v > 0)
    share_g = sum_v[genes] / max(sum_v.sum(), 1.0)
    clip = np.sqrt(len(rows))
    first_g, second_g = np.zeros(len(genes)), np.zeros(len(genes))
    # zeros have residuals too, so a block is made dense here: narrow enough to stay within 80 MB
    step = max(1, min(block, _DENSE_VALUES // max(len(genes), 1)))
    for cells in _batches(source, rows, step):
        counts_nv = _csr(cells, num_vocab)
        mean_ng = np.asarray(counts_nv.sum(axis=1, dtype=np.float64)) * share_g[None]
        residual_ng = counts_nv[:, genes].toarray() - mean_ng
        # an empty cell has mean 0 and residual 0
        residual_ng /= np.sqrt(np.maximum(mean_ng + mean_ng**2 / _THETA, 1e-12))
        np.clip(residual_ng, -clip, clip, out=residual_ng)
        first_g += residual_ng.sum(0)
        second_g += (residual_ng**2).sum(0)
    score_v = np.full(num_vocab, -np.inf)
    score_v[genes] = second_g / len(rows) - (first_g / len(rows)) ** 2
    return score_v, num_cells_v


def _dispersion(source: CellSource, rows: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    num_vocab = len(source.vocab)
    first_v, second_v = np.zeros(num_vocab), np.zeros(num_vocab)
    num_cells_v = np.zeros(num_vocab, np.int64)
    for cells in _batches(source, rows, block):
        value_z = cells.value_z.astype(np.float64)
        if source.state == "normalised":
            total_n = np.where(cells.total_n > 0, cells.total_n, 1.0)
            value_z = np.log1p(value_z * np.repeat(1e4 / total_n, np.diff(cells.indptr_n1)))
        first_v += np.bincount(cells.gene_z, weights=value_z, minlength=num_vocab)
        second_v += np.bincount(cells.gene_z, weights=value_z**2, minlength=num_vocab)
        num_cells_v += np.bincount(cells.gene_z, minlength=num_vocab)
    genes = np.flatnonzero(num_cells_v)
    mean_g = first_v[genes] / len(rows)
    dispersion_g = (second_v[genes] / len(rows) - mean_g**2) / mean_g
    bin_g = np.empty(len(genes), np.int64)
    bin_g[np.argsort(mean_g, kind="stable")] = np.arange(len(genes)) * _NUM_BINS // max(len(genes), 1)
    score_v = np.full(num_vocab, -np.inf)
    for k in np.unique(bin_g):
        of_bin = dispersion_g[bin_g == k]
        score_v[genes[bin_g == k]] = (of_bin - of_bin.mean()) / (of_bin.std() or 1.0)
    return score_v, num_cells_v
