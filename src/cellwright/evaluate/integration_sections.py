"""Sections of a report on integration: cells in one space, scores by type, which batch holds which types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.evaluate.labelled import DRAWING_NOTE
from cellwright.evaluate.measures import measure_of
from cellwright.evaluate.parts import Entry, Method, Picture, Section, Table
from cellwright.evaluate.projection import umap_embedding
from cellwright.metrics import REPORTED

MAX_DRAWN = 6
"""Methods in the pictures: models first, then baselines in the order below."""
_DRAWN_FIRST = ("pca", "harmony", "scvi", "centred_pca", "genes")
_BY_TYPE = ("asw_label", "asw_batch", "graph_connectivity")
_MAX_ROWS = 40


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnCells:
    """The cells in the pictures, and the groups of all cells."""

    embeddings: Mapping[str, np.ndarray]
    """Method -> embedding of the drawn cells; the main one first."""
    tech_batch_n: np.ndarray
    tech_batches: tuple[str, ...]
    label_n: np.ndarray | None
    labels: tuple[str, ...]
    whole: tuple[np.ndarray, np.ndarray | None]
    """Codes of sequencing batch and type of all cells, -1 = no type."""
    seed: int


def integration_sections(cells: DrawnCells, methods: Sequence[Method]) -> tuple[Section, ...]:
    """Return the sections; those on types only where there are labels."""
    return (_space_section(cells, methods), *_type_sections(cells, methods), _composition(cells))


def _space_section(cells: DrawnCells, methods: Sequence[Method]) -> Section:
    from cellwright.evaluate.integration_figures import SideBySide, side_by_side_figure

    models = [method.name for method in methods if not method.is_baseline]
    others = {method.name for method in methods if method.is_baseline and method.bound is None}
    shown = [*models, *(name for name in _DRAWN_FIRST if name in others)][:MAX_DRAWN]
    positions = {name: umap_embedding(_narrowed(cells.embeddings[name]), cells.seed) for name in shown}
    colourings = [SideBySide("sequencing batch", cells.tech_batch_n, cells.tech_batches)]
    if cells.label_n is not None:
        colourings.append(SideBySide("cell type", cells.label_n, cells.labels))
    by = " and by ".join(colouring.title for colouring in colourings)
    return Section(
        heading="Cells in one space",
        note=f"{len(cells.tech_batch_n):,} cells, each method placed by itself, coloured by {by}. {DRAWING_NOTE}",
        pictures=(
            Picture(
                name="integrated-cells",
                alt=f"Positions of the cells by {', '.join(shown)}, coloured by {by}; the scores are in the comparison",
                svg=side_by_side_figure(positions, colourings),
            ),
        ),
    )


def _narrowed(x_nd: np.ndarray) -> np.ndarray:
    """Return principal components of wide embeddings; neighbours of a thousand genes take long to find."""
    if x_nd.shape[1] <= 200 or len(x_nd) <= 100:
        return x_nd
    from sklearn.decomposition import PCA

    return PCA(50, svd_solver="arpack", random_state=0).fit_transform(x_nd.astype(np.float64))


def _type_sections(cells: DrawnCells, methods: Sequence[Method]) -> tuple[Section, ...]:
    if cells.label_n is None or not methods[0].parts:
        return ()
    rivals = [method for method in methods[1:] if method.bound is None and "overall" in method.scores]
    best = max(rivals, key=lambda method: method.scores["overall"].value, default=None)
    shown = [methods[0], *([best] if best else [])]
    batch_n, label_n = cells.whole
    rows = []
    for code, label in sorted(enumerate(cells.labels), key=lambda pair: -int((label_n == pair[0]).sum())):
        if label not in methods[0].parts:
            continue
        at_n = label_n == code
        row: list[Entry] = [label, int(at_n.sum()), len(np.unique(batch_n[at_n]))]
        for metric in _BY_TYPE:
            row += [_entry(method, label, metric) for method in shown]
        rows.append(tuple(row))
    heads = [f"{measure_of(REPORTED[metric]).label}, {method.name}" for metric in _BY_TYPE for method in shown]
    note = "A dash: the type is of one batch, or each of its cells is of another."
    against = f" beside {best.name}, the best of the others by their overall score" if best else ""
    table = Table(columns=("type", "cells", "batches", *heads), rows=tuple(rows[:_MAX_ROWS]), note=note)
    return (
        Section(
            heading="Scores by type",
            note=f"{methods[0].name}{against}. Small types are where integration goes wrong unseen.",
            tables={"": table},
        ),
    )


def _entry(method: Method, label: str, metric: str) -> float | None:
    score = method.parts.get(label, {}).get(metric)
    return None if score is None else round(score.value, 3)


def _composition(cells: DrawnCells) -> Section:
    batch_n, label_n = cells.whole
    if label_n is None:
        rows = [(name, int((batch_n == code).sum())) for code, name in enumerate(cells.tech_batches)]
        return Section(heading="Batches", tables={"": Table(columns=("sequencing batch", "cells"), rows=tuple(rows))})
    present = [code for code in range(len(cells.labels)) if (label_n == code).any()]
    rows = []
    for code in sorted(present, key=lambda k: -int((label_n == k).sum()))[:_MAX_ROWS]:
        count_b = np.bincount(batch_n[label_n == code], minlength=len(cells.tech_batches))
        rows.append((cells.labels[code], *(int(count) or None for count in count_b)))
    if (label_n < 0).any():
        count_b = np.bincount(batch_n[label_n < 0], minlength=len(cells.tech_batches))
        rows.append(("(no label)", *(int(count) or None for count in count_b)))
    lone = [cells.labels[code] for code in present if len(np.unique(batch_n[label_n == code])) == 1]
    warning = (
        f"Of one batch only: {', '.join(lone)}. Whether such a type differs by biology or by its batch cannot be told."
        if lone
        else "Every type is found in several batches."
    )
    return Section(
        heading="Batches and types",
        note=warning,
        tables={"": Table(columns=("cells of type", *cells.tech_batches), rows=tuple(rows))},
    )
