"""Which types of cells can be scored, and why the others cannot: nothing is left out without being named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.config import did_you_mean
from cellwright.evaluate.apart import some
from cellwright.evaluate.generation import LEAST_CELLS, LevelCells
from cellwright.evaluate.parts import Table
from cellwright.metrics import choose_markers


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeCount:
    """A type of the held-out cells."""

    name: str
    code: int
    num_held_out: int
    num_train: int
    reason: str
    """Why it is not scored; empty = it is."""


def count_types(
    train: LevelCells,
    held_code_n: np.ndarray,
    *,
    classes: Sequence[str],
    words: Sequence[str],
    num_made: Mapping[str, int] | None = None,
) -> list[TypeCount]:
    """Say of every type of the held-out cells whether it can be scored.

    Parameters
    ----------
    train
        Training cells; a type needs ten of them, and genes that stand out in them.
    held_code_n
        Types of the held-out cells; ten are needed.
    classes
        Names of the codes.
    words
        Types that the model has a word for.
    num_made
        Type -> cells that were made already; ``None`` = they are made to order.

    Raises
    ------
    ValueError
        When none can be scored; the line says why not.
    """
    found = []
    for code in np.unique(held_code_n).tolist():
        name = classes[code]
        num_held, num_train = int((held_code_n == code).sum()), int((train.code_n == code).sum())
        reason = ""
        if name not in words:
            near = did_you_mean(name, words)
            reason = f"the model has no word for it{near}"
        elif num_held < LEAST_CELLS:
            reason = f"too few held-out cells: {num_held}, at least {LEAST_CELLS} are needed"
        elif num_train < LEAST_CELLS:
            reason = f"too few training cells: {num_train}, at least {LEAST_CELLS} are needed"
        elif num_made is not None and num_made.get(name, 0) < LEAST_CELLS:
            reason = f"too few made cells: {num_made.get(name, 0)}, at least {LEAST_CELLS} are needed"
        elif not _has_markers(train, code):
            reason = "no gene stands out in its training cells, so markers cannot be looked for"
        found.append(TypeCount(name=name, code=code, num_held_out=num_held, num_train=num_train, reason=reason))
    if all(count.reason for count in found):
        raise ValueError("no type can be scored: " + _reasons(found, words))
    return found


def _has_markers(train: LevelCells, code: int) -> bool:
    try:
        choose_markers(train.level_ng, train.code_n, code)
    except ValueError:
        return False
    return True


def _reasons(counts: Sequence[TypeCount], words: Sequence[str]) -> str:
    shown = "; ".join(f"{count.name!r}: {count.reason}" for count in counts[:3])
    more = f"; and {len(counts) - 3} more" if len(counts) > 3 else ""
    if any("no word" in count.reason for count in counts):
        more += f" (the model's words: {some(list(words))})"
    return shown + more


def left_out_lines(counts: Sequence[TypeCount]) -> list[str]:
    """Return one line for each type that is not scored."""
    return [
        f"not scored: {count.name!r}, {count.num_held_out:,} held-out cells ({count.reason})"
        for count in counts
        if count.reason
    ]


def types_table(counts: Sequence[TypeCount], num_made: Mapping[str, int], num_real: Mapping[str, int]) -> Table:
    """Return a row for each type: its cells, how many were made and compared with, or why it is not scored."""
    rows = tuple(
        (
            count.name,
            count.num_train,
            count.num_held_out,
            None if count.reason else num_real[count.name],
            None if count.reason else num_made[count.name],
            f"no: {count.reason}" if count.reason else "yes",
        )
        for count in sorted(counts, key=lambda count: (bool(count.reason), -count.num_held_out))
    )
    columns = ("type", "training cells", "held-out cells", "of them compared with", "made by each method", "scored")
    return Table(columns=columns, rows=rows)
