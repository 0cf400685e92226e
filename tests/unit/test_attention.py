"""`attend` gives the numbers of its definition, forwards and backwards, in every layout."""

import numpy as np
import pytest
import torch

from cellwright.nn import attention
from cellwright.nn.attention import attend, attend_dense, attend_end, dense_mask
from cellwright.types import CellEnd, Layout

LENGTHS = (5, 5, 1, 9, 3)
PROMPTS = {
    "none": None,
    "some": (2, 2, 1, 4, 3),
    "one": (1, 1, 1, 1, 1),
    "all": LENGTHS,
    "mixed": (5, 1, 1, 8, 2),
}


def layout_of(prompts, is_packed, lengths=LENGTHS, width=11):
    return Layout(lengths, None if is_packed else width, prompts)


def random_qkv(layout, dtype=torch.float32, seed=0, heads=2, head_width=8):
    generator = torch.Generator().manual_seed(seed)
    shape = (*layout.shape, heads, head_width)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def run(function, layout, qkv, device="cpu", **options):
    """Outputs at real tokens and gradients, for a loss that reads real tokens only."""
    leaves = [x.detach().clone().to(device).requires_grad_() for x in qkv]
    out = function(*leaves, layout, **options)
    assert out.shape == leaves[0].shape
    assert torch.isfinite(out).all()
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(device)
    is_real = ~layout.is_pad_nt(device)
    (out * weight)[is_real].sum().backward()
    return [out[is_real].detach(), *(x.grad for x in leaves)]


def by_hand(layout, qkv, is_causal):
    """Softmax attention token by token in numpy: who is seen is read off the layout's own words."""
    q, k, v = (layout.pack(x)[0].numpy() for x in qkv)
    out, offsets = np.zeros_like(q), layout.offsets()
    for cell, begin in enumerate(offsets[:-1]):
        for at in range(begin, offsets[cell + 1]):
            seen = np.arange(begin, offsets[cell + 1])
            if layout.prompt_lengths is not None:
                seen = seen[(seen - begin < layout.prompt_lengths[cell]) | (seen == at)]
            if is_causal:
                seen = seen[seen <= at]
            for head in range(q.shape[1]):
                score = k[seen, head] @ q[at, head] / np.sqrt(q.shape[-1])
                weight = np.exp(score - score.max())
                out[at, head] = weight @ v[seen, head] / weight.sum()
    return out


