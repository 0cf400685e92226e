"""The command that denoises cells: answers go to disk block by block, and into OUT at the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from cellwright.commands.saying import say
from cellwright.config import Config
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import ModelOptions, ReadOptions


class ValueOptions(Config):
    """Which values are predicted, from what, and where they go."""

    only: str | None = None
    """Genes to answer for, separated by commas; unset = all genes of the model."""
    total: str | None = None
    """For log1p values: column of obs with each cell's total of counts (published pre_normalized A)."""
    slot: str = "denoised"
    """Name of the layer."""


def denoise(
    model: str,
    data: Path,
    *,
    out: Path,
    depth: str = "f5",
    what: ValueOptions,
    which: ModelOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Predict what cells would hold at another read depth, and write DATA with the predicted values to OUT.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, of a family that knows read depth.
    data
        Cells with raw counts: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        File to write: DATA with layers["<slot>"] (log1p of molecules per 10,000, NaN where the model does not know the
        gene) and a record in uns["cellwright"].
    depth
        f5 = five times the molecules of each cell, t4 = 10^4 molecules a cell, a1 = 10^1 times the cell's own.
    """
    from cellwright import verbs
    from cellwright.data.write import check_key, check_out, write_h5ad
    from cellwright.tasks.denoise import denoise_blocks
    from cellwright.tokens.depth import DepthTarget
    from cellwright.verbs import denoising

    check_out(data, out)
    slot = check_key("layers", what.slot)
    target = DepthTarget.parse(depth)
    opened = verbs.open_model(model, which.vocab, key=which.key)
    asked = [name.strip() for name in (what.only or "").split(",") if name.strip()]
    gene_ids = denoising.asked_ids(opened, asked)
    deep = verbs.DepthOptions(total=what.total)
    source = verbs.open_deep(data, opened, read, deep)
    opened, cells = verbs.prepared(opened, source, deep, may_be_silent=True)
    place_c = denoising.layer_columns(source, gene_ids)
    num_empty = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        # the layer is as large as a dense matrix of all cells: it grows on disk, not in memory
        layer_nc = np.lib.format.open_memmap(
            Path(folder) / "layer.npy", mode="w+", dtype=np.float32, shape=(len(source), len(place_c))
        )
        for start, block_ng in denoise_blocks(opened, cells, target, gene_ids=gene_ids, options=run):
            layer_nc[start : start + len(block_ng)] = denoising.in_columns(block_ng, place_c)
            num_empty += int(np.isnan(block_ng).all(axis=1).sum())
        note = denoising.denoising_record(opened, source, target, run, gene_ids=gene_ids) | {
            "num_empty_cells": num_empty
        }
        write_h5ad(data, out, layers={slot: layer_nc}, uns={"cellwright": {slot: note}})
        del layer_nc
    say(source.contract.lines())
    if num_empty:
        say([f"warning: {num_empty} cells have no molecule of the model's genes; their rows are NaN"])
    say(
        [
            f'wrote {out}: layers["{slot}"], {note["num_genes"]} of {len(place_c)} genes predicted at {target}, '
            f"{note['num_genes_not_predicted']} are NaN"
        ]
    )
