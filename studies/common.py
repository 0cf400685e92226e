"""What the studies share: their sentences, opening cells on a model, scores with intervals, and the record of a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from joint_cells import CATEGORIES, JointCells

from cellwright.config import versions
from cellwright.data.cells import open_cells
from cellwright.files import atomic_path
from cellwright.metrics import METRICS, bootstrap_interval
from cellwright.recipes import pretrain_model, recipe
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.tell import TellConfig, tell_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from cellwright.models import Model
    from cellwright.train.run import FitResult

QUIET = InferenceOptions(progress=False, device="cpu")
ANNOTATE = {"word": "annotate", "asked": ["coarse_type", "cell_type"]}
PLACE = {"word": "place", "asked": ["organ", "tech", "status"]}
GENERATE = {"word": "generate", "given": ["organ", "cell_type", "status"], "asks_genes": True}
TASKS = (ANNOTATE, PLACE, GENERATE)
QUERIES = {"donors": 800, "study": 500, "random": 400}
"""Part of the cells -> how many of them are asked."""
ASKED = {
    "donors": ("coarse_type", "cell_type", "status"),
    "study": ("coarse_type", "cell_type"),
    "random": ("coarse_type", "cell_type", "organ", "tech"),
}
"""Part -> columns that vary in it; the others would be right by their majority."""
SIZE = ("model.width=64", "model.num_layers=2", "model.num_heads=4")


def parser(description: str, *, steps: int) -> argparse.ArgumentParser:
    """Return an argument parser with the options that every study has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows and the table")
    options.add_argument("--steps", type=int, default=steps, help="training steps of each run")
    options.add_argument("--batch-size", type=int, default=16, help="cells a step")
    options.add_argument("--genes", type=int, default=400, help="most variable genes of the panel")
    options.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    options.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    return options


def for_steps(steps: int, *, seed: int = 0) -> list[str]:
    """Return the changes to a recipe that make it so many steps on the CPU, with a checkpoint at the end."""
    return [
        f"train.max_steps={steps}",
        "train.max_epochs=null",
        f"train.checkpoint_every={steps}",
        "train.accelerator=cpu",
        f"train.seed={seed}",
    ]


def changes(asked: argparse.Namespace, tasks: Sequence[Mapping[str, Any]], *, seed: int) -> list[str]:
    """Return the changes to ``scmulan_tiny`` that all studies make."""
    known = {name for task in tasks for name in [*task.get("given", ()), *task.get("asked", ())]}
    metadata = {name: name for name in CATEGORIES if name in known}
    return [
        f"objective.view_options={json.dumps({'tasks': list(tasks)})}",
        f"data.metadata={json.dumps(metadata)}",
        f"data.num_genes={asked.genes}",
        f"optim.lr={asked.lr}",
        "data.valid_fraction=0",
        f"batch_size={asked.batch_size}",
        *for_steps(asked.steps, seed=seed),
        *SIZE,
    ]


def pretrained(train: AnnData, overrides: Sequence[str]) -> tuple[Model, FitResult]:
    """Pre-train ``scmulan_tiny`` with changes, as ``cellwright pretrain`` does; the run folder is not kept."""
    with TemporaryDirectory() as folder:
        return pretrain_model(recipe("scmulan_tiny").override(list(overrides)), [train], Path(folder) / "run")


def open_part(adata: AnnData, model: Model) -> Any:
    """Open cells on the model's vocabulary, with the codes of its categories (-1 = a word it lacks)."""
    source = open_cells(adata, model.vocab, accepts=model.family.accepts)
    codes = {}
    for name in model.vocab.categories:
        code_of = {word: code for code, word in enumerate(model.vocab.categories[name])}
        codes[name] = np.array([code_of.get(word, -1) for word in adata.obs[name]], np.int64)
    return source.with_obs(codes)


def some_rows(adata: AnnData, num: int, *, seed: int) -> AnnData:
    """Return so many cells drawn at random, in their order; all where there are fewer."""
    rows = np.random.default_rng(seed).permutation(adata.n_obs)[:num]
    return adata[np.sort(rows)].copy()


def queries(cells: JointCells) -> dict[str, AnnData]:
    """Return the held-out cells that are asked, the same in every study."""
    return {part: some_rows(cells.part(part), num, seed=0) for part, num in QUERIES.items()}


