"""Denoising blood: a small scFoundation network against simple ways to denoise, over read depth.

The network (recipe ``scfoundation_tiny``) is trained on three studies of blood: sorted PBMC of Zheng et al. 2017, the
frozen PBMC of a donor of theirs, and two thirds of the lanes of Hao et al. 2021. What learns from training cells among
the baselines learns from the same cells. Query cells: the other lanes of Hao (deep; the same donors, so the easy kind),
and PBMC 3k (another study and donor). They are thinned to 1, 5, 10 and 20 % of their molecules.

    python studies/denoise_blood.py --data FOLDER -o runs/denoise_blood

Nothing is chosen by the query cells. One training seed: differences between seeds are not in the intervals, which are
bootstraps over query cells.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import read_h5ad

from cellwright import load
from cellwright.baselines.denoising import gene_mean
from cellwright.config import versions
from cellwright.data.cells import Cells, open_cells
from cellwright.data.joined import JoinedCells
from cellwright.evaluate.denoising import DenoisingRow, rows_table, score_denoised
from cellwright.evaluate.depth_cases import DepthCase, ThinnedCells, baseline_answers, recounted
from cellwright.evaluate.depth_curves import depth_curves_figure
from cellwright.files import atomic_path
from cellwright.objectives.depth import ReadDepth
from cellwright.recipes import pretrain_model, recipe
from cellwright.tasks.denoise import answered_ids, denoise_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.tokens import DepthTarget
from cellwright.types import CellBatch, Draw

SHARES = (0.01, 0.05, 0.1, 0.2)
TRAINING = ("pbmc_facs_zheng", "pbmc_frozen_donorA")
LANES, UNSEEN_STUDY = "pbmc_hao2021_1k", "pbmc3k"
HELD_OUT_LANES = ("L5", "E2L3", "E2L6", "E2L8")
MODEL = "scFoundation tiny"
FIGURE = ("expressed_mae", "cell_pearson", "gene_pearson", "silent_mae", "held_out_deviance", "nmi")
QUIET = InferenceOptions(progress=False, device="cpu")


def main() -> None:
    """Train unless there is a model already, score, and write rows, tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the run, tables and figures")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="change an option of the recipe")
    parser.add_argument("--num-cells", type=int, default=400, help="most query cells of a data set")
    parser.add_argument("--no-baselines", action="store_true", help="score the model and the roof alone")
    parser.add_argument("--rows", type=Path, help="file to append the row of results to")
    asked = parser.parse_args()
    lanes = read_h5ad(asked.data / f"{LANES}.h5ad")
    is_held_out = lanes.obs["batch"].isin(HELD_OUT_LANES).to_numpy()
    training = [*(read_h5ad(asked.data / f"{name}.h5ad") for name in TRAINING), lanes[~is_held_out].copy()]
    run = asked.out / "model"
    if not (run / "config.json").exists():
        began = time.perf_counter()
        pretrain_model(recipe("scfoundation_tiny").override(asked.changes), training, run)
        say([f"trained in {time.perf_counter() - began:.0f} s"])
    model = load(run)
    train = JoinedCells([open_cells(adata, model.vocab) for adata in training])
    cells = recounted(train.read(np.arange(len(train))), model.tokenizer())
    queries = {
        f"{LANES}, other lanes": (lanes[is_held_out].copy(), None, "batch"),
        UNSEEN_STUDY: (read_h5ad(asked.data / f"{UNSEEN_STUDY}.h5ad"), "cell_type", None),
    }
    rivals = [] if asked.no_baselines else None
    sets = {
        name: study(model, cells, *query, num_cells=asked.num_cells, rivals=rivals) for name, query in queries.items()
    }
    steps = model.origin["pretraining"]["steps"]
    lines = [f"{model.num_parameters:,} parameters, {steps} steps, {len(train)} training cells"]
    for name, (losses, rows) in sets.items():
        words = ", ".join(f"{way} {value:.3f}" for way, value in losses.items())
        lines += [
            "",
            f"## {name}: {rows[0].num_cells} cells, {rows[0].num_genes} genes",
            f"hidden values, MSE: {words}",
        ]
        lines += [
            text for metric in dict.fromkeys(row.metric for row in rows) for text in ("", rows_table(rows, metric))
        ]
        with atomic_path(asked.out / f"{name.replace(', ', '_').replace(' ', '_')}.svg") as draft:
            draft.write_bytes(depth_curves_figure(rows, FIGURE))
    with atomic_path(asked.out / "tables.txt") as draft:
        draft.write_text("\n".join(lines) + "\n")
    say(lines)
    if asked.rows:
        append(asked.rows, model, sets)


