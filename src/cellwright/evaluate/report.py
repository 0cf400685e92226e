"""One offline HTML file from one evaluation: headline and comparison first, what limits them last.

Everything is inside the file (style and figures); it runs no script and asks for nothing over the network. All text is
escaped. The same evaluation gives the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cellwright.evaluate.comparison import (
    best_methods,
    format_interval,
    format_score,
    metric_columns,
    metric_label,
    ranked,
    table_text,
    verdict,
)
from cellwright.evaluate.evaluation import Entry, Evaluation, Table
from cellwright.files import atomic_path
from cellwright.metrics import METRICS, per_class

__all__ = ["table_text", "write_report"]

FIGURE_METRICS = 3
"""So many metrics stand side by side in the comparison figure; the table has all."""


def write_report(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the report as one self-contained HTML file and return its path; parts without data are left out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cellwright", "evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["entry"] = _entry
    environment.filters["is_number"] = lambda value: isinstance(value, int | float)
    page = environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        verdict=verdict(evaluation),
        comparison=_comparison(evaluation),
        metric_notes=_metric_notes(evaluation),
        per_class=_per_class_table(evaluation),
        assigned=_assigned_note(evaluation),
        figures={name: _data_uri(content) for name, content in _figures(evaluation)},
        cost=_cost(evaluation),
        hashes=_hashes(evaluation),
    )
    with atomic_path(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return Path(path)


def _figures(evaluation: Evaluation) -> Iterable[tuple[str, bytes]]:
    from cellwright.evaluate import charts, figures

    cells = evaluation.cells
    yield (
        "comparison",
        charts.comparison_figure(evaluation.methods, metric_columns(evaluation)[:FIGURE_METRICS]),
    )
    if evaluation.curves:
        yield "curves", charts.curves_figure(evaluation.curves)
    if cells.umap_n2 is not None and len(cells):
        yield "umap", figures.umap_figure(cells, evaluation.classes)
    if _is_scored(evaluation):
        cells = cells.scored()
        yield "confusion", figures.confusion_figure(cells.truth_n, cells.pred_n, evaluation.classes)
        if cells.confidence_n is not None:
            is_used_n = (cells.truth_n >= 0) & (cells.pred_n >= 0)
            if is_used_n.any():
                is_right_n = (cells.truth_n == cells.pred_n)[is_used_n]
                yield "reliability", charts.reliability_figure(is_right_n, cells.confidence_n[is_used_n])


def _is_scored(evaluation: Evaluation) -> bool:
    cells = evaluation.cells.scored()
    return cells.truth_n is not None and cells.pred_n is not None and bool((cells.truth_n >= 0).any())


def _data_uri(content: bytes) -> str:
    # as an image, not inline: nothing in a drawing can act on the page, and its ids cannot collide with another's
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii")


def _entry(value: Entry) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _comparison(evaluation: Evaluation) -> dict[str, Any]:
    columns = metric_columns(evaluation)
    best = {name: best_methods(evaluation, name) for name in columns}
    rows = []
    for method in ranked(evaluation.methods, evaluation.primary_metric):
        scores = []
        for name in columns:
            score = method.scores.get(name)
            value, interval = ("–", "") if score is None else (format_score(score), format_interval(score))
            scores.append({"value": value, "interval": interval, "is_best": method.name in best[name]})
        parameters = method.trained_parameters
        rows.append(
            {
                "method": method,
                "scores": scores,
                "seconds": _seconds(method.seconds),
                "parameters": "–" if parameters is None else f"{parameters:,}",
            }
        )
    return {"labels": [metric_label(name) for name in columns], "rows": rows}


def _metric_notes(evaluation: Evaluation) -> list[tuple[str, str]]:
    notes = []
    for name in metric_columns(evaluation):
        metric = METRICS[name]
        unit = f" ({metric.unit})" if metric.unit else ""
        notes.append(
            (
                metric_label(name),
                f"{metric.what}{unit}; {metric.low:g} to {metric.high:g}, best {metric.best:g}",
            )
        )
    return notes


def _per_class_table(evaluation: Evaluation) -> Table | None:
    if not _is_scored(evaluation):
        return None
    cells = evaluation.cells.scored()
    is_known_n = cells.truth_n >= 0
    rows = per_class(cells.truth_n[is_known_n], cells.pred_n[is_known_n], evaluation.classes)
    used = [(k + 1, row) for k, row in enumerate(rows) if row["num_true"] or row["num_predicted"]]
    unused = len(rows) - len(used)
    entries = tuple(
        (
            number, row["class"], row["num_true"], row["num_predicted"],
            row["precision"] if row["num_predicted"] else None,
            row["recall"] if row["num_true"] else None,
            row["f1"],
        )
        for number, row in sorted(used, key=lambda item: -item[1]["num_true"])
    )  # fmt: skip
    note = "A dash: not defined, since no cell was predicted (precision) or none is true (recall)."
    if unused:
        note += f" {unused} classes that are neither true nor predicted here are left out."
    columns = ("no.", "class", "true cells", "predicted cells", "precision", "recall", "F1")
    return Table(columns=columns, rows=entries, note=note)


def _assigned_note(evaluation: Evaluation) -> str:
    """Say how many cells stand behind the per-cell figures, and how many of them have no answer."""
    if not _is_scored(evaluation):
        return ""
    cells = evaluation.cells.scored()
    num_known = int((cells.truth_n >= 0).sum())
    num_unassigned = int(((cells.pred_n < 0) & (cells.truth_n >= 0)).sum())
    who = f"Predictions of {evaluation.cells_method}. " if evaluation.cells_method else ""
    unknown = len(cells) - num_known
    left_out = f" {unknown:,} cells without a known class are not scored." if unknown else ""
    return f"{who}{num_known:,} cells are scored, {num_unassigned:,} of them were left unassigned.{left_out}"


def _cost(evaluation: Evaluation) -> dict[str, Any]:
    cost = evaluation.cost
    return {
        "stages": [(stage, _seconds(seconds)) for stage, seconds in cost.seconds.items()],
        "total": _seconds(sum(cost.seconds.values())),
        "memory": "not measured" if cost.peak_memory_gb is None else f"{cost.peak_memory_gb:.2f} GB",
    }


def _hashes(evaluation: Evaluation) -> list[tuple[str, str]]:
    provenance = evaluation.provenance
    known = {
        "commit": provenance.commit,
        "model (SHA-256)": provenance.model_sha256,
        "split (SHA-256)": provenance.split_sha256,
        "query cells (SHA-256)": provenance.data_sha256,
    }
    return [("seed", str(provenance.seed)), *((name, value or "unknown") for name, value in known.items())]
