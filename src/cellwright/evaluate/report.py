"""One offline HTML file from one evaluation: headline and comparison first, what limits them last.

Everything is inside the file (style and figures); it runs no script and asks for nothing over the network. All text is
escaped. The same evaluation gives the same bytes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cellwright.evaluate.comparison import (
    best_methods,
    drawn_metrics,
    format_interval,
    format_score,
    metric_columns,
    ranked,
    table_text,
    verdict,
)
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.parts import Entry
from cellwright.files import atomic_path

__all__ = ["table_text", "write_report"]

MOST_BESIDE = 6
"""More metrics than these are shown in several tables, one below the other."""


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
    environment.filters["data_uri"] = _data_uri
    environment.filters["is_number"] = lambda value: isinstance(value, int | float)
    page = environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        verdict=verdict(evaluation),
        comparison=_comparison(evaluation),
        has_roof=any(method.bound == "roof" for method in evaluation.methods),
        metric_notes=[(evaluation.measures[n].label, evaluation.measures[n].note) for n in metric_columns(evaluation)],
        figures={name: _data_uri(content) for name, content in _figures(evaluation)},
        cost=_cost(evaluation),
        hashes=_hashes(evaluation),
    )
    with atomic_path(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return Path(path)


def _figures(evaluation: Evaluation) -> Iterable[tuple[str, bytes]]:
    """Draw what every report has; pictures of the task's own sections are drawn already."""
    from cellwright.evaluate import charts

    yield "comparison", charts.comparison_figure(evaluation.methods, drawn_metrics(evaluation))
    if evaluation.curves:
        yield "curves", charts.curves_figure(evaluation.curves)


def _data_uri(content: bytes) -> str:
    # as an image, not inline: nothing in a drawing can act on the page, and its ids cannot collide with another's
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii")


def _entry(value: Entry) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        value = round(value, 3) + 0.0  # never -0.000
        return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _comparison(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return what the comparison shows, in tables of as many metrics each as a page is wide, all with the same rows."""
    columns = metric_columns(evaluation)
    num_tables = math.ceil(len(columns) / MOST_BESIDE)
    edges = [round(len(columns) * k / num_tables) for k in range(num_tables + 1)]
    parts = [columns[first:last] for first, last in zip(edges[:-1], edges[1:], strict=True)]
    return [
        _comparison_part(evaluation, names, is_first=part == 0, is_last=part == num_tables - 1)
        for part, names in enumerate(parts)
    ]


def _comparison_part(
    evaluation: Evaluation, columns: Sequence[str], *, is_first: bool, is_last: bool
) -> dict[str, Any]:
    primary = evaluation.primary_metric
    best = {name: best_methods(evaluation, name) for name in columns}
    rows = []
    for method in ranked(evaluation.methods, primary, evaluation.measures[primary]):
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
    measures = [evaluation.measures[name] for name in columns]
    return {
        "heads": [(measure.label, measure.note) for measure in measures],
        "rows": rows,
        "is_first": is_first,
        "has_seconds": is_last and any(method.seconds is not None for method in evaluation.methods),
        "has_parameters": is_last and any(method.trained_parameters is not None for method in evaluation.methods),
    }


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
    known = {name: value or "unknown" for name, value in known.items()} | provenance.others
    return [("seed", str(provenance.seed)), *known.items()]