def study(
    model: Any,
    train: CellBatch,
    query: Any,
    label: str | None,
    group: str | None,
    *,
    num_cells: int,
    rivals: list[str] | None = None,
) -> tuple[dict[str, float], list[DenoisingRow]]:
    """Score all methods on one query set; return losses on hidden values, and rows."""
    source = open_cells(query, model.vocab)
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[:num_cells])
    source, gene_ids = source.select(rows), answered_ids(model)
    obs = source.obs
    label_n = None if label is None else obs[label].astype("category").cat.codes.to_numpy(np.int64)
    groups_n = None if group is None else obs[group].astype("category").cat.codes.to_numpy(np.int64)
    tokenize = model.tokenizer()
    deep = recounted(source.read(np.arange(len(source))), tokenize)
    background_v = np.bincount(train.gene_z, weights=train.value_z, minlength=len(model.vocab))
    found = []
    for share in SHARES:
        thinned = ThinnedCells(source, share, seed=1)
        shallow = recounted(thinned.read(np.arange(len(thinned))), tokenize)
        case = DepthCase(share=share, deep=deep, shallow=shallow, gene_ids=gene_ids, label_n=label_n, groups_n=groups_n)
        answers = baseline_answers(train, case, seed=0, names=rivals)
        depth = DepthTarget("fold", 1 / share)
        answers[MODEL] = denoise_cells(model, thinned, depth, gene_ids=gene_ids, options=QUIET).value_ng
        found += score_denoised(answers, case, background_v[gene_ids], models=[MODEL], seed=0)
    return hidden_losses(model, source, train), found


@torch.inference_mode()
def hidden_losses(model: Any, source: Cells, train: CellBatch) -> dict[str, float]:
    """Return the mean squared error at the genes that pre-training would ask for, by three ways of answering."""
    tokenize, view = model.tokenizer(), ReadDepth()
    seeing = replace_options(view, hidden=0.0, replaced=0.0)
    genes = answered_ids(model)
    mean_v = np.zeros(len(model.vocab), np.float32)
    mean_v[genes] = gene_mean(train, train.take(np.arange(1)), genes, target_total_n=np.ones(1), seed=0)[0]
    total = dict.fromkeys(("network", "gene mean", "value seen, were it not hidden"), 0.0)
    num = 0
    for step, start in enumerate(range(0, len(source), 16)):
        cells, draw = source.read(np.arange(start, min(start + 16, len(source)))), Draw(5, 0, step)
        tokens, targets = view(cells, tokenize, draw)
        seen, _ = seeing(cells, tokenize, draw)
        answers = (
            model.network(tokens, {"value_nt"}).value_nt,
            torch.from_numpy(mean_v)[tokens.gene_nt],
            seen.value_nt,
        )
        truth_s = targets.value_nt[targets.is_scored_nt]
        for way, answer_nt in zip(total, answers, strict=True):
            total[way] += float((answer_nt[targets.is_scored_nt] - truth_s).square().sum())
        num += len(truth_s)
    return {way: value / num for way, value in total.items()}


def replace_options(view: ReadDepth, **options: Any) -> ReadDepth:
    """Return the view with other options."""
    return ReadDepth.read(view.record() | options, "view")


def append(path: Path, model: Any, sets: dict[str, tuple[dict[str, float], list[DenoisingRow]]]) -> None:
    """Append one line of JSON: what ran, and all rows."""
    pretraining = model.origin["pretraining"]
    line = {
        "study": "denoise_blood",
        "recipe": pretraining["recipe"],
        "steps": pretraining["steps"],
        "model_sha256": model.sha256(),
        "versions": versions(),
        "hidden_mse": {name: losses for name, (losses, _) in sets.items()},
        "rows": [{"query": name} | row.record() for name, (_, rows) in sets.items() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def say(lines: list[str]) -> None:
    """Print lines."""
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
