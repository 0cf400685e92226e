"""Scores at known answers, their edge cases, and intervals against an independent bootstrap."""

import numpy as np
import pytest

from cellwright import metrics
from cellwright.metrics import METRICS, bootstrap_interval, confusion, paired_difference_interval, per_class

TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PRED = np.array([0, 0, 0, 1, 1, 1, -1, 2, 3, 0])


def noisy(seed, num_cells=600, num_classes=5, accuracy=0.8):
    generator = np.random.default_rng(seed)
    truth_n = generator.integers(num_classes, size=num_cells)
    is_right_n = generator.random(num_cells) < accuracy
    return truth_n, np.where(is_right_n, truth_n, generator.integers(num_classes, size=num_cells))


def test_worked_example_by_hand():
    # class 0: 3 right of 4 true, 4 predicted; class 1: 2 of 3, 3; class 2: 1 of 3, 1; class 3: 0 of 0, 1
    f1 = [6 / 8, 4 / 6, 2 / 4, 0]
    assert metrics.accuracy(TRUTH, PRED) == pytest.approx(0.6)
    assert metrics.macro_f1(TRUTH, PRED) == pytest.approx(sum(f1) / 4)
    assert metrics.macro_f1_present(TRUTH, PRED) == pytest.approx(sum(f1) / 3)
    assert metrics.weighted_f1(TRUTH, PRED) == pytest.approx((4 * f1[0] + 3 * f1[1] + 3 * f1[2]) / 10)
    assert metrics.balanced_accuracy(TRUTH, PRED) == pytest.approx((3 / 4 + 2 / 3 + 1 / 3) / 3)
    assert metrics.macro_precision(TRUTH, PRED) == pytest.approx((3 / 4 + 2 / 3 + 1 + 0) / 4)
    assert metrics.macro_recall(TRUTH, PRED) == pytest.approx((3 / 4 + 2 / 3 + 1 / 3 + 0) / 4)
    assert metrics.assigned_share(TRUTH, PRED) == pytest.approx(0.9)
    assert metrics.assigned_accuracy(TRUTH, PRED) == pytest.approx(6 / 9)


def test_one_stray_prediction_separates_the_two_macro_f1():
    truth_n = np.repeat([0, 1], 50)
    stray_n = truth_n.copy()
    stray_n[0] = 2
    assert metrics.macro_f1_present(truth_n, stray_n) > 0.99
    assert metrics.macro_f1(truth_n, stray_n) < 0.67


def test_nothing_assigned_scores_zero():
    pred_n = np.full(len(TRUTH), -1)
    for name in ("accuracy", "macro_f1", "macro_precision", "assigned_share", "assigned_accuracy"):
        assert METRICS[name].function(TRUTH, pred_n) == 0


def test_ece_by_hand():
    # two cells at 0.9 of which one is right, one cell at 0.6 that is right
    probability_nk = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert metrics.ece(np.array([0, 1, 1]), probability_nk) == pytest.approx((2 * 0.4 + 1 * 0.4) / 3)


def test_confidence_bins_are_closed_above():
    bins = metrics.confidence_bins(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 1.0]))
    assert bins.tolist() == [0, 0, 1, 7, 14]


