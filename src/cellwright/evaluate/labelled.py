"""Sections of a report on cells that were given classes: where they lie, which were mistaken, how sure it was.

Any task that names cells can use them; they need nothing but `cellwright.evaluate.Cells`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cellwright.evaluate.evaluation import Cells
from cellwright.evaluate.parts import Picture, Section, Table
from cellwright.metrics import per_class

DRAWING_NOTE = (
    "Positions are for looking at only: distances between groups mean little, and no score is computed from them."
)


def labelled_sections(cells: Cells, classes: Sequence[str], who: str = "") -> tuple[Section, ...]:
    """Draw and count labelled cells.

    Parameters
    ----------
    cells
        Positions, true and predicted classes, confidences, as far as they are known.
    classes
        Names of the class codes.
    who
        Whose predictions they are, for the remarks.

    Returns
    -------
    The sections "Cells" (positions), "Classes" (confusions, a row a class) and "Calibration"; parts without data are
    left out.
    """
    from cellwright.evaluate import charts, figures

    found = []
    if cells.umap_n2 is not None and len(cells):
        picture = Picture(
            name="umap",
            alt="Cells in two dimensions, by class and by where they come from",
            svg=figures.umap_figure(cells, classes),
        )
        note = " ".join(filter(None, [_assigned_note(cells, who), DRAWING_NOTE]))
        found.append(Section(heading="Cells", note=note, pictures=(picture,)))
    if not _is_scored(cells):
        return tuple(found)
    scored = cells.scored()
    picture = Picture(
        name="confusion",
        alt="Cells by true and predicted class; totals are in the table below",
        svg=figures.confusion_figure(scored.truth_n, scored.pred_n, classes),
    )
    note = _assigned_note(cells, who)
    found.append(
        Section(heading="Classes", note=note, pictures=(picture,), tables={"": _per_class_table(scored, classes)})
    )
    is_used_n = (scored.truth_n >= 0) & (scored.pred_n >= 0)
    if scored.confidence_n is not None and is_used_n.any():
        is_right_n = (scored.truth_n == scored.pred_n)[is_used_n]
        picture = Picture(
            name="reliability",
            alt="Accuracy against confidence, and the number of cells by confidence",
            svg=charts.reliability_figure(is_right_n, scored.confidence_n[is_used_n]),
        )
        found.append(Section(heading="Calibration", note=_CALIBRATION_NOTE, pictures=(picture,)))
    return tuple(found)


_CALIBRATION_NOTE = (
    "Assigned cells with a known class. ECE is the mean distance between accuracy and confidence over 15 bins of "
    "confidence, weighted by cells; 0 is best."
)


def _is_scored(cells: Cells) -> bool:
    scored = cells.scored()
    return scored.truth_n is not None and scored.pred_n is not None and bool((scored.truth_n >= 0).any())


def _per_class_table(scored: Cells, classes: Sequence[str]) -> Table:
    is_known_n = scored.truth_n >= 0
    rows = per_class(scored.truth_n[is_known_n], scored.pred_n[is_known_n], classes)
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


def _assigned_note(cells: Cells, who: str) -> str:
    """Say how many cells stand behind the per-cell figures, and how many of them have no answer."""
    if not _is_scored(cells):
        return ""
    scored = cells.scored()
    num_known = int((scored.truth_n >= 0).sum())
    num_unassigned = int(((scored.pred_n < 0) & (scored.truth_n >= 0)).sum())
    unknown = len(scored) - num_known
    left_out = f" {unknown:,} cells without a known class are not scored." if unknown else ""
    whose = f"Predictions of {who}. " if who else ""
    return f"{whose}{num_known:,} cells are scored, {num_unassigned:,} of them were left unassigned.{left_out}"
