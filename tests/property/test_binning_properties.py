"""Quantile binning against numpy, bit for bit, on whatever hypothesis can think of."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.tokens import bin_ragged

thorough = settings(max_examples=120, deadline=None, derandomize=True)

counts = st.one_of(st.integers(0, 3), st.integers(0, 60), st.integers(0, 10**7)).map(float)
reals = st.floats(0, float(np.float32(3e38)), width=32)
ratios = st.integers(0, 30).map(lambda k: float(np.log1p(np.float32(k / 7))))


def numpy_digits(value, num_bins, uniform):
    """The rule as written in the paper's code, for one cell."""
    digit = np.zeros(len(value), np.float32)
    z = value[value > 0]
    if len(z):
        edge_k = np.quantile(z, np.linspace(0, 1, num_bins - 1))
        upper, lower = np.digitize(z, edge_k), np.digitize(z, edge_k, right=True)
        digit[value > 0] = upper if uniform is None else np.ceil(uniform[value > 0] * (lower - upper) + upper)
    return digit


@st.composite
def ragged_cells(draw):
    kind = draw(st.sampled_from([counts, reals, ratios, st.one_of(counts, reals)]))
    rows = draw(st.lists(st.lists(kind, max_size=80), min_size=1, max_size=4))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return [np.array(row, dtype) for row in rows]


@thorough
@given(rows=ragged_cells(), num_bins=st.sampled_from([2, 3, 7, 51, 101]), seed=st.integers(0, 2**32 - 1))
def test_bit_equal_to_numpy(rows, num_bins, seed):
    value_z = np.concatenate(rows)
    indptr_n1 = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    uniform_z = np.random.default_rng(seed).random(len(value_z))
    parts = np.split(uniform_z, indptr_n1[1:-1])
    upper = np.concatenate([numpy_digits(row, num_bins, None) for row in rows])
    spread = np.concatenate([numpy_digits(row, num_bins, u) for row, u in zip(rows, parts, strict=True)])
    np.testing.assert_array_equal(bin_ragged(value_z, indptr_n1, num_bins), upper)
    got = bin_ragged(value_z, indptr_n1, num_bins, ties="random", uniform_z=uniform_z)
    np.testing.assert_array_equal(got, spread)


@settings(thorough, max_examples=25)
@given(seed=st.integers(0, 10**6), size=st.integers(900, 4000), kind=st.sampled_from(["few", "many", "deep"]))
def test_bit_equal_to_numpy_on_whole_cells(seed, size, kind):
    """Sizes of real cells: a table of few distinct values, a sorted cell, and counts on both sides of the limit."""
    rng = np.random.default_rng(seed)
    value = {
        "few": lambda: rng.negative_binomial(0.4, 0.05, size),
        "many": lambda: rng.gamma(1.0, 3.0, size),
        "deep": lambda: rng.integers(1, 1024 + rng.integers(0, 40), size),
    }[kind]().astype(np.float32)
    uniform = rng.random(size)
    got = bin_ragged(value, [0, size], 51, ties="random", uniform_z=uniform)
    np.testing.assert_array_equal(got, numpy_digits(value, 51, uniform))
    np.testing.assert_array_equal(bin_ragged(value, [0, size], 51), numpy_digits(value, 51, None))


@thorough
@given(rows=ragged_cells(), seed=st.integers(0, 2**32 - 1))
def test_digits_are_in_range_ordered_and_below_the_upper_rule(rows, seed):
    value_z = np.concatenate(rows)
    indptr_n1 = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    upper = bin_ragged(value_z, indptr_n1, 51)
    spread = bin_ragged(
        value_z, indptr_n1, 51, ties="random", uniform_z=np.random.default_rng(seed).random(len(value_z))
    )
    assert ((spread > 0) == (value_z > 0)).all()
    assert (spread <= upper).all()
    assert upper.max(initial=0) <= 50
    for begin, end in zip(indptr_n1[:-1], indptr_n1[1:], strict=True):
        order = np.argsort(value_z[begin:end], kind="stable")
        assert (np.diff(upper[begin:end][order]) >= 0).all()
        if value_z[begin:end].any():
            assert upper[begin:end].max() == 50


@thorough
@given(rows=ragged_cells(), factor=st.sampled_from([0.5, 2.0, 1024.0]))
def test_rescaling_a_cell_changes_nothing(rows, factor):
    """Powers of two, so that no rounding is involved; tiny and huge values are left to the test above."""
    value_z = np.concatenate(rows).astype(np.float64)
    value_z[(value_z < 1e-30) | (value_z > 1e30)] = 0
    indptr_n1 = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    np.testing.assert_array_equal(bin_ragged(value_z, indptr_n1, 51), bin_ragged(value_z * factor, indptr_n1, 51))
