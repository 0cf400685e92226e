"""Telling and making cells with scMulan: ours, in minibatches with a cache, against the published way, one by one.

Published annotation reads the whole sentence of one cell again for every word: three full passes a cell (coarse type,
fine type, end), heads at the last word alone. Published code makes cells one at a time too; its plain class reads the
whole sentence again for each word, its cached class only the new one, so both stand beside ours. Ours are `tell_cells`
and `generate_cells` as users call them. Labels and made cells must be the same, or nothing is reported.

The published ways run on our network, one unpadded cell through PyTorch's own causal attention; reading and encoding
the cells is ours and quick in both. So what is compared is the number of words read and how they are batched.

Weights are random: speed does not depend on them. They are larger than a training would begin with, so that labels and
levels differ between cells. All made cells have the same number of genes (the end is never drawn), so those made one
by one may be fewer: their time a cell is the same. Memory is the highest resident memory of the first run above what
was there before it, where the system tells (Linux).
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from embed import MadeUpCells, make_cells
from timing import finish, interleave, parser, ratio, summary
from torch import Tensor

from cellwright.models import FAMILIES, Model, new_model
from cellwright.tasks.decode import cell_generators
from cellwright.tasks.generate import CellPrompt, GenerateConfig, generate_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.tell import TellConfig, tell_cells
from cellwright.types import Draw, Layout, TokenBatch
from cellwright.vocab import GeneVocab

NUM_GENES = 2000
WORDS = {
    "organ": [f"organ {i}" for i in range(7)],
    "coarse_type": [f"coarse {i}" for i in range(29)],
    "cell_type": [f"fine {i}" for i in range(109)],
}
ASKED = ("coarse_type", "cell_type")
PROMPT = {"organ": "organ 0", "cell_type": "fine 0"}
QUIET = InferenceOptions(progress=False, device="cpu")


def random_model(size: str) -> Model:
    family = FAMILIES["scmulan"]
    vocab = GeneVocab.from_genes((f"G{i}" for i in range(NUM_GENES)), family.specials, WORDS)
    model = new_model("scmulan", vocab, family.sizes[size])
    model.network.eval().requires_grad_(False)
    for part in (model.network.blocks, model.network.entity_head, model.network.level_head):
        for weight in part.parameters():
            if weight.ndim == 2:  # scores, levels and attention of unit spread and more; norms stay
                weight *= 2 / (weight.std() * weight.shape[1] ** 0.5)
    return model


def last_scores(model: Model, entity_t: list[int], level_t: list[int]) -> tuple[Tensor, Tensor]:
    """Read a whole sentence and return the scores and levels of all words at its last one, ``[v]`` each."""
    tokens = TokenBatch(
        gene_nt=torch.tensor([entity_t]),
        value_nt=torch.tensor([level_t], dtype=torch.float32),
        is_hidden_nt=torch.zeros(1, len(entity_t), dtype=torch.bool),
        layout=Layout((len(entity_t),), len(entity_t)),
    )
    out = model.network(tokens, ("entity", "level"))
    last_d = out.hidden_ntd[0, -1]
    return out.entity.weight_vd @ last_d, out.level.weight_vd @ last_d


@torch.inference_mode()
def tell_one_by_one(model: Model, source: MadeUpCells) -> list[tuple[str, ...]]:
    """Annotate as published: three passes over the whole sentence of each cell, all words but the last said barred."""
    tokenize, vocab = model.tokenizer(), model.vocab
    turns = [*(vocab.category_ids(name) for name in ASKED), np.array([vocab.special_id("end")])]
    labels = []
    for row in range(len(source)):
        tokens = tokenize(source.read(np.array([row])), Draw()).packed()
        entity_t, level_t = tokens.gene_nt[0].tolist(), tokens.value_nt[0].tolist()
        for allowed in turns:
            score_v, level_v = last_scores(model, entity_t, level_t)
            score_v[entity_t[:-1]] = -torch.inf
            word = int(allowed[int(score_v[torch.from_numpy(allowed)].argmax())])
            entity_t.append(word)
            level_t.append(float(level_v[word].round().clamp(0, model.network.num_levels)))
        labels.append(tuple(vocab.tokens[word] for word in entity_t[-3:-1]))
    return labels


@torch.inference_mode()
def make_one_by_one(model: Model, num_cells: int, num_genes: int) -> np.ndarray:
    """Make cells as the published plain class: the whole sentence of one cell read again for each word."""
    vocab, top = model.vocab, model.network.num_levels
    gene_ids = torch.from_numpy(vocab.ids(vocab.genes))
    column_v = np.full(len(vocab), -1)
    column_v[gene_ids] = np.arange(len(gene_ids))
    is_barred_v = torch.ones(len(vocab), dtype=torch.bool).scatter_(0, gene_ids, False)
    level_ng = np.zeros((num_cells, len(gene_ids)), np.float32)
    for row, generator in enumerate(cell_generators(0, num_cells)):
        entity_t = [*(vocab.id(word) for word in PROMPT.values()), vocab.special_id("generate")]
        level_t = [0.0] * len(entity_t)
        for _ in range(num_genes):
            score_v, level_v = last_scores(model, entity_t, level_t)
            score_v[is_barred_v] = -torch.inf
            score_v[entity_t] = -torch.inf
            word = int(torch.multinomial(score_v.softmax(-1)[None], 1, generator=generator))
            entity_t.append(word)
            level_t.append(float(level_v[word].round().clamp(0, top)))
            level_ng[row, column_v[word]] = level_t[-1] / np.float32(top)
    return level_ng


def make_ours(model: Model, num_cells: int, num_genes: int, options: InferenceOptions) -> np.ndarray:
    prompts = [CellPrompt(words=PROMPT, num_cells=num_cells)]
    made = generate_cells(model, prompts, GenerateConfig(gamma=0.0), max_genes=num_genes, options=options)
    return made.level_ng.toarray()


def tell_ours(model: Model, source: MadeUpCells) -> list[tuple[str, ...]]:
    told = tell_cells(model, source, TellConfig(asked=ASKED, restricted="in_turn"), options=QUIET)
    return list(zip(*(told.words[name].tolist() for name in ASKED), strict=True))


def peak_memory_mb(way: Callable[[], object]) -> tuple[object, float | None]:
    """Run once; return the answer, and the highest resident memory above that before, MB (``None`` off Linux)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left free would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest so far becomes what is now
    except (OSError, AttributeError):
        return way(), None
    before = _status("VmRSS")
    return way(), round(max(_status("VmHWM") - before, 0.0), 1)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:"))


