"""What must hold for every score of denoised cells, whatever the cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.metrics import DENOISING_METRICS, resampled_denoising

FAST = settings(max_examples=50, deadline=None, derandomize=True)
ON_VALUES = tuple(name for name in DENOISING_METRICS if name != "held_out_deviance")


@st.composite
def cells(draw):
    """Deep counts, their log values, and a prediction; some genes silent everywhere, some cells empty."""
    num, num_genes = draw(st.integers(4, 9)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count_ng = rng.poisson(draw(st.sampled_from([0.3, 2.0, 40.0])), (num, num_genes)).astype(float)
    count_ng[:, 0] += 1
    truth_ng = np.log1p(1e4 * count_ng / count_ng.sum(1, keepdims=True))
    if draw(st.booleans()):
        count_ng[0] = truth_ng[0] = 0
    predicted_ng = np.abs(truth_ng + rng.normal(0, draw(st.sampled_from([0.0, 0.5, 3.0])), truth_ng.shape))
    return predicted_ng, truth_ng, count_ng


def arrays_of(name, predicted_ng, truth_ng, count_ng):
    return (predicted_ng, truth_ng) if name in ON_VALUES else (predicted_ng, count_ng, count_ng.sum(0) + 0.1)


@FAST
@given(given_cells=cells())
def test_scores_stay_in_their_range_and_know_no_order(given_cells):
    order = np.random.default_rng(1).permutation(len(given_cells[0]))
    genes = np.random.default_rng(2).permutation(given_cells[0].shape[1])
    for name, metric in DENOISING_METRICS.items():
        score = metric.function(*arrays_of(name, *given_cells))
        assert metric.low <= score <= metric.high
        shuffled = arrays_of(name, *(values_ng[order][:, genes] for values_ng in given_cells))
        assert metric.function(*shuffled) == pytest.approx(score, abs=1e-9), name


@FAST
@given(given_cells=cells())
def test_the_deep_cell_itself_is_the_best_answer(given_cells):
    _, truth_ng, _ = given_cells
    for name in ON_VALUES:
        score = DENOISING_METRICS[name].function(truth_ng, truth_ng)
        varies = {"cell_pearson": _varies_within(truth_ng), "gene_pearson": _varies_across(truth_ng)}.get(name, True)
        assert score == pytest.approx(DENOISING_METRICS[name].best if varies else 0, abs=1e-6), name


def _varies_within(truth_ng):
    return any(np.ptp(row[row > 0]) > 1e-5 for row in truth_ng if (row > 0).sum() > 1)


def _varies_across(truth_ng):
    return bool((np.ptp(truth_ng, axis=0) > 1e-5)[(truth_ng > 0).sum(0) >= 3].any())


@FAST
@given(given_cells=cells(), scale=st.floats(0.1, 1.5))
def test_deviance_does_not_ask_for_the_scale_and_prefers_the_right_rates(given_cells, scale):
    _, truth_ng, count_ng = given_cells
    deviance = DENOISING_METRICS["held_out_deviance"].function
    background_g = count_ng.sum(0) + 0.1
    right = deviance(truth_ng, count_ng, background_g)
    scaled = deviance(np.log1p(scale * np.expm1(truth_ng)), count_ng, background_g)
    assert scaled == pytest.approx(right, abs=1e-9)
    assert right <= deviance(np.ones_like(truth_ng), count_ng, background_g) + 0.03


def test_scores_by_hand():
    truth_ng = np.array([[2.0, 4.0, 0.0], [1.0, 0.0, 3.0]])
    predicted_ng = np.array([[1.0, 4.0, 0.5], [3.0, 0.1, 3.0]])
    hand = {
        "expressed_mae": (1 + 0 + 2 + 0) / 4,
        "expressed_relative_error": (1 / 2 + 0 + 2 + 0) / 4,
        "expressed_squared_relative_error": (1 / 2 + 0 + 4 + 0) / 4,
        "silent_mae": (0.5 + 0.1) / 2,
        "cell_pearson": (1 + 0) / 2,  # of the second cell both predictions are 3
    }
    for name, value in hand.items():
        assert DENOISING_METRICS[name].function(predicted_ng, truth_ng) == pytest.approx(value), name


def test_gene_correlation_agrees_with_numpy():
    rng = np.random.default_rng(0)
    truth_ng = rng.gamma(2.0, 1.0, (40, 6)) * (rng.random((40, 6)) < 0.7)
    truth_ng[:, :2] += 1  # two genes at least, to correlate
    predicted_ng = np.abs(truth_ng + rng.normal(size=truth_ng.shape))
    plain = np.mean([np.corrcoef(predicted_ng[:, g], truth_ng[:, g])[0, 1] for g in range(6)])
    assert DENOISING_METRICS["gene_pearson"].function(predicted_ng, truth_ng) == pytest.approx(plain)
    within = [np.corrcoef(p[x > 0], x[x > 0])[0, 1] for p, x in zip(predicted_ng, truth_ng, strict=True)]
    assert DENOISING_METRICS["cell_pearson"].function(predicted_ng, truth_ng) == pytest.approx(np.mean(within))


def test_deviance_by_hand_and_without_a_prediction():
    count_ng, background_g = np.array([[3.0, 1.0, 0.0]]), np.array([1.0, 1.0, 2.0])
    predicted_ng = np.log1p(np.array([[5.0, 5.0, 0.0]]))
    background = 0.99 * background_g / 4 + 0.01 / 3
    rate_g = 4 * (0.99 * np.array([0.5, 0.5, 0.0]) + 0.01 * background)
    hand = 2 * (3 * np.log(3 / rate_g[0]) + np.log(1 / rate_g[1])) / 4
    deviance = DENOISING_METRICS["held_out_deviance"].function
    assert deviance(predicted_ng, count_ng, background_g) == pytest.approx(hand)
    nothing = 2 * (3 * np.log(3 / (4 * background[0])) + np.log(1 / (4 * background[1]))) / 4
    assert deviance(np.zeros((1, 3)), count_ng, background_g) == pytest.approx(nothing)


@pytest.mark.parametrize("name", DENOISING_METRICS)
def test_resamples_surround_the_score_and_share_their_draws(name):
    rng = np.random.default_rng(3)
    count_ng = rng.poisson(rng.gamma(1.0, 3.0, (60, 12))).astype(float)
    count_ng[:, 0] += 1
    truth_ng = np.log1p(1e4 * count_ng / count_ng.sum(1, keepdims=True))
    predicted_ng = truth_ng * rng.uniform(0.5, 1.0, truth_ng.shape)
    arrays = arrays_of(name, predicted_ng, truth_ng, count_ng)
    score = DENOISING_METRICS[name].function(*arrays)
    score_r = resampled_denoising(name, *arrays, num_resamples=300, seed=5)
    if name != "silent_mae":
        assert score_r.std() > 0
        assert abs(score_r.mean() - score) < 3 * score_r.std()
    assert np.array_equal(score_r, resampled_denoising(name, *arrays, num_resamples=300, seed=5))
    groups_n = np.repeat(np.arange(3), 20)
    by_group_r = resampled_denoising(name, *arrays, groups_n=groups_n, num_resamples=200, seed=5)
    assert len(np.unique(by_group_r.round(9))) <= 10  # ways to draw 3 of 3 groups


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("expressed_mae", (np.ones((2, 3)), np.ones((2, 2))), "shape"),
        ("expressed_mae", (-np.ones((2, 3)), np.ones((2, 3))), "not negative"),
        ("expressed_mae", (np.full((2, 3), np.nan), np.ones((2, 3))), "finite"),
        ("gene_pearson", (np.ones((4, 2)), np.zeros((4, 2))), "no gene"),
        ("held_out_deviance", (np.ones((2, 3)), np.ones((2, 3)), np.zeros(3)), "background"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(name, arrays, words):
    with pytest.raises(ValueError, match=words):
        DENOISING_METRICS[name].function(*arrays)
    with pytest.raises(ValueError, match="no metric"):
        resampled_denoising("mse", *arrays, seed=0)


def test_absurdly_large_answers_are_scored_and_moderate_ones_as_before():
    held_ng, background_g = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 2.0]]), np.ones(3)
    score = DENOISING_METRICS["held_out_deviance"].function
    huge_ng = np.array([[900.0, 0.0, 0.0], [0.0, 5.0, 5.0]])
    sure_ng = np.array([[60.0, 0.0, 0.0], [0.0, 5.0, 5.0]])  # all of a cell's rate in one gene, for both
    assert score(huge_ng, held_ng, background_g) == pytest.approx(score(sure_ng, held_ng, background_g), rel=1e-9)
    equal_ng = np.array([[1000.0, 1000.0, 1000.0], [5.0, 5.0, 5.0]])
    assert score(equal_ng, held_ng, background_g) == pytest.approx(
        score(np.full((2, 3), 2.0), held_ng, background_g), rel=1e-9
    )
