"""Cell embeddings of scFoundation: ours, ragged minibatches, against the published way, one cell at a time.

The published way lays each cell out as 19,266 numbers, finds the positive ones by a top-k over keys as long as twice
that (once for values, once for positions), and runs PyTorch's own encoder layers. What its tool spends on tables of
pandas is left out, so that ratios are of the work that is needed. Same weights, same cells, same numbers out, or
nothing is reported. Run through ``bench/embed.py --family scfoundation``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from embed import MadeUpCells, make_cells
from generate import peak_memory_mb
from timing import finish, interleave, ratio, summary
from torch import Tensor, nn

from cellwright.models import FAMILIES, Model, new_model
from cellwright.models.scfoundation.config import ScFoundationConfig
from cellwright.models.scfoundation.genes import published_genes
from cellwright.tasks.embed import embed_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.types import CellBatch
from cellwright.vocab import GeneVocab


def published_encoder(model: Model) -> nn.ModuleList:
    """Put the weights of our encoder into PyTorch's, which published code runs in evaluation mode."""
    config = model.config
    width = config.encoder_width
    sizes = width, config.encoder_heads, config.feed_forward_scale * width
    layers = [nn.TransformerEncoderLayer(*sizes, batch_first=True) for _ in range(config.encoder_layers)]
    encoder = nn.ModuleList(layers)
    state = model.network.blocks.state_dict()
    for ours, theirs in (("attention.qkv.", "self_attn.in_proj_"), ("attention.out.", "self_attn.out_proj.")):
        state = {name.replace(ours, theirs): value for name, value in state.items()}
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


def gather(row_1t: Tensor, is_positive_1t: Tensor, pad: float) -> tuple[Tensor, Tensor]:
    """Return the entries where a value is positive, in order, and which of them are pads: by top-k, as published."""
    num = int(is_positive_1t.sum(1).max())
    tail_1p = torch.full((len(row_1t), num), pad)
    width = row_1t.shape[1]
    key_1t = is_positive_1t.float() * (2.0 * width - torch.arange(width))
    key_1u = torch.cat([key_1t, torch.full((len(row_1t), num), 0.5)], 1)
    at_1p = key_1u.topk(num).indices
    found_1p = torch.cat([row_1t, tail_1p], 1).gather(1, at_1p)
    return found_1p, found_1p == pad


@torch.inference_mode()
def one_by_one(model: Model, encoder: nn.ModuleList, cells: CellBatch) -> np.ndarray:
    """Embed as published: dense rows, one cell a pass."""
    network, num_genes, found = model.network, len(model.vocab.genes), []
    for i in range(len(cells)):
        own = slice(cells.indptr_n1[i], cells.indptr_n1[i + 1])
        count_g = np.zeros(num_genes)
        count_g[cells.gene_z[own]] = cells.value_z[own]
        total = count_g.sum()
        row = [*np.log1p(count_g / total * 1e4).tolist(), 4.0, np.log10(total)]
        row_1t = torch.tensor(row, dtype=torch.float32)[None]
        value_1s, is_pad_1s = gather(row_1t, row_1t > 0, 103.0)
        id_1s, _ = gather(torch.arange(num_genes + 2.0)[None], row_1t > 0, 103.0)
        hidden_1s = torch.zeros_like(value_1s, dtype=torch.bool)
        x_1sd = network.value_encoder(value_1s, hidden_1s) + network.gene_encoder(id_1s.long())
        for layer in encoder:
            x_1sd = layer(x_1sd, src_key_padding_mask=is_pad_1s)
        state_sd = network.encoder_norm(x_1sd)[0]
        found.append(torch.cat([state_sd[-1], state_sd[-2], state_sd[:-2].amax(0), state_sd[:-2].mean(0)]))
    return torch.stack(found).numpy()


def encoder_gflop(config: ScFoundationConfig, num_n: np.ndarray) -> float:
    """Return the 1e9 operations of the encoder over cells of so many tokens, two a multiply-add.

    Matrix products (8 d^2 for attention, 16 d^2 for the feed-forward part) and attention, 4 d for each pair of tokens;
    what goes over numbers one by one is not counted.
    """
    num_n, width = np.asarray(num_n, np.float64), config.encoder_width
    return float(config.encoder_layers * (24 * width**2 * num_n + 4 * width * num_n**2).sum()) / 1e9


def run(asked: argparse.Namespace) -> None:
    """Measure and report."""
    family = FAMILIES["scfoundation"]
    vocab = GeneVocab.from_genes(published_genes(), family.specials)
    # the decoder has no part in a cell's embedding: one layer, so that memory is the encoder's
    model = new_model("scfoundation", vocab, family.sizes["released"].model_copy(update={"decoder_layers": 1}))
    model.network.eval().requires_grad_(False)
    cells = make_cells(asked.cells, asked.median, num_genes=len(vocab.genes))
    source, encoder = MadeUpCells(cells, vocab), published_encoder(model)
    options = InferenceOptions(progress=False, device="cpu")
    ways = {"published": lambda: one_by_one(model, encoder, cells), "ours": lambda: embed_cells(model, source, options)}
    found = {name: peak_memory_mb(way) for name, way in ways.items()}
    worst = float(np.abs(found["published"][0] - found["ours"][0]).max())
    assert worst < 1e-4, f"answers differ by {worst}"
    seconds = interleave(ways, asked.repeats, clock=asked.clock, is_warm=True)
    num_tokens, rows = int(cells.num_genes_n.sum()) + 2 * len(cells), []
    gflop = encoder_gflop(
        model.config, cells.num_genes_n + 2
    )  # the same in both: neither pads, neither sees silent genes
    for name in ways:
        median = summary(seconds[name])["median"]
        rows.append(
            {
                "family": "scfoundation",
                "way": name,
                "cells": asked.cells,
                "cells_per_second": round(asked.cells / median, 3),
                "tokens_per_second": round(num_tokens / median, 1),
                "ratio_to_published": round(ratio(seconds["published"], seconds[name]), 3),
                "gflop_per_cell": round(gflop / asked.cells, 1),
                "gflop_per_second": round(gflop / median, 1),
                "peak_memory_mb": found[name][1],
                "largest_difference": worst,
                "seconds": summary(seconds[name]),
            }
        )
        print(f"{name:10s} {rows[-1]['cells_per_second']:7.3f} cells/s  x{rows[-1]['ratio_to_published']:.2f}")
    finish("embed", rows, asked)
