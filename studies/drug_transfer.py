"""Single-cell sensitivity from bulk: published answers recomputed, two constructed cases, and one small real one.

    python studies/drug_transfer.py --data FOLDER --cells CELLS.h5ad --out studies/results/drug_transfer.jsonl

Kept apart, by the field ``kind`` of each row:

``published``    SCAD's answers as scFoundation's repository ships them, scored again. The bulk labels are in no public
                 copy of the repository, so that SCAD cannot be trained from here; nothing of ours stands beside them.
``constructed``  Made-up bulk and cells, once with a gene programme that follows the response in bulk only (the
                 adversary should help), once with rare responders among the cells (where hiding the domain could harm).
``real``         GDSC bulk lines to single cells of four lung lines (Tian et al. 2019) that are left out of the bulk. A
                 cell's truth is its line's measured ln IC50: four lines, however many cells.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellwright.baselines.drugs import kernel_ridge
from cellwright.data.drugs import LineFeatures, Responses, read_lines, read_responses, read_table
from cellwright.files import atomic_path
from cellwright.metrics.drugs import auroc, fold_auroc
from cellwright.tasks.transfer import TransferConfig, scaled, shared_features, transfer

CELL_LINES = {"HCC827": "ACH-000012", "H2228": "ACH-000447", "H1975": "ACH-000587", "A549": "ACH-000681"}
DRUGS = ("Gefitinib", "Osimertinib")
SETTINGS = (
    "hidden=64", "width=32", "batch_size=32", "num_folds=3", "dropout=0.2", "optim.lr=0.003", "train.max_epochs=50",
    "train.accelerator=cpu",
)  # fmt: skip
SEEDS = (0, 1)
NUM_RANDOM = 10


def published(data: Path) -> list[dict[str, Any]]:
    """Score SCAD's published answers: mean of five folds, and pooled, which mixes networks of different scales."""
    table = read_table(data / "scad_published.csv.gz")
    rows = []
    for (drug, model), part in table.groupby(["drug", "model"], sort=False):
        truth_n, score_n = part["label"].to_numpy(int), part["predicted"].to_numpy(float)
        for metric, value in (
            ("fold_auroc", fold_auroc(truth_n, score_n, part["fold"].to_numpy())),
            ("pooled_auroc", auroc(truth_n, score_n)),
        ):
            rows.append(
                {"kind": "published", "case": drug, "method": model, "metric": metric, "value": value, "n": len(part)}
            )
    return rows


def constructed_case(name: str, seed: int) -> tuple[LineFeatures, np.ndarray, LineFeatures, np.ndarray]:
    """Make 240 bulk samples and 320 cells of 120 genes; 15 genes follow the response in both.

    ``bulk-only programme``: 15 further genes follow it, more strongly, in bulk alone. ``rare responders``: half of the
    bulk samples, a twentieth of the cells respond.
    """
    rng = np.random.default_rng([seed, 7])
    is_rare = name == "rare responders"
    sides = []
    for num, share, is_bulk in ((240, 0.5, True), (320, 0.05 if is_rare else 0.5, False)):
        label_n = (np.arange(num) < round(num * share)).astype(int)[rng.permutation(num)]
        value_nf = rng.normal(size=(num, 120))
        value_nf[:, :15] += 0.8 * (label_n - 0.5)[:, None]
        if is_bulk and not is_rare:
            value_nf[:, 15:30] += 2.0 * (label_n - 0.5)[:, None]
        names = tuple(f"{'bulk' if is_bulk else 'cell'}_{i}" for i in range(num))
        sides.append((LineFeatures(names, value_nf.astype(np.float32), tuple(f"g{i}" for i in range(120))), label_n))
    (bulk, label_l), (cells, truth_n) = sides
    return bulk, label_l, cells, truth_n


def answers(bulk: LineFeatures, label_l: np.ndarray, cells: LineFeatures, seed: int) -> dict[str, np.ndarray]:
    """Score cells by logistic regression, and by the network without and with the adversary."""
    from sklearn.linear_model import LogisticRegression

    source_nf, target_nf = scaled(*shared_features(bulk, cells), "each")
    model = LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced").fit(source_nf, label_l)
    found = {"logistic regression": model.decision_function(target_nf)}
    for name, weight in (("network, no adversary", 0.0), ("network, adversary 1", 1.0)):
        config = TransferConfig().override([*SETTINGS, f"adversary={weight}", f"train.seed={seed}"])
        folder = Path(tempfile.mkdtemp())
        try:
            found[name] = transfer(bulk, label_l, cells, config=config, folder=folder).score_n
        finally:
            shutil.rmtree(folder)
    return found


def constructed() -> list[dict[str, Any]]:
    """Score both constructed cases."""
    rows = []
    for case in ("bulk-only programme", "rare responders"):
        for seed in SEEDS:
            bulk, label_l, cells, truth_n = constructed_case(case, seed)
            for method, score_n in answers(bulk, label_l, cells, seed).items():
                rows.append(
                    {"kind": "constructed", "case": case, "method": method, "metric": "auroc",
                     "value": auroc(truth_n, score_n), "n": len(truth_n), "seed": seed}
                )  # fmt: skip
    return rows


