"""Interactions of combinations: found where they are, predicted by who knows them, at chance by who adds up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cellwright.metrics.effects import Alone, Answer, Truth
from cellwright.metrics.interactions import curves, interactions, real_deviations
from cellwright.metrics.perturbed import PERTURBATION_METRICS, score_profiles

FAST = settings(max_examples=20, deadline=None, derandomize=True)
NAMES = ("interaction_auprc", "interaction_recall", "interaction_direction")


def combinations(num_profiles=8, num_genes=200, num_cells=100, *, synergy=2.0, noise=1.0, seed=0):
    """Return one half of the truth for combinations of two, the planted deviations, and an answer that adds up."""
    rng = np.random.default_rng(seed)
    base_g = rng.uniform(1, 3, num_genes)
    single_pug = rng.normal(0, 1, (2, num_profiles, num_genes)) * (rng.random((2, num_profiles, num_genes)) < 0.3)
    planted_ug = synergy * rng.choice([-1, 1], (num_profiles, num_genes))
    planted_ug *= rng.random((num_profiles, num_genes)) < 0.1

    def measured(mean_ug):
        value_nug = mean_ug + noise * rng.normal(0, 1, (num_cells, *mean_ug.shape))
        return value_nug.mean(0), value_nug.var(0, ddof=1)

    shape = (num_profiles, num_genes)
    mean_ug, variance_ug = measured(base_g + single_pug.sum(0) + planted_ug)
    (control_g, control_variance_g), (seen_g, _) = measured(base_g), measured(base_g)
    alone_ug, alone_variance_ug = zip(*(measured(base_g + single_ug) for single_ug in single_pug), strict=True)
    errors = [variance / num_cells for variance in alone_variance_ug]
    num_u = np.full(num_profiles, num_cells)
    truth = Truth(
        mean_ug=mean_ug,
        variance_ug=variance_ug,
        num_u=num_u,
        control_ug=np.tile(control_g, (num_profiles, 1)),
        control_variance_ug=np.tile(control_variance_g, (num_profiles, 1)),
        control_num_u=num_u,
        reference_ug=np.tile(base_g, (num_profiles, 1)),
        context_u=np.zeros(num_profiles, int),
        is_target_ug=np.zeros(shape, bool),
        key_u=np.arange(num_profiles),
        fold_u=np.zeros(num_profiles, int),
        alone=Alone(
            num_parts_u=np.full(num_profiles, 2),
            sum_ug=sum(alone_ug),
            error_ug=sum(errors),
            spread_ug=sum(error**2 / (num_cells - 1) for error in errors),
        ),
    )
    adds_up = Answer(
        effect_ug=sum(mean_ug - seen_g for mean_ug in alone_ug),
        control_ug=np.tile(seen_g, (num_profiles, 1)),
        variance_ug=np.full(shape, noise**2),
        noise_u=np.zeros(num_profiles),
    )
    return truth, planted_ug, adds_up


def says(adds_up, deviation_ug):
    return replace(adds_up, effect_ug=adds_up.effect_ug + deviation_ug)


def means(truth, answer):
    return {name: float(np.nanmean(value_u)) for name, value_u in interactions(truth, answer).items()}


def test_who_knows_the_interactions_finds_them_all():
    truth, planted_ug, adds_up = combinations(noise=1e-3)
    assert (real_deviations(truth).tested.is_significant_ug >= (planted_ug != 0)).all()
    exact_ug = real_deviations(truth).deviation_ug
    found = means(truth, says(adds_up, exact_ug))
    assert all(value == pytest.approx(1, abs=0.03) for value in found.values())
    assert means(truth, says(adds_up, 0.1 * exact_ug)) == pytest.approx(found)  # only order and sign count


def test_adding_up_scores_what_chance_does():
    truth, _, adds_up = combinations(num_profiles=30)
    found, rng = interactions(truth, adds_up), np.random.default_rng(5)
    assert all(np.isfinite(found[name]).all() for name in NAMES)
    assert (found["interaction_direction"] == 0.5).all()
    random = [means(truth, says(adds_up, rng.normal(0, 1, truth.mean_ug.shape))) for _ in range(30)]
    for name in NAMES:
        assert np.mean(found[name]) == pytest.approx(np.mean([row[name] for row in random]), abs=0.01), name
    share = real_deviations(truth).tested.is_significant_ug.mean()
    assert 0.05 < share < np.mean(found["interaction_auprc"]) < share + 0.05
    assert 0 < np.mean(found["interaction_recall"]) < 0.05


def test_rounding_of_a_sum_is_no_prediction():
    truth, _, adds_up = combinations()
    off_ug = 1e-14 * np.random.default_rng(1).normal(0, 1, truth.mean_ug.shape)
    assert means(truth, says(adds_up, off_ug)) == means(truth, adds_up)


def test_the_wrong_sign_is_told_from_the_right_one():
    truth, planted_ug, adds_up = combinations(synergy=4.0)
    right, wrong = (means(truth, says(adds_up, sign * planted_ug)) for sign in (1, -1))
    assert right["interaction_auprc"] == wrong["interaction_auprc"] > 0.8
    assert right["interaction_direction"] > 0.9
    assert wrong["interaction_direction"] < 0.1


def test_where_effects_add_up_nothing_is_found():
    num_found = [
        real_deviations(combinations(10, 300, 30, synergy=0, seed=seed)[0]).tested.is_significant_ug.sum(1)
        for seed in range(20)
    ]
    assert np.mean(np.array(num_found) > 0) < 0.1  # 5 % of combinations have a call by chance
    truth, _, adds_up = combinations(noise=1e-3, synergy=0)
    assert np.isnan(interactions(replace(truth, variance_ug=truth.variance_ug + 1e3), adds_up)[NAMES[0]]).all()


def test_planted_interactions_are_called_and_few_others():
    truth, planted_ug, _ = combinations(num_profiles=20)
    called_ug = real_deviations(truth).tested.is_significant_ug
    assert called_ug[planted_ug != 0].mean() > 0.99
    assert (called_ug & (planted_ug == 0)).sum() / called_ug.sum() < 0.08


def test_perturbed_genes_are_not_asked_about():
    truth, planted_ug, adds_up = combinations(num_profiles=2)
    is_target_ug = np.zeros(truth.mean_ug.shape, bool)
    is_target_ug[:, :50] = True
    some = replace(truth, is_target_ug=is_target_ug)
    before, loud_ug = means(some, says(adds_up, planted_ug)), planted_ug.copy()
    loud_ug[:, :50] = 100
    assert means(some, says(adds_up, loud_ug)) == before
    assert not real_deviations(some).tested.is_significant_ug[:, :50].any()


def test_only_combinations_whose_parts_are_known_alone_are_asked_about():
    truth, planted_ug, adds_up = combinations(num_profiles=4)
    few = replace(truth, alone=replace(truth.alone, num_parts_u=np.array([2, 0, 2, 0])))
    found = interactions(few, says(adds_up, planted_ug))
    assert np.isfinite(found["interaction_auprc"]).tolist() == [True, False, True, False]
    nobody = replace(truth, alone=None)
    assert interactions(nobody, adds_up) == {}
    with pytest.raises(ValueError, match="says nothing of what parts"):
        real_deviations(nobody)
    whole = score_profiles((few, few), (adds_up, adds_up)).whole()
    assert set(NAMES) <= set(whole)
    assert not set(NAMES) & set(score_profiles((nobody, nobody), (adds_up, adds_up)).whole())


@FAST
@given(st.integers(0, 10_000), st.integers(2, 60))
def test_the_area_is_average_precision_and_ties_are_random_orders(seed, num):
    rng = np.random.default_rng(seed)
    is_real_k = rng.permutation(np.arange(num) < rng.integers(1, num))
    size_k = rng.random(num)
    precision_rk, recall_rk = curves(is_real_k, size_k)
    assert precision_rk.shape == (1, num)
    area = (np.diff(recall_rk, axis=1, prepend=0) * precision_rk).sum()
    assert area == pytest.approx(average_precision_score(is_real_k, size_k))
    tied_rk, _ = curves(is_real_k, np.zeros(num))
    assert tied_rk.shape == (30, num)
    assert tied_rk[:, -1] == pytest.approx(np.full(30, is_real_k.mean()))
    assert (curves(is_real_k, np.zeros(num))[0] == tied_rk).all()


@FAST
@given(st.integers(0, 10_000), st.floats(0.0, 4.0))
def test_scores_stay_in_range(seed, synergy):
    truth, planted_ug, adds_up = combinations(3, 40, 8, synergy=synergy, seed=seed)
    rng = np.random.default_rng(seed)
    for said_ug in (planted_ug, 0 * planted_ug, rng.normal(0, 1, planted_ug.shape)):
        for name, value_u in interactions(truth, says(adds_up, said_ug)).items():
            metric, value_u = PERTURBATION_METRICS[name], value_u[np.isfinite(value_u)]
            assert (metric.low <= value_u).all(), name
            assert (value_u <= metric.high).all(), name
