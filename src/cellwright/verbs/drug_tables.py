"""Reading what the verbs of drug response are given: tables of responses, features of lines, structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellwright.config import Config

if TYPE_CHECKING:
    from cellwright.data.drugs import LineFeatures, Responses
    from cellwright.data.molecules import MoleculeGraphs


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
    embedder: str | None = None
    """Model whose embedding of the lines' expression is their features: checkpoint or run folder; unset = as given.
    Lines are bulk samples to families that know of them (scFoundation)."""


def read_features(data: Any, columns: ResponseColumns, *, is_bulk: bool = True) -> LineFeatures:
    """Read features of lines (or of cells), or embed their expression with ``columns.embedder``.

    Features of an embedding are named after the model's weights, so that those of another model are not mistaken for
    them later.

    Raises
    ------
    ValueError
        The table cannot be read, or the embedder cannot be fed with it; an embedding in a slot and an embedder are
        both asked for.
    """
    from cellwright.data.drugs import read_lines

    if columns.embedder is None:
        return read_lines(data, key=columns.slot, layer=columns.layer, name=columns.name if is_bulk else None)
    if columns.slot is not None:
        raise ValueError("features are either in a slot of obsm (slot) or made by a model (embedder); choose one")
    return _embedded(data, columns, is_bulk=is_bulk)


def _embedded(data: Any, columns: ResponseColumns, *, is_bulk: bool) -> LineFeatures:
    from cellwright.data.drugs import LineFeatures, read_lines
    from cellwright.tasks.inference import InferenceOptions
    from cellwright.tasks.left_out import left_out_of
    from cellwright.verbs.depths import DepthOptions, knows_depth, open_deep, prepared
    from cellwright.verbs.opening import ReadOptions, open_model
    from cellwright.verbs.using import embedding

    adata = _as_anndata(data)
    name = columns.name if is_bulk else None
    lines = read_lines(adata, layer=columns.layer, name=name).lines
    model = open_model(columns.embedder)
    deep, run = DepthOptions(bulk=is_bulk and knows_depth(model)), InferenceOptions(progress=False)
    fed, cells = prepared(model, open_deep(adata, model, ReadOptions(layer=columns.layer), deep), deep)
    value_ld, left_out = embedding(fed, cells, run), left_out_of(fed, cells, run)
    notes = () if left_out is None else (f"features of lines: {left_out.line()}",)
    stem = f"{model.family.name}-{model.sha256()[:8]}"
    return LineFeatures(lines, value_ld, tuple(f"{stem}_{i}" for i in range(value_ld.shape[1])), notes)


def _as_anndata(data: Any) -> Any:
    """Return expression of lines as an AnnData, from a table too (rows = lines, columns = genes)."""
    import anndata
    import pandas as pd

    from cellwright.data.drugs import read_lines
    from cellwright.data.sources import read_anndata

    is_table = isinstance(data, pd.DataFrame | tuple)
    is_table |= isinstance(data, str | Path) and Path(data).suffix not in (".h5ad", ".zarr")
    if not is_table:
        return read_anndata(data)
    lines = read_lines(data)
    return anndata.AnnData(
        lines.value_lf, obs=pd.DataFrame(index=list(lines.lines)), var=pd.DataFrame(index=list(lines.names))
    )


def read_study(
    responses: Any, cells: Any, drugs: Any, columns: ResponseColumns
) -> tuple[Responses, LineFeatures, MoleculeGraphs | None]:
    """Read the three tables, and let the pairs count in the lines and drugs that were found."""
    from cellwright.data.drugs import read_responses

    lines = read_features(cells, columns)
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
