"""Pre-train a small scGPT on your own cells.

    python examples/pretrain.py --out runs/small
    python examples/pretrain.py --data a.h5ad b.h5ad --out runs/mine --steps 2000 --genes 2000
    python examples/pretrain.py --data a.h5ad b.h5ad --out runs/mine --steps 2000 --genes 2000 --resume

Without --data, cells that ship with cellwright are used (sorted blood cells, Zheng et al. 2017). The settings are
those of a first try: half a minute on a laptop, and a model that has seen far too little to be good. The same on the
command line:

    cellwright pretrain a.h5ad b.h5ad -o runs/mine --set data.num_genes=2000 --set train.max_steps=2000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cellwright
from cellwright.data import dataset_path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, help="files of cells (default: shipped cells)")
    parser.add_argument("--out", type=Path, default=Path("runs/example-pretrain"), help="run folder to make")
    parser.add_argument("--genes", type=int, default=600, help="most variable genes that become the vocabulary")
    parser.add_argument("--steps", type=int, default=40, help="training steps of 32 cells each")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    given = parser.parse_args(argv)

    # A recipe is the whole run as data: architecture, objective, optimiser, length. Any field of it can be changed,
    # and a name that does not exist is an error. "scgpt_pretrain" is the published setting at its full size.
    result = cellwright.pretrain(
        given.data or [dataset_path("pbmc_facs_zheng")],
        recipe="scgpt_tiny",
        out=given.out,
        changes=[f"data.num_genes={given.genes}", f"train.max_steps={given.steps}", "train.checkpoint_every=20"],
        resume=given.resume,
    )

    # Losses are squared errors of binned values (0 .. 50). "masked_value" predicts the genes held back from the others
    # of the cell, "cell_value" from the cell embedding alone, "prompted_value" from a second look with that embedding.
    rows = [row for row in result.fit.history if "train/loss" in row]
    for row in (rows[0], rows[-1]):
        parts = {name: round(row[f"train/{name}"]) for name in ("masked_value", "cell_value", "prompted_value")}
        print(f"step {row['step']}: {parts}")

    # The run folder is itself a model: everything that takes a model takes this path.
    record, _ = cellwright.inspect(given.out)
    print(f"{record['num_parameters']:,} parameters, vocabulary of {record['vocab']['num_genes']} genes: {given.out}")


if __name__ == "__main__":
    main()
