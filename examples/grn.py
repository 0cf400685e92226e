"""Targets of regulators: by vectors of genes, and by attention, beside co-expression.

    python examples/grn.py
    python examples/grn.py --model path/to/scGPT_human --data my.h5ad --targets known_targets.tsv

Without --model, a tiny scGPT is pre-trained on the cells first; it is for learning only. Without --targets, a handful
of interferon and myeloid targets stands in, so that there is something to score: far too few to say anything. On the
command line, the second with a screen whose cells were perturbed:

    cellwright grn path/to/scGPT_human my.h5ad -o network --targets known_targets.tsv
    cellwright grn path/to/scGPT_human screen.h5ad -o net --from attention --condition perturbation --perturbed STAT1
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cellwright
from cellwright.data import dataset_path
from cellwright.evaluate.comparison import table_text
from cellwright.verbs import NetworkOptions

KNOWN = {
    "SPI1": ["CD14", "CSF1R", "LYZ", "CST3", "FCGR3A", "TYROBP", "FCER1G", "S100A8", "S100A9", "ITGAM"],
    "STAT1": ["ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1", "OAS1", "IRF1", "CXCL10", "GBP1"],
    "IRF8": ["CD74", "HLA-DRA", "CST3", "IRF1", "CIITA", "CTSS", "TLR4", "IL12B", "CYBB", "ISG15"],
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="official scGPT folder, or a cellwright model (default: make one)")
    parser.add_argument("--data", type=Path, default=dataset_path("pbmc3k"), help="cells")
    parser.add_argument("--targets", type=Path, help="table with the columns regulator and target")
    parser.add_argument("--out", type=Path, default=Path("network"), help="folder to write")
    parser.add_argument("--steps", type=int, default=40, help="length of the pre-training without --model")
    parser.add_argument("--genes", type=int, default=1200, help="genes of the model without --model")
    parser.add_argument("--num-cells", type=int, default=30, help="cells that attention is read in")
    given = parser.parse_args(argv)
    run = cellwright.InferenceOptions(progress=False)
    with tempfile.TemporaryDirectory() as folder:
        model = cellwright.load(given.model) if given.model else tiny_model(given, Path(folder) / "run")

    # A ranking needs regulators; with known targets it is scored, beside ways that know no model.
    targets = given.targets or KNOWN
    ways = {
        "vectors": NetworkOptions(min_targets=2),
        "attention": NetworkOptions(from_="attention", min_targets=2, num_cells=given.num_cells),
    }
    for name, config in ways.items():
        try:
            network = cellwright.grn(
                given.data, model, targets=targets, out=given.out / name, config=config, run=run
            )  # fmt: skip
        except ValueError as error:  # small panels hold few known targets
            network = cellwright.grn(
                given.data, model, regulators=model.vocab.genes[:3], out=given.out / name, config=config, run=run
            )
            print(f"{name}: not scored ({error})")
        for regulator, found in list(network.ranked.top(5).items())[:3]:
            print(f"{name}: {regulator}: {', '.join(gene for gene, _ in found)}")
        if network.evaluation is not None:
            print(table_text(network.evaluation))
    print(f"wrote {given.out}")


def tiny_model(given: argparse.Namespace, folder: Path) -> cellwright.Model:
    """Pre-train a tiny scGPT on the cells."""
    changes = [f"data.num_genes={given.genes}", f"train.max_steps={given.steps}", "train.max_epochs=null"]
    return cellwright.pretrain(given.data, out=folder, changes=changes).model


if __name__ == "__main__":
    main()
