"""Verbs of drug response: train on measured cell lines, predict other pairs, carry a response to single cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellwright.config import Config, versions
from cellwright.files import atomic_path, write_json
from cellwright.verbs.training import removed_if_futile

if TYPE_CHECKING:
    import pandas as pd

    from cellwright.data.drugs import LineFeatures, Responses
    from cellwright.data.molecules import MoleculeGraphs
    from cellwright.evaluate.drugs import ResponseRow
    from cellwright.tasks.drug import DrugPredictor
    from cellwright.tasks.transfer import Transferred
    from cellwright.train.run import FitResult


class ResponseColumns(Config):
    """How tables of responses and cell lines are read."""

    line: str = "line"
    """Column of the responses with the cell lines."""
    drug: str = "drug"
    """Column of the responses, and of the table of drugs, with the drugs."""
    value: str = "ln_ic50"
    """Column of the responses with ln IC50."""
    smiles: str = "smiles"
    """Column of the table of drugs with the structures."""
    repeats: Literal["refuse", "mean", "keep"] = "refuse"
    """A pair that is measured twice: refuse | mean | keep."""
    unmatched: Literal["refuse", "drop"] = "refuse"
    """A pair whose line has no features or whose drug has no structure: refuse | drop."""
    slot: str | None = None
    """Slot of obsm that holds the lines' features, such as an embedding; unset = X."""
    layer: str | None = None
    """Layer that holds them."""
    name: str | None = None
    """Column of obs with the names of the lines; unset = obs_names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrugResponse:
    """A trained predictor and its scores beside the baselines'."""

    predictor: DrugPredictor
    fit: FitResult
    rows: list[ResponseRow]
    folder: Path


def drug_response(
    responses: Any,
    cells: Any,
    *,
    drugs: Any = None,
    split: Literal["line", "drug", "pair"] = "line",
    fold: int = 0,
    out: str | Path,
    changes: Sequence[str] = (),
    columns: ResponseColumns | None = None,
) -> DrugResponse:
    """Train a network of ln IC50 on cell lines, and score it on held-out ones beside simple baselines.

    Parameters
    ----------
    responses
        Table (DataFrame or path of a CSV) with a row a measured pair of line and drug.
    cells
        Features of the lines: AnnData or .h5ad (expression, or an embedding in ``obsm``), DataFrame or CSV.
    drugs
        Structures: a table with SMILES (needs RDKit) or an .npz of graphs. ``None`` = drugs are known by name, so that
        no other drug can be asked for.
    split
        What is held out: whole lines, whole drugs, or single pairs (which cannot rank representations of cells).
    fold
        Which of the five folds is the test part.
    out
        Run folder to make: model, metrics, log, answers for the test pairs, scores and figures.
    changes
        Changes to `cellwright.tasks.drug.DrugConfig` such as ``"train.max_epochs=5"``.
    columns
        How the tables are read.

    Raises
    ------
    ValueError
        When a table, name, structure or option cannot be used; nothing is left behind then.

    Examples
    --------
    >>> found = cellwright.drug_response("ic50.csv", lines, drugs="drugs.csv", out="runs/ic50")  # doctest: +SKIP
    """
    from cellwright.data.drug_splits import split_pairs
    from cellwright.data.write import check_place
    from cellwright.evaluate.drugs import baseline_answers
    from cellwright.tasks.drug import DrugConfig, train_drug_model
    from cellwright.train.run import open_run

    columns, folder = columns or ResponseColumns(), Path(out)
    kind = "identity" if drugs is None else "graph"
    config = DrugConfig().override([f"net.drug={kind}", *changes])
    if config.net.drug == "identity" and split == "drug":
        raise ValueError("a model that knows drugs by name cannot answer for held-out drugs; give structures (drugs)")
    pairs, lines, graphs = read_study(responses, cells, drugs, columns)
    parts = split_pairs(pairs, by=split, fold=fold, seed=config.train.seed)
    check_place(folder)
    record = config.record() | {"task": "drug_response", "columns": columns.record(), "split": parts.record()}
    with removed_if_futile(folder):
        open_run(folder, record)
        predictor, fit = train_drug_model(pairs, lines, graphs, parts, config=config, folder=folder)
    test = pairs.take(parts.test)
    answers = {"network": predictor.predict(test, lines, graphs)}
    drug_uf = None if graphs is None else mean_atoms(graphs)
    answers |= baseline_answers(pairs, lines, parts, drug_uf=drug_uf, seed=config.train.seed)
    rows = _publish(answers, test, split, folder, config.train.seed)
    return DrugResponse(predictor=predictor, fit=fit, rows=rows, folder=folder)


def read_study(
    responses: Any, cells: Any, drugs: Any, columns: ResponseColumns
) -> tuple[Responses, LineFeatures, MoleculeGraphs | None]:
    """Read the three tables, and let the pairs count in the lines and drugs that were found."""
    from cellwright.data.drugs import read_lines, read_responses

    lines = read_lines(cells, key=columns.slot, layer=columns.layer, name=columns.name)
    graphs = None if drugs is None else read_structures(drugs, columns)
    pairs = read_responses(
        responses, line=columns.line, drug=columns.drug, value=columns.value, repeats=columns.repeats
    )
    known = pairs.drugs if graphs is None else graphs.drugs
    return pairs.renamed(lines.lines, known, unmatched=columns.unmatched), lines, graphs


