"""Scores of predicted perturbations: the table of them, their means over profiles, and intervals over perturbations.

What each is, is in `cellwright.metrics.effects`, `cellwright.metrics.changed_genes`, `cellwright.metrics.interactions`
and, for cells, `cellwright.metrics.made`. Intervals draw whole perturbations with replacement: the question is about
perturbations that were not measured, not about more cells of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cellwright.metrics.changed_genes import changed_genes
from cellwright.metrics.effects import (
    Answer,
    Truth,
    correlations,
    discrimination,
    errors,
    noise_corrected,
    pearson,
    predicted_changes,
    real_changes,
)
from cellwright.metrics.interactions import interactions
from cellwright.metrics.table import Metric

COLLAPSED = 0.9
"""Collapse index from which predictions are called all the same."""
_ALIKE = 0.98  # real effects more alike than this leave nothing to collapse
_INF = float("inf")
_LOG = "log expression"
_ON = "of effects on significant genes"
_REAL = "of real departures from additivity"


def _mean(value_u: np.ndarray) -> float:
    """Return the mean over profiles for which the score is defined."""
    return float(np.nanmean(value_u)) if np.isfinite(value_u).any() else float("nan")


def _correlations() -> list[Metric]:
    subsets = {
        "": "all genes",
        "_top20": "the 20 most changed genes",
        "_top20_expressed": "the 20 most changed genes that perturbed cells express",
        "_offtarget": "all genes but the perturbed ones",
    }
    origins = {"pearson_delta": "controls", "pearson_delta_mean": "the mean training perturbation"}
    return [
        Metric(name + suffix, _mean, -1, 1, 1, "", f"correlation of effects, from {origin}, over {genes}")
        for name, origin in origins.items()
        for suffix, genes in subsets.items()
    ]


_TABLE = (
    *_correlations(),
    Metric("mse", _mean, 0, _INF, 0, f"{_LOG} squared", "mean squared error of mean profiles over genes"),
    Metric("rmse", _mean, 0, _INF, 0, _LOG, "root of the mean squared error of each profile"),
    Metric("mae", _mean, 0, _INF, 0, _LOG, "mean absolute error of mean profiles over genes"),
    Metric("l2_1000", _mean, 0, _INF, 0, _LOG, "Euclidean distance over the 1,000 genes most expressed in controls"),
    Metric("mse_top20", _mean, 0, _INF, 0, f"{_LOG} squared", "mean squared error over the 20 most changed genes"),
    Metric("mae_top20", _mean, 0, _INF, 0, _LOG, "mean absolute error over the 20 most changed genes"),
    Metric("wmse", _mean, 0, _INF, 0, f"{_LOG} squared", "squared error weighted to genes that set it apart"),
    Metric("r2w", _mean, -_INF, 1, 1, "", "share of weighted variation beyond the mean perturbation that is predicted"),
    Metric("nmse", _mean, -_INF, _INF, 0, "", "squared error less noise, over that of no change; 1 = no better"),
    Metric("centroid_accuracy", _mean, 0, 1, 1, "share of others", "perturbations farther off than the right one"),
    Metric("pds_l1", _mean, 0, 1, 1, "", "rank of the right perturbation by L1 distance of effects; 0.5 = chance"),
    Metric("pds_l2", _mean, 0, 1, 1, "", "the same by Euclidean distance; 0.5 = chance"),
    Metric("pds_cosine", _mean, 0, 1, 1, "", "the same by cosine distance; 0.5 = chance"),
    Metric("rank_score", _mean, 0, 1, 0, "", "rank / P of the right perturbation by cosine distance (PerturBench)"),
    *(
        Metric(f"de_overlap_{k}", _mean, 0, 1, 1, "share of genes", f"top {k} changed genes that are predicted so")
        for k in ("nsig", "50", "100", "200")
    ),
    Metric("de_jaccard", _mean, 0, 1, 1, "", "genes significant in both over those significant in either"),
    Metric("de_auprc", _mean, 0, 1, 1, "", "precision-recall area of significant genes by predicted t"),
    Metric("de_auroc", _mean, 0, 1, 1, "", "ROC area of significant genes by predicted t; 0.5 = chance"),
    Metric("effect_spearman", _mean, -1, 1, 1, "", f"rank correlation {_ON}"),
    Metric("effect_nmae", _mean, 0, _INF, 0, "", f"absolute error {_ON} over their mean size; 1 = no change"),
    Metric("direction", _mean, 0, 1, 1, "share of genes", "significant genes that change the predicted way"),
    Metric("direction_beyond_chance", _mean, -20, 1, 1, "", "the same, beyond always saying the commoner sign"),
    Metric("interaction_auprc", _mean, 0, 1, 1, "", f"precision-recall area {_REAL}; adding up scores as chance does"),
    Metric("interaction_recall", _mean, 0, 1, 1, "share of genes", f"recall {_REAL} with at most 20 % false ones"),
    Metric("interaction_direction", _mean, 0, 1, 1, "share of genes", f"right sign {_REAL}; 0.5 = chance"),
    Metric("e_distance", _mean, -_INF, _INF, 0, _LOG, "2 E|made - real| - E|made - made'| - E|real - real'| of cells"),
    Metric("mmd", _mean, -2, 2, 0, "", "squared maximum mean discrepancy of cells, Gaussian kernel"),
    Metric("c2st_auroc", _mean, 0, 1, 0.5, "", "how well predicted cells are told from real ones; 0.5 = not at all"),
    Metric(
        "collapse_index", _mean, -1, 1, 0, "",
        "how much more alike predicted effects are than real ones: 1 = all the same, below 0 = more diverse than real",
    ),
)  # fmt: skip
PERTURBATION_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Name -> metric. Their functions take one value a profile, NaN where it is not defined, and give the mean; ``nmse``
and ``collapse_index`` are of all profiles together, see `Tallies`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alikeness:
    """Correlations between the effects of pairs of profiles of one context and fold."""

    pair_q2: np.ndarray
    """int64: positions of the two profiles."""
    made_q: np.ndarray
    real_q: np.ndarray
    """The same of real effects: between one half of the cells of one profile and the other half of the other's."""
    reliable_u: np.ndarray
    """Between the two halves of the cells of each profile."""

    def index(self, weight_ru: np.ndarray) -> np.ndarray:
        """Return the collapse index ``[r]`` when profiles count so often; NaN where it is not defined.

        (A - B) / (1 - B), not below -1: A = mean correlation of predicted effects of two perturbations, B = that of
        real effects, freed of noise by dividing through the mean correlation between halves (at most 1). Not defined
        without pairs, where halves do not agree (0.1 or less) and where real effects are all alike themselves.
        """
        weight_rq = weight_ru[:, self.pair_q2[:, 0]] * weight_ru[:, self.pair_q2[:, 1]]
        with np.errstate(invalid="ignore", divide="ignore"):
            made_r, real_r = ((weight_rq @ value_q) / weight_rq.sum(1) for value_q in (self.made_q, self.real_q))
            reliable_r = (weight_ru @ self.reliable_u) / weight_ru.sum(1)
            alike_r = np.clip(real_r / reliable_r, -1, 1)
            is_defined_r = (weight_rq.sum(1) > 0) & (reliable_r > 0.1) & (alike_r < _ALIKE)
            return np.where(is_defined_r, np.maximum((made_r - alike_r) / (1 - alike_r), -1), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tallies:
    """One method's scores, profile by profile: everything that a mean or an interval needs."""

    value_u: Mapping[str, np.ndarray]
    """Metric -> value of each profile, NaN where not defined."""
    above_u: np.ndarray
    below_u: np.ndarray
    """Parts of ``nmse``."""
    alike: Alikeness
    key_u: np.ndarray
    """int64: perturbation of each profile, drawn as a whole."""

    def take(self, at_u: np.ndarray) -> Tallies:
        """Return the scores of some profiles."""
        at_u = np.asarray(at_u, np.int64)
        place_u = np.full(len(self.key_u), -1)
        place_u[at_u] = np.arange(len(at_u))
        pair_q2 = place_u[self.alike.pair_q2]
        is_kept_q = (pair_q2 >= 0).all(1)
        alike = Alikeness(
            pair_q2=pair_q2[is_kept_q],
            made_q=self.alike.made_q[is_kept_q],
            real_q=self.alike.real_q[is_kept_q],
            reliable_u=self.alike.reliable_u[at_u],
        )
        return Tallies(
            value_u={name: value_u[at_u] for name, value_u in self.value_u.items()},
            above_u=self.above_u[at_u],
            below_u=self.below_u[at_u],
            alike=alike,
            key_u=self.key_u[at_u],
        )

    def scores(self, weight_ru: np.ndarray) -> dict[str, np.ndarray]:
        """Return every metric ``[r]`` when profiles count so often; NaN where it is defined for no profile."""
        found = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, value_u in self.value_u.items():
                is_there_u = np.isfinite(value_u)
                found[name] = (weight_ru @ np.where(is_there_u, value_u, 0)) / (weight_ru @ is_there_u.astype(float))
            below_r = weight_ru @ self.below_u
            found["nmse"] = np.where(below_r > 0, (weight_ru @ self.above_u) / below_r, np.nan)
        found["collapse_index"] = self.alike.index(weight_ru)
        return found

    def whole(self) -> dict[str, float]:
        """Return every metric over all profiles, in the order of the table."""
        found = {name: float(value_r[0]) for name, value_r in self.scores(np.ones((1, len(self.key_u)))).items()}
        return {name: found[name] for name in PERTURBATION_METRICS if name in found}

    def resampled(self, num_resamples: int, seed: int) -> dict[str, np.ndarray]:
        """Return every metric ``[r]`` on perturbations drawn with replacement; the same draws for every method.

        Where there is one perturbation only, its contexts are drawn.
        """
        keys, code_u = np.unique(self.key_u, return_inverse=True)
        if len(keys) == 1:
            keys = code_u = np.arange(len(self.key_u))
        rng = np.random.default_rng(seed)
        count_rk = rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), num_resamples).astype(np.float64)
        return self.scores(count_rk[:, code_u])


