"""Score an integration beside simple ones, and put scores, pictures and tables into one record for the report.

All methods embed the same cells; baselines see the same genes as a fine-tuned model. Scores are taken over the cells
that have a label (over a random part of them where there are many), by Luecken et al. 2022 and the averages of scGPT's
paper. The floor mixes cells at random, the roof is read off the labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cellwright.baselines.integration import INTEGRATION_BASELINES, IntegrationCase
from cellwright.config import versions
from cellwright.data.cells import Cells
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.integration_scores import (
    SHOWN,
    EmbeddingScores,
    ScoredCells,
    difference_of,
    draw_resamples,
    score_embedding,
)
from cellwright.evaluate.integration_sections import DrawnCells, integration_sections
from cellwright.evaluate.measures import measure_of
from cellwright.evaluate.parts import Cost, Method, Provenance, Score, Section
from cellwright.evaluate.study import cells_sha256, curve_of, machine, peak_memory_gb
from cellwright.metrics import REPORTED
from cellwright.tasks.integration_options import IntegrationScoring


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A column of obs as codes."""

    column: str
    code_n: np.ndarray
    """int64; -1 = not known (labels only)."""
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """One embedding of all cells by a model."""

    name: str
    what: str
    embedding_nd: np.ndarray
    seconds: float | None = None
    trained_parameters: int | None = None
    is_baseline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegrationStudy:
    """Embeddings of the same cells, and what is known of these."""

    title: str
    dataset: str
    source: Cells
    contenders: Sequence[Contender]
    """The main one first."""
    tech_batch: Groups
    label: Groups | None
    gene_ids: np.ndarray
    """Vocabulary ids of the genes that baselines see."""
    scoring: IntegrationScoring
    seed: int = 0
    model: Any = None
    fits: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    """Run name -> (stage, `cellwright.train.run.FitResult`)."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    limitations: Sequence[str] = ()


def evaluate_integration(study: IntegrationStudy) -> Evaluation:
    """Run the baselines, score all embeddings, draw, and return the record of a report."""
    rivals, left_out, seconds = _run_baselines(study)
    contenders = [*study.contenders, *rivals]
    rows = _scored_rows(study)
    start = time.perf_counter()
    scored = _scored_cells(study, rows, next(c.embedding_nd for c in rivals if c.name == "pca"))
    if study.scoring.baselines is not None and "pca" not in study.scoring.baselines:
        contenders = [c for c in contenders if c.name != "pca" or c in study.contenders]
    scores = {c.name: score_embedding(c.embedding_nd[rows], scored) for c in contenders}
    seconds["scoring"] = time.perf_counter() - start
    names = [name for name in SHOWN if all(name in found.value for found in scores.values())]
    methods = [_method(c, scores[c.name], names, study) for c in contenders]
    primary = names[0]
    start = time.perf_counter()
    sections = integration_sections(_drawn(study, contenders), methods)
    seconds["drawing"] = time.perf_counter() - start
    others = [m.name for m in methods[1:] if m.bound is None]
    model = study.model
    return Evaluation(
        title=study.title,
        task="integrate",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=_headline(study, len(contenders), len(rows)),
        summary=(*_notes(study, rows, scores), *left_out, *study.notes),
        measures={name: measure_of(REPORTED[name]) for name in names},
        primary_metric=primary,
        drawn=tuple(names[:3] if study.label else names),
        methods=tuple(methods),
        differences=tuple(difference_of(scores, methods[0].name, other, primary) for other in others),
        interval_note=(
            f"95 % percentile bootstrap over cells, {study.scoring.num_resamples} resamples, the same for all methods; "
            "embeddings, neighbourhoods and clusters stay as they are, so the intervals speak of other cells, not of "
            "another training"
        ),
        draws={name: found.draws for name, found in scores.items()},
        contracts=(Section(heading="Data", lines=tuple(study.source.contract.lines())),),
        curves=tuple(curve_of(name, stage, fit) for name, (stage, fit) in study.fits.items()),
        sections=sections,
        provenance=Provenance(
            versions=versions(),
            seed=study.seed,
            model_sha256=None if model is None else model.sha256(),
            data_sha256=cells_sha256(study.source),
        ),
        cost=Cost(seconds={**study.seconds, **seconds}, machine=machine(), peak_memory_gb=peak_memory_gb()),
        citations=(*(() if model is None else (model.family.citation,)), *_CITATIONS),
        licences=() if model is None else (model.family.weights_terms,),
        limitations=(*study.limitations, *_LIMITATIONS),
    )


_CITATIONS = (
    "Scores: Luecken M. D. et al. Benchmarking atlas-level data integration in single-cell genomics. Nature Methods "
    "19, 41-50 (2022).",
    "BRAS: Rautenstrauch P., Ohler U. Shortcomings of silhouette in single-cell integration benchmarking. Nature "
    "Biotechnology (2025).",
    "Harmony: Korsunsky I. et al. Nature Methods 16, 1289-1296 (2019). scVI: Lopez R. et al. Nature Methods 15, "
    "1053-1058 (2018).",
)
_LIMITATIONS = (
    "Where a batch holds types that others lack, a perfect score of mixing would be wrong; see the table of batches.",
    "NMI and ARI are of clusters that were made knowing how many labels there are, or which resolution fits them best.",
    "Labels often come from clusters of the same values, and so favour methods that see them the same way.",
    "Scores of mixing do not say that what was taken away was technical.",
)


def _headline(study: IntegrationStudy, num_methods: int, num_scored: int) -> str:
    types = "" if study.label is None else f" and {len(np.unique(study.label.code_n[study.label.code_n >= 0]))} types"
    return (
        f"{len(study.source):,} cells of {len(study.tech_batch.names)} sequencing batches{types} in one space: "
        f"{study.contenders[0].name} beside {num_methods - 1} others, scored on {num_scored:,} cells."
    )


def _notes(study: IntegrationStudy, rows: np.ndarray, scores: Mapping[str, EmbeddingScores]) -> list[str]:
    notes = [f"Baselines see {len(study.gene_ids):,} genes that vary within batches, and the same cells."]
    if study.label is None:
        return [*notes, "Without labels nothing here says whether cell types are kept: mixing alone is scored."]
    if num := int((study.label.code_n < 0).sum()):
        notes.append(f"{num:,} cells without a label are embedded like the others and not scored.")
    if len(rows) < int((study.label.code_n >= 0).sum()):
        notes.append(f"Scored are {len(rows):,} cells drawn at random.")
    how = "k-means, as many clusters as labels" if study.scoring.clusters == "kmeans" else "Leiden, best of 20"
    chosen = [f"{name} {found.resolution:g}" for name, found in scores.items() if found.resolution is not None]
    return [*notes, f"NMI and ARI: {how}" + (f" resolutions ({', '.join(chosen)})." if chosen else ".")]


def _run_baselines(study: IntegrationStudy) -> tuple[list[Contender], list[str], dict[str, float]]:
    """Return the baselines' embeddings, why some were not run, and the time of all."""
    source, label = study.source, study.label
    case = IntegrationCase(
        logcp10k_ng=source.logcp10k(study.gene_ids),
        counts_ng=source.values(study.gene_ids) if source.state == "raw" else None,
        tech_batch_n=study.tech_batch.code_n,
        label_n=None if label is None else label.code_n,
        seed=study.seed,
        scvi_epochs=study.scoring.scvi_epochs,
    )
    made, left_out, begin = [], [], time.perf_counter()
    asked = study.scoring.baselines
    for name, baseline in INTEGRATION_BASELINES.items():
        if asked is not None and name not in (*asked, "pca"):  # principal components are what others are compared with
            continue
        if reason := baseline.why_not(case):
            if asked is not None:
                raise ValueError(f"baseline {name!r} cannot be run: {reason}")
            if baseline.bound is None:
                left_out.append(f"{name} was not run: {reason}.")
            continue
        start = time.perf_counter()
        embedding_nd = baseline.embed(case)
        made.append(
            Contender(
                name=name,
                what=baseline.what,
                embedding_nd=embedding_nd,
                seconds=time.perf_counter() - start,
                is_baseline=True,
            )  # fmt: skip
        )
    return made, left_out, {"baselines": time.perf_counter() - begin}


