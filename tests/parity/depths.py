"""Recorded scFoundation inputs as our types."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from parity.cases import Case

from cellwright.models import Model, load
from cellwright.types import CellBatch, Layout, TokenBatch

NUM_GENES = 60
"""Genes of the small checkpoint; T and S follow."""


@cache
def model_of(folder: str, key: str, *overrides: str) -> Model:
    """Open one model of a recorded checkpoint; not to be changed."""
    return load(Case("scfoundation", folder).folder, key=key, overrides=overrides)


def tiny(key: str, *overrides: str) -> Model:
    return model_of("tiny_checkpoint", key, *overrides)


def real_vocab(key: str, *overrides: str) -> Model:
    return model_of("cli_tiny19264_checkpoint", key, *overrides)


def all_tokens(full_nt: torch.Tensor, is_hidden_nt: torch.Tensor | None = None) -> TokenBatch:
    """Return rows of [genes ..., T, S] as packed tokens of one length."""
    if is_hidden_nt is None:
        is_hidden_nt = torch.zeros_like(full_nt, dtype=torch.bool)
    n, t = full_nt.shape
    return TokenBatch(
        gene_nt=torch.arange(t).repeat(n)[None],
        value_nt=full_nt.masked_fill(is_hidden_nt, 0.0).reshape(1, -1),
        is_hidden_nt=is_hidden_nt.reshape(1, -1),
        layout=Layout((t,) * n),
    )


def expressed_tokens(full_nt: torch.Tensor) -> TokenBatch:
    """Return the positive entries of rows of [genes ..., T, S] as packed tokens."""
    row, gene = (full_nt > 0).nonzero(as_tuple=True)
    lengths = torch.bincount(row).tolist()
    value_nt = full_nt[row, gene][None]
    hidden_nt = torch.zeros_like(value_nt, dtype=torch.bool)
    return TokenBatch(gene_nt=gene[None], value_nt=value_nt, is_hidden_nt=hidden_nt, layout=Layout(tuple(lengths)))


def recorded_cells(case: Case, *, state: str = "raw") -> CellBatch:
    """Return a recorded matrix; a column behind the genes is each cell's total."""
    value_z, gene_z, indptr_n1 = (case.arrays[f"x_{name}"] for name in ("data", "indices", "indptr"))
    num_cells, num_columns = case.arrays["x_shape"]
    cell_z = np.repeat(np.arange(num_cells), np.diff(indptr_n1))
    total_n = np.bincount(cell_z, value_z, num_cells)
    if num_columns == 19265:
        is_gene_z = gene_z < 19264
        total_n = np.bincount(cell_z[~is_gene_z], value_z[~is_gene_z], num_cells)
        value_z, gene_z, cell_z = value_z[is_gene_z], gene_z[is_gene_z], cell_z[is_gene_z]
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(np.bincount(cell_z, minlength=num_cells))]),
        gene_z=gene_z.astype(np.int32),
        value_z=value_z.astype(np.float32),
        row_n=np.arange(num_cells),
        total_n=total_n,
        state=state,
    )


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
