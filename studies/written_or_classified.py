"""Is generative prediction of metadata better than classifying it? The same network, cells, steps and first weights.

- written: scMulan's way, words one after another (`next_entity`), read by asking or in one pass at the task word
- classified: a linear head on the state of the task word, cross entropy in each category (`word_label`, kind one)
- 0/1 words: the same head, every word a yes-or-no question of its own (`word_label`, kind any)

All are trained on sentences that annotate or place a cell; none makes cells.

    python studies/written_or_classified.py --data FOLDER -o studies/results --seeds 0 1 2
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import (
    ANNOTATE,
    ASKED,
    PLACE,
    QUIET,
    Record,
    baseline_rows,
    changes,
    markdown,
    open_part,
    parser,
    queries,
    scores_of,
    spread,
    told_words,
)
from joint_cells import CATEGORIES, joint_cells
from torch import nn

from cellwright.data.joined import open_together
from cellwright.data.loader import CellLoader
from cellwright.models import FAMILIES, Model, new_model
from cellwright.objectives import Objective
from cellwright.objectives.entity import NextEntity
from cellwright.objectives.sentences import CSentence
from cellwright.objectives.word_label import WordLabel
from cellwright.recipes import Recipe, recipe
from cellwright.tasks.inference import in_use, run_network
from cellwright.train.plan import TrainPlan
from cellwright.train.run import fit

WAYS = ("written", "classified", "0/1 words")
READ = ("written", "written, read at once", "classified", "0/1 words")
TASKS = (ANNOTATE, PLACE)


def untrained(run: Recipe, train: Any) -> tuple[Model, Any]:
    """Return the network with its first weights, and the training cells on its vocabulary."""
    family = FAMILIES["scmulan"]
    source = open_together(
        [train],
        specials=family.specials,
        accepts=family.accepts,
        num_genes=run.data.num_genes,
        metadata=run.data.metadata,
    )
    architecture = family.config.read(run.model, "model")
    return new_model("scmulan", source.vocab, architecture, seed=run.train.seed, inputs=run.inputs), source


def word_ids(model: Model) -> dict[str, np.ndarray]:
    """Return category -> vocabulary ids of its words."""
    return {name: model.vocab.category_ids(name) for name in CATEGORIES}


def term_of(way: str, model: Model, seed: int) -> Any:
    """Return the loss of one way; heads begin alike."""
    if way == "written":
        return NextEntity()
    ids = word_ids(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(model.network.width, sum(map(len, ids.values())))
    return WordLabel(head, [part.tolist() for part in ids.values()], kind="one" if way == "classified" else "any")


def trained(way: str, run: Recipe, train: Any) -> tuple[Model, Any, float]:
    """Train one way; return the model, its term and the seconds."""
    model, source = untrained(run, train)
    term, seed = term_of(way, model, run.train.seed), run.train.seed
    name = "next_entity" if way == "written" else "word_label"
    objective = Objective(CSentence.read(run.objective.view_options, "sentences"), {name: (1.0, term)})
    plan = TrainPlan(model.network.train(), objective, model.tokenizer(), optim=run.optim, seed=seed)
    loader = CellLoader(source, np.arange(len(source)), run.batch_size, seed=seed, drop_last=True)
    with TemporaryDirectory() as folder:
        result = fit(plan, loader, config=run.train, folder=Path(folder), is_progress_shown=False)
    model.network.eval()
    return model, term, result.seconds


def words_at_once(way: str, model: Model, term: Any, query: Any) -> dict[str, np.ndarray]:
    """Return the likeliest word of each category, from the state of the task word alone."""
    ids, source, found = word_ids(model), open_part(query, model), {}
    head = term.head if way != "written" else model.network.entity_head
    every = np.concatenate(list(ids.values()))
    bounds = np.cumsum([len(part) for part in ids.values()])[:-1]
    for task in TASKS:
        asking = model.copy()
        asking.inputs = type(model.inputs).read(model.inputs.record() | {"task_word": task["word"]}, "inputs")
        logit_nk = np.empty((len(source), len(every)), np.float32)
        with in_use([asking.network, head], torch.device("cpu")):
            for at_n, out in run_network(asking, source, QUIET):
                scores = (
                    head.weight[torch.from_numpy(every)] @ out.cell_nd.T if way == "written" else head(out.cell_nd).T
                )
                logit_nk[at_n] = scores.T.numpy()
        for name, part_nk, part in zip(ids, np.split(logit_nk, bounds, 1), ids.values(), strict=True):
            if name in task["asked"]:
                found[name] = np.array(model.vocab.tokens, dtype=object)[part[part_nk.argmax(1)]].astype(str)
    return found


def settings(asked: argparse.Namespace, seed: int) -> Recipe:
    lines = [*changes(asked, TASKS, seed=seed), 'optim.undecayed=["network.entity_head"]']
    return recipe("scmulan_tiny").override(lines)


def main() -> None:
    options = parser(__doc__.splitlines()[0], steps=300)
    options.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    asked = options.parse_args()
    torch.set_num_threads(1)
    cells = joint_cells(asked.data)
    record = Record("written_or_classified", asked, cells)
    train, held_out = cells.part("train"), queries(cells)
    whole = partial(table, others=baseline_rows(asked, cells))
    for seed in asked.seeds:
        for way in (way for way in WAYS if way in asked.ways):
            model, term, seconds = trained(way, settings(asked, seed), train)
            reads = {way if way != "written" else "written, read at once": words_at_once}
            for read, ask in reads.items():
                answers = {part: ask(way, model, term, query) for part, query in held_out.items()}
                scores = {part: scores_of(answers[part], query, part) for part, query in held_out.items()}
                record.add({"way": read, "seed": seed}, scores=scores, seconds=round(seconds, 1))
            if way == "written":
                told = {part: told_words(model, query) for part, query in held_out.items()}
                scores = {part: scores_of(told[part][0], query, part) for part, query in held_out.items()}
                ended = {part: found[1] for part, found in told.items()}
                record.add({"way": way, "seed": seed}, scores=scores, ended=ended, seconds=round(seconds, 1))
            record.save(whole)


def table(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Return macro-F1 (over the classes present), mean and range over seeds; baselines below."""
    columns = [(part, name) for part, names in ASKED.items() for name in names]
    lines = []
    groups = {way: [row for row in rows if row["way"] == way] for way in READ}
    groups |= {row["method"]: [row] for row in others}
    for way, of in groups.items():
        scores = [[row["scores"][part][name]["macro_f1_present"]["value"] for row in of] for part, name in columns]
        if of:
            lines.append([way, str(len(of)), *map(spread, scores)])
    return markdown(["way", "runs", *(f"{part}: {name}" for part, name in columns)], lines)


if __name__ == "__main__":
    main()
