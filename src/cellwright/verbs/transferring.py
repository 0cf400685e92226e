"""The verb that carries a response from bulk samples to single cells."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.config import did_you_mean, versions
from cellwright.files import atomic_path, write_json
from cellwright.verbs.drug_tables import ResponseColumns, read_features
from cellwright.verbs.training import publish, removed_if_futile

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.transfer import Transferred


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferResponse:
    """Scores of cells, and how far they can be held against anything."""

    scores: Transferred
    evaluation: Evaluation | None
    """``None`` where neither the cells nor the held-out bulk samples of every fold have both classes."""
    folder: Path

    @property
    def score_n(self) -> np.ndarray:
        """float64 score of each cell, higher = more likely sensitive."""
        return self.scores.score_n


def transfer_response(
    bulk: Any,
    cells: Any,
    *,
    labels: Any,
    out: str | Path,
    changes: Sequence[str] = (),
    columns: ResponseColumns | None = None,
    truth: str | None = None,
    group: str | None = None,
    resume: bool = False,
) -> TransferResponse:
    """Score single cells by a binary response that is known of bulk samples only.

    Parameters
    ----------
    bulk
        Features of bulk samples: as ``cells`` in `drug_response`.
    cells
        Features of the cells, of the same kind; no label of a cell is read in training.
    labels
        Table with the columns of ``columns.line`` and ``columns.value``: 1 = sensitive, 0 = not.
    out
        Run folder to make: scores of the cells (``cell_scores.csv``), logs, configuration, and a report.
    changes
        Changes to `cellwright.tasks.transfer.TransferConfig` such as ``"adversary=0.5"``.
    columns
        How the tables are read; slot, layer and embedder hold for bulk and cells alike, name for bulk.
    truth
        Column of obs of the cells with their true response (1, 0, or nothing), for scores alone.
    group
        Column of obs of the cells with their line or donor, resampled whole for intervals where there are five.
    resume
        Go on with the interrupted run in ``out``.

    Returns
    -------
    `TransferResponse`. Scores order cells; they are no probabilities.

    Raises
    ------
    ValueError
        A table, column or option cannot be used; nothing is left behind then.
    """
    import pandas as pd

    from cellwright.data.drugs import read_table
    from cellwright.data.write import check_place
    from cellwright.tasks.transfer import TransferConfig, transfer
    from cellwright.train.run import open_run

    columns, folder = columns or ResponseColumns(value="label"), Path(out)
    config = TransferConfig().override(changes)
    source = read_features(bulk, columns)
    target = read_features(cells, columns, is_bulk=False)
    label_l = labels_of(read_table(labels), source.lines, columns)
    truth_n, group_n = _known_cells(cells, truth, group)
    if not resume:
        check_place(folder)
    record = config.record() | {"task": "transfer_response", "columns": columns.record()}
    start = time.perf_counter()
    with removed_if_futile(folder):
        open_run(folder, record, resume=resume)
        found = transfer(source, label_l, target, config=config, folder=folder, resume=resume)
    seconds = {"training": time.perf_counter() - start}
    write_json(folder / "transfer.json", {"config": config.record(), "source_auroc": found.source_auroc} | versions())
    frame = pd.DataFrame({"cell": target.lines, "score": found.score_n, "held_out": found.held_out_n})
    with atomic_path(folder / "cell_scores.csv") as draft:
        frame.assign(fold=found.fold_n).to_csv(draft, index=False)
    evaluation = None
    if truth_n is not None or found.source_auroc is not None:
        from cellwright.evaluate.transfer_study import TransferStudy, evaluate_transfer

        name = str(cells) if isinstance(cells, str | Path) else "cells"
        evaluation = evaluate_transfer(
            TransferStudy(
                title=f"Sensitivity of {Path(name).name}, carried over from bulk",
                dataset=name,
                found=found,
                source=source,
                label_n=label_l,
                target=target,
                scale=config.scale,
                truth_n=truth_n,
                group_n=group_n,
                seconds=seconds,
                seed=config.train.seed,
            )
        )
        publish(evaluation, folder)
    return TransferResponse(scores=found, evaluation=evaluation, folder=folder)


def _known_cells(cells: Any, truth: str | None, group: str | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the true response of each cell (-1 = not known) and its group, where columns were named."""
    if truth is None and group is None:
        return None, None
    obs = _obs_of(cells)
    for column in (truth, group):
        if column is not None and column not in obs:
            near = did_you_mean(column, obs.columns) or f"; columns: {', '.join(map(str, obs.columns)) or 'none'}"
            raise ValueError(f"the cells have no column {column!r}{near}")
    group_n = None if group is None else obs[group].astype(str).to_numpy()
    if truth is None:
        return None, group_n
    values = obs[truth].to_list()
    known = [-1 if value is None or value != value else value for value in values]
    if bad := [value for value in known if value not in (-1, 0, 1)]:
        raise ValueError(f"obs[{truth!r}] holds {json.dumps(str(bad[0]))}; 1 = sensitive, 0 = not, empty = not known")
    truth_n = np.array(known, np.int64)
    if len(set(truth_n[truth_n >= 0].tolist())) < 2:
        raise ValueError(f"obs[{truth!r}] needs cells of both kinds, 1 and 0, for any score; leave it out")
    return truth_n, group_n


def _obs_of(cells: Any) -> Any:
    import pandas as pd

    from cellwright.data.sources import read_anndata

    is_table = isinstance(cells, pd.DataFrame | tuple)
    if is_table or (isinstance(cells, str | Path) and Path(cells).suffix not in (".h5ad", ".zarr")):
        raise ValueError("a plain table of cells has no further columns; give an .h5ad to name truth or group")
    return read_anndata(cells).obs


def labels_of(table: Any, lines: Sequence[str], columns: ResponseColumns) -> np.ndarray:
    """Return int64 0 or 1 of each bulk sample, or say what is wrong with the table."""
    for name in (columns.line, columns.value):
        if name not in table.columns:
            raise ValueError(f"the labels have no column {name!r}; columns: {[str(c) for c in table.columns]}")
    label = dict(zip(table[columns.line].astype(str), table[columns.value], strict=True))
    if len(label) != len(table):
        raise ValueError("a bulk sample has two labels; give each once")
    if lost := [line for line in lines if line not in label]:
        raise ValueError(f"{len(lost)} bulk samples have no label, for instance {lost[0]!r}; label or leave them out")
    values = [label[line] for line in lines]
    if bad := [value for value in values if value not in (0, 1)]:
        raise ValueError(f"a label is {json.dumps(str(bad[0]))}; 1 = sensitive and 0 = not are known")
    return np.array(values, np.int64)
