"""Put what a model made of several modalities into one record for the report.

With labels the comparison is of embeddings: the model's, from all modalities of each cell, beside simple ones. Without
labels it is of the proteins told from RNA, which is a section otherwise. Cells with proteins in a second study that no
method has learnt from, and cells that lack a modality, have sections of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cellwright.config import versions
from cellwright.data.multimodal import MODALITY_WORDS, Multimodal
from cellwright.evaluate.evaluation import Cells, Evaluation, Grouping
from cellwright.evaluate.integration_scores import (
    EmbeddingScores,
    ScoredCells,
    difference_of,
    draw_resamples,
    score_embedding,
)
from cellwright.evaluate.labelled import DRAWING_NOTE
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Curve, CurvePoint, Method, Picture, Provenance, Section
from cellwright.evaluate.projection import umap_embedding
from cellwright.evaluate.study import cells_sha256, machine, peak_memory_gb
from cellwright.evaluate.told_features import plain, told_section

PRIMARY = "avg_bio"
TYPE_SCORES = ("avg_bio", "nmi", "ari", "asw_label", "clisi", "graph_connectivity")
BATCH_SCORES = ("overall", "avg_batch", "ilisi", "asw_batch", "bras")
LEAST_CELLS, NUM_RESAMPLES = 16, 300
MAX_CELLS = 5000
"""Cells that embeddings are scored and drawn on, drawn at random of more; silhouettes take the square of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MultiomeStudy:
    """A trained model, its cells, and what was told of them."""

    title: str
    dataset: str
    model: Any
    model_name: str
    data: Multimodal
    embedding_nd: np.ndarray
    """The model's, rows in the order of the cells."""
    baselines: Mapping[str, tuple[np.ndarray, str]]
    """Name -> (embedding, one line) of the cells ``baseline_rows``."""
    rows: np.ndarray
    """int64: cells that all embeddings are scored on; they have RNA and proteins, or peaks without proteins."""
    label_n: np.ndarray | None = None
    """int64 codes of all cells, -1 = not known."""
    classes: tuple[str, ...] = ()
    tech_batch: str | None = None
    tech_batch_n: np.ndarray | None = None
    tech_batches: tuple[str, ...] = ()
    told_nf: np.ndarray | None = None
    """Proteins told of all cells; columns are ``proteins``."""
    proteins: tuple[str, ...] = ()
    """Their tokens."""
    told: Mapping[str, Evaluation] = field(default_factory=dict)
    """Heading -> scores of told proteins."""
    fit: Any = None
    split_sha256: str | None = None
    seed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    limitations: Sequence[str] = ()


def evaluate_multiome(study: MultiomeStudy) -> Evaluation | None:
    """Score embeddings where there are labels, draw the cells, and return the record of one report.

    ``None`` where there is nothing to score: no labels and no proteins.
    """
    scores = _embedding_scores(study) if study.label_n is not None else {}
    methods = _embedding_methods(study, scores) if scores else ()
    told = {heading: told_section(evaluation, heading) for heading, evaluation in study.told.items()}
    if not methods and not told:
        return None
    shared = {
        "title": study.title,
        "dataset": study.dataset,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "contracts": _contracts(study),
        "curves": _curves(study),
        "provenance": _provenance(study),
        "cost": Cost(seconds=dict(study.seconds), machine=machine(), peak_memory_gb=peak_memory_gb()),
    }
    drawing = _drawing(study)
    if not methods:
        first = next(iter(study.told.values()))
        others = tuple(section for heading, section in told.items() if study.told[heading] is not first)
        notes = (*first.summary, *study.notes)
        limits = tuple(dict.fromkeys((*study.limitations, *first.limitations)))
        sections = (*first.sections, *others, drawing)
        return first.model_copy(update={**shared, "sections": sections, "summary": notes, "limitations": limits})
    limits = [*study.limitations, *(words for one in study.told.values() for words in one.limitations), *_LIMITATIONS]
    num_labels = len(np.unique(study.label_n[_scored(study)]))
    return Evaluation(
        **shared,
        task="multiome",
        headline=(
            f"{len(_scored(study)):,} cells of {num_labels} types embedded from {_listed(study.data.modalities)} by "
            f"{study.model_name}, beside {sum(m.is_baseline for m in methods)} simple ways."
        ),
        summary=tuple(study.notes),
        measures=measures_of({name for method in methods for name in method.scores}),
        primary_metric=PRIMARY,
        drawn=("avg_bio", "nmi", "ari", "asw_label", "clisi", "graph_connectivity"),
        methods=methods,
        differences=tuple(
            difference_of(scores, study.model_name, name, PRIMARY) for name in study.baselines if name != "shuffled"
        ),
        interval_note=(
            f"95 % percentile bootstrap over cells, {NUM_RESAMPLES} resamples; neighbourhoods and clusters stay as "
            "they are, so the intervals speak of other cells of the same kinds, not of another training."
        ),
        draws={name: found.draws for name, found in scores.items()},
        sections=(drawing, *told.values()),
        citations=(study.model.family.citation,),
        licences=(study.model.family.weights_terms,),
        limitations=tuple(dict.fromkeys(limits)),
    )


