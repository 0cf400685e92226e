"""Cells whose read depth is told otherwise than by their counts: given totals, and bulk samples.

Both are views: they read from the source they were made from, and change nothing in it. Source of both modes:
scFoundation's published ``get_embedding.py`` (``pre_normalized A``, and ``input_type bulk`` with ``pre_normalized F``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cellwright.config import did_you_mean
from cellwright.protocols import CellSource
from cellwright.types import CellBatch

_READ = 2048  # cells looked at together


class GivenTotals:
    """The same cells with totals that come from elsewhere, float64 ``[n]``."""

    def __init__(self, source: CellSource, total_n: np.ndarray):
        self.vocab, self.state = source.vocab, source.state
        self._source, self._total_n = source, np.asarray(total_n, np.float64)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: np.ndarray) -> CellBatch:
        """Return the cells at these positions, with their given totals."""
        return replace(self._source.read(rows), total_n=self._total_n[np.asarray(rows)])


class BulkSamples:
    """Counts of bulk samples, scaled to the median total of all of them, as log(1 + x).

    Totals are over the genes of the vocabulary; samples without any count say nothing of the median. One sample's
    values so depend on the others, as published.
    """

    state = "log1p"

    def __init__(self, source: CellSource):
        if source.state not in ("raw", "normalised"):
            raise ValueError(f"bulk samples are scaled from counts or shares, but the values are {source.state}")
        self.vocab, self._source = source.vocab, source
        total_n = listed_totals(source)
        self.median = float(np.median(total_n[total_n > 0])) if (total_n > 0).any() else 0.0
        self._scale_n = np.divide(self.median, total_n, out=np.zeros_like(total_n), where=total_n > 0)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: np.ndarray) -> CellBatch:
        """Return the samples at these positions, scaled; ``total_n`` is the median total."""
        cells = self._source.read(rows)
        scale_z = np.repeat(self._scale_n[np.asarray(rows)], cells.num_genes_n)
        value_z = np.log1p(cells.value_z * scale_z).astype(np.float32)
        return replace(cells, value_z=value_z, total_n=np.full(len(cells), self.median), state="log1p")


def listed_totals(source: CellSource) -> np.ndarray:
    """Return the sum of each cell's values over the genes of the vocabulary, float64 ``[n]``."""
    return np.concatenate([_sums(cells) for cells in _all(source)]) if len(source) else np.zeros(0)


def totals_column(obs: Any, column: str) -> np.ndarray:
    """Return a column of totals as float64 ``[n]``.

    Raises
    ------
    ValueError
        There is no such column, or it holds something else than positive, finite numbers.
    """
    if column not in obs:
        near = did_you_mean(column, obs.columns) or f"; columns: {', '.join(map(str, obs.columns)) or 'none'}"
        raise ValueError(f"the cells have no column {column!r} of totals{near}")
    try:
        total_n = obs[column].to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise ValueError(f"obs[{column!r}] holds {obs[column].dtype} values, no totals of counts") from None
    is_good_n = (total_n > 0) & np.isfinite(total_n)
    if not is_good_n.all():
        at = int(np.argmin(is_good_n))
        raise ValueError(
            f"obs[{column!r}] is {total_n[at]:g} for cell {str(obs.index[at])!r}; a total of counts must be positive "
            f"({int((~is_good_n).sum())} of {len(total_n)} are not)"
        )
    return total_n


def _sums(cells: CellBatch) -> np.ndarray:
    cell_z = np.repeat(np.arange(len(cells)), cells.num_genes_n)
    return np.bincount(cell_z, cells.value_z.astype(np.float64), len(cells))


def _all(source: CellSource) -> Iterator[CellBatch]:
    for start in range(0, len(source), _READ):
        yield source.read(np.arange(start, min(start + _READ, len(source))))
