"""Put cells of two studies into one space: a model as it is, fine-tuned, and simple methods beside it.

    python examples/integrate.py
    python examples/integrate.py --model path/to/scGPT_human --data mine.h5ad --tech-batch batch --label cell_type

Without arguments, every sixth cell of the two blood studies that ship with cellwright is taken, and a tiny scGPT is
pre-trained on them first; it is for learning only, and Harmony or centred principal components will win. On the command
line:

    cellwright integrate path/to/scGPT_human mine.h5ad --tech-batch batch --label cell_type --mode full -o runs/tuned
    cellwright embed runs/tuned/model mine.h5ad --tech-batch batch -o embedded.h5ad
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata

import cellwright
from cellwright.data import load_dataset
from cellwright.evaluate import table_text

LABEL = "cell_type_coarse"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="official scGPT folder, or a cellwright model (default: make one)")
    parser.add_argument("--data", type=Path, help="cells of several sequencing batches, .h5ad (default: shipped cells)")
    parser.add_argument("--tech-batch", default="study", help="column of obs with the sequencing batches")
    parser.add_argument("--label", default=LABEL, help="column of obs with the cell types, for scores only")
    parser.add_argument("--steps", type=int, default=60, help="length of the pre-training without --model")
    parser.add_argument("--epochs", type=int, default=4, help="passes of fine-tuning")
    parser.add_argument("--genes", type=int, default=300, help="genes of fine-tuning; 1200 is usual")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate; 1e-4 is usual for large models")
    parser.add_argument("--out", type=Path, default=Path("runs/example-integrate"), help="folder to make")
    given = parser.parse_args(argv)
    run = cellwright.InferenceOptions(progress=False)
    adata = anndata.read_h5ad(given.data) if given.data else two_studies()

    # A model to begin with. Its pre-training sees the counts, neither the types nor which study a cell is of.
    model = given.model
    if model is None:
        changes = ["data.num_genes=600", f"train.max_steps={given.steps}"]
        model = cellwright.pretrain(adata, out=given.out / "pretrained", changes=changes).model

    # Types are read for the scores; training never sees them. Every method embeds the same cells.
    done = cellwright.integrate(
        adata,
        model,
        tech_batch=given.tech_batch,
        label=given.label,
        mode="full",
        out=given.out / "integrated",
        changes=[f"train.max_epochs={given.epochs}", f"num_genes={given.genes}", f"optim.lr={given.lr}"],
        # scVI is left out here only because it takes minutes
        config=cellwright.IntegrateOptions(baselines=("shuffled", "pca", "centred_pca", "labels"), num_resamples=100),
        run=run,
    )
    print(table_text(done.evaluation))
    print(f"report: {given.out / 'integrated' / 'report.html'}")

    # The run folder is a model that knows its batches by name; told of them, it embeds the same cells the same way.
    read = cellwright.ReadOptions(tech_batch=given.tech_batch)
    again = cellwright.embed(adata, given.out / "integrated" / "model", read=read, run=run)
    print(f"embedded again: largest difference {abs(again - done.embedding_nd).max():.1e}")


def two_studies() -> anndata.AnnData:
    """Return every sixth cell of two studies of blood, on their shared genes."""
    names = ("pbmc_facs_zheng", "pbmc3k")
    parts = {name: load_dataset(name)[::6].copy() for name in names}
    joined = anndata.concat(parts, label="study", index_unique=" ", join="inner")
    return joined[:, joined.X.getnnz(axis=0) >= 10].copy()


if __name__ == "__main__":
    main()
