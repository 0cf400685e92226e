"""Several modalities in one model: genes beside proteins, cells that lack some of them, proteins told from RNA.

    python examples/multiome.py
    python examples/multiome.py --model path/to/scGPT_human --data cite.h5ad --label cell_type --out runs/cite

Without --data, cells with planted types are made up, which says nothing of biology; without --model, a tiny untrained
scGPT is built for their genes. The same on the command line:

    cellwright multiome path/to/scGPT_human cite.h5ad rna_only.h5ad -o runs/cite --label cell_type
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata

import cellwright
from cellwright.data import make_multimodal
from cellwright.data.modalities import read_study
from cellwright.models import FAMILIES, new_model
from cellwright.verbs import CellColumns

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a scGPT folder or run folder (default: a tiny untrained one)")
    parser.add_argument("--data", type=Path, help="cells with proteins or peaks (default: made up)")
    parser.add_argument("--label", default="cell_type", help="column with cell types")
    parser.add_argument("--epochs", type=int, default=20, help="length of the training")
    parser.add_argument("--out", type=Path, default=Path("runs/multiome"), help="run folder to make")
    given = parser.parse_args(argv)

    # A mosaic: one study with proteins, one without. Cells of the second have no tokens of proteins, that is all.
    studies = [given.data] if given.data else mosaic()
    model = given.model or tiny_model(studies)
    result = cellwright.multiome(
        studies,
        model,
        out=given.out,
        columns=CellColumns(label=given.label),
        changes=[f"train.max_epochs={given.epochs}", "train.accelerator=cpu"],
        run=QUIET,
    )
    print(*result.data.lines(), sep="\n")

    # Every cell is embedded from what was measured in it, and told its proteins from the rest.
    cells = anndata.read_h5ad(given.out / "cells.h5ad")
    told = cells.obsm["protein_told"]
    print(f"told {len(result.proteins)} proteins of {int((~cells.obs['has_protein']).sum())} cells without any:")
    print(told[~cells.obs["has_protein"].to_numpy()].describe().loc[["mean", "std"]].round(2))
    print(f"report: {given.out / 'report.html'}")


def mosaic() -> list[anndata.AnnData]:
    """Make up a study with genes, proteins and peaks, and take proteins and peaks from half of its cells."""
    whole = make_multimodal(120, 80, num_proteins=6, num_peaks=20)
    genes = whole.var["feature_types"] == "Gene Expression"
    return [whole[:80, whole.var["feature_types"] != "Peaks"].copy(), whole[80:, genes].copy()]


def tiny_model(studies: list) -> cellwright.Model:
    """Build an untrained tiny scGPT for the genes of the first study."""
    family = FAMILIES["scgpt"]
    vocab = cellwright.GeneVocab.from_genes(read_study(studies[0]).rna.var_names, family.specials)
    return new_model("scgpt", vocab, family.sizes["tiny"])


if __name__ == "__main__":
    main()
