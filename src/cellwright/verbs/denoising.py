"""The verb that denoises cells: what they would hold at a greater read depth. Nothing is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.depths import DepthOptions, open_deep, prepared
from cellwright.verbs.opening import ReadOptions, open_model
from cellwright.verbs.using import may_be_filled, note, provenance

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.tasks.denoise import DenoisedCells


def denoise(
    adata: Any,
    model: Model | str | Path,
    *,
    depth: str = "f5",
    only: Sequence[str] = (),
    total: str | None = None,
    key_added: str | None = None,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> DenoisedCells:
    """Predict what cells would hold if they had been sequenced to another depth.

    Parameters
    ----------
    adata
        AnnData, or the path of an ``.h5ad``, 10x ``.h5``, 10x matrix folder or ``.zarr``; raw counts.
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one; of a family that knows read depth.
    depth
        ``f5`` = five times the molecules of each cell, ``t4`` = 10^4 molecules a cell, ``a1`` = 10^1 times the
        cell's own.
    only
        Genes to answer for; empty = all genes of the model. The model sees all genes either way.
    total
        For log1p values: column of obs with each cell's total of counts.
    key_added
        Also fill ``adata.layers[key_added]`` and ``adata.uns["cellwright"][key_added]``; needs an AnnData. Columns of
        genes that the model does not know, or that were not asked for, hold NaN.
    read
        How the cells are read.
    run
        How the model is run.

    Returns
    -------
    `cellwright.tasks.denoise.DenoisedCells`: float32 ``[n, g]``, log1p of molecules per 10,000 at that depth, rows in
    the order of ``adata``, columns the genes of the model.

    Raises
    ------
    ValueError
        When the data or the model cannot be used; the message says what was seen and what to do.

    Examples
    --------
    >>> deep = cellwright.denoise(adata, "runs/depth", depth="f5")  # doctest: +SKIP
    """
    from cellwright.tasks.denoise import denoise_cells
    from cellwright.tokens.depth import DepthTarget

    is_kept = may_be_filled(adata, key_added)
    target = DepthTarget.parse(depth)
    model, run = open_model(model), run or InferenceOptions()
    deep = DepthOptions(total=total)
    source = open_deep(adata, model, read, deep)
    model, cells = prepared(model, source, deep, may_be_silent=True)
    found = denoise_cells(model, cells, target, gene_ids=asked_ids(model, only), options=run)
    if is_kept:
        adata.layers[key_added] = in_columns(found.value_ng, layer_columns(source, found.gene_ids))
        note(adata, key_added, denoising_record(model, source, found.depth, run, gene_ids=found.gene_ids))
    return found


def asked_ids(model: Model, only: Sequence[str] = ()) -> np.ndarray:
    """Return the ids of the genes asked for by name (aliases and Ensembl ids too), or of all that the model is fed."""
    from cellwright.data.genes import match_genes
    from cellwright.tasks.denoise import answered_ids

    known = answered_ids(model)
    if not only:
        return known
    try:
        found = match_genes(list(only), model.vocab, mode="harmonise").id_g
    except ValueError:  # none is known; what it says is about data
        found = np.full(len(only), -1)
    if absent := [name for name, i in zip(only, found, strict=True) if i not in known]:
        raise ValueError(f"{len(absent)} of {len(only)} genes are none of the model's: {', '.join(absent[:3])}")
    return np.unique(found)


def layer_columns(source: Cells, ids: np.ndarray) -> np.ndarray:
    """Return for each column of the data the place among ``ids`` of the gene that it is, -1 = none; int64.

    Columns that are the same gene (aliases, repeats) have the same place: the model answers for their sum.
    """
    place_v = np.full(len(source.vocab) + 1, -1)  # one more, for the id -1 of unmatched columns
    place_v[ids] = np.arange(len(ids))
    return place_v[source.contract.genes.id_g]


def in_columns(value_ng: np.ndarray, place_c: np.ndarray) -> np.ndarray:
    """Lay answers out in the columns of the data, NaN where there is none: float32 ``[n, columns]``."""
    value_nc = np.full((len(value_ng), len(place_c)), np.nan, np.float32)
    value_nc[:, place_c >= 0] = value_ng[:, place_c[place_c >= 0]]
    return value_nc


def denoising_record(
    model: Model, source: Cells, depth: Any, run: InferenceOptions, *, gene_ids: np.ndarray
) -> dict[str, Any]:
    """Return what a layer of denoised values is, for ``uns["cellwright"]``."""
    from cellwright.tasks.denoise import SCALE

    place_c = layer_columns(source, gene_ids)
    return provenance(model, source, run) | {
        "depth": str(depth),
        "depth_from": model.inputs.depth_from,
        "values": f"{SCALE}; NaN = not predicted",
        "num_genes": int((place_c >= 0).sum()),
        "num_genes_not_predicted": int((place_c < 0).sum()),
    }
