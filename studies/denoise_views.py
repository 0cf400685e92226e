"""Denoising: is a harder read-depth view learnt better from than the published one?

The published view (``standard``) thins half of the cells, to half of their molecules on average, and asks for few genes
that it shows. The harder one (``harder``) thins nine cells of ten, to a fifth on average and often far less, asks for
more genes, a tenth of the silent ones among them, hides fewer and replaces none: most answers are then of genes that
are seen, as in denoising. Two small networks a seed (recipe ``scfoundation_tiny``, fewer genes and steps) learn from
the same sorted and frozen PBMC, and denoise PBMC 3k at 1, 5, 10 and 20 % of its molecules.

    python studies/denoise_views.py --data FOLDER -o studies/results

Rows: every score of each network and of the baselines, and the paired difference harder minus standard, mean over
seeds, on the same resampled cells. The harder settings come from earlier trials that are not on record; if these looked
at PBMC 3k, the difference leans their way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import read_h5ad

from cellwright import load
from cellwright.config import versions
from cellwright.data.cells import open_cells
from cellwright.data.joined import JoinedCells
from cellwright.evaluate.denoised import Denoised, DenoisingStudy, answer_depths, query_cells
from cellwright.evaluate.denoising import Drawn
from cellwright.evaluate.depth_cases import runnable_baselines
from cellwright.files import atomic_path
from cellwright.recipes import pretrain_model, recipe
from cellwright.tasks.inference import InferenceOptions

TRAINING, QUERY = ("pbmc_facs_zheng", "pbmc_frozen_donorA"), "pbmc3k"
HARDER = {
    "thinned": 0.9,
    "share": [0.5, 2.0],
    "expressed_fraction": 0.5,
    "silent_fraction": 0.1,
    "hidden": 0.3,
    "replaced": 0.0,
}
VIEWS: dict[str, dict[str, Any]] = {"standard": {}, "harder": HARDER}
SHARES = (0.01, 0.05, 0.1, 0.2)
SHOWN = ("held_out_deviance", "expressed_mae", "silent_mae", "gene_pearson", "cell_pearson", "ari")
QUIET = InferenceOptions(progress=False, device="cpu")


def main() -> None:
    """Train, denoise, score, and write rows and a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for denoise_views.jsonl and .md")
    parser.add_argument("--seeds", type=int, default=2, help="networks of each view")
    parser.add_argument("--steps", type=int, default=600, help="steps of each network")
    parser.add_argument("--genes", type=int, default=500, help="genes of each network")
    parser.add_argument("--num-cells", type=int, default=300, help="query cells")
    asked = parser.parse_args()
    began = time.perf_counter()
    training = [read_h5ad(asked.data / f"{name}.h5ad") for name in TRAINING]
    query = read_h5ad(asked.data / f"{QUERY}.h5ad")
    found: dict[str, list[Denoised]] = {view: [] for view in VIEWS}
    for seed in range(asked.seeds):
        for view, options in VIEWS.items():
            has_baselines = view == "standard" and not seed
            one = denoised(training, query, options, seed=seed, asked=asked, has_baselines=has_baselines)
            found[view].append(one)
            print(f"{view}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    rows = [*score_rows(found), *difference_rows(found)]
    options = {name: value for name, value in vars(asked).items() if name not in ("data", "out")}
    conditions = {"study": "denoise_views", "options": options, "harder": HARDER, "versions": versions()}
    conditions["seconds"] = round(time.perf_counter() - began, 1)
    table = markdown(rows)
    for name, text in (
        ("denoise_views.jsonl", "\n".join(json.dumps(row) for row in [conditions, *rows])),
        ("denoise_views.md", table),
    ):
        with atomic_path(asked.out / name) as draft:
            draft.write_text(text + "\n", encoding="utf-8")
    print(table)


def denoised(
    training: list, query: Any, options: dict[str, Any], *, seed: int, asked: argparse.Namespace, has_baselines: bool
) -> Denoised:
    """Train a network with a view and let it denoise the query cells."""
    changes = [
        f"data.num_genes={asked.genes}", f"train.max_steps={asked.steps}", "train.max_epochs=null",
        "train.accelerator=cpu", f"train.seed={seed}", f"objective.view_options={json.dumps(options)}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pretrain_model(recipe("scfoundation_tiny").override(changes), training, Path(folder) / "run")
        model = load(Path(folder) / "run")
    cells = JoinedCells([open_cells(adata, model.vocab) for adata in training]) if has_baselines else None
    study = DenoisingStudy(
        model=model, source=open_cells(query, model.vocab), train=cells, label="cell_type", shares=SHARES,
        num_cells=asked.num_cells, seed=0,
    )  # fmt: skip
    return answer_depths(study, query_cells(study), runnable_baselines(True) if has_baselines else (), QUIET)


def score_rows(found: dict[str, list[Denoised]]) -> list[dict[str, Any]]:
    """Return a row a network (or baseline), depth and metric."""
    rows = []
    for view, runs in found.items():
        for seed, run in enumerate(runs):
            for case, scores in zip(run.cases, run.drawn, strict=True):
                for method, own in scores.items():
                    is_network = method == run.model_name
                    if not is_network and (seed or view != "standard" or len(scores) < 3):
                        continue  # the roof is the same every time
                    key = {"method": view if is_network else method, "seed": seed if is_network else None}
                    rows += [key | {"share": case.share, "metric": name} | numbers(one) for name, one in own.items()]
    return rows


def difference_rows(found: dict[str, list[Denoised]]) -> list[dict[str, Any]]:
    """Return harder minus standard, mean over seeds, for each depth and metric."""
    rows = []
    for at, share in enumerate(SHARES):
        for metric in found["harder"][0].drawn[at][found["harder"][0].model_name]:
            means = []
            for view in ("harder", "standard"):
                drawn = [run.drawn[at][run.model_name][metric] for run in found[view]]
                means.append((np.mean([one.value for one in drawn]), np.mean([one.value_r for one in drawn], axis=0)))
            gap = Drawn(float(means[0][0] - means[1][0]), means[0][1] - means[1][1])
            rows.append({"method": "harder - standard", "seed": None, "share": share, "metric": metric} | numbers(gap))
    return rows


def numbers(one: Drawn) -> dict[str, float]:
    """Return a score with its interval."""
    low, high = one.interval
    return {"value": float(one.value), "low": low, "high": high}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return one table a metric: a line a method (networks: mean over seeds), a column a depth."""
    lines = []
    for metric in SHOWN:
        own = [row for row in rows if row["metric"] == metric]
        lines += ["", f"**{metric}**", "", f"| method | {' | '.join(f'{100 * share:g} %' for share in SHARES)} |"]
        lines += [f"|---|{'---|' * len(SHARES)}"]
        for method in dict.fromkeys(row["method"] for row in own):
            cells = []
            for share in SHARES:
                some = [row for row in own if row["method"] == method and row["share"] == share]
                mean = np.mean([row["value"] for row in some])
                interval = f" [{some[0]['low']:.3f}, {some[0]['high']:.3f}]" if len(some) == 1 else ""
                cells.append(f"{mean:.3f}{interval}")
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
