"""Scores that depend on cells only through sums over them, so that a bootstrap is a matrix product.

``tally`` says which sums, ``finish`` turns sums into scores, for many resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

_CHUNK_ENTRIES = 4_000_000  # resample counts held at once: 32 MB

Sums = Mapping[str, np.ndarray]
"""Name -> float ``[r, ...]``: sums over the cells of each of r resamples."""


@dataclass(frozen=True)
class Tally:
    """Cells sorted into kinds that are alike for a score, and what one cell of each kind adds to the sums."""

    kind_n: np.ndarray
    """int64: the kind of each cell."""
    parts: Mapping[str, sparse.csr_array]
    """Name -> ``[kinds, columns]``."""

    def sums(self, count_rm: np.ndarray, kind_m: np.ndarray | slice = slice(None)) -> Sums:
        """Return the sums when each resample has ``count_rm`` cells of the kinds ``kind_m``."""
        return {name: count_rm @ part[kind_m] for name, part in self.parts.items()}


@dataclass(frozen=True)
class SumScore:
    """A score that depends on the cells only through sums over them. Call it with arrays, cell by cell."""

    tally: Callable[..., Tally]
    finish: Callable[[Sums], np.ndarray]

    def __call__(self, *arrays: Any) -> float:
        """Return the score of these cells."""
        tally = self.tally(*arrays)
        return float(self.finish(tally.sums(np.bincount(tally.kind_n)[None]))[0])


def resample(
    score: SumScore, calls: Sequence[tuple[Any, ...]], groups: Any, num_resamples: int, seed: int
) -> list[np.ndarray]:
    """Return the scores ``[r]`` of each call's arrays, all calls on the same resamples of cells (or whole groups)."""
    if num_resamples < 1:
        raise ValueError(f"{num_resamples} resamples; at least one is needed")
    tallies = [score.tally(*arrays) for arrays in calls]
    kinds = np.unique([tally.kind_n for tally in tallies], axis=1, return_inverse=True)
    draws = _counts(kinds[1].ravel(), groups, num_resamples, np.random.default_rng(seed))
    chunks = []
    for count_rm in draws:
        rows = zip(tallies, kinds[0], strict=True)
        chunks.append([score.finish(tally.sums(count_rm, kind_m)) for tally, kind_m in rows])
    return [np.concatenate(values) for values in zip(*chunks, strict=True)]


def _counts(
    kind_n: np.ndarray, groups: Any, num_resamples: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield float ``[r, kinds]``: cells of each kind in resamples of as many cells (or groups) as there are.

    Drawing n cells with replacement draws the kinds' counts from a multinomial: the same law, far fewer numbers.
    """
    num_kinds = int(kind_n.max()) + 1
    share_u, per_unit = np.bincount(kind_n) / len(kind_n), None
    num_units = len(kind_n)
    if groups is not None:
        if np.shape(groups) != kind_n.shape:
            raise ValueError(f"groups have shape {np.shape(groups)}, not one code for each of {len(kind_n)} cells")
        unit_n = np.unique(groups, return_inverse=True)[1]
        num_units = int(unit_n.max()) + 1
        if num_units < 2:
            raise ValueError("all cells are of one group; an interval over groups needs at least two")
        share_u = np.full(num_units, 1 / num_units)
        table = sparse.coo_array((np.ones(len(kind_n)), (unit_n, kind_n)), shape=(num_units, num_kinds))
        per_unit = table.tocsr()
    per_chunk = max(1, _CHUNK_ENTRIES // max(num_kinds, len(share_u)))
    for start in range(0, num_resamples, per_chunk):
        count_ru = generator.multinomial(num_units, share_u, min(per_chunk, num_resamples - start))
        yield count_ru.astype(np.float64) if per_unit is None else count_ru @ per_unit