_LIMITATIONS = (
    "Clusters are as many as there are labels, so NMI and ARI are not figures for clusters found blind.",
    "Labels made from the proteins themselves favour whatever reads proteins.",
    "Baselines are fitted on the cells that are scored; the network has not seen those held out.",
)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(MODALITY_WORDS[name] for name in sorted(names, key=lambda name: name != "rna"))


def _scored(study: MultiomeStudy) -> np.ndarray:
    """Return which of the cells are scored: those of known label."""
    return study.rows[study.label_n[study.rows] >= 0]


def _embedding_scores(study: MultiomeStudy) -> dict[str, EmbeddingScores]:
    """Score all embeddings on the same cells and resamples; empty where these cells have fewer than two types."""
    kept = _scored(study)
    if len(kept) < LEAST_CELLS or len(np.unique(study.label_n[kept])) < 2:
        return {}
    at_n = np.searchsorted(study.rows, kept)
    # scores of types do not look at batches: without any, any two will do
    has_batches = set(BATCH_SCORES) & set(_shown(study))
    cells = ScoredCells(
        tech_batch_n=study.tech_batch_n[kept] if has_batches else np.arange(len(kept)) % 2,
        label_n=study.label_n[kept],
        unintegrated_nd=study.baselines["PCA of both"][0][at_n],
        draws_rn=draw_resamples(len(kept), NUM_RESAMPLES, study.seed),
        clusters="kmeans",
        seed=study.seed,
    )
    found = {study.model_name: score_embedding(study.embedding_nd[kept], cells)}
    return found | {name: score_embedding(x_nd[at_n], cells) for name, (x_nd, _) in study.baselines.items()}


def _embedding_methods(study: MultiomeStudy, scores: Mapping[str, EmbeddingScores]) -> tuple[Method, ...]:
    what = {name: text for name, (_, text) in study.baselines.items()} | {study.model_name: _what(study)}
    shown, counted = _shown(study), {"cells": len(_scored(study))}
    return tuple(
        Method(
            name=name,
            what=what[name],
            is_baseline=name != study.model_name,
            bound="floor" if name == "shuffled" else None,
            scores={m: found.score(m).model_copy(update={"cells": counted}) for m in shown if m in found.value},
        )
        for name, found in scores.items()
    )


def _what(study: MultiomeStudy) -> str:
    return f"{study.model_name} of {study.model.num_parameters:,} parameters, from all modalities of a cell"


def _shown(study: MultiomeStudy) -> tuple[str, ...]:
    """Return the scores that are shown, those of batches where cells have several."""
    batch_n = None if study.tech_batch_n is None else study.tech_batch_n[_scored(study)]
    has_batches = batch_n is not None and len(np.unique(batch_n)) > 1
    return (*TYPE_SCORES, *(BATCH_SCORES if has_batches else ()))


