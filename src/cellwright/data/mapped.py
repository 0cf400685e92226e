"""Values of cells on a vocabulary: one column map, applied to cells in memory once or to cells on disk as read.

Everything works on blocks of compressed rows; no loop runs over cells, and nothing is made dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellwright.data.contract import Choice
from cellwright.data.sources import DiskCSR, load_csr, row_blocks
from cellwright.data.state import as_csr

_GAP = 16  # rows read through rather than sought past
_BLOCK = 2048
_SAMPLED = 2000


class Columns:
    """Turns stored rows over source columns into delivered rows over vocabulary ids."""

    def __init__(self, choice: Choice, id_g: np.ndarray, num_vocab: int, locate: Callable[[int, int, float], str]):
        self.num_vocab = num_vocab
        self._choice, self._id_g, self._locate = choice, id_g, locate

    def __call__(self, block_ng: sp.csr_matrix, rows: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
        """Return (values ``[n, v]`` sorted and without zeros, total of all source genes ``[n]``).

        ``rows`` are the positions of the block's rows in the source, to name an offending cell.
        """
        bad = np.flatnonzero(~(block_ng.data >= 0) | ~np.isfinite(block_ng.data))
        if len(bad):
            row = np.searchsorted(block_ng.indptr, bad[0], side="right") - 1
            raise ValueError(self._locate(int(rows[row]), int(block_ng.indices[bad[0]]), block_ng.data[bad[0]]))
        if not block_ng.data.all():
            block_ng = block_ng.copy()
            block_ng.eliminate_zeros()
        block_ng = self._choice.convert(block_ng)
        total_n = np.asarray(block_ng.sum(axis=1, dtype=np.float64)).ravel()
        id_z = self._id_g[block_ng.indices]
        is_kept_z = id_z >= 0
        indptr = np.concatenate([[0], np.cumsum(is_kept_z)])[block_ng.indptr]
        parts = (block_ng.data[is_kept_z], id_z[is_kept_z], indptr)
        value_nv = sp.csr_matrix(parts, shape=(block_ng.shape[0], self.num_vocab))
        value_nv.sum_duplicates()
        return value_nv, total_n


class InMemory:
    """All cells in memory, mapped once."""

    def __init__(self, matrix: Any, columns: Columns):
        if not isinstance(matrix, DiskCSR | np.ndarray):
            matrix = load_csr(matrix)
        is_dense = not isinstance(matrix, DiskCSR) and not sp.issparse(matrix)
        blocks = row_blocks(matrix.shape[0], matrix.shape[1] if is_dense else 1)
        mapped = [columns(as_csr(matrix[rows]), np.arange(rows.start, rows.stop)) for rows in blocks]
        self._value_nv = sp.vstack([value_nv for value_nv, _ in mapped], format="csr")
        self._total_n = np.concatenate([total_n for _, total_n in mapped])

    def read(self, rows: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
        """Return the values and totals at these positions of the source."""
        return self._value_nv[rows], self._total_n[rows]

    def summary(self) -> tuple[int | None, float, float]:
        """Return (empty cells, expression in matched genes, expression in all genes)."""
        num_empty = int((np.diff(self._value_nv.indptr) == 0).sum())
        return num_empty, float(self._value_nv.data.sum(dtype=np.float64)), float(self._total_n.sum())


class OnDisk:
    """Cells left in their file and read as runs of neighbouring rows."""

    def __init__(self, matrix: Any, columns: Columns):
        self._matrix, self._columns = matrix, columns

    def read(self, rows: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
        """Return the values and totals at these positions of the source."""
        wanted, back = np.unique(rows, return_inverse=True)
        if not len(wanted):
            return sp.csr_matrix((0, self._columns.num_vocab), dtype=np.float32), np.zeros(0)
        parts = np.array_split(wanted, math.ceil(len(wanted) / _BLOCK))
        mapped = [self._columns(_stored_rows(self._matrix, part), part) for part in parts]
        value_nv = sp.vstack([value_nv for value_nv, _ in mapped], format="csr")
        return value_nv[back], np.concatenate([total_n for _, total_n in mapped])[back]

    def summary(self) -> tuple[int | None, float, float]:
        """Return the same as `InMemory.summary` from a sample of 2,000 rows; empty cells are not counted."""
        n = self._matrix.shape[0]
        value_nv, total_n = self.read(np.unique(np.linspace(0, n - 1, min(n, _SAMPLED)).astype(np.int64)))
        return None, float(value_nv.data.sum(dtype=np.float64)), float(total_n.sum())


def _stored_rows(matrix: Any, rows: np.ndarray) -> sp.csr_matrix:
    """Read sorted rows from disk, near neighbours in one go."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > _GAP) + 1)
    bounds = [(int(run[0]), int(run[-1]) + 1) for run in runs]
    if isinstance(matrix, DiskCSR):
        block_ng = matrix.read_runs(bounds)
    else:
        block_ng = sp.vstack([as_csr(matrix[first:last]) for first, last in bounds], format="csr")
    if block_ng.shape[0] == len(rows):
        return block_ng
    read = np.concatenate([np.arange(first, last) for first, last in bounds])
    return block_ng[np.searchsorted(read, rows)]
