"""Transformer blocks around `cellwright.nn.attention.attend`; one class for every family.

Source: Vaswani et al. 2017 (post-norm), scGPT's published layers (see `Block` for their two peculiarities).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cellwright.nn.attention import attend
from cellwright.types import Layout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "gelu": nn.functional.gelu}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """Sizes and choices shared by all blocks of a stack."""

    width: int
    num_heads: int
    feed_forward: int
    dropout: float = 0.0
    """Applied to both residual branches and inside the feed-forward part."""
    attention_dropout: float = 0.0
    """Applied to attention probabilities."""
    activation: str = "relu"
    norm: Literal["post", "pre", "pre_residual"] = "post"
    """post: after each residual sum. pre: before each branch. pre_residual: scGPT's ``pre_norm``, in which the
    residual itself starts from the normalised tensor."""
    is_unknown_projected: bool = True
    """False: under generative attention, unknown tokens skip the output projection (scGPT's pre-training)."""


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection (rows 0..d-1 query, d..2d-1 key, 2d.. value)."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        if shape.width % shape.num_heads:
            raise ValueError(f"width {shape.width} is not a multiple of num_heads {shape.num_heads}")
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)

    def forward(self, x_ntd: Tensor, layout: Layout, *, is_causal: bool = False) -> Tensor:
        """``[n, t, d] -> [n, t, d]``; which token sees which is the layout's business."""
        n, t, d = x_ntd.shape
        q_nthd, k_nthd, v_nthd = self.qkv(x_ntd).view(n, t, 3, self.shape.num_heads, -1).unbind(2)
        dropout = self.shape.attention_dropout if self.training else 0.0
        context_nthd = attend(q_nthd, k_nthd, v_nthd, layout, dropout=dropout, is_causal=is_causal)
        context_ntd = context_nthd.reshape(n, t, d)
        projected_ntd = self.out(context_ntd)
        if layout.prompt_lengths is None or self.shape.is_unknown_projected:
            return projected_ntd
        is_prompt_nt = layout.is_prompt_nt(x_ntd.device)
        return torch.where(is_prompt_nt[..., None], projected_ntd, context_ntd)


class Block(nn.Module):
    """Attention and feed-forward, each with dropout, a residual sum and a LayerNorm."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.shape = shape
        self.attention = Attention(shape)
        self.linear1 = nn.Linear(shape.width, shape.feed_forward)
        self.linear2 = nn.Linear(shape.feed_forward, shape.width)
        self.norm1 = nn.LayerNorm(shape.width)
        self.norm2 = nn.LayerNorm(shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def _feed_forward(self, x_ntd: Tensor) -> Tensor:
        return self.linear2(self.dropout(ACTIVATIONS[self.shape.activation](self.linear1(x_ntd))))

    def forward(self, x_ntd: Tensor, layout: Layout, *, is_causal: bool = False) -> Tensor:
        """``[n, t, d] -> [n, t, d]``."""
        norm = self.shape.norm
        branch_ntd = x_ntd if norm == "post" else self.norm1(x_ntd)
        x_ntd = branch_ntd if norm == "pre_residual" else x_ntd
        x_ntd = x_ntd + self.dropout(self.attention(branch_ntd, layout, is_causal=is_causal))
        x_ntd = self.norm1(x_ntd) if norm == "post" else x_ntd
        branch_ntd = x_ntd if norm == "post" else self.norm2(x_ntd)
        x_ntd = branch_ntd if norm == "pre_residual" else x_ntd
        x_ntd = x_ntd + self.dropout(self._feed_forward(branch_ntd))
        return self.norm2(x_ntd) if norm == "post" else x_ntd


class Stack(nn.ModuleList):
    """Blocks one after another."""

    def __init__(self, shape: BlockShape, num_layers: int):
        super().__init__(Block(shape) for _ in range(num_layers))

    def forward(self, x_ntd: Tensor, layout: Layout, *, is_causal: bool = False) -> Tensor:
        """``[n, t, d] -> [n, t, d]``."""
        for block in self:
            x_ntd = block(x_ntd, layout, is_causal=is_causal)
        return x_ntd
