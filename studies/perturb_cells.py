"""A fine-tuned cell model on held-out perturbations, forwards and in reverse, and what 20,000 genes cost.

    python studies/perturb_cells.py --data FOLDER -o studies/results/perturb_cells.jsonl
    python studies/perturb_cells.py --data FOLDER --only norman_double --model RUN    # from trained weights
    python studies/perturb_cells.py --data FOLDER --only kang_cells --set lr=0.003 max_epochs=40 mode=lora
    python studies/perturb_cells.py --data FOLDER --only kang_cells --pretrain-steps 2000

FOLDER holds ``norman2019_k562_crispra.h5ad``, ``papalexi2021_thp1_eccite.h5ad`` and ``kang2018_ifnb_labelled.h5ad``.
Without ``--model`` the network is a small scGPT with weights newly drawn: what the way of training is worth, not what
pre-training is; with ``--pretrain-steps`` it is pre-trained on the controls that models may see and, for Kang, on
``pbmc_facs_zheng`` and ``pbmc_hao2021_1k``, for the others on what `perturb_contexts.py` takes. Graph models on these
screens are in ``perturb.py``. Nothing is chosen by test scores.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import for_steps
from finetune_modes import read
from perturb import KANG, NORMAN, PAPALEXI, slim
from perturb_contexts import OTHERS, pretraining_cells

from cellwright.baselines.perturbation import Known
from cellwright.data.perturbation_splits import split_perturbations
from cellwright.evaluate.perturbation import score_predictions
from cellwright.evaluate.perturbation_tables import SHOWN, table_lines
from cellwright.files import atomic_path
from cellwright.models import FAMILIES, Model, load, new_model
from cellwright.recipes import pretrain_model, recipe
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import predict_folds
from cellwright.tasks.perturb_cells import CellPerturb, CellPerturbConfig, FittedCells
from cellwright.tasks.perturb_tokens import Feed
from cellwright.tasks.reverse import candidates_of
from cellwright.tasks.reverse_folds import Ranking, reverse_folds
from cellwright.tasks.screen import open_screen
from cellwright.verbs.perturb_methods import cell_method
from cellwright.vocab import GeneVocab

HOW = CellPerturbConfig(
    lr=1e-3, max_epochs=12, batch_size=32, max_genes=200, cells_per_profile=24, valid_pool=25, device="cpu"
)
SMALL = {"width": 32, "feed_forward": 32, "num_heads": 4, "num_layers": 2, "dropout": 0.0, "num_bins": None}
STUDIES = {
    "norman_double": ("norman2019_k562_crispra", "double", NORMAN, HOW),
    "norman_double_scaled": (
        "norman2019_k562_crispra", "double", NORMAN, HOW.model_copy(update={"value_scale": 5.0}),
    ),
    "norman_single": ("norman2019_k562_crispra", "single", NORMAN, HOW),
    "kang_cells": ("kang2018_ifnb_labelled", "cells", KANG, HOW.model_copy(update={"cells_per_profile": 100})),
    "papalexi_single": ("papalexi2021_thp1_eccite", "single", PAPALEXI, HOW),
}  # fmt: skip


NEW = "small, newly drawn"
BLOOD = ("pbmc_facs_zheng", "pbmc_hao2021_1k")


def opened(folder: Path, name: str, seed: int) -> tuple[Screen, AnnData]:
    """Open the screen of a study; also its cells."""
    file, _, screen, _ = STUDIES[name]
    adata = read(folder, file)
    if "guide_ok" in adata.obs:
        adata = adata[adata.obs["guide_ok"].to_numpy(bool)].copy()
    return open_screen(adata, screen, seed=seed), adata


def small_model(genes: list[str], seed: int) -> Model:
    """Return a small scGPT of these genes with weights newly drawn."""
    scgpt = FAMILIES["scgpt"]
    config = scgpt.config.read(scgpt.sizes["tiny"].record() | SMALL, "small")
    return new_model("scgpt", GeneVocab.from_genes(dict.fromkeys(genes), scgpt.specials), config, seed=seed)


def pretrained(screen: Screen, adata: AnnData, name: str, given: argparse.Namespace) -> Model:
    """Pre-train ``scgpt_demo`` on all genes of the screen, or take what an earlier call left in ``--runs``."""
    folder = given.runs / f"{name}_{given.pretrain_steps}_{given.seed}"
    if not (folder / "config.json").exists():
        others = BLOOD if name.startswith("kang") else OTHERS
        cells = pretraining_cells(given.data, adata, screen, given.pretrain_cells, others)
        changes = ["data.num_genes=null", "batch_size=16", *for_steps(given.pretrain_steps, seed=given.seed)]
        start = time.perf_counter()
        _, fit = pretrain_model(recipe("scgpt_demo").override(changes), cells, folder, is_progress_shown=False)
        spent, num = time.perf_counter() - start, [cell.n_obs for cell in cells]
        print(f"pre-trained in {spent:.0f} s on {num} cells: validation {fit.best_loss}", flush=True)
    return load(folder)


def method_of(screen: Screen, adata: AnnData, name: str, given: argparse.Namespace) -> tuple[CellPerturb, list[str]]:
    """Return the method that is fine-tuned, and what there is to say of it."""
    parts = screen.perturbations.all_parts if screen.perturbations.kind == "genes" else ()
    if given.pretrain_steps:
        model = pretrained(screen, adata, name, given)
    else:
        model = load(given.model) if given.model else small_model([*screen.genes, *parts], given.seed)
    return cell_method(screen, model, STUDIES[name][3].override(given.set))


def forwards(name: str, given: argparse.Namespace) -> list[dict]:
    """Hold perturbations out and predict them."""
    screen, adata = opened(given.data, name, given.seed)
    split = STUDIES[name][1]
    method, notes = method_of(screen, adata, name, given)
    splits = split_perturbations(screen.profiles, split, num_folds=5, seed=given.seed)
    start = time.perf_counter()
    predictions = predict_folds(screen, splits, [method])
    scores = score_predictions(screen, predictions, split=split)
    print(f"== {name}, seed {given.seed}, {time.perf_counter() - start:.0f} s", *notes, sep="\n")
    print(*table_lines(scores), *scores.warnings, sep="\n", flush=True)
    for row in scores.contrasts:
        value = f"{row.value:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        print(f"{row.group}: {row.metric}: {row.model} - {row.baseline} = {value}")
    best = [min((row.get("valid_mse", np.inf) for row in rows), default=np.inf) for rows in method.history.values()]
    stamp = {"study": name, "model": begun_from(given) or NEW, "valid_mse": [round(b, 6) for b in best]}
    stamp |= {"seconds": round(predictions.seconds[method.name]), "changes": given.set}
    return [slim(stamp | row.record()) for row in scores.rows if row.metric in SHOWN]


def begun_from(given: argparse.Namespace) -> str:
    """Return the weights that training begins from, in words; empty = new ones."""
    if given.pretrain_steps:
        return f"scgpt_demo, {given.pretrain_steps} steps"
    return "/".join(given.model.parts[-2:]) if given.model else ""


def in_reverse(given: argparse.Namespace) -> list[dict]:
    """Rank all pairs of Norman's genes by the states that held-out combinations leave."""
    screen, adata = opened(given.data, "norman_double", given.seed)
    method, _ = method_of(screen, adata, "norman_double", given)
    method = replace(method, config=method.config.override(["pool=16", "cells_kept=0"]))
    splits = split_perturbations(screen.profiles, "double", num_folds=5, seed=given.seed)
    ranking = Ranking(
        candidates=candidates_of(screen.perturbations, "pairs"), ways=("distance", "effect"), sizes=(1, 5, 8)
    )
    known = Known(genes=screen.genes, panel_at=screen.panel_at)
    found = reverse_folds(screen, splits, [method], ranking, known=known)
    rows = []
    for name, by_way in found.value.items():
        for way, scores in by_way.items():
            where = {"study": "norman_reverse", "seed": given.seed, "method": name, "way": way}
            values = {metric: round(float(value_q.mean()), 4) for metric, value_q in scores.items()}
            rows.append(where | {"num_candidates": len(ranking.candidates), "num_states": len(found.at_q)} | values)
            print(f"{name:>16} {way:>9}", *(f"{metric} {value:.3f}" for metric, value in values.items()), flush=True)
    return rows


