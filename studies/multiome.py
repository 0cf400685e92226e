"""Proteins and peaks beside genes, on real cells: embeddings, told proteins, transfer to a second study, baselines.

    python studies/multiome.py --data FOLDER -o studies/results/multiome.jsonl

FOLDER holds ``cite_pbmc10k_5k.h5ad`` (blood; one of two batches has proteins), ``cite_malt_2k.h5ad`` (lymphoma, the
query) and ``multiome_rna_atac_600.h5ad`` (RNA and peaks). Each way is one training run of `cellwright.multiome`; its
rows (embedding, told proteins, query) replace earlier ones of the same way and seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata
import numpy as np

import cellwright
from cellwright.data.modalities import read_study
from cellwright.evaluate.comparison import table_text
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.results import result_rows
from cellwright.files import atomic_path
from cellwright.models import FAMILIES, Model, new_model
from cellwright.verbs import CellColumns, InferenceOptions
from cellwright.vocab import GeneVocab

CITE = CellColumns(label="cell_type", tech_batch="batch")
ATAC = CellColumns(label="state")
WAYS: dict[str, tuple[str, CellColumns, tuple[str, ...]]] = {
    "cite": ("cite_pbmc10k_5k", CITE, ()),
    "cite_bins": ("cite_pbmc10k_5k", CITE, ("proteins=bins",)),
    "cite_published": ("cite_pbmc10k_5k", CITE, ("proteins=bins", "whole_fraction=0")),
    "atac": ("multiome_rna_atac_600", ATAC, ("num_genes=600", "num_peaks=1000", "inputs.max_length=601")),
}
"""Way -> data, columns, changes to the configuration."""
KEPT = ("method", "kind", "part", "metric", "value", "low", "high", "cells", "seed", "data_sha256", "split_sha256")


def some_cells(path: Path, num: int, seed: int) -> anndata.AnnData:
    """Return so many cells drawn at random, or all; cells with and without proteins in the shares they have."""
    adata = anndata.read_h5ad(path)
    rows = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:num])
    return adata[rows].copy()


def base_model(adata: anndata.AnnData, given: argparse.Namespace) -> Model:
    """Return the model asked for, or a new tiny one for the genes of these cells."""
    if given.model:
        return cellwright.load(given.model)
    study, family = read_study(adata), FAMILIES["scgpt"]
    return new_model("scgpt", GeneVocab.from_genes(study.rna.var_names, family.specials), family.sizes["tiny"])


def run_way(name: str, given: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Train one way and return its rows."""
    file, columns, own = WAYS[name]
    adata = some_cells(given.data / f"{file}.h5ad", given.cells, seed)
    changes = [
        f"num_genes={given.genes}", f"train.max_epochs={given.epochs}", f"batch_size={given.batch_size}",
        f"train.seed={seed}", f"optim.lr={given.lr}", "train.accelerator=cpu", *own,
    ]  # fmt: skip
    query = given.data / "cite_malt_2k.h5ad" if file.startswith("cite") else None
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        quiet = InferenceOptions(progress=False, device="cpu", seed=seed)
        model = base_model(adata, given)
        result = cellwright.multiome(adata, model, out=out, columns=columns, query=query, changes=changes, run=quiet)
        parts = {"embedding": result.evaluation}
        parts |= {part: Evaluation.load(out / part) for part in ("proteins", "query") if (out / part).is_dir()}
        if given.keep:
            out.rename(given.keep / f"{name}_{seed}")
    seconds = time.perf_counter() - start
    stamp = {"way": name, "data": file, "num_cells": adata.n_obs, "steps": result.fit.num_steps, "seconds": seconds}
    stamp |= {"changes": changes, "model": given.model and str(given.model)}
    rows = []
    for part, evaluation in parts.items():
        print(f"== {name}, seed {seed}: {part}", table_text(evaluation), sep="\n", flush=True)
        rows += [stamp | {"what": part} | {key: row[key] for key in KEPT} for row in result_rows(evaluation)]
    return rows


def main() -> None:
    """Run the ways asked for and put their rows into the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    parser.add_argument("-o", "--out", type=Path, default=Path("studies/results/multiome.jsonl"))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--model", type=Path, help="a pre-trained model (default: a new tiny scGPT)")
    parser.add_argument("--cells", type=int, default=2500, help="cells drawn from each data set")
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--keep", type=Path, help="folder to keep the run folders in")
    given = parser.parse_args()
    for seed in given.seeds:
        for name in given.ways:
            rows, kept = run_way(name, given, seed), []
            if given.out.is_file():
                kept = [json.loads(line) for line in given.out.read_text().splitlines()]
                kept = [row for row in kept if (row["way"], row["seed"]) != (name, seed)]
            with atomic_path(given.out) as draft:
                draft.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *rows]))


if __name__ == "__main__":
    main()
