"""Hold perturbations out as published benchmarks do: unseen genes, unseen combinations, unseen cell types.

What is divided are *profiles*: one perturbation in one context (cell type). The ways:

- ``single``: genes are dealt into folds; the single perturbations of a fold's genes are the test. A combination with
  one of these genes would give it away, and is used for nothing.
- ``double``: combinations are dealt into folds; all singles stay in training.
- ``gears``: the "simulation" split of GEARS (Roohani et al., Nature Biotechnology 42:927, 2024): as ``single``, and
  combinations with a held-out gene are tested too, as well as a fold's share of those without.
- ``cells``: contexts are the folds: one is held out with all that was done in it.

A test profile's ``group`` says how far it is from training: ``single`` or ``several_seenK`` with K of its genes
perturbed in some training profile (GEARS: combo_seenK), or ``context``. Validation profiles are held out of training
in the same way and serve to choose. A split proves all this when it is made; an empty part is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cellwright.data.perturbations import JOIN

SPLITS = ("single", "double", "gears", "cells")
TRAIN, VALID, TEST, UNUSED = "train", "valid", "test", "unused"

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileNames:
    """Which profiles there are: what was done, and in which context."""

    parts: tuple[Parts, ...]
    context: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.parts)

    def title(self, at: int) -> str:
        """Return a profile's name as a reader wants it; the context only where there are several."""
        name = JOIN.join(self.parts[at])
        return f"{name} in {self.context[at]}" if len(set(self.context)) > 1 else name


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationSplit:
    """One fold: the part of every profile."""

    profiles: ProfileNames
    part: tuple[str, ...]
    """train | valid | test | unused, one a profile."""
    by: str
    fold: int
    num_folds: int
    seed: int
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if len(self.part) != len(self.profiles):
            raise ValueError(f"{len(self.part)} parts for {len(self.profiles)} profiles")
        for part in (TRAIN, TEST):
            if part not in self.part:
                raise ValueError(
                    f"no profile is held for {part} in fold {self.fold} of the split {self.by!r}; take fewer folds, "
                    "or another split"
                )
        for held_out in (TEST, VALID):
            self._prove(held_out)

    def _prove(self, held_out: str) -> None:
        """Raise when training sees what is held out."""
        train, other = self.at(TRAIN), self.at(held_out)
        parts, context = self.profiles.parts, self.profiles.context
        both = {(parts[u], context[u]) for u in train} & {(parts[u], context[u]) for u in other}
        if self.by == "cells":
            both |= {context[u] for u in train} & {context[u] for u in other}
        elif self.by in ("double", "gears"):
            both |= {parts[u] for u in train} & {parts[u] for u in other}
        if self.by in ("single", "gears"):
            genes = {part for u in other if len(parts[u]) == 1 for part in parts[u]}
            both |= genes & {part for u in train for part in parts[u]}
        if both:
            raise ValueError(f"{sorted(map(str, both))[0]} is in train and in {held_out} of the split {self.by!r}")

    def at(self, *parts: str) -> list[int]:
        """Return the positions of the profiles of these parts."""
        return [u for u, part in enumerate(self.part) if part in parts]

    def group(self, at: int) -> str:
        """Return how far a profile is from training; see the module's text."""
        if self.by == "cells":
            return "context"
        parts = self.profiles.parts[at]
        if len(parts) == 1:
            return "single"
        known = {part for u in self.at(TRAIN) for part in self.profiles.parts[u]}
        return f"several_seen{sum(part in known for part in parts)}"

    def sha256(self, cell_names: Sequence[str], profile_n: np.ndarray) -> str:
        """Hash the names of all cells, what was done to each and its part; ``profile_n`` is -1 for controls."""
        digest = hashlib.sha256()
        for name, u in zip(cell_names, profile_n.tolist(), strict=True):
            where = (JOIN.join(self.profiles.parts[u]), self.profiles.context[u], self.part[u])
            what = "control" if u < 0 else "\t".join(where)
            digest.update(f"{name}\t{what}\n".encode())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        names = {part: [self.profiles.title(u) for u in self.at(part)] for part in (TRAIN, VALID, TEST, UNUSED)}
        return {
            "by": self.by,
            "fold": self.fold,
            "num_folds": self.num_folds,
            "seed": self.seed,
            "profiles": names,
            "groups": {self.profiles.title(u): self.group(u) for u in self.at(TEST)},
            "notes": list(self.notes),
        }


