"""Predict what a perturbation does, see whether to believe it, and ask the other way round.

    python examples/perturb.py
    python examples/perturb.py --data screen.h5ad --perturbation target --control ctrl --model MODEL --out runs/screen

Without --data the screen is made up (sixteen genes perturbed, some in pairs); without --model a tiny scGPT begins from
nothing. The same on the command line, where --keep-model leaves what predict-perturbation asks:

    cellwright perturb screen.h5ad -o runs/screen --perturbation target --model MODEL --use cells --keep-model
    cellwright predict-perturbation runs/screen -o new.h5ad --predict A+B
    cellwright reverse-perturb screen.h5ad -o runs/reverse --perturbation target --state wanted.h5ad
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata

import cellwright
from cellwright.data.synthetic import make_perturbed_cells
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.perturb_cells import CellPerturbConfig
from cellwright.tasks.perturb_graph import GraphConfig


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="an .h5ad file with perturbed cells and controls (default: made up)")
    parser.add_argument("--perturbation", default="perturbation", help="column of obs that says what was done")
    parser.add_argument("--control", default="ctrl", help="name of the controls in it")
    parser.add_argument("--model", type=Path, help="a scGPT model to begin from (default: a tiny one, untrained)")
    parser.add_argument("--out", type=Path, default=Path("runs/perturb"), help="folder to write")
    parser.add_argument("--epochs", type=int, default=8, help="passes of training")
    given = parser.parse_args(argv)

    adata = make_perturbed_cells(60) if given.data is None else anndata.read_h5ad(given.data)
    screen = cellwright.ScreenOptions(
        perturbation=given.perturbation, control=given.control, kind="labels" if given.data else "genes"
    )
    model = tiny_model(adata) if given.model is None else cellwright.load(given.model)
    config = cellwright.PerturbConfig(
        graph=GraphConfig(max_epochs=given.epochs, width=16),
        cells=CellPerturbConfig(max_epochs=given.epochs, cells_per_profile=8, lr=3e-3, pool=40),
    )

    # Every perturbation is held out once. Read the baselines' rows before the models': they often win.
    options = cellwright.PerturbOptions(folds=2, use="cells", keep_model=True, cell_scores=False)
    result = cellwright.perturb(adata, model=model, options=options, screen=screen, config=config)
    result.save(given.out)
    print("\n".join(result.lines()))

    # The kept model needs no screen any more.
    names = result.screen.perturbations.all_parts
    made = cellwright.predict_perturbation(given.out, [f"{names[0]}+{names[1]}"], device="cpu")
    print(f"{made.obs['condition'].iloc[0]}: largest predicted change {abs(made.X).max():.2f}")

    # And the other way round: which perturbation leads to these cells?
    wanted = adata[adata.obs[given.perturbation].astype(str) == names[0]]
    reverse = cellwright.ReverseOptions(split="single", folds=2, top="1,2")
    found = cellwright.reverse_perturb(adata, state=wanted, options=reverse, screen=screen, config=config)
    print("\n".join(found.lines()))
    print(f"wrote {given.out}")


def tiny_model(adata: anndata.AnnData) -> cellwright.Model:
    """Return an untrained tiny scGPT of the screen's genes and of what is perturbed in it."""
    scgpt = FAMILIES["scgpt"]
    names = dict.fromkeys([*adata.var_names, *adata.uns.get("perturbed", ())])
    size = scgpt.sizes["tiny"].model_copy(update={"width": 16, "num_heads": 2, "num_layers": 1, "feed_forward": 16})
    return new_model("scgpt", cellwright.GeneVocab.from_genes(names, scgpt.specials), size)


if __name__ == "__main__":
    main()
