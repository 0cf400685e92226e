"""What a report of denoised cells shows beyond the comparison: curves over read depth, and depth by depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellwright.evaluate.comparison import format_interval, format_number, ranked
from cellwright.evaluate.denoising import depth_row, role_of
from cellwright.evaluate.measures import measures_of, metric_label
from cellwright.evaluate.parts import Entry, Method, Picture, Score, Section, Table

if TYPE_CHECKING:
    from cellwright.evaluate.denoised import Denoised


def depth_name(share: float) -> str:
    """Return how a depth is called: the part of the molecules that is seen."""
    return f"{100 * share:g} % of molecules"


def depth_sections(found: Denoised, methods: Sequence[Method], shown: Sequence[str]) -> tuple[Section, ...]:
    """Return curves, tables with every depth, and what thinning left of the cells."""
    from cellwright.evaluate.depth_curves import depth_curves_figure

    rows = [
        depth_row(name, role_of(name, [found.model_name]), case, metric, one)
        for case, scores in zip(found.cases, found.drawn, strict=True)
        for name, own in scores.items()
        for metric, one in own.items()
    ]
    shown = [metric for metric in shown if any(row.metric == metric for row in rows)]
    curves = Section(
        heading="Over read depth",
        note=f"Bands are 95 % intervals over {len(found.cases[0].deep):,} cells.",
        pictures=(
            Picture(
                name="depth-curves",
                alt="Scores of all methods over the share of molecules that they saw; the numbers are in the tables",
                svg=depth_curves_figure(rows, shown),
            ),
        ),
    )
    tables = {metric_label(name): _table(methods, name, found) for name in shown}
    each = Section(heading="Depth by depth", note="Value and 95 % interval; best methods first.", tables=tables)
    return curves, each, _thinning_section(found)


def _table(methods: Sequence[Method], metric: str, found: Denoised) -> Table:
    measure = measures_of([metric])[metric]
    parts = [depth_name(case.share) for case in found.cases]
    rows = []
    for method in ranked([method for method in methods if metric in method.scores], metric, measure):
        scores = [method.parts[part].get(metric) for part in parts]
        rows.append((method.name, method.kind, *(_entry(score) for score in scores)))
    columns = ("method", "kind", *(f"{100 * case.share:g} %" for case in found.cases))
    return Table(columns=columns, rows=tuple(rows), note=measure.note)


def _entry(score: Score | None) -> Entry:
    return None if score is None else f"{format_number(score.value)} {format_interval(score)}"


def _thinning_section(found: Denoised) -> Section:
    rows = [
        ("all", *_facts(found.cases[0].deep.total_n, found.cases[0].deep.num_genes_n), 0),
        *(
            (f"{100 * case.share:g} %", *_facts(case.shallow.total_n, case.shallow.num_genes_n), num)
            for case, num in zip(found.cases, found.num_empty, strict=True)
        ),
    ]
    columns = ("molecules", "a cell, median", "5 % to 95 % of cells", "genes a cell, median", "cells with none")
    note = "Molecules as the model counts them: of its own genes, or of all genes, by how it was made."
    return Section(heading="Thinned cells", tables={"": Table(columns=columns, rows=tuple(rows), note=note)})


def _facts(total_n: np.ndarray, num_n: np.ndarray) -> tuple[Entry, ...]:
    low, high = np.quantile(total_n, [0.05, 0.95])
    return int(np.median(total_n)), f"{low:,.0f} to {high:,.0f}", int(np.median(num_n))
