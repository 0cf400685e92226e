"""Denoising with scFoundation: ours, a minibatch at a time, against the published way, one cell at a time.

The published decoder forms the random features of all 19,266 positions at once (8 heads, 266 features: 164 MB for the
queries of one cell and layer, as much for the keys, and copies of both); ours gathers sums piece by piece, whatever the
number of cells. Both run the same weights over the same tokens and must answer the same, or nothing is reported.

Weights are random, of the released widths. Layers cost the same, so one layer of each part is the default and the ratio
is that of the decoder's layers; ``--decoder-layers 6 --encoder-layers 12`` is the whole network. Memory is the highest
resident memory of one run above what was there before it, where the system tells (Linux).
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch
from embed import make_cells
from generate import peak_memory_mb
from timing import finish, interleave, parser, ratio, summary
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


def main() -> None:
    options = parser(__doc__.splitlines()[0], repeats=1)
    options.add_argument("--cells", type=int, default=8, help="cells of a minibatch")
    options.add_argument("--genes", type=int, default=19264, help="genes of the vocabulary")
    options.add_argument("--median", type=float, default=1000.0, help="median of expressed genes")
    options.add_argument("--encoder-layers", type=int, default=1)
    options.add_argument("--decoder-layers", type=int, default=1)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    model = random_model(asked)
    twin = published_twin(model)
    cells = make_cells(asked.cells, asked.median, bounds=(20, min(5000, asked.genes)), num_genes=asked.genes)
    ways = {"published": lambda: one_by_one(twin, model, cells), "ours": lambda: batched(model, cells)}
    answers = {name: way() for name, way in ways.items()}
    worst = float(np.abs(answers["published"] - answers["ours"]).max())
    assert worst < 1e-3 * max(1.0, float(np.abs(answers["published"]).max())), f"answers differ by {worst}"
    memory_mb = {name: peak_memory_mb(way) for name, way in ways.items()}
    seconds = interleave(ways, asked.repeats)
    rows = []
    for name in ways:
        rows.append(
            {
                "case": "denoise",
                "way": name,
                "cells": asked.cells,
                "genes": asked.genes,
                "encoder_layers": asked.encoder_layers,
                "decoder_layers": asked.decoder_layers,
                **{width: getattr(model.config, width) for width in WIDTHS},
                "seconds_per_cell": round(summary(seconds[name])["median"] / asked.cells, 4),
                "ratio_to_published": round(ratio(seconds["published"], seconds[name]), 2),
                "peak_memory_mb": memory_mb[name],
                "largest_difference": worst,
            }
        )
        print(
            f"{name:10s} {rows[-1]['seconds_per_cell']:8.3f} s/cell  x{rows[-1]['ratio_to_published']:<6} "
            f"{memory_mb[name]} MB"
        )
    finish("denoise", rows, asked)


if __name__ == "__main__":
    main()
