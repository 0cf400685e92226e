"""Levels and sentences: the compiled kernels, their numpy twins, and what is promised of both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.tokens import SentenceSpec, encode_sentences, level_ragged
from cellwright.tokens import sentence as sentence_module
from cellwright.tokens.levels import level_rows_numpy
from cellwright.types import CellBatch, Draw


def cells(lengths=(5, 0, 9, 1), *, seed=0, state="log1p", num_genes=40):
    rng = np.random.default_rng(seed)
    gene_z = np.concatenate([np.sort(rng.choice(num_genes, length, replace=False)) for length in lengths])
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(lengths)]),
        gene_z=gene_z.astype(np.int32),
        value_z=rng.random(len(gene_z)).astype(np.float32) * 4 + 0.1,
        row_n=np.arange(len(lengths)) + 10,
        total_n=np.full(len(lengths), 50.0),
        state=state,
    )


def words(num, *ids):
    return np.tile(np.array(ids), (num, 1))


def split(tokens):
    parts = (tokens.layout.pack(x)[0].split(tokens.layout.lengths) for x in (tokens.gene_nt, tokens.value_nt))
    return [list(zip(g.tolist(), v.tolist(), strict=True)) for g, v in zip(*parts, strict=True)]


FLOATS = st.floats(0, 2**20, width=32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FLOATS, max_size=12), min_size=1, max_size=4), st.integers(1, 12))
def test_levels_equal_numpy_digitize(rows, num_levels):
    value_z = np.array([x for row in rows for x in row], np.float32)
    indptr_n1 = np.cumsum([0, *map(len, rows)])
    level_z = level_ragged(value_z, indptr_n1, num_levels)
    assert np.array_equal(level_z, level_rows_numpy(value_z, indptr_n1, num_levels))
    assert ((level_z == 0) == (value_z == 0)).all()
    assert level_z.max(initial=0) <= num_levels


@settings(max_examples=100, deadline=None)
@given(FLOATS.filter(lambda x: x > 0), st.integers(1, 12))
def test_levels_at_the_edges_themselves(highest, num_levels):
    edge_k = np.linspace(0, np.float64(np.float32(highest)), num_levels + 1)[1:].astype(np.float32)
    near = np.concatenate([edge_k, np.nextafter(edge_k, np.float32(0)), np.nextafter(edge_k, np.float32(1e9))])
    value_z = np.append(near[near <= np.float32(highest)], np.float32(highest))
    indptr_n1 = np.array([0, len(value_z)])
    level_z = level_ragged(value_z, indptr_n1, num_levels)
    assert np.array_equal(level_z, level_rows_numpy(value_z, indptr_n1, num_levels))
    assert level_z[-1] == num_levels


def test_levels_are_not_rounded_up_products():
    """Edges are float64 multiples of max / 10: exactly 0.3 of the maximum may fall on either side."""
    value_z = np.array([0.1, 0.25, 0.5, 1.0], np.float32)
    assert level_ragged(value_z, np.array([0, 4])).tolist() == [2, 3, 5, 10]  # float32 0.1 is above 0.1
    with pytest.raises(ValueError, match="num_levels = 0"):
        level_ragged(value_z, np.array([0, 4]), 0)
    with pytest.raises(ValueError, match="not negative"):
        level_ragged(-value_z, np.array([0, 4]))


@pytest.mark.parametrize("order", ["reverse", "forward", "shuffle"])
@pytest.mark.parametrize("max_length", [4, 8, 50])
@pytest.mark.parametrize("is_packed", [True, False])
def test_kernel_equals_its_twin(order, max_length, is_packed, monkeypatch):
    batch = cells((5, 0, 30, 1, 12, 7))
    spec = SentenceSpec(max_length=max_length, order=order, pad_entity=0, is_packed=is_packed)
    before = np.array([[-1, 50], [51, -1], [-1, -1], [50, 51], [-1, -1], [52, -1]])
    after = words(6, 60)
    draw = Draw(3, 2, 9)
    want = encode_sentences(batch, spec, draw, before_nw=before, after_nw=after)
    monkeypatch.setattr(sentence_module, "IS_COMPILED", False)
    got = encode_sentences(batch, spec, draw, before_nw=before, after_nw=after)
    assert torch.equal(want.gene_nt, got.gene_nt)
    assert torch.equal(want.value_nt, got.value_nt)
    assert want.layout.lengths == got.layout.lengths
    assert max(want.layout.lengths) <= max_length


def test_orders():
    batch = cells((6,))
    spec = {order: SentenceSpec(max_length=20, order=order) for order in ("reverse", "forward", "shuffle")}
    forward = split(encode_sentences(batch, spec["forward"], Draw(), after_nw=words(1, 99)))[0]
    reverse = split(encode_sentences(batch, spec["reverse"], Draw(), after_nw=words(1, 99)))[0]
    assert [g for g, _ in forward[:-1]] == batch.gene_z.tolist()
    assert reverse == [*forward[-2::-1], (99, 0.0)]
    shuffled = {
        epoch: split(encode_sentences(batch, spec["shuffle"], Draw(0, epoch), after_nw=words(1, 99)))[0]
        for epoch in range(4)
    }
    assert all(sorted(s[:-1]) == sorted(forward[:-1]) and s[-1] == (99, 0.0) for s in shuffled.values())
    assert len({tuple(s) for s in shuffled.values()}) > 2


def test_a_cell_is_the_same_in_every_minibatch():
    batch = cells((9, 30, 7))
    spec = SentenceSpec(max_length=9, order="shuffle")
    together = split(encode_sentences(batch, spec, Draw(5, 1, 0), after_nw=words(3, 99)))
    for i in range(3):
        alone = encode_sentences(batch.take(np.array([i])), spec, Draw(5, 1, 77), after_nw=words(1, 99))
        assert split(alone)[0] == together[i]


@pytest.mark.parametrize("order", ["reverse", "shuffle"])
def test_genes_left_out_are_drawn_evenly_and_levels_come_before(order):
    batch = cells((20,), num_genes=20)
    spec = SentenceSpec(max_length=6, order=order)
    whole = dict(split(encode_sentences(batch, SentenceSpec(max_length=99), Draw()))[0])
    counts = np.zeros(20)
    for seed in range(600):
        found = split(encode_sentences(batch, spec, Draw(seed), after_nw=words(1, 99)))[0]
        assert all(whole[gene] == level for gene, level in found[:-1])
        counts[[gene for gene, _ in found[:-1]]] += 1
        assert order == "shuffle" or [g for g, _ in found[:-1]] == sorted((g for g, _ in found[:-1]), reverse=True)
    assert counts.sum() == 600 * 5
    assert ((counts - 150) ** 2 / (150 * 0.75)).sum() < 45  # chi square with 19 degrees; 45 is one in a thousand


def test_states():
    raw = cells((6, 3), state="raw")
    spec = SentenceSpec(max_length=20)
    normalised = raw.value_z * (1e4 / 50.0)
    want = split(encode_sentences(raw, spec, Draw()))
    for state, value_z in (("normalised", normalised), ("log1p", np.log1p(normalised))):
        assert (
            split(encode_sentences(replace(raw, value_z=value_z.astype(np.float32), state=state), spec, Draw())) == want
        )
    with pytest.raises(ValueError, match="these are 'binned'"):
        encode_sentences(replace(raw, state="binned"), spec, Draw())


def test_panel_changes_the_highest_value():
    batch = cells((12,))
    top = int(batch.gene_z[batch.value_z.argmax()])
    panel = tuple(int(g) for g in batch.gene_z if g != top)
    found = dict(split(encode_sentences(batch, SentenceSpec(max_length=20, panel=panel), Draw()))[0])
    assert set(found) == set(panel)
    assert max(found.values()) == 10


def test_mistakes():
    batch = cells()
    with pytest.raises(ValueError, match="row 11 expresses no gene"):
        encode_sentences(batch, SentenceSpec(max_length=9), Draw())
    with pytest.raises(ValueError, match="leaves no room beside 2 words"):
        encode_sentences(batch, SentenceSpec(max_length=2), Draw(), after_nw=words(4, 7, 8))
    with pytest.raises(ValueError, match="no order of genes"):
        SentenceSpec(max_length=9, order="random")
    with pytest.raises(ValueError, match="need pad_entity"):
        SentenceSpec(max_length=9, is_packed=False)
    with pytest.raises(ValueError, match="no cells"):
        encode_sentences(batch.take(np.arange(0)), SentenceSpec(max_length=9), Draw())
