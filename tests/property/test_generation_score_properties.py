"""What must hold for every score of made cells, whatever the cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.metrics import GENERATION_METRICS, Markers, generation_interval, made

FAST = settings(max_examples=40, deadline=None, derandomize=True)
ON_CELLS = ("e_distance", "mmd")
ON_NUMBERS = ("detected_ratio", "detected_difference", "nearest_ratio", "copied_share")


@st.composite
def cell_sets(draw):
    """Two sets of cells as levels, some of them equal, some empty."""
    num_genes = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = draw(st.sampled_from([0, 1, 10]))
    sizes = [draw(st.integers(2, 12)) for _ in range(2)]
    return tuple(rng.integers(0, top + 1, (size, num_genes)) / 10 for size in sizes)


@st.composite
def numbers(draw):
    one = st.lists(st.integers(0, 5), min_size=1, max_size=12)
    return np.array(draw(one), float), np.array(draw(one), float)


def plain_energy(a, b, distance):
    between = np.mean([distance(x, y) for x in a for y in b])
    within = [np.mean([distance(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (a, b)]
    return 2 * between - sum(within)


@FAST
@given(cell_sets())
def test_distances_agree_with_plain_loops(pair):
    assert made.e_distance(*pair) == pytest.approx(plain_energy(*pair, lambda x, y: np.linalg.norm(x - y)), abs=1e-6)
    pooled = np.concatenate(pair)
    apart = [np.linalg.norm(pooled[i] - pooled[j]) for i in range(len(pooled)) for j in range(i)]
    width = np.median(apart) or np.mean(apart)
    if width:
        gap = plain_energy(*pair, lambda x, y: 1 - np.exp(-np.sum((x - y) ** 2) / (2 * width**2)))
        assert made.mmd(*pair) == pytest.approx(gap, abs=1e-6)
    else:
        assert made.mmd(*pair) == 0


@FAST
@given(cell_sets(), st.integers(0, 2**32 - 1))
def test_distances_are_symmetric_and_know_no_order(pair, seed):
    rng = np.random.default_rng(seed)
    a, b = pair
    shuffled = a[rng.permutation(len(a))], b[rng.permutation(len(b))]
    genes = rng.permutation(a.shape[1])
    for name in ON_CELLS:
        score = GENERATION_METRICS[name].function
        assert score(b, a) == pytest.approx(score(a, b), abs=1e-9), name
        assert score(*shuffled) == pytest.approx(score(a, b), abs=1e-9), name
        assert score(a[:, genes], b[:, genes]) == pytest.approx(score(a, b), abs=1e-9), name
    assert made.mmd(a * 3, b * 3) == pytest.approx(made.mmd(a, b), abs=1e-9)
    assert made.e_distance(a * 3, b * 3) == pytest.approx(3 * made.e_distance(a, b), abs=1e-9)


@FAST
@given(cell_sets())
def test_a_set_against_itself_is_not_far(pair):
    """Unbiased, so at or below 0: a cell is no pair with itself within a set, but is between them."""
    for name in ON_CELLS:
        assert GENERATION_METRICS[name].function(pair[0], pair[0]) <= 1e-9, name


@FAST
@given(cell_sets(), st.sampled_from(ON_CELLS))
def test_far_away_is_worse(pair, name):
    score = GENERATION_METRICS[name].function
    assert score(pair[0] + 50, pair[1]) > max(score(pair[0], pair[0]), score(pair[1], pair[1]), 0)


@FAST
@given(numbers())
def test_numbers_against_themselves_score_best(pair):
    for name in ("detected_ratio", "detected_difference", "nearest_ratio"):
        metric = GENERATION_METRICS[name]
        assert metric.function(pair[0], pair[0]) == metric.best, name
    assert made.copied_share(pair[1] + 10, pair[0]) == 0
    assert made.c2st_auroc(pair[0], pair[0]) == GENERATION_METRICS["c2st_auroc"].best


@FAST
@given(numbers())
def test_numbers_agree_with_numpy(pair):
    a, b = pair
    assert made.detected_difference(a, b) == np.median(a) - np.median(b)
    if np.median(b):
        assert made.detected_ratio(a, b) == pytest.approx(np.median(a) / np.median(b))
    if b.any():
        assert made.nearest_ratio(a, b) == pytest.approx(a.mean() / b.mean())
    assert made.c2st_auroc(a, b) == pytest.approx(1 - made.c2st_auroc(b, a))


@FAST
@given(cell_sets(), numbers(), st.integers(0, 2**32 - 1))
def test_scores_and_intervals_stay_in_range(pair, some, seed):
    rng = np.random.default_rng(seed)
    num_genes = pair[0].shape[1]
    markers = Markers(rng.permutation(num_genes)[: rng.integers(1, num_genes + 1)], rng.random(num_genes))
    for name, metric in GENERATION_METRICS.items():
        arrays = pair if name in ON_CELLS else some
        if name == "marker_recall":
            arrays = (pair[0], markers)
        assert metric.low <= metric.function(*arrays) <= metric.high, name
        low, high = generation_interval(name, *arrays, num_resamples=30, seed=seed)
        assert metric.low <= low <= high <= metric.high, name
        assert generation_interval(name, *arrays, num_resamples=30, seed=seed) == (low, high), name


@FAST
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_medians_of_resamples_are_medians_of_the_drawn_cells(num, seed):
    rng = np.random.default_rng(seed)
    value_n = rng.integers(0, 6, num).astype(float)
    count_rn = rng.multinomial(num, np.full(num, 1 / num), 10).astype(float)
    want_r = [np.median(np.repeat(value_n, count_n.astype(int))) for count_n in count_rn]
    parts = made.detected_difference.prepare(value_n, np.zeros(num)).parts
    np.testing.assert_array_equal(made.detected_difference.finish(parts, count_rn, count_rn), want_r)


def test_every_metric_says_what_it_is():
    for name, metric in GENERATION_METRICS.items():
        assert metric.name == name
        assert metric.low <= metric.best <= metric.high
        assert metric.what
