"""Hold cells out honestly: by donor, study or any other group, and only as a last resort by cell.

Cells of one donor resemble each other, so that random cells tell how well a model remembers donors rather than how
well it will do on new ones. Groups are therefore never divided. A split proves on construction that its parts are
disjoint and exhaustive, and carries a hash over cell names and parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.config import did_you_mean, some_of

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "valid", "test")
GROUP_COLUMNS = (
    "donor",
    "donor_id",
    "individual",
    "patient",
    "subject",
    "sample",
    "study",
    "dataset",
    "batch",
)
"""Columns looked for, in this order, when no column is named."""
_ATTEMPTS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Which cells are for training, for choosing (valid) and for the final score (test)."""

    train: np.ndarray
    """int64 positions, sorted."""
    valid: np.ndarray
    test: np.ndarray
    by: str
    """The column whose groups were kept whole, or "cells"."""
    seed: int
    groups: Mapping[str, tuple[str, ...]]
    """Part -> names of its groups; empty when split by cells."""
    sha256: str
    """Hash over the names of all cells and the part of each."""
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        rows = np.sort(np.concatenate([self.train, self.valid, self.test]))
        repeated = rows[1:][rows[1:] == rows[:-1]]
        if len(repeated):
            raise ValueError(f"cell {repeated[0]} is in two parts of the split")
        if len(rows) and (rows[0] != 0 or rows[-1] != len(rows) - 1):
            raise ValueError(f"the parts hold {len(rows)} cells but not the positions 0 .. {len(rows) - 1}")
        names = [name for part in PARTS for name in self.groups.get(part, ())]
        if len(set(names)) != len(names):
            raise ValueError("a group is in two parts of the split")

    def record(self) -> dict[str, Any]:
        """Return the JSON form: sizes, groups and the hash, not the positions."""
        return {
            "by": self.by,
            "seed": self.seed,
            "sizes": {part: len(getattr(self, part)) for part in PARTS},
            "groups": {part: list(names) for part, names in self.groups.items()},
            "sha256": self.sha256,
            "notes": list(self.notes),
        }


