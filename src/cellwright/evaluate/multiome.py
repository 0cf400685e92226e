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
from cellwright.evaluate.labelled import DRAWING_NOTE
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Curve, CurvePoint, Method, Picture, Provenance, Score, Section
from cellwright.evaluate.projection import umap_embedding
from cellwright.evaluate.study import cells_sha256, machine, peak_memory_gb
from cellwright.evaluate.told_features import plain, told_section
from cellwright.metrics import ari, embedded_cells, nmi
from cellwright.metrics.integration import INTEGRATION_METRICS, averages
from cellwright.metrics.neighbourhoods import cluster_cells

PRIMARY = "avg_bio"
LABEL_SCORES = ("asw_label", "graph_connectivity", "clisi")
BATCH_SCORES = ("asw_batch", "ilisi", "bras")
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
    """int64: cells that all embeddings are scored on; those have all modalities."""
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
    methods = _embedding_methods(study) if study.label_n is not None else ()
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
        drawn=("avg_bio", "nmi", "ari", "asw_label", "graph_connectivity", *_batch_scores(study)[:1]),
        methods=methods,
        interval_note="No intervals: clusters and silhouettes of one set of cells, one embedding a method.",
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


def _batch_scores(study: MultiomeStudy) -> tuple[str, ...]:
    if study.tech_batch_n is None or len(np.unique(study.tech_batch_n[_scored(study)])) < 2:
        return ()
    return BATCH_SCORES


def _scored(study: MultiomeStudy) -> np.ndarray:
    """Return which of the cells are scored: those of known label."""
    return study.rows[study.label_n[study.rows] >= 0]


def _embedding_methods(study: MultiomeStudy) -> tuple[Method, ...]:
    kept = _scored(study)
    if len(kept) < 16 or len(np.unique(study.label_n[kept])) < 2:
        return ()
    at_n = np.searchsorted(study.rows, kept)
    named = {study.model_name: (study.embedding_nd[kept], _what(study), False)}
    named |= {name: (x_nd[at_n], what, True) for name, (x_nd, what) in study.baselines.items()}
    return tuple(
        Method(
            name=name,
            what=what,
            is_baseline=is_baseline,
            bound="floor" if name == "shuffled" else None,
            scores=_scores(x_nd, study, kept),
        )
        for name, (x_nd, what, is_baseline) in named.items()
    )


def _what(study: MultiomeStudy) -> str:
    return f"{study.model_name} of {study.model.num_parameters:,} parameters, from all modalities of a cell"


def _scores(x_nd: np.ndarray, study: MultiomeStudy, kept: np.ndarray) -> dict[str, Score]:
    batch_scores = _batch_scores(study)
    # scores of types do not look at batches: without any, any two will do
    batch_n = study.tech_batch_n[kept] if batch_scores else np.arange(len(kept)) % 2
    cells = embedded_cells(x_nd, batch_n, study.label_n[kept])
    cluster_n = cluster_cells(cells, seed=study.seed)[0]
    values = {"nmi": nmi(cells.label_n, cluster_n), "ari": ari(cells.label_n, cluster_n)}
    values |= {name: INTEGRATION_METRICS[name].function(cells) for name in (*LABEL_SCORES, *batch_scores)}
    values["avg_bio"] = (values["nmi"] + values["ari"] + values["asw_label"]) / 3
    values |= averages(values)
    counted = {"cells": len(kept)}
    return {name: Score(value=float(value), cells=counted) for name, value in values.items() if np.isfinite(value)}


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