def split_perturbations(
    profiles: ProfileNames,
    by: Literal["single", "double", "gears", "cells"],
    *,
    num_folds: int = 5,
    valid: float = 0.2,
    seed: int = 0,
) -> list[PerturbationSplit]:
    """Return the folds of a split: every single (combination, context) is held out once.

    Parameters
    ----------
    by
        What is held out; see the module's text.
    num_folds
        Folds of ``single``, ``double`` and ``gears``; never more than there are things to deal. ``cells`` has one for
        each context.
    valid
        Share of what a fold leaves for training that is held out for choosing; at least one profile, where enough are
        left (three), and none otherwise, which ``notes`` says.

    Raises
    ------
    ValueError
        Unknown split, shares out of range, or too little to deal out: two genes with singles (two combinations, two
        contexts) are needed.
    """
    if by not in SPLITS:
        raise ValueError(f"split = {by!r}; choose one of {', '.join(SPLITS)}")
    if num_folds < 2 or not 0 <= valid < 1:
        raise ValueError(f"num_folds = {num_folds}, valid = {valid}: 2 folds or more, and a share below 1, are needed")
    things = _things(profiles, by)
    if len(things) < 2:
        raise ValueError(f"the split {by!r} needs at least 2 {_WHAT[by]}, there are {len(things)}; take another split")
    rng = np.random.default_rng(seed)
    order = [things[i] for i in rng.permutation(len(things))]
    num_folds = len(things) if by == "cells" else min(num_folds, len(things))
    doubles = _things(profiles, "double") if by == "gears" else []
    doubles = [doubles[i] for i in rng.permutation(len(doubles))]
    found = []
    for fold in range(num_folds):
        held = set(order[fold::num_folds])
        part = _deal(profiles, by, held, set(doubles[fold::num_folds]))
        notes = _hold_for_choosing(profiles, by, part, valid, np.random.default_rng([seed, fold]))
        found.append(
            PerturbationSplit(
                profiles=profiles,
                part=tuple(part),
                by=by,
                fold=fold,
                num_folds=num_folds,
                seed=seed,
                notes=tuple(notes),
            )
        )
    return found


_WHAT = {
    "single": "genes perturbed alone",
    "gears": "genes perturbed alone",
    "double": "combinations",
    "cells": "contexts (name their column: context=, --context)",
}


def _things(profiles: ProfileNames, by: str) -> list[Any]:
    """Return what is dealt into folds: genes, combinations or contexts."""
    if by == "cells":
        return sorted(set(profiles.context))
    if by == "double":
        return sorted({parts for parts in profiles.parts if len(parts) > 1})
    return sorted({parts[0] for parts in profiles.parts if len(parts) == 1})


def _deal(profiles: ProfileNames, by: str, held: set[Any], doubles: set[Parts]) -> list[str]:
    """Return the part of each profile when these things are held out."""
    part = []
    for parts, context in zip(profiles.parts, profiles.context, strict=True):
        if by == "cells":
            is_test, is_spoilt = context in held, False
        elif by == "double":
            is_test, is_spoilt = parts in held, False
        else:
            has_held = bool(held & set(parts))
            is_test = has_held and (by == "gears" or len(parts) == 1) or parts in doubles
            is_spoilt = has_held
        part.append(TEST if is_test else UNUSED if is_spoilt else TRAIN)
    return part


def _hold_for_choosing(
    profiles: ProfileNames, by: str, part: list[str], valid: float, rng: np.random.Generator
) -> list[str]:
    """Turn some of train into valid, in place, in the way that test was held out; return what there is to say."""
    train = [u for u, name in enumerate(part) if name == TRAIN]
    left = ProfileNames(
        parts=tuple(profiles.parts[u] for u in train), context=tuple(profiles.context[u] for u in train)
    )
    things = _things(left, by)
    notes = []
    if (num_unused := part.count(UNUSED)) > 0:
        notes.append(f"{num_unused} combinations with a held-out gene are used for nothing")
    if not valid:
        return notes
    if len(things) < 3:
        return [*notes, "too little is left for training to hold any of it out for choosing; lengths are fixed"]
    num = min(max(1, round(valid * len(things))), len(things) - 2)
    chosen = {things[i] for i in rng.permutation(len(things))[:num]}
    for u, name in zip(train, _deal(left, by, chosen, set()), strict=True):
        part[u] = VALID if name == TEST else name
    return notes
