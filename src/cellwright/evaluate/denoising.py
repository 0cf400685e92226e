"""Score denoised cells beside simple ways to denoise, over a range of read depths.

Deep cells are thinned (each molecule kept with the same chance), every method answers for the deep cell from what is
left (`cellwright.evaluate.depth_cases`), and is held against it: see `cellwright.metrics.depth`. The floor is the mean
of the training cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cellwright.baselines.counts import counts_of
from cellwright.baselines.denoising import DENOISING_BASELINES
from cellwright.evaluate.depth_cases import ROOF, DepthCase, deep_values
from cellwright.metrics import DENOISING_METRICS, METRICS, percentiles, resampled_denoising, resampled_labels

NUM_RESAMPLES = 1000
CLUSTER_METRICS = ("nmi", "ari")
NUM_CLUSTER_COMPONENTS = 20
NUM_CLUSTERS = 8
"""Clusters of the deep cells, where the cells have no labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingRow:
    """One score of one method at one depth."""

    method: str
    role: str
    """model | baseline | floor | roof."""
    share: float
    """Part of the molecules that the method saw."""
    metric: str
    value: float
    low: float
    high: float
    best: float
    num_cells: int
    num_genes: int

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A score and what it is on resamples of the cells, which are the same for every method and depth."""

    value: float
    value_r: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the resamples, widened where need be to hold the score itself."""
        low, high = percentiles(self.value_r)
        return min(low, self.value), max(high, self.value)


def score_denoised(
    answers: Mapping[str, np.ndarray],
    case: DepthCase,
    background_g: np.ndarray,
    *,
    models: Sequence[str] = (),
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> list[DenoisingRow]:
    """Score every method's answers for one depth, with 95 % bootstrap intervals over the query cells.

    Parameters
    ----------
    answers
        Method -> log1p of counts per 10,000, ``[n, g]``.
    background_g
        Mean share of each gene's molecules in training cells, for ``held_out_deviance``.
    models
        Which methods are models; others are baselines, floor or roof by the tables.

    Returns
    -------
    One row for each method and metric, see `draw_scores`.
    """
    drawn = draw_scores(answers, case, background_g, seed=seed, num_resamples=num_resamples)
    return [
        depth_row(method, role_of(method, models), case, metric, score)
        for method, scores in drawn.items()
        for metric, score in scores.items()
    ]


def role_of(method: str, models: Sequence[str]) -> str:
    """Return what a method is in the comparison: model, baseline, floor or roof."""
    return "model" if method in models else "roof" if method == ROOF else DENOISING_BASELINES[method].role


def draw_scores(
    answers: Mapping[str, np.ndarray],
    case: DepthCase,
    background_g: np.ndarray,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, dict[str, Drawn]]:
    """Return method -> metric -> score with resamples.

    Metrics are those of `cellwright.metrics.DENOISING_METRICS`, and ``nmi`` and ``ari`` of clusters (`cluster_codes`)
    against the labels. The roof has no ``held_out_deviance``: it has seen those molecules.
    """
    truth_ng = deep_values(case.deep, case.gene_ids)
    held_out_ng = (counts_of(case.deep, case.gene_ids) - counts_of(case.shallow, case.gene_ids)).toarray()
    if held_out_ng.min(initial=0) < 0:
        raise ValueError("shallow cells hold molecules that the deep ones lack; thin the deep cells")
    label_n = _labels(case, truth_ng, seed)
    how = {"num_resamples": num_resamples, "seed": seed}
    found: dict[str, dict[str, Drawn]] = {}
    for method, value_ng in answers.items():
        scores = {}
        for metric, entry in DENOISING_METRICS.items():
            if metric == "held_out_deviance":
                if method == ROOF or not held_out_ng.any():
                    continue
                arrays = (value_ng, held_out_ng, background_g)
            else:
                arrays = (value_ng, truth_ng)
            value_r = resampled_denoising(metric, *arrays, groups_n=case.groups_n, **how)
            scores[metric] = Drawn(entry.function(*arrays), value_r)
        found[method] = scores | _cluster_scores(value_ng, label_n, case, how)
    return found


def cluster_codes(value_ng: np.ndarray, num_clusters: int, *, seed: int) -> np.ndarray:
    """Group cells: 20 principal components of the values (not scaled), then k-means, the best of 10 starts.

    The number of clusters is given, not tuned, so that no method profits from a resolution that suits it.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    num = min(NUM_CLUSTER_COMPONENTS, min(value_ng.shape) - 1)
    if np.ptp(value_ng, axis=0).max(initial=0) == 0 or num < 1:  # all cells are the same
        return np.zeros(len(value_ng), np.int64)
    place_nd = PCA(num, svd_solver="arpack", random_state=seed).fit_transform(np.asarray(value_ng, np.float64))
    return KMeans(num_clusters, n_init=10, random_state=seed).fit_predict(place_nd).astype(np.int64)


def _labels(case: DepthCase, truth_ng: np.ndarray, seed: int) -> np.ndarray:
    if case.label_n is not None:
        return np.asarray(case.label_n, np.int64)
    return cluster_codes(truth_ng, min(NUM_CLUSTERS, len(truth_ng)), seed=seed)


def _cluster_scores(
    value_ng: np.ndarray, label_n: np.ndarray, case: DepthCase, how: Mapping[str, int]
) -> dict[str, Drawn]:
    is_known_n = label_n >= 0
    num_clusters = len(np.unique(label_n[is_known_n]))
    if num_clusters < 2:
        return {}
    pair = (label_n[is_known_n], cluster_codes(value_ng[is_known_n], num_clusters, seed=how["seed"]))
    # cells as groups of one, so that the same ones are drawn for every method
    unit_n = np.arange(len(label_n)) if case.groups_n is None else np.asarray(case.groups_n)
    groups_n = unit_n[is_known_n]
    return {
        metric: Drawn(METRICS[metric].function(*pair), resampled_labels(metric, *pair, groups=groups_n, **how))
        for metric in CLUSTER_METRICS
    }


def depth_row(method: str, role: str, case: DepthCase, metric: str, score: Drawn) -> DenoisingRow:
    """Return a score as a row."""
    low, high = score.interval
    return DenoisingRow(
        method=method,
        role=role,
        share=case.share,
        metric=metric,
        value=score.value,
        low=low,
        high=high,
        best=(DENOISING_METRICS | METRICS)[metric].best,
        num_cells=len(case.deep),
        num_genes=len(case.gene_ids),
    )


def rows_table(rows: Sequence[DenoisingRow], metric: str) -> str:
    """Return one metric as aligned text: a line a method, a column a share of molecules; best methods first."""
    shares = sorted({row.share for row in rows if row.metric == metric})
    value = {(row.method, row.share): row for row in rows if row.metric == metric}
    methods = list(dict.fromkeys(row.method for row in rows if row.metric == metric))
    is_higher_better = (DENOISING_METRICS | METRICS)[metric].is_higher_better

    def key(method: str) -> float:
        mean = np.mean([value[method, share].value for share in shares if (method, share) in value])
        return float(-mean if is_higher_better else mean)

    lines = [[metric, "role", *(f"{100 * share:g}%" for share in shares)]]
    for method in sorted(methods, key=key):
        found = [value.get((method, share)) for share in shares]
        texts = ["-" if row is None else f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in found]
        lines.append([method, next(row.role for row in found if row is not None), *texts])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
