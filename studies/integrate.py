"""Four studies of blood, and control against stimulated cells, in one space: a small scGPT beside Harmony and scVI.

The network is pre-trained on counts of the sorted and the frozen cells of Zheng et al. 2017 (their types are not read),
which are two of the four studies to be integrated; the other two it has not seen. It is scored as it is, fine-tuned by
the published recipe (``--modes scratch``: newly drawn weights by the same recipe), none of the types being seen.

    python studies/integrate.py --data FOLDER -o studies/results
    python studies/integrate.py --data FOLDER -o studies/results --sets kang --modes full scratch --leiden
    python studies/integrate.py --data FOLDER -o studies/results --model runs/pretraining_length/3000

What matters most is how long the network was pre-trained: `pretraining_length.py`. Rows of sets and modes that are not
asked for stay in the file.

FOLDER holds ``pbmc_multistudy_integration.h5ad``, ``kang2018_ifnb_labelled.h5ad``, ``pbmc_facs_zheng.h5ad`` and
``pbmc_frozen_donorA.h5ad``. One training seed a run; intervals are over cells. Nothing was chosen by these scores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from anndata import AnnData, read_h5ad

import cellwright
from cellwright.evaluate.comparison import table_text
from cellwright.evaluate.results import result_rows
from cellwright.files import atomic_path
from cellwright.models import Model, load

PRETRAINING = ("pbmc_facs_zheng", "pbmc_frozen_donorA")
SETS = {
    "studies": ("pbmc_multistudy_integration", "batch", "cell_type_coarse", "unknown"),
    "kang": ("kang2018_ifnb_labelled", "condition", "cell_type", None),
}
"""Name -> file, column of sequencing batches, column of types, value that means no type."""
RUN = cellwright.InferenceOptions(progress=False, device="cpu")


def main() -> None:
    """Pre-train unless there is a network already, then integrate every set in every way."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows")
    options.add_argument("--runs", type=Path, default=Path("runs/integrate"), help="folder for models and reports")
    options.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="which cells")
    options.add_argument("--modes", nargs="+", default=["full"], help="ways of training: full, lora, probe, scratch")
    options.add_argument("--model", type=Path, help="a pre-trained network (default: pre-trained here)")
    options.add_argument("--steps", type=int, default=1000, help="of pre-training")
    options.add_argument("--panel", type=int, default=600, help="genes of pre-training")
    options.add_argument("--epochs", type=int, default=4, help="of fine-tuning")
    options.add_argument("--genes", type=int, default=300, help="of fine-tuning and baselines")
    options.add_argument("--cells", type=int, default=2000, help="most cells of a set, the same part of each batch")
    options.add_argument("--lr", type=float, default=1e-3, help="of fine-tuning")
    options.add_argument("--scvi-epochs", type=int, default=40, help="passes of scVI's training")
    options.add_argument("--leiden", action="store_true", help="clusters as published")
    options.add_argument("--threads", type=int, default=2, help="of the processor")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    model = pretrained(asked)
    for name in asked.sets:
        for mode in asked.modes:
            save(asked.out / "integrate.jsonl", integrated(asked, model, name, mode))


def save(path: Path, rows: list[dict]) -> None:
    """Put the rows of one set and mode in the place of earlier ones."""
    done = {(row["set"], row["mode"]) for row in rows}
    earlier = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    rows = [*(row for row in earlier if (row["set"], row["mode"]) not in done), *rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as draft:
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pretrained(asked: argparse.Namespace) -> Model:
    """Return the network, pre-trained now or by an earlier call."""
    folder = asked.model or asked.runs / f"pretrained_{asked.steps}"
    if (folder / "config.json").exists():
        return load(folder)
    changes = [f"data.num_genes={asked.panel}", f"train.max_steps={asked.steps}", "train.max_epochs=null"]
    data = [asked.data / f"{name}.h5ad" for name in PRETRAINING]
    begin = time.perf_counter()
    made = cellwright.pretrain(data, out=folder, recipe="scgpt_demo", changes=[*changes, "train.accelerator=cpu"])
    print(f"pre-trained in {time.perf_counter() - begin:.0f} s", flush=True)
    return made.model


def integrated(asked: argparse.Namespace, model: Model, name: str, mode: str) -> list[dict]:
    """Integrate one set in one way, leave the report, and return rows of scores."""
    file, batch, label, unlabelled = SETS[name]
    adata = some_cells(read_h5ad(asked.data / f"{file}.h5ad"), batch, asked.cells)
    changes = [
        f"train.max_epochs={asked.epochs}", f"num_genes={asked.genes}", f"optim.lr={asked.lr}",
        "train.accelerator=cpu", "train.checkpoint_every=100000",
    ]  # fmt: skip
    config = cellwright.IntegrateOptions(
        unlabelled=unlabelled, scvi_epochs=asked.scvi_epochs, clusters="leiden" if asked.leiden else "kmeans"
    )
    begin = time.perf_counter()
    done = cellwright.integrate(
        adata, model, tech_batch=batch, label=label, mode=mode, out=asked.runs / f"{name}_{mode}", changes=changes,
        config=config, run=RUN,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    print(f"\n{name}, {mode} ({seconds:.0f} s)\n{table_text(done.evaluation)}\n", *done.evaluation.summary, flush=True)
    conditions = {
        "set": name,
        "mode": mode,
        "model": model.sha256(),
        "cells": adata.n_obs,
        "seconds": seconds,
        "training_steps": done.fit.num_steps,
    }
    conditions |= {key: value for key, value in vars(asked).items() if isinstance(value, int | float)}
    return [conditions | row for row in result_rows(done.evaluation) if row["part"] is None]


def some_cells(adata: AnnData, batch: str, most: int) -> AnnData:
    """Return the same part of every batch, in the order of the file; at most so many cells in all."""
    step = max(1, -(-adata.n_obs // most))
    place_n = adata.obs.groupby(batch, observed=True).cumcount().to_numpy()
    return adata[place_n % step == 0].copy()


if __name__ == "__main__":
    main()
