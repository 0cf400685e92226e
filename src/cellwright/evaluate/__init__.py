"""What people look at: the record of an evaluation, its figures, one offline HTML report, a table for the terminal.

Importing this package is cheap: matplotlib, jinja2 and umap are loaded when something is drawn, and what scores made
cells, which needs torch, when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cellwright.evaluate.comparison import table_text, verdict
from cellwright.evaluate.evaluation import Cells, Evaluation, Grouping
from cellwright.evaluate.labelled import labelled_sections
from cellwright.evaluate.measures import Measure, measure_of, measures_of
from cellwright.evaluate.parts import (
    Cost,
    Curve,
    CurvePoint,
    Difference,
    Method,
    Picture,
    Provenance,
    Score,
    Section,
    Table,
)
from cellwright.evaluate.projection import projection_name, umap_embedding
from cellwright.evaluate.report import write_report
from cellwright.evaluate.results import result_rows, write_results

if TYPE_CHECKING:
    from cellwright.evaluate.denoised import DenoisingStudy
    from cellwright.evaluate.denoising_study import evaluate_denoising
    from cellwright.evaluate.generation import (
        GenerationRow,
        LevelCells,
        baseline_levels,
        made_levels,
        read_levels,
        score_generated,
    )
    from cellwright.evaluate.making import GenerationStudy, evaluate_made
    from cellwright.evaluate.study import AnnotationStudy, evaluate_study

__all__ = [
    "AnnotationStudy",
    "Cells",
    "Cost",
    "Curve",
    "CurvePoint",
    "DenoisingStudy",
    "Difference",
    "Evaluation",
    "GenerationRow",
    "GenerationStudy",
    "Grouping",
    "LevelCells",
    "Measure",
    "Method",
    "Picture",
    "Provenance",
    "Score",
    "Section",
    "Table",
    "baseline_levels",
    "evaluate_denoising",
    "evaluate_made",
    "evaluate_study",
    "labelled_sections",
    "made_levels",
    "measure_of",
    "measures_of",
    "projection_name",
    "read_levels",
    "result_rows",
    "score_generated",
    "table_text",
    "umap_embedding",
    "verdict",
    "write_report",
    "write_results",
]

_HOME = {
    "denoised": ["DenoisingStudy"],
    "denoising_study": ["evaluate_denoising"],
    "generation": ["GenerationRow", "LevelCells", "baseline_levels", "made_levels", "read_levels", "score_generated"],
    "making": ["GenerationStudy", "evaluate_made"],
    "study": ["AnnotationStudy", "evaluate_study"],
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"cellwright.evaluate.{module}"), name)
    raise AttributeError(f"module 'cellwright.evaluate' has no attribute {name!r}")
