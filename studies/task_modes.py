"""Probe, low-rank, full, from scratch, with several seeds, in integration and with proteins beside genes.

    python studies/task_modes.py --data FOLDER --model runs/pretraining_length/3000 -o studies/results

One call of `cellwright.compare_modes` a task; the network is that of `pretraining_length.py`, or any scGPT.

- ``integrate``: four blood studies (two of them unseen by pre-training), scored by types that nobody was told.
- ``multiome``: blood with 14 proteins, one of two batches; embeddings scored by type, proteins told of held-out cells.

FOLDER holds ``pbmc_multistudy_integration.h5ad`` and ``cite_pbmc10k_5k.h5ad``. Rows of both go into
``task_modes.jsonl``; runs are kept in ``--runs`` and not made again. Nothing is chosen by these scores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from anndata import AnnData, read_h5ad
from common import QUIET
from integrate import some_cells
from multiome import some_cells as drawn_cells

from cellwright.evaluate.comparison import table_text
from cellwright.evaluate.results import result_rows
from cellwright.files import atomic_path
from cellwright.verbs import CompareOptions, ReadOptions, compare_modes

FILES = {"integrate": "pbmc_multistudy_integration", "multiome": "cite_pbmc10k_5k"}
LABELS = {"integrate": "cell_type_coarse", "multiome": "cell_type"}


def cells_of(task: str, given: argparse.Namespace) -> AnnData:
    """Return the cells of a task; those without a known type are left out."""
    path = given.data / f"{FILES[task]}.h5ad"
    if task == "multiome":
        return drawn_cells(path, given.cells, 0)
    adata = some_cells(read_h5ad(path), "batch", given.cells)
    return adata[adata.obs[LABELS[task]].astype(str) != "unknown"].copy()


def changes_of(task: str, given: argparse.Namespace) -> list[str]:
    """Return the options of training."""
    shared = ["train.accelerator=cpu", f"num_genes={given.genes}", f"optim.lr={given.lr}"]
    own = {"integrate": ["train.max_epochs=6", "train.checkpoint_every=100000"]}
    return [*shared, *own.get(task, ["train.max_epochs=12", "batch_size=16"])]


def run_task(task: str, given: argparse.Namespace) -> list[dict]:
    """Compare the ways in a task and return rows of scores and differences."""
    start = time.perf_counter()
    done = compare_modes(
        cells_of(task, given),
        given.model,
        task=task,
        label=LABELS[task],
        out=given.runs / task,
        how=CompareOptions(seeds=given.seeds, modes=given.modes),
        changes=changes_of(task, given),
        read=ReadOptions(tech_batch="batch"),
        run=QUIET,
    )
    found, seconds = done.evaluation, time.perf_counter() - start
    print(f"== {task} ({seconds:.0f} s)", table_text(found), *found.summary, sep="\n", flush=True)
    conditions = {"cells": given.cells, "genes": given.genes, "lr": given.lr, "seeds": given.seeds}
    stamp = {"study": task, "model": "/".join(given.model.parts[-2:]), "conditions": conditions}
    rows = [stamp | row for row in result_rows(found) if row["part"] is None]
    return rows + [stamp | {"difference": True} | difference.record() for difference in found.differences]


def main() -> None:
    """Run the tasks asked for and put their rows into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows")
    parser.add_argument("--model", type=Path, required=True, help="a pre-trained scGPT")
    parser.add_argument("--runs", type=Path, default=Path("runs/task_modes"), help="folder of the runs")
    parser.add_argument("--tasks", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--modes", nargs="+", help="ways of fine-tuning (default: all that the task has)")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of each way")
    parser.add_argument("--cells", type=int, default=1200, help="most cells of a task")
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-3)
    given = parser.parse_args()
    path = given.out / "task_modes.jsonl"
    for task in given.tasks:
        rows = run_task(task, given)
        kept = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        lines = [json.dumps(row) for row in [*(row for row in kept if row["study"] != task), *rows]]
        with atomic_path(path) as draft:
            draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
