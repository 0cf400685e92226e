"""What turns tokens into vectors: gene identity, expression value, condition, and the norms of their sum.

Source: scGPT (Cui et al., Nature Methods 2024, Methods "Input embeddings"; published code ``scgpt/model/model.py``);
`SoftBinValue`: scFoundation (Hao et al., Nature Methods 21:1481, 2024, Methods "Value embedding").
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


class SoftBinValue(nn.Module):
    """A value as a mixture of learnt bin vectors; which bins it belongs to, and how much, is learnt too.

    With h = LeakyReLU(w1 x + b1) (slope 0.1), one number a bin, and shares a = softmax(scale h + W2 h + b2), the vector
    is sum_k a_k B_k. Any real number is a value, 0 among them. A hidden value has a vector of its own. (The published
    code takes the numbers 102 and 103 for hidden and padded values, by equality, so that a value of just 102 is lost.)

    Parameters
    ----------
    num_bins, width
        Bins k, and width d of their vectors.
    scale
        Published ``bin_alpha``.
    """

    def __init__(self, num_bins: int, width: int, scale: float = 1.0):
        super().__init__()
        self.linear1 = nn.Linear(1, num_bins)
        self.linear2 = nn.Linear(num_bins, num_bins)
        self.bins = nn.Embedding(num_bins, width)
        self.hidden = nn.Embedding(1, width)
        self.scale = scale

    def shares(self, value_nt: Tensor) -> Tensor:
        """Return how much each value belongs to each bin, ``[n, t, k]``; they sum to 1."""
        h_ntk = nn.functional.leaky_relu(self.linear1(value_nt[..., None]), 0.1)
        return torch.softmax(self.scale * h_ntk + self.linear2(h_ntk), -1)

    def forward(self, value_nt: Tensor, is_hidden_nt: Tensor) -> Tensor:
        """``[n, t] -> [n, t, d]``."""
        value_ntd = self.shares(value_nt) @ self.bins.weight
        return torch.where(is_hidden_nt[..., None], self.hidden.weight[0].to(value_ntd.dtype), value_ntd)


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
