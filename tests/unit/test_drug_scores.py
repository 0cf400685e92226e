"""Scores and simple predictors of drug response, on tables whose effects are planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from cellwright.baselines.drugs import RESPONSE_BASELINES, composition_ridge, effects, kernel_ridge, line_factors
from cellwright.data.drug_splits import split_pairs
from cellwright.data.drugs import LineFeatures, Responses
from cellwright.evaluate.drugs import (
    SHARE,
    baseline_answers,
    drug_figure,
    response_figure,
    score_responses,
    table_of_rows,
    write_rows,
)
from cellwright.metrics.drugs import (
    DRUG_METRICS,
    auroc,
    drug_correlations,
    fold_auroc,
    pearson,
    resampled_auroc,
    resampled_responses,
    response_interval,
    rmse,
    share_better,
    within_drug_pearson,
)


def planted(num_lines=60, num_drugs=8, *, signal=1.0, noise=0.3, seed=0):
    """ln IC50 = drug effect + line effect + what the line's first feature does to the drug + noise."""
    rng = np.random.default_rng(seed)
    value_lf = rng.normal(size=(num_lines, 5)).astype(np.float32)
    drug_u, line_l, slope_u = rng.normal(0, 3, num_drugs), rng.normal(0, 0.5, num_lines), rng.choice([-1, 1], num_drugs)
    line_p, drug_p = (part.ravel() for part in np.indices((num_lines, num_drugs)))
    value_p = drug_u[drug_p] + line_l[line_p] + signal * slope_u[drug_p] * value_lf[line_p, 0]
    names = tuple(f"L{i}" for i in range(num_lines)), tuple(f"D{i}" for i in range(num_drugs))
    pairs = Responses(line_p, drug_p, value_p + rng.normal(0, noise, len(value_p)), *names)
    return pairs, LineFeatures(names[0], value_lf, tuple(f"g{i}" for i in range(5)))


def test_scores_are_those_of_scipy():
    pairs, _ = planted()
    pred_p = pairs.value_p + np.random.default_rng(1).normal(size=len(pairs))
    assert pearson(pairs.value_p, pred_p, pairs.drug_p) == pytest.approx(pearsonr(pairs.value_p, pred_p)[0])
    each = [pearsonr(pairs.value_p[pairs.drug_p == k], pred_p[pairs.drug_p == k])[0] for k in range(8)]
    assert within_drug_pearson(pairs.value_p, pred_p, pairs.drug_p) == pytest.approx(np.mean(each))
    assert drug_correlations(pairs.value_p, pred_p, pairs.drug_p) == pytest.approx(dict(enumerate(each)))
    assert rmse(pairs.value_p, pred_p, pairs.drug_p) == pytest.approx(np.sqrt(((pred_p - pairs.value_p) ** 2).mean()))


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_each_score_is_best_for_the_truth_and_stays_in_its_range(seed, scale, shift):
    rng = np.random.default_rng(seed)
    drug_p = rng.integers(0, 3, 60)
    truth_p, pred_p = rng.normal(size=60) * scale + shift, rng.normal(size=60)
    for metric in DRUG_METRICS.values():
        assert metric.function(truth_p, truth_p, drug_p) == pytest.approx(metric.best, abs=1e-6)
        assert metric.low - 1e-9 <= metric.function(truth_p, pred_p, drug_p) <= metric.high + 1e-9
    # within a drug, neither its level nor its scale counts
    moved_p = pred_p * np.array([1.0, 5.0, 0.2])[drug_p] + np.array([0.0, 9.0, -4.0])[drug_p]
    one, two = (within_drug_pearson(truth_p, given, drug_p) for given in (pred_p, moved_p))
    assert one == pytest.approx(two, abs=1e-6)


