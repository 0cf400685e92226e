"""Means over training runs: both chances, cells and seeds, are in the interval, and pairs are kept together."""

import numpy as np
import pytest

from cellwright.metrics import bootstrap_interval, percentiles
from cellwright.metrics.runs import resampled_means, run_weights

NUM = 300


def answers_of(rights, *, seed=0):
    """One run for each share of right answers among NUM cells of three classes."""
    rng = np.random.default_rng(seed)
    truth_n = rng.integers(0, 3, NUM)
    runs = []
    for right in rights:
        is_right_n = rng.random(NUM) < right
        runs.append(np.where(is_right_n, truth_n, (truth_n + 1) % 3))
    return truth_n, runs


def test_one_run_is_the_plain_bootstrap():
    truth_n, runs = answers_of([0.7])
    found = resampled_means("accuracy", truth_n, {"a": runs}, seed=3)["a"]
    low, high = bootstrap_interval("accuracy", truth_n, runs[0], seed=3)
    assert percentiles(found) == (low, high)


@pytest.mark.parametrize("num_runs", [2, 3, 7])
def test_the_spread_over_seeds_is_that_of_a_mean(num_runs):
    """The variance of the resampled mean is that of a mean of S: s^2 / S, with the unbiased s."""
    score_s = np.random.default_rng(0).normal(size=num_runs)
    weight_rs = run_weights(num_runs, 40_000, seed=1)
    assert np.allclose(weight_rs.sum(1), 1)
    found = (weight_rs @ score_s).var()
    assert found == pytest.approx(score_s.var(ddof=1) / num_runs, rel=0.03)


def test_runs_that_differ_widen_the_interval():
    truth_n, runs = answers_of([0.5, 0.7, 0.9])
    spread = np.ptp(percentiles(resampled_means("accuracy", truth_n, {"a": runs}, seed=0)["a"]))
    alike = np.ptp(percentiles(resampled_means("accuracy", truth_n, {"a": runs[1:2] * 3}, seed=0)["a"]))
    assert spread > 2 * alike


def test_a_method_does_not_differ_from_itself_and_pairs_share_their_seeds():
    truth_n, runs = answers_of([0.5, 0.7, 0.9])
    better = [np.where(np.arange(NUM) < 30, truth_n, run) for run in runs]
    found = resampled_means("accuracy", truth_n, {"a": runs, "same": runs, "better": better, "base": runs[:1]}, seed=0)
    assert np.array_equal(found["a"], found["same"])
    gain = found["better"] - found["a"]
    assert gain.std() < 0.3 * found["a"].std()  # the spread over seeds is in both, and cancels
    assert gain.min() >= 0
    assert len(found["base"]) == len(found["a"])


def test_groups_are_drawn_whole():
    truth_n, runs = answers_of([0.7, 0.7])
    group_n = np.arange(NUM) // 30
    good = [np.where(group_n < 5, truth_n, (truth_n + 1) % 3)] * 2  # whole groups are right or wrong
    by_cell, by_group = (
        np.ptp(percentiles(resampled_means("accuracy", truth_n, {"a": good}, groups=groups, seed=0)["a"]))
        for groups in (None, group_n)
    )
    assert by_group > 3 * by_cell


def test_unequal_numbers_of_runs_are_refused():
    truth_n, runs = answers_of([0.5, 0.7, 0.9])
    with pytest.raises(ValueError, match=r"methods have \[2, 3\] runs; train them with the same seeds"):
        resampled_means("accuracy", truth_n, {"a": runs, "b": runs[:2]}, seed=0)
