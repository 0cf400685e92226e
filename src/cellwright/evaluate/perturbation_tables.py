"""Scores of perturbations as rows, contrasts, and what each metric can show at all on the data at hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cellwright.evaluate.measures import finite_or_none
from cellwright.metrics.perturbed import PERTURBATION_METRICS, Tallies

if TYPE_CHECKING:
    from cellwright.evaluate.perturbation_interactions import Found

FLOOR, MEAN, ROOF = "technical", "mean_effect", "replicate"
ALL = "all"
SHOWN = (
    "pearson_delta", "pearson_delta_mean", "pearson_delta_top20", "mse", "nmse", "r2w", "pds_cosine", "de_overlap_nsig",
    "direction", "interaction_auprc", "interaction_recall", "e_distance", "collapse_index",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationRow:
    """One score of one method for one group of test profiles."""

    dataset: str
    split: str
    group: str
    """How far the profiles are from training (see `cellwright.data.perturbation_splits`), or ``all``."""
    method: str
    is_baseline: bool
    metric: str
    value: float
    low: float
    high: float
    """95 % interval over perturbations."""
    best: float
    floor: float | None
    """The same score of the technical floor; None = not defined."""
    roof: float | None
    """The same score of the replicate."""
    calibrated: float | None
    """0 = mean effect of training, 1 = replicate; None where the two do not differ."""
    num_profiles: int
    num_perturbations: int
    seed: int

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Score of a model minus that of the best baseline, on the same perturbations."""

    group: str
    metric: str
    model: str
    baseline: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerturbationScores:
    """Everything that was scored."""

    rows: tuple[PerturbationRow, ...]
    contrasts: tuple[Contrast, ...]
    warnings: tuple[str, ...]
    tallies: Mapping[str, Tallies]
    """Method -> scores of each entry."""
    found: Found | None = None
    """Interactions in the test combinations; ``None`` where none is asked about."""

    def value(self, method: str, metric: str, group: str = ALL) -> float:
        """Return one score, NaN where it is not defined."""
        found = [r.value for r in self.rows if (r.method, r.metric, r.group) == (method, metric, group)]
        return found[0] if found else float("nan")


def badness(value: float, metric: str) -> float:
    """Return how far a score is from the best one; smaller is better."""
    found = PERTURBATION_METRICS[metric]
    return -value if found.is_higher_better else abs(value - found.best)


def calibration_rows(scores: PerturbationScores, group: str = ALL) -> list[dict[str, Any]]:
    """Say of every metric what it can show on these data.

    ``dynamic_range``: (replicate - mean effect) / (best - mean effect), the part of the way to the best value that real
    cells go beyond the mean; about 0 or less = the metric cannot rank here. ``ceiling``: for correlations the Spearman-
    Brown value 2r / (1 + r) of the replicate, what twice the cells would reach.
    """
    found = []
    for metric, described_metric in PERTURBATION_METRICS.items():
        floor, mean, roof = (scores.value(name, metric, group) for name in (FLOOR, MEAN, ROOF))
        if not (math.isfinite(mean) and math.isfinite(roof)):
            continue
        away = badness(mean, metric) - badness(described_metric.best, metric)
        gain = badness(mean, metric) - badness(roof, metric)
        is_correlation = metric.startswith("pearson") and roof > 0
        found.append(
            {
                "metric": metric,
                "floor": finite_or_none(floor),
                "mean_effect": mean,
                "replicate": roof,
                "dynamic_range": gain / away if away > 1e-9 else None,
                "ceiling": 2 * roof / (1 + roof) if is_correlation else None,
            }
        )
    return found


def table_lines(scores: PerturbationScores, group: str = ALL, metrics: Sequence[str] = SHOWN) -> list[str]:
    """Return the scores as aligned text: methods down, metrics across; a star marks the best between floor and roof."""
    columns = [m for m in metrics if any(r.metric == m and r.group == group for r in scores.rows)]
    methods = list(dict.fromkeys(r.method for r in scores.rows if r.group == group))
    best = {}
    for metric in columns:
        known = {name: scores.value(name, metric, group) for name in methods if name not in (FLOOR, ROOF)}
        known = {name: value for name, value in known.items() if math.isfinite(value)}
        best[metric] = min((badness(value, metric) for value in known.values()), default=0.0)
    lines = [["method", *columns]]
    for name in methods:
        cells = [name]
        for metric in columns:
            value = scores.value(name, metric, group)
            is_best = name not in (FLOOR, ROOF) and badness(value, metric) <= best[metric] + 5e-4
            cells.append(f"{value:.3f}{'*' if is_best else ' '}" if math.isfinite(value) else "- ")
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return ["  ".join([line[0].ljust(widths[0]), *row[1:]]) for line, row in zip(lines, rows, strict=True)]