def _contracts(study: MultiomeStudy) -> tuple[Section, ...]:
    found = [Section(heading="Modalities", lines=tuple(study.data.lines()))]
    found += [Section(heading=c.source, lines=tuple(c.lines())) for c in study.data.contracts.values()]
    return tuple(found)


def _curves(study: MultiomeStudy) -> tuple[Curve, ...]:
    if study.fit is None:
        return ()
    points = tuple(
        CurvePoint(step=int(row["step"]), train_loss=row.get("train/loss"), valid_loss=row.get("valid/loss"))
        for row in study.fit.history
    )
    return (Curve(name="training on all modalities", stage="hidden values, sum of losses", points=points),)


def _provenance(study: MultiomeStudy) -> Provenance:
    return Provenance(
        versions=versions(),
        seed=study.seed,
        model_sha256=study.model.sha256(),
        split_sha256=study.split_sha256,
        data_sha256=cells_sha256(study.data.cells),
    )


def _drawing(study: MultiomeStudy) -> Section:
    """Draw the cells by label, by what was measured in them, and by sequencing batch or study."""
    from cellwright.evaluate.figures import umap_figure

    rows = np.arange(len(study.data))
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng([study.seed, 1]).permutation(len(rows))[:MAX_CELLS])
    combos, code_n = np.unique(study.data.is_measured_nm[rows], axis=0, return_inverse=True)
    names = tuple(_listed([m for m, has in zip(study.data.modalities, row, strict=True) if has]) for row in combos)
    groupings = {"what was measured": Grouping(code_n.ravel(), names)}
    if study.tech_batch_n is not None:
        groupings[study.tech_batch or "sequencing batch"] = Grouping(study.tech_batch_n[rows], study.tech_batches)
    elif len(study.data.studies) > 1:
        groupings["study"] = Grouping(study.data.study_n[rows], study.data.studies)
    cells = Cells(
        umap_n2=umap_embedding(study.embedding_nd[rows], study.seed),
        truth_n=None if study.label_n is None else study.label_n[rows],
        groupings=groupings,
    )
    pictures = [
        Picture(name="umap", alt="Cells by label and by measured modalities", svg=umap_figure(cells, study.classes))
    ]
    count = f"{len(rows):,} of {len(study.data):,} cells" if len(rows) < len(study.data) else "All cells"
    note = f"{count}, embedded from what was measured in each. {DRAWING_NOTE}"
    if (maps := _maps(study, rows, cells.umap_n2)) is not None:
        pictures.append(maps)
        note += (
            " Below: centred log ratios of the proteins that vary most, measured (upper row) and told of the cells "
            "without any (lower row), in the same colours from the low to the high figure behind each name."
        )
    return Section(heading="Cells", note=note, pictures=tuple(pictures))


def _maps(study: MultiomeStudy, rows: np.ndarray, umap_n2: np.ndarray) -> Picture | None:
    """Draw told proteins of the cells that lack them, beside the measured ones of others."""
    from cellwright.evaluate.feature_figures import MAX_MAPS, maps_figure

    lacks_n = ~study.data.measured("protein")[rows]
    if study.told_nf is None or not study.proteins or not lacks_n.any() or lacks_n.all():
        return None
    measured_nf = study.data.feature_values(study.data.cells.vocab.ids(study.proteins), rows)
    kept = np.argsort(-np.nanvar(measured_nf[~lacks_n], axis=0), kind="stable")[:MAX_MAPS]
    names = [plain(study.proteins[f]) for f in kept]
    drawn = maps_figure(names, umap_n2, measured_nf[:, kept], study.told_nf[rows][:, kept])
    return Picture(name="maps", alt="Cells by measured and by told proteins", svg=drawn)
