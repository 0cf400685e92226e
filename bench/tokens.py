"""Cells a second from ragged counts to token tensors: `encode_cells` against cell-by-cell numpy.

Both bin all genes of a cell into 51 quantile digits with ties spread at random (or upwards), keep at most 1,199 genes
beside the prefix token, and return packed int64 genes and float32 values.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from timing import finish, interleave, parser, ratio, summary

from cellwright.tokens import SequenceSpec, encode_cells
from cellwright.types import CellBatch, Draw

CLS, NUM_GENES, MINIBATCH = 60_695, 20_000, 256


def make_minibatches(num: int, num_genes: int, rng: np.random.Generator) -> list[CellBatch]:
    """Make cells with exactly ``num_genes`` expressed genes: counts mostly 1-3, some fifty distinct values."""
    size = num_genes * MINIBATCH
    return [
        CellBatch(
            indptr_n1=np.arange(MINIBATCH + 1) * num_genes,
            gene_z=np.concatenate(
                [np.sort(rng.choice(NUM_GENES, num_genes, replace=False)) for _ in range(MINIBATCH)]
            ).astype(np.int32),
            value_z=make_counts(size, rng),
            row_n=np.arange(first, first + MINIBATCH),
            total_n=np.ones(MINIBATCH),
        )
        for first in range(0, num, MINIBATCH)
    ]


def make_counts(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw UMI-like counts: three quarters are 1-3, the rest has a tail to some hundreds."""
    tail = 1 + rng.negative_binomial(0.35, 0.05, size)
    return np.where(rng.random(size) < 0.75, rng.choice(3, size, p=[0.7, 0.2, 0.1]) + 1, tail).astype(np.float32)


def numpy_cell(gene: np.ndarray, value: np.ndarray, spec: SequenceSpec, rng: np.random.Generator):
    """One cell in plain numpy, with the published semantics."""
    edge_k = np.quantile(value, np.linspace(0, 1, spec.num_bins - 1))
    digit = np.digitize(value, edge_k)
    if spec.ties == "random":
        lower = np.digitize(value, edge_k, right=True)
        digit = np.ceil(rng.random(len(value)) * (lower - digit) + digit)
    if len(gene) > spec.room:
        kept = rng.choice(len(gene), spec.room, replace=False)
        gene, digit = gene[kept], digit[kept]
    return np.concatenate([[CLS], gene]), np.concatenate([[-2.0], digit])


def numpy_minibatch(cells: CellBatch, spec: SequenceSpec, rng: np.random.Generator):
    ends = cells.indptr_n1
    parts = [numpy_cell(cells.gene_z[a:b], cells.value_z[a:b], spec, rng) for a, b in zip(ends, ends[1:], strict=False)]
    gene = np.concatenate([gene for gene, _ in parts]).astype(np.int64)
    value = np.concatenate([value for _, value in parts]).astype(np.float32)
    return torch.from_numpy(gene), torch.from_numpy(value)


def measure(num_genes: int, ties: str, options: argparse.Namespace) -> dict[str, object]:
    """Compare the two ways at one size of cell."""
    minibatches = make_minibatches(options.cells, num_genes, np.random.default_rng(0))
    num = MINIBATCH * len(minibatches)
    spec = SequenceSpec(prefix=((CLS, -2.0),), max_length=options.max_length, num_bins=51, ties=ties)
    rng, draw = np.random.default_rng(1), Draw(1)

    def ours() -> None:
        for cells in minibatches:
            encode_cells(cells, spec, draw)

    def plain() -> None:
        for cells in minibatches:
            numpy_minibatch(cells, spec, rng)

    seconds = interleave({"encode_cells": ours, "numpy": plain}, options.repeats, clock=options.clock)
    row: dict[str, object] = {
        "genes": num_genes,
        "ties": ties,
        "max_length": options.max_length,
        "cells": num,
    }
    for name, taken in seconds.items():
        row[name] = {key: round(num / value) for key, value in summary(taken).items()}
    row["ratio"] = round(ratio(seconds["numpy"], seconds["encode_cells"]), 2)
    return row


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--genes", type=int, nargs="+", default=[1199, 1500, 1800], help="genes of a cell")
    options.add_argument("--cells", type=int, default=1024, help="cells a turn")
    options.add_argument("--max-length", type=int, default=1200, help="tokens of a cell, prefix included")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(num_genes, ties, options) for num_genes in options.genes for ties in ("upper", "random")]
    print("genes  ties    encode_cells cells/s (fastest turn)   numpy cells/s   ratio")
    for row in rows:
        ours, plain = row["encode_cells"], row["numpy"]
        print(
            f"{row['genes']:5d}  {row['ties']:6s}  {ours['median']:12,d} ({ours['fastest']:,d})"
            f"{plain['median']:16,d}   {row['ratio']:6.1f}x"
        )
    finish("tokens", rows, options)


if __name__ == "__main__":
    main()
