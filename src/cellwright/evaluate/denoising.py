"""Score denoised cells beside simple ways to denoise, over a range of read depths.

Deep cells are thinned (each molecule kept with the same chance), every method answers for the deep cell from what is
left, and is held against it: see `cellwright.metrics.depth`. The floor is the mean of the training cells. The roof is
the deep cell drawn anew, as a second sequencing of the same depth would give it: a method can do better than that by
smoothing, since the deep cell's own noise cannot be predicted, but only where that noise is most of what is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cellwright.baselines.counts import counts_of, scale_of
from cellwright.baselines.denoising import DENOISING_BASELINES, PLAIN_BASELINES
from cellwright.metrics import DENOISING_METRICS, METRICS, bootstrap_interval, percentiles, resampled_denoising
from cellwright.protocols import CellSource, DepthTokenizer
from cellwright.tokens.depth import thin_counts
from cellwright.types import CellBatch, Draw

NUM_RESAMPLES = 1000
ROOF = "deep_again"
CLUSTER_METRICS = ("nmi", "ari")
NUM_CLUSTER_COMPONENTS = 20
NUM_CLUSTERS = 8
"""Clusters of the deep cells, where the cells have no labels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DepthCase:
    """Query cells at one depth, and what is known of them."""

    share: float
    """Part of the molecules that the methods see."""
    deep: CellBatch
    """Raw counts of the cells as they were read."""
    shallow: CellBatch
    """The same cells thinned."""
    gene_ids: np.ndarray
    """Genes that are scored, int64 ``[g]``."""
    label_n: np.ndarray | None = None
    """Type codes, -1 = not known; ``None`` = clusters of the deep cells take their place."""
    groups_n: np.ndarray | None = None
    """Donor or study codes, for intervals; ``None`` = cells are drawn."""

    def __post_init__(self):
        if len(self.deep) != len(self.shallow) or not np.array_equal(self.deep.row_n, self.shallow.row_n):
            raise ValueError("deep and shallow cells must be the same cells in the same order")


class ThinnedCells:
    """The cells of a source with a share of their molecules (a `CellSource`); the same cells whenever they are read."""

    def __init__(self, source: CellSource, share: float, *, seed: int):
        self.vocab, self.state = source.vocab, source.state
        self._source, self._share, self._draw = source, share, Draw(seed)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: np.ndarray) -> CellBatch:
        """Return the cells at these positions, thinned."""
        cells = self._source.read(rows)
        return thin_counts(cells, np.full(len(cells), self._share), self._draw)


def recounted(cells: CellBatch, tokenize: DepthTokenizer) -> CellBatch:
    """Return the cells with totals as a model counts them, so that all methods answer on its scale."""
    return replace(cells, total_n=tokenize.depth_of(cells))


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


def baseline_answers(
    train: CellBatch, case: DepthCase, *, seed: int, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Let baselines answer for the case, the roof among them.

    Parameters
    ----------
    train
        Deep cells that share none with the query cells.
    names
        Which; ``None`` = all that need no further package, so that what is compared does not depend on the machine.

    Raises
    ------
    ValueError
        A name that is in no table, or one whose package is not installed.
    """
    chosen = PLAIN_BASELINES if names is None else names
    answers = {}
    for name in chosen:
        if name not in DENOISING_BASELINES:
            raise ValueError(f"no denoising baseline {name!r}; there are {', '.join(DENOISING_BASELINES)}")
        entry = DENOISING_BASELINES[name]
        if not entry.is_available:
            raise ValueError(f"the baseline {name!r} needs a package that is not installed: {entry.install}")
        answers[name] = entry.denoise(train, case.shallow, case.gene_ids, target_total_n=case.deep.total_n, seed=seed)
    answers[ROOF] = drawn_again(case.deep, case.gene_ids, seed=seed)
    return answers


def drawn_again(deep: CellBatch, gene_ids: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw as many molecules as each cell has from its own shares of them: float32 log values ``[n, g]``."""
    generator = np.random.default_rng(seed)
    count_ng = counts_of(deep, gene_ids).toarray()
    again_ng = np.empty(count_ng.shape)
    for i, (own_g, total) in enumerate(zip(count_ng, np.rint(deep.total_n).astype(np.int64), strict=True)):
        share_g = own_g / max(total, 1)
        again_ng[i] = generator.multinomial(total, np.append(share_g, max(1 - share_g.sum(), 0)))[:-1]
    return _log_values(again_ng, deep.total_n).astype(np.float32)


def deep_values(cells: CellBatch, gene_ids: np.ndarray) -> np.ndarray:
    """Return log1p of counts per 10,000 (of each cell's ``total_n``), float64 ``[n, g]``."""
    return _log_values(counts_of(cells, gene_ids).toarray(), cells.total_n)


def _log_values(count_ng: np.ndarray, total_n: np.ndarray) -> np.ndarray:
    return np.log1p(count_ng * scale_of(total_n)[:, None])


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
    One row for each method and metric: those of `cellwright.metrics.DENOISING_METRICS`, and ``nmi`` and ``ari`` of
    clusters (`cluster_codes`) against the labels. The roof has no ``held_out_deviance``: it has seen those molecules.
    """
    truth_ng = deep_values(case.deep, case.gene_ids)
    held_out_ng = (counts_of(case.deep, case.gene_ids) - counts_of(case.shallow, case.gene_ids)).toarray()
    if held_out_ng.min(initial=0) < 0:
        raise ValueError("shallow cells hold molecules that the deep ones lack; thin the deep cells")
    label_n = _labels(case, truth_ng, seed)
    rows = []
    for method, value_ng in answers.items():
        role = "model" if method in models else "roof" if method == ROOF else DENOISING_BASELINES[method].role
        scores = {}
        for metric in DENOISING_METRICS:
            if metric == "held_out_deviance":
                if method == ROOF or not held_out_ng.any():
                    continue
                arrays = (value_ng, held_out_ng, background_g)
            else:
                arrays = (value_ng, truth_ng)
            value_r = resampled_denoising(
                metric, *arrays, groups_n=case.groups_n, num_resamples=num_resamples, seed=seed
            )
            scores[metric] = (DENOISING_METRICS[metric].function(*arrays), percentiles(value_r))
        scores |= _cluster_scores(value_ng, label_n, case, seed, num_resamples)
        rows += [_row(method, role, case, metric, score) for metric, score in scores.items()]
    return rows


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
    value_ng: np.ndarray, label_n: np.ndarray, case: DepthCase, seed: int, num_resamples: int
) -> dict[str, tuple[float, tuple[float, float]]]:
    is_known_n = label_n >= 0
    num_clusters = len(np.unique(label_n[is_known_n]))
    if num_clusters < 2:
        return {}
    code_n = cluster_codes(value_ng[is_known_n], num_clusters, seed=seed)
    groups_n = None if case.groups_n is None else np.asarray(case.groups_n)[is_known_n]
    pair = (label_n[is_known_n], code_n)
    return {
        metric: (
            METRICS[metric].function(*pair),
            bootstrap_interval(metric, *pair, groups=groups_n, num_resamples=num_resamples, seed=seed),
        )
        for metric in CLUSTER_METRICS
    }


def _row(
    method: str, role: str, case: DepthCase, metric: str, score: tuple[float, tuple[float, float]]
) -> DenoisingRow:
    value, (low, high) = score
    return DenoisingRow(
        method=method,
        role=role,
        share=case.share,
        metric=metric,
        value=value,
        low=min(low, value),
        high=max(high, value),
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
