"""Cells at a known depth, thinned, and what simple ways to denoise answer for them.

The roof is the deep cell drawn anew, as a second sequencing of the same depth would give it: a method can do better
than that by smoothing, since the deep cell's own noise cannot be predicted, but only where that noise is most of what
is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cellwright.baselines.counts import counts_of, scale_of
from cellwright.baselines.denoising import DENOISING_BASELINES, PLAIN_BASELINES
from cellwright.config import did_you_mean
from cellwright.protocols import CellSource, DepthTokenizer
from cellwright.tokens.depth import thin_counts
from cellwright.types import CellBatch, Draw

ROOF = "deep_again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DepthCase:
    """Query cells at one depth, and what is known of them."""

    share: float
    """Part of the molecules that the methods see."""
    deep: CellBatch
    """Raw counts of the cells as they were read."""
    shallow: CellBatch
    """The same cells thinned."""
    gene_ids: np.ndarray
    """Genes that are scored, int64 ``[g]``."""
    label_n: np.ndarray | None = None
    """Type codes, -1 = not known; ``None`` = clusters of the deep cells take their place."""
    groups_n: np.ndarray | None = None
    """Donor or study codes, for intervals; ``None`` = cells are drawn."""

    def __post_init__(self):
        if len(self.deep) != len(self.shallow) or not np.array_equal(self.deep.row_n, self.shallow.row_n):
            raise ValueError("deep and shallow cells must be the same cells in the same order")


class ThinnedCells:
    """The cells of a source with a share of their molecules (a `CellSource`); the same cells whenever they are read."""

    def __init__(self, source: CellSource, share: float, *, seed: int):
        self.vocab, self.state = source.vocab, source.state
        self._source, self._share, self._draw = source, share, Draw(seed)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: np.ndarray) -> CellBatch:
        """Return the cells at these positions, thinned."""
        cells = self._source.read(rows)
        return thin_counts(cells, np.full(len(cells), self._share), self._draw)


def recounted(cells: CellBatch, tokenize: DepthTokenizer) -> CellBatch:
    """Return the cells with totals as a model counts them, so that all methods answer on its scale."""
    return replace(cells, total_n=tokenize.depth_of(cells))


def baseline_answers(
    train: CellBatch | None, case: DepthCase, *, seed: int, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Let baselines answer for the case, the roof among them.

    Parameters
    ----------
    train
        Deep cells that share none with the query cells; ``None`` = there are none, and baselines know the query alone.
    names
        Which; ``None`` = all that can be run and need no further package, so that what is compared does not depend on
        the machine.

    Raises
    ------
    ValueError
        A name that is in no table, one whose package is not installed, or one that needs training cells.
    """
    names = runnable_baselines(train is not None) if names is None else names
    check_baselines(names, has_train=train is not None)
    answers = {name: baseline_answer(name, train, case, seed=seed) for name in names}
    answers[ROOF] = drawn_again(case.deep, case.gene_ids, seed=seed)
    return answers


def runnable_baselines(has_train: bool) -> tuple[str, ...]:
    """Return the baselines that need no further package: with training cells, their mean is the floor."""
    table = {name: DENOISING_BASELINES[name] for name in PLAIN_BASELINES}
    if has_train:
        return tuple(name for name, entry in table.items() if entry.needs_train or entry.role != "floor")
    return tuple(name for name, entry in table.items() if not entry.needs_train)


def check_baselines(names: Sequence[str], *, has_train: bool) -> None:
    """Refuse baselines that cannot be run."""
    for name in names:
        if name not in DENOISING_BASELINES:
            near = did_you_mean(name, DENOISING_BASELINES)
            raise ValueError(f"no denoising baseline {name!r}{near}; there are {', '.join(DENOISING_BASELINES)}")
        entry = DENOISING_BASELINES[name]
        if not entry.is_available:
            raise ValueError(f"the baseline {name!r} needs a package that is not installed: {entry.install}")
        if entry.needs_train and not has_train:
            raise ValueError(f"the baseline {name!r} learns from training cells, and none were given")


def baseline_answer(name: str, train: CellBatch | None, case: DepthCase, *, seed: int) -> np.ndarray:
    """Let one baseline answer for the case; one that needs no training cells does without them."""
    known = case.shallow if train is None else train
    total_n = case.deep.total_n
    return DENOISING_BASELINES[name].denoise(known, case.shallow, case.gene_ids, target_total_n=total_n, seed=seed)


def drawn_again(deep: CellBatch, gene_ids: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw as many molecules as each cell has from its own shares of them: float32 log values ``[n, g]``."""
    generator = np.random.default_rng(seed)
    count_ng = counts_of(deep, gene_ids).toarray()
    again_ng = np.empty(count_ng.shape)
    for i, (own_g, total) in enumerate(zip(count_ng, np.rint(deep.total_n).astype(np.int64), strict=True)):
        share_g = own_g / max(total, 1)
        again_ng[i] = generator.multinomial(total, np.append(share_g, max(1 - share_g.sum(), 0)))[:-1]
    return _log_values(again_ng, deep.total_n).astype(np.float32)


def deep_values(cells: CellBatch, gene_ids: np.ndarray) -> np.ndarray:
    """Return log1p of counts per 10,000 (of each cell's ``total_n``), float64 ``[n, g]``."""
    return _log_values(counts_of(cells, gene_ids).toarray(), cells.total_n)


def _log_values(count_ng: np.ndarray, total_n: np.ndarray) -> np.ndarray:
    return np.log1p(count_ng * scale_of(total_n)[:, None])
