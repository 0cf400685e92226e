"""Map cells onto a reference: labels by vote, and which cells the reference does not know.

    python examples/map_reference.py
    python examples/map_reference.py --model path/to/scGPT_human --reference atlas.h5ad --query my.h5ad --label type

Without --model, a tiny scGPT is pre-trained on the reference first; it is for learning only. One cell type is taken out
of the reference, so that the query holds cells that the reference cannot know; and principal components of the same
genes go the same way beside the model, because without them the figures say nothing. On the command line:

    cellwright index path/to/scGPT_human atlas.h5ad --label cell_type -o atlas.index
    cellwright map-reference path/to/scGPT_human mine.h5ad --reference atlas.index -o mapped.h5ad
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import anndata
import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import cellwright
from cellwright.data import dataset_path, open_cells
from cellwright.tasks.mapping import MappedCells, build_index, map_cells
from cellwright.verbs.mapping import read_labels


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="official scGPT folder, or a cellwright model (default: make one)")
    parser.add_argument("--reference", type=Path, default=dataset_path("pbmc_facs_zheng"), help="labelled cells")
    parser.add_argument("--query", type=Path, default=dataset_path("pbmc3k"), help="cells to map")
    parser.add_argument("--label", default="cell_type_coarse", help="column of obs, in both files for the figures")
    parser.add_argument("--leave-out", default="B", help="type that is taken out of the reference")
    parser.add_argument("--out", type=Path, default=Path("mapped.h5ad"), help="file to write")
    parser.add_argument("--steps", type=int, default=40, help="length of the pre-training without --model")
    given = parser.parse_args(argv)
    reference, query = anndata.read_h5ad(given.reference), anndata.read_h5ad(given.query)
    reference = reference[reference.obs[given.label] != given.leave_out].copy()
    run = cellwright.InferenceOptions(progress=False)

    with tempfile.TemporaryDirectory() as folder:
        model = (
            cellwright.load(given.model) if given.model else tiny_model(reference, Path(folder) / "run", given.steps)
        )

    # The reference is embedded once. With out=, the index goes to a folder that map_reference takes instead.
    index = cellwright.index_reference(reference, model, labels=[given.label], run=run)
    mapped = cellwright.map_reference(query, model, index, key_added=True, run=run)

    # The same search and vote on principal components of the reference, the query projected onto them.
    gene_ids = model.vocab.ids(model.vocab.genes)
    opened = [open_cells(x, model.vocab, accepts=model.family.accepts) for x in (query, reference)]
    genes_ng, genes_mg = (cells.logcp10k(gene_ids) for cells in opened)
    components = PCA(min(50, *(size - 1 for size in genes_mg.shape)), svd_solver="arpack").fit(genes_mg)
    by_pca = map_cells(
        build_index(components.transform(genes_mg), {given.label: read_labels(reference.obs, given.label)}),
        components.transform(genes_ng).astype(np.float32),
    )

    truth_n = query.obs[given.label].astype(str).to_numpy()
    print(f"query: {len(truth_n)} cells, {np.mean(truth_n == given.leave_out):.0%} of a type that the reference lacks")
    for name, found in {model.family.title: mapped, "PCA": by_pca}.items():
        print(f"{name}: " + ", ".join(figures(found, truth_n, given.label, given.leave_out)))
    query.write_h5ad(given.out)
    print(f"wrote {given.out}")


def figures(found: MappedCells, truth_n: np.ndarray, label: str, left_out: str) -> list[str]:
    """Say how many of the cells of known types are named right, and how well the others stand out."""
    votes = found.votes[label]
    is_known_n = np.isin(truth_n, votes.names)
    lines = [f"{np.mean(votes.label_n()[is_known_n] == truth_n[is_known_n]):.3f} of the known types named right"]
    is_new_n = truth_n == left_out
    if is_new_n.any() and is_known_n.any():
        kept_n = is_new_n | is_known_n
        auroc = roc_auc_score(is_new_n[kept_n], found.outside_n[kept_n])
        lines.append(f"AUROC {auroc:.3f} of the outside score for {left_out!r}")
    return lines


def tiny_model(reference: anndata.AnnData, folder: Path, steps: int) -> cellwright.Model:
    """Pre-train a tiny scGPT on the reference; its labels are not looked at."""
    changes = ["data.num_genes=600", f"train.max_steps={steps}", "train.max_epochs=null"]
    return cellwright.pretrain(reference, out=folder, changes=changes).model


if __name__ == "__main__":
    main()
