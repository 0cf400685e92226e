"""What a report says of a score: its name for readers, its range, where the best value lies.

An evaluation carries the measures of its scores, so that a saved one can be read and shown when the tables of
`cellwright.metrics` have changed, and a task can report a score that is in no table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import model_validator

from cellwright.config import Config
from cellwright.metrics import REPORTED, Metric

_LABELS = {
    "macro_f1": "macro-F1",
    "macro_f1_present": "macro-F1, true classes",
    "weighted_f1": "weighted-F1",
    "e_distance": "E-distance",
    "feature_pearson": "Pearson's r",
    "feature_spearman": "Spearman's rho",
    "feature_rmse": "RMSE",
    "c2st_auroc": "C2ST AUROC",
    "auprc_ratio": "AUPRC ratio",
    "target_auroc": "target AUROC",
    "avg_bio": "AvgBIO",
    "avg_batch": "AvgBATCH",
    "asw_label": "ASW types",
    "asw_batch": "ASW batches",
    "clisi": "cLISI",
    "ilisi": "iLISI",
    "pcr_comparison": "PCR comparison",
    "expressed_mae": "MAE where expressed",
    "expressed_relative_error": "relative error",
    "expressed_squared_relative_error": "squared relative error",
    "silent_mae": "MAE where silent",
    "cell_pearson": "Pearson within cells",
    "gene_pearson": "Pearson within genes",
    "held_out_deviance": "held-out deviance",
    "filled_mse": "MSE",
    "filled_mae": "MAE",
    "filled_gene_pearson": "Pearson by gene",
    "filled_cell_spearman": "Spearman by cell",
    "within_drug_pearson": "Pearson within drugs",
    "cell_auroc": "AUROC of cells",
    "bulk_auroc": "AUROC of held-out bulk",
}
_CAPITALS = ("nmi", "ari", "ece", "mmd", "bras", "rmse", "mse")


class Measure(Config):
    """One kind of score, as its readers need to know it."""

    label: str
    """Its name as a reader wants it."""
    what: str
    """What it measures, in one line."""
    aim: Literal["higher", "lower", "nearer"] = "higher"
    """Which way is better; ``nearer`` = towards ``best`` from either side."""
    best: float | None = None
    """Value of a perfect answer; ``None`` = there is none, the range is open."""
    low: float | None = None
    """Least possible value; ``None`` = no bound."""
    high: float | None = None
    """Largest possible value; ``None`` = no bound."""
    unit: str = ""
    """What the number is a share or a number of; empty for an index."""

    @model_validator(mode="after")
    def _has_an_aim(self) -> Measure:
        if self.aim == "nearer" and self.best is None:
            raise ValueError(f"{self.label}: nearer to what? give the best value")
        return self

    def gap(self, value: float) -> float:
        """Return a number that is smaller the better ``value`` is."""
        if self.aim == "nearer":
            return abs(value - self.best)
        return -value if self.aim == "higher" else value

    @property
    def advice(self) -> str:
        """How to read it, in three words."""
        return f"best at {self.best:g}" if self.aim == "nearer" else f"{self.aim} is better"

    @property
    def note(self) -> str:
        """What it is, its unit, its range and its best value, in one line."""
        unit = f" ({self.unit})" if self.unit else ""
        if self.low is None and self.high is None:
            span = "any number"
        elif self.high is None:
            span = f"{self.low:g} or more"
        else:
            span = f"{self.high:g} or less" if self.low is None else f"{self.low:g} to {self.high:g}"
        return f"{self.what}{unit}; {span}, " + (self.advice if self.best is None else f"best {self.best:g}")


def finite_or_none(value: float) -> float | None:
    """Return a score, or nothing where it is infinite or undefined: JSON has no such numbers."""
    return float(value) if math.isfinite(value) else None


def metric_label(name: str) -> str:
    """Return a metric's name as a reader wants it."""
    return _LABELS.get(name) or (name.upper() if name in _CAPITALS else name.replace("_", " "))


def measure_of(metric: Metric) -> Measure:
    """Return what a report says of a metric of the tables."""
    aim = "higher" if metric.best == metric.high else "lower" if metric.best == metric.low else "nearer"
    best, low, high = (value if math.isfinite(value) else None for value in (metric.best, metric.low, metric.high))
    return Measure(
        label=metric_label(metric.name),
        what=metric.what,
        aim=aim,
        best=best,
        low=low,
        high=high,
        unit=metric.unit,
    )


def measures_of(names: Iterable[str]) -> dict[str, Measure]:
    """Return the measures of metrics by their names, in the order of the table.

    Raises
    ------
    ValueError
        A name that is in no table.
    """
    names = set(names)
    if strange := sorted(names - set(REPORTED)):
        raise ValueError(f"no metric {strange[0]!r}; there are {', '.join(REPORTED)}")
    return {name: measure_of(metric) for name, metric in REPORTED.items() if name in names}
