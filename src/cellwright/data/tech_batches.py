"""Sequencing batches of cells, as codes that a network was trained with.

A network that normalises by sequencing batch, or whose heads are told it, knows the batches of its training by number.
Their names are saved with it; cells of other batches are refused, or given to a known batch by the user's own word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellwright.config import some_of
from cellwright.data.splits import label_codes

if TYPE_CHECKING:
    import pandas as pd

TECH_BATCH = "tech_batch"
"""Name under which cells carry the codes (`Cells.with_obs`)."""


def tech_batch_codes(
    obs: pd.DataFrame, column: str, names: Sequence[str], *, instead: Mapping[str, str] | None = None
) -> np.ndarray:
    """Return the code of each cell's sequencing batch, int64 ``[n]``: its position in ``names``.

    Parameters
    ----------
    column
        Column of ``obs`` that says the batch.
    names
        The batches that the network knows, in the order of its codes.
    instead
        Batch of these cells -> known batch that it is treated as.

    Raises
    ------
    ValueError
        No such column, cells without a batch, or batches that are not known and not mapped.
    """
    code_n, found = label_codes(obs, column)
    instead, known = dict(instead or {}), {name: code for code, name in enumerate(names)}
    for of, what in ((set(instead) - set(found), f"is no sequencing batch of {column!r}"),
                     (set(instead.values()) - set(known), "is no sequencing batch that the model knows")):  # fmt: skip
        if of:
            raise ValueError(f"{sorted(of)[0]!r} {what}; {_of(found, names)}")
    strange = [name for name in found if instead.get(name, name) not in known]
    if strange:
        raise ValueError(
            f"the model was not trained on the sequencing batches {_some(strange)} of {column!r}; it knows "
            f"{_some(names)}: fine-tune it on these cells too, leave them out, or say which known batch they are to be "
            f"treated as (--tech-batch-as {strange[0]}={names[0]})"
        )
    return np.array([known[instead.get(name, name)] for name in found], np.int64)[code_n]


def _of(found: Sequence[str], names: Sequence[str]) -> str:
    return f"the cells have {_some(found)}, the model knows {_some(names)}"


def _some(names: Sequence[str]) -> str:
    return some_of([repr(name) for name in names], 6)
