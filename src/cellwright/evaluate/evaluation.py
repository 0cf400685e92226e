"""The record of one evaluation: everything a report shows, and nothing that must be computed again by a model.

Two files in a folder: ``evaluation.json`` (text and numbers) and ``cells.npz`` (one row a cell), tied together by a
hash. Reading is strict: a missing, foreign or damaged file is one ``ValueError``.

Scores are written down by whoever ran the methods; per-class tables and figures are drawn from the cells' codes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, field_validator, model_validator

from cellwright.config import Config
from cellwright.files import atomic_path, read_json, write_json
from cellwright.metrics import METRICS

FORMAT = "cellwright-evaluation-1"
RECORD_FILE, CELLS_FILE = "evaluation.json", "cells.npz"
_CELL_ARRAYS = ("umap_n2", "truth_n", "pred_n", "confidence_n", "is_scored_n")

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


class Section(Config):
    """A heading with plain lines, named facts, or both (a data contract, a gene coverage report)."""

    heading: str
    lines: tuple[str, ...] = ()
    facts: dict[str, Entry] = {}


class Score(Config):
    """A metric's value and its interval, when one was computed."""

    value: float
    low: float | None = None
    high: float | None = None

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
    """Metric of `cellwright.metrics.METRICS` -> score."""
    seconds: float | None = None
    """Wall time of training and answering."""
    trained_parameters: int | None = None


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


