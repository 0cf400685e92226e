"""Attention in linear time over whole genomes: positive random features (FAVOR+), exact over any cutting of the tokens.

Source: Choromanski et al. 2021 (Performers), as scFoundation's published decoder uses them (Hao et al., Nature Methods
21:1481, 2024; ``performer.py`` of its code). Axes: ``m`` random
feature, ``d`` width of a head, ``p`` token of a piece.

With a fixed projection W ``[m, d]``, s = d^(-1/4) and c(x) = |s x|^2 / 2:

    f(q) = exp(s W q - c(q) - max_m s W q) + eps
    f(k) = exp(s W k - c(k) - MAX s W k) + eps
    out  = f(q) . (sum_t f(k_t) v_t) / (f(q) . sum_t f(k_t))

MAX runs over all heads, tokens and features; were there no eps it would cancel out. The published code takes it over
the *whole minibatch*, so that a cell's answer depends on its company. Here it is the cell's own by default, which is
what the published code does with one cell at a time. Pads are never seen (the published code takes no notice of its
padding argument, but then it has no pads). The projection is drawn once and never again: published code draws it anew
every 1,000 training steps, which throws away what the layers above have learnt of it.

Features of all tokens at once would take 164 MB a cell and layer (19,266 tokens, 8 heads, 266 features), several times
over. The sums over tokens are therefore gathered piece by piece, in one pass: a piece with a larger maximum rescales
what was gathered before, and eps, which is not to be rescaled, is kept apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from cellwright.nn.blocks import Attention, BlockShape
from cellwright.nn.cache import LayerCache
from cellwright.types import CellEnd, Layout

EPS = 1e-4
"""What every feature gets beside the exponential (published)."""
PIECE = 2**20
"""Most features formed at once, all cells and heads counted: 4 MB in float32, which stay in a processor's cache (eight
times as many took 2.1 s a layer of 19,266 tokens where these take 0.7)."""
PIECE_GPU = 2**23
"""The same where there is no such cache to keep to: 32 MB."""

_LOWEST = -1e30

KeyMaximum = Literal["cell", "batch"]


def orthogonal_projection(
    num_features: int, head_width: int, generator: Generator, *, norm: Literal["chi", "constant"] = "chi"
) -> Tensor:
    """Draw a projection ``[m, d]`` whose rows are orthogonal within each block of ``d``.

    Parameters
    ----------
    num_features, head_width
        m and d. The last block is cut where m is no multiple of d.
    generator
        Of the CPU; decides everything.
    norm
        Lengths of the rows: ``chi`` = those of Gaussian vectors of ``d`` numbers (published), or all sqrt(d).
    """
    if num_features < 1 or head_width < 1:
        raise ValueError(f"a projection of {num_features} features of heads {head_width} wide cannot be drawn")
    options = {"generator": generator, "device": "cpu"}
    num_blocks = -(-num_features // head_width)
    blocks = [torch.linalg.qr(torch.randn(head_width, head_width, **options)).Q.T for _ in range(num_blocks)]
    direction_md = torch.cat(blocks)[:num_features]
    if norm == "constant":
        return direction_md * head_width**0.5
    return direction_md * torch.randn(num_features, head_width, **options).norm(dim=1, keepdim=True)


def random_features(x_nhtd: Tensor, projection_md: Tensor, *, is_query: bool) -> Tensor:
    """Return f(q) or f(k) of all tokens at once, ``[n, h, t, m]``, divided by sqrt(m): the definition, for tests.

    The maximum of keys is taken over the whole tensor.
    """
    projected_nhtm, half_nht1 = _project(x_nhtd, projection_md)
    largest = projected_nhtm.amax(-1, keepdim=True) if is_query else projected_nhtm.amax()
    return (torch.exp(projected_nhtm - half_nht1 - largest) + EPS) * projection_md.shape[0] ** -0.5


def attend_linear(
    q_nthd: Tensor,
    k_nthd: Tensor,
    v_nthd: Tensor,
    layout: Layout,
    projection_md: Tensor,
    *,
    key_maximum: KeyMaximum = "cell",
) -> Tensor:
    """Attend inside each cell in time linear in its tokens; see the module's text.

    Parameters
    ----------
    q_nthd, k_nthd, v_nthd
        Queries, keys and values, laid out as ``layout`` says; every token sees all of its cell.
    projection_md
        The fixed projection, shared by all heads.
    key_maximum
        Whether the maximum in f(k) is that of the cell or (published, with many cells at once) of the minibatch.

    Returns
    -------
    Tensor of the shape and type of ``q_nthd``, computed in float32. Rows at pads mean nothing.

    Raises
    ------
    ValueError
        When the layout has prompts: what a token sees then is not its whole cell.
    """
    if layout.prompt_lengths is not None:
        raise ValueError("linear attention sees whole cells; it cannot keep a prompt apart from unknown tokens")
    q_nhtd, k_nhtd, v_nhtd = (_rows(x, layout).transpose(1, 2) for x in (q_nthd, k_nthd, v_nthd))
    n, h, t, _ = q_nhtd.shape
    is_pad_nt = None
    if min(layout.lengths) < t:
        is_pad_nt = layout.padded(layout.width).is_pad_nt(q_nthd.device)
    most = PIECE if q_nthd.device.type == "cpu" else PIECE_GPU
    size = max(1, most // (n * h * projection_md.shape[0]))
    with torch.autocast(q_nthd.device.type, enabled=False):
        projection_md = projection_md.float()
        sums_nhmd = _gather(k_nhtd, v_nhtd, is_pad_nt, projection_md, size, key_maximum)
        parts = [_again(_answer, q_nhpd, sums_nhmd, projection_md) for q_nhpd in q_nhtd.split(size, 2)]
    return _unrows(torch.cat(parts, 2).transpose(1, 2).to(q_nthd.dtype), layout)


def _rows(x_nthd: Tensor, layout: Layout) -> Tensor:
    """Return one row a cell; without a copy where packed cells are of one length."""
    if layout.is_packed and min(layout.lengths) == max(layout.lengths):
        return x_nthd[0].unflatten(0, (layout.num_cells, -1))
    return layout.pad(x_nthd)


def _unrows(x_nthd: Tensor, layout: Layout) -> Tensor:
    if layout.is_packed and min(layout.lengths) == max(layout.lengths):
        return x_nthd.flatten(0, 1)[None]
    return layout.padded().pack(x_nthd) if layout.is_packed else x_nthd


def _again(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function of a piece; in training it is called a second time rather than its features kept."""
    if torch.is_grad_enabled():
        return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
    return function(*given)


