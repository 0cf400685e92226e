"""Keys and values of tokens already seen, so that a causal network reads a growing sentence word by word.

Rows of a minibatch may differ in length: each has its own keys in front of a shared buffer, and new ones are written
right behind them, so no pad is ever kept. What a new token sees are the tokens kept for its cell and the new ones up
to itself; one new token or several give the same numbers as the whole sentence at once, to rounding. (Published
scMulan is exact for a single new token only: several see each other in both directions.)

Memory: two numbers a layer, token and channel; a word in 24 layers of width 1120 takes 0.2 MB in float32, a cell of
1,000 words 215 MB. The buffer begins as long as the longest first sentence and a little more, and grows by halves.
Axis ``c`` is the place in the buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cellwright.nn.attention import attend
from cellwright.types import Layout

LEAST_ROOM = 32  # tokens that the buffer grows by at least


@dataclass(frozen=True, slots=True)
class _Turn:
    """Where the tokens of one call go, and what they see; the same in all layers."""

    layout: Layout
    size: int
    """Places of the buffer."""
    longest: int
    """Most tokens of a cell, those of this call counted."""
    token_t: Tensor | None
    """int64: the tokens among the positions of the flattened layout; ``None`` = all are tokens."""
    at_t: Tensor
    """int64: where each of them goes in the flattened buffer."""
    is_seen_ntc: Tensor | None
    """bool: what they see of the buffer; ``None`` = all up to the longest, or this is the first call."""


class Cache:
    """What a stack of blocks remembers of a minibatch of cells.

    Parameters
    ----------
    num_layers
        Blocks of the stack.
    capacity
        Most tokens a cell will have.
    """

    def __init__(self, num_layers: int, capacity: int):
        if capacity < 1:
            raise ValueError(f"capacity = {capacity}: room for at least one token is needed")
        self.capacity = capacity
        self.lengths: tuple[int, ...] = ()
        """Tokens kept for each cell; empty before the first call."""
        self.layers = tuple(LayerCache(self) for _ in range(num_layers))
        self._size = 0
        self._turn: _Turn | None = None

    def turn(self, layout: Layout, device: torch.device) -> _Turn:
        """Return where the tokens of this layout go; found once for all layers.

        Raises
        ------
        ValueError
            When the tokens are of other cells than the cache's, or a cell outgrows the cache.
        """
        if self._turn is None or (self._turn.layout.lengths, self._turn.layout.width) != (layout.lengths, layout.width):
            self._turn = self._find(layout, device)
        return self._turn

    def _find(self, layout: Layout, device: torch.device) -> _Turn:
        before = self.lengths or (0,) * layout.num_cells
        if len(before) != layout.num_cells:
            raise ValueError(f"the cache holds {len(before)} cells, the tokens are of {layout.num_cells}")
        after = [old + new for old, new in zip(before, layout.lengths, strict=True)]
        longest = max(after)
        if longest > self.capacity:
            raise ValueError(f"a cell would have {longest} tokens; the cache was made for {self.capacity}")
        if longest > self._size:
            self._size = min(self.capacity, longest + max(LEAST_ROOM, longest // 2))
        start_n = torch.tensor(before, device=device) + torch.arange(len(before), device=device) * self._size
        place_nt = layout.spread(start_n) + layout.within_cell(device)
        token_t = (~layout.is_pad_nt(device)).flatten().nonzero()[:, 0] if layout.has_pad else None
        at_t = place_nt.flatten() if token_t is None else place_nt.flatten()[token_t]
        is_seen_ntc = None
        if self.lengths and (layout.width != 1 or min(after) < longest):
            seen_nt = torch.tensor(before, device=device)[:, None] + torch.arange(1, layout.width + 1, device=device)
            is_seen_ntc = torch.arange(longest, device=device) < seen_nt[..., None]
        return _Turn(layout, self._size, longest, token_t, at_t, is_seen_ntc)

    def advance(self, layout: Layout) -> None:
        """Count the tokens of this layout as kept; called once all layers have seen them."""
        before = self.lengths or (0,) * layout.num_cells
        self.lengths = tuple(old + new for old, new in zip(before, layout.lengths, strict=True))
        self._turn = None

    def take(self, at_n: Tensor) -> None:
        """Keep the cells at these positions only, in that order.

        Quickest where cells stay at their positions, or come from behind the last position that is left: then these
        alone are moved.
        """
        at = at_n.tolist()
        self.lengths = tuple(self.lengths[i] for i in at)
        self._turn = None
        moved = {to: old for to, old in enumerate(at) if to != old}
        for layer in self.layers:
            if moved.keys() & set(moved.values()):
                layer.k_nchd, layer.v_nchd = (x[at_n.to(x.device)] for x in (layer.k_nchd, layer.v_nchd))
                continue
            for x_nchd in (layer.k_nchd, layer.v_nchd):
                for to, old in moved.items():
                    x_nchd[to] = x_nchd[old]
            layer.k_nchd, layer.v_nchd = layer.k_nchd[: len(at)], layer.v_nchd[: len(at)]


class LayerCache:
    """One block's part of a `Cache`."""

    def __init__(self, cache: Cache):
        self.cache = cache
        self.k_nchd: Tensor | None = None
        self.v_nchd: Tensor | None = None

    def write(self, k_nthd: Tensor, v_nthd: Tensor, layout: Layout) -> None:
        """Keep the keys and values of new tokens behind those of their cells."""
        turn = self.cache.turn(layout, k_nthd.device)
        self.k_nchd = _written(self.k_nchd, k_nthd, turn)
        self.v_nchd = _written(self.v_nchd, v_nthd, turn)


