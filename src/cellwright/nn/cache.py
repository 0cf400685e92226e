"""Keys and values of tokens already seen, so that a causal network reads a growing sentence word by word.

Rows of a minibatch may differ in length: each has its own keys in front of a shared buffer, and new ones are written
right behind them, so no pad is ever kept. What a new token sees are the tokens kept for its cell and the new ones up
to itself; one new token or several give the same numbers as the whole sentence at once, to rounding. (Published
scMulan is exact for a single new token only: several see each other in both directions.)

Memory: two numbers a layer, token and channel; a word in 24 layers of width 1120 takes 0.2 MB in float32, a cell of
1,000 words 215 MB. Axis ``c`` is the place in the buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cellwright.nn.attention import attend
from cellwright.types import Layout


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

    def advance(self, layout: Layout) -> None:
        """Count the tokens of this layout as kept; called once all layers have seen them."""
        before = self.lengths or (0,) * layout.num_cells
        self.lengths = tuple(old + new for old, new in zip(before, layout.lengths, strict=True))

    def take(self, at_n: Tensor) -> None:
        """Keep the cells at these positions only, in that order."""
        self.lengths = tuple(self.lengths[i] for i in at_n.tolist())
        for layer in self.layers:
            layer.k_nchd, layer.v_nchd = (x[at_n.to(x.device)] for x in (layer.k_nchd, layer.v_nchd))


class LayerCache:
    """One block's part of a `Cache`."""

    def __init__(self, cache: Cache):
        self.cache = cache
        self.k_nchd: Tensor | None = None
        self.v_nchd: Tensor | None = None

    def write(self, k_nthd: Tensor, v_nthd: Tensor, layout: Layout) -> None:
        """Keep the keys and values of new tokens behind those of their cells."""
        before = self.cache.lengths or (0,) * layout.num_cells
        if len(before) != layout.num_cells:
            raise ValueError(f"the cache holds {len(before)} cells, the tokens are of {layout.num_cells}")
        longest = max(old + new for old, new in zip(before, layout.lengths, strict=True))
        if longest > self.cache.capacity:
            raise ValueError(f"a cell would have {longest} tokens; the cache was made for {self.cache.capacity}")
        if self.k_nchd is None:
            n, _, h, d = k_nthd.shape
            self.k_nchd, self.v_nchd = (x.new_zeros(n, self.cache.capacity, h, d) for x in (k_nthd, v_nthd))
        row_nt = torch.arange(layout.num_cells, device=k_nthd.device)[:, None].expand(layout.shape)
        place_nt = torch.tensor(before, device=k_nthd.device)[:, None] + torch.arange(
            layout.width, device=k_nthd.device
        )
        is_token_nt = ~layout.is_pad_nt(k_nthd.device)
        at = row_nt[is_token_nt], place_nt[is_token_nt]
        self.k_nchd[at], self.v_nchd[at] = k_nthd[is_token_nt], v_nthd[is_token_nt]


def attend_past(q_nthd: Tensor, k_nthd: Tensor, v_nthd: Tensor, layout: Layout, past: LayerCache) -> Tensor:
    """Do causal attention of new tokens over themselves and all that ``past`` keeps of their cells; it keeps them too.

    Parameters
    ----------
    q_nthd, k_nthd, v_nthd
        Of the new tokens alone; padded at the right where cells get different numbers of them.
    layout
        Of the new tokens; padded.
    past
        This layer's memory. The lengths move on when all layers are done (`Cache.advance`).

    Raises
    ------
    ValueError
        When the tokens are packed or of other cells than the cache's, or a cell outgrows the cache.
    """
    if layout.is_packed:
        raise ValueError("a cache keeps one row a cell; give padded tokens")
    past.write(k_nthd, v_nthd, layout)
    if not past.cache.lengths:
        return attend(q_nthd, k_nthd, v_nthd, layout, is_causal=True)
    device, before = q_nthd.device, past.cache.lengths
    longest = max(before) + layout.width
    seen_nt = torch.tensor(before, device=device)[:, None] + torch.arange(1, layout.width + 1, device=device)
    is_seen_ntc = torch.arange(min(longest, past.cache.capacity), device=device) < seen_nt[..., None]
    additive_ntc = torch.zeros(is_seen_ntc.shape, dtype=q_nthd.dtype, device=device)
    additive_ntc.masked_fill_(~is_seen_ntc, -torch.inf)
    k_nchd, v_nchd = (x[:, : is_seen_ntc.shape[2]] for x in (past.k_nchd, past.v_nchd))
    q_nhtd, k_nhcd, v_nhcd = (x.transpose(1, 2) for x in (q_nthd, k_nchd, v_nchd))
    return scaled_dot_product_attention(q_nhtd, k_nhcd, v_nhcd, attn_mask=additive_ntc[:, None]).transpose(1, 2)