def read_structures(drugs: Any, columns: ResponseColumns) -> MoleculeGraphs:
    """Read a table of SMILES, or an .npz of graphs."""
    from cellwright.data.drugs import read_smiles
    from cellwright.data.molecules import graphs_from_smiles, read_graphs

    if isinstance(drugs, str | Path) and Path(drugs).suffix == ".npz":
        return read_graphs(drugs)
    return graphs_from_smiles(read_smiles(drugs, drug=columns.drug, smiles=columns.smiles))


def mean_atoms(graphs: MoleculeGraphs) -> np.ndarray:
    """Return the mean atom of each drug, what the simplest baseline knows of a structure."""
    return np.add.reduceat(graphs.atom_af, graphs.atom_offset[:-1]) / np.diff(graphs.atom_offset)[:, None]


def _publish(answers: dict[str, np.ndarray], test: Responses, split: str, folder: Path, seed: int) -> list[ResponseRow]:
    from cellwright.data.drugs import table_of
    from cellwright.evaluate.drugs import response_figure, score_responses, write_rows

    resample = "drug" if split == "drug" else "line"
    rows = score_responses(answers, test, split=split, resample=resample, rivals=["drug_mean", "effects"], seed=seed)
    write_rows(rows, folder)
    with atomic_path(folder / "test_answers.csv") as draft:
        table_of(test, {"ln_ic50": test.value_p, **answers}).to_csv(draft, index=False)
    with atomic_path(folder / "drug_scores.svg") as draft:
        draft.write_bytes(response_figure(rows, models=["network"]))
    return rows


def predict_response(
    model: DrugPredictor | str | Path,
    cells: Any,
    *,
    pairs: Any = None,
    drugs: Any = None,
    columns: ResponseColumns | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Predict ln IC50 with a model made by `drug_response`.

    Parameters
    ----------
    model
        Its run folder, or the predictor.
    cells
        Features of the lines, of the same kind as in training.
    pairs
        Table of lines and drugs to answer for; ``None`` = every line with every drug (of ``drugs``, or of training).
    drugs
        Structures, for a model that reads them; drugs that were not in training may be among them.
    columns
        How the tables are read.
    device
        Where to run.

    Returns
    -------
    DataFrame with ``line``, ``drug``, ``ln_ic50`` (predicted) and ``is_new_drug`` (not in training).
    """
    from cellwright.data.drugs import Responses, read_lines, read_responses, table_of
    from cellwright.tasks.drug import DrugPredictor

    columns = columns or ResponseColumns()
    predictor = model if isinstance(model, DrugPredictor) else DrugPredictor.load(model)
    lines = read_lines(cells, key=columns.slot, layer=columns.layer, name=columns.name)
    graphs = None if drugs is None else read_structures(drugs, columns)
    if pairs is None:
        asked = predictor.drugs if graphs is None else graphs.drugs
        line_p, drug_p = (part.ravel() for part in np.indices((len(lines.lines), len(asked))))
        wanted = Responses(line_p, drug_p, np.full(len(line_p), np.nan), lines.lines, tuple(asked))
    else:
        wanted = read_responses(pairs, line=columns.line, drug=columns.drug, value=None, repeats="keep")
    known = set(predictor.drugs)
    is_new_u = np.array([drug not in known for drug in wanted.drugs])
    found_p = predictor.predict(wanted, lines, graphs, device=device)
    return table_of(wanted, {"ln_ic50": found_p, "is_new_drug": is_new_u[wanted.drug_p]})


def transfer_response(
    bulk: Any,
    cells: Any,
    *,
    labels: Any,
    out: str | Path,
    changes: Sequence[str] = (),
    columns: ResponseColumns | None = None,
) -> Transferred:
    """Score single cells by a binary response that is known of bulk samples only.

    Parameters
    ----------
    bulk
        Features of bulk samples: as ``cells`` in `drug_response`.
    cells
        Features of the cells, of the same kind; no label of a cell is read.
    labels
        Table with the columns of ``columns.line`` and ``columns.value``: 1 = sensitive, 0 = not.
    out
        Run folder to make: scores of the cells (``cell_scores.csv``), logs, configuration.
    changes
        Changes to `cellwright.tasks.transfer.TransferConfig` such as ``"adversary=0.5"``.
    columns
        How the tables are read; slot and layer hold for bulk and cells alike, name for bulk.

    Returns
    -------
    Scores, higher = more likely sensitive. They order cells; they are no probabilities.
    """
    import pandas as pd

    from cellwright.data.drugs import read_lines, read_table
    from cellwright.data.write import check_place
    from cellwright.tasks.transfer import TransferConfig, transfer

    columns, folder = columns or ResponseColumns(value="label"), Path(out)
    config = TransferConfig().override(changes)
    source = read_lines(bulk, key=columns.slot, layer=columns.layer, name=columns.name)
    target = read_lines(cells, key=columns.slot, layer=columns.layer)
    label_l = _labels_of(read_table(labels), source.lines, columns)
    check_place(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds other files; choose a folder that is new or empty")
    with removed_if_futile(folder):
        found = transfer(source, label_l, target, config=config, folder=folder)
    write_json(folder / "transfer.json", {"config": config.record(), "source_auroc": found.source_auroc} | versions())
    frame = pd.DataFrame({"cell": target.lines, "score": found.score_n, "held_out": found.held_out_n})
    with atomic_path(folder / "cell_scores.csv") as draft:
        frame.assign(fold=found.fold_n).to_csv(draft, index=False)
    return found


def _labels_of(table: Any, lines: Sequence[str], columns: ResponseColumns) -> np.ndarray:
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