class Cost(Config):
    """What it took."""

    seconds: dict[str, float]
    """Stage -> wall time, in the order they ran."""
    machine: str
    peak_memory_gb: float | None = None
    """Largest resident memory, GB (1e9 bytes)."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """A column that says where cells come from: sequencing batch, study, donor."""

    code_n: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """The scored cells, one row each; a part that is ``None`` is left out of the report."""

    umap_n2: np.ndarray | None = None
    """float32 ``[n, 2]``: positions for drawing, see `cellwright.evaluate.projection`."""
    truth_n: np.ndarray | None = None
    """int64: true class, -1 = not known."""
    pred_n: np.ndarray | None = None
    """int64: predicted class, -1 = unassigned."""
    confidence_n: np.ndarray | None = None
    """float32: probability of the predicted class."""
    is_scored_n: np.ndarray | None = None
    """bool: False = drawn for orientation only, in no score or table; ``None`` = all count."""
    groupings: Mapping[str, Grouping] = field(default_factory=dict)
    """Column name -> grouping."""

    def __post_init__(self):
        sizes = {name: len(array) for name, array in self._arrays().items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the cells' arrays differ in length: {sizes}")
        if self.umap_n2 is not None and (self.umap_n2.ndim != 2 or self.umap_n2.shape[1] != 2):
            raise ValueError(f"umap_n2 has shape {self.umap_n2.shape}, not cells x 2")
        for name, grouping in self.groupings.items():
            if len(grouping.code_n) and not -1 <= grouping.code_n.min() <= grouping.code_n.max() < len(grouping.names):
                raise ValueError(f"grouping {name!r} has a code outside its {len(grouping.names)} names")

    def __len__(self) -> int:
        return next((len(array) for array in self._arrays().values()), 0)

    def scored(self) -> Cells:
        """Return the cells that count; positions and groupings, which are for drawing, are left out."""
        at_n = slice(None) if self.is_scored_n is None else np.asarray(self.is_scored_n, dtype=bool)
        names = ("truth_n", "pred_n", "confidence_n")
        return Cells(**{name: array[at_n] for name in names if (array := getattr(self, name)) is not None})

    def _arrays(self) -> dict[str, np.ndarray]:
        found = {name: array for name in _CELL_ARRAYS if (array := getattr(self, name)) is not None}
        return found | {f"grouping:{name}": grouping.code_n for name, grouping in self.groupings.items()}


class Evaluation(Config):
    """What a report is written from."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    title: str
    task: str
    created: str
    """ISO 8601 time."""
    headline: str
    """What came out, in one sentence."""
    summary: tuple[str, ...] = ()
    primary_metric: str
    """The metric that decides which method is best."""
    methods: tuple[Method, ...] = Field(min_length=1)
    differences: tuple[Difference, ...] = ()
    interval_note: str = ""
    """How the intervals were made: what was resampled, how often, which level."""
    classes: tuple[str, ...] = ()
    cells: Cells = Field(default_factory=Cells, exclude=True)
    cells_method: str = ""
    """Name of the method whose predictions the cells carry."""
    contracts: tuple[Section, ...] = ()
    curves: tuple[Curve, ...] = ()
    tables: dict[str, Table] = {}
    provenance: Provenance
    cost: Cost
    citations: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()

    @field_validator("primary_metric")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in METRICS:
            raise ValueError(f"no such metric; there are {', '.join(METRICS)}")
        return name

    @model_validator(mode="after")
    def _is_consistent(self) -> Evaluation:
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"method names must differ: {names}")
        if strange := {metric for method in self.methods for metric in method.scores} - set(METRICS):
            raise ValueError(f"no metric {sorted(strange)[0]!r}; there are {', '.join(METRICS)}")
        if lacking := [method.name for method in self.methods if self.primary_metric not in method.scores]:
            raise ValueError(f"method {lacking[0]!r} has no score for the primary metric {self.primary_metric!r}")
        for difference in self.differences:
            if {difference.method, difference.other} - set(names) or difference.metric not in METRICS:
                raise ValueError(f"difference {difference.method!r} - {difference.other!r} names no method or metric")
        if self.cells_method and self.cells_method not in names:
            raise ValueError(f"the cells' method {self.cells_method!r} is not among {names}")
        for name in ("truth_n", "pred_n"):
            code_n = getattr(self.cells, name)
            if code_n is not None and len(code_n) and not -1 <= code_n.min() <= code_n.max() < len(self.classes):
                raise ValueError(f"{name} has codes {code_n.min()} .. {code_n.max()} for {len(self.classes)} classes")
        return self

    def save(self, folder: str | Path) -> None:
        """Write both files into ``folder`` (other files in it stay). Each is written whole or not at all."""
        folder = Path(folder)
        content = _pack_cells(self.cells)
        with atomic_path(folder / CELLS_FILE) as draft:
            draft.write_bytes(content)
        record = {
            "format": FORMAT,
            "cells_sha256": hashlib.sha256(content).hexdigest(),
            "evaluation": self.record(),
        }
        write_json(folder / RECORD_FILE, record)

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read what `save` wrote; anything else is a ``ValueError`` that names the file."""
        path, cells_path = Path(folder) / RECORD_FILE, Path(folder) / CELLS_FILE
        for needed in (path, cells_path):
            if not needed.is_file():
                raise ValueError(f"{needed} is missing; is {folder} the folder of a finished evaluation?")
        found = read_json(path)
        if (
            not isinstance(found, dict)
            or found.get("format") != FORMAT
            or not isinstance(found.get("evaluation"), dict)
        ):
            raise ValueError(f"{path} is not an evaluation of format {FORMAT!r}; evaluate again with this version")
        content = cells_path.read_bytes()
        if hashlib.sha256(content).hexdigest() != found.get("cells_sha256"):
            raise ValueError(f"{cells_path} does not belong to {path.name}, or is damaged; evaluate again")
        return cls.read({**found["evaluation"], "cells": _unpack_cells(content, cells_path)}, str(path))


def _pack_cells(cells: Cells) -> bytes:
    arrays: dict[str, Any] = dict(cells._arrays())
    for name, grouping in cells.groupings.items():
        arrays[f"names:{name}"] = np.array(grouping.names, dtype=np.str_)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _unpack_cells(content: bytes, path: Path) -> Cells:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        columns = [name.partition(":")[2] for name in arrays if name.startswith("grouping:")]
        groupings = {
            name: Grouping(arrays.pop(f"grouping:{name}"), tuple(arrays.pop(f"names:{name}").tolist()))
            for name in columns
        }
        return Cells(**arrays, groupings=groupings)
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} does not hold the cells of an evaluation ({error}); evaluate again") from None