def _exp_of_difference(projected_nhpm: Tensor, shift_nhp1: Tensor) -> Tensor:
    """Return exp(projected - shift); without gradients in the place of ``projected``, which then is gone."""
    if torch.is_grad_enabled():
        return torch.exp(projected_nhpm - shift_nhp1)
    return projected_nhpm.sub_(shift_nhp1).exp_()


def _project(x_nhpd: Tensor, projection_md: Tensor) -> tuple[Tensor, Tensor]:
    """Return s W x and c(x)."""
    x_nhpd = x_nhpd.float() * x_nhpd.shape[-1] ** -0.25
    return x_nhpd @ projection_md.T, x_nhpd.square().sum(-1, keepdim=True) / 2


def _gather(
    k_nhtd: Tensor,
    v_nhtd: Tensor,
    is_pad_nt: Tensor | None,
    projection_md: Tensor,
    size: int,
    key_maximum: KeyMaximum,
) -> Tensor:
    """Return the sum over tokens of f(k) v, and behind it, as a last column, of f(k): ``[n, h, m, d + 1]``."""
    ks, vs = k_nhtd.split(size, 2), v_nhtd.split(size, 2)
    is_pads = [None] * len(ks) if is_pad_nt is None else is_pad_nt.split(size, 1)
    sums, plain, largest = 0.0, 0.0, None
    for k_nhpd, v_nhpd, is_pad_np in zip(ks, vs, is_pads, strict=True):
        part, part_plain, part_largest = _again(_summed, k_nhpd, v_nhpd, is_pad_np, projection_md)
        new = part_largest if largest is None else torch.maximum(largest, part_largest)
        if largest is not None:
            sums = sums * torch.exp(largest - new)
        sums, plain, largest = sums + part * torch.exp(part_largest - new), plain + part_plain, new
    if key_maximum == "batch":
        sums = sums * torch.exp(largest - largest.amax())
    return sums + EPS * plain


