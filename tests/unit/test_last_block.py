"""What a stack spares when some tokens' answers are wanted alone, and what a cache keeps."""

import pytest
import torch

from cellwright.nn.blocks import BlockShape, Stack
from cellwright.nn.cache import LEAST_ROOM, Cache
from cellwright.types import CellEnd, Layout

LENGTHS = (6, 1, 6, 9)
WIDTH = 16


def stack(norm="pre", num_layers=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Stack(BlockShape(width=WIDTH, num_heads=2, feed_forward=24, norm=norm), num_layers)
        for weight in made.parameters():
            torch.nn.init.normal_(weight, std=0.4)
    return made.eval()


def vectors(num, seed=1):
    return torch.randn(1, num, WIDTH, generator=torch.Generator().manual_seed(seed))


def rows_of(linear):
    """Return a list that gets the number of rows that pass through a layer."""
    rows = []
    linear.register_forward_hook(lambda _module, given, _out: rows.append(given[0][..., 0].numel()))
    return rows


@torch.inference_mode()
@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post", "pre_residual"])
@pytest.mark.parametrize(("only", "is_causal"), [(CellEnd("first"), False), (CellEnd("last", 2), True)])
def test_the_last_block_answers_for_some_tokens(only, is_causal, norm, is_packed):
    layout = Layout(LENGTHS) if is_packed else Layout(LENGTHS, 11)
    x_ntd = vectors(sum(LENGTHS))
    x_ntd = x_ntd if is_packed else layout.packed().pad(x_ntd)
    x_ntd = x_ntd if is_packed else torch.nn.functional.pad(x_ntd, (0, 0, 0, 2), value=3.0)
    blocks = stack(norm)
    want_ntd = blocks(x_ntd, layout, is_causal=is_causal)
    short, at_t = layout.end(only)
    rows = [rows_of(block.linear1) for block in blocks]
    got_1td = blocks(x_ntd, layout, is_causal=is_causal, only=only)
    torch.testing.assert_close(got_1td[0], want_ntd.flatten(0, 1)[at_t], atol=1e-5, rtol=1e-5)
    assert [found[0] for found in rows] == [x_ntd[..., 0].numel()] * 2 + [sum(short.lengths)]


@torch.inference_mode()
def test_unknown_tokens_are_answered_for_whole():
    layout = Layout(LENGTHS, None, (3, 1, 2, 9))
    x_1td, blocks = vectors(sum(LENGTHS)), stack("post")
    want_1td = blocks(x_1td, layout)
    got_1td = blocks(x_1td, layout, only=CellEnd("first"))
    torch.testing.assert_close(got_1td[0], layout.first(want_1td), rtol=0, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("only", [None, CellEnd("last"), CellEnd("last", 3)])
def test_a_cache_fed_packed(only, is_packed):
    """First sentences of unlike lengths, then two words each, then one; whole sentences say what must come out."""
    blocks, whole = stack(), Layout(tuple(length + 3 for length in LENGTHS))
    x_1td = vectors(sum(whole.lengths))
    want = blocks(x_1td, whole, is_causal=True)[0].split(whole.lengths)
    cells, cache = x_1td[0].split(whole.lengths), Cache(3, 500)
    at_n = [0] * len(cells)
    for lengths in (LENGTHS, (2,) * 4, (1,) * 4):
        layout = Layout(lengths)
        now_1td = torch.cat([x[a : a + n] for x, a, n in zip(cells, at_n, lengths, strict=True)])[None]
        if not is_packed:
            now_1td, layout = layout.pad(now_1td), layout.padded()
        got = blocks(now_1td, layout, is_causal=True, cache=cache, only=only)
        answered = layout if only is None else layout.end(only)[0]
        at_n = [a + n for a, n in zip(at_n, lengths, strict=True)]
        parts = answered.pack(got)[0].split(answered.lengths)
        for part, want_td, stop in zip(parts, want, at_n, strict=True):
            torch.testing.assert_close(part, want_td[stop - len(part) : stop], atol=1e-5, rtol=1e-5)
    assert cache.lengths == whole.lengths


@torch.inference_mode()
def test_a_buffer_grows_as_it_is_needed_and_no_further():
    blocks, num = stack(num_layers=1), 3 * LEAST_ROOM
    x_1td, cache, sizes = vectors(num), Cache(1, num), []
    want_1td = blocks(x_1td, Layout((num,)), is_causal=True)
    for at in range(num):
        got = blocks(x_1td[:, at : at + 1], Layout((1,), 1), is_causal=True, cache=cache)
        torch.testing.assert_close(got, want_1td[:, at : at + 1], atol=1e-5, rtol=1e-5)
        sizes.append(cache.layers[0].k_nchd.shape[1])
    assert sizes[0] == 1 + LEAST_ROOM
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    assert sizes[-1] == num
    with pytest.raises(ValueError, match="the cache was made for 96"):
        blocks(x_1td[:, :1], Layout((1,), 1), is_causal=True, cache=cache)


@torch.inference_mode()
@pytest.mark.parametrize("at", [[0, 3, 2], [0, 1], [3, 0, 1], [2], [3, 2, 1, 0]])
def test_cells_leave_a_cache(at):
    blocks, cache = stack(), Cache(3, 40)
    x_1td, word_n1d = vectors(sum(LENGTHS)), vectors(4, seed=2)[0][:, None]
    blocks(x_1td, Layout(LENGTHS), is_causal=True, cache=cache)
    cells = x_1td[0].split(LENGTHS)
    before = cache.layers[0].k_nchd
    cache.take(torch.tensor(at))
    assert cache.lengths == tuple(LENGTHS[i] for i in at)
    is_moved_alone = at != [3, 0, 1] and at != [3, 2, 1, 0]
    assert (cache.layers[0].k_nchd.data_ptr() == before.data_ptr()) == is_moved_alone
    got = blocks(word_n1d[at], Layout((1,) * len(at), 1), is_causal=True, cache=cache)
    for i, hidden_1d in zip(at, got, strict=True):
        sentence = torch.cat([cells[i], word_n1d[i]])[None]
        want = blocks(sentence, Layout((LENGTHS[i] + 1,)), is_causal=True)[:, -1]
        torch.testing.assert_close(hidden_1d, want, atol=1e-5, rtol=1e-5)
