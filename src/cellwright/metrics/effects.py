"""Scores of predicted perturbation effects, profile by profile. Pure numpy and scipy.

A *profile* is one perturbation in one context. Real and predicted values are means of log expression over cells; an
*effect* is a mean less that of controls. What is real comes with its variance over cells and the number of cells, so
that tests can be made from moments. A score that is not defined for a profile is NaN there.

The predicted effect starts from the controls that the model saw, the real one from controls that nobody saw: with one
set of controls for both, their noise is in both effects and correlates what has nothing in common.

Sources: GEARS (Roohani et al. 2024), Ahlmann-Eltze et al. 2025, Systema (Vinas Torne et al. 2025), Mejia et al. 2025
(weighted errors), Arc Institute's cell-eval (discrimination, noise correction, chance-corrected direction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

TOP = 20
FDR = 0.05
NUM_EXPRESSED = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alone:
    """What the parts of combinations do alone; rows as in `Truth`, arrays float64 ``[u, g]`` unless said otherwise."""

    num_parts_u: np.ndarray
    """int64: parts of the combination; 0 = a single perturbation, or a part that training did not have alone."""
    sum_ug: np.ndarray
    """Mean profiles of the parts, each perturbed alone in the same context, added up."""
    error_ug: np.ndarray
    """Sampling variance of that sum."""
    spread_ug: np.ndarray
    """Sum over parts of the square of each one's sampling variance over its degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What was measured, one profile a row; all arrays float64 ``[u, g]`` unless said otherwise."""

    mean_ug: np.ndarray
    variance_ug: np.ndarray
    """Over cells (n - 1)."""
    num_u: np.ndarray
    """Cells of each profile, at least 2."""
    control_ug: np.ndarray
    """Means of the controls of each profile's context, of cells that no model saw."""
    control_variance_ug: np.ndarray
    control_num_u: np.ndarray
    reference_ug: np.ndarray
    """Mean profile of the training perturbations, as it would be in this context."""
    context_u: np.ndarray
    """int64."""
    is_target_ug: np.ndarray
    """bool: the gene is what was perturbed."""
    key_u: np.ndarray
    """int64: code of the perturbation."""
    fold_u: np.ndarray
    """int64: fold that the profile was held out in; predictions of different folds are those of different models."""
    alone: Alone | None = None
    """``None`` where no combination has all of its parts alone in training."""

    @property
    def effect_ug(self) -> np.ndarray:
        """Mean less that of controls."""
        return self.mean_ug - self.control_ug

    @property
    def noise_u(self) -> np.ndarray:
        """Sampling variance of the mean, summed over genes."""
        return (self.variance_ug / self.num_u[:, None]).sum(1)

    @property
    def control_noise_u(self) -> np.ndarray:
        """The same of the controls."""
        return (self.control_variance_ug / self.control_num_u[:, None]).sum(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What was predicted, rows as in `Truth`."""

    effect_ug: np.ndarray
    control_ug: np.ndarray
    """Controls that the model saw: the predicted profile is these and the effect."""
    variance_ug: np.ndarray
    """Variance over cells that changes are held against; the same for all methods."""
    noise_u: np.ndarray
    """Sampling variance of the predicted mean, summed over genes."""

    @property
    def mean_ug(self) -> np.ndarray:
        """Predicted profile."""
        return self.control_ug + self.effect_ug


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """A test of every gene: t statistic, p-value, whether significant at 5 % (Benjamini and Hochberg)."""

    t_ug: np.ndarray
    p_ug: np.ndarray
    is_significant_ug: np.ndarray


def welch(
    difference_ug: np.ndarray, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> Tested:
    """Test differences of means by Welch's t; ``first`` and ``second`` are (variances ``[u, g]``, cells ``[u]``).

    A gene without variance on both sides has p = 1 when nothing differs and 0 otherwise.
    """
    errors = [(variance_ug / num_u[:, None], num_u[:, None] - 1) for variance_ug, num_u in (first, second)]
    return satterthwaite(difference_ug, [(error_ug, error_ug**2 / freedom_u1) for error_ug, freedom_u1 in errors])


def satterthwaite(difference_ug: np.ndarray, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tested:
    """Test sums of independent means by Welch's t with the degrees of freedom of Welch and Satterthwaite.

    ``parts`` are, for each mean, its sampling variance and the square of that over its degrees of freedom, ``[u, g]``.
    Without any variance p = 1 when the sum is 0, and 0 otherwise.
    """
    square_ug, spread_ug = (sum(some) for some in zip(*parts, strict=True))
    error_ug = np.sqrt(square_ug)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_ug = np.where(error_ug > 0, difference_ug / error_ug, np.sign(difference_ug) * np.inf)
        freedom_ug = np.where(spread_ug > 0, square_ug**2 / np.where(spread_ug > 0, spread_ug, 1), 1.0)
    t_ug = np.where(difference_ug == 0, 0.0, t_ug)
    p_ug = np.where(np.isinf(t_ug), 0.0, 2 * stats.t.sf(np.abs(t_ug), freedom_ug))
    return Tested(t_ug, p_ug, stats.false_discovery_control(p_ug, axis=1) <= FDR)


def real_changes(truth: Truth) -> Tested:
    """Test real perturbed cells against controls."""
    return welch(truth.effect_ug, (truth.variance_ug, truth.num_u), (truth.control_variance_ug, truth.control_num_u))


def predicted_changes(answer: Answer, truth: Truth) -> Tested:
    """Test predicted effects as though as many cells had been measured as there are real ones and real controls.

    The variance is that of ``answer`` on both sides. A gene without variance has no test: t = 0, p = 1; otherwise the
    least change of a gene that is silent in controls would be the surest of all.
    """
    effect_ug = np.where(answer.variance_ug > 0, answer.effect_ug, 0.0)
    return welch(effect_ug, (answer.variance_ug, truth.num_u), (answer.variance_ug, truth.control_num_u))


def pearson(a_g: np.ndarray, b_g: np.ndarray) -> float:
    """Return the correlation of two vectors, 0 where one is constant (it says nothing), NaN below three entries."""
    if len(a_g) < 3:
        return float("nan")
    a_g, b_g = a_g - a_g.mean(), b_g - b_g.mean()
    whole = np.sqrt((a_g**2).sum() * (b_g**2).sum())
    scale = max(np.abs(a_g).max(), np.abs(b_g).max(), 1e-300)
    return float(np.clip((a_g @ b_g) / whole, -1, 1)) if whole > 1e-14 * scale**2 else 0.0


def errors(truth: Truth, answer: Answer, tested: Tested) -> dict[str, np.ndarray]:
    """Score distances between profiles.

    ``mse``, ``mae``, ``rmse``: over genes. ``l2_1000``: ``||y^ - y||`` over the 1,000 genes most expressed in controls.
    ``mse_top20``, ``mae_top20``: over the 20 genes of largest |t| against controls.
    ``wmse``: sum of w (y - y^)^2; ``r2w``: 1 - sum w (D - D^)^2 / sum w (D - D_w)^2, D = y - reference, D_w its
    weighted mean; w = squares of min-max scaled |t| of the profile against all other perturbed cells of its context,
    sum 1.
    """
    off_ug = answer.mean_ug - truth.mean_ug
    top_uk = np.argsort(-np.abs(tested.t_ug), axis=1, kind="stable")[:, :TOP]
    high_uk = np.argsort(-truth.control_ug, axis=1, kind="stable")[:, :NUM_EXPRESSED]
    off_uk = np.take_along_axis(off_ug, top_uk, 1)
    weight_ug = effect_weights(truth)
    reference_ug = truth.mean_ug - truth.reference_ug
    centre_u1 = (weight_ug * reference_ug).sum(1, keepdims=True)
    wmse_u = (weight_ug * off_ug**2).sum(1)
    spread_u = (weight_ug * (reference_ug - centre_u1) ** 2).sum(1)
    return {
        "mse": (off_ug**2).mean(1),
        "rmse": np.sqrt((off_ug**2).mean(1)),
        "mae": np.abs(off_ug).mean(1),
        "l2_1000": np.sqrt((np.take_along_axis(off_ug, high_uk, 1) ** 2).sum(1)),
        "mse_top20": (off_uk**2).mean(1),
        "mae_top20": np.abs(off_uk).mean(1),
        "wmse": wmse_u,
        "r2w": np.where(spread_u > 0, 1 - wmse_u / np.where(spread_u > 0, spread_u, 1), np.nan),
    }


def effect_weights(truth: Truth) -> np.ndarray:
    """Return the weights of genes in `errors`, float64 ``[u, g]``; NaN where a context has one perturbation only."""
    weight_ug = np.full(truth.mean_ug.shape, np.nan)
    for u in range(len(weight_ug)):
        others = np.flatnonzero((truth.context_u == truth.context_u[u]) & (truth.key_u != truth.key_u[u]))
        if not len(others):
            continue
        num_v1 = truth.num_u[others, None].astype(np.float64)
        num = num_v1.sum()
        mean_g = (num_v1 * truth.mean_ug[others]).sum(0) / num
        within_g = ((num_v1 - 1) * truth.variance_ug[others]).sum(0)
        variance_g = (within_g + (num_v1 * (truth.mean_ug[others] - mean_g) ** 2).sum(0)) / (num - 1)
        own = (truth.variance_ug[[u]], truth.num_u[[u]])
        tested = welch((truth.mean_ug[u] - mean_g)[None], own, (variance_g[None], np.array([num])))
        score_g = np.abs(tested.t_ug[0])
        score_g = np.minimum(score_g, score_g[np.isfinite(score_g)].max(initial=0.0))
        if (spread := np.ptp(score_g)) > 0:
            weight_ug[u] = ((score_g - score_g.min()) / spread) ** 2
            weight_ug[u] /= weight_ug[u].sum()
    return weight_ug


def noise_corrected(truth: Truth, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
    """Return each profile's part of ``nmse = sum(above) / sum(below)``.

    Above: ||y^ - y||^2 less the sampling variance of y, and of y^ (at most that of y). Below: ||y - c||^2 less the
    sampling variances of y and of the controls c. 0 = nothing but noise is missing, about 1 = as good as no change.
    """
    noise_u = truth.noise_u
    above_u = ((answer.mean_ug - truth.mean_ug) ** 2).sum(1) - np.minimum(answer.noise_u, noise_u) - noise_u
    below_u = (truth.effect_ug**2).sum(1) - noise_u - truth.control_noise_u
    return above_u, below_u


def correlations(truth: Truth, answer: Answer, tested: Tested) -> dict[str, np.ndarray]:
    """Score the direction of effects by Pearson correlation, from controls and from the mean perturbed profile.

    ``pearson_delta``: of (y - c) and the predicted effect. ``pearson_delta_mean``: of (y - reference) and (y^ -
    reference): what a perturbation does beyond what all do. Each over all genes, over the 20 of largest |t|
    (``_top20``), over the 20 of largest |t| that perturbed cells express (``_top20_expressed``), and over all genes but
    the perturbed ones (``_offtarget``).
    """
    pairs = {
        "pearson_delta": (truth.effect_ug, answer.effect_ug),
        "pearson_delta_mean": (truth.mean_ug - truth.reference_ug, answer.mean_ug - truth.reference_ug),
    }
    found: dict[str, np.ndarray] = {}
    for u in range(len(truth.mean_ug)):
        order_g = np.argsort(-np.abs(tested.t_ug[u]), kind="stable")
        subsets = {
            "": slice(None),
            "_top20": order_g[:TOP],
            "_top20_expressed": order_g[truth.mean_ug[u, order_g] > 0][:TOP],
            "_offtarget": ~truth.is_target_ug[u],
        }
        for name, (real_ug, made_ug) in pairs.items():
            for suffix, genes in subsets.items():
                column_u = found.setdefault(name + suffix, np.full(len(truth.mean_ug), np.nan))
                column_u[u] = pearson(real_ug[u, genes], made_ug[u, genes])
    return found


def discrimination(truth: Truth, answer: Answer) -> dict[str, np.ndarray]:
    """Score whether the right perturbation is recognised by its predicted profile among those of the same context.

    ``centroid_accuracy``: share of other perturbations q whose real profile is farther (Euclidean) from the predicted
    one than the right profile is; equally far does not count. ``pds_l1``, ``pds_l2``, ``pds_cosine``: 1 - rank / (P -
    1) by distances of effects, equal ranks shared, all measured targets of any of these perturbations left out.
    ``rank_score``: rank / P by ``pds_cosine``'s distance (PerturBench), 0 best. NaN with a single perturbation.
    """
    names = ("centroid_accuracy", "pds_l1", "pds_l2", "pds_cosine", "rank_score")
    found = {name: np.full(len(truth.mean_ug), np.nan) for name in names}
    for u in range(len(truth.mean_ug)):
        same = np.flatnonzero(truth.context_u == truth.context_u[u])
        others = same[truth.key_u[same] != truth.key_u[u]]
        if not len(others):
            continue
        far_v = np.linalg.norm(answer.mean_ug[u] - truth.mean_ug[others], axis=1)
        found["centroid_accuracy"][u] = (far_v > np.linalg.norm(answer.mean_ug[u] - truth.mean_ug[u])).mean()
        is_kept_g = ~truth.is_target_ug[same].any(0)
        effect_vg = truth.effect_ug[np.concatenate([[u], others])][:, is_kept_g]
        for name, distance_v in _effect_distances(answer.effect_ug[u, is_kept_g], effect_vg).items():
            own, rest_v = distance_v[0], distance_v[1:]
            rank = (rest_v < own).sum() + 0.5 * (rest_v == own).sum()
            found[f"pds_{name}"][u] = 1 - rank / len(others)
            if name == "cosine":
                found["rank_score"][u] = rank / len(distance_v)
    return found


def _effect_distances(made_g: np.ndarray, real_vg: np.ndarray) -> dict[str, np.ndarray]:
    size = np.linalg.norm(made_g) * np.linalg.norm(real_vg, axis=1)
    cosine_v = np.divide(real_vg @ made_g, size, out=np.zeros(len(real_vg)), where=size > 1e-12)
    return {
        "l1": np.abs(real_vg - made_g).sum(1),
        "l2": np.linalg.norm(real_vg - made_g, axis=1),
        "cosine": 1 - cosine_v,
    }
