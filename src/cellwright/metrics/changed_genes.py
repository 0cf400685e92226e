"""Scores of which genes a perturbation changes, and which way. Pure numpy and scipy.

Genes are called changed by Welch's test of real perturbed cells against controls, 5 % by Benjamini and Hochberg; what a
model says is tested as though as many cells had been measured (`cellwright.metrics.effects.predicted_changes`).
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from cellwright.metrics.effects import Answer, Tested, Truth

OVERLAP_SIZES = (50, 100, 200)


def changed_genes(truth: Truth, answer: Answer, real: Tested, made: Tested) -> dict[str, np.ndarray]:
    """Score the genes that change.

    ``de_overlap_nsig``, ``de_overlap_50`` ...: share of the k most significant real genes that are among the k of
    largest predicted t (either sign), k = number of significant genes, 50, 100, 200 (NaN where k is more than half of
    the genes). Equal predictions share their places. ``de_jaccard``: significant in both / in either. ``de_auprc``,
    ``de_auroc``: are significant genes ranked first by the size of the predicted t.

    On significant genes: ``effect_spearman`` (rank correlation of effects, at least 3 genes); ``effect_nmae``, the mean
    absolute error of effects over their mean size; ``direction``, the share of the right sign (a predicted 0 has none);
    ``direction_beyond_chance`` = (direction - q) / max(1 - q, 0.05), q = share of the sign that most of them have.
    NaN where no gene is significant.
    """
    num, num_genes = truth.mean_ug.shape
    names = ["de_overlap_nsig", *(f"de_overlap_{k}" for k in OVERLAP_SIZES), "de_jaccard", "de_auprc", "de_auroc"]
    names += ["effect_spearman", "effect_nmae", "direction", "direction_beyond_chance"]
    found = {name: np.full(num, np.nan) for name in names}
    for u in range(num):
        is_real_g, score_g = real.is_significant_ug[u], np.abs(made.t_ug[u])
        num_real = int(is_real_g.sum())
        sizes = {"nsig": num_real} | {str(k): k for k in OVERLAP_SIZES}
        for name, k in sizes.items():
            if 0 < k <= num_genes / 2:
                found[f"de_overlap_{name}"][u] = _overlap(np.abs(real.t_ug[u]), score_g, k)
        either = is_real_g | made.is_significant_ug[u]
        if either.any():
            found["de_jaccard"][u] = (is_real_g & made.is_significant_ug[u]).sum() / either.sum()
        if not num_real:
            continue
        if num_real < num_genes:
            found["de_auprc"][u] = average_precision(is_real_g, score_g)
            found["de_auroc"][u] = auroc(is_real_g, score_g)
        found |= _on_changed(found, u, truth.effect_ug[u, is_real_g], answer.effect_ug[u, is_real_g])
    return found


def _on_changed(found: dict[str, np.ndarray], u: int, real_g: np.ndarray, made_g: np.ndarray) -> dict[str, np.ndarray]:
    """Fill in the scores of effects on significant genes."""
    if len(real_g) >= 3:
        is_flat = np.ptp(made_g) == 0 or np.ptp(real_g) == 0
        found["effect_spearman"][u] = 0.0 if is_flat else stats.spearmanr(real_g, made_g).statistic
    size = np.abs(real_g).mean()
    found["effect_nmae"][u] = np.abs(made_g - real_g).mean() / size if size > 0 else np.nan
    right = float((np.sign(made_g) == np.sign(real_g)).mean())
    majority = max((real_g > 0).mean(), (real_g < 0).mean())
    found["direction"][u] = right
    found["direction_beyond_chance"][u] = (right - majority) / max(1 - majority, 0.05)
    return found


def _overlap(real_g: np.ndarray, made_g: np.ndarray, k: int) -> float:
    top_k = np.argsort(-real_g, kind="stable")[:k]
    least = np.partition(made_g, -k)[-k]
    is_above_g, is_tied_g = made_g > least, made_g == least
    share = (k - is_above_g.sum()) / is_tied_g.sum()
    return float((is_above_g[top_k] + share * is_tied_g[top_k]).mean())


def average_precision(is_true_g: np.ndarray, score_g: np.ndarray) -> float:
    """Return the area under precision against recall (sum of precision times gain in recall); ties count together."""
    order = np.argsort(-score_g, kind="stable")
    is_last = np.append(np.diff(score_g[order]) != 0, True)
    hits, seen = np.cumsum(is_true_g[order])[is_last], np.flatnonzero(is_last) + 1
    return float((np.diff(np.append(0, hits)) * hits / seen).sum() / is_true_g.sum())


def auroc(is_true_g: np.ndarray, score_g: np.ndarray) -> float:
    """Return the chance that a true one scores higher than a false one; equal scores count half."""
    rank_g = stats.rankdata(score_g)
    num = int(is_true_g.sum())
    return float((rank_g[is_true_g].sum() - num * (num + 1) / 2) / (num * (len(score_g) - num)))
