"""What must hold for every metric, and agreement with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from cellwright.metrics import METRICS, bootstrap_interval, confusion, per_class

FAST = settings(max_examples=40, deadline=None, derandomize=True)
LABEL_METRICS = [name for name in METRICS if name != "ece"]
ORACLES = {
    "accuracy": oracle.accuracy_score,
    "balanced_accuracy": lambda truth, pred: oracle.recall_score(
        truth, pred, labels=np.unique(truth), average="macro", zero_division=0
    ),
    "macro_f1": lambda truth, pred: oracle.f1_score(truth, pred, average="macro", zero_division=0),
    "macro_f1_present": lambda truth, pred: oracle.f1_score(
        truth, pred, labels=np.unique(truth), average="macro", zero_division=0
    ),
    "weighted_f1": lambda truth, pred: oracle.f1_score(truth, pred, average="weighted", zero_division=0),
    "macro_precision": lambda truth, pred: oracle.precision_score(truth, pred, average="macro", zero_division=0),
    "macro_recall": lambda truth, pred: oracle.recall_score(truth, pred, average="macro", zero_division=0),
    "nmi": oracle.normalized_mutual_info_score,
    "ari": oracle.adjusted_rand_score,
}


@st.composite
def labels(draw, lowest=0):
    num_cells, num_classes = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    truth = draw(st.lists(st.integers(0, num_classes - 1), min_size=num_cells, max_size=num_cells))
    pred = draw(st.lists(st.integers(lowest, num_classes - 1), min_size=num_cells, max_size=num_cells))
    return np.array(truth), np.array(pred)


@st.composite
def probabilities(draw):
    num_cells, num_classes = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probability_nk = generator.dirichlet(np.full(num_classes, 0.5), size=num_cells)
    return generator.integers(num_classes, size=num_cells), probability_nk


def one_hot(truth_n):
    return np.eye(int(truth_n.max()) + 1)[truth_n]


@FAST
@given(labels(lowest=-1))
def test_label_metrics_stay_in_range(pair):
    for name in LABEL_METRICS:
        metric = METRICS[name]
        assert metric.low <= metric.function(*pair) <= metric.high, name


@FAST
@given(labels())
def test_truth_itself_scores_best(pair):
    truth_n, _ = pair
    for name in LABEL_METRICS:
        assert METRICS[name].function(truth_n, truth_n) == pytest.approx(METRICS[name].best), name
    assert METRICS["ece"].function(truth_n, one_hot(truth_n)) == METRICS["ece"].best


@FAST
@given(labels(lowest=-1), st.integers(0, 2**32 - 1))
def test_order_of_cells_and_names_of_classes_do_not_matter(pair, seed):
    truth_n, pred_n = pair
    generator = np.random.default_rng(seed)
    order, renamed = generator.permutation(len(truth_n)), np.append(generator.permutation(9), -1)
    for name in LABEL_METRICS:
        score = METRICS[name].function
        before = score(truth_n, pred_n)
        assert score(truth_n[order], pred_n[order]) == pytest.approx(before), name
        assert score(renamed[truth_n], renamed[pred_n]) == pytest.approx(before), name


@FAST
@given(labels(), st.sampled_from(["nmi", "ari"]))
def test_groupings_are_compared_both_ways_alike(pair, name):
    assert METRICS[name].function(*pair) == pytest.approx(METRICS[name].function(*pair[::-1]))


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn.*")  # the oracle remarks on odd label sets
@FAST
@given(labels())
def test_agrees_with_scikit_learn(pair):
    for name, expected in ORACLES.items():
        assert METRICS[name].function(*pair) == pytest.approx(expected(*pair), abs=1e-12), name
    num_classes = int(max(pair[0].max(), pair[1].max())) + 1
    assert (confusion(*pair, num_classes) == oracle.confusion_matrix(*pair, labels=range(num_classes))).all()


@FAST
@given(labels(lowest=-1))
def test_per_class_rows_agree_with_scikit_learn(pair):
    truth_n, pred_n = pair
    classes = [str(i) for i in range(6)]
    rows = per_class(truth_n, pred_n, classes)
    expected = oracle.precision_recall_fscore_support(truth_n, pred_n, labels=range(6), zero_division=0)
    for row, *values in zip(rows, *expected, strict=True):
        assert [row["precision"], row["recall"], row["f1"], row["num_true"]] == pytest.approx(values)
    assert sum(row["num_predicted"] for row in rows) == (pred_n >= 0).sum()


@FAST
@given(probabilities())
def test_ece_agrees_with_a_plain_loop_and_stays_in_range(case):
    truth_n, probability_nk = case
    total = 0.0
    for low in range(15):
        rows = [i for i, p in enumerate(probability_nk) if low / 15 < p.max() <= (low + 1) / 15]
        if rows:
            hit = np.mean([probability_nk[i].argmax() == truth_n[i] for i in rows])
            total += len(rows) / len(truth_n) * abs(hit - np.mean([probability_nk[i].max() for i in rows]))
    assert METRICS["ece"].function(truth_n, probability_nk) == pytest.approx(total, abs=1e-9)
    assert 0 <= total <= 1


@FAST
@given(labels(lowest=-1), st.sampled_from(LABEL_METRICS), st.booleans())
def test_intervals_stay_in_range(pair, name, is_grouped):
    groups = np.arange(len(pair[0])) % 2 if is_grouped and len(pair[0]) > 1 else None
    low, high = bootstrap_interval(name, *pair, groups=groups, num_resamples=40, seed=0)
    assert METRICS[name].low <= low <= high <= METRICS[name].high