class Way(NamedTuple):
    """One way of doing the work."""

    run: Callable[[], object]
    num_cells: int
    gflop: float
    """Of matrix products and attention, a cell."""


def gflop_of(model: Model, passes: list[tuple[int, int]], *, is_cut: bool = False) -> float:
    """Return the 1e9 operations of passes over (words before, new words) of one cell, two a multiply-add.

    With ``is_cut`` the last block does the most of its work at two words of the first pass alone.
    """
    config = model.config
    num_layers, width, flop = config.num_layers, config.width, 0.0
    for i, (old, new) in enumerate(passes):
        attention = 4 * width * (old * new + new * (new + 1) / 2)
        flop += num_layers * (24 * width**2 * new + attention) + 2 * width * len(model.vocab)
        if is_cut and i == 0:
            flop -= max(new - 2, 0) * 18 * width**2 + attention * max(new - 2, 0) / new
    return flop / 1e9


def compare(case: str, ways: dict[str, Way], asked: argparse.Namespace) -> list[dict]:
    """Check that all ways answer the same, time them turn by turn, and return a row each; the published comes first."""
    first = {name: peak_memory_mb(way.run) for name, way in ways.items()}
    published = next(iter(ways))
    for name, (answer, _) in first.items():
        num_other = sum(not np.array_equal(a, b) for a, b in zip(first[published][0], answer, strict=False))
        assert not num_other, f"{case}: {name} answers otherwise than {published} for {num_other} cells"
    num_distinct = {name: len({np.asarray(cell).tobytes() for cell in answer}) for name, (answer, _) in first.items()}
    seconds = interleave({name: way.run for name, way in ways.items()}, asked.repeats, clock=asked.clock, is_warm=True)
    each = {name: [turn / way.num_cells for turn in seconds[name]] for name, way in ways.items()}
    rows = []
    for name, way in ways.items():
        rows.append(
            {
                "case": case,
                "way": name,
                "size": asked.size,
                "cells": way.num_cells,
                "distinct_answers": num_distinct[name],
                "cells_per_second": round(1 / summary(each[name])["median"], 4),
                "ratio_to_published": round(ratio(each[published], each[name]), 2),
                "gflop_per_cell": round(way.gflop, 2),
                "gflop_per_second": round(way.gflop / summary(each[name])["median"], 1),
                "peak_memory_mb": first[name][1],
                "seconds": {key: round(value, 4) for key, value in summary(seconds[name]).items()},
            }
        )
        print(
            f"{case:9s} {name:20s} {rows[-1]['cells_per_second']:9.3f} cells/s  "
            f"x{rows[-1]['ratio_to_published']:<7.2f} {way.gflop:8.1f} gflop a cell  {first[name][1]} MB"
        )
    return rows


