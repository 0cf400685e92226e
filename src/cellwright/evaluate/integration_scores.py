"""Score embeddings of the same cells by what integration is for, all on the same resamples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from cellwright.evaluate.parts import Difference, Score
from cellwright.metrics import INTEGRATION_METRICS, METRICS, EmbeddedCells, embedded_cells, percentiles
from cellwright.metrics.integration import averages
from cellwright.metrics.neighbourhoods import cluster_cells

SHOWN = (
    "overall", "avg_bio", "avg_batch", "nmi", "ari", "asw_label", "clisi", "ilisi", "asw_batch", "bras",
    "graph_connectivity", "pcr_comparison",
)  # fmt: skip
"""All scores, in the order of the columns; without labels only those of `UNLABELLED`."""
UNLABELLED = ("ilisi", "pcr_comparison")
BY_LABEL = ("asw_label", "clisi", "ilisi", "asw_batch", "bras", "graph_connectivity")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredCells:
    """The cells that are scored, whatever the embedding."""

    tech_batch_n: np.ndarray
    label_n: np.ndarray | None
    """int64, none missing; ``None`` = no labels."""
    unintegrated_nd: np.ndarray
    draws_rn: np.ndarray
    """How often each cell counts in each resample."""
    clusters: Literal["kmeans", "leiden"]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddingScores:
    """What one embedding scores."""

    value: Mapping[str, float]
    resampled: Mapping[str, np.ndarray]
    by_label: Mapping[str, np.ndarray]
    """Metric -> score of each label code; NaN = not defined there."""
    resolution: float | None
    """Of the clusters, where one was looked for."""

    @property
    def draws(self) -> dict[str, np.ndarray]:
        """The resampled scores that intervals are made of."""
        return {name: value_r for name, value_r in self.resampled.items() if name != "pcr_comparison"}

    def score(self, name: str) -> Score:
        """Return a score with its interval, which holds the score itself; shares of variance have none.

        Between so and so many batches, resamples differ more than cells do, so that a bootstrap of `pcr_comparison`
        lies beside its value.
        """
        value = self.value[name]
        if name not in self.draws:
            return Score(value=value)
        low, high = percentiles(self.draws[name])
        return Score(value=value, low=min(low, value), high=max(high, value))


def score_embedding(embedding_nd: np.ndarray, scored: ScoredCells) -> EmbeddingScores:
    """Score one embedding of the scored cells; scores that are not defined for them are left out."""
    cells = embedded_cells(embedding_nd, scored.tech_batch_n, scored.label_n, unintegrated_nd=scored.unintegrated_nd)
    counts_rn = np.concatenate([np.ones((1, len(embedding_nd))), scored.draws_rn])
    found: dict[str, np.ndarray] = {}
    by_label: dict[str, np.ndarray] = {}
    resolution = None
    for name in SHOWN if scored.label_n is not None else UNLABELLED:
        if name in ("nmi", "ari") or name not in INTEGRATION_METRICS or name in _AVERAGES:
            continue
        score = INTEGRATION_METRICS[name].function
        parts = score.prepare(cells)
        found[name] = score.finish(parts, counts_rn)
        if name in BY_LABEL and cells.label_n is not None:
            by_label[name] = score.finish(parts, np.equal.outer(np.unique(cells.label_n), cells.label_n).astype(float))
    if cells.label_n is not None:
        resolution = _add_clusters(found, cells, scored, counts_rn)
        found |= averages(found)
    defined = {name: found[name] for name in SHOWN if name in found and np.isfinite(found[name]).all()}
    return EmbeddingScores(
        value={name: float(value_r[0]) for name, value_r in defined.items()},
        resampled={name: value_r[1:] for name, value_r in defined.items()},
        by_label=by_label,
        resolution=resolution,
    )


_AVERAGES = ("overall", "avg_bio", "avg_batch")


def _add_clusters(
    found: dict[str, np.ndarray], cells: EmbeddedCells, scored: ScoredCells, counts_rn: np.ndarray
) -> float | None:
    cluster_n, resolution = cluster_cells(cells, how=scored.clusters, seed=scored.seed)
    for name in ("nmi", "ari"):
        score = METRICS[name].function
        tally = score.tally(cells.label_n, cluster_n)
        num, kinds = len(cluster_n), int(tally.kind_n.max()) + 1
        is_of_nm = sparse.csr_array((np.ones(num), (np.arange(num), tally.kind_n)), shape=(num, kinds))
        found[name] = score.finish(tally.sums(counts_rn @ is_of_nm))
    return resolution


def draw_resamples(num_cells: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return how often each cell counts in each bootstrap resample, float64 ``[r, n]``."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_cells, np.full(num_cells, 1 / num_cells), num_resamples).astype(np.float64)


def difference_of(scores: Mapping[str, EmbeddingScores], method: str, other: str, metric: str) -> Difference:
    """Return score(method) - score(other) with its interval over the shared resamples."""
    value = scores[method].value[metric] - scores[other].value[metric]
    low, high = percentiles(scores[method].resampled[metric] - scores[other].resampled[metric])
    return Difference(
        method=method, other=other, metric=metric, value=value, low=min(low, value), high=max(high, value)
    )
