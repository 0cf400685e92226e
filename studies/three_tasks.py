"""A small scMulan trained on all three tasks, beside baselines: annotation, metadata, and making cells.

Blood donors, a whole study of blood, and random cells of other tissues are held out (`joint_cells`). Cells are made of
kinds of which the held-out donors have enough, and compared with those donors' cells.

    python studies/three_tasks.py --data FOLDER -o studies/results
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from common import (
    ASKED,
    QUIET,
    TASKS,
    Record,
    baseline_rows,
    changes,
    figure,
    markdown,
    open_part,
    parser,
    pretrained,
    queries,
    scores_of,
    told_words,
)
from joint_cells import JointCells, joint_cells

from cellwright.evaluate.generation import (
    ALL_TYPES,
    baseline_levels,
    made_levels,
    read_levels,
    score_generated,
)
from cellwright.metrics import GENERATION_METRICS
from cellwright.tasks.generate import CellPrompt, GenerateConfig, generate_cells

PARTS = ("tell", "make")
SCORED = ("e_distance", "mmd", "c2st_auroc", "marker_recall", "detected_ratio", "nearest_ratio")


def kinds_of(obs: Any) -> np.ndarray:
    """Return each cell's kind: type and status."""
    return (obs["cell_type"].astype(str) + ", " + obs["status"].astype(str)).to_numpy(dtype=str)


def tell(model: Any, cells: JointCells, record: Record) -> None:
    """Score what the model tells of held-out cells."""
    scores, ended = {}, {}
    for part, query in queries(cells).items():
        words, ended[part] = told_words(model, query)
        scores[part] = scores_of(words, query, part)
    record.add({"what": "told", "method": "scMulan"}, scores=scores, ended=ended)


def make(model: Any, cells: JointCells, record: Record, *, num_made: int, num_real: int, gamma: float) -> None:
    """Make cells of each kind and score them beside the baselines' cells."""
    train, real = cells.part("train"), cells.part("donors")
    train = train[train.obs["organ"] == "blood"].copy()
    classes, count_k = np.unique(kinds_of(real.obs), return_counts=True)
    classes = [
        name for name, num in zip(classes, count_k, strict=True) if num >= 40 and (kinds_of(train.obs) == name).any()
    ]
    rows = np.concatenate([np.flatnonzero(kinds_of(real.obs) == name)[:num_real] for name in classes])
    real = real[rows].copy()
    code_n, code_m = ([classes.index(k) if k in classes else -1 for k in kinds_of(part.obs)] for part in (train, real))
    code_n, code_m = np.array(code_n, np.int64), np.array(code_m, np.int64)
    prompts = []
    for name in classes:
        cell_type, status = name.split(", ")
        prompts.append(
            CellPrompt(words={"organ": "blood", "cell_type": cell_type, "status": status}, num_cells=num_made)
        )
    made = generate_cells(model, prompts, GenerateConfig(gamma=gamma), options=QUIET)
    sources = {name: open_part(part, model) for name, part in (("train", train), ("real", real))}
    train_cells, real_cells = (source.read(np.arange(len(source))) for source in sources.values())
    wanted_m = np.repeat(np.arange(len(classes)), num_made)
    methods = {"scMulan": made_levels(made, range(len(classes)))}
    methods |= baseline_levels(model, train_cells, code_n, wanted_m=wanted_m, seed=0)
    found = score_generated(
        methods,
        read_levels(model, train_cells, code_n),
        read_levels(model, real_cells, code_m),
        classes=classes,
        seed=0,
        num_resamples=200,
    )
    ended = {name: float(made.is_ended_n[made.prompt_n == i].mean()) for i, name in enumerate(classes)}
    sizes = {name: [num_made, int((code_m == i).sum())] for i, name in enumerate(classes)}
    record.add({"what": "made, ended"}, gamma=gamma, ended=ended, share=float(made.is_ended_n.mean()), sizes=sizes)
    for row in found:
        line = row.record()
        key = {"what": "made", "method": line.pop("method"), "cell_type": line.pop("cell_type")}
        record.add(key | {"metric": line.pop("metric")}, **line)


def main() -> None:
    options = parser(__doc__.splitlines()[0], steps=400)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, dest="ways")
    options.add_argument("--made", type=int, default=40, help="cells to make of each kind")
    options.add_argument("--real", type=int, default=100, help="most held-out cells of each kind")
    options.add_argument("--gamma", type=float, default=1.0, help="factor on the probability of the end")
    asked = options.parse_args()
    torch.set_num_threads(1)
    cells = joint_cells(asked.data)
    record = Record("three_tasks", asked, cells)
    model, fit = pretrained(cells.part("train"), changes(asked, TASKS, seed=asked.seeds[0]))
    record.add({"what": "training"}, seconds=round(fit.seconds, 1), seed=asked.seeds[0], last=fit.history[-1])
    if "tell" in asked.ways:
        tell(model, cells, record)
        record.save(partial(table, others=baseline_rows(asked, cells)))
    if "make" in asked.ways:
        make(model, cells, record, num_made=asked.made, num_real=asked.real, gamma=asked.gamma)
    record.save(partial(table, others=baseline_rows(asked, cells)))


def table(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Return the tables: words told (two scores), cells made (mean over kinds)."""
    columns = [(part, name) for part, names in ASKED.items() for name in names]
    head = ["method", *(f"{part}: {name}" for part, name in columns)]
    parts = []
    for metric in ("macro_f1_present", "accuracy"):
        lines = [
            [row["method"], *(figure(row["scores"][part][name][metric]) for part, name in columns)]
            for row in [*(row for row in rows if row["what"] == "told"), *others]
        ]
        parts.append(f"Words told, {metric}:\n\n{markdown(head, lines)}")
    made = [row for row in rows if row["what"] == "made" and row["cell_type"] == ALL_TYPES]
    lines = [
        [name, *(figure(next(row for row in made if (row["method"], row["metric"]) == (name, m))) for m in SCORED)]
        for name in dict.fromkeys(row["method"] for row in made)
    ]
    best = ["(best)", *(f"{GENERATION_METRICS[metric].best:g}" for metric in SCORED)]
    if lines:
        parts.append(f"Cells made, mean over kinds:\n\n{markdown(['method', *SCORED], [*lines, best])}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
