"""Ragged values: sums, normalisation, the edges of quantile binning, and what is refused."""

import numpy as np
import pytest

from cellwright.tokens import bin_ragged, library_size, normalise_ragged, values
from cellwright.tokens.draws import IS_COMPILED, TIES, cell_keys, fill_words, words_numpy
from cellwright.types import Draw


def one(value_z, num_bins=51, **options):
    value_z = np.asarray(value_z, np.float32)
    return bin_ragged(value_z, [0, len(value_z)], num_bins, **options)


def test_library_size_knows_empty_cells():
    total_n = library_size(np.array([1, 2, 4], np.float32), np.array([0, 0, 2, 2, 3, 3]))
    np.testing.assert_array_equal(total_n, [0, 3, 0, 4, 0])
    assert total_n.dtype == np.float64
    np.testing.assert_array_equal(library_size(np.zeros(0), [0, 0, 0]), [0, 0])


def test_normalise_uses_the_total_over_all_genes():
    value_z = np.array([1.0, 3.0, 0.0, 5.0], np.float32)
    got_z = normalise_ragged(value_z, [0, 2, 4], [8.0, 5.0], log=False)
    np.testing.assert_allclose(got_z, [1250, 3750, 0, 10000])
    np.testing.assert_allclose(normalise_ragged(value_z, [0, 2, 4], [8.0, 5.0]), np.log1p(got_z))
    np.testing.assert_array_equal(value_z, [1, 3, 0, 5])
    assert got_z.dtype == np.float32


@pytest.mark.parametrize(
    ("total_n", "target", "words"),
    [([0.0], 1e4, "total"), ([np.nan], 1e4, "total"), ([1.0, 2.0], 1e4, "2 entries"), ([1.0], 0, "target")],
)
def test_normalise_refuses(total_n, target, words):
    with pytest.raises(ValueError, match=words):
        normalise_ragged(np.ones(2, np.float32), [0, 2], total_n, target=target)


def test_a_single_value_and_equal_values_get_the_top_digit():
    np.testing.assert_array_equal(one([3]), [50])
    np.testing.assert_array_equal(one([2, 2, 2]), [50, 50, 50])
    np.testing.assert_array_equal(one([0, 5, 0]), [0, 50, 0])
    np.testing.assert_array_equal(one([7, 1], num_bins=2), [1, 1])


def test_empty_cells_and_empty_minibatches():
    assert one([]).shape == (0,)
    np.testing.assert_array_equal(bin_ragged(np.ones(1, np.float32), [0, 0, 1, 1], 51), [50])
    assert bin_ragged(np.zeros(0, np.float32), [0], 51, ties="random").shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_number_types_agree_on_counts(dtype):
    value_z = np.random.default_rng(0).integers(0, 40, 400)
    want = one(value_z)
    np.testing.assert_array_equal(bin_ragged(value_z.astype(dtype), [0, 400], 51), want)


def test_read_only_and_strided_input():
    value_z = np.arange(1, 21, dtype=np.float32)[::2]
    frozen_z = value_z.copy()
    frozen_z.flags.writeable = False
    np.testing.assert_array_equal(bin_ragged(frozen_z, [0, 10], 7), bin_ragged(value_z, [0, 10], 7))


def test_random_ties_do_not_depend_on_the_minibatch():
    rng = np.random.default_rng(1)
    value_z = rng.integers(1, 4, 300).astype(np.float32)
    together = bin_ragged(value_z, [0, 100, 300], 51, ties="random", draw=Draw(5, 2), row_n=[40, 7])
    alone = bin_ragged(value_z[100:], [0, 200], 51, ties="random", draw=Draw(5, 2, step=9), row_n=[7])
    np.testing.assert_array_equal(together[100:], alone)
    for other in (Draw(6, 2), Draw(5, 3)):
        assert (bin_ragged(value_z[100:], [0, 200], 51, ties="random", draw=other, row_n=[7]) != alone).any()


def test_random_ties_are_uniform_over_their_range():
    value_z = np.ones(50_000, np.float32)
    count_k = np.bincount(one(value_z, ties="random", draw=Draw(3)).astype(int), minlength=51)
    assert count_k[0] == 0
    chi_square = ((count_k[1:] - 1000) ** 2 / 1000).sum()
    assert 20 < chi_square < 90  # 49 degrees of freedom: far tails on both sides


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_values_are_refused(bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        one([1, bad])


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((np.ones(2), [0, 2], 1), {}, "num_bins = 1"),
        ((np.ones(2), [0, 2], 51), {"ties": "lower"}, "'lower'"),
        ((np.ones(2), [0, 3], 51), {}, "row boundaries"),
        ((np.ones(2), [0, 2, 1, 2], 51), {}, "row boundaries"),
        ((np.ones((2, 1)), [0, 2], 51), {}, "one-dimensional"),
        ((np.ones(2, complex), [0, 2], 51), {}, "complex"),
        ((np.ones(2), [0, 2], 51), {"uniform_z": np.ones(3)}, "uniform_z"),
        ((np.ones(2), [0, 2], 51), {"row_n": [1, 2]}, "row_n"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        bin_ragged(*arguments, **options)


def test_without_numba_the_digits_are_the_same(monkeypatch):
    rng = np.random.default_rng(2)
    value_z = rng.integers(0, 9, 500).astype(np.float32)
    options = {"ties": "random", "draw": Draw(4), "row_n": [3, 1]}
    want = bin_ragged(value_z, [0, 120, 500], 51, **options)
    monkeypatch.setattr(values, "IS_COMPILED", False)
    np.testing.assert_array_equal(bin_ragged(value_z, [0, 120, 500], 51, **options), want)


@pytest.mark.skipif(not IS_COMPILED, reason="compares the compiled twin")
@pytest.mark.parametrize("num", [0, 1, 6, 7])
def test_both_twins_give_the_same_words(num):
    (key,) = cell_keys(Draw(1, 2), [3], TIES)
    word = np.zeros(num + 1, np.uint32)
    fill_words(key, num, word)
    np.testing.assert_array_equal(word[:num], words_numpy(key, num))


def test_keys_differ_by_seed_epoch_row_and_purpose_but_not_by_step():
    keys = {
        int(cell_keys(Draw(seed, epoch), [row], purpose)[0])
        for seed in (0, 1, -1)
        for epoch in (0, 1)
        for row in (0, 1, 2**40)
        for purpose in (1, 2)
    }
    assert len(keys) == 36
    np.testing.assert_array_equal(cell_keys(Draw(1, 2, 3), [4], 1), cell_keys(Draw(1, 2, 0), [4], 1))


def test_words_are_balanced_bits():
    words = np.concatenate([words_numpy(key, 2001) for key in cell_keys(Draw(0), np.arange(50), 1)])
    ones = ((words[:, None] >> np.arange(32, dtype=np.uint32)) & 1).mean(0)
    assert abs(ones - 0.5).max() < 0.008  # five standard deviations of 100,050 coin flips
    assert len(np.unique(words)) > 100_000
