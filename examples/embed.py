"""Embed cells: one vector for each cell, from a model as it is (zero-shot).

    python examples/embed.py
    python examples/embed.py --model path/to/scGPT_human --data mine.h5ad --label cell_type --out mine_embedded.h5ad

No published weights ship with cellwright. Without --model, a tiny model is pre-trained on the spot: enough to see
how things fit together, not to get good embeddings. An official scGPT folder (args.json, vocab.json, best_model.pt)
is given as it was downloaded; nothing has to be converted. The same on the command line:

    cellwright embed path/to/scGPT_human mine.h5ad -o mine_embedded.h5ad
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import anndata
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import cellwright
from cellwright.data import dataset_path, open_cells


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="official scGPT folder, or a cellwright model (default: make one)")
    parser.add_argument("--data", type=Path, default=dataset_path("pbmc3k"), help="an .h5ad file")
    parser.add_argument("--label", default="cell_type_coarse", help="column of obs to compare the embedding with")
    parser.add_argument("--out", type=Path, default=Path("embedded.h5ad"), help="file to write")
    parser.add_argument("--steps", type=int, default=40, help="length of the pre-training without --model")
    given = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        model = cellwright.load(given.model) if given.model else tiny_model(Path(folder) / "run", given.steps)

    # What is in the file? Which matrix is read, what its values are, how many genes the model knows. Read this before
    # believing any result: an embedding of ten known genes looks like any other embedding.
    _, lines = cellwright.inspect(given.data, model=model)
    print("\n".join(lines))

    # Counts are not changed, and nothing has to be normalised first. With key_added, the embedding and a record of how
    # it was made (model hash, options, versions) are also put into the AnnData.
    adata = anndata.read_h5ad(given.data)
    embedding_nd = cellwright.embed(adata, model, key_added="X_scGPT", run=cellwright.InferenceOptions(progress=False))
    print(f"embedding: {embedding_nd.shape[0]} cells x {embedding_nd.shape[1]}")

    # Never look at an embedding alone: here beside 50 principal components of the same genes, log1p of counts per
    # 10,000. The figure is the share of cells (left out in turn, a third at a time) whose 15 nearest neighbours name
    # their label.
    if given.label in adata.obs:
        logcp10k_ng = open_cells(adata, model.vocab, accepts=model.family.accepts).logcp10k()
        label_n = adata.obs[given.label].astype(str).to_numpy()
        rivals = {"X_scGPT": embedding_nd, "PCA": PCA(50, svd_solver="arpack").fit_transform(logcp10k_ng)}
        for name, x_nd in rivals.items():
            print(f"{name}: {cross_val_score(KNeighborsClassifier(15), x_nd, label_n, cv=3).mean():.3f}")

    adata.write_h5ad(given.out)
    print(f"wrote {given.out}")


def tiny_model(folder: Path, steps: int) -> cellwright.Model:
    """Pre-train a tiny scGPT on the other shipped study; its labels are not looked at."""
    changes = ["data.num_genes=600", f"train.max_steps={steps}"]
    return cellwright.pretrain(dataset_path("pbmc_facs_zheng"), out=folder, changes=changes).model


if __name__ == "__main__":
    main()
