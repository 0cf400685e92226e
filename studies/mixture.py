"""Why the mixed recipe of scMulan does not learn annotation, and what mends it.

The published criterion is a mean over asked words. A sentence that makes a cell asks at hundreds of words, one that
annotates at three, and errors of levels are squared levels times 200; so annotation has about 1 % of the weight. Every
way is trained on the same cells in the same order with the same first weights; only what weighs the same differs.

    python studies/mixture.py --data FOLDER -o studies/results
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import (
    ANNOTATE,
    GENERATE,
    PLACE,
    QUIET,
    TASKS,
    Record,
    as_codes,
    changes,
    markdown,
    open_part,
    parser,
    pretrained,
    scored,
    some_rows,
    spread,
)
from joint_cells import joint_cells

from cellwright.objectives import Objective
from cellwright.objectives.entity import NextEntity, NextLevel
from cellwright.objectives.sentences import CSentence, SentenceTask
from cellwright.tasks.tell import TellConfig, tell_cells
from cellwright.types import Draw

WAYS: dict[str, dict[str, Any]] = {
    "annotate and place only": {"tasks": (ANNOTATE, PLACE)},
    "generate only": {"tasks": (GENERATE,)},
    "published (per word, levels x 200)": {"per": "word"},
    "per word, levels x 1": {"per": "word", "level": 1.0},
    "per sentence, levels x 200": {"per": "sentence"},
    "per sentence, levels x 10": {"per": "sentence", "level": 10.0},
    "per sentence, levels x 1": {"per": "sentence", "level": 1.0},
}
NUM_QUERY = 400


def overrides(asked: argparse.Namespace, way: dict[str, Any], seed: int) -> list[str]:
    per = way.get("per", "sentence")
    return [
        *changes(asked, way.get("tasks", TASKS), seed=seed),
        f"objective.terms.next_level={way.get('level', 200.0)}",
        f'objective.term_options={{"next_entity": {{"per": "{per}"}}, "next_level": {{"per": "{per}"}}}}',
    ]


def told_scores(model: Any, query: Any) -> dict[str, Any]:
    """Return what the model tells of cells, scored."""
    found = {}
    for task in (ANNOTATE, PLACE):
        config = TellConfig(word=task["word"], asked=tuple(task["asked"]))
        told = tell_cells(model, open_part(query, model), config, options=QUIET)
        for name in task["asked"]:
            known = model.vocab.categories[name]
            found[name] = scored(as_codes(query.obs[name], known), as_codes(told.words[name], known))
    return found


@torch.no_grad()
def generation_losses(model: Any, query: Any) -> dict[str, float]:
    """Return entity loss a word and squared error of levels, on making held-out cells (published criterion)."""
    view = CSentence(tasks=(SentenceTask.read(GENERATE, "task"),))
    objective = Objective(view, {"next_entity": (1.0, NextEntity()), "next_level": (1.0, NextLevel())})
    source, parts = open_part(query, model), []
    for step, rows in enumerate(np.array_split(np.arange(len(source)), max(len(source) // 16, 1))):
        report = objective.step(model.network, source.read(rows), tokenize=model.tokenizer(), draw=Draw(0, 0, step))
        parts.append([float(report.parts[name]) for name in ("next_entity", "next_level")])
    return dict(zip(("entity", "level"), np.mean(parts, axis=0).tolist(), strict=True))


def main() -> None:
    options = parser(__doc__.splitlines()[0], steps=300)
    options.add_argument("--ways", nargs="+", choices=list(WAYS), help="all without it")
    asked = options.parse_args()
    torch.set_num_threads(1)
    cells = joint_cells(asked.data)
    record = Record("mixture", asked, cells)
    train, query = cells.part("train"), some_rows(cells.part("donors"), NUM_QUERY, seed=0)
    few = some_rows(query, 64, seed=0)
    for name, way in WAYS.items():
        if asked.ways and name not in asked.ways:
            continue
        for seed in asked.seeds:
            model, fit = pretrained(train, overrides(asked, way, seed))
            told = {} if name == "generate only" else told_scores(model, query)
            making = {} if name.endswith("place only") else generation_losses(model, few)
            record.add(
                {"way": name, "seed": seed},
                told=told,
                making=making,
                seconds=round(fit.seconds, 1),
                num_query=query.n_obs,
            )
            record.save(table)


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for name in [name for name in WAYS if any(row["way"] == name for row in rows)]:
        of = [row for row in rows if row["way"] == name]
        told = [
            spread([row["told"][column]["macro_f1_present"]["value"] for row in of]) if of[0]["told"] else "-"
            for column in ("coarse_type", "cell_type", "status")
        ]
        making = [
            f"{np.mean([row['making'][part] for row in of]):.{digits}f}" if of[0]["making"] else "-"
            for part, digits in (("entity", 1), ("level", 2))
        ]
        lines.append([name, *told, *making])
    head = ["what weighs the same", "coarse type", "fine type", "status", "making: entity loss", "level error"]
    return markdown(head, lines)


if __name__ == "__main__":
    main()