def _scored_rows(study: IntegrationStudy) -> np.ndarray:
    rows = np.arange(len(study.source)) if study.label is None else np.flatnonzero(study.label.code_n >= 0)
    drawn = np.random.default_rng(study.seed).permutation(rows)[: study.scoring.max_cells]
    return np.sort(drawn)


def _scored_cells(study: IntegrationStudy, rows: np.ndarray, unintegrated_nd: np.ndarray) -> ScoredCells:
    return ScoredCells(
        tech_batch_n=study.tech_batch.code_n[rows],
        label_n=None if study.label is None else study.label.code_n[rows],
        unintegrated_nd=unintegrated_nd[rows],
        draws_rn=draw_resamples(len(rows), study.scoring.num_resamples, study.seed),
        clusters=study.scoring.clusters,
        seed=study.seed,
    )


def _method(contender: Contender, found: EmbeddingScores, names: Sequence[str], study: IntegrationStudy) -> Method:
    parts: dict[str, dict[str, Score]] = {}
    if study.label is not None:
        present = np.unique(study.label.code_n[_scored_rows(study)])
        for place, code in enumerate(present):
            values = {metric: float(by[place]) for metric, by in found.by_label.items()}
            parts[study.label.names[code]] = {m: Score(value=v) for m, v in values.items() if np.isfinite(v)}
    baseline = INTEGRATION_BASELINES.get(contender.name) if contender.is_baseline else None
    return Method(
        name=contender.name,
        what=contender.what,
        is_baseline=contender.is_baseline,
        bound=None if baseline is None else baseline.bound,
        scores={name: found.score(name) for name in names},
        parts=parts,
        seconds=contender.seconds,
        trained_parameters=contender.trained_parameters,
    )


def _drawn(study: IntegrationStudy, contenders: Sequence[Contender]) -> DrawnCells:
    """Return a random part of all cells, those without a label too."""
    some = np.sort(np.random.default_rng(study.seed).permutation(len(study.source))[: study.scoring.num_drawn])
    label = study.label
    return DrawnCells(
        embeddings={c.name: c.embedding_nd[some] for c in contenders},
        tech_batch_n=study.tech_batch.code_n[some],
        tech_batches=study.tech_batch.names,
        label_n=None if label is None else label.code_n[some],
        labels=() if label is None else label.names,
        whole=(study.tech_batch.code_n, None if label is None else label.code_n),
        seed=study.seed,
    )
