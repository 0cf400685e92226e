"""Scores of ranked targets against known ones: for one regulator, all genes that could be a target in order.

Known targets are never complete, and which of them a table lists depends on what was looked for. A score says how far
known targets come first, not how many predictions are right; its floor is a random order.
"""

from __future__ import annotations

import numpy as np

from cellwright.metrics.table import Metric


def average_precision(score_g: np.ndarray, is_target_g: np.ndarray) -> float:
    """Return the area under the precision-recall curve, the step-wise mean of precision over the targets.

    Genes of equal score share a step, so that their order plays no part.
    """
    order_g, is_target_g = _ordered(score_g, is_target_g)
    last_g = np.append(np.diff(order_g) != 0, True)  # last gene of each group of equal scores
    hits_k = np.cumsum(is_target_g)[last_g]
    precision_k = hits_k / (np.flatnonzero(last_g) + 1)
    return float(np.sum(np.diff(hits_k, prepend=0) * precision_k) / is_target_g.sum())


def auprc_ratio(score_g: np.ndarray, is_target_g: np.ndarray) -> float:
    """Return `average_precision` over the share of targets among the genes.

    A random order of many targets gives 1; of few, more, since precision at the first of them may be high by chance (of
    10 among 1,000 genes 1.7 on average, of 100 among 1,000 1.06). Compare with the floor, not with 1.
    """
    return average_precision(score_g, is_target_g) / float(np.mean(is_target_g))


def early_precision_ratio(score_g: np.ndarray, is_target_g: np.ndarray) -> float:
    """Return the share of targets among the first so many genes as there are targets, over their share among all.

    Equal scores at the border count by the mean over their orders.
    """
    score_g, is_target_g = _checked(score_g, is_target_g)
    num = int(is_target_g.sum())
    border = np.partition(score_g, -num)[-num]
    above_g, at_g = score_g > border, score_g == border
    hits = is_target_g[above_g].sum() + is_target_g[at_g].mean() * (num - above_g.sum())
    return float(hits / num / is_target_g.mean())


def auroc(score_g: np.ndarray, is_target_g: np.ndarray) -> float:
    """Return the probability that a target scores higher than another gene; equal scores count half."""
    from scipy.stats import rankdata

    score_g, is_target_g = _checked(score_g, is_target_g)
    num, others = int(is_target_g.sum()), int((~is_target_g).sum())
    rank_g = rankdata(score_g)
    return float((rank_g[is_target_g].sum() - num * (num + 1) / 2) / (num * others))


NETWORK_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auprc_ratio", auprc_ratio, 0.0, np.inf, np.inf, "times a random order",
               "area under precision-recall of a regulator's targets over their share"),
        Metric("early_precision_ratio", early_precision_ratio, 0.0, np.inf, np.inf, "times a random order",
               "share of targets among the first genes, as many as there are targets, over their share"),
        Metric("target_auroc", auroc, 0.0, 1.0, 1.0, "",
               "probability that a known target is ranked before another gene"),
    )
}  # fmt: skip


def _checked(score_g: np.ndarray, is_target_g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    score_g, is_target_g = np.asarray(score_g, np.float64), np.asarray(is_target_g, bool)
    if score_g.shape != is_target_g.shape or score_g.ndim != 1:
        raise ValueError(f"{score_g.shape} scores for {is_target_g.shape} genes")
    if not np.isfinite(score_g).all():
        raise ValueError("scores of targets are not finite")
    if not 0 < is_target_g.sum() < len(is_target_g):
        raise ValueError(f"{int(is_target_g.sum())} of {len(is_target_g)} genes are targets; both kinds are needed")
    return score_g, is_target_g


def _ordered(score_g: np.ndarray, is_target_g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    score_g, is_target_g = _checked(score_g, is_target_g)
    order_g = np.argsort(-score_g, kind="stable")
    return score_g[order_g], is_target_g[order_g]
