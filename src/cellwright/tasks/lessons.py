"""Screens and lessons: what is known of perturbations, and what a method may learn from it in a fold.

A *screen* is cells with known perturbations, as log expression, and its *profiles*: one perturbation in one context,
with enough cells. A fold of a split gives a *lesson* (training and validation profiles, their cells, and the controls
that may be seen). A lesson holds no test cell, so nothing can leak. Half of the controls are kept for scoring: see
`cellwright.metrics.effects`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from cellwright.baselines.perturbation import Asked, Known, Profiles
from cellwright.data.perturbation_splits import TRAIN, VALID, PerturbationSplit, ProfileNames
from cellwright.data.perturbations import Perturbations


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Screen:
    """Cells with known perturbations. Made by `cellwright.tasks.screen.open_screen`."""

    source: str
    genes: tuple[str, ...]
    log_ng: sparse.csr_matrix
    """float32: log1p of counts per 10,000."""
    perturbations: Perturbations
    profiles: ProfileNames
    profile_n: np.ndarray
    """int64: profile of each cell, -1 = control, -2 = left out."""
    contexts: tuple[str, ...]
    context_n: np.ndarray
    """int64."""
    tech_batch_n: np.ndarray | None
    is_seen_n: np.ndarray
    """bool: controls that models may see; False at perturbed cells."""
    is_scored_n: np.ndarray
    """bool: controls that effects are scored against; disjoint from those seen unless they were asked to be shared."""
    half_n: np.ndarray
    """int8: 0 or 1, the half of its profile that a cell belongs to."""
    obs_names: np.ndarray
    panel_at: Mapping[str, int]
    """Perturbed gene -> its column, where the panel measures it."""
    contract: Any
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def context_u(self) -> np.ndarray:
        """int64: context code of each profile."""
        return np.array([self.contexts.index(name) for name in self.profiles.context], np.int64)

    def asked(self, at_u: Sequence[int]) -> Asked:
        """Return the question for these profiles: what is done, where, and the controls that may be seen."""
        at_u = np.asarray(at_u, np.int64)
        control_cg = self.control_means(self.is_seen_n)
        return Asked(
            parts=tuple(self.profiles.parts[u] for u in at_u),
            context_u=self.context_u[at_u],
            control_ug=control_cg[self.context_u[at_u]],
        )

    def asked_anew(self, parts: Sequence[str]) -> Asked:
        """Return the question what this would do in every context that has controls to start from."""
        num = len(self.contexts)
        return Asked(
            parts=(tuple(parts),) * num,
            context_u=np.arange(num),
            control_ug=np.nan_to_num(self.control_means(self.is_seen_n)),
        )

    def observed_effects(self, at_u: Sequence[int]) -> np.ndarray:
        """Return real effects of these profiles against the controls that are for scoring, ``[u, g]``."""
        at_u = np.asarray(at_u, np.int64)
        control_cg = self.control_means(self.is_scored_n)
        return self.known_profiles(at_u).mean_ug - control_cg[self.context_u[at_u]]

    def known_profiles(self, at_u: Sequence[int]) -> Profiles:
        """Return these profiles with their outcome."""
        rows = [np.flatnonzero(self.profile_n == u) for u in at_u]
        mean_ug = np.array([self.moments(row)[0] for row in rows]).reshape(len(rows), len(self.genes))
        return Profiles(asked=self.asked(at_u), mean_ug=mean_ug, num_cells_u=np.array([len(row) for row in rows]))

    def control_means(self, is_taken_n: np.ndarray) -> np.ndarray:
        """Return the mean of the chosen controls of every context: float64 ``[contexts, g]``, NaN where none is."""
        out_cg = np.full((len(self.contexts), len(self.genes)), np.nan)
        for code in range(len(self.contexts)):
            rows = np.flatnonzero(is_taken_n & (self.context_n == code))
            if len(rows):
                out_cg[code] = self.moments(rows)[0]
        return out_cg

    def moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance (n - 1) of some cells, float64 ``[g]``; the variance of one cell is 0."""
        some_ng = self.log_ng[rows].astype(np.float64)
        mean_g = some_ng.mean(axis=0).A1
        square_g = some_ng.multiply(some_ng).mean(axis=0).A1
        return mean_g, np.maximum(square_g - mean_g**2, 0) * len(rows) / max(len(rows) - 1, 1)

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "source": self.source,
            "num_cells": len(self.profile_n),
            "num_genes": len(self.genes),
            "num_profiles": len(self.profiles),
            "contexts": list(self.contexts),
            "num_controls_seen": int(self.is_seen_n.sum()),
            "num_controls_scored": int(self.is_scored_n.sum()),
            "perturbations": self.perturbations.record(),
            "contract": self.contract.record(),
            "notes": list(self.notes),
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """All that a method may learn from in one fold."""

    genes: tuple[str, ...]
    profiles: Profiles
    """Training and validation profiles."""
    is_valid_u: np.ndarray
    """bool: the profile is for choosing only."""
    log_ng: sparse.csr_matrix
    """Log expression of the cells of these profiles and of the controls that may be seen."""
    row_n: np.ndarray
    """int64: where these cells stand in the screen (for models that read them in another way)."""
    profile_n: np.ndarray
    """int64: row of ``profiles`` that each cell belongs to, -1 = control."""
    context_n: np.ndarray
    tech_batch_n: np.ndarray | None
    known: Known
    seed: int

    def trained_by(self, seed: int | None) -> Lesson:
        """Return the same lesson with another seed; ``None`` = its own."""
        return self if seed is None else replace(self, seed=seed)

    @property
    def train(self) -> Profiles:
        """The profiles to learn from."""
        return self.profiles.take(np.flatnonzero(~self.is_valid_u))

    @property
    def valid(self) -> Profiles:
        """The profiles to choose by; may be empty."""
        return self.profiles.take(np.flatnonzero(self.is_valid_u))


