"""What people look at: the record of an evaluation, its figures, one offline HTML report, a table for the terminal.

Importing this package is cheap: matplotlib, jinja2 and umap are loaded when something is drawn.
"""

from cellwright.evaluate.comparison import table_text, verdict
from cellwright.evaluate.evaluation import (
    Cells,
    Cost,
    Curve,
    CurvePoint,
    Difference,
    Evaluation,
    Grouping,
    Method,
    Provenance,
    Score,
    Section,
    Table,
)
from cellwright.evaluate.projection import projection_name, umap_embedding
from cellwright.evaluate.report import write_report

__all__ = [
    "Cells",
    "Cost",
    "Curve",
    "CurvePoint",
    "Difference",
    "Evaluation",
    "Grouping",
    "Method",
    "Provenance",
    "Score",
    "Section",
    "Table",
    "projection_name",
    "table_text",
    "umap_embedding",
    "verdict",
    "write_report",
]
