"""Score predicted perturbations beside baselines, a floor of noise and a roof of real cells.

Real cells of each test profile are halved. Each half in turn is the truth for every method, and scores are the mean of
both; the *replicate* answers with the other half, which is the best that a model could do with as many cells. The
*technical* floor answers with a resample of the controls that models saw: what noise alone scores. Scores are also
given on the scale between the mean training effect (0) and the replicate (1), after Miller et al. 2025.

Predicted cells, where a model makes none, are the seen controls shifted by its effect (not below 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cellwright.evaluate.generation_classifier import told_apart
from cellwright.evaluate.measures import finite_or_none
from cellwright.evaluate.perturbation_interactions import find_interactions, parts_alone
from cellwright.evaluate.perturbation_tables import (
    ALL,
    FLOOR,
    MEAN,
    ROOF,
    SHOWN,
    Contrast,
    PerturbationRow,
    PerturbationScores,
    badness,
)
from cellwright.metrics import GENERATION_METRICS, percentiles
from cellwright.metrics.effects import Answer, Truth
from cellwright.metrics.perturbed import COLLAPSED, PERTURBATION_METRICS, Tallies, score_profiles
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import Predictions

NUM_RESAMPLES = 1000
MAX_CELLS = 100
"""Cells of each side in scores of cells."""
_WHAT = {
    FLOOR: "resampled controls: noise alone",
    ROOF: "the other half of the real cells",
}


def score_predictions(
    screen: Screen,
    predictions: Predictions,
    *,
    split: str,
    dataset: str | None = None,
    has_cell_scores: bool = True,
    on_collapse: Literal["warn", "stop"] = "warn",
    num_resamples: int = NUM_RESAMPLES,
) -> PerturbationScores:
    """Score every method on the test profiles of all folds together, and on each group of them.

    Parameters
    ----------
    split, dataset
        Names for the rows.
    has_cell_scores
        Also compare predicted with real cells (``e_distance``, ``mmd``, ``c2st_auroc``), which takes the most time.
    on_collapse
        What happens when a model's predictions are all alike while real effects are not (``collapse_index`` of 0.9 or
        more): a warning among the ``warnings``, or a ``ValueError``. Baselines may be as alike as they like.

    Notes
    -----
    Intervals draw perturbations with replacement; models are not trained again, and their seed is the same.
    """
    truths = (_truth(screen, predictions, 0), _truth(screen, predictions, 1))
    names = [FLOOR, *predictions.effect_eg, ROOF]
    answers = {name: tuple(_answer(screen, predictions, name, half) for half in (0, 1)) for name in names}
    tallies = {}
    for name, said in answers.items():
        cells = _cell_scores(screen, predictions, name, said) if has_cell_scores else {}
        tallies[name] = score_profiles(truths, said, cells)
    groups = sorted(set(predictions.group_e))
    at_of = {ALL: np.arange(len(predictions.at_e))}
    if len(groups) > 1:
        at_of |= {group: np.flatnonzero(np.array(predictions.group_e) == group) for group in groups}
    rows, contrasts = [], []
    for group, at_e in at_of.items():
        some = {name: found.take(at_e) for name, found in tallies.items()}
        where = {"dataset": dataset or screen.source, "split": split, "group": group, "seed": screen.seed}
        new_rows, new_contrasts = _rows(some, predictions, where, num_resamples)
        rows += new_rows
        contrasts += new_contrasts
    warnings = _collapsed(tallies, predictions)
    if warnings and on_collapse == "stop":
        raise ValueError(warnings[0])
    return PerturbationScores(
        rows=tuple(rows),
        contrasts=tuple(contrasts),
        warnings=tuple(warnings),
        tallies=tallies,
        found=find_interactions(truths, answers),
    )


def described(predictions: Predictions) -> dict[str, str]:
    """Return what each method is, floor first and roof last."""
    return {FLOOR: _WHAT[FLOOR], **predictions.what, ROOF: _WHAT[ROOF]}


def _truth(screen: Screen, predictions: Predictions, half: int) -> Truth:
    moments, controls, nums = [], [], []
    by_context: dict[int, tuple[np.ndarray, np.ndarray, int]] = {}
    context_e = screen.context_u[predictions.at_e]
    for u, context in zip(predictions.at_e, context_e, strict=True):
        row = _rows_of(screen, u, half)
        moments.append(screen.moments(row))
        nums.append(len(row))
        if context not in by_context:
            control = np.flatnonzero(screen.is_scored_n & (screen.context_n == context))
            by_context[context] = (*screen.moments(control), len(control))
        controls.append(by_context[context])
    parts = [screen.profiles.parts[u] for u in predictions.at_e]
    names = sorted(set(parts))
    is_target_eg = np.zeros(predictions.reference_eg.shape, bool)
    for entry, those in enumerate(parts):
        is_target_eg[entry, [screen.panel_at[part] for part in those if part in screen.panel_at]] = True
    return Truth(
        mean_ug=np.array([mean for mean, _ in moments]),
        variance_ug=np.array([variance for _, variance in moments]),
        num_u=np.array(nums),
        control_ug=np.array([mean for mean, _, _ in controls]),
        control_variance_ug=np.array([variance for _, variance, _ in controls]),
        control_num_u=np.array([num for _, _, num in controls]),
        reference_ug=predictions.reference_eg,
        context_u=context_e,
        is_target_ug=is_target_eg,
        key_u=np.array([names.index(those) for those in parts]),
        fold_u=predictions.fold_e,
        alone=parts_alone(screen, predictions),
    )


def _rows_of(screen: Screen, u: int, half: int) -> np.ndarray:
    return np.flatnonzero((screen.profile_n == u) & (screen.half_n == half))


def _seen(screen: Screen, context: int) -> np.ndarray:
    return np.flatnonzero(screen.is_seen_n & (screen.context_n == context))


def _resample(screen: Screen, entry: int, half: int, context: int, num: int) -> np.ndarray:
    """Return the controls that the technical floor answers with."""
    rng = np.random.default_rng([screen.seed, entry, half])
    return rng.choice(_seen(screen, context), num)


def _answer(screen: Screen, predictions: Predictions, name: str, half: int) -> Answer:
    """Return what a method says to one half of the truth."""
    context_e = screen.context_u[predictions.at_e]
    seen = {c: (*screen.moments(_seen(screen, c)), len(_seen(screen, c))) for c in np.unique(context_e).tolist()}
    control_eg = np.array([seen[c][0] for c in context_e.tolist()])
    noise_e = np.array([seen[c][1].sum() / seen[c][2] for c in context_e.tolist()])
    # a gene that is silent in a few controls has no variance there: all cells of the context are looked at
    spread = {c: screen.moments(np.flatnonzero(screen.context_n == c))[1] for c in seen}
    variance_eg = np.array([spread[c] for c in context_e.tolist()])
    if name not in (FLOOR, ROOF):
        return Answer(
            effect_ug=predictions.effect_eg[name], control_ug=control_eg, variance_ug=variance_eg, noise_u=noise_e
        )
    mean_eg = np.empty_like(control_eg)
    for entry, (u, context) in enumerate(zip(predictions.at_e, context_e.tolist(), strict=True)):
        rows = _rows_of(screen, u, 1 - half)
        if name == FLOOR:
            rows = _resample(screen, entry, half, context, len(_rows_of(screen, u, half)))
        mean_eg[entry], variance_g = screen.moments(rows)
        noise_e[entry] = variance_g.sum() / len(rows)
    return Answer(effect_ug=mean_eg - control_eg, control_ug=control_eg, variance_ug=variance_eg, noise_u=noise_e)


def _cell_scores(
    screen: Screen, predictions: Predictions, name: str, answers: Sequence[Answer]
) -> dict[str, np.ndarray]:
    """Return scores of predicted against real cells, each half in turn; the classifier is trained for one half only."""
    found = {metric: np.empty((2, len(predictions.at_e))) for metric in ("e_distance", "mmd", "c2st_auroc")}
    for entry, u in enumerate(predictions.at_e):
        for half, answer in enumerate(answers):
            real_ng = _dense(screen, _few(screen, _rows_of(screen, u, half)))
            made_ng = _made_cells(screen, predictions, name, entry, (half, answer.effect_ug[entry]))
            for metric in ("e_distance", "mmd"):
                found[metric][half, entry] = GENERATION_METRICS[metric].function(made_ng, real_ng)
            if half == 0:
                scores = told_apart(made_ng, real_ng, seed=screen.seed)
                found["c2st_auroc"][:, entry] = GENERATION_METRICS["c2st_auroc"].function(*scores)
    return {metric: value_he.mean(0) for metric, value_he in found.items()}


def _made_cells(
    screen: Screen, predictions: Predictions, name: str, entry: int, said: tuple[int, np.ndarray]
) -> np.ndarray:
    half, effect_g = said
    u = predictions.at_e[entry]
    context = int(screen.context_u[u])
    if name == ROOF:
        return _dense(screen, _few(screen, _rows_of(screen, u, 1 - half)))
    if name == FLOOR:
        num = min(len(_rows_of(screen, u, half)), MAX_CELLS)
        return _dense(screen, _resample(screen, entry, half, context, num))
    if entry in predictions.cells.get(name, {}):
        made_ng = predictions.cells[name][entry]
        return made_ng[np.random.default_rng(screen.seed).permutation(len(made_ng))[:MAX_CELLS]]
    return np.maximum(_dense(screen, _few(screen, _seen(screen, context))) + effect_g, 0)


def _few(screen: Screen, rows: np.ndarray) -> np.ndarray:
    return np.random.default_rng(screen.seed).permutation(rows)[:MAX_CELLS]


def _dense(screen: Screen, rows: np.ndarray) -> np.ndarray:
    return screen.log_ng[rows].toarray().astype(np.float64)


def _rows(
    tallies: Mapping[str, Tallies], predictions: Predictions, where: dict[str, Any], num_resamples: int
) -> tuple[list[PerturbationRow], list[Contrast]]:
    whole = {name: found.whole() for name, found in tallies.items()}
    drawn = {name: found.resampled(num_resamples, where["seed"]) for name, found in tallies.items()}
    keys = next(iter(tallies.values())).key_u
    sizes = {"num_profiles": len(keys), "num_perturbations": len(np.unique(keys))}
    rows = []
    for name, scores in whole.items():
        for metric, value in scores.items():
            if not math.isfinite(value):
                continue
            low, high = _interval(drawn[name][metric], value)
            rows.append(
                PerturbationRow(
                    method=name,
                    is_baseline=predictions.is_baseline.get(name, True),
                    metric=metric,
                    value=value,
                    low=low,
                    high=high,
                    best=PERTURBATION_METRICS[metric].best,
                    floor=finite_or_none(whole[FLOOR][metric]),
                    roof=finite_or_none(whole[ROOF][metric]),
                    calibrated=_calibrated(value, whole[MEAN][metric], whole[ROOF][metric], metric),
                    **sizes,
                    **where,
                )
            )
    return rows, _contrasts(whole, drawn, predictions, where["group"])


def _interval(value_r: np.ndarray, value: float) -> tuple[float, float]:
    value_r = value_r[np.isfinite(value_r)]
    low, high = percentiles(value_r) if len(value_r) else (value, value)
    return min(low, value), max(high, value)


def _calibrated(value: float, mean: float, roof: float, metric: str) -> float | None:
    """Return where a score lies between the mean effect and the replicate."""
    best = PERTURBATION_METRICS[metric].best
    if 0 < best < 1:  # two-sided: what counts is how far off the best value it is
        value, mean, roof = (abs(score - best) for score in (value, mean, roof))
    if not (math.isfinite(mean) and math.isfinite(roof)) or abs(roof - mean) < 1e-9:
        return None
    return (value - mean) / (roof - mean)


def _contrasts(
    whole: Mapping[str, Mapping[str, float]],
    drawn: Mapping[str, Mapping[str, np.ndarray]],
    predictions: Predictions,
    group: str,
) -> list[Contrast]:
    """Compare each model with the best baseline of each metric shown."""
    models = [name for name, is_baseline in predictions.is_baseline.items() if not is_baseline]
    found = []
    for metric in SHOWN:
        scored = {name: whole[name].get(metric, float("nan")) for name in predictions.effect_eg}
        scored = {name: value for name, value in scored.items() if math.isfinite(value)}
        others = [name for name in scored if name not in models]
        if not others:
            continue
        best = min(others, key=lambda name: badness(scored[name], metric))
        for model in models:
            if model in scored:
                value = scored[model] - scored[best]
                low, high = _interval(drawn[model][metric] - drawn[best][metric], value)
                found.append(
                    Contrast(group=group, metric=metric, model=model, baseline=best, value=value, low=low, high=high)
                )
    return found


def _collapsed(tallies: Mapping[str, Tallies], predictions: Predictions) -> list[str]:
    found = []
    for name, is_baseline in predictions.is_baseline.items():
        index = tallies[name].whole()["collapse_index"]
        if not is_baseline and index >= COLLAPSED:
            found.append(
                f"{name} has collapsed: it predicts nearly the same for every perturbation (collapse index "
                f"{index:.2f}, 1 = the same), while real effects differ; correlations say little of it"
            )
    return found