def score_profiles(
    truths: tuple[Truth, Truth], answers: tuple[Answer, Answer], cells: Mapping[str, np.ndarray] | None = None
) -> Tallies:
    """Score one method's predictions, each half of the real cells in turn being the truth; scores are their mean.

    Parameters
    ----------
    truths
        The two halves of the cells of the same profiles.
    answers
        What is said to each half: the same twice, but for a replicate, which says to one half what the other is.
    cells
        Scores that need cells, metric -> value of each profile, mean of the halves already.
    """
    found: dict[str, list[np.ndarray]] = {}
    parts = []
    for truth, answer in zip(truths, answers, strict=True):
        if answer.effect_ug.shape != truth.mean_ug.shape:
            raise ValueError(f"effects of shape {answer.effect_ug.shape} for profiles of shape {truth.mean_ug.shape}")
        if not np.isfinite(answer.effect_ug).all():
            raise ValueError("predicted effects hold values that are not finite")
        real, made = real_changes(truth), predicted_changes(answer, truth)
        scores = correlations(truth, answer, real) | errors(truth, answer, real) | discrimination(truth, answer)
        scores |= changed_genes(truth, answer, real, made) | interactions(truth, answer)
        for name, value_u in scores.items():
            found.setdefault(name, []).append(value_u)
        parts.append(noise_corrected(truth, answer))
    value_u = {name: _mean_of(values) for name, values in found.items()} | dict(cells or {})
    return Tallies(
        value_u=value_u,
        above_u=parts[0][0] + parts[1][0],
        below_u=parts[0][1] + parts[1][1],
        alike=_alikeness(truths, answers),
        key_u=truths[0].key_u,
    )


