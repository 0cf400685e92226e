"""Denoising with scFoundation: ours, a minibatch at a time, against the published way, one cell at a time.

The published decoder forms the random features of all 19,266 positions at once (8 heads, 266 features: 164 MB for the
queries of one cell and layer, as much for the keys, and copies of both); ours gathers sums piece by piece, whatever the
number of cells. Both run the same weights over the same tokens and must answer the same, or nothing is reported.

Weights are random, of the released size. A cell by itself takes the same time whatever the number of cells, so the
published way answers for ``--published-cells`` of them, and the two answers for these are compared. Each way runs once:
a pass takes minutes, so that what a first run costs is not to be seen. Memory is the highest resident memory of that
run above what was there before it, where the system tells (Linux); weights are not in it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import numpy as np
import torch
from embed import make_cells
from embed_scfoundation import encoder_gflop
from generate import peak_memory_mb
from timing import CLOCKS, finish, parser
from torch import Tensor, nn

from cellwright.models import FAMILIES, Model, new_model
from cellwright.nn.performer import LinearAttention, random_features
from cellwright.types import CellBatch, Draw, Layout
from cellwright.vocab import GeneVocab

WIDTHS = ("encoder_width", "encoder_heads", "decoder_width", "decoder_heads", "num_features")


class WholeFeatures(nn.Module):
    """Linear attention as published: features of all tokens and heads at once, for the one cell that is there."""

    def __init__(self, twin: LinearAttention):
        super().__init__()
        self.twin = twin

    def forward(self, x_ntd: Tensor, layout: Layout, **_: object) -> Tensor:
        """``[1, t, d] -> [1, t, d]``."""
        twin = self.twin
        q_nhtd, k_nhtd, v_nhtd = (
            x.transpose(1, 2) for x in twin.qkv(x_ntd).unflatten(-1, (3, twin.shape.num_heads, -1)).unbind(2)
        )
        q_nhtm = random_features(q_nhtd, twin.projection_md, is_query=True)
        k_nhtm = random_features(k_nhtd, twin.projection_md, is_query=False)
        whole_nht1 = q_nhtm @ k_nhtm.sum(2)[..., None]
        out_nhtd = q_nhtm @ (k_nhtm.transpose(2, 3) @ v_nhtd) / whole_nht1
        return twin.out(out_nhtd.transpose(1, 2).flatten(2))


def random_model(asked: argparse.Namespace) -> Model:
    family = FAMILIES["scfoundation"]
    vocab = GeneVocab.from_genes((f"G{i}" for i in range(asked.genes)), family.specials)
    layers = {"encoder_layers": asked.encoder_layers, "decoder_layers": asked.decoder_layers}
    model = new_model("scfoundation", vocab, family.sizes["released"].model_copy(update=layers))
    model.network.eval().requires_grad_(False)
    return model


def published_twin(model: Model) -> nn.Module:
    network = copy.deepcopy(model.network)
    for block in network.decoder:
        for name, module in block.named_children():
            if isinstance(module, LinearAttention):
                setattr(block, name, WholeFeatures(module))
    return network


@torch.inference_mode()
def one_by_one(network: nn.Module, model: Model, cells: CellBatch) -> np.ndarray:
    tokenize = model.tokenizer(genes="panel", depth="t4")
    values = [network(tokenize(cells.take(np.array([i])), Draw()), {"value_nt"}).value_nt for i in range(len(cells))]
    return torch.cat(values).numpy()


@torch.inference_mode()
def batched(model: Model, cells: CellBatch) -> np.ndarray:
    tokens = model.tokenizer(genes="panel", depth="t4")(cells, Draw())
    return model.network(tokens, {"value_nt"}).value_nt.view(len(cells), -1).numpy()


def gflop_of(model: Model, num_seen: float, num_all: float) -> float:
    """Return the 1e9 operations of one cell: the encoder over what it sees, the decoder over everything."""
    config = model.config
    narrow, m = config.decoder_width, config.num_features
    linear = (24 * narrow**2 + 8 * narrow * m) * num_all  # with features of q and k, sums over k, answers of q
    between = 2 * config.encoder_width * narrow * num_all
    return encoder_gflop(config, num_seen) + (config.decoder_layers * linear + between) / 1e9


def measured(way: Callable[[], np.ndarray], clock: Callable[[], float]) -> tuple[np.ndarray, float, float | None]:
    """Run once; return answer, seconds and memory."""
    begin = clock()
    answer, memory_mb = peak_memory_mb(way)
    return answer, clock() - begin, memory_mb


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=1)
    options.add_argument("--cells", type=int, default=8, help="cells of a minibatch")
    options.add_argument("--published-cells", type=int, default=2, help="of them for the published way")
    options.add_argument("--genes", type=int, default=19264, help="genes of the vocabulary")
    options.add_argument("--median", type=float, default=1000.0, help="median of expressed genes")
    options.add_argument("--encoder-layers", type=int, default=12)
    options.add_argument("--decoder-layers", type=int, default=6)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    model = random_model(asked)
    twin = published_twin(model)
    cells = make_cells(asked.cells, asked.median, bounds=(20, min(5000, asked.genes)), num_genes=asked.genes)
    some = cells.take(typical(cells.num_genes_n, min(asked.published_cells, asked.cells)))
    at_n = np.searchsorted(cells.row_n, some.row_n)
    ways = {"published": (some, lambda: one_by_one(twin, model, some)), "ours": (cells, lambda: batched(model, cells))}
    found = {name: measured(way, CLOCKS[asked.clock]) for name, (_, way) in ways.items()}
    theirs_ng = found["published"][0].reshape(len(some), -1)
    worst = float(np.abs(theirs_ng - found["ours"][0][at_n]).max())
    assert worst < 1e-3 * max(1.0, float(np.abs(theirs_ng).max())), f"answers differ by {worst}"
    rows = []
    for name, (given, _) in ways.items():
        _, seconds, memory_mb = found[name]
        num_seen = given.num_genes_n + 2
        gflop = sum(gflop_of(model, num, asked.genes + 2) for num in num_seen)
        rows.append(
            {
                "case": "denoise",
                "way": name,
                "cells": len(given),
                "genes": asked.genes,
                "genes_expressed": round(float(given.num_genes_n.mean()), 1),
                "encoder_layers": asked.encoder_layers,
                "decoder_layers": asked.decoder_layers,
                **{width: getattr(model.config, width) for width in WIDTHS},
                "seconds_per_cell": round(seconds / len(given), 3),
                "gflop_per_cell": round(gflop / len(given), 1),
                "gflop_per_second": round(gflop / seconds, 1),
                "peak_memory_mb": memory_mb,
                "largest_difference": worst,
            }
        )
    for row in rows:
        row["ratio_to_published"] = round(rows[0]["seconds_per_cell"] / row["seconds_per_cell"], 2)
        print(
            f"{row['way']:10s} {row['seconds_per_cell']:8.3f} s/cell  x{row['ratio_to_published']:<6} "
            f"{row['gflop_per_second']} GFLOP/s  {row['peak_memory_mb']} MB"
        )
    finish("denoise", rows, asked)


def typical(length_n: np.ndarray, num: int) -> np.ndarray:
    """Return the positions, ascending, of the cells whose lengths are nearest to the mean: they stand for all."""
    return np.sort(np.argsort(np.abs(length_n - length_n.mean()), kind="stable")[:num])


if __name__ == "__main__":
    main()
