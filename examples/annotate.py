"""Annotate cells: fine-tune on one labelled study, then label another one.

    python examples/annotate.py
    python examples/annotate.py --model path/to/scGPT_human --reference labelled.h5ad --label cell_type \
        --query new.h5ad --out runs/annotate --epochs 10

Without arguments, sorted blood cells (Zheng et al. 2017) are the reference and the 10x PBMC 3k sample is the query,
both shipped with cellwright; every fourth cell of the reference is used, and a tiny model is pre-trained on the spot,
since no published weights ship. The same on the command line:

    cellwright finetune annotate path/to/scGPT_human labelled.h5ad --label cell_type -o runs/annotate/model
    cellwright annotate runs/annotate/model new.h5ad -o runs/annotate/annotated.h5ad --threshold 0.5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata

import cellwright
from cellwright.data import load_dataset
from cellwright.evaluate import table_text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="official scGPT folder, or a cellwright model (default: make one)")
    parser.add_argument("--reference", type=Path, help="labelled cells, .h5ad (default: shipped cells)")
    parser.add_argument("--query", type=Path, help="cells to label, .h5ad (default: shipped cells)")
    parser.add_argument("--label", default="cell_type_coarse", help="column of obs with the reference's cell types")
    parser.add_argument("--threshold", type=float, default=0.5, help="cells less sure than this stay unassigned")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the reference")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate; 1e-4 is usual for large models")
    parser.add_argument("--steps", type=int, default=20, help="length of the pre-training without --model")
    parser.add_argument("--out", type=Path, default=Path("runs/example-annotate"), help="folder to make")
    given = parser.parse_args(argv)

    reference = anndata.read_h5ad(given.reference) if given.reference else load_dataset("pbmc_facs_zheng")[::4].copy()
    query = anndata.read_h5ad(given.query) if given.query else load_dataset("pbmc3k")

    # A model to begin with. Its pre-training sees the reference's counts only, never the query.
    model = given.model
    if model is None:
        changes = ["data.num_genes=600", f"train.max_steps={given.steps}"]
        model = cellwright.pretrain(reference, out=given.out / "pretrained", changes=changes).model

    # Fine-tuning holds out a fifth of the reference (whole donors where a donor-like column allows it) and scores the
    # model there beside simple baselines on the same cells. If logistic regression wins, use logistic regression.
    result = cellwright.finetune(
        reference,
        model,
        label=given.label,
        out=given.out / "model",
        changes=[f"train.max_epochs={given.epochs}", f"optim.lr={given.lr}", "class_weight=balanced"],
        run=cellwright.InferenceOptions(progress=False),
    )
    print(table_text(result.evaluation))
    print(f"report: {result.report}")

    # The run folder is the model. A model can only answer with the classes it was shown: cell types that the reference
    # lacks get one of its labels too, and the threshold catches some of them, not all.
    found = cellwright.annotate(
        query,
        given.out / "model",
        threshold=given.threshold,
        key_added="cell_type",
        run=cellwright.InferenceOptions(progress=False),
    )
    print(query.obs["cell_type_pred"].value_counts().to_string())

    # Only where the query has labels of its own can the answer be checked, on cells whose type the reference has.
    if given.label in query.obs:
        truth_n = query.obs[given.label].astype(str)
        is_known_n = truth_n.isin(found.classes)
        right = (query.obs["cell_type_pred"].astype(str) == truth_n)[is_known_n].mean()
        print(f"{right:.1%} of {is_known_n.sum()} cells of known types are right, unassigned ones counted as wrong")

    query.write_h5ad(given.out / "annotated.h5ad")
    print(f"wrote {given.out / 'annotated.h5ad'}")


if __name__ == "__main__":
    main()
