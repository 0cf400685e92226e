"""Reverse perturbation on held-out perturbations: every method ranks the candidates for states that it has not seen.

A state is half of the real cells of a test profile, each half once. The replicate (roof) knows the other half, the
real effect of whatever else was measured, and the sum of single effects of what was not; chance (floor) knows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.baselines.perturbation import Asked, Known, additive
from cellwright.data.perturbation_splits import TEST, PerturbationSplit
from cellwright.metrics.reverse import hit_at, rank_share, relevant_at
from cellwright.tasks.lessons import Screen, make_lesson
from cellwright.tasks.perturb import PerturbModel, Predicted, baselines
from cellwright.tasks.reverse import (
    Parts,
    Reference,
    State,
    Way,
    asked_in,
    place_of,
    reference_of,
    shares_a_part,
)

CHANCE, REPLICATE = "random_order", "replicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What is ranked, and how."""

    candidates: tuple[Parts, ...]
    ways: tuple[Way, ...]
    """The first is the one that counts."""
    sizes: tuple[int, ...]
    """Numbers of candidates looked at (K)."""
    num_neighbors: int = 10
    cells_each: int = 40
    """Reference cells of each candidate, for votes (published: 40)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reversed:
    """Scores of every method and way for every state that was asked for."""

    ranking: Ranking
    at_q: np.ndarray
    """int64: test profile of each state."""
    fold_q: np.ndarray
    half_q: np.ndarray
    group_q: tuple[str, ...]
    value: Mapping[str, Mapping[Way, Mapping[str, np.ndarray]]]
    """Method -> way -> metric -> value of each state."""
    score_qk: Mapping[str, np.ndarray]
    """Method -> scores of the candidates by the first way."""
    seconds: Mapping[str, float]
    what: Mapping[str, str]
    is_baseline: Mapping[str, bool]


def reverse_folds(
    screen: Screen,
    splits: Sequence[PerturbationSplit],
    models: Sequence[PerturbModel],
    ranking: Ranking,
    *,
    known: Known | None = None,
) -> Reversed:
    """Let every model and every baseline learn each fold's lesson and rank the candidates for its test profiles.

    Raises
    ------
    ValueError
        A test profile's perturbation is not among the candidates, or a K is larger than their number.
    """
    known = known or Known(genes=screen.genes, panel_at=screen.panel_at)
    num = len(ranking.candidates)
    if num < 2 or max(ranking.sizes) > num:
        raise ValueError(
            f"there are {num} candidates to rank and the first {max(ranking.sizes)} are to be looked at; ask for fewer "
            "(--top), or rank more (--candidates pairs)"
        )
    methods = [*baselines(known), *models]
    names = [CHANCE, *(method.name for method in methods), REPLICATE]
    tally = _Tally(screen, ranking, names)
    seconds = dict.fromkeys(names, 0.0)
    for split in splits:
        lesson = make_lesson(screen, split, known)
        fitted = {}
        for method in methods:
            start = time.perf_counter()
            fitted[method.name] = method.fit(lesson)
            seconds[method.name] += time.perf_counter() - start
        for context in np.unique(screen.context_u[split.at(TEST)]).tolist():
            asked = asked_in(screen, ranking.candidates, context)
            test = [u for u in split.at(TEST) if screen.context_u[u] == context]
            tally.add_states(split, test)
            for name in names:
                start = time.perf_counter()
                if name == REPLICATE:
                    tally.score_replicate(test, asked, _Measured(screen, known, context))
                else:
                    tally.score(
                        name, test, tally.reference(asked, fitted[name].predict(asked)) if name in fitted else None
                    )
                seconds[name] += time.perf_counter() - start
    is_model = {model.name for model in models}
    what = {method.name: method.what for method in methods}
    what |= {CHANCE: "candidates in random order: chance", REPLICATE: _REPLICATE_IS}
    return tally.finished(
        seconds={name: seconds[name] for name in what},
        what={name: what[name] for name in names},
        is_baseline={name: name not in is_model for name in names},
    )


_REPLICATE_IS = (
    "real effects (of the wanted one by the other half of its cells), sums of single effects where not measured"
)


class _Measured:
    """Real effects in one context, from the controls that methods see."""

    def __init__(self, screen: Screen, known: Known, context: int):
        self.screen, self.context = screen, context
        self.control_g = screen.control_means(screen.is_seen_n)[context]
        self.at = {parts: u for u, parts in enumerate(screen.profiles.parts) if screen.context_u[u] == context}
        self.whole = screen.known_profiles(sorted(self.at.values()))
        self.known = known

    def effects(self, asked: Asked, truth: int, half: int) -> np.ndarray:
        """Return effects of candidates; that of profile ``truth`` by the cells that are not of ``half``."""
        screen = self.screen
        rows = np.flatnonzero((screen.profile_n == truth) & (screen.half_n != half))
        effect_kg = additive(self.whole, asked, self.known)
        for k, parts in enumerate(asked.parts):
            if parts in self.at:
                own = rows if self.at[parts] == truth else np.flatnonzero(screen.profile_n == self.at[parts])
                effect_kg[k] = screen.moments(own)[0] - self.control_g
        return effect_kg


class _Tally:
    """Scores as they come in."""

    def __init__(self, screen: Screen, ranking: Ranking, names: Sequence[str]):
        self.screen, self.ranking = screen, ranking
        self.at_q: list[int] = []
        self.fold_q: list[int] = []
        self.half_q: list[int] = []
        self.group_q: list[str] = []
        self.value = {name: {way: {} for way in ranking.ways} for name in names}
        self.score_q: dict[str, list[np.ndarray]] = {name: [] for name in names}
        self.control_cg = screen.control_means(screen.is_scored_n)

    def add_states(self, split: PerturbationSplit, test: Sequence[int]) -> None:
        for u in test:
            for half in (0, 1):
                self.at_q.append(u)
                self.fold_q.append(split.fold)
                self.half_q.append(half)
                self.group_q.append(split.group(u))

    def state(self, u: int, half: int) -> State:
        screen = self.screen
        rows = np.flatnonzero((screen.profile_n == u) & (screen.half_n == half))
        return State(cell_ng=screen.log_ng[rows].toarray(), control_g=self.control_cg[screen.context_u[u]])

    def reference(self, asked: Asked, predicted: Predicted) -> Reference:
        """Return predicted outcomes as states are compared with them."""
        each = self.ranking.cells_each if "votes" in self.ranking.ways else 0
        return reference_of(self.screen, asked, predicted, cells_each=each, seed=self.screen.seed)

    def score(self, name: str, test: Sequence[int], reference: Reference | None) -> None:
        for u in test:
            for half in (0, 1):
                self._score(name, u, self.state(u, half), reference)

    def score_replicate(self, test: Sequence[int], asked: Asked, measured: _Measured) -> None:
        """Score the roof, whose answer depends on the half that is asked."""
        for u in test:
            for half in (0, 1):
                answer = Predicted(measured.effects(asked, u, half))
                self._score(REPLICATE, u, self.state(u, half), self.reference(asked, answer))

    def _score(self, name: str, u: int, state: State, reference: Reference | None) -> None:
        ranking = self.ranking
        parts = self.screen.profiles.parts[u]
        truth = place_of(ranking.candidates, parts)
        is_relevant_k = shares_a_part(ranking.candidates, parts)
        for way in ranking.ways:
            score_k = np.zeros(len(ranking.candidates))
            if reference is not None:
                score_k = reference.scores(state, way, num_neighbors=ranking.num_neighbors)
            if way == ranking.ways[0]:
                self.score_q[name].append(score_k)
            found = {f"hit_at_{num}": hit_at(score_k, truth, num) for num in ranking.sizes}
            found |= {f"relevant_at_{num}": relevant_at(score_k, is_relevant_k, num) for num in ranking.sizes}
            found["rank_share"] = rank_share(score_k, truth)
            for metric, value in found.items():
                self.value[name][way].setdefault(metric, []).append(value)

    def finished(self, **more: Mapping) -> Reversed:
        value = {
            name: {way: {metric: np.array(some) for metric, some in scores.items()} for way, scores in by_way.items()}
            for name, by_way in self.value.items()
        }
        return Reversed(
            ranking=self.ranking,
            at_q=np.array(self.at_q),
            fold_q=np.array(self.fold_q),
            half_q=np.array(self.half_q),
            group_q=tuple(self.group_q),
            value=value,
            score_qk={name: np.array(some) for name, some in self.score_q.items()},
            **more,
        )
