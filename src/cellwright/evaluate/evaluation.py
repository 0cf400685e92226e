"""The record of one evaluation: everything a report shows, and nothing that must be computed again by a model.

In a folder: ``evaluation.json`` (text and numbers), ``cells.npz`` (one row a cell) and, where sections have pictures,
``figures/``, tied together by hashes. Reading is strict: a missing, foreign or damaged file is one ``ValueError``.

Nothing here knows a task. A task brings measures, methods with their scores, and sections of its own.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from cellwright.config import Config, did_you_mean
from cellwright.evaluate.measures import Measure
from cellwright.evaluate.parts import Cost, Curve, Difference, Method, Picture, Provenance, Section, Table
from cellwright.files import atomic_path, read_json, write_json

FORMAT = "cellwright-evaluation-2"
RECORD_FILE, CELLS_FILE, FIGURES = "evaluation.json", "cells.npz", "figures"
OWN_ANCHORS = ("comparison", "data", "training", "tables", "cost", "provenance", "credit", "limitations")
"""Sections that every report has a place for; those of a task are called otherwise."""
_CELL_ARRAYS = ("umap_n2", "truth_n", "pred_n", "confidence_n", "is_scored_n")


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
    dataset: str = ""
    """What was evaluated on, in a few words; for rows of results."""
    created: str
    """ISO 8601 time."""
    headline: str
    """What came out, in one sentence."""
    summary: tuple[str, ...] = ()
    measures: dict[str, Measure]
    """Metric -> what a reader must know about it, in the order of the columns; see `measures_of`."""
    primary_metric: str
    """The metric that decides which method is best; it is the first column."""
    drawn: tuple[str, ...] = ()
    """Metrics of the comparison figure; empty = the first three."""
    methods: tuple[Method, ...] = Field(min_length=1)
    differences: tuple[Difference, ...] = ()
    interval_note: str = ""
    """How the intervals were made: what was resampled, how often, which level."""
    classes: tuple[str, ...] = ()
    cells: Cells = Field(default_factory=Cells, exclude=True)
    draws: dict[str, dict[str, np.ndarray]] = Field({}, exclude=True, repr=False)
    """Method -> metric -> its score on every resample, float ``[r]``, the same resamples for all methods: for whoever
    puts several evaluations of the same cells together. Not written; a score without an interval has none."""
    cells_method: str = ""
    """Name of the method whose predictions the cells carry."""
    contracts: tuple[Section, ...] = ()
    curves: tuple[Curve, ...] = ()
    sections: tuple[Section, ...] = ()
    """What the task shows, after comparison, data and training."""
    tables: dict[str, Table] = {}
    provenance: Provenance
    cost: Cost
    citations: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Evaluation:
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"method names must differ: {names}")
        self._check_metrics()
        for difference in self.differences:
            if {difference.method, difference.other} - set(names) or difference.metric not in self.measures:
                raise ValueError(f"difference {difference.method!r} - {difference.other!r} names no method or metric")
        if self.cells_method and self.cells_method not in names:
            raise ValueError(f"the cells' method {self.cells_method!r} is not among {names}")
        for name in ("truth_n", "pred_n"):
            code_n = getattr(self.cells, name)
            if code_n is not None and len(code_n) and not -1 <= code_n.min() <= code_n.max() < len(self.classes):
                raise ValueError(f"{name} has codes {code_n.min()} .. {code_n.max()} for {len(self.classes)} classes")
        anchors = [*OWN_ANCHORS, *(section.anchor for section in self.sections)]
        pictures = [picture.name for picture in self.pictures()]
        for what, words in (("sections", anchors), ("pictures", pictures)):
            if len(set(words)) != len(words) or "" in words:
                repeated = next(word for word in words if words.count(word) > 1 or not word)
                raise ValueError(f"{what} need names of their own, there are two of {repeated!r}")
        return self

    def _check_metrics(self) -> None:
        scored = {
            name for method in self.methods for scores in (method.scores, *method.parts.values()) for name in scores
        }
        for name in (self.primary_metric, *self.drawn, *sorted(scored)):
            if name not in self.measures:
                near = did_you_mean(name, self.measures) or f"; there are {', '.join(self.measures)}"
                raise ValueError(f"no metric {name!r} among the measures{near}")
        # a roof may have seen what the primary metric asks for
        competing = [method for method in self.methods if method.bound != "roof"]
        if lacking := [method.name for method in competing if self.primary_metric not in method.scores]:
            raise ValueError(f"method {lacking[0]!r} has no score for the primary metric {self.primary_metric!r}")

    def pictures(self) -> tuple[Picture, ...]:
        """Return the pictures of all sections."""
        return tuple(picture for section in (*self.contracts, *self.sections) for picture in section.pictures)

    def save(self, folder: str | Path) -> None:
        """Write the record into ``folder`` (other files in it stay). Each part is written whole or not at all."""
        folder = Path(folder)
        content = _pack_cells(self.cells)
        pictures = {picture.name: picture.svg for picture in self.pictures()}
        with atomic_path(folder / CELLS_FILE) as draft:
            draft.write_bytes(content)
        if pictures:
            with atomic_path(folder / FIGURES) as draft:
                draft.mkdir()
                for name, svg in pictures.items():
                    (draft / f"{name}.svg").write_bytes(svg)
        elif (folder / FIGURES).is_dir():  # of an earlier evaluation
            shutil.rmtree(folder / FIGURES)
        record = {
            "format": FORMAT,
            "cells_sha256": hashlib.sha256(content).hexdigest(),
            "figures_sha256": {name: hashlib.sha256(svg).hexdigest() for name, svg in pictures.items()},
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
        is_ours = isinstance(found, dict) and found.get("format") == FORMAT
        if not is_ours or not all(isinstance(found.get(part), dict) for part in ("evaluation", "figures_sha256")):
            raise ValueError(f"{path} is not an evaluation of format {FORMAT!r}; evaluate again with this version")
        content = _whole(cells_path, found.get("cells_sha256"))
        figures = {
            name: _whole(path.parent / FIGURES / f"{name}.svg", sha) for name, sha in found["figures_sha256"].items()
        }
        record = cls.read({**found["evaluation"], "cells": _unpack_cells(content, cells_path)}, str(path))
        return record._with_figures(figures, path)

    def _with_figures(self, figures: Mapping[str, bytes], path: Path) -> Evaluation:
        if lacking := [picture.name for picture in self.pictures() if picture.name not in figures]:
            raise ValueError(f"{path} tells of no file of the picture {lacking[0]!r}; evaluate again")

        def filled(section: Section) -> Section:
            pictures = tuple(p.model_copy(update={"svg": figures[p.name]}) for p in section.pictures)
            return section.model_copy(update={"pictures": pictures})

        changes = {name: tuple(map(filled, getattr(self, name))) for name in ("contracts", "sections")}
        return self.model_copy(update=changes)


def _whole(path: Path, sha256: str | None) -> bytes:
    """Return the bytes of a file that belongs to the record."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; evaluate again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} does not belong to {RECORD_FILE}, or is damaged; evaluate again")
    return content


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
