"""Labelled cells as verbs of annotation take them: opened for a model, checked, split; what a report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.models import Model
from cellwright.verbs.opening import ReadOptions, open_data

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.data.splits import Split
    from cellwright.evaluate.annotation import Contender
    from cellwright.evaluate.study import AnnotationStudy
    from cellwright.tasks.annotate import AnnotateConfig, Rows
    from cellwright.tasks.inference import InferenceOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCells:
    """Cells with labels, opened on a model's vocabulary and split."""

    source: Cells
    """With the codes of the training cells' classes under ``label``, -1 = no training cell has the class."""
    label: str
    """Column of obs."""
    split: Split
    rows: Rows
    """Cells to train on and to choose the weights by: validation cells of unknown classes are left out."""
    classes: tuple[str, ...]

    @property
    def query(self) -> Cells:
        """The held-out cells."""
        return self.source.select(self.split.test)

    @property
    def truth_n(self) -> np.ndarray:
        """int64 codes of the held-out cells' classes."""
        return self.source.codes("label")[self.split.test]


def labelled_cells(
    adata: Any,
    model: Model,
    label: str,
    *,
    split_by: str | None,
    held_out: Sequence[str] = (),
    seed: int,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> LabelledCells:
    """Open labelled cells for a model, and hold a fifth of them, or named groups, out; see `finetune` for errors."""
    from cellwright.data.splits import hold_out, label_codes, split_cells

    source = open_data(adata, model, read, run=run)
    code_n, names = label_codes(source.obs, label)
    check_labels(code_n, names, label)
    if held_out:
        if split_by in (None, "cells"):
            raise ValueError(f"held_out names {held_out[0]!r}, but no column of groups is given; name it with split_by")
        split = hold_out(source.obs, split_by, held_out, valid=0.1, seed=seed)
    else:
        if split_by not in (None, "cells"):
            check_groups(label_codes(source.obs, split_by)[1], split_by)
        split = split_cells(source.obs, by=split_by, valid=0.1, test=0.2, seed=seed, label=label)
    code_n, classes = known_classes(code_n, names, split.train)
    rows = without_unknown(split, code_n)
    if len(classes) < 2 or not len(rows.valid):
        what = "validation cells have none of the training cells' classes"
        what = f"all training cells are {classes[0]!r}" if len(classes) < 2 else what
        raise ValueError(f"split by {split.by!r}, {what}; choose another column to split by, or cells (--split-by)")
    return LabelledCells(
        source=source.with_obs({"label": code_n}), label=label, split=split, rows=rows, classes=classes
    )


def annotation_record(cells: LabelledCells, model: Model, config: AnnotateConfig) -> dict[str, Any]:
    """Return the recipe of a fine-tuning run in JSON form: options, model, cells, split."""
    return config.record() | {
        "task": "annotate",
        "model": {"source": model.report.source, "sha256": model.sha256()},
        "contract": cells.source.contract.record(),
        "label": cells.label,
        "split": cells.split.record(),
    }


def check_labels(code_n: np.ndarray, names: Sequence[str], column: str) -> None:
    """Refuse a column that is no labelling of these cells: one class, blank names, or nearly one label a cell."""
    if len(names) < 2:
        raise ValueError(f"column {column!r} holds a single class ({names[0]!r}); annotation needs at least two")
    is_blank_k = np.array([not name.strip() for name in names])
    if is_blank_k.any():
        raise ValueError(
            f"column {column!r} is blank for {int(is_blank_k[code_n].sum())} of {len(code_n)} cells; drop these cells, "
            "or give them a label such as 'unknown'"
        )
    if 2 * len(names) > len(code_n):
        raise ValueError(
            f"column {column!r} holds {len(names)} labels for {len(code_n)} cells, too few cells a label to train, "
            "validate and test on; is it the column of cell types?"
        )


def check_groups(names: Sequence[str], column: str) -> None:
    """Refuse a column with too few groups to hold some of them out."""
    if len(names) < 3:
        raise ValueError(
            f"column {column!r} has {len(names)} of the 3 groups that training, validation and test need "
            f"({', '.join(map(repr, names))}); choose another column, or --split-by cells"
        )


def known_classes(code_n: np.ndarray, names: Sequence[str], train: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the classes that training cells have; cells of other classes get -1."""
    seen = np.unique(code_n[train])
    new_k = np.full(len(names), -1, np.int64)
    new_k[seen] = np.arange(len(seen))
    return new_k[code_n], tuple(names[k] for k in seen)


def without_unknown(split: Any, code_n: np.ndarray) -> Any:
    """Return the rows for training, validation cells of classes that training cells lack left out."""
    from cellwright.tasks.annotate import Rows

    return Rows(train=split.train, valid=split.valid[code_n[split.valid] >= 0])


def baselines_on(cells: LabelledCells) -> list[Contender]:
    """Train the annotation baselines on the same cells and let them answer for the held-out ones."""
    from cellwright.evaluate.annotation import run_baselines

    train = cells.split.train
    return run_baselines(
        cells.source.select(train),
        cells.source.codes("label")[train],
        cells.query,
        num_classes=len(cells.classes),
        seed=cells.split.seed,
    )


def annotation_study(
    cells: LabelledCells,
    contenders: Sequence[Contender],
    model: Model,
    embedding_nd: np.ndarray,
    *,
    seconds: Mapping[str, float],
) -> AnnotationStudy:
    """Put together what a report says of these cells; the first contender's answers are drawn."""
    from cellwright.evaluate.evaluation import Grouping
    from cellwright.evaluate.study import AnnotationStudy

    source, split, query = cells.source, cells.split, cells.query
    groups_n, group_names = grouping_of(query.obs, split.by)
    return AnnotationStudy(
        title=f"Cell types of {source.contract.title}",
        where=f"{len(query):,} held-out cells ({split_words(split)})",
        classes=cells.classes,
        query=query,
        truth_n=cells.truth_n,
        contenders=contenders,
        main=contenders[0].name,
        against=(),
        embedding_nd=embedding_nd,
        groupings={} if groups_n is None else {split.by: Grouping(groups_n, group_names)},
        groups_n=groups_n,
        contracts={"Data": source.contract},
        model=model,
        split_sha256=split.sha256,
        seed=split.seed,
        seconds=seconds,
        summary=(f"Split: {split_words(split)}.", *split.notes),
    )


def grouping_of(obs: Any, column: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return codes and names of a column of obs; nothing where cells were split at random."""
    if column == "cells":
        return None, ()
    from cellwright.data.splits import label_codes

    return label_codes(obs, column)


def split_words(split: Any) -> str:
    """Say how cells were held out."""
    if split.by == "cells":
        return "random cells of the same data set"
    return f"whole groups of {split.by!r}: {', '.join(split.groups['test'])}"