def test_a_constant_prediction_tells_no_lines_apart():
    pairs, _ = planted()
    mean_p = np.bincount(pairs.drug_p, pairs.value_p)[pairs.drug_p] / 60
    assert within_drug_pearson(pairs.value_p, mean_p, pairs.drug_p) == 0
    # published predictions differ by rounding within a drug; that is no signal
    rounding = 1e-7 * np.random.default_rng(0).normal(size=len(pairs))
    assert within_drug_pearson(pairs.value_p, mean_p + rounding, pairs.drug_p) == 0
    assert pearson(pairs.value_p, mean_p, pairs.drug_p) > 0.8
    assert share_better(pairs.value_p, (pairs.value_p, mean_p), pairs.drug_p) == 1
    assert share_better(pairs.value_p, (mean_p, mean_p), pairs.drug_p) == 0.5


def test_drugs_with_few_pairs_are_left_out():
    truth_p, drug_p = np.arange(17.0), np.r_[np.zeros(7, int), np.ones(10, int)]
    pred_p = np.r_[-np.arange(7.0), np.arange(10.0)]
    assert within_drug_pearson(truth_p, pred_p, drug_p) == pytest.approx(1)
    assert np.isnan(within_drug_pearson(truth_p[:7], pred_p[:7], drug_p[:7]))
    assert np.isnan(share_better(truth_p[:7], (pred_p[:7], pred_p[:7]), drug_p[:7]))


def test_intervals_speak_of_lines():
    pairs, _ = planted(40, 6)
    pred_p = pairs.value_p + np.random.default_rng(2).normal(size=len(pairs))
    value = within_drug_pearson(pairs.value_p, pred_p, pairs.drug_p)
    low, high = response_interval(
        "within_drug_pearson", pairs.value_p, pred_p, pairs.drug_p, unit_p=pairs.line_p, num_resamples=300, seed=0
    )
    assert low < value < high
    # an error that a line's pairs share makes lines the unit: pairs drawn one by one would promise too much
    shared_p = pairs.value_p + np.random.default_rng(3).normal(size=40)[pairs.line_p]
    widths = []
    for unit_p in (pairs.line_p, np.arange(len(pairs))):
        low, high = response_interval(
            "mse", pairs.value_p, shared_p, pairs.drug_p, unit_p=unit_p, num_resamples=300, seed=0
        )
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1]
    same = response_interval(
        "pearson", pairs.value_p, (pred_p, pred_p), pairs.drug_p, unit_p=pairs.line_p, num_resamples=50, seed=0
    )
    assert same == (0, 0)
    with pytest.raises(ValueError, match="no metric 'r2'"):
        response_interval("r2", pairs.value_p, pred_p, pairs.drug_p, unit_p=pairs.line_p, seed=0)
    with pytest.raises(ValueError, match="at least two to draw from"):
        response_interval("mse", pairs.value_p, pred_p, pairs.drug_p, unit_p=np.zeros(len(pairs), int), seed=0)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="1 predicted values are not finite"):
        pearson([1.0, 2.0], [1.0, np.nan], [0, 0])
    with pytest.raises(ValueError, match=r"arrays hold \[2, 3, 2\] pairs"):
        pearson([1.0, 2.0], [1.0, 2.0, 3.0], [0, 0])


def test_auroc_counts_pairs_and_folds_are_not_pooled():
    label_n, score_n = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    assert auroc(label_n, score_n) == pytest.approx(3.5 / 4)
    assert auroc(1 - label_n, score_n) == pytest.approx(0.5 / 4)
    # each fold is ordered perfectly, but the second network's answers are all higher
    label_n, fold_n = np.array([0, 0, 0, 1, 0, 1, 1, 1]), np.repeat([0, 1], 4)
    score_n = np.array([0, 1, 2, 3, 10, 11, 12, 13])
    assert fold_auroc(label_n, score_n, fold_n) == 1
    assert auroc(label_n, score_n) < 1
    with pytest.raises(ValueError, match="0 positive and 4 negative"):
        auroc(np.zeros(4, int), np.arange(4))


def test_effects_are_recovered_exactly():
    pairs, _ = planted(signal=0.0, noise=0.0)
    split = split_pairs(pairs, by="pair", valid=0)
    train, test = pairs.take(split.train), pairs.take(split.test)
    for fit in (effects, line_factors):
        assert np.abs(fit(train, test, None, seed=0) - test.value_p).max() < 1e-4


