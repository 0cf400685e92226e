"""Reverse perturbation: which perturbation would bring cells into a wanted state?

Every candidate's outcome is predicted, and candidates are ranked by how near the wanted state they come, in one of
three ways. ``effect``: cosine between the change that is wanted and the change that is predicted, both from controls.
``distance``: Euclidean distance between mean profiles. ``votes``: each wanted cell takes its nearest predicted cells,
and candidates are ranked by the cells taken (as published); equal votes are parted by ``distance``.

Source: scGPT (Cui et al., Nature Methods 2024, "reverse perturbation": predictions from control cells as reference,
top-K retrieval by Euclidean distance, votes of cells).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from cellwright.baselines.perturbation import Asked
from cellwright.config import some_of
from cellwright.data.perturbations import JOIN, Perturbations
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import Predicted

Parts = tuple[str, ...]
Way = Literal["effect", "distance", "votes"]
WAYS: tuple[Way, ...] = ("effect", "distance", "votes")
_LEAST_SIZE = 1e-12
_CELLS_AT_ONCE = 64  # distances to 20,000 reference cells: 10 MB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """Cells as they are wanted."""

    cell_ng: np.ndarray
    """float: log1p of counts per 10,000 over the panel."""
    control_g: np.ndarray
    """Mean of the controls that the wanted change is measured from."""

    @property
    def mean_g(self) -> np.ndarray:
        """Mean profile."""
        return self.cell_ng.mean(0, dtype=np.float64)

    @property
    def effect_g(self) -> np.ndarray:
        """Change that is wanted."""
        return self.mean_g - self.control_g


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """Predicted outcomes of all candidates in one context."""

    parts: tuple[Parts, ...]
    effect_kg: np.ndarray
    control_g: np.ndarray
    """Mean of the controls that predictions start from."""
    cell_mg: np.ndarray
    """Reference cells, controls first brought into each candidate's state; empty where votes are not asked for."""
    candidate_m: np.ndarray
    """int64: candidate of each reference cell."""

    def over(self, columns_k: np.ndarray) -> Reference:
        """Return the same over some genes."""
        return replace(
            self,
            effect_kg=self.effect_kg[:, columns_k],
            control_g=self.control_g[columns_k],
            cell_mg=self.cell_mg[:, columns_k],
        )

    def scores(self, state: State, way: Way, *, num_neighbors: int = 10) -> np.ndarray:
        """Return how near each candidate comes to the state, float64 ``[k]``, higher = nearer."""
        if way == "effect":
            return _cosines(self.effect_kg, state.effect_g)
        distance_k = np.round(np.linalg.norm(self.control_g + self.effect_kg - state.mean_g, axis=1), 9)
        if way == "distance":
            return -distance_k
        vote_k = self.votes(state, num_neighbors)
        # less than half a vote between the nearest and the farthest
        spread = np.ptp(distance_k)
        return vote_k - (0.49 * (distance_k - distance_k.min()) / spread if spread > 0 else 0.0)

    def votes(self, state: State, num_neighbors: int) -> np.ndarray:
        """Return how many reference cells of each candidate are among the nearest of the wanted cells, ``[k]``.

        Reference cells equally far share the last places, so that candidates with equal cells have equal votes.
        """
        num = min(num_neighbors, len(self.cell_mg))
        vote_k = np.zeros(len(self.parts))
        for start in range(0, len(state.cell_ng), _CELLS_AT_ONCE):
            distance_nm = cdist(state.cell_ng[start : start + _CELLS_AT_ONCE], self.cell_mg)
            least_n1 = np.partition(distance_nm, num - 1, axis=1)[:, num - 1 : num]
            is_near_nm, is_last_nm = distance_nm < least_n1, distance_nm == least_n1
            share_n1 = (num - is_near_nm.sum(1, keepdims=True)) / is_last_nm.sum(1, keepdims=True)
            weight_m = (is_near_nm + is_last_nm * share_n1).sum(0)
            vote_k += np.bincount(self.candidate_m, weights=weight_m, minlength=len(vote_k))
        return np.round(vote_k, 6)


