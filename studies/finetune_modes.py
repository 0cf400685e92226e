"""Probe, low-rank, full, from scratch: four ways of fine-tuning a small network, on donors and on a study held out.

The network is pre-trained on studies of blood without labels: sorted PBMC of Zheng et al. 2017, the frozen PBMC of a
donor of theirs, and Hao et al. 2021, on the most variable of the genes that the Kang file has too. It is then
fine-tuned to name cells by `cellwright.compare_modes`, with class weights and without, in two settings:

- ``donors``: control cells of Kang et al. 2018, whole donors held out; pre-training saw nothing of that study.
- ``study``: trained on cells of Zheng and Kang, asked of PBMC 3k, a study that neither training saw. Pre-training saw
  the Zheng cells (no labels), as it would in use.

    python studies/finetune_modes.py --family scgpt --data FOLDER -o studies/results
    python studies/finetune_modes.py --family scfoundation --data FOLDER -o studies/results

Runs are kept in ``--runs`` and are not made again. Nothing is chosen by the held-out cells: the learning rate of each
way is the one of ``--rates`` with the lowest validation loss, by one seed of the first setting without class weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import QUIET, Record, figure, for_steps, markdown

import cellwright
from cellwright.recipes import recipe
from cellwright.verbs import CompareOptions, compare_modes, pretrain

if TYPE_CHECKING:
    from anndata import AnnData

    from cellwright.evaluate import Evaluation
    from cellwright.models import Model
    from cellwright.verbs import ModeComparison

UNLABELLED = ("pbmc_facs_zheng", "pbmc_frozen_donorA", "pbmc_hao2021_1k")
DONORS, SORTED, UNSEEN = "kang2018_ctrl_8donors", "pbmc_facs_zheng", "pbmc3k"
SETTINGS = ("donors", "study")
WEIGHTS = ("none", "balanced")
RECIPES = {"scgpt": "scgpt_demo", "scfoundation": "scfoundation_tiny"}
PRIMARY = "macro_f1_present"


@dataclass(frozen=True)
class Files:
    """What the files hold, for the record."""

    hashes: dict[str, str]

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"hashes": self.hashes}


def read(folder: Path, name: str) -> AnnData:
    """Read a file with approved symbols as names; of genes that share one, the first stays."""
    import anndata

    adata = anndata.read_h5ad(folder / f"{name}.h5ad")
    symbol_g = adata.var["hgnc_symbol"].astype(str).to_numpy()
    adata.var_names = np.where(np.isin(symbol_g, ("", "nan")), adata.var_names.astype(str), symbol_g)
    return adata[:, ~adata.var_names.duplicated()].copy()


def some(adata: AnnData, num: int, seed: int = 0) -> AnnData:
    """Return so many cells drawn at random, in their order."""
    rows = np.random.default_rng(seed).permutation(adata.n_obs)[:num]
    return adata[np.sort(rows)].copy()


def labelled(folder: Path, setting: str, num: int) -> AnnData:
    """Return the labelled cells of a setting: about ``num``, with ``cell_type_coarse`` and the column to split by."""
    import anndata

    if setting == "donors":
        adata = read(folder, DONORS)
        donors = sorted(set(adata.obs["donor"].astype(str)))
        parts = [some(adata[adata.obs["donor"].astype(str) == donor], num // len(donors)) for donor in donors]
        return anndata.concat(parts)[:, adata.var_names].copy()
    shares = {SORTED: 0.4, DONORS: 0.3, UNSEEN: 0.3}
    parts = {name: some(read(folder, name), round(share * num)) for name, share in shares.items()}
    genes = sorted(set.intersection(*(set(part.var_names) for part in parts.values())))
    joined = anndata.concat({name: part[:, genes] for name, part in parts.items()}, label="study", index_unique="-")
    joined.obs = joined.obs[["cell_type_coarse", "study"]].copy()
    return joined


def changes_of(asked: argparse.Namespace) -> list[str]:
    """Return the changes to the pre-training recipe."""
    return [
        f"data.num_genes={asked.genes}",
        f"batch_size={asked.pretrain_batch}",
        *for_steps(asked.pretrain_steps),
    ]


def pretrained(asked: argparse.Namespace) -> Model:
    """Pre-train the network, or take the one that an earlier call left."""
    folder = asked.runs / asked.family / "pretrained"
    if not (folder / "config.json").exists():
        known = set(read(asked.data, DONORS).var_names)
        unlabelled = [read(asked.data, name) for name in UNLABELLED]
        sources = [adata[:, [gene for gene in adata.var_names if gene in known]].copy() for adata in unlabelled]
        pretrain(sources, recipe=recipe(RECIPES[asked.family]), out=folder, changes=changes_of(asked))
    return cellwright.load(folder)


def changes_for(asked: argparse.Namespace, weight: str) -> list[str]:
    """Return the options of fine-tuning that all ways share."""
    return [
        f"class_weight={weight}",
        f"train.max_epochs={asked.epochs}",
        "train.accelerator=cpu",
        "train.checkpoint_every=100000",
        "optim.optimiser=adamw",
        "optim.weight_decay=0.01",
        "optim.schedule=cosine",
        "optim.warmup_steps=10",
    ]


def compared(
    cells: AnnData,
    model: Model,
    setting: str,
    *,
    asked: argparse.Namespace,
    seeds: int,
    changes: Sequence[str],
    out: Path,
) -> ModeComparison:
    """Compare the ways in one setting."""
    held_out = {"donors": {"split_by": "donor"}, "study": {"split_by": "study", "held_out": (UNSEEN,)}}[setting]
    how = CompareOptions(modes=asked.modes, seeds=seeds, **held_out)
    return compare_modes(cells, model, label="cell_type_coarse", out=out, how=how, changes=changes, run=QUIET)


def choose_rates(asked: argparse.Namespace, cells: AnnData, model: Model, setting: str) -> dict[str, dict[str, float]]:
    """Return, for each way, the lowest validation loss of one run by learning rate."""
    losses: dict[str, dict[str, float]] = {}
    for rate in asked.rates:
        changes = [*changes_for(asked, "none"), f"optim.lr={rate}"]
        out = asked.runs / asked.family / f"rate_{rate}"
        for mode, runs in compared(cells, model, setting, asked=asked, seeds=1, changes=changes, out=out).runs.items():
            losses.setdefault(mode, {})[str(rate)] = runs[0].best_loss
    return losses


def add(record: Record, evaluation: Evaluation, setting: str, weight: str) -> None:
    """Add the scores of every method, the differences, and every run."""
    key = {"setting": setting, "class_weight": weight}
    for method in evaluation.methods:
        record.add(
            {"what": "score", **key, "method": method.name},
            kind=method.kind,
            scores={name: score.record() for name, score in method.scores.items()},
            seconds=method.seconds,
            trained_parameters=method.trained_parameters,
        )
    for difference in evaluation.differences:
        row = difference.record()
        record.add({"what": "difference", **key, "method": row.pop("method"), "other": row.pop("other")}, **row)
    runs = next(section for section in evaluation.sections if section.heading == "Runs").tables["Every run"]
    for row in runs.rows:
        found = dict(zip(runs.columns, row, strict=True))
        record.add({"what": "run", **key, "method": found.pop("way"), "seed": found.pop("seed")}, **found)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the tables: scores by setting and class weight, then the worth of pre-training."""
    scores = [row for row in rows if row["what"] == "score"]
    cases = list(dict.fromkeys((row["setting"], row["class_weight"]) for row in scores))
    head = ["method", *(f"{setting}, {weight}" for setting, weight in cases), "trained parameters", "seconds"]
    lines = []
    for name in dict.fromkeys(row["method"] for row in scores):
        mine = {(row["setting"], row["class_weight"]): row for row in scores if row["method"] == name}
        of_cases = [figure(mine[case]["scores"][PRIMARY]) if case in mine else "" for case in cases]
        first = next(iter(mine.values()))
        lines.append([name, *of_cases, f"{first['trained_parameters'] or 0:,}", f"{first['seconds']:.1f}"])
    parts = [f"Macro-F1 over the true classes, mean over seeds:\n\n{markdown(head, lines)}"]
    worth = [row for row in rows if row["what"] == "difference" and row["other"].endswith("from scratch")]
    lines = [
        [row["setting"], row["class_weight"], f"{row['method']} - from scratch", f"{row['value']:+.3f}"]
        + [f"[{row['low']:+.3f}, {row['high']:+.3f}]"]
        for row in worth
    ]
    columns = ["setting", "class weight", "difference", "value", "interval"]
    parts.append(f"What pre-training is worth:\n\n{markdown(columns, lines)}")
    return "\n\n".join(parts)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows and the table")
    options.add_argument("--family", choices=sorted(RECIPES), default="scgpt")
    options.add_argument("--runs", type=Path, default=Path("runs/finetune_modes"), help="folder of the runs")
    options.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS, dest="ways")
    options.add_argument("--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS, help="class weights")
    options.add_argument("--modes", nargs="+", help="ways of fine-tuning (default: the usual four)")
    options.add_argument("--genes", type=int, default=400, help="most variable genes")
    options.add_argument("--pretrain-steps", type=int, default=600)
    options.add_argument("--pretrain-batch", type=int, default=16, help="cells a step of pre-training")
    options.add_argument("--cells", type=int, default=500, help="labelled cells of a setting")
    options.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="learning rates tried")
    options.add_argument("--epochs", type=int, default=8, help="passes of fine-tuning")
    options.add_argument("--seeds", type=int, default=3, help="training seeds of each way")
    asked = options.parse_args()
    torch.set_num_threads(1)
    cells = {setting: labelled(asked.data, setting, asked.cells) for setting in asked.ways}
    names = sorted({*UNLABELLED, DONORS, UNSEEN})
    hashes = {name: hashlib.sha256((asked.data / f"{name}.h5ad").read_bytes()).hexdigest() for name in names}
    given = argparse.Namespace(
        **{k: v for k, v in vars(asked).items() if k not in ("runs", "seeds", "weights", "modes")}
    )
    given.num_seeds = asked.seeds
    record = Record(f"finetune_modes_{asked.family}", given, Files(hashes))
    model = pretrained(asked)
    history = json.loads((asked.runs / asked.family / "pretrained" / "recipe.json").read_text(encoding="utf-8"))
    record.add({"what": "pre-training"}, recipe=history["name"], parameters=model.num_parameters, model=model.sha256())
    first = next(iter(cells))
    losses = choose_rates(asked, cells[first], model, first)
    rates = {mode: min(by_rate, key=by_rate.__getitem__) for mode, by_rate in losses.items()}
    what = "rates" if asked.modes is None else f"rates of {', '.join(asked.modes)}"
    record.add({"what": what}, chosen_in=first, rates=rates, validation_losses=losses)
    for setting, adata in cells.items():
        for weight in asked.weights:
            changes = changes_for(asked, weight) + [f"{mode}:optim.lr={rate}" for mode, rate in rates.items()]
            out = asked.runs / asked.family / f"{setting}_{weight}"
            result = compared(adata, model, setting, asked=asked, seeds=asked.seeds, changes=changes, out=out)
            add(record, result.evaluation, setting, weight)
            record.save(table)


if __name__ == "__main__":
    main()
