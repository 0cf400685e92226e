"""A training step at released layer size: packed tokens against padded ones, same cells, same losses, one process.

The step hides 40 % of the values, predicts them from the tokens and from the cell embedding, and computes all
gradients. Depth is cut to ``--layers`` so that the bench ends: the layers are alike, and the ratio is theirs.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from embed import make_cells
from timing import finish, has_fast_bfloat16, interleave, parser, ratio, summary

from cellwright.models import FAMILIES, new_model
from cellwright.objectives import Objective
from cellwright.objectives.value import CellValue, MaskedValue
from cellwright.objectives.views import RandomMask
from cellwright.types import Draw
from cellwright.vocab import GeneVocab


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--cells", type=int, default=8, help="cells a step")
    options.add_argument("--layers", type=int, default=4, help="blocks of width 512")
    options.add_argument("--median", type=float, default=660.0, help="median of expressed genes")
    options.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=has_fast_bfloat16(),
        help="also run bfloat16; by default where the processor has it",
    )
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    family = FAMILIES["scgpt"]
    vocab = GeneVocab.from_genes((f"G{i}" for i in range(60_694)), family.specials)
    config = family.sizes["released"].override([f"num_layers={asked.layers}", "dropout=0"])
    model = new_model("scgpt", vocab, config)
    network, tokenize, pad = model.network.train(), model.tokenizer(), vocab.special_id("pad")
    network.gene_encoder.embedding.requires_grad_(False)  # its dense gradient costs the same either way
    cells = make_cells(asked.cells, asked.median, seed=1)
    objective = Objective(RandomMask(), {"masked_value": (1.0, MaskedValue()), "cell_value": (1.0, CellValue())})

    def step(is_padded: bool, is_low: bool):
        def encode(cells, draw):
            tokens = tokenize(cells, draw)
            return tokens.padded(pad) if is_padded else tokens

        def way():
            with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                report = objective.step(network, cells, tokenize=encode, draw=Draw())
            network.zero_grad(set_to_none=True)
            report.loss.backward()
            return float(report.loss.detach())

        return way

    ways = {"padded": step(True, False), "packed": step(False, False)}
    if asked.bf16:
        ways |= {"padded, bf16": step(True, True), "packed, bf16": step(False, True)}
    length_n = np.minimum(cells.num_genes_n + 1, 1200)
    seconds = interleave(ways, asked.repeats, clock=asked.clock)
    rows = []
    for name, way in ways.items():
        median = summary(seconds[name])["median"]
        rows.append(
            {
                "way": name,
                "cells_per_second": round(asked.cells / median, 3),
                "tokens_per_second": round(float(length_n.sum() / median), 1),
                "fill": round(float(length_n.mean() / length_n.max()), 3),
                "ratio_to_padded": round(ratio(seconds["padded"], seconds[name]), 3),
                "loss": way(),
                "seconds": summary(seconds[name]),
            }
        )
        print(f"{name:14s} {rows[-1]['cells_per_second']:8.2f} cells/s  x{rows[-1]['ratio_to_padded']:.2f}")
    finish("step", rows, asked)


if __name__ == "__main__":
    main()
