"""Tell what cells are in words, and make cells of a kind, with small models that read and write sentences.

    python examples/generate.py
    python examples/generate.py --data mine.h5ad --label cell_type --kinds "B cell" "NK cell" --steps 2000

A cell is a sentence here: its genes, and words for what it is (scMulan). Without --data, sorted blood cells (Zheng et
al. 2017) are used, which ship with cellwright. Both models are trained on the spot, for less than a minute in all: they
have seen far too little to be good at making cells. The same on the command line:

    cellwright pretrain mine.h5ad -o runs/maker --recipe scmulan_tiny --set data.metadata.cell_type=cell_type
    cellwright generate runs/maker --prompt cell_type="B cell" -n 100 -o made.h5ad
    cellwright annotate runs/maker mine.h5ad -o told.h5ad
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import cellwright
from cellwright.data import load_dataset

TELL = {"word": "annotate", "asked": ["cell_type"]}
MAKE = {"word": "generate", "given": ["cell_type"], "asks_genes": True}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="labelled cells, .h5ad (default: shipped cells)")
    parser.add_argument("--label", default="cell_type_coarse", help="column of obs with their types")
    parser.add_argument("--kinds", nargs=2, help="two types to make cells of (default: the two most frequent ones)")
    parser.add_argument("--num-cells", type=int, default=50, help="cells to make of each")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each model")
    parser.add_argument("--out", type=Path, default=Path("runs/example-generate"), help="folder to make")
    given = parser.parse_args(argv)

    cells = anndata.read_h5ad(given.data) if given.data else load_dataset("pbmc_facs_zheng")
    is_held_out_n = np.arange(cells.n_obs) % 10 == 0
    train, held_out = cells[~is_held_out_n].copy(), cells[is_held_out_n].copy()
    run = cellwright.InferenceOptions(progress=False)

    def pretrained(name: str, sentence: dict, terms: dict[str, float], *more: str):
        """Train on one kind of sentence: one model can learn all kinds, but not in a minute."""
        changes = [
            f"data.metadata.cell_type={given.label}",
            "data.num_genes=120",
            f"objective.view_options={json.dumps({'tasks': [sentence]})}",
            f"objective.terms={json.dumps(terms)}",
            f"train.max_steps={given.steps}",
            *more,
        ]
        return cellwright.pretrain(train, recipe="scmulan_tiny", out=given.out / name, changes=changes).model

    # Telling: the model reads a cell's genes and the word that asks, and says the likeliest type.
    teller = pretrained("teller", TELL, {"next_entity": 1}, "batch_size=32", "optim.lr=0.003")
    told = cellwright.annotate(held_out, teller, run=run).words["cell_type"]
    truth_n = held_out.obs[given.label].astype(str)
    most = truth_n.value_counts(normalize=True).iloc[0]
    print(
        f"{(told == truth_n).mean():.1%} of {held_out.n_obs} held-out cells are told right; always the same: {most:.1%}"
    )

    # Making: the model is given the type and the word that asks for genes, and writes gene after gene with its level.
    # Levels are relative to the cell's highest (0 .. 1), no counts. The i-th cell depends on (seed, i) alone.
    kinds = given.kinds or cells.obs[given.label].value_counts().index[:2].astype(str).tolist()
    maker = pretrained("maker", MAKE, {"next_entity": 1, "next_level": 0.1}, "batch_size=16", "optim.lr=0.01")
    prompts = [{"cell_type": kind} for kind in kinds]
    made = cellwright.generate(maker, prompt=prompts, num_cells=given.num_cells, seed=0, run=run)

    # Made cells show what the model believes of a type. Here: in how many cells the genes are on that set both kinds
    # apart most, in real cells that it has not seen and in made ones.
    genes = made.var_names.intersection(held_out.var_names)  # genes have today's names in a model
    shares = {
        (kind, name): np.asarray((some[(obs == kind).to_numpy(), genes].X > 0).mean(0)).ravel()
        for kind in kinds
        for name, some, obs in (("real", held_out, truth_n), ("made", made, made.obs["cell_type"]))
    }
    table = pd.DataFrame(shares, index=genes)
    apart = (table[kinds[0], "real"] - table[kinds[1], "real"]).sort_values()
    print("share of cells in which a gene is on")
    print(table.loc[[*apart.index[:4], *apart.index[-4:]]].round(2).to_string())

    made.write_h5ad(given.out / "made.h5ad")
    print(f"wrote {given.out / 'made.h5ad'}: {made.n_obs} cells")


if __name__ == "__main__":
    main()
