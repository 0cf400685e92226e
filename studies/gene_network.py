"""Do gene vectors, or attention, of a small scGPT name known targets? Against ChIP and literature tables.

    python studies/gene_network.py --data FOLDER -o studies/results
    python studies/gene_network.py --data FOLDER -o studies/results --parts screens

Parts. ``vectors`` and ``attention``: blood (PBMC 3k), a network pre-trained on sorted PBMC of Zheng et al. 2017;
cosine of gene vectors, and attention in all cells. ``screens``: attention in perturbed cells, in controls, and their
difference, for each perturbed regulator of two screens (Papalexi et al. 2021, knock-outs in THP-1; Norman et al. 2019,
activation in K562), whose panels hold 299 and 500 genes, so that few regulators have targets there: at least 8, and at
least 2. The network is pre-trained on the screen's cells and on the sorted PBMC, in which the perturbed genes are
measured.

FOLDER holds ``pbmc3k``, ``pbmc_facs_zheng``, ``papalexi2021_thp1_eccite``, ``norman2019_k562_crispra`` (``.h5ad``) and,
under ``reference``, the tables of targets.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import anndata
import numpy as np

import cellwright
from cellwright.data.perturbations import read_perturbations
from cellwright.evaluate.comparison import table_text
from cellwright.evaluate.results import write_results
from cellwright.models import Model
from cellwright.verbs import GeneNetwork, InferenceOptions, NetworkOptions

TABLES = {"chip": "encode_tfchip_targets.json.gz", "literature": "omnipath_transcriptional.tsv.gz"}
SCREENS = {"papalexi": ("papalexi2021_thp1_eccite", 8), "norman": ("norman2019_k562_crispra", 2)}
"""Name -> file, and the fewest targets of a regulator that is scored."""
PARTS = ("vectors", "attention", "screens")
MOST_CELLS = 4000
QUIET = InferenceOptions(progress=False, device="cpu")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows")
    options.add_argument("--steps", type=int, default=240, help="of pre-training on blood")
    options.add_argument("--screen-steps", type=int, default=600, help="of pre-training for a screen")
    options.add_argument("--cells", type=int, default=150, help="cells of each condition that attention is read in")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which are run")
    asked = options.parse_args()
    if {"vectors", "attention"} & set(asked.parts):
        blood(asked)
    if "screens" in asked.parts:
        for name in SCREENS:
            screen(name, asked)


def blood(asked: argparse.Namespace) -> None:
    """Rank the targets of all regulators of the tables in blood."""
    model = pretrained([asked.data / "pbmc_facs_zheng.h5ad"], ["data.num_genes=2000"], asked.steps)
    ways = [NetworkOptions(embedding=kind, min_cells=30) for kind in ("context", "table") if "vectors" in asked.parts]
    if "attention" in asked.parts:
        ways.append(NetworkOptions(from_="attention", min_cells=30, num_cells=asked.cells))
    for name, table in TABLES.items():
        for config in ways:
            kind = "attention" if config.from_ == "attention" else config.embedding
            targets = asked.data / "reference" / table
            network = cellwright.grn(asked.data / "pbmc3k.h5ad", model, targets=targets, config=config, run=QUIET)
            keep(network, f"{name}_{kind}", asked.out)


def screen(name: str, asked: argparse.Namespace) -> None:
    """Rank the targets of each perturbed regulator in its own cells against controls."""
    file, min_targets = SCREENS[name]
    cells = anndata.read_h5ad(asked.data / f"{file}.h5ad")
    known = read_perturbations(cells.obs, column="perturbation")
    sorted_blood = anndata.read_h5ad(asked.data / "pbmc_facs_zheng.h5ad")
    shared = sorted_blood.var_names.isin([*cells.var_names, *known.all_parts])
    rows = np.sort(np.random.default_rng(0).permutation(cells.n_obs)[:MOST_CELLS])
    model = pretrained(
        [sorted_blood[:, shared].copy(), cells[rows].copy()], ["data.num_genes=null"], asked.screen_steps
    )
    config = NetworkOptions(
        from_="attention", condition="perturbation", min_cells=10, min_targets=min_targets, num_cells=asked.cells
    )
    for table_name, table in TABLES.items():
        try:
            targets = asked.data / "reference" / table
            network = cellwright.grn(cells, model, targets=targets, config=config, run=QUIET)
        except ValueError as error:  # too few targets in the panel: said, not scored
            print(f"\n{name}, {table_name}: {error}", flush=True)
            continue
        keep(network, f"{name}_{table_name}", asked.out)


def pretrained(data: list, changes: list[str], steps: int) -> Model:
    """Pre-train the tiny scGPT; the run folder is not kept."""
    changes = [*changes, f"train.max_steps={steps}", "train.max_epochs=null", "train.accelerator=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        return cellwright.pretrain(data, out=Path(folder) / "run", changes=changes).model


def keep(network: GeneNetwork, name: str, out: Path) -> None:
    """Say the scores, and write the rows over all regulators."""
    evaluation = network.evaluation
    print(f"\n{name}: {evaluation.headline}\n{table_text(evaluation)}", flush=True)
    path = out / f"gene_network_{name}.jsonl"
    write_results(evaluation, path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"part": null' in line), encoding="utf-8")


if __name__ == "__main__":
    main()
