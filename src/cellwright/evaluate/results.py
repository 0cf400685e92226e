"""Scores as rows, one line of JSON each: what goes into tables over many models, data sets and seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.parts import Method, Score
from cellwright.files import atomic_path

RESULTS_FILE = "results.jsonl"


def result_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return a row for each method, part of the data (``None`` = all that was scored) and metric.

    Every row stands alone: it names task, data set, split, method, part, metric with unit and best value, the value
    with its interval, what floor and roof reach there, the numbers of cells, seed, hashes and versions.
    """
    shared = {
        "task": evaluation.task,
        "dataset": evaluation.dataset,
        "split_sha256": evaluation.provenance.split_sha256,
    }
    provenance = evaluation.provenance
    origin = {
        "primary": evaluation.primary_metric,
        "seed": provenance.seed,
        "model_sha256": provenance.model_sha256,
        "data_sha256": provenance.data_sha256,
        "commit": provenance.commit,
        "created": evaluation.created,
        "versions": provenance.versions,
    }
    rows = []
    for method in evaluation.methods:
        for part, scores in ((None, method.scores), *method.parts.items()):
            for name, score in scores.items():
                row = {"method": method.name, "kind": method.kind, "part": part, "metric": name}
                rows.append(shared | row | _numbers(evaluation, part, name, score) | origin)
    return rows


def _numbers(evaluation: Evaluation, part: str | None, name: str, score: Score) -> dict[str, Any]:
    measure = evaluation.measures[name]
    bounds = {bound: _bound(evaluation, bound, part, name) for bound in ("floor", "roof")}
    return {
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "unit": measure.unit,
        "aim": measure.aim,
        "best": measure.best,
        **bounds,
        "cells": score.cells,
    }


def _bound(evaluation: Evaluation, bound: str, part: str | None, name: str) -> float | None:
    method: Method | None = next((method for method in evaluation.methods if method.bound == bound), None)
    scores = {} if method is None else method.scores if part is None else method.parts.get(part, {})
    return scores[name].value if name in scores else None


def write_results(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the rows of `result_rows` as JSON lines and return the path."""
    lines = [json.dumps(row, allow_nan=False) for row in result_rows(evaluation)]
    with atomic_path(path) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(path)
