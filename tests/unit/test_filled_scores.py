"""Scores of filled-in genes, and the simple ways to fill them in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from cellwright.baselines.filling import FILLING_BASELINES, FillingCase, _regressed, neighbors, ridge, type_mean
from cellwright.metrics import FILLED_METRICS, REPORTED


@pytest.fixture(scope="module")
def values():
    """Predicted and true values, and which are scored."""
    rng = np.random.default_rng(0)
    truth_ng = rng.integers(0, 20, (30, 12)).astype(float)
    return truth_ng + rng.normal(0, 3, truth_ng.shape), truth_ng, rng.random(truth_ng.shape) < 0.6


@pytest.mark.parametrize("name", FILLED_METRICS)
def test_a_perfect_answer_scores_best_and_worse_answers_score_worse(values, name):
    predicted_ng, truth_ng, is_scored_ng = values
    metric = FILLED_METRICS[name]
    assert REPORTED[name] is metric
    assert metric.function(truth_ng, truth_ng, is_scored_ng) == pytest.approx(metric.best)
    near = metric.function(predicted_ng, truth_ng, is_scored_ng)
    far = metric.function(truth_ng + 4 * (predicted_ng - truth_ng), truth_ng, is_scored_ng)
    assert abs(metric.best - near) < abs(metric.best - far)
    assert metric.low <= far <= metric.high or metric.high == float("inf")


@pytest.mark.parametrize("name", FILLED_METRICS)
def test_only_what_is_scored_counts(values, name):
    predicted_ng, truth_ng, is_scored_ng = values
    score = FILLED_METRICS[name].function
    other_ng = np.where(is_scored_ng, predicted_ng, np.nan)
    assert score(other_ng, truth_ng, is_scored_ng) == score(predicted_ng, truth_ng, is_scored_ng)


def test_scores_by_hand(values):
    predicted_ng, truth_ng, is_scored_ng = values
    gap_u = (predicted_ng - truth_ng)[is_scored_ng]
    found = {name: metric.function(*values) for name, metric in FILLED_METRICS.items()}
    assert found["filled_mse"] == pytest.approx((gap_u**2).mean())
    assert found["filled_mae"] == pytest.approx(np.abs(gap_u).mean())
    by_gene = [
        np.corrcoef(predicted_ng[own, g], truth_ng[own, g])[0, 1]
        for g, own in enumerate(is_scored_ng.T)
        if own.sum() > 2
    ]
    assert found["filled_gene_pearson"] == pytest.approx(np.mean(by_gene))
    by_cell = [spearmanr(p[own], x[own]).statistic for p, x, own in zip(*values, strict=True)]
    assert found["filled_cell_spearman"] == pytest.approx(np.mean(by_cell))


@pytest.mark.parametrize("name", FILLED_METRICS)
def test_a_resample_is_the_score_of_its_cells(values, name):
    score = FILLED_METRICS[name].function
    count_n = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30))
    drawn = np.repeat(np.arange(30), count_n)
    parts = score.prepare(*values)
    assert score.finish(parts, count_n[None].astype(float))[0] == pytest.approx(score(*(v[drawn] for v in values)))


def test_constant_predictions_correlate_with_nothing(values):
    _, truth_ng, is_scored_ng = values
    for name in ("filled_gene_pearson", "filled_cell_spearman"):
        assert FILLED_METRICS[name].function(np.ones(truth_ng.shape), truth_ng, is_scored_ng) == 0


@pytest.mark.parametrize("name", FILLED_METRICS)
def test_what_cannot_be_scored_is_an_error(values, name):
    predicted_ng, truth_ng, is_scored_ng = values
    score = FILLED_METRICS[name].function
    with pytest.raises(ValueError, match="no value is scored"):
        score(predicted_ng, truth_ng, np.zeros_like(is_scored_ng))
    with pytest.raises(ValueError, match="predicted values must be finite"):
        score(np.full(truth_ng.shape, np.nan), truth_ng, is_scored_ng)
    with pytest.raises(ValueError, match="predicted values have shape"):
        score(predicted_ng[:, 1:], truth_ng, is_scored_ng)


def correlated(num, seed=0, num_genes=20):
    """Cells of two types whose genes go together within a type."""
    rng = np.random.default_rng(seed)
    label_n = np.arange(num) % 2
    base_kg = np.random.default_rng(99).normal(10, 3, (2, num_genes))
    load_g = np.random.default_rng(98).normal(0, 2, num_genes)
    return base_kg[label_n] + rng.normal(0, 1, (num, 1)) * load_g + rng.normal(0, 0.5, (num, num_genes)), label_n


@pytest.fixture(scope="module")
def case():
    train_mg, train_label_m = correlated(200)
    value_ng, label_n = correlated(30, seed=5)
    is_known_ng = np.random.default_rng(2).random(value_ng.shape) < 0.5
    made = FillingCase(
        train_mg=train_mg, value_ng=np.where(is_known_ng, value_ng, 0), is_known_ng=is_known_ng,
        train_label_m=train_label_m, label_n=label_n,
    )  # fmt: skip
    return made, value_ng


def test_who_knows_more_fills_in_better(case):
    made, value_ng = case
    error = {
        name: ((entry.fill(made) - value_ng) ** 2)[~made.is_known_ng].mean()
        for name, entry in FILLING_BASELINES.items()
    }
    assert max(error["ridge"], error["neighbors"]) < error["type_mean"] / 2
    assert error["type_mean"] < error["gene_mean"] / 2
    assert [name for name, entry in FILLING_BASELINES.items() if entry.role == "floor"] == ["gene_mean"]


@pytest.mark.parametrize("name", FILLING_BASELINES)
def test_baselines_see_known_genes_alone(case, name):
    made, _ = case
    fill = FILLING_BASELINES[name].fill
    other = FillingCase(
        train_mg=made.train_mg,
        value_ng=np.where(made.is_known_ng, made.value_ng, 77.0),
        is_known_ng=made.is_known_ng,
        train_label_m=made.train_label_m,
        label_n=made.label_n,
    )
    np.testing.assert_array_equal(fill(made), fill(other))


def test_ridge_is_that_of_the_textbook():
    from sklearn.linear_model import Ridge

    train_mg, _ = correlated(60, seed=3)
    centred_mg = train_mg - train_mg.mean(0)
    scale_g = centred_mg.std(0)
    is_fed_g = np.arange(20) < 8
    known_ng = np.where(is_fed_g, correlated(4, seed=4)[0] - train_mg.mean(0), 0)
    ours_ng = _regressed(centred_mg, known_ng, np.tile(is_fed_g, (4, 1)), 0.1)
    model = Ridge(alpha=0.1 * 60, fit_intercept=False).fit((centred_mg / scale_g)[:, is_fed_g], centred_mg / scale_g)
    np.testing.assert_allclose(ours_ng, model.predict((known_ng / scale_g)[:, is_fed_g]) * scale_g, atol=1e-8)


def test_without_zeros_a_silent_gene_says_nothing(case):
    made, _ = case
    train_mg = np.where(np.arange(20) == 3, 0, made.train_mg)  # no training cell expresses gene 3
    train_mg[::2, 5] = 0
    silent = FillingCase(
        train_mg=train_mg, value_ng=made.value_ng, is_known_ng=made.is_known_ng, has_zeros=False,
        train_label_m=made.train_label_m, label_n=made.label_n,
    )  # fmt: skip
    assert silent.mean_g[5] == pytest.approx(train_mg[1::2, 5].mean())
    assert silent.mean_g[3] == pytest.approx(train_mg[train_mg > 0].mean())
    for fill in (type_mean, neighbors, ridge):
        assert np.isfinite(fill(silent)).all()
    assert FillingCase(train_mg=train_mg, value_ng=made.value_ng, is_known_ng=made.is_known_ng).mean_g[3] == 0


def test_what_a_baseline_needs(case):
    made, _ = case
    nothing = FillingCase(
        train_mg=made.train_mg, value_ng=0 * made.value_ng, is_known_ng=np.zeros_like(made.is_known_ng)
    )
    assert [name for name, entry in FILLING_BASELINES.items() if entry.can_run(nothing)] == ["gene_mean"]
    assert all(entry.can_run(made) for entry in FILLING_BASELINES.values())