def telling(model: Model, source: MadeUpCells) -> dict[str, Way]:
    lengths = (source.cells.num_genes_n + 1).tolist()
    again = np.mean([gflop_of(model, [(0, n + i) for i in range(3)]) for n in lengths])
    once = np.mean([gflop_of(model, [(0, n), (n, 1)], is_cut=True) for n in lengths])
    return {
        "published": Way(lambda: tell_one_by_one(model, source), len(source), again),
        "ours": Way(lambda: tell_ours(model, source), len(source), once),
    }


def making(model: Model, asked: argparse.Namespace) -> dict[str, Way]:
    single, num, start = QUIET.model_copy(update={"batch_size": 1}), asked.genes, len(PROMPT) + 1
    again = gflop_of(model, [(0, start + i) for i in range(num)])
    once = gflop_of(model, [(0, start), *((start + i, 1) for i in range(num - 1))])
    few = asked.made if asked.one_by_one is None else min(asked.made, asked.one_by_one)
    return {
        "published, no cache": Way(lambda: make_one_by_one(model, few, num), few, again),
        "one by one, cache": Way(lambda: make_ours(model, few, num, single), few, once),
        "ours": Way(lambda: make_ours(model, asked.made, num, QUIET), asked.made, once),
    }


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=3)
    options.add_argument("--size", default="small", choices=sorted(FAMILIES["scmulan"].sizes), help="of the network")
    options.add_argument("--cases", nargs="+", default=["annotate", "make"], choices=["annotate", "make"])
    options.add_argument("--cells", type=int, default=8, help="cells to annotate")
    options.add_argument("--median", type=float, default=400.0, help="median of their expressed genes")
    options.add_argument("--made", type=int, default=16, help="cells to make")
    options.add_argument("--one-by-one", type=int, help="of these, cells that are made one by one too (default: all)")
    options.add_argument("--genes", type=int, default=64, help="genes of each made cell")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    model = random_model(asked.size)
    source = MadeUpCells(
        make_cells(asked.cells, asked.median, bounds=(50, NUM_GENES), num_genes=NUM_GENES), model.vocab
    )
    genes = round(float(np.mean(source.cells.num_genes_n)), 1)
    rows = []
    if "annotate" in asked.cases:
        rows += [{**row, "genes": genes} for row in compare("annotate", telling(model, source), asked)]
    if "make" in asked.cases:
        rows += [{**row, "genes": asked.genes} for row in compare("make", making(model, asked), asked)]
    finish("generate", rows, asked)


if __name__ == "__main__":
    main()
