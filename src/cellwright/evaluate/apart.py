"""Are held-out cells held out? What can be told from the cells themselves, before anything is scored on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellwright.data.cells import Cells
from cellwright.data.sources import IN_MEMORY
from cellwright.data.splits import label_codes

MAX_SHARED = 0.1
"""Share of held-out cells that may be cells of training too; a few are named, more are refused."""
_READ = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """What was found about two sets of cells."""

    notes: tuple[str, ...]
    """What a reader should know."""
    sha256: str
    """Hash over the names of all cells and the set of each."""


def check_apart(train: Cells, held_out: Cells, group: str | None = None) -> Apart:
    """Refuse held-out cells that were trained on.

    Parameters
    ----------
    group
        Column of obs (donor, study) that no two cells of different sets may share; ``None`` = not checked.

    Raises
    ------
    ValueError
        When a group is in both sets, or more than a tenth of the held-out cells have all their values in common with
        a training cell.
    """
    notes = []
    if group is not None:
        names = [set(label_codes(cells.obs, group)[1]) for cells in (train, held_out)]
        if both := sorted(names[0] & names[1]):
            raise ValueError(
                f"{group} {both[0]!r} is in the training and in the held-out cells ({len(both)} such); hold out whole "
                "groups, or do without --group"
            )
        notes.append(f"Held out by {group}: {len(names[1])} groups, none of them among the {len(names[0])} trained on.")
    else:
        notes.append("No column of donors or studies was named: cells of one donor may be on both sides.")
    if train.state != held_out.state:
        notes.append(f"Cells of both sets were not compared: training is {train.state}, held-out {held_out.state}.")
    else:
        known = set(_fingerprints(train))
        num = sum(print_ in known for print_ in _fingerprints(held_out))
        if num > MAX_SHARED * len(held_out):
            raise ValueError(
                f"{num} of {len(held_out)} held-out cells are training cells too (all values are the same); "
                "score on cells that no method has seen"
            )
        if num:
            notes.append(f"{num} of {len(held_out)} held-out cells have the same values as a training cell.")
    return Apart(notes=tuple(notes), sha256=_names_sha256({"train": train, "test": held_out}))


def seen_in_training(model: Any, held_out: Cells) -> tuple[str, ...]:
    """Return a warning where the model's own record names the held-out file as one it was pre-trained on."""
    contracts = model.origin.get("pretraining", {}).get("data", {}).get("contracts", ())
    sources = {str(contract.get("source")) for contract in contracts}
    name = held_out.contract.source
    if name == IN_MEMORY or name not in sources:
        return ()
    return (f"The model was pre-trained on {name} itself: its cells are not held out from it.",)


def _fingerprints(cells: Cells) -> list[bytes]:
    """Return a hash of genes and values of each cell that has any."""
    found = []
    for start in range(0, len(cells), _READ):
        batch = cells.read(np.arange(start, min(start + _READ, len(cells))))
        for first, last in zip(batch.indptr_n1[:-1], batch.indptr_n1[1:], strict=True):
            if last > first:
                parts = batch.gene_z[first:last].tobytes() + batch.value_z[first:last].tobytes()
                found.append(hashlib.blake2b(parts, digest_size=16).digest())
    return found


def _names_sha256(parts: dict[str, Cells]) -> str:
    digest = hashlib.sha256()
    for part, cells in parts.items():
        for name in cells.obs_names:
            digest.update(f"{name}\t{part}\n".encode())
    return digest.hexdigest()


def some(names: Sequence[str], num: int = 5) -> str:
    """Return the first names, quoted, and how many more there are."""
    return ", ".join(map(repr, names[:num])) + (f" and {len(names) - num} more" if len(names) > num else "")
