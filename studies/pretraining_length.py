"""How long must a small scGPT be pre-trained before its embedding is better than that of a network never trained?

One network a length, by the recipe ``scgpt_demo`` (its schedule fitted to the length), on the sorted and the frozen
cells of Zheng et al. 2017; their types are not read. Each embeds cells of four blood studies, two of which it has not
seen, without further training, beside the same network untrained and principal components.

    python studies/pretraining_length.py --data FOLDER -o studies/results

FOLDER holds ``pbmc_multistudy_integration.h5ad``, ``pbmc_facs_zheng.h5ad`` and ``pbmc_frozen_donorA.h5ad``. A network
that is in ``--runs`` is taken. One seed; intervals are over cells. Nothing was chosen by these scores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from anndata import AnnData, read_h5ad
from integrate import PRETRAINING, SETS, some_cells

import cellwright
from cellwright.config import versions
from cellwright.files import atomic_path
from cellwright.models import Model, load
from cellwright.train.callbacks import METRICS, read_metrics

SHOWN = ("overall", "avg_bio", "avg_batch", "nmi", "ari", "asw_label", "ilisi", "pcr_comparison")


def main() -> None:
    """Pre-train what is not there, embed, score, and write rows and a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows and the table")
    options.add_argument("--runs", type=Path, default=Path("runs/pretraining_length"), help="folder for the networks")
    options.add_argument("--steps", type=int, nargs="+", default=[200, 1000, 3000], help="lengths")
    options.add_argument("--genes", type=int, default=600, help="most variable genes, of pre-training")
    options.add_argument("--lr", type=float, default=2e-3, help="highest learning rate of pre-training")
    options.add_argument("--cells", type=int, default=1200, help="cells embedded, the same part of each study")
    asked = options.parse_args()
    torch.set_num_threads(1)
    file, batch, label, unlabelled = SETS["studies"]
    adata = some_cells(read_h5ad(asked.data / f"{file}.h5ad"), batch, asked.cells)
    scoring = cellwright.IntegrateOptions(unlabelled=unlabelled, baselines=("pca",))
    rows = []
    for steps in asked.steps:
        model = pretrained(asked, steps)
        rows += scored(adata, model, batch, label, scoring, steps=steps, is_first=not rows)
        save(asked, rows)
    print(table(rows))


def pretrained(asked: argparse.Namespace, steps: int) -> Model:
    """Return the network of a length, pre-trained now or by an earlier call."""
    folder = asked.runs / str(steps)
    if (folder / "config.json").exists():
        return load(folder)
    changes = [
        f"data.num_genes={asked.genes}", f"optim.lr={asked.lr}", f"train.max_steps={steps}", "train.max_epochs=null",
        "train.accelerator=cpu", "train.checkpoint_every=100000",
    ]  # fmt: skip
    data = [asked.data / f"{name}.h5ad" for name in PRETRAINING]
    return cellwright.pretrain(data, out=folder, recipe="scgpt_demo", changes=changes).model


def scored(
    adata: AnnData, model: Model, batch: str, label: str, scoring: cellwright.IntegrateOptions, *, steps: int,
    is_first: bool,
) -> list[dict]:  # fmt: skip
    """Embed and score; the untrained network and principal components with the first length alone."""
    run = cellwright.InferenceOptions(progress=False, device="cpu")
    found = cellwright.integrate(adata, model, tech_batch=batch, label=label, config=scoring, run=run).evaluation
    rows = []
    for method in found.methods:
        is_network = method.name == found.methods[0].name
        if is_network or is_first:
            scores = {name: score.record() for name, score in method.scores.items()}
            rows.append({"method": method.name, "steps": steps if is_network else None, "scores": scores})
    return rows


def save(asked: argparse.Namespace, rows: list[dict]) -> None:
    """Write the conditions with the validation loss of each length, the rows, and the table."""
    options = {name: value for name, value in vars(asked).items() if name not in ("data", "out", "runs")}
    done = [row["steps"] for row in rows if row["steps"]]
    losses = {steps: read_metrics(asked.runs / str(steps) / METRICS)[-1].get("valid/loss") for steps in done}
    conditions = {"study": "pretraining_length", "options": options, "valid_loss": losses, "versions": versions()}
    asked.out.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".jsonl", "\n".join(json.dumps(row) for row in [conditions, *rows])), (".md", table(rows))):
        with atomic_path(asked.out / f"pretraining_length{suffix}") as draft:
            draft.write_text(text + "\n", encoding="utf-8")


def table(rows: list[dict]) -> str:
    """Return a line a network, a column a score."""
    lines = [f"| network | {' | '.join(SHOWN)} |", f"|---|{'---|' * len(SHOWN)}"]
    for row in rows:
        name = row["method"] + (f", {row['steps']:,} steps" if row["steps"] else "")
        cells = [f"{row['scores'][metric]['value']:.2f}" for metric in SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
