"""Simple ways to fill in unknown genes of cells: what a model must beat, seconds on one core.

Every way learns from whole training cells and sees of a query cell what a model sees: the values of its known genes,
in the model's units (bins of its known genes). Settings are plain ones; the ridge chooses its penalty on some of the
training cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

NUM_NEIGHBORS = 15
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Penalties that the ridge chooses among: of standardised genes, for each training cell."""
_NUM_TRIED = 50
"""Training cells that the penalty is chosen on, at least as many are left to learn from."""


@dataclass(frozen=True, eq=False)
class FillingCase:
    """Training cells and what is known of the query cells. Axis m: training cell."""

    train_mg: np.ndarray
    """Values of whole training cells, float ``[m, g]``."""
    value_ng: np.ndarray
    """Values of the query cells' known genes, 0 elsewhere."""
    is_known_ng: np.ndarray
    train_label_m: np.ndarray | None = None
    """Type codes, -1 = not known; ``None`` = no types are known."""
    label_n: np.ndarray | None = None
    """Types of the query cells, by the same codes."""
    has_zeros: bool = True
    """False: values stand for expressed genes alone, and a silent gene says nothing."""
    seed: int = 0

    @cached_property
    def is_seen_mg(self) -> np.ndarray:
        """Bool: the training value says something."""
        return np.ones(self.train_mg.shape, bool) if self.has_zeros else self.train_mg > 0

    @cached_property
    def mean_g(self) -> np.ndarray:
        """Mean of each gene over the training cells whose value says something; of the others where none does."""
        return _means(self.train_mg, self.is_seen_mg, np.full(self.train_mg.shape[1], _overall(self)))

    @cached_property
    def centred_mg(self) -> np.ndarray:
        """Training values less their means; 0 where they say nothing."""
        return np.where(self.is_seen_mg, self.train_mg - self.mean_g, 0.0)

    @cached_property
    def is_fed_ng(self) -> np.ndarray:
        """Bool: the query cell's value says something."""
        return self.is_known_ng & (self.has_zeros | (self.value_ng > 0))

    @cached_property
    def centred_ng(self) -> np.ndarray:
        """Known values less the means; 0 where nothing is known."""
        return np.where(self.is_fed_ng, self.value_ng - self.mean_g, 0.0)


def gene_mean(case: FillingCase) -> np.ndarray:
    """Return each gene's mean over the training cells, for every query cell alike."""
    return np.repeat(case.mean_g[None], len(case.value_ng), axis=0)


def type_mean(case: FillingCase) -> np.ndarray:
    """Return each gene's mean over the training cells of the same type; of all cells where there are none."""
    answer_ng = gene_mean(case)
    for code in np.unique(case.label_n[case.label_n >= 0]):
        is_own_m = case.train_label_m == code
        if is_own_m.any():
            answer_ng[case.label_n == code] = _means(case.train_mg[is_own_m], case.is_seen_mg[is_own_m], case.mean_g)
    return answer_ng


def neighbors(case: FillingCase) -> np.ndarray:
    """Return the mean over the 15 training cells that are nearest in the known genes (Euclidean)."""
    weight_ng, x_mg = case.is_fed_ng.astype(np.float64), case.centred_mg
    distance_nm = weight_ng @ (x_mg**2).T - 2 * case.centred_ng @ x_mg.T  # less what is the same for all
    num = min(NUM_NEIGHBORS, len(x_mg))
    nearest_nk = np.argsort(distance_nm, axis=1, kind="stable")[:, :num]
    answer_ng = gene_mean(case)
    for cell, own_k in enumerate(nearest_nk):
        answer_ng[cell] = _means(case.train_mg[own_k], case.is_seen_mg[own_k], case.mean_g)
    return answer_ng