def label_codes(obs: pd.DataFrame, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn a column of labels into codes.

    Returns
    -------
    (codes, classes)
        int64 ``[n]`` and the class names, sorted; classes that no cell has are left out.

    Raises
    ------
    ValueError
        No such column, or cells without a label (NaN).
    """
    return _codes(obs, column, "drop these cells, or give them a label such as 'unknown'")


def split_cells(
    obs: pd.DataFrame,
    *,
    by: str | None = None,
    valid: float = 0.1,
    test: float = 0.0,
    seed: int = 0,
    label: str | None = None,
) -> Split:
    """Split cells into train, valid and test.

    Parameters
    ----------
    by
        A column of ``obs`` whose groups are kept whole, ``"cells"`` for random cells, or None: the first of
        `GROUP_COLUMNS` that has enough groups and is not just the label again; without one, random cells.
    valid, test
        Shares of cells wanted, 0 = no such part; with groups, as near as whole groups allow.
    label
        Column of labels. Random cells are drawn so that every label keeps its share (a label with a single cell
        stays in train); groups are drawn, among many tries, so that train loses as few labels as possible. Labels
        that train lacks are named in ``notes``.

    Raises
    ------
    ValueError
        Unknown column, NaN in it, shares that are out of range, or a part that was asked for and would be empty.
    """
    if min(valid, test) < 0 or valid + test >= 1:
        raise ValueError(f"valid = {valid}, test = {test}: shares must be 0 or more, and below 1 together")
    notes: list[str] = []
    if by is None:
        by = _find_groups(obs, 1 + (valid > 0) + (test > 0), label, notes)
    label_n = np.zeros(len(obs), np.int64)
    if label is not None:  # cells without a label form a class of their own here
        label_n = _column(obs, label).astype("category").cat.codes.to_numpy(np.int64)
    rng = np.random.default_rng(seed)
    wanted = {"valid": valid, "test": test}
    groups: dict[str, tuple[str, ...]] = {}
    if by == "cells":
        part_n = _random_cells(label_n, wanted, rng)
    else:
        code_n, names = _codes(obs, by, "give every cell a group, or drop the cells without one")
        part_k = _random_groups(code_n, label_n, wanted, rng)
        part_n = part_k[code_n]
        groups = {part: tuple(np.array(names)[part_k == p].tolist()) for p, part in enumerate(PARTS)}
    for p, part in enumerate(PARTS):
        if (part == "train" or wanted[part] > 0) and not (part_n == p).any():
            of = f"{len(obs)} cells" if by == "cells" else f"{sum(map(len, groups.values()))} groups of {by!r}"
            raise ValueError(f"{part} would be empty with {of}, valid = {valid}, test = {test}; ask for larger shares")
    if label is not None:
        notes += _lost_labels(obs, label, part_n)
    return _make(obs, part_n, by, seed=seed, groups=groups, notes=notes)


def hold_out(
    obs: pd.DataFrame, column: str, values: str | Sequence[str], *, valid: float = 0.0, seed: int = 0
) -> Split:
    """Hold out named groups as test; the rest is train, ``valid`` of it (random cells) for choosing.

    Raises
    ------
    ValueError
        Unknown column or group, NaN in the column, or nothing left to train on.
    """
    code_n, names = _codes(obs, column, "give every cell a group, or drop the cells without one")
    values = [values] if isinstance(values, str) else [str(value) for value in values]
    for value in values:
        if value not in names:
            raise ValueError(f"no {value!r} in column {column!r}{did_you_mean(value, names)}; it has {_some(names)}")
    if not values:
        raise ValueError(f"no group of {column!r} to hold out")
    if not 0 <= valid < 1:
        raise ValueError(f"valid = {valid}: must be 0 or more and below 1")
    is_test_k = np.isin(np.array(names), values)
    part_n = np.where(is_test_k[code_n], 2, 0)
    rest = np.flatnonzero(part_n == 0)
    num_valid = round(valid * len(rest))
    if len(rest) <= num_valid or (valid > 0 and num_valid == 0):
        raise ValueError(f"holding out {_some(values)} leaves {len(rest)} cells, too few to train and validate on")
    part_n[np.random.default_rng(seed).permutation(rest)[:num_valid]] = 1
    kept = tuple(name for name in names if name not in values)
    return _make(obs, part_n, column, seed=seed, groups={"train": kept, "test": tuple(sorted(set(values)))}, notes=[])


def _some(names: Sequence[str]) -> str:
    return some_of([repr(name) for name in names], 8)


def _column(obs: pd.DataFrame, column: str) -> pd.Series:
    if column not in obs.columns:
        known = [str(name) for name in obs.columns]
        raise ValueError(f"no column {column!r} in obs{did_you_mean(column, known)}; it has {_some(known) or 'none'}")
    return obs[column]


def _codes(obs: pd.DataFrame, column: str, remedy: str) -> tuple[np.ndarray, tuple[str, ...]]:
    values = _column(obs, column)
    num_missing = int(values.isna().sum())
    if num_missing:
        raise ValueError(f"column {column!r} is empty (NaN) for {num_missing} of {len(obs)} cells; {remedy}")
    names, code_n = np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)
    return code_n.astype(np.int64), tuple(names.tolist())


def _find_groups(obs: pd.DataFrame, num_parts: int, label: str | None, notes: list[str]) -> str:
    by_lower = {str(column).lower(): column for column in reversed(obs.columns)}
    for name in GROUP_COLUMNS:
        column = by_lower.get(name)
        if column is None or column == label or obs[column].isna().any():
            continue
        num_groups = obs[column].nunique()
        if num_groups < num_parts:
            continue
        if label is not None and obs[label].nunique() > 1:
            labels_per_group = obs.groupby(column, observed=True)[label].nunique()
            if (labels_per_group <= 1).all():
                notes.append(f"column {column!r} was not used: each of its groups holds one label only")
                continue
        notes.append(f"split by {column!r}, {num_groups} groups")
        return column
    notes.append("no donor, study or batch column to split by: random cells, so scores say little about new donors")
    return "cells"


def _random_cells(label_n: np.ndarray, wanted: Mapping[str, float], rng: np.random.Generator) -> np.ndarray:
    """Deal cells out within each label, so that shares hold overall and, as nearly as they can, in each label."""
    part_n = np.zeros(len(label_n), np.int64)
    classes, size_k = np.unique(label_n, return_counts=True)
    left_k = size_k - 1  # train keeps at least one cell of each label
    for p, part in enumerate(PARTS):
        if part == "train" or not wanted[part]:
            continue
        exact_k = wanted[part] * size_k
        take_k = np.minimum(np.floor(exact_k).astype(np.int64), left_k)
        missing = max(round(wanted[part] * len(label_n)), 1) - take_k.sum()
        # largest remainders first
        for k in np.argsort(-(exact_k - take_k), kind="stable"):
            if missing > 0 and take_k[k] < left_k[k]:
                take_k[k] += 1
                missing -= 1
        left_k = left_k - take_k
        for k, label in enumerate(classes):
            free = np.flatnonzero((label_n == label) & (part_n == 0))
            part_n[rng.permutation(free)[: take_k[k]]] = p
    return part_n


def _random_groups(
    code_n: np.ndarray, label_n: np.ndarray, wanted: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Return the part of each group: among many random deals, the one that costs train fewest labels.

    Ties go to the sizes nearest to those wanted, then to the earlier deal.
    """
    size_k = np.bincount(code_n)
    num_groups = len(size_k)
    asked = [p for p, part in enumerate(PARTS) if part != "train" and wanted[part] > 0]
    if num_groups <= len(asked):
        return np.zeros(num_groups, np.int64)
    labels, label_n = np.unique(label_n, return_inverse=True)
    has_kl = np.zeros((num_groups, len(labels)), bool)
    has_kl[code_n, label_n] = True
    best, best_cost = None, (np.inf, np.inf)
    for _ in range(_ATTEMPTS):
        part_k = _deal(rng.permutation(num_groups), size_k, {p: wanted[PARTS[p]] * len(code_n) for p in asked})
        off = sum(abs(size_k[part_k == p].sum() / len(code_n) - wanted[PARTS[p]]) for p in asked)
        cost = (int((~has_kl[part_k == 0].any(0)).sum()), round(off, 9))
        if cost < best_cost:
            best, best_cost = part_k, cost
    return best


def _deal(order: np.ndarray, size_k: np.ndarray, target: Mapping[int, float]) -> np.ndarray:
    """Fill each held-out part from ``order`` until another group would take it further from its target."""
    part_k = np.zeros(len(size_k), np.int64)
    at = 0
    for number, (p, cells) in enumerate(target.items()):
        still_needed = len(target) - number  # one group for each later part and one for train
        filled = 0
        while at < len(order) - still_needed:
            size = size_k[order[at]]
            if filled and abs(filled + size - cells) >= abs(filled - cells):
                break
            part_k[order[at]] = p
            filled += size
            at += 1
    return part_k


def _lost_labels(obs: pd.DataFrame, label: str, part_n: np.ndarray) -> list[str]:
    values = obs[label].astype(object)
    lost = sorted({str(v) for v in values[part_n > 0].dropna()} - {str(v) for v in values[part_n == 0].dropna()})
    return [f"labels without a training cell: {_some(lost)}"] if lost else []


def _make(
    obs: pd.DataFrame,
    part_n: np.ndarray,
    by: str,
    *,
    seed: int,
    groups: Mapping[str, tuple[str, ...]],
    notes: list[str],
) -> Split:
    digest = hashlib.sha256()
    for name, part in zip(obs.index.astype(str), part_n.tolist(), strict=True):
        digest.update(f"{name}\t{PARTS[part]}\n".encode())
    rows = {part: np.flatnonzero(part_n == p).astype(np.int64) for p, part in enumerate(PARTS)}
    return Split(**rows, by=by, seed=seed, groups=groups, sha256=digest.hexdigest(), notes=tuple(notes))
