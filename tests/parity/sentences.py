"""Recorded scMulan sentences as our types."""

from __future__ import annotations

import numpy as np
import torch
from parity.cases import Case

from cellwright.types import CellBatch, Layout, TokenBatch


def sentence_tokens(entity_nt, level_nt, lengths=None) -> TokenBatch:
    """Return recorded ids and levels as padded tokens."""
    entity_nt, level_nt = torch.as_tensor(entity_nt), torch.as_tensor(level_nt)
    lengths = tuple(lengths) if lengths is not None else (entity_nt.shape[1],) * len(entity_nt)
    return TokenBatch(
        gene_nt=entity_nt,
        value_nt=level_nt.float(),
        is_hidden_nt=torch.zeros(entity_nt.shape, dtype=torch.bool),
        layout=Layout(lengths, entity_nt.shape[1]),
    )


def cut(tokens: TokenBatch, start: int, stop: int) -> TokenBatch:
    """Return the same columns of every row."""
    return sentence_tokens(tokens.gene_nt[:, start:stop], tokens.value_nt[:, start:stop])


def recorded_cells(case: Case, vocab, field: str) -> CellBatch:
    """Return the recorded matrix (``counts`` or ``X_norm``) as cells of this vocabulary."""
    value_ng = case.arrays[field]
    id_g = vocab.ids(case.arrays["gene_names"].tolist())
    id_g[~np.isin(id_g, vocab.ids(vocab.genes))] = -1
    column_g = np.argsort(id_g, kind="stable")
    column_g = column_g[id_g[column_g] >= 0]
    known_ng = value_ng[:, column_g]
    at_n, at_g = np.nonzero(known_ng)
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum((known_ng != 0).sum(1))]),
        gene_z=id_g[column_g][at_g].astype(np.int32),
        value_z=known_ng[at_n, at_g].astype(np.float32),
        row_n=np.arange(len(value_ng)),
        total_n=value_ng.sum(1, dtype=np.float64),
        state="raw" if field == "counts" else "log1p",
    )
