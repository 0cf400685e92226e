"""Transformer blocks around `cellwright.nn.attention.attend`; one class for every family.

Source: Vaswani et al. 2017 (post-norm), scGPT's published layers (see `BlockShape` for their two peculiarities), the
GPT-2 decoder that scMulan uses (pre-norm, tanh GELU, no biases), scFoundation's encoder (post-norm, ReLU) and decoder
(pre-norm, GELU).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cellwright.nn.attention import attend, attend_end
from cellwright.nn.cache import Cache, LayerCache, attend_past
from cellwright.types import CellEnd, Layout

PIECE = 1024
"""Tokens that go through a feed-forward part at once where a CPU only predicts: what lies between its two layers stays
in the cache, and takes no memory to speak of (19,266 tokens of width 2,048: 158 MB)."""


def _gelu_tanh(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": _gelu_tanh,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """Sizes and choices shared by all blocks of a stack."""

    width: int
    num_heads: int
    feed_forward: int
    dropout: float = 0.0
    """Applied to both residual branches and, unless ``inner_dropout`` says otherwise, inside the feed-forward part."""
    inner_dropout: float | None = None
    """Applied inside the feed-forward part; ``None`` = as ``dropout``."""
    attention_dropout: float = 0.0
    """Applied to attention probabilities."""
    activation: str = "relu"
    norm: Literal["post", "pre", "pre_residual"] = "post"
    """post: after each residual sum. pre: before each branch. pre_residual: scGPT's ``pre_norm``, in which the
    residual itself starts from the normalised tensor."""
    has_bias: bool = True
    """Whether linear layers and norms add a bias."""
    is_unknown_projected: bool = True
    """False: under generative attention, unknown tokens skip the output projection (scGPT's pre-training)."""


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection (rows 0..d-1 query, d..2d-1 key, 2d.. value)."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        if shape.width % shape.num_heads:
            raise ValueError(f"width {shape.width} is not a multiple of num_heads {shape.num_heads}")
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=shape.has_bias)
        self.out = nn.Linear(shape.width, shape.width, bias=shape.has_bias)

    def forward(
        self,
        x_ntd: Tensor,
        layout: Layout,
        *,
        is_causal: bool = False,
        past: LayerCache | None = None,
        only: CellEnd | None = None,
    ) -> Tensor:
        """``[n, t, d] -> [n, t, d]``; which token sees which is the layout's business.

        With ``past`` the tokens continue cells whose earlier ones were given before; see `cellwright.nn.cache`. With
        ``only`` the answer is of these tokens, packed; none may have been given before.
        """
        n, t, d = x_ntd.shape
        q_nthd, k_nthd, v_nthd = self._project(x_ntd)
        dropout = self.shape.attention_dropout if self.training else 0.0
        if only is not None:
            if past is not None:
                past.write(k_nthd, v_nthd, layout)
            some_1thd = _take(q_nthd, layout, only)
            context_1thd = attend_end(some_1thd, k_nthd, v_nthd, layout, only, dropout=dropout, is_causal=is_causal)
            return self.out(context_1thd.flatten(2))
        if past is None:
            context_nthd = attend(q_nthd, k_nthd, v_nthd, layout, dropout=dropout, is_causal=is_causal)
        else:
            context_nthd = attend_past(q_nthd, k_nthd, v_nthd, layout, past)
        context_ntd = context_nthd.reshape(n, t, d)
        projected_ntd = self.out(context_ntd)
        if layout.prompt_lengths is None or self.shape.is_unknown_projected:
            return projected_ntd
        is_prompt_nt = layout.is_prompt_nt(x_ntd.device)
        return torch.where(is_prompt_nt[..., None], projected_ntd, context_ntd)

    def queries_keys(self, x_ntd: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is compared when tokens attend: queries and keys, each ``[n, t, h, dh]``, not scaled."""
        return self._project(x_ntd)[:2]

    def _project(self, x_ntd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, t, _ = x_ntd.shape
        return self.qkv(x_ntd).view(n, t, 3, self.shape.num_heads, -1).unbind(2)


def _take(x_nt: Tensor, layout: Layout, only: CellEnd) -> Tensor:
    """Return these tokens, packed."""
    return x_nt.flatten(0, 1)[layout.end(only, x_nt.device)[1]][None]


class Block(nn.Module):
    """Attention and feed-forward, each with dropout, a residual sum and a LayerNorm.

    ``attention`` makes the attention of the shape, for instance a `cellwright.nn.performer.LinearAttention`.
    """

    def __init__(self, shape: BlockShape, attention: Callable[[BlockShape], nn.Module] = Attention):
        super().__init__()
        self.shape = shape
        self.attention = attention(shape)
        self.linear1 = nn.Linear(shape.width, shape.feed_forward, bias=shape.has_bias)
        self.linear2 = nn.Linear(shape.feed_forward, shape.width, bias=shape.has_bias)
        self.norm1 = nn.LayerNorm(shape.width, bias=shape.has_bias)
        self.norm2 = nn.LayerNorm(shape.width, bias=shape.has_bias)
        self.dropout = nn.Dropout(shape.dropout)
        self.inner_dropout = nn.Dropout(shape.dropout if shape.inner_dropout is None else shape.inner_dropout)

    def queries_keys(self, x_ntd: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys of this block's attention, see `Attention.queries_keys`."""
        return self.attention.queries_keys(x_ntd if self.shape.norm == "post" else self.norm1(x_ntd))

    def _feed_forward(self, x_ntd: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() or x_ntd.device.type != "cpu" or x_ntd[..., 0].numel() <= PIECE:
            return self._fed_forward(x_ntd)
        pieces = [self._fed_forward(x_pd) for x_pd in x_ntd.flatten(0, 1).split(PIECE)]
        return torch.cat(pieces).view_as(x_ntd)

    def _fed_forward(self, x_td: Tensor) -> Tensor:
        return self.linear2(self.inner_dropout(ACTIVATIONS[self.shape.activation](self.linear1(x_td))))

    def forward(
        self,
        x_ntd: Tensor,
        layout: Layout,
        *,
        is_causal: bool = False,
        past: LayerCache | None = None,
        only: CellEnd | None = None,
    ) -> Tensor:
        """``[n, t, d] -> [n, t, d]``; with ``only`` the answer is of these tokens, packed."""
        norm = self.shape.norm
        branch_ntd = x_ntd if norm == "post" else self.norm1(x_ntd)
        x_ntd = branch_ntd if norm == "pre_residual" else x_ntd
        x_ntd = x_ntd if only is None else _take(x_ntd, layout, only)
        x_ntd = x_ntd + self.dropout(self.attention(branch_ntd, layout, is_causal=is_causal, past=past, only=only))
        x_ntd = self.norm1(x_ntd) if norm == "post" else x_ntd
        branch_ntd = x_ntd if norm == "post" else self.norm2(x_ntd)
        x_ntd = branch_ntd if norm == "pre_residual" else x_ntd
        x_ntd = x_ntd + self.dropout(self._feed_forward(branch_ntd))
        return self.norm2(x_ntd) if norm == "post" else x_ntd


class Stack(nn.ModuleList):
    """Blocks one after another; ``attention`` as in `Block`, called once a block."""

    def __init__(self, shape: BlockShape, num_layers: int, attention: Callable[[BlockShape], nn.Module] = Attention):
        super().__init__(Block(shape, attention) for _ in range(num_layers))

    def forward(
        self,
        x_ntd: Tensor,
        layout: Layout,
        *,
        is_causal: bool = False,
        cache: Cache | None = None,
        only: CellEnd | None = None,
    ) -> Tensor:
        """``[n, t, d] -> [n, t, d]``.

        With ``cache`` the tokens continue the cells that it holds, and it grows. With ``only`` the answer is of these
        tokens, packed as `Layout.end` says: the last block then forms keys and values of all tokens, and the rest of
        them alone, which spares most of one block (scGPT: 8 % of twelve, to rounding the same numbers).
        """
        if cache is not None and (not is_causal or len(cache.layers) != len(self)):
            raise ValueError(f"a cache of {len(cache.layers)} layers does not fit {len(self)} blocks, causal ones only")
        is_first = cache is None or not cache.lengths
        is_short = only is not None and is_first and layout.prompt_lengths is None
        for i, block in enumerate(self):
            x_ntd = block(
                x_ntd,
                layout,
                is_causal=is_causal,
                past=None if cache is None else cache.layers[i],
                only=only if is_short and i == len(self) - 1 else None,
            )
        if cache is not None:
            cache.advance(layout)
        return x_ntd if only is None or is_short else _take(x_ntd, layout, only)

    def queries_keys(self, x_ntd: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys of one block, each ``[n, t, h, dh]``; the blocks before it run as in `forward`.

        Parameters
        ----------
        layer
            Counted from 0, or from the end where negative (-1 = the last); an ``IndexError`` where there is none.
        """
        at = range(len(self))[layer]
        for block in list(self)[:at]:
            x_ntd = block(x_ntd, layout)
        return self[at].queries_keys(x_ntd)


def has_dropout(network: object) -> bool:
    """Whether any part of a network leaves something out at random in training."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0)
        or (isinstance(module, Attention) and module.shape.attention_dropout > 0)
        for module in modules
    )
