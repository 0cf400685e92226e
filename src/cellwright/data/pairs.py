"""Pair perturbed cells with controls: what a model is given, and what it is to predict.

A perturbed cell has no measured "before": each is paired with a control cell drawn at random among those of the same
context (cell type) and, where there is one, the same sequencing batch, so that a difference of batches is not taken for
an effect. Controls are drawn in rounds (every one once before any comes again), and the draw is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Perturbed cells and the control of each."""

    row_n: np.ndarray
    """int64: perturbed cells, as they were given."""
    control_n: np.ndarray
    """int64: the control paired with each."""
    is_matched_n: np.ndarray
    """bool: the control is of the same sequencing batch (always, where no batches are given)."""


def pair_controls(
    rows: np.ndarray,
    controls: np.ndarray,
    *,
    context_n: np.ndarray,
    tech_batch_n: np.ndarray | None = None,
    seed: int,
) -> Pairs:
    """Pair each of ``rows`` with one of ``controls``.

    Parameters
    ----------
    rows, controls
        Positions of perturbed and of control cells.
    context_n
        Code of the context of every cell of the data (all 0 where there is one context).
    tech_batch_n
        Code of the sequencing batch of every cell, -1 = not known. A perturbed cell whose context has no control in its
        batch is paired within the context alone, and ``is_matched_n`` says so.

    Raises
    ------
    ValueError
        No rows, or a context of ``rows`` that has no control.
    """
    rows, controls = np.asarray(rows, np.int64), np.asarray(controls, np.int64)
    if not len(rows):
        raise ValueError("no perturbed cells to pair with controls")
    rng = np.random.default_rng(seed)
    control_n = np.full(len(rows), -1, np.int64)
    is_matched_n = np.ones(len(rows), bool)
    for context in np.unique(context_n[rows]):
        mine = controls[context_n[controls] == context]
        if not len(mine):
            raise ValueError(f"context {context} has perturbed cells and no control to pair them with")
        at_n = np.flatnonzero(context_n[rows] == context)
        for at_k, pool, is_matched in _pools(rows, at_n, mine, tech_batch_n):
            control_n[at_k] = _in_rounds(pool, len(at_k), rng)
            is_matched_n[at_k] = is_matched
    return Pairs(row_n=rows, control_n=control_n, is_matched_n=is_matched_n)


def _pools(
    rows: np.ndarray, at_n: np.ndarray, controls: np.ndarray, tech_batch_n: np.ndarray | None
) -> Sequence[tuple[np.ndarray, np.ndarray, bool]]:
    """Return (positions in rows, controls to draw from, whether they share the batch)."""
    if tech_batch_n is None:
        return [(at_n, controls, True)]
    found = []
    for tech_batch in np.unique(tech_batch_n[rows[at_n]]):
        mine = at_n[tech_batch_n[rows[at_n]] == tech_batch]
        pool = controls[tech_batch_n[controls] == tech_batch] if tech_batch >= 0 else controls[:0]
        found.append((mine, pool, True) if len(pool) else (mine, controls, False))
    return found


def _in_rounds(pool: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    rounds = [rng.permutation(pool) for _ in range(-(-num // len(pool)))]
    return np.concatenate(rounds)[:num]