def ridge(case: FillingCase) -> np.ndarray:
    """Return the ridge regression of every gene on the cell's known genes, its penalty chosen on training cells."""
    generator = np.random.default_rng(case.seed)
    num_tried = min(_NUM_TRIED, len(case.train_mg) // 2)
    order_m = generator.permutation(len(case.train_mg))
    tried, learnt = order_m[:num_tried], order_m[num_tried:]
    penalty = 1.0
    if num_tried:
        # as much is known of them as of query cells
        is_known_tg = case.is_known_ng[np.arange(num_tried) % len(case.is_known_ng)]
        is_fed_tg = is_known_tg & case.is_seen_mg[tried]
        is_asked_tg = ~is_known_tg & case.is_seen_mg[tried]
        truth_tg = case.centred_mg[tried]
        error_p = []
        for some in PENALTIES:
            answer_tg = _regressed(case.centred_mg[learnt], np.where(is_fed_tg, truth_tg, 0.0), is_fed_tg, some)
            error_p.append(((answer_tg - truth_tg) ** 2)[is_asked_tg].sum())
        penalty = PENALTIES[int(np.argmin(error_p))]
    return case.mean_g + _regressed(case.centred_mg, case.centred_ng, case.is_fed_ng, penalty)


def _regressed(train_mg: np.ndarray, known_ng: np.ndarray, is_fed_ng: np.ndarray, penalty: float) -> np.ndarray:
    """Regress all genes on each cell's known ones; values are centred. Cells of the same known genes go together."""
    spread_g = np.sqrt((train_mg**2).mean(0))
    scale_g = np.where(spread_g > 0, spread_g, 1.0)
    unit_mg = train_mg / scale_g
    shared_gg = unit_mg.T @ unit_mg / len(unit_mg)
    answer_ng = np.zeros(known_ng.shape)
    kinds, kind_n = np.unique(is_fed_ng, axis=0, return_inverse=True)
    for kind, is_in_g in enumerate(kinds):
        if is_in_g.any():
            own_n = kind_n.ravel() == kind
            gram = shared_gg[np.ix_(is_in_g, is_in_g)] + penalty * np.eye(int(is_in_g.sum()))
            weight = np.linalg.solve(gram, shared_gg[is_in_g])
            answer_ng[own_n] = (known_ng[own_n] / scale_g)[:, is_in_g] @ weight * scale_g
    return answer_ng


def _means(value_mg: np.ndarray, is_seen_mg: np.ndarray, otherwise_g: np.ndarray) -> np.ndarray:
    num_g = is_seen_mg.sum(0)
    return np.where(num_g > 0, (value_mg * is_seen_mg).sum(0) / np.maximum(num_g, 1), otherwise_g)


def _overall(case: FillingCase) -> float:
    return float(case.train_mg[case.is_seen_mg].mean()) if case.is_seen_mg.any() else 0.0


@dataclass(frozen=True)
class FillingBaseline:
    """One entry of the table: how to run it and how to describe it in a report."""

    fill: Callable[[FillingCase], np.ndarray]
    """Returns float ``[n, g]``: a value for every gene, known ones too."""
    what: str
    role: Literal["floor", "baseline"] = "baseline"
    needs: Literal["", "types", "known genes"] = ""

    def can_run(self, case: FillingCase) -> bool:
        """Whether the case has what it needs."""
        if self.needs == "types":
            return case.label_n is not None and case.train_label_m is not None
        return self.needs != "known genes" or bool(case.is_known_ng.any())


FILLING_BASELINES: Mapping[str, FillingBaseline] = {
    "gene_mean": FillingBaseline(gene_mean, "mean of the training cells, the same answer for every cell", "floor"),
    "type_mean": FillingBaseline(
        type_mean, "mean of the training cells of the same type, which is told", needs="types"
    ),
    "neighbors": FillingBaseline(
        neighbors, "mean of the 15 training cells nearest in the known genes", needs="known genes"
    ),
    "ridge": FillingBaseline(ridge, "linear regression on the cell's known genes", needs="known genes"),
}
"""Name -> baseline, weakest idea first."""