def make_lesson(screen: Screen, split: PerturbationSplit, known: Known | None = None) -> Lesson:
    """Return what may be learnt from in a fold; the cells of test and unused profiles are not in it."""
    return _lesson(screen, split.at(TRAIN), split.at(VALID), known)


def whole_lesson(screen: Screen, known: Known | None = None, *, valid: float = 0.2) -> Lesson:
    """Return the lesson of the whole screen, for predicting what was not measured; some profiles are for choosing."""
    num = len(screen.profiles)
    order = np.random.default_rng(screen.seed).permutation(num).tolist()
    num_valid = round(valid * num) if num >= 5 else 0
    return _lesson(screen, sorted(order[num_valid:]), sorted(order[:num_valid]), known)


def _lesson(screen: Screen, train: list[int], valid: list[int], known: Known | None) -> Lesson:
    place_u = np.full(len(screen.profiles), -1)
    place_u[train + valid] = np.arange(len(train) + len(valid))
    is_known_n = np.zeros(len(screen.profile_n), bool)
    is_known_n[screen.profile_n >= 0] = place_u[screen.profile_n[screen.profile_n >= 0]] >= 0
    row_n = np.flatnonzero(is_known_n | screen.is_seen_n)
    profile_n = screen.profile_n[row_n]
    return Lesson(
        genes=screen.genes,
        profiles=screen.known_profiles(train + valid),
        is_valid_u=np.arange(len(train) + len(valid)) >= len(train),
        log_ng=screen.log_ng[row_n],
        row_n=row_n,
        profile_n=np.where(profile_n >= 0, place_u[profile_n], -1),
        context_n=screen.context_n[row_n],
        tech_batch_n=None if screen.tech_batch_n is None else screen.tech_batch_n[row_n],
        known=known or Known(genes=screen.genes, panel_at=screen.panel_at),
        seed=screen.seed,
    )
