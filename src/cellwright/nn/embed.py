"""What turns tokens into vectors: gene identity, expression value, condition, and the norms of their sum.

Source: scGPT (Cui et al., Nature Methods 2024, Methods "Input embeddings"; published code ``scgpt/model/model.py``).
Nothing here knows of sentinels: a value encoder that published weights trained with marker numbers for hidden and
padded positions puts them in itself (`mark_values`), in this one place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellwright.types import Layout, TokenBatch


def mark_values(tokens: TokenBatch, *, hidden: float, pad: float) -> Tensor:
    """Return the values with the published marker numbers at hidden and padded positions, float ``[n, t]``."""
    value_nt = tokens.value_nt.masked_fill(tokens.is_hidden_nt, hidden)
    if not tokens.layout.has_pad:
        return value_nt
    return value_nt.masked_fill(tokens.layout.is_pad_nt(value_nt.device), pad)


class NormedEmbedding(nn.Module):
    """A table of learnt vectors followed by LayerNorm: ``LN(table[id])``.

    Rows start uniform in +-0.1, the row of ``pad`` included, as published; that row gets no gradient.
    """

    def __init__(self, num_entries: int, width: int, pad: int | None = None):
        super().__init__()
        self.embedding = nn.Embedding(num_entries, width, padding_idx=pad)
        self.norm = nn.LayerNorm(width)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, id_nt: Tensor) -> Tensor:
        """Embed ids of any shape ``[...]`` as ``[..., d]``."""
        return self.norm(self.embedding(id_nt))


class ContinuousValue(nn.Module):
    """A value as a vector by a small network: Linear, ReLU, Linear, LayerNorm, dropout.

    Values above ``limit`` are clamped to it; there is no lower clamp.
    """

    def __init__(self, width: int, dropout: float, limit: float = 512.0):
        super().__init__()
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.limit = limit

    def forward(self, value_nt: Tensor) -> Tensor:
        """``[n, t] -> [n, t, d]``."""
        hidden_ntd = torch.relu(self.linear1(value_nt.clamp(max=self.limit)[..., None]))
        return self.dropout(self.norm(self.linear2(hidden_ntd)))


class CategoryValue(NormedEmbedding):
    """A binned value looked up in a table, one row a bin (plus the two markers)."""

    def forward(self, value_nt: Tensor) -> Tensor:
        """``[n, t]`` bin numbers ``-> [n, t, d]``."""
        return super().forward(value_nt.long())


class BatchNormTokens(nn.Module):
    """Batch norm over all tokens of a minibatch, one running mean and variance a channel.

    Pads take part in the statistics when the layout has pads, as published.
    """

    def __init__(self, width: int, eps: float = 6.1e-5):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=eps)

    def forward(self, x_ntd: Tensor, layout: Layout, domain_n: Tensor | None = None) -> Tensor:
        """Normalise ``[n, t, d]``; domains are not looked at."""
        return self.norm(x_ntd.flatten(0, 1)).view_as(x_ntd)


class DomainBatchNorm(nn.Module):
    """Batch norm with statistics of its own for each domain (sequencing batch), without affine parameters.

    Every cell is normalised by its own domain. The published code normalises a whole minibatch by the domain of
    its first cell; on minibatches of one domain, as published training makes them, both agree.
    """

    def __init__(self, width: int, num_domains: int, eps: float = 6.1e-5):
        super().__init__()
        self.domains = nn.ModuleList(nn.BatchNorm1d(width, eps=eps, affine=False) for _ in range(num_domains))

    def forward(self, x_ntd: Tensor, layout: Layout, domain_n: Tensor | None = None) -> Tensor:
        """Normalise ``[n, t, d]`` by the domain of each cell, int64 ``domain_n``."""
        if domain_n is None:
            raise ValueError("this model normalises by sequencing batch: tech_batch_n is needed for every cell")
        low, high = int(domain_n.min()), int(domain_n.max())
        if low < 0 or high >= len(self.domains):
            raise ValueError(
                f"sequencing batch {high if high >= 0 else low} is not one of the {len(self.domains)} known"
            )
        if low == high:
            return self.domains[low](x_ntd.flatten(0, 1)).view_as(x_ntd)
        out_ntd = torch.empty_like(x_ntd)
        domain_nt = layout.spread(domain_n)
        for domain in domain_n.unique().tolist():
            at_nt = domain_nt == domain
            out_ntd[at_nt] = self.domains[domain](x_ntd[at_nt])
        return out_ntd