def test_factors_find_what_effects_cannot():
    pairs, _ = planted(80, 20, signal=2.0, noise=0.1)
    split = split_pairs(pairs, by="pair", valid=0)
    train, test = pairs.take(split.train), pairs.take(split.test)
    plain, more = (rmse(test.value_p, fit(train, test, None, seed=0), test.drug_p) for fit in (effects, line_factors))
    assert more < 0.5 * plain


def test_only_features_help_on_new_lines():
    pairs, lines = planted(noise=0.1)
    split = split_pairs(pairs, by="line", valid=0)
    answers = baseline_answers(pairs, lines, split)
    test = pairs.take(split.test)
    score = {name: within_drug_pearson(test.value_p, pred_p, test.drug_p) for name, pred_p in answers.items()}
    assert score["kernel_ridge"] > 0.7
    assert score["drug_mean"] == score["effects"] == 0
    assert "composition_ridge" not in answers
    noise = LineFeatures(lines.lines, np.random.default_rng(9).normal(size=(60, 5)).astype(np.float32), lines.names)
    assert (
        abs(within_drug_pearson(test.value_p, baseline_answers(pairs, noise, split)["kernel_ridge"], test.drug_p)) < 0.4
    )


def test_ridge_does_not_ask_for_the_scale_of_features():
    pairs, lines = planted()
    split = split_pairs(pairs, by="line", valid=0)
    train, test = pairs.take(split.train), pairs.take(split.test)
    one, two = (kernel_ridge(train, test, lines.value_lf * s + m) for s, m in ((1, 0), (100.0, 7.0)))
    assert np.abs(one - two).max() < 1e-3


def test_new_drugs_get_what_their_structure_says():
    rng = np.random.default_rng(0)
    pairs, lines = planted(30, 40, signal=0.0, noise=0.0)
    feature_uf = rng.normal(size=(40, 2))
    value_p = (feature_uf @ [3.0, -2.0])[pairs.drug_p] + rng.normal(0, 0.3, 30)[pairs.line_p]
    pairs = Responses(pairs.line_p, pairs.drug_p, value_p, pairs.lines, pairs.drugs)
    split = split_pairs(pairs, by="drug", valid=0)
    train, test = pairs.take(split.train), pairs.take(split.test)
    found = composition_ridge(train, test, feature_uf)
    assert pearson(test.value_p, found, test.drug_p) > 0.95
    assert pearson(test.value_p, effects(train, test), test.drug_p) < 0.5


def test_every_baseline_answers_for_unseen_names_and_says_what_it_is():
    train = Responses(
        np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1.0, 2.0, 3.0]), ("A", "B", "C"), ("x", "y", "z")
    )
    query = Responses(np.array([2, 2, 0]), np.array([0, 2, 2]), np.full(3, np.nan), train.lines, train.drugs)
    for baseline in RESPONSE_BASELINES.values():
        assert np.isfinite(baseline.fit_predict(train, query, np.eye(3), seed=0)).all()
        assert baseline.what
    empty = train.take(np.zeros(0, int))
    with pytest.raises(ValueError, match="no training pairs"):
        effects(empty, query)


