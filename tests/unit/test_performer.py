"""Linear attention: one sum however it is cut, pads unseen, gradients, and the kernel that it approximates."""

import math

import pytest
import torch

from cellwright.nn import performer
from cellwright.nn.blocks import BlockShape, Stack
from cellwright.nn.performer import LinearAttention, attend_linear, orthogonal_projection, random_features
from cellwright.types import Layout

LENGTHS = (7, 31, 1, 16)
NUM_HEADS, HEAD_WIDTH, NUM_FEATURES = 2, 8, 20


def projection(num_features=NUM_FEATURES, head_width=HEAD_WIDTH):
    return orthogonal_projection(num_features, head_width, torch.Generator().manual_seed(3))


def packed(lengths=LENGTHS, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, sum(lengths), NUM_HEADS, HEAD_WIDTH)
    return [torch.randn(shape, generator=generator, **options) * 2 for _ in range(3)]


def by_definition(q_nthd, k_nthd, v_nthd, layout, projection_md, *, is_batch=False):
    """Attend cell by cell with all features at once, as the module's text says."""
    cells = [[x[0, a:b].transpose(0, 1) for x in (q_nthd, k_nthd, v_nthd)]
             for a, b in zip(layout.offsets(), layout.offsets()[1:], strict=False)]  # fmt: skip
    s = HEAD_WIDTH**-0.25
    tops = [(s * k @ projection_md.T).amax() for _, k, _ in cells]
    out = []
    for (q, k, v), own in zip(cells, tops, strict=True):
        top = max(tops) if is_batch else own
        scores = [s * x @ projection_md.T - (s * x).square().sum(-1, keepdim=True) / 2 for x in (q, k)]
        f_q = (scores[0] - (s * q @ projection_md.T).amax(-1, keepdim=True)).exp() + 1e-4
        f_k = (scores[1] - top).exp() + 1e-4
        out.append((f_q @ (f_k.transpose(1, 2) @ v)) / (f_q @ f_k.sum(1)[..., None]))
    return torch.cat([x.transpose(0, 1) for x in out])[None]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("piece", [1, 5 * 4 * NUM_HEADS * NUM_FEATURES, 2**23])
@pytest.mark.parametrize("is_packed", [True, False])
def test_any_cutting_is_the_definition(monkeypatch, is_packed, piece, is_batch):
    monkeypatch.setattr(performer, "PIECE", piece)
    layout, projection_md = Layout(LENGTHS), projection().double()
    qkv = packed(dtype=torch.float64)
    want = by_definition(*qkv, layout, projection_md, is_batch=is_batch)
    given = layout if is_packed else layout.padded(40)
    laid = (
        qkv if is_packed else [torch.nn.functional.pad(layout.pad(x, 9.0), (0, 0, 0, 0, 0, 9), value=50.0) for x in qkv]
    )
    with torch.no_grad():
        found = attend_linear(*laid, given, projection_md, key_maximum="batch" if is_batch else "cell")
    torch.testing.assert_close(given.pack(found), want, atol=2e-6, rtol=1e-5)


def test_cells_of_one_length_need_no_padding():
    layout, projection_md = Layout((12,) * 4), projection()
    qkv = packed(layout.lengths)
    want = by_definition(*qkv, layout, projection_md)
    torch.testing.assert_close(attend_linear(*qkv, layout, projection_md), want, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("piece", [1, 2**23])
def test_gradients_are_those_of_the_definition(monkeypatch, piece):
    monkeypatch.setattr(performer, "PIECE", piece)
    layout, projection_md = Layout(LENGTHS), projection()
    weight = torch.randn(1, sum(LENGTHS), NUM_HEADS, HEAD_WIDTH)
    grads = []
    for attend in (by_definition, attend_linear):
        qkv = [x.requires_grad_() for x in packed()]
        (attend(*qkv, layout, projection_md) * weight).sum().backward()
        grads.append([x.grad for x in qkv])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_many_features_come_near_the_softmax():
    layout, qkv = Layout((40,)), packed((40,))
    q, k, v = (x * 0.25 for x in qkv)
    exact = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    errors = []
    for num_features in (16, 4096):
        found = attend_linear(q, k, v, layout, projection(num_features))
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert errors[1] < 0.1
    assert errors[1] < 0.5 * errors[0]


def test_keys_far_apart_are_finite():
    layout = Layout((3, 3))
    q, k, v = packed(layout.lengths)
    k = k * torch.tensor([1.0, 300.0]).repeat_interleave(3)[None, :, None, None]
    for maximum in ("cell", "batch"):
        assert torch.isfinite(attend_linear(q, k, v, layout, projection(), key_maximum=maximum)).all()


def test_blocks_are_made_with_it():
    shape = BlockShape(width=16, num_heads=2, feed_forward=32, activation="gelu", norm="pre")
    stack = Stack(shape, 2, lambda shape: LinearAttention(shape, projection()))
    assert [name for name, _ in stack.named_buffers()] == [f"{i}.attention.projection_md" for i in (0, 1)]
    before = stack[0].attention.projection_md.clone()
    x_ntd = torch.randn(1, sum(LENGTHS), 16)
    for _ in range(3):
        stack.train()(x_ntd, Layout(LENGTHS)).sum().backward()
    assert torch.equal(stack[0].attention.projection_md, before)
    half = stack.bfloat16()(x_ntd.bfloat16(), Layout(LENGTHS))
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half).all()


def test_what_it_cannot_do_is_refused():
    qkv = packed()
    with pytest.raises(ValueError, match="cannot keep a prompt apart"):
        attend_linear(*qkv, Layout(LENGTHS, None, (3, 3, 1, 3)), projection())
    shape = BlockShape(width=16, num_heads=2, feed_forward=32)
    attention = LinearAttention(shape, projection())
    with pytest.raises(ValueError, match="not causal"):
        attention(torch.zeros(1, 3, 16), Layout((3,)), is_causal=True)
    with pytest.raises(ValueError, match="no weights to drop"):
        LinearAttention(BlockShape(width=16, num_heads=2, feed_forward=32, attention_dropout=0.1), projection())
    with pytest.raises(ValueError, match="0 features"):
        orthogonal_projection(0, 8, torch.Generator())


def test_the_published_number_of_features():
    assert int(64 * math.log(64)) == 266
    x_nhtd = torch.randn(1, 8, 3, 64)
    features = random_features(x_nhtd, projection(266, 64), is_query=True)
    assert features.shape == (1, 8, 3, 266)
    assert (features > 0).all()
