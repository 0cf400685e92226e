"""In which order unknown genes become known: by how sure the network is, or by something that knows nothing of it.

Published scGPT (Methods, generation) moves the genes of "highest prediction confidence" first and does not say what
that is; its heads are regressors. What can stand for it is in `ORDERS`, beside orders that need no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.config import did_you_mean

HEAD = "expected_error"
"""The head that says the logarithm of the squared error to be expected; see `cellwright.objectives.ExpectedError`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guess:
    """What a network says of the unknown genes of some cells. Axis ``u``: one unknown gene of one cell."""

    cell_u: np.ndarray
    """int64: which cell of the question."""
    column_u: np.ndarray
    """int64: which of the question's genes."""
    row_u: np.ndarray
    """int64: where the cell is from."""
    value_u: Tensor
    """float32 predicted values."""
    cell_value_u: Tensor | None
    """float32 values predicted from the cell embedding, where they were asked for."""
    expressed_u: Tensor | None
    """float32 probability of not being silent, where it was asked for."""
    log_error_u: Tensor | None
    """float32 logarithm of the expected squared error, where the model has the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which unknown genes come first: those of the highest rank; of equal ones, those of the lower vocabulary id."""

    rank: Callable[[Guess], Any]
    """Tensor or array ``[u]``."""
    what: str
    outputs: frozenset[str] = frozenset()
    """Optional outputs of the network that it reads."""
    is_by_head: bool = False
    """Whether it needs the trained head `HEAD`."""


def by_gene(rank_g: np.ndarray, what: str) -> Order:
    """Return an order that is the same in every cell: genes of the highest ``rank_g`` first."""
    return Order(rank=lambda guess: rank_g[guess.column_u], what=what)


def by_truth(value_ng: np.ndarray) -> Order:
    """Return the order of the true errors, least first, for whoever knows the answers: a bound, no method."""

    def rank(guess: Guess) -> np.ndarray:
        return -np.abs(guess.value_u.cpu().numpy() - value_ng[guess.cell_u, guess.column_u])

    return Order(rank=rank, what="smallest true error first: needs the answers, a bound on what any order can do")


def random_order(seed: int) -> Order:
    """Return an order drawn anew for every cell; it depends on (seed, the cell's row) alone."""

    def rank(guess: Guess) -> np.ndarray:
        rank_u = np.empty(len(guess.row_u))
        num_genes = int(guess.column_u.max()) + 1
        for row in np.unique(guess.row_u):
            at = guess.row_u == row
            rank_u[at] = np.random.default_rng([seed, int(row)]).random(num_genes)[guess.column_u[at]]
        return rank_u

    return Order(rank=rank, what="a random order, another in every cell")


ORDERS: dict[str, Callable[[int], Order]] = {
    "confident": lambda seed: Order(
        rank=lambda guess: -guess.log_error_u,
        what="smallest error first, as the trained head expects it",
        is_by_head=True,
    ),
    "agreement": lambda seed: Order(
        rank=lambda guess: -(guess.value_u - guess.cell_value_u).abs(),
        what="genes first whose value by their own state and by the cell embedding agree best",
        outputs=frozenset({"cell_value_nt"}),
    ),
    "gate": lambda seed: Order(
        rank=lambda guess: torch.maximum(guess.expressed_u, 1 - guess.expressed_u),
        what="genes first that are most surely expressed or silent, by the zero gate",
        outputs=frozenset({"expressed_nt"}),
    ),
    "random": random_order,
    "fixed": lambda seed: Order(rank=lambda guess: -guess.column_u, what="by vocabulary id, the same in every cell"),
}
"""Name -> (seed) -> order."""


def order_of(name: str, model: Any, *, seed: int) -> Order:
    """Return the order called ``name``, or refuse one that this model cannot give."""
    if name not in ORDERS:
        near = did_you_mean(name, ORDERS) or f"; choose {', '.join(ORDERS)}"
        raise ValueError(f"no order {name!r}{near}")
    order = ORDERS[name](seed)
    if order.is_by_head and HEAD not in model.heads:
        raise ValueError(
            f"{model.report.source} was not trained to say how sure it is (no head {HEAD!r}); pre-train with --set "
            f"objective.terms.{HEAD}=1, or take another order, such as agreement"
        )
    if absent := sorted(order.outputs - model.network.produces):
        raise ValueError(f"the order {name!r} reads {absent[0]}, which this network does not produce; take another")
    return order


def log_errors(model: Any) -> nn.Module | None:
    """Return the head that says how large errors are, where the model has it."""
    return model.heads.get(HEAD)
