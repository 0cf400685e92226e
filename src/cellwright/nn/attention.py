"""One attention for every layout: `attend(q, k, v, layout)`.

What a token may see follows from the layout alone. *Plain*: all tokens of its cell. *Causal*: itself and those before
it. *Generative* (scGPT, Cui et al. 2024, Methods "Generative pretraining"): a prompt token sees the cell's prompt, an
unknown token sees the prompt and itself. Nothing ever sees a pad or another cell.

`attend_dense` is the definition: a boolean table of who sees whom, given to PyTorch's attention. `attend` gives the
same numbers by the quickest way at hand: packed cells one by one on a CPU (2-3 times as fast as padding them), the
variable-length kernel on CUDA in half precision, and for generative attention one unmasked pass over the prompt keys
into which each unknown token's own key is merged.

`attend_end` asks for each cell's first or last tokens alone: what a last layer needs where the rest is not read.

Tensors are ``[n, t, h, dh]``, or ``[1, t, h, dh]`` when packed; ``dh`` is the width of a head. Rows at pads hold
finite numbers that mean nothing: do not read, pool or compare them. Projections, residuals and norms belong to the
block; there is no key-value cache here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from cellwright.types import CellEnd, Layout


def attend(
    q_nthd: Tensor,
    k_nthd: Tensor,
    v_nthd: Tensor,
    layout: Layout,
    *,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention inside each cell.

    Parameters
    ----------
    q_nthd, k_nthd, v_nthd
        Queries, keys and values, all of one shape, laid out as ``layout`` says.
    layout
        Where cells and pads are; with ``prompt_lengths`` the attention is generative.
    dropout
        Probability of dropping an attention weight, applied whenever it is above 0: pass 0 outside training.
    is_causal
        Whether a token sees only itself and the tokens before it.

    Returns
    -------
    Tensor of the shape and type of ``q_nthd``.

    Raises
    ------
    ValueError
        When shapes and layout differ, or attention is asked to be causal and generative at once.
    """
    _check(q_nthd, k_nthd, v_nthd, layout, is_causal)
    options = {"dropout": dropout, "is_causal": is_causal}
    if _has_unknown(layout):
        if dropout == 0 and _can_flash(q_nthd, k_nthd, v_nthd):
            return _by_run(q_nthd, k_nthd, v_nthd, layout, is_causal=False)
        return attend_dense(q_nthd, k_nthd, v_nthd, layout, **options)
    if not layout.is_packed:
        return _attend_padded(q_nthd, k_nthd, v_nthd, layout, **options)
    if q_nthd.device.type == "cpu":
        return _by_run(q_nthd, k_nthd, v_nthd, layout, **options)
    if _can_varlen(q_nthd, dropout):
        return _attend_varlen(q_nthd, k_nthd, v_nthd, layout, is_causal=is_causal)
    padded = [layout.pad(x) for x in (q_nthd, k_nthd, v_nthd)]
    return layout.padded().pack(_attend_padded(*padded, layout.padded(), **options))