def _mean_of(values: list[np.ndarray]) -> np.ndarray:
    """Return the mean over halves in which the score is defined."""
    value_hu = np.array(values)
    is_there_hu = np.isfinite(value_hu)
    num_u = is_there_hu.sum(0)
    total_u = np.where(is_there_hu, value_hu, 0).sum(0)
    return np.where(num_u > 0, total_u / np.maximum(num_u, 1), np.nan)


def _alikeness(truths: tuple[Truth, Truth], answers: tuple[Answer, Answer]) -> Alikeness:
    first, second = truths
    is_pair_uu = (first.context_u[:, None] == first.context_u) & (first.key_u[:, None] != first.key_u)
    is_pair_uu &= first.fold_u[:, None] == first.fold_u
    pair_q2 = np.argwhere(np.triu(is_pair_uu))
    made_uu = np.mean([_correlate(answer.effect_ug, answer.effect_ug) for answer in answers], axis=0)
    real_uu = _correlate(first.effect_ug, second.effect_ug)
    at = (pair_q2[:, 0], pair_q2[:, 1])
    reliable_u = [pearson(a_g, b_g) for a_g, b_g in zip(first.effect_ug, second.effect_ug, strict=True)]
    return Alikeness(
        pair_q2=pair_q2.reshape(-1, 2),
        made_q=made_uu[at],
        real_q=(real_uu + real_uu.T)[at] / 2,
        reliable_u=np.nan_to_num(np.array(reliable_u)),
    )


def _correlate(a_ug: np.ndarray, b_ug: np.ndarray) -> np.ndarray:
    """Return correlations of all rows with all rows; effects that are 0 throughout are alike (1 among themselves)."""
    units = []
    for value_ug in (a_ug, b_ug):
        centred_ug = value_ug - value_ug.mean(1, keepdims=True)
        length_u1 = np.linalg.norm(centred_ug, axis=1, keepdims=True)
        units.append(np.divide(centred_ug, length_u1, out=np.zeros_like(centred_ug), where=length_u1 > 1e-12))
    is_flat = [~unit_ug.any(1) for unit_ug in units]
    return np.clip(units[0] @ units[1].T, -1, 1) + (is_flat[0][:, None] & is_flat[1])
