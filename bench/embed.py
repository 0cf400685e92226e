"""Zero-shot embedding at released size: ours against the plain padded way, same weights, same cells, one process.

The reference way tokenises a minibatch, pads it to its longest cell and runs all layers over all positions, in fp32.
``torch encoder`` is that with PyTorch's own encoder layers, which published code is built on (with and without their
fused inference path, which drops pads by nested tensors). Ours is `embed_cells` as users call it.

``--family scfoundation`` is another comparison, of `embed_scfoundation`.

Cells have 200 to 3,000 genes; sequences are cut at 1,200 tokens. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri
from timing import finish, has_fast_bfloat16, interleave, parser, ratio, summary
from torch import nn

from cellwright.models import FAMILIES, Model, new_model
from cellwright.nn.embed import mark_values
from cellwright.tasks.embed import embed_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab

NUM_GENES = 60_694


@dataclass
class MadeUpCells:
    """A `CellSource` of random cells of given lengths."""

    cells: CellBatch
    vocab: GeneVocab
    state: str = "raw"

    def __len__(self) -> int:
        return len(self.cells)

    def read(self, rows: np.ndarray) -> CellBatch:  # noqa: D102
        return self.cells.take(rows)


def make_cells(
    num_cells: int,
    median: float,
    seed: int = 0,
    *,
    bounds: tuple[int, int] = (200, 3000),
    num_genes: int = NUM_GENES,
) -> CellBatch:
    """Make cells whose numbers of expressed genes are log-normal within bounds, of ``num_genes`` genes.

    Lengths are the quantiles of that distribution in random order, so that a few cells stand for many.
    """
    rng = np.random.default_rng(seed)
    level_n = rng.permutation((np.arange(num_cells) + 0.5) / num_cells)
    length_n = np.clip(np.exp(np.log(median) + 0.6 * ndtri(level_n)), *bounds).astype(int)
    genes = [np.sort(rng.choice(num_genes, length, replace=False)) for length in length_n]
    value_z = 1 + rng.negative_binomial(0.3, 0.1, length_n.sum())
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(length_n)]),
        gene_z=np.concatenate(genes).astype(np.int32),
        value_z=value_z.astype(np.float32),
        row_n=np.arange(num_cells),
        total_n=np.full(num_cells, 5000.0),
    )


def torch_encoder(model: Model) -> nn.TransformerEncoder:
    """Put the weights of our blocks into PyTorch's own encoder."""
    config = model.config
    layer = nn.TransformerEncoderLayer(config.width, config.num_heads, config.feed_forward, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, config.num_layers)
    names = {"attention.qkv.": "self_attn.in_proj_", "attention.out.": "self_attn.out_proj."}
    state = model.network.blocks.state_dict()
    for ours, theirs in names.items():
        state = {k.replace(ours, theirs): v for k, v in state.items()}
    encoder.layers.load_state_dict(state)
    return encoder.eval()


def padded_way(model: Model, source: MadeUpCells, batch_size: int, blocks) -> np.ndarray:
    """Embed as the reference does: minibatches in order, padded, every position through every layer."""
    tokenize, pad = model.tokenizer(), model.vocab.special_id("pad")
    network, found = model.network, []
    with torch.inference_mode():
        for start in range(0, len(source), batch_size):
            cells = source.read(np.arange(start, min(start + batch_size, len(source))))
            tokens = tokenize(cells, Draw()).padded(pad)
            value_nt = mark_values(tokens, hidden=-1, pad=-2)
            x_ntd = network.gene_encoder(tokens.gene_nt) + network.value_encoder(value_nt)
            found.append(nn.functional.normalize(blocks(x_ntd, tokens.layout)[:, 0], dim=1))
    return torch.cat(found).numpy()


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--cells", type=int, default=16, help="cells to embed")
    options.add_argument("--fused", action="store_true", help="also run PyTorch's fused inference path (slow on CPUs)")
    options.add_argument("--batch-size", type=int, default=16, help="cells a minibatch, published 64")
    options.add_argument("--median", type=float, default=660.0, help="median of expressed genes")
    options.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=has_fast_bfloat16(),
        help="also run bfloat16; by default where the processor has it",
    )
    options.add_argument("--family", choices=("scgpt", "scfoundation"), default="scgpt", help="whose cells")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.family == "scfoundation":
        import embed_scfoundation

        embed_scfoundation.run(asked)
        return
    family = FAMILIES["scgpt"]
    vocab = GeneVocab.from_genes((f"G{i}" for i in range(NUM_GENES)), family.specials)
    model = new_model("scgpt", vocab, family.sizes["released"])
    model.network.eval()
    source = MadeUpCells(make_cells(asked.cells, asked.median), vocab)
    encoder = torch_encoder(model)

    def by_torch(is_fast: bool):
        def blocks(x_ntd, layout):
            return encoder(x_ntd, src_key_padding_mask=layout.is_pad_nt())

        def way():
            torch.backends.mha.set_fastpath_enabled(is_fast)
            return padded_way(model, source, asked.batch_size, blocks)

        return way

    def ours(precision: str):
        return lambda: embed_cells(model, source, InferenceOptions(precision=precision, progress=False, device="cpu"))

    ways = {
        "padded": lambda: padded_way(model, source, asked.batch_size, model.network.blocks),
        "torch encoder": by_torch(False),
        "ours": ours("float32"),
    }
    if asked.fused:
        ways["torch encoder, fused"] = by_torch(True)
    if asked.bf16:
        ways["ours, bf16"] = ours("bfloat16")
    answers = {name: way() for name, way in ways.items()}
    length_n = np.minimum(source.cells.num_genes_n + 1, 1200)
    width_n = [length_n[i : i + asked.batch_size].max() for i in range(0, asked.cells, asked.batch_size)]
    fill = length_n.sum() / np.repeat(width_n, asked.batch_size)[: asked.cells].sum()
    seconds = interleave(ways, asked.repeats, clock=asked.clock, is_warm=True)
    rows = []
    for name, got in answers.items():
        median = summary(seconds[name])["median"]
        rows.append(
            {
                "way": name,
                "cells_per_second": round(asked.cells / median, 3),
                "tokens_per_second": round(float(length_n.sum() / median), 1),
                "pad_fraction": 0.0 if name.startswith("ours") else round(float(1 - fill), 3),
                "ratio_to_padded": round(ratio(seconds["padded"], seconds[name]), 3),
                "lowest_cosine": float((got * answers["padded"]).sum(1).min()),
                "seconds": summary(seconds[name]),
            }
        )
        print(f"{name:22s} {rows[-1]['cells_per_second']:8.2f} cells/s  x{rows[-1]['ratio_to_padded']:.2f}")
    finish("embed", rows, asked)


if __name__ == "__main__":
    main()