def attend_end(
    q_1thd: Tensor,
    k_nthd: Tensor,
    v_nthd: Tensor,
    layout: Layout,
    which: CellEnd,
    *,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Do what `attend` does for the first or last tokens of each cell alone; keys and values are of all tokens.

    Parameters
    ----------
    q_1thd
        Queries of these tokens, packed as `Layout.end` says; so is what comes back.
    k_nthd, v_nthd, layout, dropout, is_causal
        As for `attend`.
    which
        The tokens.

    Raises
    ------
    ValueError
        When shapes and layouts differ, or the layout has unknown tokens.
    """
    ended, _ = layout.end(which)
    if tuple(q_1thd.shape[:2]) != ended.shape or tuple(k_nthd.shape[:2]) != layout.shape or _has_unknown(layout):
        shapes = f"{tuple(q_1thd.shape)} and {tuple(k_nthd.shape)}"
        raise ValueError(f"queries and keys have shapes {shapes}; wanted: {ended.shape} and {layout.shape}, all known")
    if not layout.is_packed or q_1thd.device.type != "cpu":
        table = _end_table(layout.padded(layout.width), which, is_causal, q_1thd)
        out_nthd = _sdpa(ended.pad(q_1thd), layout.pad(k_nthd), layout.pad(v_nthd), table, dropout)
        return ended.padded().pack(out_nthd)
    runs = _runs(layout)
    short = [run._replace(length=min(run.length, which.num)) for run in runs]
    parts = zip(runs, _split(q_1thd[0], short), *(_split(x[0], runs) for x in (k_nthd, v_nthd)), strict=True)
    out = []
    for run, q, k, v in parts:
        table = _end_table(Layout((run.length,), run.length), which, is_causal, q)
        out.append(_sdpa(q, k, v, table, dropout).flatten(0, 1))
    return torch.cat(out)[None]


def _end_table(layout: Layout, which: CellEnd, is_causal: bool, like: Tensor) -> Tensor | None:
    """Return what is added to the scores ``[n, 1, t', t]`` of a padded layout: 0 or -inf; ``None`` = all 0."""
    is_last = which.side == "last"
    if not layout.has_pad and (not is_causal or (is_last and which.num == 1)):
        return None
    is_seen_n1tt = ~layout.is_pad_nt(like.device)[:, None, None]
    if is_causal:
        ended, _ = layout.end(which)
        skipped_n = torch.tensor(layout.lengths) - torch.tensor(ended.lengths) if is_last else torch.zeros(1)
        place_nt = skipped_n.to(like.device)[:, None] + torch.arange(max(ended.lengths), device=like.device)
        is_seen_n1tt = is_seen_n1tt & (torch.arange(layout.width, device=like.device) <= place_nt[:, None, :, None])
    return _additive(~is_seen_n1tt, like.dtype)


def attend_dense(
    q_nthd: Tensor,
    k_nthd: Tensor,
    v_nthd: Tensor,
    layout: Layout,
    *,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Do what `attend` does through the full table of `dense_mask`: on any device, at ``t**2`` memory a cell."""
    _check(q_nthd, k_nthd, v_nthd, layout, is_causal)
    if layout.is_packed:
        padded = [layout.pad(x) for x in (q_nthd, k_nthd, v_nthd)]
        out_nthd = attend_dense(*padded, layout.padded(), dropout=dropout, is_causal=is_causal)
        return layout.padded().pack(out_nthd)
    is_seen_n1tt = dense_mask(layout, is_causal=is_causal, device=q_nthd.device)
    return _sdpa(q_nthd, k_nthd, v_nthd, _additive(~is_seen_n1tt, q_nthd.dtype), dropout)


def dense_mask(layout: Layout, *, is_causal: bool = False, device: torch.device | str = "cpu") -> Tensor:
    """Return bool ``[n, 1, t, t]``, True where a query (third axis) sees a key; for the padded form of ``layout``.

    Pads are never seen. Every row sees something, those of pads too, so that no softmax divides by zero.
    """
    layout = layout.padded(layout.width)
    num = layout.width
    is_real_n1t = ~layout.is_pad_nt(device)[:, None]
    if _has_unknown(layout):
        is_self_tt = torch.eye(num, dtype=torch.bool, device=device)
        is_seen_ntt = layout.is_prompt_nt(device)[:, None] | (is_self_tt & is_real_n1t)
    elif is_causal:
        is_seen_ntt = is_real_n1t & torch.ones(num, num, dtype=torch.bool, device=device).tril()
    else:
        is_seen_ntt = is_real_n1t.expand(-1, num, -1)
    return is_seen_ntt[:, None]


def _check(q_nthd: Tensor, k_nthd: Tensor, v_nthd: Tensor, layout: Layout, is_causal: bool) -> None:
    if q_nthd.ndim != 4 or not q_nthd.shape == k_nthd.shape == v_nthd.shape:
        shapes = [tuple(x.shape) for x in (q_nthd, k_nthd, v_nthd)]
        raise ValueError(f"queries, keys and values have shapes {shapes}; they must share one shape [n, t, h, dh]")
    if tuple(q_nthd.shape[:2]) != layout.shape:
        raise ValueError(f"the tokens have shape {tuple(q_nthd.shape[:2])}, the layout says {layout.shape}")
    if is_causal and layout.prompt_lengths is not None:
        raise ValueError("attention cannot be causal in a layout with prompts; drop one of the two")


def _has_unknown(layout: Layout) -> bool:
    return layout.prompt_lengths is not None and layout.prompt_lengths != layout.lengths


def _sdpa(
    q_nthd: Tensor,
    k_nthd: Tensor,
    v_nthd: Tensor,
    additive: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    q_nhtd, k_nhtd, v_nhtd = (x.transpose(1, 2) for x in (q_nthd, k_nthd, v_nthd))
    out_nhtd = scaled_dot_product_attention(
        q_nhtd, k_nhtd, v_nhtd, attn_mask=additive, dropout_p=dropout, is_causal=is_causal
    )
    return out_nhtd.transpose(1, 2)


def _additive(is_barred: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where attention is allowed, -inf where not: a boolean table is twice as slow in bfloat16 on CPUs."""
    return torch.zeros(is_barred.shape, dtype=dtype, device=is_barred.device).masked_fill_(is_barred, -torch.inf)


def _attend_padded(
    q_nthd: Tensor, k_nthd: Tensor, v_nthd: Tensor, layout: Layout, *, dropout: float, is_causal: bool
) -> Tensor:
    additive = None
    if layout.has_pad and not is_causal:  # pads stand at the right, where causal tokens do not look anyway
        additive = _additive(layout.is_pad_nt(q_nthd.device)[:, None, None], q_nthd.dtype)
    return _sdpa(q_nthd, k_nthd, v_nthd, additive, dropout, is_causal)


class _Run(NamedTuple):
    """Neighbouring cells of one length and one prompt length: attended in one call."""

    num_cells: int
    length: int
    prompt: int


def _runs(layout: Layout) -> list[_Run]:
    prompts = layout.prompt_lengths or layout.lengths
    return [_Run(len(list(same)), *sizes) for sizes, same in groupby(zip(layout.lengths, prompts, strict=True))]


def _by_run(
    q_nthd: Tensor,
    k_nthd: Tensor,
    v_nthd: Tensor,
    layout: Layout,
    *,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Attend run by run, without a table: packed cells of any kind, and generative cells of either layout."""
    if not layout.is_packed:
        packed = [layout.pack(x) for x in (q_nthd, k_nthd, v_nthd)]
        out_nthd = layout.packed().pad(_by_run(*packed, layout.packed(), dropout=dropout, is_causal=is_causal))
        return torch.nn.functional.pad(out_nthd, (0, 0, 0, 0, 0, layout.width - out_nthd.shape[1]))
    runs = _runs(layout)
    if dropout == 0 and _can_flash(q_nthd, k_nthd, v_nthd):
        return _FlashRuns.apply(q_nthd[0], k_nthd[0], v_nthd[0], runs, is_causal)[None]
    parts = zip(*(_split(x[0], runs) for x in (q_nthd, k_nthd, v_nthd)), strict=True)
    out = [_sdpa(q, k, v, None, dropout, is_causal) for q, k, v in parts]
    return torch.cat([x.flatten(0, 1) for x in out])[None]


def _split(x_thd: Tensor, runs: Sequence[_Run]) -> list[Tensor]:
    """Cut a tensor into one ``[cells, length, h, dh]`` a run; one split, whose backward is a single join."""
    parts = x_thd.split([run.num_cells * run.length for run in runs])
    return [part.unflatten(0, (run.num_cells, run.length)) for part, run in zip(parts, runs, strict=True)]


def _can_flash(*tensors: Tensor) -> bool:
    dtypes = {x.dtype for x in tensors}
    is_known = len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64, torch.bfloat16}
    return is_known and tensors[0].device.type == "cpu" and _flash_ops() is not None


_FLASH_ARGUMENTS = ["query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale"]
_FLASH_BACKWARD_ARGUMENTS = ["grad_out", *_FLASH_ARGUMENTS[:3], "out", "logsumexp", *_FLASH_ARGUMENTS[3:]]


@cache
def _flash_ops() -> tuple[Callable, Callable] | None:
    """Return PyTorch's CPU flash attention and its backward; ``None`` where this version lacks or changed them.

    They are private, but the only way to the log-sum-exp of a softmax that was never stored.
    """
    try:
        forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    except AttributeError:
        return None
    found = [[argument.name for argument in op._schema.arguments] for op in (forward, backward)]
    return (forward, backward) if found == [_FLASH_ARGUMENTS, _FLASH_BACKWARD_ARGUMENTS] else None


class _FlashRuns(torch.autograd.Function):
    """Attention of packed cells, ``[t, h, dh]`` in and out: one flash call a run, all the rest once for all cells.

    Generative attention needs no table either. All tokens of a cell attend to its P prompt keys in one unmasked
    flash call, which also gives l, the log of the softmax sum. An unknown token then takes in its own key, with score
    s: the sum becomes l' = logaddexp(l, s), the output exp(l - l') o + exp(s - l') v. Cost (P + U) P instead of
    (P + U)^2. A prompt token has s = -inf and stays as it is.

    The flash backward cannot differentiate l; given the *merged* output and l' it returns the right gradients of the
    prompt part, since softmax weights exp(score - l') and delta = grad . output are then those of the whole. The
    token's own key is added by hand.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, runs: Sequence[_Run], is_causal: bool) -> Tensor:
        flash, _ = _flash_ops()
        outs, lses = [], []
        for run, q_nhtd, k_nhtd, v_nhtd in _heads_first(runs, q, k, v):
            out, lse = flash(q_nhtd, k_nhtd[:, :, : run.prompt], v_nhtd[:, :, : run.prompt], 0.0, is_causal)
            outs.append(out.transpose(1, 2).flatten(0, 1))
            lses.append(lse.transpose(1, 2).flatten(0, 1))
        out, lse = torch.cat(outs), torch.cat(lses)
        own_weight = None
        if any(run.prompt < run.length for run in runs):
            score = (q * k).to(lse.dtype).sum(-1).mul_(q.shape[-1] ** -0.5)
            score.masked_fill_(_is_prompt(runs)[:, None], -torch.inf)
            merged = torch.logaddexp(lse, score)
            own_weight = torch.exp(score - merged)[..., None]
            out = (torch.exp(lse - merged)[..., None] * out + own_weight * v).to(out.dtype)
            lse = merged
        ctx.save_for_backward(q, k, v, out, lse, own_weight)
        ctx.runs, ctx.is_causal = runs, is_causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, flash_backward = _flash_ops()
        q, k, v, out, lse, own_weight = ctx.saved_tensors
        grad = grad.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        per_run = _heads_first(ctx.runs, q, k, v, grad, out, lse[..., None], dq, dk, dv)
        for run, q_nhtd, k_nhtd, v_nhtd, grad_nhtd, out_nhtd, lse_nht1, *found in per_run:
            seen = slice(run.prompt)
            ours = flash_backward(
                grad_nhtd,
                q_nhtd,
                k_nhtd[:, :, seen],
                v_nhtd[:, :, seen],
                out_nhtd,
                lse_nht1[..., 0],
                0.0,
                ctx.is_causal,
            )
            for into, part in zip((found[0], found[1][:, :, seen], found[2][:, :, seen]), ours, strict=True):
                into.copy_(part)
        if own_weight is not None:
            delta = (grad.to(lse.dtype) * (v - out)).sum(-1, keepdim=True)
            d_score = own_weight * delta * q.shape[-1] ** -0.5
            dq += d_score * k
            dk += d_score * q
            dv += own_weight * grad
        return dq, dk, dv, None, None


def _heads_first(runs: Sequence[_Run], *tensors: Tensor) -> Iterator[tuple]:
    """Yield each run with its views ``[cells, h, length, ...]`` of packed tensors ``[t, h, ...]``."""
    parts = zip(runs, *(_split(x, runs) for x in tensors), strict=True)
    return ((run, *(x.transpose(1, 2) for x in views)) for run, *views in parts)


def _is_prompt(runs: Sequence[_Run]) -> Tensor:
    """Return bool ``[t]``: True at prompt tokens."""
    sizes = [(run.prompt, run.length - run.prompt) for run in runs for _ in range(run.num_cells)]
    flags = torch.tensor([True, False]).repeat(len(sizes))
    return flags.repeat_interleave(torch.tensor(sizes).flatten())


def _can_varlen(q_nthd: Tensor, dropout: float) -> bool:
    if q_nthd.device.type != "cuda" or dropout > 0 or q_nthd.dtype not in (torch.float16, torch.bfloat16):
        return False
    is_fit = q_nthd.shape[-1] % 8 == 0 and torch.cuda.get_device_capability(q_nthd.device)[0] >= 8
    return is_fit and _varlen_causal_option() is not None


@cache
def _varlen_causal_option() -> str | None:
    """Return how this PyTorch's variable-length attention is told to be causal; ``None`` where there is no such."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return next((name for name in ("is_causal", "window_size") if name in known), None)


def _attend_varlen(q_nthd: Tensor, k_nthd: Tensor, v_nthd: Tensor, layout: Layout, *, is_causal: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    option = {"is_causal": is_causal}
    if _varlen_causal_option() == "window_size":
        option = {"window_size": (-1, 0 if is_causal else -1)}
    ends, longest = layout.cu_seqlens(q_nthd.device), max(layout.lengths)
    return varlen_attn(q_nthd[0], k_nthd[0], v_nthd[0], ends, ends, longest, longest, **option)[None]
