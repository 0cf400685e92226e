"""How an integration is scored; apart from the task, so that reading options imports no engine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, field_validator

from cellwright.baselines.integration import INTEGRATION_BASELINES
from cellwright.config import Config, did_you_mean


class IntegrationScoring(Config):
    """How an integration is scored, and beside what."""

    baselines: tuple[str, ...] | None = None
    """Names separated by commas: genes, pca, centred_pca, harmony, scvi, shuffled, labels; unset = all that can run."""
    clusters: Literal["kmeans", "leiden"] = "kmeans"
    """Of NMI and ARI: kmeans, as many as labels | leiden, the best of 20 resolutions (published; needs leidenalg)."""
    max_cells: int = Field(10_000, ge=100)
    """Most cells that are scored; of more, so many are drawn at random."""
    num_resamples: int = Field(500, ge=100)
    """Bootstrap resamples of each interval."""
    scvi_epochs: int | None = Field(None, ge=1)
    """Passes of scVI's training; unset = its own rule (400, fewer for many cells)."""
    num_drawn: int = Field(3000, ge=10)
    """Most cells in the pictures."""
    unlabelled: str | None = None
    """Value of the label column that means no label; cells without a value have none either."""

    @field_validator("baselines", mode="before")
    @classmethod
    def _read_names(cls, given: Any) -> Any:
        return tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else given

    @field_validator("baselines")
    @classmethod
    def _check_names(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in given or ():
            if name not in INTEGRATION_BASELINES:
                near = did_you_mean(name, INTEGRATION_BASELINES)
                raise ValueError(f"no baseline {name!r}{near}; there are {', '.join(INTEGRATION_BASELINES)}")
        return given


def check_scoring(scoring: IntegrationScoring, *, has_labels: bool) -> None:
    """Refuse, before anything runs, what was asked for by name and cannot be scored here."""
    for name in scoring.baselines or ():
        baseline = INTEGRATION_BASELINES[name]
        if baseline.package is not None and find_spec(baseline.package) is None:
            raise ValueError(
                f"baseline {name!r} needs {baseline.package}; leave it out, or install it: "
                f'pip install "cellwright[{baseline.extra}]"'
            )
        if baseline.needs == "labels" and not has_labels:
            raise ValueError(f"baseline {name!r} needs labels; name the column, or leave it out")
    if scoring.clusters == "leiden" and has_labels and find_spec("leidenalg") is None:
        raise ValueError('clusters = "leiden" needs leidenalg: pip install "cellwright[modules]"')
