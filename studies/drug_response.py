"""Drug response on GDSC: what three ways of holding out say, and what they cannot say.

    python studies/drug_response.py --data FOLDER --work WORK --out studies/results/drug_response.jsonl

FOLDER holds the extracts named in ``FILES`` (GDSC ln IC50 as distributed by TGSA and DeepCDR, CCLE features, published
predictions of scFoundation's repository). They belong to GDSC and CCLE and are not shipped. ``--part`` runs one part;
answers are kept in WORK, so that parts may run side by side and scoring them again trains nothing.

Parts: ``published`` (DeepCDR's pair split, published answers beside ours), ``line`` (lines held out, 5 folds), ``drug``
(drugs held out, 5 folds). Single cells are in ``drug_transfer.py``. One seed, one thread; lengths of training are set
by what a shared machine gave, not tuned.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cellwright.baselines.drugs import RESPONSE_BASELINES
from cellwright.data.drug_splits import published_split, split_pairs
from cellwright.data.drugs import (
    LineFeatures,
    Responses,
    identity_features,
    random_features,
    read_lines,
    read_responses,
    read_smiles,
    read_table,
)
from cellwright.data.molecules import MoleculeGraphs, graphs_from_smiles
from cellwright.data.splits import Split
from cellwright.evaluate.drugs import ResponseRow, response_figure, score_responses, table_of_rows
from cellwright.files import atomic_path
from cellwright.tasks.drug import DrugConfig, train_drug_model

FILES = {
    "ic50": "gdsc_tgsa_ic50.csv.gz",
    "lines": "gdsc_tgsa_cell_lines.h5ad",
    "drugs": "gdsc_tgsa_drugs.csv",
    "deepcdr": "deepcdr_ic50.csv.gz",
    "methylation": "deepcdr_methylation.h5ad",
}
NUM_FOLDS, SEED = 5, 0
BY_NAME = ("net.drug=identity", "group=1", "batch_size=1024", "train.max_epochs=5")
BY_NAME_PAIRS = ("net.drug=identity", "group=1", "batch_size=1024", "train.max_epochs=12")
BY_GRAPH = ("net.drug=graph", "group=4", "batch_size=512", "train.max_epochs=3")


@dataclass(frozen=True)
class Arm:
    """One way of answering: name, what it reads, and how it is fitted."""

    name: str
    features: LineFeatures | None
    settings: tuple[str, ...] = ()
    baseline: str | None = None
    drug_features_uf: np.ndarray | None = None


def fit_arm(arm: Arm, pairs: Responses, graphs: MoleculeGraphs | None, split: Split) -> np.ndarray:
    """Return the answers of an arm for the test pairs of a split."""
    train, test = pairs.take(np.concatenate([split.train, split.valid])), pairs.take(split.test)
    if arm.baseline is not None:
        rows = None if arm.features is None else arm.features.value_lf
        rows = rows if arm.drug_features_uf is None else arm.drug_features_uf
        return RESPONSE_BASELINES[arm.baseline].fit_predict(train, test, rows, seed=SEED)
    config = DrugConfig().override(arm.settings)
    folder = tempfile.mkdtemp()
    try:
        predictor, _ = train_drug_model(pairs, arm.features, graphs, split, config=config, folder=folder)
        return predictor.predict(test, arm.features, graphs, device="cpu")
    finally:
        shutil.rmtree(folder)


def answered(work: Path, part: str, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return answers from ``work``, made first where they are not there; beside them the seconds it took."""
    place = work / part / f"{name}.npz"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        pred_p = make()
        np.savez(place, pred_p=pred_p, seconds=time.perf_counter() - start)
        print(f"{part} {name}: {time.perf_counter() - start:.0f} s", flush=True)
    with np.load(place) as stored:
        return stored["pred_p"]


@dataclass(frozen=True)
class Held:
    """Answers of all arms for held-out pairs."""

    part: str
    pairs: Responses
    fold_p: np.ndarray
    answers: dict[str, np.ndarray]