def test_confusion_and_per_class_rows():
    counts = confusion(TRUTH, PRED, 4)
    assert counts.tolist() == [[3, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    rows = per_class(TRUTH, PRED, ["a", "b", "c", "d"])
    assert rows[1] == {
        "class": "b", "num_true": 3, "num_predicted": 3, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3
    }  # fmt: skip
    assert rows[3]["num_true"] == 0
    assert rows[3]["precision"] == rows[3]["recall"] == rows[3]["f1"] == 0
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(metrics.macro_f1(TRUTH, PRED))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.accuracy([], []), "at least one cell"),
        (lambda: metrics.accuracy([0, 1], [0]), "2 true labels but 1 answers"),
        (lambda: metrics.accuracy(["B", "T"], ["B", "T"]), "encode the names"),
        (lambda: metrics.accuracy([0, -1], [0, 0]), "1 cells have no true label"),
        (lambda: metrics.accuracy([0, 1], [0, -2]), "predicted code -2"),
        (lambda: metrics.ece([0, 1], [[0.5, 0.5], [3.0, -2.0]]), "logits"),
        (lambda: metrics.ece([0, 1], [[0.5, 0.5], [np.nan, 0.2]]), "logits"),
        (lambda: metrics.ece([0, 1], [[0.5, 0.5]]), "2 true labels but 1 answers"),
        (lambda: confusion([0, 5], [0, 1], 3), "class code 5"),
        (lambda: bootstrap_interval("f1", TRUTH, PRED, seed=0), "no metric 'f1'"),
        (lambda: bootstrap_interval("accuracy", TRUTH, PRED, seed=0, level=95), "interval level 95"),
        (lambda: bootstrap_interval("accuracy", TRUTH, PRED, seed=0, num_resamples=0), "0 resamples"),
        (lambda: bootstrap_interval("accuracy", TRUTH, PRED, seed=0, groups=[0] * 10), "one group"),
        (lambda: bootstrap_interval("accuracy", TRUTH, PRED, seed=0, groups=[0, 1]), "groups have shape"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_arguments_are_left_alone():
    truth_n, pred_n = TRUTH.copy(), PRED.copy()
    bootstrap_interval("macro_f1", truth_n, pred_n, seed=0, groups=TRUTH)
    assert (truth_n == TRUTH).all()
    assert (pred_n == PRED).all()


@pytest.mark.parametrize("name", ["macro_f1", "ari"])
def test_interval_agrees_with_drawing_cells_one_by_one(name):
    truth_n, pred_n = noisy(0)
    generator = np.random.default_rng(1)
    rows = generator.integers(len(truth_n), size=(600, len(truth_n)))
    slow = np.quantile([METRICS[name].function(truth_n[row], pred_n[row]) for row in rows], [0.025, 0.975])
    fast = bootstrap_interval(name, truth_n, pred_n, num_resamples=3000, seed=2)
    assert np.allclose(fast, slow, atol=0.2 * (slow[1] - slow[0]))


def test_group_interval_agrees_with_drawing_groups_one_by_one():
    truth_n, pred_n = noisy(3)
    group_n = np.sort(np.random.default_rng(4).integers(9, size=len(truth_n)))
    pred_n = np.where(group_n < 3, 0, pred_n)  # three groups do badly: groups differ more than cells
    generator = np.random.default_rng(5)
    rows_by_group = [np.flatnonzero(group_n == group) for group in range(9)]
    scores = []
    for _ in range(600):
        row = np.concatenate([rows_by_group[group] for group in generator.integers(9, size=9)])
        scores.append(metrics.accuracy(truth_n[row], pred_n[row]))
    slow = np.quantile(scores, [0.025, 0.975])
    fast = bootstrap_interval("accuracy", truth_n, pred_n, groups=group_n, num_resamples=3000, seed=6)
    by_cell = bootstrap_interval("accuracy", truth_n, pred_n, seed=6)
    assert np.allclose(fast, slow, atol=0.2 * (slow[1] - slow[0]))
    assert np.diff(fast) > 2 * np.diff(by_cell)


def test_interval_covers_at_about_its_level():
    hits = 0
    for seed in range(200):
        truth_n, pred_n = noisy(seed, num_cells=300, num_classes=4, accuracy=0.6)
        low, high = bootstrap_interval("accuracy", truth_n, pred_n, num_resamples=300, seed=seed)
        hits += low <= 0.6 + 0.4 / 4 <= high
    assert 180 <= hits <= 200


def test_interval_is_the_same_for_the_same_seed_and_any_chunking(monkeypatch):
    truth_n, pred_n = noisy(7)
    first = bootstrap_interval("macro_f1", truth_n, pred_n, seed=8)
    assert bootstrap_interval("macro_f1", truth_n, pred_n, seed=8) == first
    assert bootstrap_interval("macro_f1", truth_n, pred_n, seed=9) != first
    monkeypatch.setattr("cellwright.metrics.sums._CHUNK_ENTRIES", 100)
    assert bootstrap_interval("macro_f1", truth_n, pred_n, seed=8) == first


def test_paired_difference_is_zero_for_one_answer_and_narrower_than_unpaired():
    truth_n, a_n = noisy(10, num_cells=800)
    b_n = a_n.copy()
    b_n[:40] = (truth_n[:40] + 1) % 5  # B is A with forty cells spoiled
    assert paired_difference_interval("macro_f1", truth_n, (a_n, a_n), seed=0) == (0, 0)
    low, high = paired_difference_interval("macro_f1", truth_n, (a_n, b_n), seed=0)
    assert 0 < low < metrics.macro_f1(truth_n, a_n) - metrics.macro_f1(truth_n, b_n) < high
    alone = bootstrap_interval("macro_f1", truth_n, a_n, seed=0)
    assert high - low < 0.8 * (alone[1] - alone[0])
    assert paired_difference_interval("macro_f1", truth_n, (b_n, a_n), seed=0) == pytest.approx((-high, -low), rel=0.05)


def test_paired_difference_of_calibration():
    generator = np.random.default_rng(11)
    truth_n = generator.integers(2, size=500)
    sharp_nk = np.where(np.arange(2) == truth_n[:, None], 0.99, 0.01)
    flat_nk = np.full((500, 2), 0.5) + np.where(np.arange(2) == truth_n[:, None], 0.01, -0.01)
    low, high = paired_difference_interval("ece", truth_n, (sharp_nk, flat_nk), seed=0)
    assert high < 0
    assert low < high or high == pytest.approx(-0.48)