def _written(buffer_nchd: Tensor | None, x_nthd: Tensor, turn: _Turn) -> Tensor:
    """Put new tokens into a buffer, a larger one where they need it; what holds no token is 0."""
    num, size, inner = turn.layout.num_cells, turn.size, x_nthd.shape[2:]
    if buffer_nchd is None:
        buffer_nchd = x_nthd.new_zeros(num, size, *inner)
    elif buffer_nchd.shape[1] < size:
        grown_nchd = x_nthd.new_zeros(num, size, *inner)
        grown_nchd[:, : buffer_nchd.shape[1]] = buffer_nchd
        buffer_nchd = grown_nchd
    x_td = x_nthd.reshape(-1, inner.numel())
    x_td = x_td if turn.token_t is None else x_td[turn.token_t]
    buffer_nchd.view(num * size, -1).index_copy_(0, turn.at_t, x_td)
    return buffer_nchd


def attend_past(q_nthd: Tensor, k_nthd: Tensor, v_nthd: Tensor, layout: Layout, past: LayerCache) -> Tensor:
    """Do causal attention of new tokens over themselves and all that ``past`` keeps of their cells; it keeps them too.

    Parameters
    ----------
    q_nthd, k_nthd, v_nthd
        Of the new tokens alone.
    layout
        Of the new tokens. The first ones had best be packed, where cells differ in length.
    past
        This layer's memory. The lengths move on when all layers are done (`Cache.advance`).

    Raises
    ------
    ValueError
        When the tokens are of other cells than the cache's, or a cell outgrows the cache.
    """
    if not past.cache.lengths:
        past.write(k_nthd, v_nthd, layout)
        return attend(q_nthd, k_nthd, v_nthd, layout, is_causal=True)
    if layout.is_packed:
        padded = [layout.pad(x) for x in (q_nthd, k_nthd, v_nthd)]
        return layout.padded().pack(attend_past(*padded, layout.padded(), past))
    past.write(k_nthd, v_nthd, layout)
    turn = past.cache.turn(layout, q_nthd.device)
    additive_n1tc = None
    if turn.is_seen_ntc is not None:
        additive_n1tc = torch.zeros(turn.is_seen_ntc.shape, dtype=q_nthd.dtype, device=q_nthd.device)[:, None]
        additive_n1tc.masked_fill_(~turn.is_seen_ntc[:, None], -torch.inf)
    q_nhtd, k_nhcd, v_nhcd = (
        x.transpose(1, 2) for x in (q_nthd, past.k_nchd[:, : turn.longest], past.v_nchd[:, : turn.longest])
    )
    return scaled_dot_product_attention(q_nhtd, k_nhcd, v_nhcd, attn_mask=additive_n1tc).transpose(1, 2)
