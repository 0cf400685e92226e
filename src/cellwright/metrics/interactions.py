"""Scores of interactions: genes at which a combination does not do what its parts do alone. Pure numpy and scipy.

The *deviation* of a combination is its effect less those of its parts, added up: ``y - c - sum(y_i - c)``, y_i = mean
log expression where part i alone is perturbed. Real deviations are tested over cells (Welch's t of all groups, the
controls counting ``parts - 1`` times; 5 % false discovery rate by Benjamini and Hochberg over the genes of a profile).
What a method says of interactions is its predicted effect less the same sum, from the controls that it saw.

Real deviations are measured with the singles that methods learn from, since nobody measures them twice. Their noise is
in the variance that calls are held against, but it is also in what a method says: a method that is wrong about singles
gains a little where their noise was called.

Source: Ahlmann-Eltze et al. 2025 (prediction of genetic interactions in doubles; there by a local false discovery rate
of 5 % over all genes and doubles together).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellwright.metrics.effects import Alone, Answer, Tested, Truth, satterthwaite

INTERACTION_FDP = 0.2
"""Most false discoveries, as a share of what is called, in ``interaction_recall``."""
NUM_ORDERS = 30
_NOTHING = 1e-9  # log expression; what rounding leaves of a sum is no deviation


@dataclass(frozen=True, slots=True, eq=False)
class Deviations:
    """Real departures from additivity; rows of profiles that are not asked about mean nothing."""

    deviation_ug: np.ndarray
    tested: Tested
    """Genes that are perturbed themselves are not asked about: p = 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The genes of one combination that are asked about."""

    is_real_k: np.ndarray
    """bool: the combination departs from additivity here."""
    real_k: np.ndarray
    said_k: np.ndarray
    """Real and predicted deviations."""
    size_k: np.ndarray
    """What genes are ranked by: size of the predicted deviation, in standard deviations of the gene over cells."""


def real_deviations(truth: Truth) -> Deviations:
    """Test every gene of every combination for a departure from additivity."""
    alone = _alone_of(truth)
    times_u1 = np.maximum(alone.num_parts_u - 1.0, 0)[:, None]
    errors = [
        (truth.variance_ug / truth.num_u[:, None], truth.num_u[:, None] - 1),
        (times_u1**2 * truth.control_variance_ug / truth.control_num_u[:, None], truth.control_num_u[:, None] - 1),
    ]
    parts = [(error_ug, error_ug**2 / freedom_u1) for error_ug, freedom_u1 in errors]
    deviation_ug = _deviation(truth.effect_ug, truth.control_ug, alone)
    asked_ug = np.where(truth.is_target_ug, 0.0, deviation_ug)
    return Deviations(deviation_ug, satterthwaite(asked_ug, [*parts, (alone.error_ug, alone.spread_ug)]))


def ranked_genes(truth: Truth, answer: Answer) -> dict[int, Ranked]:
    """Return profile -> its genes and what the method says of each; combinations alone, see `Alone`.

    Perturbed genes, and genes that are the same in all cells of the context, are left out.
    """
    real = real_deviations(truth)
    said_ug = _deviation(answer.effect_ug, answer.control_ug, _alone_of(truth))
    found = {}
    for u in np.flatnonzero(truth.alone.num_parts_u).tolist():
        kept = np.flatnonzero(~truth.is_target_ug[u] & (answer.variance_ug[u] > 0))
        found[u] = Ranked(
            is_real_k=real.tested.is_significant_ug[u, kept],
            real_k=real.deviation_ug[u, kept],
            said_k=said_ug[u, kept],
            size_k=np.abs(said_ug[u, kept]) / np.sqrt(answer.variance_ug[u, kept]),
        )
    return found


def interactions(truth: Truth, answer: Answer) -> dict[str, np.ndarray]:
    """Score the interactions that a method predicts, for combinations whose parts training has alone.

    ``interaction_auprc``: area under precision against recall of real interactions, genes ranked as `Ranked` says.
    ``interaction_recall``: the most of them that any threshold finds with at most 20 % false ones among what it calls.
    ``interaction_direction``: share of real interactions of the right sign; a predicted 0 counts half.

    Equal predictions are put into random orders, and the mean over 30 is taken. A method that only adds up predicts 0
    everywhere: it scores what chance does, which depends on how many interactions there are.

    NaN where the profile is no such combination, or has no real interaction. Nothing at all without ``truth.alone``.
    """
    if truth.alone is None:
        return {}
    names = ("interaction_auprc", "interaction_recall", "interaction_direction")
    found = {name: np.full(len(truth.mean_ug), np.nan) for name in names}
    for u, genes in ranked_genes(truth, answer).items():
        if not genes.is_real_k.any():
            continue
        precision_rk, recall_rk = curves(genes.is_real_k, genes.size_k)
        gain_rk = np.diff(recall_rk, axis=1, prepend=0)
        found["interaction_auprc"][u] = (gain_rk * precision_rk).sum(1).mean()
        is_allowed_rk = precision_rk >= 1 - INTERACTION_FDP - 1e-12
        found["interaction_recall"][u] = np.where(is_allowed_rk, recall_rk, 0).max(1).mean()
        sign_k = np.sign(genes.said_k * genes.real_k)[genes.is_real_k]
        found["interaction_direction"][u] = (sign_k / 2 + 0.5).mean()
    return found


def curves(is_real_k: np.ndarray, size_k: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall ``[r, k]`` after each gene, largest first.

    Parameters
    ----------
    is_real_k
        bool: a real interaction; at least one.
    size_k
        What genes are ranked by.
    seed
        Of the orders that equal ones are put into: r = 30 where any are equal, otherwise 1.
    """
    num_orders = 1 if len(np.unique(size_k)) == len(size_k) else NUM_ORDERS
    shuffled_rk = np.random.default_rng(seed).permuted(np.tile(np.arange(len(size_k)), (num_orders, 1)), axis=1)
    order_rk = np.take_along_axis(shuffled_rk, np.argsort(-size_k[shuffled_rk], axis=1, kind="stable"), 1)
    hits_rk = np.cumsum(is_real_k[order_rk], axis=1)
    return hits_rk / np.arange(1, len(size_k) + 1), hits_rk / is_real_k.sum()


def _deviation(effect_ug: np.ndarray, control_ug: np.ndarray, alone: Alone) -> np.ndarray:
    parts_ug = alone.sum_ug - alone.num_parts_u[:, None] * control_ug
    deviation_ug = effect_ug - parts_ug
    return np.where(np.abs(deviation_ug) > _NOTHING, deviation_ug, 0.0)


def _alone_of(truth: Truth) -> Alone:
    if truth.alone is None:
        raise ValueError("this truth says nothing of what parts of combinations do alone")
    return truth.alone
