"""What a reader must know about a score, and how resamples become an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """One score and what a reader must know about it."""

    name: str
    function: Callable[..., float]
    low: float
    high: float
    best: float
    """Where a perfect answer lies; inside the range for ratios and for a classifier that should be at a loss."""
    unit: str
    """What the number is a share or a number of; empty for an index."""
    what: str

    @property
    def is_higher_better(self) -> bool:
        """Whether a larger value is a better one; never so when the best value lies inside the range."""
        return self.best == self.high


def percentiles(value_r: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the middle ``level`` of resampled scores. An infinite score is larger than any other."""
    if not 0 < level < 1:
        raise ValueError(f"interval level {level} must lie between 0 and 1")
    method = "linear" if np.isfinite(value_r).all() else "inverted_cdf"  # nothing lies between a number and infinity
    low, high = np.quantile(value_r, [(1 - level) / 2, (1 + level) / 2], method=method)
    return float(low), float(high)
