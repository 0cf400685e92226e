"""Interactions from cells to report: planted synergy is found, and methods stand where they belong."""

from dataclasses import replace

import numpy as np
import pytest

from cellwright.data.perturbation_splits import split_perturbations
from cellwright.data.synthetic import ScreenPlan, make_perturbed_cells
from cellwright.evaluate.perturbation import score_predictions
from cellwright.evaluate.perturbation_interactions import parts_alone
from cellwright.evaluate.perturbation_report import PerturbationStudy, evaluate_perturbations
from cellwright.tasks.perturb import Predicted, predict_folds
from cellwright.tasks.screen import ScreenOptions, open_screen

PLAN = ScreenPlan(num_modules=2, genes_per_module=3, doubles=6, cells_each=40, strength=0.4, synergy=1.0)
OPTIONS = ScreenOptions(kind="genes", context="cell_type")


class Told:
    """Adds up, and adds what was planted (as far as log rates say it)."""

    name, what = "told", "was told the interactions"
    num_trained = 0

    def __init__(self, adata):
        self.synergy = adata.uns["synergy"]

    def fit(self, lesson):
        self.effect = dict(zip(lesson.train.asked.parts, lesson.train.effect_ug, strict=True))
        return self

    def predict(self, asked):
        rows = [
            sum(self.effect[part,] for part in parts) + 0.5 * self.synergy["+".join(parts)] for parts in asked.parts
        ]
        return Predicted(np.array(rows))


@pytest.fixture(scope="module")
def adata():
    return make_perturbed_cells(160, PLAN, seed=6)


def scored(adata, models=(), split="double"):
    screen = open_screen(adata, OPTIONS)
    predictions = predict_folds(screen, split_perturbations(screen.profiles, split, num_folds=3), list(models))
    scores = score_predictions(screen, predictions, split=split, has_cell_scores=False, num_resamples=50)
    return screen, predictions, scores


@pytest.fixture(scope="module")
def told(adata):
    return scored(adata, [Told(adata)])


def test_who_was_told_finds_planted_synergy_and_adding_up_does_not(told):
    _, predictions, scores = told
    assert predictions.has_alone_e.all()
    values = {name: scores.value(name, "interaction_auprc") for name in (*predictions.effect_eg, "replicate")}
    assert (scores.found.num_e >= 3).all()
    chance = np.mean(scores.found.num_e / scores.found.asked_e)
    assert chance < values["additive"] < chance + 0.15
    assert values["told"] > values["additive"] + 0.4
    assert values["replicate"] > values["additive"] + 0.4
    assert scores.value("additive", "interaction_direction") == 0.5
    assert scores.value("told", "interaction_direction") > 0.9
    assert 0 < scores.value("additive", "interaction_recall") < 0.15 < 0.3 < scores.value("told", "interaction_recall")
    row = next(row for row in scores.rows if (row.method, row.metric) == ("additive", "interaction_auprc"))
    assert row.low <= row.value <= row.high


def test_the_report_shows_them(told):
    screen, predictions, scores = told
    study = PerturbationStudy(
        title="t", dataset="d", screen=screen, predictions=predictions, scores=scores, split="double", main="told"
    )
    found = evaluate_perturbations(study)
    section = next(section for section in found.sections if section.heading == "Interactions")
    assert len(section.tables[""].rows) == 6
    assert b"<svg" in section.pictures[0].svg
    assert "interaction_auprc" in found.measures
    recall_k, precision_k = scores.found.curve["additive"]
    assert precision_k == pytest.approx(np.full(len(precision_k), precision_k[-1]))
    assert recall_k[-1] == pytest.approx(1)


def test_nothing_to_find_is_said(adata):
    none = make_perturbed_cells(40, replace(PLAN, strength=0.0, synergy=0.0, doubles=3, cells_each=30), seed=2)
    screen, predictions, scores = scored(none)
    assert not np.nansum(scores.found.num_e)
    assert np.isnan(scores.value("additive", "interaction_auprc"))
    study = PerturbationStudy(
        title="t", dataset="d", screen=screen, predictions=predictions, scores=scores, split="double", main="additive"
    )
    section = next(s for s in evaluate_perturbations(study).sections if s.heading == "Interactions")
    assert "nothing can be scored" in section.lines[0]
    assert not section.pictures


def test_only_parts_of_the_same_context_and_of_training_count():
    two = make_perturbed_cells(30, replace(PLAN, contexts=("one", "two"), doubles=3, cells_each=20), seed=3)
    gone = two.obs["cell_type"].eq("two") & two.obs["perturbation"].isin(["P00", "P01", "P02"])
    screen, predictions, scores = scored(two[~gone.to_numpy()].copy())
    context_e = np.array([screen.profiles.context[u] for u in predictions.at_e])
    assert predictions.has_alone_e.tolist() == (context_e == "one").tolist()  # groups are P00-P02 and P03-P05
    alone = parts_alone(screen, predictions)
    assert alone.num_parts_u.tolist() == [2 if has else 0 for has in predictions.has_alone_e]
    entry = int(np.flatnonzero(predictions.has_alone_e)[0])
    rows = [
        np.flatnonzero(
            [
                parts == (part,) and c == "one"
                for parts, c in zip(screen.profiles.parts, screen.profiles.context, strict=True)
            ]
        )
        for part in screen.profiles.parts[predictions.at_e[entry]]
    ]
    want_g = sum(screen.moments(np.flatnonzero(screen.profile_n == u[0]))[0] for u in rows)
    assert alone.sum_ug[entry] == pytest.approx(want_g)
    assert scores.found is not None


def test_held_out_genes_and_contexts_leave_nothing_to_add_up(adata):
    _, predictions, scores = scored(adata, split="gears")
    groups = np.array(predictions.group_e)
    assert not predictions.has_alone_e[groups != "several_seen2"].any()
    _, predictions, scores = scored(adata, split="single")
    assert not predictions.has_alone_e.any()
    assert scores.found is None
    assert not any(row.metric.startswith("interaction") for row in scores.rows)
