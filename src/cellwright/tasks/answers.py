"""Answers at any level of a hierarchy: back-off to the most specific term that is probable enough.

Everything here works on probabilities and the lineages of answers (`cellwright.tasks.lineages`), so that told words and
a trained class head are treated alike. A term has the probability of all answers at or below it: no term has less than
one below it, and the one above all has 1. Calling a cell by a broader term is therefore never less safe, and as safe as
the sum says if the answers' own probabilities are calibrated; summing does not calibrate them. Axes: ``k`` answers,
``u`` terms with different answers below them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellwright.tasks.annotate import UNASSIGNED, check_threshold
from cellwright.tasks.lineages import Lineages

UNKNOWN_TERM = "unknown"
"""Id of cells whose answer is no term of the Cell Ontology (as CELLxGENE writes it)."""
LEVELS = ("fine", "coarse", "broader", "root", UNASSIGNED)
"""fine: what the model itself answers. coarse: a coarse word. broader: another term above. root: just a cell."""
_ROWS = 8192  # cells at a time, for bounded memory
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """One answer a cell, at any level of a hierarchy."""

    label_n: np.ndarray
    """str ``[n]``."""
    prob_n: np.ndarray
    """float32 ``[n]``: probability of the answered term, that of all answers below it included."""
    level_n: np.ndarray
    """str ``[n]``, of `LEVELS`."""
    term_n: np.ndarray
    """str ``[n]``: id of the Cell Ontology, a broader one where the answer has none of its own; or "unknown"."""
    along: str
    """What was climbed: words | given | ontology."""
    unplaced: tuple[str, ...] = ()
    """The model's answers that have no place in it; above them is the root alone."""
    coarse_n: np.ndarray | None = None
    """str ``[n]``: coarse word of the answer; the answer itself where it is a coarse word or broader."""
    coarse_prob_n: np.ndarray | None = None
    """float32 ``[n]``."""


def most_likely(prob_nk: np.ndarray, lineages: Lineages, *, along: str, threshold: float = 0.0) -> Answers:
    """Return the answer of the highest probability as it is, with the id of its term."""
    best_n = prob_nk.argmax(1)
    level_of = _Levels(lineages)
    level_k = [level_of(own, is_own=k not in lineages.alone) for k, own in enumerate(lineages.own)]
    own_k = np.array(lineages.own, dtype=object)
    return _answers(
        label_n=np.array(lineages.names, dtype=object)[best_n],
        key_n=own_k[best_n],
        prob_n=prob_nk[np.arange(len(best_n)), best_n],
        level_n=np.array(level_k, dtype=object)[best_n],
        found=(prob_nk, lineages, along, threshold),
    )


def back_off(
    prob_nk: np.ndarray, lineages: Lineages, at_least: float, *, along: str, threshold: float = 0.0
) -> Answers:
    """Answer with the most specific term whose probability reaches ``at_least``.

    The likeliest answer stays where its own term reaches that. Otherwise the most specific term is the one with the
    fewest answers at or below it; among these the likeliest. (In a tree, and for more than one half, there is only one
    lowest term.) Of terms with the same answers below them the lowest stands for all.

    Parameters
    ----------
    prob_nk
        float ``[n, k]``, rows sum to 1.
    lineages
        What is above each answer.
    at_least
        0 .. 1; 0 leaves the likeliest answer as it is, 1 asks for the term above all that is possible.
    along
        What the lineages follow, for the record.
    threshold
        Answers whose probability is below are "unassigned".

    Raises
    ------
    ValueError
        When a probability is out of range.
    """
    if not 0 <= at_least <= 1:
        raise ValueError(f"back_off is {at_least}; it is a probability, 0 .. 1")
    if at_least == 0:
        return most_likely(prob_nk, lineages, along=along, threshold=threshold)
    keys, is_below_ku, rank_u = _distinct_terms(lineages)
    own_k, best_n = np.array([keys.index(own) for own in lineages.own]), prob_nk.argmax(1)
    chosen_n, prob_n = np.zeros(len(prob_nk), np.int64), np.zeros(len(prob_nk), np.float32)
    for start in range(0, len(prob_nk), _ROWS):
        rows = slice(start, start + _ROWS)
        mass_nu = prob_nk[rows].astype(np.float64) @ is_below_ku
        is_reached_nu = mass_nu >= at_least - _ROUNDING
        is_reached_nu[:, -1] = True  # the root
        rank_nu = np.where(is_reached_nu, rank_u, len(rank_u))
        is_lowest_nu = rank_nu == rank_nu.min(1, keepdims=True)
        at_n, own_n = np.arange(len(mass_nu)), own_k[best_n[rows]]
        lowest_n = np.where(is_lowest_nu, mass_nu.round(9), -1).argmax(1)
        chosen_n[rows] = np.where(is_reached_nu[at_n, own_n], own_n, lowest_n)
        prob_n[rows] = np.minimum(mass_nu[at_n, chosen_n[rows]], 1)
    is_alone_k = np.isin(np.arange(prob_nk.shape[1]), list(lineages.alone))
    is_own_n = (own_k[best_n] == chosen_n) & ~is_alone_k[best_n]
    level_of = _Levels(lineages)
    level_u = [[level_of(key, is_own=is_own) for key in keys] for is_own in (False, True)]
    return _answers(
        label_n=np.array([lineages.title_of[key] for key in keys], dtype=object)[chosen_n],
        key_n=np.array(keys, dtype=object)[chosen_n],
        prob_n=prob_n,
        level_n=np.array(level_u, dtype=object)[is_own_n.astype(int), chosen_n],
        found=(prob_nk, lineages, along, threshold),
    )


