"""Genes that find no room: of cells longer than a model reads, how many, how much of them, and drawn how.

Source: scGPT's published collator keeps a uniform random part of a cell's genes beyond the limit, and is silent of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellwright.data.loader import CellLoader
from cellwright.protocols import CellSource
from cellwright.tasks.inference import READ_AHEAD, InferenceOptions, tokenizer_for

EXPRESSED, FED = "expressed genes known to the model", "genes to be fed, silent ones included"
FEATURES = "genes and features to be fed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What does not fit of some cells."""

    num_cells: int
    num_long: int
    """Cells with more genes than there is room for; at least one."""
    room: int
    """Genes a cell may have."""
    share: float
    """Part of a long cell's genes that is left out, mean over these cells, 0 .. 1."""
    seed: int
    """What the draw of the genes that stay goes by."""
    what: str = EXPRESSED
    """Which genes were counted."""
    is_training: bool = False
    """Genes are drawn anew in each epoch."""

    def line(self) -> str:
        """Return all of it as one sentence."""
        has, those = ("has", "in it") if self.num_long == 1 else ("have", "in these")
        percent = "under 1" if self.share < 0.005 else f"{100 * self.share:.0f}"
        drawn = "drawn anew in each epoch" if self.is_training else "drawn at random"
        return (
            f"{self.num_long:,} of {self.num_cells:,} cells {has} more than {self.room:,} {self.what}; {those}, "
            f"{percent} % of genes on average are left out, {drawn} by seed {self.seed}"
        )


def count_left_out(
    tokenize: Any, source: CellSource, *, seed: int, rows: np.ndarray | None = None, is_training: bool = False
) -> LeftOut | None:
    """Count the genes that a tokeniser has no room for; ``None`` where every gene of every cell becomes a token.

    One pass over the cells' genes, in blocks; no token is made.

    Parameters
    ----------
    tokenize
        A `cellwright.protocols.Tokenizer`.
    seed
        That of the draw in which tokens will be made.
    rows
        Positions in ``source`` of the cells that are meant; ``None`` = all.
    is_training
        Whether genes are drawn anew in each epoch.
    """
    rows = np.arange(len(source)) if rows is None else np.asarray(rows, np.int64)
    num_n = [
        tokenize.num_candidates_n(source.read(rows[start : start + READ_AHEAD]))
        for start in range(0, len(rows), READ_AHEAD)
    ]
    num_n = np.concatenate([np.zeros(0, np.int64), *num_n])
    long_n = num_n[num_n > tokenize.room]
    if not len(long_n):
        return None
    return LeftOut(
        num_cells=len(rows),
        num_long=len(long_n),
        room=tokenize.room,
        share=float(np.mean((long_n - tokenize.room) / long_n)),
        seed=seed,
        what=FED if tokenize.feeds_silent else EXPRESSED,
        is_training=is_training,
    )


def left_out_of(
    model: Any, source: CellSource, options: InferenceOptions, *, what: str | None = None
) -> LeftOut | None:
    """Count the genes that a model has no room for when it is run so; ``what`` they are called, where not genes alone.

    See `count_left_out`.
    """
    found = count_left_out(tokenizer_for(model, options), source, seed=options.seed)
    return found if found is None or what is None else replace(found, what=what)


def training_notes(tokenize: Any, loader: CellLoader) -> tuple[str, ...]:
    """Return what the log of a run should say of the cells it is trained on: one line, or nothing."""
    found = count_left_out(tokenize, loader.source, seed=loader.seed, rows=loader.rows, is_training=True)
    return () if found is None else (found.line(),)
