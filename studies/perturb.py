"""Held-out perturbations of real screens: graph models, every baseline, the floor of noise, the roof of real cells.

    python studies/perturb.py --data FOLDER -o studies/results/perturb.jsonl

FOLDER holds the screens (``norman2019_k562_crispra.h5ad``, ``papalexi2021_thp1_eccite.h5ad``,
``kang2018_ifnb_labelled.h5ad``), ``celllines_sc_mixology.h5ad`` for a gene embedding from other cells, and gene sets in
``reference/genesets``. Nothing is chosen by test scores: settings are the defaults for all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

import cellwright
from cellwright.data.gene_graphs import read_gene_sets
from cellwright.evaluate.perturbation_tables import SHOWN
from cellwright.files import atomic_path
from cellwright.tasks.gene_features import GeneTable
from cellwright.tasks.screen import ScreenOptions

WIDTH = 32
NORMAN = ScreenOptions(perturbation="perturbation", tech_batch="batch", total="total_counts_all_genes")
PAPALEXI = ScreenOptions(perturbation="perturbation", tech_batch="batch")
KANG = ScreenOptions(perturbation="perturbation", context="cell_type")
STUDIES = {
    "norman_single": ("norman2019_k562_crispra", "single", NORMAN),
    "norman_double": ("norman2019_k562_crispra", "double", NORMAN),
    "norman_gears": ("norman2019_k562_crispra", "gears", NORMAN),
    "norman_single_shared": ("norman2019_k562_crispra", "single", NORMAN.model_copy(update={"share_controls": True})),
    "papalexi_single": ("papalexi2021_thp1_eccite", "single", PAPALEXI),
    "kang_cells": ("kang2018_ifnb_labelled", "cells", KANG),
}


def other_cells_embedding(path: Path) -> GeneTable:
    """Return genes in the leading components of log expression in cells of another study."""
    from sklearn.decomposition import TruncatedSVD

    from cellwright.data import open_cells
    from cellwright.data.gene_table import human_genes
    from cellwright.vocab import GeneVocab

    cells = open_cells(path, GeneVocab(tuple(human_genes().id_of)))
    log_ng = cells.logcp10k()
    names = [cells.vocab.tokens[at] for at in cells.contract.genes.matched_ids]
    kept = np.flatnonzero(log_ng.getnnz(axis=0) >= 5)
    value_gd = TruncatedSVD(WIDTH, random_state=0).fit_transform(log_ng[:, kept].T)
    what = f"gene components in {path.stem}"
    return GeneTable(tuple(names[at] for at in kept), value_gd.astype(np.float32), what)


def run_study(name: str, folder: Path, gene_sets: dict, embedding: GeneTable, seed: int) -> list[dict]:
    """Run one study and return its rows."""
    import anndata

    file, split, screen = STUDIES[name]
    adata = anndata.read_h5ad(folder / f"{file}.h5ad")
    if "guide_ok" in adata.obs:
        adata = adata[adata.obs["guide_ok"].to_numpy(bool)].copy()
    result = cellwright.perturb(
        adata,
        options=cellwright.PerturbOptions(split=split, seed=seed),
        screen=screen,
        gene_sets=gene_sets,
        embedding=embedding,
    )
    print(f"== {name}, seed {seed}", *result.lines(), sep="\n", flush=True)
    for row in result.scores.contrasts:
        value = f"{row.value:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        print(f"{row.group}: {row.metric}: {row.model} - {row.baseline} = {value}")
    digest = hashlib.sha256("".join(result.record["split_sha256"]).encode()).hexdigest()
    stamp = {"study": name, "data": file, "splits_sha256": digest}
    return [slim(stamp | row.record()) for row in result.scores.rows if row.metric in SHOWN]


def slim(row: dict) -> dict:
    """Return a row without what the others tell, numbers to five digits."""
    dropped = ("dataset", "is_baseline", "best", "num_perturbations")
    kept = {name: value for name, value in row.items() if name not in dropped}
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in kept.items()}


def main() -> None:
    """Run the studies asked for and add their rows to the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, default=Path("studies/results/perturb.jsonl"))
    parser.add_argument("--only", nargs="*", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    gene_sets: dict = {}
    for path in sorted((given.data / "reference" / "genesets").glob("*.gmt")):
        gene_sets |= read_gene_sets(path)
    embedding = other_cells_embedding(given.data / "celllines_sc_mixology.h5ad")
    for name in given.only:
        rows = run_study(name, given.data, gene_sets, embedding, given.seed)
        kept = []
        if given.out.is_file():
            kept = [json.loads(line) for line in given.out.read_text().splitlines()]
            kept = [row for row in kept if (row["study"], row["seed"]) != (name, given.seed)]
        with atomic_path(given.out) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *rows]))


if __name__ == "__main__":
    main()
