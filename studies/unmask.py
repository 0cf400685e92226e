"""Does it help to fill in unknown genes in K steps, and by whose order? Blood of held-out donors, a small scGPT.

    python studies/unmask.py --data FOLDER -o studies/results --report runs/unmask

FOLDER holds ``kang2018_ctrl_8donors.h5ad`` (unstimulated PBMC; 6 donors to learn from, 2 held out). Two networks of two
layers of width 64: one trained on the panel with its silent genes, one on expressed genes alone, as published. Each is
pre-trained with the head that expects errors, and scored from known genes (a quarter, half, three quarters) and, the
first, from the embedding of the whole cell and from the mean embedding of its type. Held-out cells choose nothing.

``unmask.jsonl``: conditions first, then a row for each network, start, method, number of steps and score, and the
differences to one pass. Rows of earlier calls under the same conditions stay, so that it can be made in parts
(``--networks panel --starts type``). ``--report``: folder for models and reports with figures; a model that is there
is taken.
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
from anndata import AnnData, read_h5ad
from common import for_steps

import cellwright
from cellwright.config import versions
from cellwright.evaluate.comparison import table_text
from cellwright.evaluate.evaluation import Evaluation
from cellwright.files import atomic_path, sha256_file
from cellwright.verbs import FillScoring, InferenceOptions, ScoreConfig

DATA, HELD_OUT = "kang2018_ctrl_8donors", ("1256", "1488")
NETWORKS = {"panel": "panel", "expressed": "expressed"}
STARTS = {
    "genes 0.25": {"start": "genes", "known_fraction": 0.25},
    "genes 0.5": {"start": "genes", "known_fraction": 0.5},
    "genes 0.75": {"start": "genes", "known_fraction": 0.75},
    "embedding": {"start": "embedding"},
    "type": {"start": "type"},
}
FROM_GENES = tuple(name for name, options in STARTS.items() if options["start"] == "genes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .h5ad file")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows")
    parser.add_argument("--report", type=Path, help="folder for models and reports; models there are not trained again")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--steps", type=int, default=2200, help="training steps of each network")
    parser.add_argument("--genes", type=int, default=120, help="most variable genes of the panel")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--batch-size", type=int, default=16, help="cells a training step")
    parser.add_argument("--num-cells", type=int, default=300, help="held-out cells that are scored")
    parser.add_argument("--seed", type=int, default=0, help="of training, of known genes, of resampling")
    asked = parser.parse_args()
    cells = read_h5ad(asked.data / f"{DATA}.h5ad")
    is_held_out = cells.obs["donor"].isin(HELD_OUT).to_numpy()
    train, held_out = cells[~is_held_out].copy(), cells[is_held_out].copy()
    conditions = {
        "study": "unmask",
        "options": {k: v for k, v in vars(asked).items() if k not in ("data", "out", "report", "networks", "starts")},
        "data": {DATA: sha256_file(asked.data / f"{DATA}.h5ad")},
        "held_out_donors": HELD_OUT,
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        place = asked.report or Path(folder)
        for network in asked.networks:
            model, seconds = trained(train, network, place / f"model_{network}", asked)
            for start in asked.starts:
                if network == "panel" or start in FROM_GENES:
                    begin = time.perf_counter()
                    evaluation = scored(
                        model, train, held_out, place / f"{network}_{start.replace(' ', '_')}", start, asked
                    )
                    say([f"\n## {network}, {start} ({time.perf_counter() - begin:.0f} s)", table_text(evaluation)])
                    say(list(evaluation.summary))
                    key = {"network": network, "training_seconds": round(seconds, 1), "start": start}
                    write(asked.out / "unmask.jsonl", conditions, [key | row for row in rows_of(evaluation)])


def trained(train: AnnData, network: str, folder: Path, asked: argparse.Namespace) -> tuple[Any, float]:
    """Return the pre-trained model and the seconds it took; one that lies in the folder is opened."""
    if (folder / "config.json").exists():
        return cellwright.load(folder), float("nan")
    changes = [
        f"data.num_genes={asked.genes}",
        f"inputs.genes={NETWORKS[network]}",
        # few known genes belong to training, since cell prompts come with none
        'objective.view_options={"fractions": [0.25, 0.5, 0.75, 0.95]}',
        "objective.terms.expected_error=1",
        "model.dropout=0.0",
        f"batch_size={asked.batch_size}",
        f"optim.lr={asked.lr}",
        "optim.warmup_steps=50",
        *for_steps(asked.steps, seed=asked.seed),
        "data.valid_fraction=0.02",
    ]
    begin = time.perf_counter()
    made = cellwright.pretrain(train, out=folder, changes=changes)
    seconds = time.perf_counter() - begin
    say([f"{network}: {made.fit.num_steps} steps in {seconds:.0f} s, validation {made.fit.history[-1]}"])
    return made.model, seconds


def scored(
    model: Any, train: AnnData, held_out: AnnData, folder: Path, start: str, asked: argparse.Namespace
) -> Evaluation:
    """Score one start of one network."""
    config = ScoreConfig(
        group="donor",
        num_real=asked.num_cells,
        seed=asked.seed,
        filling=FillScoring(**STARTS[start]),
    )
    run = InferenceOptions(progress=False, device="cpu")
    return cellwright.score(
        held_out, model, task="unmask", label="cell_type", train=train, out=folder, config=config, run=run
    ).evaluation


def rows_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return scores of every method and number of steps, and differences."""
    rows = []
    for method in evaluation.methods:
        for part, scores in ((None, method.scores), *method.parts.items()):
            for metric, score in scores.items():
                value = {"value": score.value, "low": score.low, "high": score.high}
                rows.append({"method": method.name, "kind": method.kind, "steps": part, "metric": metric} | value)
    rows += [{"difference": True} | difference.record() for difference in evaluation.differences]
    section = next(section for section in evaluation.sections if section.heading.startswith("Does"))
    return [*rows, {"certainty": section.facts}]


def write(path: Path, conditions: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write conditions and rows as lines of JSON; numbers that are none become null, earlier rows stay."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not np.isfinite(value) else value

    earlier = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    is_same = bool(earlier) and earlier[0] == json.loads(json.dumps(conditions))
    made = {(row["network"], row["start"]) for row in rows}
    kept = [row for row in earlier[1:] if (row["network"], row["start"]) not in made] if is_same else []
    rows = [*kept, *({k: plain(v) for k, v in row.items()} for row in rows)]
    lines = [json.dumps(conditions), *map(json.dumps, rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


def say(lines: list[str]) -> None:
    """Print lines."""
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
