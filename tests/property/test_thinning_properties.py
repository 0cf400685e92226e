"""Binomial thinning on whatever hypothesis can think of: molecules are only lost, and lost as the share says."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.tokens import depth, thin_counts
from cellwright.types import CellBatch, Draw

thorough = settings(max_examples=80, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)


def cells_of(rows, others, *, first_row=0):
    """Cells from dense rows of counts, and molecules of genes outside the vocabulary."""
    counts_ng = np.array(rows, np.float32).reshape(len(rows), -1)
    is_stored_ng = counts_ng > 0
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(is_stored_ng.sum(1))]),
        gene_z=np.nonzero(is_stored_ng)[1].astype(np.int32),
        value_z=counts_ng[is_stored_ng],
        row_n=np.arange(len(rows)) + first_row,
        total_n=counts_ng.sum(1, dtype=np.float64) + others,
    )


def dense(cells, num_genes):
    counts_ng = np.zeros((len(cells), num_genes))
    counts_ng[np.repeat(np.arange(len(cells)), cells.num_genes_n), cells.gene_z] = cells.value_z
    return counts_ng


@st.composite
def some_cells(draw):
    num, width = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    count = st.one_of(st.integers(0, 3), st.integers(0, 9000))
    rows = draw(st.lists(st.lists(count, min_size=width, max_size=width), min_size=num, max_size=num))
    others = draw(st.lists(st.integers(0, 5000), min_size=num, max_size=num))
    return cells_of(rows, others, first_row=draw(st.integers(0, 10**9))), width


SHARES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5]))


@thorough
@given(given_cells=some_cells(), share=SHARES, seed=SEEDS)
def test_molecules_are_only_lost(given_cells, share, seed):
    cells, width = given_cells
    before = {name: getattr(cells, name).copy() for name in ("indptr_n1", "gene_z", "value_z", "total_n")}
    thinned = thin_counts(cells, np.full(len(cells), share), Draw(seed))
    assert (thinned.value_z > 0).all()
    assert (dense(thinned, width) <= dense(cells, width)).all()
    lost_n = cells.total_n - thinned.total_n
    assert (lost_n >= (dense(cells, width) - dense(thinned, width)).sum(1)).all()
    assert all(np.array_equal(getattr(cells, name), array) for name, array in before.items())
    if share == 1:
        assert all(np.array_equal(getattr(thinned, name), array) for name, array in before.items())
    if share == 0:
        assert not len(thinned.value_z)
        assert not thinned.total_n.any()


@thorough
@given(given_cells=some_cells(), shares=st.tuples(SHARES, SHARES).map(sorted), seed=SEEDS)
def test_of_two_shares_the_smaller_keeps_a_part_of_the_larger(given_cells, shares, seed):
    cells, width = given_cells
    few, many = (thin_counts(cells, np.full(len(cells), share), Draw(seed)) for share in shares)
    assert (dense(few, width) <= dense(many, width)).all()
    assert (few.total_n <= many.total_n).all()


@thorough
@given(given_cells=some_cells(), seed=SEEDS, epoch=st.integers(0, 99))
def test_compiled_and_numpy_agree_to_the_bit_and_minibatches_do_not_matter(given_cells, seed, epoch):
    cells, _ = given_cells
    share_n = np.random.default_rng(seed).random(len(cells))
    draw = Draw(seed, epoch, 0)
    thinned = thin_counts(cells, share_n, draw)
    is_compiled, depth.IS_COMPILED = depth.IS_COMPILED, False
    try:
        plain = thin_counts(cells, share_n, draw)
    finally:
        depth.IS_COMPILED = is_compiled
    order = np.random.default_rng(seed).permutation(len(cells))
    moved = thin_counts(cells.take(order), share_n[order], replace(draw, step=7)).take(np.argsort(order))
    for other in (plain, moved):
        for name in ("indptr_n1", "gene_z", "value_z", "total_n", "row_n"):
            assert np.array_equal(getattr(thinned, name), getattr(other, name)), name


@settings(max_examples=12, deadline=None, derandomize=True)
@given(share=st.floats(0.02, 0.98), seed=SEEDS)
def test_counts_are_binomial(share, seed):
    num, count = 3000, 12
    thinned = thin_counts(cells_of([[count]] * num, 0), np.full(num, share), Draw(seed))
    kept_n = dense(thinned, 1)[:, 0]
    variance = count * share * (1 - share)
    assert abs(kept_n.mean() - count * share) < 5 * np.sqrt(variance / num)
    assert abs(kept_n.var() / variance - 1) < 5 * np.sqrt(2.2 / num)  # kurtosis is nearly that of a normal law