CASES = [(prompts, False) for prompts in PROMPTS] + [("none", True)]


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(("prompts", "is_causal"), CASES)
def test_the_definition(prompts, is_causal, is_packed):
    layout = layout_of(PROMPTS[prompts], is_packed)
    qkv = random_qkv(layout, torch.float64)
    out = attend_dense(*qkv, layout, is_causal=is_causal)
    np.testing.assert_allclose(layout.pack(out)[0].numpy(), by_hand(layout, qkv, is_causal), atol=1e-12)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(("prompts", "is_causal"), CASES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_attend_agrees_with_the_definition(prompts, is_causal, is_packed, dtype, atol):
    layout = layout_of(PROMPTS[prompts], is_packed)
    qkv = random_qkv(layout, dtype)
    want = run(attend_dense, layout, qkv, is_causal=is_causal)
    for got, expected in zip(run(attend, layout, qkv, is_causal=is_causal), want, strict=True):
        torch.testing.assert_close(got, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_batch_without_pads(is_causal):
    layout = Layout((6, 6, 6), 6)
    qkv = random_qkv(layout)
    want = run(attend_dense, layout, qkv, is_causal=is_causal)
    for got, expected in zip(run(attend, layout, qkv, is_causal=is_causal), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def long_generative(is_packed):
    rng = np.random.default_rng(0)
    lengths = tuple(rng.integers(40, 200, 4).tolist())
    prompts = tuple(int(rng.integers(1, n + 1)) for n in lengths)
    layout = layout_of(prompts, is_packed, lengths, max(lengths))
    return layout, random_qkv(layout, torch.float64, heads=4, head_width=16)


@pytest.mark.parametrize("is_packed", [True, False])
def test_long_ragged_generative_cells(is_packed):
    layout, qkv = long_generative(is_packed)
    qkv = [x.float() for x in qkv]
    for got, expected in zip(run(attend, layout, qkv), run(attend_dense, layout, qkv), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_peaked_softmax_loses_about_as_many_digits_as_the_definition(is_packed):
    """Scores of size 60: single precision itself is only good to 1e-4 here, so both are held to double precision."""
    layout, qkv = long_generative(is_packed)
    exact = run(attend_dense, layout, [4 * x for x in qkv])
    single = [4 * x.float() for x in qkv]
    for got, dense, want in zip(run(attend, layout, single), run(attend_dense, layout, single), exact, strict=True):
        error, dense_error = (x.sub(want).square().mean().sqrt() for x in (got, dense))
        assert error <= 2 * dense_error


@pytest.mark.parametrize(("prompts", "is_causal"), CASES)
def test_packed_equals_padded(prompts, is_causal):
    layout = layout_of(PROMPTS[prompts], False)
    qkv = random_qkv(layout)
    padded = attend(*qkv, layout, is_causal=is_causal)
    packed = attend(*(layout.pack(x) for x in qkv), layout.packed(), is_causal=is_causal)
    torch.testing.assert_close(packed, layout.pack(padded), atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("side", ["first", "last"])
@pytest.mark.parametrize("num", [1, 2, 4, 20])
def test_some_tokens_alone_get_the_same(side, num, is_causal, is_packed):
    layout, which = layout_of(None, is_packed), CellEnd(side, num)
    qkv = random_qkv(layout)
    ended, at_t = layout.end(which)
    wanted = [slice(0, num) if side == "first" else slice(-min(num, length), None) for length in LENGTHS]
    want = attend(*qkv, layout, is_causal=is_causal)
    rows = layout.pack(want)[0].split(LENGTHS)
    q_1thd = qkv[0].flatten(0, 1)[at_t][None]
    got = attend_end(q_1thd, *qkv[1:], layout, which, is_causal=is_causal)
    assert ended.lengths == tuple(min(num, length) for length in LENGTHS)
    torch.testing.assert_close(
        got[0], torch.cat([row[part] for row, part in zip(rows, wanted, strict=True)]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(want.flatten(0, 1)[at_t], got[0], atol=1e-5, rtol=1e-5)


def test_some_tokens_alone_must_fit():
    layout = layout_of(None, True)
    qkv = random_qkv(layout)
    with pytest.raises(ValueError, match="queries and keys have shapes"):
        attend_end(*qkv, layout, CellEnd("last"))
    with pytest.raises(ValueError, match="all known"):
        attend_end(qkv[0][:, :5], *qkv[1:], layout_of(PROMPTS["some"], True), CellEnd("last"))


@pytest.mark.parametrize(("prompts", "is_causal"), CASES)
def test_pads_and_other_cells_reach_nobody(prompts, is_causal):
    layout = layout_of(PROMPTS[prompts], False)
    qkv = random_qkv(layout)
    is_pad = layout.is_pad_nt()
    spoilt = [x.masked_fill(is_pad[..., None, None], 1e4) for x in qkv]
    spoilt = [torch.cat([x[:-1], x[-1:] + 3]) for x in spoilt]
    kept = ~is_pad
    kept[-1] = False
    want, got = (attend(*x, layout, is_causal=is_causal)[kept] for x in (qkv, spoilt))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_unknown_tokens_are_seen_by_themselves_alone():
    layout = Layout((6,), None, (2,))
    qkv = random_qkv(layout)
    changed = [x.clone() for x in qkv]
    for x in changed:
        x[:, 4] += 2
    before, after = attend(*qkv, layout)[0], attend(*changed, layout)[0]
    same = [0, 1, 2, 3, 5]
    torch.testing.assert_close(after[same], before[same], atol=0, rtol=0)
    assert not torch.allclose(after[4], before[4])


def test_non_contiguous_views_of_a_fused_projection():
    for prompts in (None, (3, 1)):
        layout = Layout((4, 7), None, prompts)
        fused = torch.randn(1, 11, 3, 2, 8, generator=torch.Generator().manual_seed(2))
        views = fused.unbind(2)
        want = attend_dense(*(x.contiguous() for x in views), layout)
        torch.testing.assert_close(attend(*views, layout), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_packed", [True, False])
def test_bfloat16_is_near(is_packed):
    layout = layout_of(PROMPTS["some"], is_packed)
    qkv = random_qkv(layout, torch.bfloat16)
    want = run(attend_dense, layout, [x.float() for x in qkv])
    got = run(attend, layout, qkv)
    assert all(x.dtype == torch.bfloat16 for x in got)
    for x, expected in zip(got, want, strict=True):
        torch.testing.assert_close(x.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("prompts", "is_causal"), [((3, 1), False), ((3, 4), False), (None, False), (None, True)])
def test_gradcheck_of_the_flash_path(prompts, is_causal):
    layout = Layout((5, 4), None, prompts)
    qkv = [x.requires_grad_() for x in random_qkv(layout, torch.float64, head_width=4)]
    assert torch.autograd.gradcheck(lambda *x: attend(*x, layout, is_causal=is_causal), qkv)


def test_this_pytorch_has_the_private_operations():
    """Fails after an upgrade that takes them away: generative attention would silently be slow."""
    assert attention._flash_ops() is not None


@pytest.mark.parametrize("is_packed", [True, False])
def test_without_the_private_operations(monkeypatch, is_packed):
    layout = layout_of(PROMPTS["mixed"], is_packed)
    qkv = random_qkv(layout)
    want = run(attend, layout, qkv)
    monkeypatch.setattr(attention, "_flash_ops", lambda: None)
    monkeypatch.setattr(attention._FlashRuns, "apply", None)
    for got, expected in zip(run(attend, layout, qkv), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompts", ["none", "some"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_dropout_keeps_the_mean_and_draws_anew(prompts, is_packed):
    lengths = (24, 16)
    layout = layout_of(None if prompts == "none" else (12, 15), is_packed, lengths, 24)
    qkv = random_qkv(layout)
    is_real = ~layout.is_pad_nt()
    torch.manual_seed(0)
    draws = torch.stack([attend(*qkv, layout, dropout=0.3)[is_real] for _ in range(600)])
    want = attend(*qkv, layout)[is_real]
    assert not torch.equal(draws[0], draws[1])
    error = (draws.mean(0) - want) / (draws.std(0) / 600**0.5 + 1e-6)
    assert error.abs().max() < 5.5


def test_dense_mask_shows_who_sees_whom():
    layout = Layout((3, 2), 4, (1, 2))
    is_seen = dense_mask(layout)[:, 0].int().tolist()
    assert is_seen[0][:3] == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]
    assert is_seen[1][:2] == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert dense_mask(Layout((3, 2)), is_causal=True)[:, 0].int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
        [[1, 0, 0], [1, 1, 0], [1, 1, 0]],
    ]
    assert dense_mask(layout).any(-1).all()


@pytest.mark.parametrize("function", [attend, attend_dense])
def test_what_does_not_fit_is_refused(function):
    layout = Layout((3, 2))
    q, k, v = random_qkv(layout)
    with pytest.raises(ValueError, match="one shape"):
        function(q, k[:, :4], v, layout)
    with pytest.raises(ValueError, match=r"\(1, 5\).*\(2, 3\)"):
        function(q, k, v, layout.padded())
    with pytest.raises(ValueError, match="causal"):
        function(q, k, v, Layout((3, 2), None, (1, 1)), is_causal=True)


def per_sequence(q, k, v, ends, is_causal):
    """What a variable-length kernel computes, sequence by sequence."""
    bounds = ends.tolist()
    parts = [[x[a:b].transpose(0, 1) for x in (q, k, v)] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return torch.cat([sdpa(*part, is_causal=is_causal).transpose(0, 1) for part in parts])


def older_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    assert (max_q, max_k) == (9, 9)
    assert torch.equal(cu_seq_q, cu_seq_k)
    return per_sequence(query, key, value, cu_seq_q, is_causal)


def newer_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
    assert window_size in ((-1, -1), (-1, 0))
    return older_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size == (-1, 0))


@pytest.mark.parametrize("kernel", [older_varlen, newer_varlen])
@pytest.mark.parametrize("is_causal", [False, True])
def test_both_signatures_of_the_variable_length_kernel(monkeypatch, kernel, is_causal):
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    attention._varlen_causal_option.cache_clear()
    layout = layout_of(None, True)
    qkv = random_qkv(layout)
    got = attention._attend_varlen(*qkv, layout, is_causal=is_causal)
    attention._varlen_causal_option.cache_clear()
    torch.testing.assert_close(got, attend_dense(*qkv, layout, is_causal=is_causal), atol=1e-5, rtol=0)


def test_the_variable_length_kernel_is_for_cuda_alone():
    assert not attention._can_varlen(torch.zeros(1, 2, 2, 8, dtype=torch.bfloat16), 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(("prompts", "is_causal"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_agrees_with_the_definition(prompts, is_causal, is_packed, dtype):
    layout = layout_of(PROMPTS[prompts], is_packed)
    qkv = random_qkv(layout, dtype)
    want = run(attend_dense, layout, [x.double() for x in qkv], is_causal=is_causal)
    atol = 2e-5 if dtype == torch.float32 else 0.05
    for got, expected in zip(run(attend, layout, qkv, "cuda", is_causal=is_causal), want, strict=True):
        torch.testing.assert_close(got.double().cpu(), expected, atol=atol, rtol=atol)