def scores_of(answers: Mapping[str, Sequence[str]], query: AnnData, part: str) -> dict[str, Any]:
    """Score words told of a part's cells, column by column."""
    found = {}
    for name in ASKED[part]:
        known = sorted({*query.obs[name], *answers[name]})
        found[name] = scored(as_codes(query.obs[name], known), as_codes(answers[name], known))
    return found


def told_words(model: Model, query: AnnData) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Ask cells word by word; also the share of sentences that end in their turn when any word may be said."""
    words: dict[str, np.ndarray] = {}
    ended = {}
    source = open_part(query, model)
    for task in (ANNOTATE, PLACE):
        config = TellConfig(word=task["word"], asked=tuple(task["asked"]))
        words |= tell_cells(model, source, config, options=QUIET).words
        free = TellConfig(word=task["word"], asked=tuple(task["asked"]), restricted="no")
        few = source.select(np.arange(min(len(source), 200)))
        ended[task["word"]] = float(tell_cells(model, few, free, options=QUIET).is_ended_n.mean())
    return words, ended


def baseline_rows(asked: argparse.Namespace, cells: JointCells) -> list[dict[str, Any]]:
    """Return the rows of ``baselines.py`` in the same folder; none where it has not run on these cells and genes."""
    path = asked.out / "baselines.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    is_same = bool(lines) and lines[0]["cells"] == cells.record() and lines[0]["options"]["genes"] == asked.genes
    return lines[1:] if is_same else []


def scored(truth_n: np.ndarray, answer_n: np.ndarray, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return macro-F1 over the classes present and accuracy, each with its 95 % interval by bootstrap over cells."""
    found = {}
    for metric in ("macro_f1_present", "accuracy"):
        value = METRICS[metric].function(truth_n, answer_n)
        low, high = bootstrap_interval(metric, truth_n, answer_n, num_resamples=1000, seed=seed)
        found[metric] = {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}
    return found


def as_codes(words: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return the codes of words, -1 = not known."""
    code_of = {word: code for code, word in enumerate(known)}
    return np.array([code_of.get(str(word), -1) for word in words], np.int64)


class Record:
    """Rows of a study, saved with what they depend on; rows of an earlier call under the same conditions stay."""

    def __init__(self, name: str, asked: argparse.Namespace, cells: JointCells):
        self.name, self.folder = name, asked.out
        options = {key: value for key, value in vars(asked).items() if key not in ("data", "out", "seeds", "ways")}
        self.conditions = {
            "study": name,
            "options": options,
            "cells": cells.record(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        self.rows: list[dict[str, Any]] = self._earlier()

    def _earlier(self) -> list[dict[str, Any]]:
        path = self.folder / f"{self.name}.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        return lines[1:] if lines and lines[0] == json.loads(json.dumps(self.conditions)) else []

    def add(self, key: Mapping[str, Any], **row: Any) -> None:
        """Add a row, in the place of an earlier one with this key, and say it."""
        self.rows = [old for old in self.rows if any(old[name] != value for name, value in key.items())]
        self.rows.append({**key, "date": datetime.now(UTC).isoformat(timespec="seconds"), **row})
        print(json.dumps(self.rows[-1]), flush=True)

    def save(self, table: Callable[[list[dict[str, Any]]], str]) -> None:
        """Write ``NAME.jsonl`` (conditions first, then the rows) and ``NAME.md``, and print the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join(json.dumps(line) for line in [self.conditions, *self.rows])
        for suffix, content in ((".jsonl", text), (".md", table(self.rows))):
            with atomic_path(self.folder / f"{self.name}{suffix}") as draft:
                draft.write_text(content + "\n", encoding="utf-8")
        print(f"\n{table(self.rows)}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(score: Mapping[str, float]) -> str:
    """Return a score with its interval, such as ``.812 [.790, .833]``."""
    value, low, high = (f"{score[key]:.3f}".removeprefix("0") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def spread(values: Sequence[float]) -> str:
    """Return mean and range over seeds, such as ``.812 (.801-.820)``."""
    numbers = [float(np.mean(values)), min(values), max(values)]
    mean, low, high = (f"{number:.3f}".removeprefix("0") for number in numbers)
    return f"{mean} ({low}-{high})" if len(values) > 1 else mean
