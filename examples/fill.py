"""Fill in genes that are not known of a cell, at once or step by step, and ask whether the steps were worth it.

    python examples/fill.py
    python examples/fill.py --data mine.h5ad --label cell_type --steps 3000

A small scGPT is trained on the spot on 120 genes of sorted blood cells (Zheng et al. 2017), which ship with cellwright.
It sees silent genes too, and a head learns how large its errors are: the surest genes can then go first. The same on
the command line:

    cellwright pretrain mine.h5ad -o runs/gpt --set inputs.genes=panel --set objective.terms.expected_error=1
    cellwright generate runs/gpt new.h5ad --known-fraction 0.5 --steps 3 -o whole.h5ad
    cellwright evaluate unmask runs/gpt mine.h5ad new.h5ad --label cell_type -o runs/steps
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import numpy as np

import cellwright
from cellwright import FillConfig
from cellwright.data import load_dataset
from cellwright.verbs import FillScoring, ScoreConfig

QUIET = cellwright.InferenceOptions(progress=False)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="labelled cells with raw counts, .h5ad (default: shipped cells)")
    parser.add_argument("--label", default="cell_type_coarse", help="column of obs with their types")
    parser.add_argument("--genes", type=int, default=120, help="most variable genes of the panel")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--out", type=Path, default=Path("runs/example-fill"), help="folder to make")
    given = parser.parse_args(argv)

    cells = anndata.read_h5ad(given.data) if given.data else load_dataset("pbmc_facs_zheng")
    is_held_out_n = np.arange(cells.n_obs) % 10 == 0
    train, held_out = cells[~is_held_out_n].copy(), cells[is_held_out_n].copy()
    changes = [
        f"data.num_genes={given.genes}",
        "inputs.genes=panel",
        "objective.terms.expected_error=1",
        "model.dropout=0.0",
        "optim.lr=0.004",
        f"train.max_steps={given.steps}",
        "train.max_epochs=null",
    ]
    model = cellwright.pretrain(train, out=given.out / "model", changes=changes).model

    # Half of each cell's genes are known; the others are filled in, the surest third first. Values are bins: ranks
    # within a cell. A gene keeps the value that it joined with.
    config = FillConfig(known_fraction=0.5, steps=3, order="confident")
    whole = cellwright.generate(model, held_out, config=config, run=QUIET)
    step_ng, error_ng = whole.layers["step"], whole.layers["expected_error"]
    for step in (1, 2, 3):
        joined_ng = step_ng == step
        print(f"step {step}: {joined_ng.sum():,} genes joined, expected error {error_ng[joined_ng].mean():.1f} bins")

    # Cells of a kind start from the mean embedding of cells that are such: one average cell each.
    kinds = held_out.obs[given.label].value_counts().index[:2].astype(str)
    average = cellwright.generate(model, held_out, prompt=[{given.label: kind} for kind in kinds], run=QUIET)
    gap_g = average.X[0] - average.X[1]
    print(f"{kinds[0]} above {kinds[1]}: {', '.join(average.var_names[np.argsort(-gap_g)[:5]])}")

    # Was it worth it? Every order against one pass and against simple ways, on cells that nobody has seen.
    scoring = ScoreConfig(num_real=100, num_resamples=200, filling=FillScoring(steps=(3,)))
    result = cellwright.score(
        held_out,
        model,
        task="unmask",
        label=given.label,
        train=train,
        out=given.out / "scores",
        config=scoring,
        run=QUIET,
    )
    error = {method.name: method.scores["filled_mse"].value for method in result.evaluation.methods}
    for name in ("gene_mean", "ridge", "one pass", "random", "confident", "oracle"):
        print(f"{name:>10}: MSE {error[name]:.1f}")
    print(f"steps are {'better' if error['confident'] < error['one pass'] else 'no better'} than one pass here")

    whole.write_h5ad(given.out / "whole.h5ad")
    print(f"wrote {given.out / 'whole.h5ad'}, and the report {result.report}")


if __name__ == "__main__":
    main()