def _summed(
    k_nhpd: Tensor, v_nhpd: Tensor, is_pad_np: Tensor | None, projection_md: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return of one piece: the sums without eps, those that eps is multiplied with, and the maximum of each cell."""
    projected_nhpm, half_nhp1 = _project(k_nhpd, projection_md)
    with_one = torch.cat([v_nhpd.float(), torch.ones_like(v_nhpd[..., :1], dtype=torch.float32)], -1)
    if is_pad_np is not None:
        is_pad_n1p1 = is_pad_np[:, None, :, None]
        projected_nhpm = projected_nhpm.masked_fill(is_pad_n1p1, -torch.inf)
        with_one = with_one.masked_fill(is_pad_n1p1, 0.0)
    # a piece may hold nothing but pads of a cell: its maximum is then low, and finite
    largest_n111 = projected_nhpm.amax((1, 2, 3), keepdim=True).clamp(min=_LOWEST)
    feature_nhpm = _exp_of_difference(projected_nhpm, half_nhp1 + largest_n111)
    return feature_nhpm.transpose(2, 3) @ with_one, with_one.sum(2, keepdim=True), largest_n111


def _answer(q_nhpd: Tensor, sums_nhmd: Tensor, projection_md: Tensor) -> Tensor:
    projected_nhpm, half_nhp1 = _project(q_nhpd, projection_md)
    shift_nhp1 = half_nhp1 + projected_nhpm.amax(-1, keepdim=True)
    found = _exp_of_difference(projected_nhpm, shift_nhp1) @ sums_nhmd
    found = found + EPS * sums_nhmd.sum(2, keepdim=True)  # eps of every feature, without another pass over them
    return found[..., :-1] / found[..., -1:]


class LinearAttention(Attention):
    """Multi-head self-attention by `attend_linear`: the projections are `cellwright.nn.blocks.Attention`'s.

    Parameters
    ----------
    shape
        Of the block; ``attention_dropout`` must be 0, since no attention weight is ever formed.
    projection_md
        The fixed random projection; kept with the weights.
    key_maximum
        See `attend_linear`.
    """

    def __init__(self, shape: BlockShape, projection_md: Tensor, *, key_maximum: KeyMaximum = "cell"):
        super().__init__(shape)
        if shape.attention_dropout:
            raise ValueError("linear attention has no weights to drop; set attention_dropout to 0")
        self.register_buffer("projection_md", projection_md)
        self.key_maximum = key_maximum

    def forward(
        self,
        x_ntd: Tensor,
        layout: Layout,
        *,
        is_causal: bool = False,
        past: LayerCache | None = None,
        only: CellEnd | None = None,
    ) -> Tensor:
        """``[n, t, d] -> [n, t, d]``; every token sees its whole cell."""
        if is_causal or past is not None or only is not None:
            raise ValueError("linear attention sees whole cells; it is not causal, keeps no cache and answers for all")
        n, t, d = x_ntd.shape
        q_nthd, k_nthd, v_nthd = self._project(x_ntd)
        out_nthd = attend_linear(q_nthd, k_nthd, v_nthd, layout, self.projection_md, key_maximum=self.key_maximum)
        return self.out(out_nthd.reshape(n, t, d))

    def queries_keys(self, x_ntd: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse: tokens are never compared one with another here."""
        raise ValueError("linear attention compares no two tokens, so there are no scores between them")
