"""Denoise cells: what they would hold if they had been sequenced more deeply - and whether to believe it.

    python examples/denoise.py
    python examples/denoise.py --model runs/depth --data mine.h5ad --depth f5 --out mine_denoised.h5ad

Without --model, a tiny scFoundation is pre-trained on the spot: enough to see how things fit together, not to get good
values. The same on the command line:

    cellwright evaluate denoise runs/depth mine.h5ad -o runs/scores
    cellwright denoise runs/depth mine.h5ad -o mine_denoised.h5ad --depth f5
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import anndata
import numpy as np

import cellwright
from cellwright.data import dataset_path, open_cells
from cellwright.evaluate.denoising import rows_table, score_denoised
from cellwright.evaluate.depth_cases import DepthCase, ThinnedCells, baseline_answers, recounted
from cellwright.tasks.denoise import answered_ids, denoise_cells
from cellwright.tokens import DepthTarget

QUIET = cellwright.InferenceOptions(progress=False)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a scFoundation file or run folder (default: make one)")
    parser.add_argument("--data", type=Path, default=dataset_path("pbmc3k"), help="an .h5ad file of raw counts")
    parser.add_argument("--depth", default="f5", help="f5 = five times each cell's molecules, t4 = 10^4 molecules")
    parser.add_argument("--out", type=Path, default=Path("denoised.h5ad"), help="file to write")
    parser.add_argument("--steps", type=int, default=60, help="length of the pre-training without --model")
    given = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        model = cellwright.load(given.model) if given.model else tiny_model(Path(folder) / "run", given.steps)

    # Before anything is believed: take cells, keep a tenth of their molecules, and see who finds the rest. Methods that
    # know no other cells than these are enough here; what the scores mean is in docs/tasks/denoise.md.
    adata = anndata.read_h5ad(given.data)[:200].copy()
    source = open_cells(adata, model.vocab, accepts=model.family.accepts)
    thinned = ThinnedCells(source, 0.1, seed=0)
    rows, tokenize = np.arange(len(source)), model.tokenizer()
    case = DepthCase(
        share=0.1,
        deep=recounted(source.read(rows), tokenize),
        shallow=recounted(thinned.read(rows), tokenize),
        gene_ids=answered_ids(model),
    )
    answers = baseline_answers(case.deep, case, seed=0, names=["library_size", "neighbors"])
    answers["model"] = denoise_cells(model, thinned, DepthTarget.parse("f10"), options=QUIET).value_ng
    background_g = np.ones(len(case.gene_ids))
    scores = score_denoised(answers, case, background_g, models=["model"], seed=0, num_resamples=100)
    print(rows_table(scores, "expressed_mae"))

    # The same model at a greater depth than the cells have. With key_added, the values are a layer beside the counts.
    cellwright.denoise(adata, model, depth=given.depth, key_added="denoised", run=QUIET)
    num_known = int((~np.isnan(adata.layers["denoised"]).all(axis=0)).sum())
    print(f"denoised: {adata.n_obs} cells, {num_known} of {adata.n_vars} genes known to the model")
    adata.write_h5ad(given.out)
    print(f"wrote {given.out}")


def tiny_model(folder: Path, steps: int) -> cellwright.Model:
    """Pre-train a tiny scFoundation on the other shipped study."""
    changes = ["data.num_genes=300", f"train.max_steps={steps}"]
    return cellwright.pretrain(
        dataset_path("pbmc_facs_zheng"), recipe="scfoundation_tiny", out=folder, changes=changes
    ).model


if __name__ == "__main__":
    main()