def many_genes(given: argparse.Namespace) -> list[dict]:
    """Predict cells of 20,000 genes with six layers of width 256, in parts of 1,536 genes, one and four at a time."""
    from scipy import sparse

    scgpt = FAMILIES["scgpt"]
    genes = tuple(f"GENE{g:05d}" for g in range(20_000))
    changes = {"value_head": "affine", "num_conditions": 3, "condition_pad": 0, "num_bins": None}
    config = scgpt.config.read(scgpt.sizes["small"].record() | changes, "small")
    model = new_model("scgpt", GeneVocab.from_genes(genes, scgpt.specials), config)
    rows = []
    for num_cells, max_tokens in ((1, 1536), (4, 6144)):
        fitted = FittedCells(
            feed=Feed(model, genes),
            config=CellPerturbConfig(device="cpu", max_tokens=max_tokens),
            seed=0,
            control_cg=sparse.csr_matrix((0, len(genes)), dtype=np.float32),
            context_c=np.zeros(0, np.int64),
        )
        cells_ng = np.random.default_rng(0).random((num_cells, len(genes))).astype(np.float32)
        start = time.perf_counter()
        with torch.inference_mode():
            fitted.predict_cells(cells_ng, (genes[0],))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        row = {"study": "many_genes", "seed": given.seed, "cells": num_cells, "genes": len(genes), "max_genes": 1536}
        row |= {"max_tokens": max_tokens, "seconds": round(time.perf_counter() - start, 1), "peak_gb": round(peak, 2)}
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Run the studies asked for and add their rows to the file."""
    parts = [*STUDIES, "norman_reverse", "many_genes"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, default=Path("studies/results/perturb_cells.jsonl"))
    parser.add_argument("--only", nargs="*", default=parts, choices=parts)
    parser.add_argument("--model", type=Path, help="trained weights to begin from: a model folder")
    parser.add_argument("--pretrain-steps", type=int, default=0, help="pre-train a network here; 0 = none")
    parser.add_argument("--pretrain-cells", type=int, default=2500, help="most cells of each other study")
    parser.add_argument("--runs", type=Path, default=Path("runs/perturb_cells"), help="folder of pre-trained networks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="changes to the way of fine-tuning")
    given = parser.parse_args()
    for name in given.only:
        run = {"norman_reverse": in_reverse, "many_genes": many_genes}.get(name)
        rows = run(given) if run else forwards(name, given)
        key = (name, given.seed, begun_from(given), *given.set)
        rows = [row | {"key": list(key)} for row in rows]
        kept = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
        kept = [row for row in kept if tuple(row["key"]) != key]
        with atomic_path(given.out) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *rows]))


if __name__ == "__main__":
    main()