def tgsa(data: Path) -> tuple[Responses, LineFeatures, MoleculeGraphs]:
    """Read 82,833 ln IC50 of 580 lines and 170 drugs, 706 genes, and the structures."""
    pairs = read_responses(data / FILES["ic50"], line="depmap_id")
    lines = read_lines(data / FILES["lines"])
    pairs = pairs.renamed(lines.lines, pairs.drugs)
    return (
        pairs,
        lines,
        graphs_from_smiles(read_smiles(data / FILES["drugs"], smiles="isomeric_smiles")).ordered(pairs.drugs),
    )


def in_folds(part: str, by: str, arms: list[Arm], data: tuple, fold_k: np.ndarray, work: Path) -> Held:
    """Answer every pair from the fold in which its line (or drug) is held out."""
    pairs, _, graphs = data
    unit_p = pairs.line_p if by == "line" else pairs.drug_p
    answers = {}
    for arm in arms:
        pred_p = np.full(len(pairs), np.nan)
        for fold in range(NUM_FOLDS):
            split = split_pairs(pairs, by=by, fold=fold, fold_k=fold_k, valid=0.1, seed=SEED)
            pred_p[split.test] = answered(
                work, part, f"{arm.name}.{fold}", lambda arm=arm, split=split: fit_arm(arm, pairs, graphs, split)
            )
        answers[arm.name] = pred_p
    return Held(part, pairs, fold_k[unit_p], answers)


def lines_held_out(data: Path, work: Path, names: set[str] | None = None) -> Held:
    """Hold cell lines out: the question that a representation of cells is for."""
    read = tgsa(data)
    pairs, lines, _ = read
    # the folds of the reference figures, which were drawn with numpy's older generator
    fold_l = np.random.RandomState(SEED).permutation(len(pairs.lines)) % NUM_FOLDS
    noise = random_features(lines.lines, len(lines.names), seed=SEED)
    mutation = read_lines(data / FILES["lines"], layer="mutation")
    arms = [
        Arm("drug mean", None, baseline="drug_mean"),
        Arm("kernel ridge, random features", noise, baseline="kernel_ridge"),
        Arm("kernel ridge, mutation", mutation, baseline="kernel_ridge"),
        Arm("kernel ridge, expression", lines, baseline="kernel_ridge"),
        Arm("network, drug by name, random features", noise, BY_NAME),
        Arm("network, drug by name, expression", lines, BY_NAME),
        Arm("network, drug graph, expression", lines, BY_GRAPH),
    ]
    arms = [arm for arm in arms if names is None or arm.name in names]
    return in_folds("line", "line", arms, read, fold_l, work)


def drugs_held_out(data: Path, work: Path) -> Held:
    """Hold drugs out: what a structure tells of a compound that was never measured."""
    read = tgsa(data)
    pairs, lines, graphs = read
    fold_u = np.random.RandomState(SEED).permutation(len(pairs.drugs)) % NUM_FOLDS
    size_u = np.diff(graphs.atom_offset)
    mean_uf = np.add.reduceat(graphs.atom_af, graphs.atom_offset[:-1]) / size_u[:, None]
    arms = [
        Arm("line mean", None, baseline="line_mean"),
        Arm("line + ridge on mean atom", None, baseline="composition_ridge", drug_features_uf=mean_uf),
        Arm("network, drug graph, expression", lines, BY_GRAPH),
    ]
    return in_folds("drug", "drug", arms, read, fold_u, work)


