"""From answers to a record that a report is written from: one annotation study, put together."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cellwright.config import versions
from cellwright.data.cells import Cells
from cellwright.evaluate import annotation, evaluation
from cellwright.evaluate.evaluation import Evaluation, Grouping
from cellwright.evaluate.labelled import labelled_sections
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Curve, CurvePoint, Difference, Method, Provenance, Section, Table
from cellwright.evaluate.projection import umap_embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationStudy:
    """What was trained on which cells, and what every method answered for the query cells."""

    title: str
    task: str = "annotate"
    where: str
    """The query cells in words, for the headline."""
    how: str = "all learnt from the same cells"
    """What the methods have in common, for the headline."""
    dataset: str = ""
    """The query cells in a word or two, for rows of results."""
    classes: tuple[str, ...]
    query: Cells
    truth_n: np.ndarray
    """int64 code of each query cell, -1 = its class has no training cell or it has no label."""
    contenders: Sequence[annotation.Contender]
    main: str
    """Name of the contender whose answers are drawn."""
    against: Sequence[tuple[str, str]]
    """Pairs (method, other) whose difference is stated."""
    embedding_nd: np.ndarray
    """float ``[query cells + context cells, d]``: embedding by the main model, for drawing."""
    context: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further cells to draw, after the query cells: ``truth_n`` and ``pred_n`` of each."""
    groupings: Mapping[str, Grouping] = field(default_factory=dict)
    """Column name -> where each drawn cell comes from."""
    groups_n: np.ndarray | None = None
    """Donor or study codes of the query cells, for intervals."""
    contracts: Mapping[str, Any] = field(default_factory=dict)
    """Heading -> `cellwright.data.contract.Contract`."""
    fits: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    """Run name -> (stage, `cellwright.train.run.FitResult`)."""
    model: Any
    split_sha256: str | None
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Further provenance: what it is of -> hash."""
    seed: int
    seconds: Mapping[str, float]
    summary: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()


def evaluate_study(study: AnnotationStudy) -> Evaluation:
    """Score the study's contenders and put everything a report shows into one record."""
    methods = annotation.score_contenders(study.contenders, study.truth_n, groups=study.groups_n, seed=study.seed)
    differences = annotation.compare(
        study.contenders, study.truth_n, study.against, groups=study.groups_n, seed=study.seed
    )
    return study_record(study, methods, differences, headline=_headline(study))


def study_record(
    study: AnnotationStudy,
    methods: Sequence[Method],
    differences: Sequence[Difference],
    *,
    headline: str,
    interval_note: str = "",
    sections: Sequence[Section] = (),
    memory_gb: float | None = None,
) -> Evaluation:
    """Put a study whose methods are scored into one record.

    Parameters
    ----------
    interval_note
        How intervals were made; empty = as `annotation.score_contenders` does.
    sections
        Shown before those on the drawn cells.
    memory_gb
        Highest memory, where the process may have forgotten it.
    """
    cells, memory = _drawn_cells(study), peak_memory_gb()
    return Evaluation(
        title=study.title,
        task=study.task,
        dataset=study.dataset or study.query.contract.title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=headline,
        summary=study.summary,
        measures=measures_of(annotation.SHOWN),
        primary_metric=annotation.PRIMARY,
        methods=tuple(methods),
        differences=tuple(differences),
        interval_note=interval_note or annotation.interval_note(study.groups_n, study.truth_n),
        classes=study.classes,
        cells=cells,
        cells_method=study.main,
        contracts=tuple(Section(heading=name, lines=tuple(c.lines())) for name, c in study.contracts.items()),
        curves=tuple(curve_of(name, stage, fit) for name, (stage, fit) in study.fits.items()),
        sections=(*sections, *labelled_sections(cells, study.classes, study.main)),
        tables=_tables(study),
        provenance=Provenance(
            versions=versions(),
            seed=study.seed,
            model_sha256=study.model.sha256(),
            split_sha256=study.split_sha256,
            data_sha256=cells_sha256(study.query),
            others=dict(study.hashes),
        ),
        cost=Cost(
            seconds=dict(study.seconds),
            machine=machine(),
            peak_memory_gb=max(filter(None, (memory, memory_gb)), default=None),
        ),
        citations=(study.model.family.citation, *study.citations),
        licences=(study.model.family.weights_terms, *study.licences),
        limitations=study.limitations,
    )


def _headline(study: AnnotationStudy) -> str:
    num = len(study.contenders)
    ways = f"{num} ways of naming {study.where}" if num > 1 else f"{study.main} naming {study.where}"
    return f"{ways}, {study.how}." if study.how else f"{ways}."


def cells_sha256(source: Cells) -> str:
    """Return a hash of the values that were read: every cell's genes and values, in order, and the vocabulary."""
    digest = hashlib.sha256(source.vocab.sha256.encode())
    for start in range(0, len(source), 2048):
        cells = source.read(np.arange(start, min(start + 2048, len(source))))
        for array, kind in ((cells.num_genes_n, "<i8"), (cells.gene_z, "<i8"), (cells.value_z, "<f4")):
            digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()


def _drawn_cells(study: AnnotationStudy) -> evaluation.Cells:
    main = next(contender for contender in study.contenders if contender.name == study.main)
    pred_n, confidence_n = main.prob_nk.argmax(1), main.prob_nk.max(1)
    num_context = len(study.embedding_nd) - len(study.truth_n)
    truth_n = np.concatenate([study.truth_n, study.context.get("truth_n", np.zeros(0, np.int64))])
    return evaluation.Cells(
        umap_n2=umap_embedding(study.embedding_nd, study.seed),
        truth_n=truth_n.astype(np.int64),
        pred_n=np.concatenate([pred_n, study.context.get("pred_n", np.zeros(0, np.int64))]).astype(np.int64),
        confidence_n=np.concatenate([confidence_n, np.ones(num_context)]).astype(np.float32),
        is_scored_n=np.arange(len(truth_n)) < len(study.truth_n),
        groupings=study.groupings,
    )


def curve_of(name: str, stage: str, fit: Any) -> Curve:
    """Return the losses of a run."""
    points = [
        CurvePoint(step=int(row["step"]), train_loss=row.get("train/loss"), valid_loss=row.get("valid/loss"))
        for row in fit.history
    ]
    return Curve(name=name, stage=stage, points=tuple(points))


def _tables(study: AnnotationStudy) -> dict[str, Table]:
    known = int((study.truth_n >= 0).sum())
    rows = [
        ("query cells", len(study.truth_n)),
        ("scored (their class has training cells)", known),
        ("not scored (class unknown to the training cells)", len(study.truth_n) - known),
    ]
    return {"Cells scored": Table(columns=("what", "cells"), rows=tuple(rows))}


def machine() -> str:
    """Describe the machine in a few words."""
    import os

    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"


def peak_memory_gb() -> float | None:
    """Return the largest resident memory of this process so far, in GB; ``None`` where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e9 if sys.platform == "darwin" else 1e6)