def read_cells(path: Path) -> tuple[LineFeatures, np.ndarray]:
    """Read cells of the four lines as log1p counts per 10,000, genes by current symbol, and the line of each."""
    import anndata

    adata = anndata.read_h5ad(path)
    adata = adata[adata.obs["cell_type"].isin(CELL_LINES)]
    counts = adata.X.toarray().astype(np.float64)
    logcp10k = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)
    symbols = adata.var["hgnc_symbol"].astype(str).to_numpy()
    symbols = np.where(symbols == "", adata.var_names.astype(str), symbols)
    names, first = np.unique(symbols, return_index=True)
    cells = LineFeatures(tuple(map(str, adata.obs_names)), logcp10k[:, first], tuple(names.tolist()))
    return cells, adata.obs["cell_type"].astype(str).to_numpy()


def real(data: Path, cells_path: Path) -> list[dict[str, Any]]:
    """Carry GDSC responses to cells of four lines that are left out of the bulk."""
    pairs = read_responses(data / "gdsc_tgsa_ic50.csv.gz", line="depmap_id")
    bulk = read_lines(data / "gdsc_tgsa_cell_lines.h5ad")
    pairs = pairs.renamed(bulk.lines, pairs.drugs)
    cells, line_n = read_cells(cells_path)
    return [*order_of_lines(pairs, bulk, cells, line_n), *one_drug(pairs, bulk, cells, line_n)]


def order_of_lines(
    pairs: Responses, bulk: LineFeatures, cells: LineFeatures, line_n: np.ndarray
) -> list[dict[str, Any]]:
    """For every drug that all four lines were tested with: how well do the cells' mean answers order the lines?"""
    source_lf, target_nf = scaled(*shared_features(bulk, cells), "each")
    held = np.array([bulk.lines.index(name) for name in CELL_LINES.values()])
    mean_4f = np.stack([target_nf[line_n == name].mean(0) for name in CELL_LINES])
    rows_lf = source_lf.copy()
    rows_lf[held] = mean_4f  # in the place of their bulk samples, which no one sees
    is_held_p = np.isin(pairs.line_p, held)
    train, asked = pairs.take(np.flatnonzero(~is_held_p)), pairs.take(np.flatnonzero(is_held_p))
    full = [drug for drug in range(len(pairs.drugs)) if (asked.drug_p == drug).sum() == len(held)]

    def share_in_order(feature_lf: np.ndarray) -> float:
        pred_p = kernel_ridge(train, asked, feature_lf)
        above = np.triu_indices(len(held), 1)
        shares = []
        for drug in full:
            truth, pred = (value[asked.drug_p == drug] for value in (asked.value_p, pred_p))
            gaps = [value[above[0]] - value[above[1]] for value in (truth, pred)]
            shares.append((np.sign(gaps[0]) == np.sign(gaps[1])).mean())
        return float(np.mean(shares))

    common = {"kind": "real", "case": "order of 4 lines", "metric": "pairs_of_lines_in_order", "n": len(full)}
    rows = [
        common | {"method": method, "value": share_in_order(feature_lf), "num_lines": len(held)}
        for method, feature_lf in (("ridge, bulk to cells", rows_lf), ("ridge, bulk to the lines' bulk", source_lf))
    ]
    # drugs share their lines, so chance is what features without information come to, not one half
    random = np.random.default_rng(0)
    draws = [share_in_order(random.normal(size=rows_lf.shape)) for _ in range(NUM_RANDOM)]
    chance = {"value": float(np.mean(draws)), "least": min(draws), "most": max(draws), "draws": NUM_RANDOM}
    return [*rows, common | {"method": "ridge, random features", "num_lines": len(held)} | chance]


def one_drug(pairs: Responses, bulk: LineFeatures, cells: LineFeatures, line_n: np.ndarray) -> list[dict[str, Any]]:
    """Carry a binary response (lowest quarter of ln IC50 = sensitive) to the cells by adversarial transfer."""
    rows = []
    held = {name: bulk.lines.index(depmap) for name, depmap in CELL_LINES.items()}
    for drug in DRUGS:
        is_drug_p = pairs.drug_p == pairs.drugs.index(drug)
        value = dict(zip(pairs.line_p[is_drug_p].tolist(), pairs.value_p[is_drug_p].tolist(), strict=True))
        kept = [line for line in value if line not in held.values()]
        border = np.quantile([value[line] for line in kept], 0.25)
        source = LineFeatures(tuple(bulk.lines[k] for k in kept), bulk.value_lf[kept], bulk.names)
        label_l = np.array([int(value[line] < border) for line in kept])
        truth_n = np.array([int(value[held[name]] < border) for name in line_n])
        sensitive = sorted({name for name, truth in zip(line_n, truth_n, strict=True) if truth})
        for method, score_n in answers(source, label_l, cells, 0).items():
            rows.append(
                {"kind": "real", "case": drug, "method": method, "metric": "auroc", "value": auroc(truth_n, score_n),
                 "n": len(truth_n), "num_lines": len(held), "sensitive_lines": sensitive, "seed": 0}
            )  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> None:
    """Run all parts and write their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    parts = {
        "published": lambda: published(chosen.data),
        "constructed": constructed,
        "real": lambda: real(chosen.data, chosen.cells),
    }
    for name, make in parts.items():
        start = time.perf_counter()
        rows += make()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        with atomic_path(chosen.out) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