def published_pairs(data: Path, work: Path) -> Held:
    """Rebuild DeepCDR's split and answer its test pairs, published answers beside ours and beside name tags."""
    table = read_table(data / FILES["deepcdr"])
    pairs = read_responses(table, line="depmap_id", drug="pubchem_id", repeats="keep")
    methylation = read_lines(data / FILES["methylation"])
    pairs = pairs.renamed(methylation.lines, pairs.drugs)
    kept, split = published_split(pairs, table["cancer_type"])
    test_order = table["test_order"].to_numpy(float)
    test = kept[split.test]
    assert test_order[test].tolist() == list(range(len(test))), "the rebuilt test part is not the published one"
    assert (table["split"].to_numpy()[kept[split.train]] == "train").all()
    pairs = pairs.take(kept)
    # 5 % of the training pairs choose the epoch; the test part chooses nothing
    order = np.random.default_rng(SEED).permutation(split.train)
    cut = len(order) // 20
    chosen = Split(
        train=np.sort(order[cut:]), valid=np.sort(order[:cut]), test=split.test, by="pair", seed=SEED, groups={},
        sha256=split.sha256,
    )  # fmt: skip
    names = methylation.lines
    arms = [
        Arm("drug mean", None, baseline="drug_mean"),
        Arm("drug + line effects", None, baseline="effects"),
        Arm("effects + 10 line factors (names only)", None, baseline="line_factors"),
        Arm("kernel ridge, methylation", methylation, baseline="kernel_ridge"),
        Arm("network, one-hot line (name only)", identity_features(names), BY_NAME_PAIRS),
        Arm("network, random line (name only)", random_features(names, 768, seed=SEED), BY_NAME_PAIRS),
        Arm("network, methylation", methylation, BY_NAME_PAIRS),
    ]
    answers = {
        "published baseline (697 genes)": table["pred_baseline"].to_numpy(float)[test],
        "published scFoundation": table["pred_scfoundation"].to_numpy(float)[test],
    }
    for arm in arms:
        answers[arm.name] = answered(work, "published", arm.name, lambda arm=arm: fit_arm(arm, pairs, None, chosen))
    return Held("published", pairs.take(split.test), np.zeros(len(test), np.int64), answers)


def main(argv: list[str] | None = None) -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/drug_study"))
    parser.add_argument("--out", type=Path, help="JSON lines to write")
    parser.add_argument("--figures", type=Path, help="folder for figures")
    parser.add_argument("--part", action="append", choices=["published", "line", "drug"])
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    makers = {"published": published_pairs, "line": lines_held_out, "drug": drugs_held_out}
    records, figures = [], {}
    for part in chosen.part or makers:
        held = makers[part](chosen.data, chosen.work)
        seconds = {name: spent(chosen.work, part, name) for name in held.answers}
        rows = score(held)
        print(table_of_rows([row for row in rows if row.split == part]), flush=True)
        records += [row.record() | {"seed": SEED, "seconds": seconds[row.method]} for row in rows]
        networks = [name for name in held.answers if name.startswith("network")]
        figures[part] = response_figure([row for row in rows if row.split == part], models=networks)
    if chosen.out is not None:
        with atomic_path(chosen.out) as draft:
            draft.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    if chosen.figures is not None:
        for part, svg in figures.items():
            with atomic_path(chosen.figures / f"drug_response_{part}.svg") as draft:
                draft.write_bytes(svg)


def score(held: Held) -> list[ResponseRow]:
    """Score a part; correlations within a drug are taken within a fold, and once more pooled where there are folds."""
    rivals = {"published": ("drug + line effects",), "line": ("kernel ridge, expression",), "drug": ("line mean",)}
    resample = "drug" if held.part == "drug" else "line"
    options = {"resample": resample, "rivals": rivals[held.part], "seed": SEED}
    if held.part != "line":
        return score_responses(held.answers, held.pairs, split=held.part, **options)
    rows = score_responses(held.answers, held.pairs, split=held.part, fold_p=held.fold_p, **options)
    pooled = score_responses(held.answers, held.pairs, split="line, pooled over folds", resample=resample, seed=SEED)
    return rows + [row for row in pooled if row.metric == "within_drug_pearson"]


def spent(work: Path, part: str, name: str) -> float | None:
    """Return the seconds that an arm took, all folds together; None for answers that were published."""
    found = [place for place in (work / part).glob("*.npz") if place.stem == name or place.stem[:-2] == name]
    return round(sum(float(np.load(place)["seconds"]) for place in found), 1) if found else None


if __name__ == "__main__":
    main()