def test_rows_tables_and_figures(tmp_path):
    pairs, lines = planted()
    split = split_pairs(pairs, by="line", valid=0)
    test = pairs.take(split.test)
    answers = {"oracle": test.value_p, **baseline_answers(pairs, lines, split)}
    rows = score_responses(answers, test, split="line", rivals=["effects"], num_resamples=50)
    assert len(rows) == len(answers) * len(DRUG_METRICS) + len(answers) - 1
    found = {(row.method, row.metric): row for row in rows}
    assert all(found["oracle", name].value == pytest.approx(metric.best) for name, metric in DRUG_METRICS.items())
    assert found["oracle", SHARE].value == 1
    assert found["oracle", SHARE].rival == "effects"
    assert (found["oracle", "mse"].num_lines, found["oracle", "mse"].num_drugs) == (12, 8)
    assert len(write_rows(rows, tmp_path).read_text().splitlines()) == len(rows)
    lines_of_text = table_of_rows(rows).splitlines()
    assert lines_of_text[1].startswith("oracle")
    assert len(lines_of_text) == 1 + len(answers)
    for svg in (
        response_figure(rows, models=["oracle"]),
        drug_figure(
            *(drug_correlations(test.value_p, answers[name], test.drug_p) for name in ("effects", "kernel_ridge")),
            names=("effects", "kernel_ridge"),
        ),
    ):
        assert svg.startswith(b"<?xml")
        assert len(svg) > 2000
    with pytest.raises(ValueError, match="no answers of the rival 'scGPT'"):
        score_responses(answers, test, split="line", rivals=["scGPT"])


def test_correlations_of_several_folds_are_not_pooled():
    """Pooled over folds, a drug's training mean is low where its test values are high."""
    pairs, lines = planted(60, 10, signal=0.0, noise=1.0)
    pred_p, fold_p = np.empty(len(pairs)), np.empty(len(pairs), int)
    for fold in range(3):
        split = split_pairs(pairs, by="line", fold=fold, num_folds=3, valid=0)
        pred_p[split.test] = baseline_answers(pairs, lines, split)["drug_mean"]
        fold_p[split.test] = fold
    assert within_drug_pearson(pairs.value_p, pred_p, pairs.drug_p) < -0.01
    rows = score_responses({"drug mean": pred_p}, pairs, split="line", fold_p=fold_p, num_resamples=20)
    assert next(row.value for row in rows if row.metric == "within_drug_pearson") == 0


def test_resampled_auroc_is_that_of_the_drawn_cells():
    """Counts of draws and the cells themselves, repeated, give the same."""
    rng = np.random.default_rng(0)
    label_n, score_n = rng.integers(0, 2, 40), rng.integers(0, 9, 40).astype(float)  # with ties
    fold_n = np.arange(40) % 2
    drawn_r = resampled_auroc(label_n, score_n, num_resamples=20, seed=3)
    count_rn = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), 20)
    wanted_r = [auroc(np.repeat(label_n, count_n), np.repeat(score_n, count_n)) for count_n in count_rn]
    assert np.allclose(drawn_r, wanted_r)
    in_folds_r = resampled_auroc(label_n, score_n, fold_n=fold_n, num_resamples=20, seed=3)
    wanted_r = [
        fold_auroc(np.repeat(label_n, count_n), np.repeat(score_n, count_n), np.repeat(fold_n, count_n))
        for count_n in count_rn
    ]
    assert np.allclose(in_folds_r, wanted_r)
    whole_r = resampled_auroc(label_n, score_n, unit_n=np.repeat(np.arange(8), 5), num_resamples=200, seed=3)
    assert whole_r.std() > 0
    one_class_r = resampled_auroc(np.r_[1, np.zeros(3, int)], np.arange(4.0), num_resamples=50, seed=0)
    assert np.isnan(one_class_r).any()
    assert set(one_class_r[np.isfinite(one_class_r)]) == {0.0}


def test_differences_of_resamples_are_those_of_the_interval():
    pairs, lines = planted()
    split = split_pairs(pairs, by="line", valid=0)
    test = pairs.take(split.test)
    answers = baseline_answers(pairs, lines, split)
    how = {"unit_p": test.line_p, "num_resamples": 60, "seed": 4}
    one, two = answers["kernel_ridge"], answers["drug_mean"]
    gap_r = np.subtract(
        *(resampled_responses("within_drug_pearson", test.value_p, pred_p, test.drug_p, **how) for pred_p in (one, two))
    )
    low, high = response_interval("within_drug_pearson", test.value_p, (one, two), test.drug_p, **how)
    assert (low, high) == pytest.approx(tuple(np.quantile(gap_r, [0.025, 0.975])))