def _distinct_terms(lineages: Lineages) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return keys of terms, the root last; bool ``[k, u]``: the answer is at or below it; rank ``[u]``.

    Of terms with the same answers below them the lowest stands for all, or an answer's own one where there is one.
    """
    below: dict[str, dict[int, int]] = {}
    for k, above in enumerate(lineages.above):
        for key, steps in above.items():
            below.setdefault(key, {})[k] = steps
    groups: dict[tuple[int, ...], list[str]] = {}
    for key, steps in below.items():
        groups.setdefault(tuple(steps), []).append(key)
    own = set(lineages.own)
    lowest = []
    for keys in groups.values():
        mine = [key for key in keys if key in own]
        lowest += mine or [min(keys, key=lambda key: (sum(below[key].values()), key))]
    num = {key: len({lineages.own[k] for k in below[key]}) for key in lowest}
    lowest.sort(key=lambda key: (num[key], len(below[key]), sum(below[key].values()), key))
    is_below_ku = np.zeros((len(lineages.above), len(lowest)))
    for u, key in enumerate(lowest):
        is_below_ku[list(below[key]), u] = 1
    return tuple(lowest), is_below_ku, np.array([num[key] for key in lowest])


class _Levels:
    """Tells the level of a term; ``is_own``: the likeliest answer is this term, in a fine word or as a class."""

    def __init__(self, lineages: Lineages):
        self.root, self.broader = lineages.root, lineages.broader
        self.coarse = frozenset(lineages.coarse) - {None}
        self.fine = {own for k, own in enumerate(lineages.own) if k not in lineages.alone}

    def __call__(self, key: str, *, is_own: bool) -> str:
        if key == self.root:
            return "root"
        if key in self.broader:
            return "broader"
        if key in self.fine and (is_own or key not in self.coarse):
            return "fine"
        return "coarse" if key in self.coarse else "broader"


def _answers(
    *, label_n: np.ndarray, key_n: np.ndarray, prob_n: np.ndarray, level_n: np.ndarray, found: tuple[Any, ...]
) -> Answers:
    """Put answers together; those below the threshold become unassigned."""
    prob_nk, lineages, along, threshold = found
    check_threshold(threshold)
    is_kept_n = prob_n >= threshold
    term_n = np.array([lineages.term_of.get(key, UNKNOWN_TERM) for key in key_n], dtype=object)
    answers = Answers(
        label_n=np.where(is_kept_n, label_n, UNASSIGNED).astype(str),
        prob_n=prob_n.astype(np.float32),
        level_n=np.where(is_kept_n, level_n, UNASSIGNED).astype(str),
        term_n=np.where(is_kept_n, term_n, UNKNOWN_TERM).astype(str),
        along=along,
        unplaced=lineages.unplaced,
    )
    if not lineages.coarse:
        return answers
    coarse_n, coarse_prob_n = answers.label_n.astype(object), answers.prob_n.copy()
    own_k, coarse_k = (np.array(keys, dtype=object) for keys in (lineages.own, lineages.coarse))
    is_alone_k = np.isin(np.arange(len(own_k)), list(lineages.alone))
    for key in set(key_n[answers.level_n == "fine"]):
        at_n = np.flatnonzero((key_n == key) & (answers.level_n == "fine"))
        at_k = np.flatnonzero((own_k == key) & ~is_alone_k)
        said_n = coarse_k[at_k][prob_nk[np.ix_(at_n, at_k)].argmax(1)]
        coarse_n[at_n] = [lineages.title_of.get(said, said) for said in said_n]
        is_same_nk = coarse_k[None] == said_n[:, None]
        coarse_prob_n[at_n] = np.minimum((prob_nk[at_n] * is_same_nk).sum(1), 1)
    is_low_n = coarse_prob_n < threshold
    coarse_n[is_low_n] = UNASSIGNED
    return replace(answers, coarse_n=coarse_n.astype(str), coarse_prob_n=coarse_prob_n)
