"""Scores with their range, best value and unit, and intervals for them. Pure numpy and scipy.

``METRICS`` is the table of everything that can be reported of labels (`cellwright.metrics.labels`); made cells have
``GENERATION_METRICS``, see `cellwright.metrics.made`, denoised ones ``DENOISING_METRICS``, see
`cellwright.metrics.depth`, ranked targets ``NETWORK_METRICS``, integrated cells ``INTEGRATION_METRICS``,
filled-in values ``FILLED_METRICS``, predicted modalities ``MODALITY_METRICS``. ``REPORTED`` holds all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from cellwright.metrics.depth import DENOISING_METRICS, DepthScore, resampled_denoising
from cellwright.metrics.filled import FILLED_METRICS
from cellwright.metrics.integration import INTEGRATION_METRICS, EmbeddedCells, IntegrationScore, embedded_cells
from cellwright.metrics.labels import (
    ECE_BINS,
    METRICS,
    accuracy,
    ari,
    assigned_accuracy,
    assigned_share,
    balanced_accuracy,
    bootstrap_interval,
    confidence_bins,
    confusion,
    ece,
    macro_f1,
    macro_f1_present,
    macro_precision,
    macro_recall,
    nmi,
    paired_difference_interval,
    per_class,
    resampled_labels,
    weighted_f1,
)
from cellwright.metrics.made import (
    GENERATION_METRICS,
    CellScore,
    Markers,
    choose_markers,
    generation_interval,
    nearest_distances,
    resampled_scores,
)
from cellwright.metrics.modalities import MODALITY_METRICS
from cellwright.metrics.networks import NETWORK_METRICS
from cellwright.metrics.sums import Sums, SumScore, Tally, resample
from cellwright.metrics.table import Metric, percentiles

__all__ = [
    "DENOISING_METRICS",
    "ECE_BINS",
    "FILLED_METRICS",
    "GENERATION_METRICS",
    "INTEGRATION_METRICS",
    "METRICS",
    "MODALITY_METRICS",
    "NETWORK_METRICS",
    "REPORTED",
    "CellScore",
    "DepthScore",
    "EmbeddedCells",
    "IntegrationScore",
    "Markers",
    "Metric",
    "SumScore",
    "Sums",
    "Tally",
    "accuracy",
    "ari",
    "assigned_accuracy",
    "assigned_share",
    "balanced_accuracy",
    "bootstrap_interval",
    "choose_markers",
    "confidence_bins",
    "confusion",
    "ece",
    "embedded_cells",
    "generation_interval",
    "macro_f1",
    "macro_f1_present",
    "macro_precision",
    "macro_recall",
    "nearest_distances",
    "nmi",
    "paired_difference_interval",
    "per_class",
    "percentiles",
    "resample",
    "resampled_denoising",
    "resampled_labels",
    "resampled_scores",
    "weighted_f1",
]

REPORTED: Mapping[str, Metric] = {
    **METRICS,
    **GENERATION_METRICS,
    **DENOISING_METRICS,
    **NETWORK_METRICS,
    **FILLED_METRICS,
    **INTEGRATION_METRICS,
    **MODALITY_METRICS,
}
"""Every metric that a report can show, whatever its function takes; names are used once."""