def _cosines(effect_kg: np.ndarray, wanted_g: np.ndarray) -> np.ndarray:
    """Return cosines, 0 where there is no change; rounded, so that equal predictions are equal."""
    size_k = np.linalg.norm(effect_kg, axis=1) * np.linalg.norm(wanted_g)
    cosine_k = np.divide(effect_kg @ wanted_g, size_k, out=np.zeros(len(effect_kg)), where=size_k > _LEAST_SIZE)
    return np.round(cosine_k, 9)


def candidates_of(perturbations: Perturbations, kind: Literal["measured", "pairs"]) -> tuple[Parts, ...]:
    """Return the perturbations that are ranked.

    ``measured``: every condition of the screen. ``pairs``: everything that occurs in one, alone, and all pairs of it.
    """
    if kind == "measured":
        return perturbations.parts
    parts = perturbations.all_parts
    return (*((part,) for part in parts), *combinations(parts, 2))


def asked_in(screen: Screen, parts: Sequence[Parts], context: int) -> Asked:
    """Return the question what each of these would do in a context."""
    control_g = screen.control_means(screen.is_seen_n)[context]
    return Asked(
        parts=tuple(parts),
        context_u=np.full(len(parts), context, np.int64),
        control_ug=np.tile(control_g, (len(parts), 1)),
    )


def reference_of(
    screen: Screen, asked: Asked, predicted: Predicted, *, cells_each: int = 0, seed: int = 0
) -> Reference:
    """Return the predicted outcomes of candidates in one context, with ``cells_each`` reference cells of each.

    Cells that the method predicts are taken where there are enough; else controls shifted by its effect, not below 0.
    """
    context = int(asked.context_u[0])
    controls = np.flatnonzero(screen.is_seen_n & (screen.context_n == context))
    controls = np.random.default_rng(seed).permutation(controls)[:cells_each]
    start_ng = screen.log_ng[controls].toarray().astype(np.float32)
    cells, owner = [], []
    for k in range(len(asked) if cells_each else 0):
        made_mg = predicted.cells.get(k)
        if made_mg is None:
            made_mg = np.maximum(start_ng + predicted.effect_ug[k], 0)
        cells.append(made_mg[:cells_each].astype(np.float32))
        owner.append(np.full(len(cells[-1]), k))
    return Reference(
        parts=asked.parts,
        effect_kg=predicted.effect_ug,
        control_g=asked.control_ug[0],
        cell_mg=np.concatenate(cells) if cells else np.zeros((0, len(screen.genes)), np.float32),
        candidate_m=np.concatenate(owner) if owner else np.zeros(0, np.int64),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Candidates, the nearest to the wanted state first."""

    parts: tuple[Parts, ...]
    score_k: np.ndarray

    @classmethod
    def by(cls, parts: Sequence[Parts], score_k: np.ndarray) -> Ranked:
        """Put candidates in order; equal scores keep the order given."""
        order = np.argsort(-score_k, kind="stable")
        return cls(tuple(parts[k] for k in order), score_k[order])

    def lines(self, num: int = 10) -> list[str]:
        """Return the first candidates as text."""
        names = [JOIN.join(parts) for parts in self.parts[:num]]
        width = max(map(len, names), default=0)
        return [
            f"{place:>3}  {name.ljust(width)}  {score:.3f}"
            for place, (name, score) in enumerate(zip(names, self.score_k[:num], strict=True), 1)
        ]


def shares_a_part(candidates: Sequence[Parts], truth: Parts) -> np.ndarray:
    """Return bool ``[k]``: the candidate shares what is perturbed, in part or whole."""
    return np.array([bool(set(parts) & set(truth)) for parts in candidates])


def place_of(candidates: Sequence[Parts], truth: Parts) -> int:
    """Return where a perturbation stands among the candidates; its absence is a ``ValueError``."""
    try:
        return list(candidates).index(truth)
    except ValueError:
        known = some_of([JOIN.join(parts) for parts in candidates])
        raise ValueError(
            f"{JOIN.join(truth)!r} is not among the {len(candidates)} candidates ({known}); take candidates='measured'"
        ) from None
