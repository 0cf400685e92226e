"""The parts of an evaluation: scores, methods, tables, pictures, sections, and what the numbers depend on."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cellwright.config import Config

Entry = str | int | float | None
"""One table entry; ``None`` is shown as a dash."""


class Table(Config):
    """Rows for reading; every row has one entry a column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""

    @model_validator(mode="after")
    def _is_rectangular(self) -> Table:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a table row has {len(row)} entries, there are {len(self.columns)} columns")
        return self


class Picture(Config):
    """A drawing; its bytes are a file of their own beside the record."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Unlike any other of the evaluation; names the file."""
    alt: str
    """What it shows, for readers who cannot see it."""
    svg: bytes = Field(b"", exclude=True, repr=False)
    """The drawing, which loads nothing."""


class Section(Config):
    """A part of a report: remarks, pictures, lines, named facts and tables, in this order, each if there is any."""

    heading: str
    note: str = ""
    pictures: tuple[Picture, ...] = ()
    lines: tuple[str, ...] = ()
    facts: dict[str, Entry] = {}
    tables: dict[str, Table] = {}
    """Caption -> table; the caption may be empty."""

    @property
    def anchor(self) -> str:
        """What links to the section end with."""
        return re.sub(r"[^a-z0-9]+", "-", self.heading.lower()).strip("-")


class Score(Config):
    """A metric's value and its interval, when one was computed."""

    value: float
    low: float | None = None
    high: float | None = None
    cells: dict[str, int] = {}
    """What was counted, such as "made" and "real" -> number of cells behind the score."""

    @model_validator(mode="after")
    def _has_both_ends(self) -> Score:
        if (self.low is None) != (self.high is None) or (self.low is not None and self.low > self.high):
            raise ValueError(f"interval ({self.low}, {self.high}) needs both ends, the lower first")
        return self


class Method(Config):
    """One competitor: a model or a baseline."""

    name: str
    what: str
    """One line for the reader."""
    is_baseline: bool
    scores: dict[str, Score]
    """Metric of the evaluation's measures -> score."""
    parts: dict[str, dict[str, Score]] = {}
    """Part of the data (a cell type, a perturbation) -> metric -> score."""
    bound: Literal["floor", "roof"] | None = None
    """floor: what a method reaches that knows nothing. roof: what the best could reach; it does not compete."""
    seconds: float | None = None
    """Wall time of training and answering."""
    trained_parameters: int | None = None

    @property
    def kind(self) -> str:
        """What it is in the comparison: floor, roof, baseline or model."""
        return self.bound or ("baseline" if self.is_baseline else "model")


class Difference(Config):
    """Score of ``method`` minus score of ``other`` on the same cells, with its paired interval."""

    method: str
    other: str
    metric: str
    value: float
    low: float
    high: float


class CurvePoint(Config):
    """Losses at one step; ``None`` where one was not measured."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


class Curve(Config):
    """Losses of one training run. Runs of the same ``stage`` are comparable and share a figure."""

    name: str
    stage: str
    points: tuple[CurvePoint, ...]


class Provenance(Config):
    """What the numbers depend on; ``None`` means unknown and is shown so."""

    versions: dict[str, str]
    seed: int
    commit: str | None = None
    model_sha256: str | None = None
    split_sha256: str | None = None
    data_sha256: str | None = None
    """Of the cells that methods were scored on."""
    others: dict[str, str] = {}
    """What else there is -> its SHA-256 or description."""

    @field_validator("others")
    @classmethod
    def _is_named(cls, others: dict[str, str]) -> dict[str, str]:
        if not all(others):
            raise ValueError("provenance under an empty name")
        return others


class Cost(Config):
    """What it took."""

    seconds: dict[str, float]
    """Stage -> wall time, in the order they ran."""
    machine: str
    peak_memory_gb: float | None = None
    """Largest resident memory, GB (1e9 bytes)."""
