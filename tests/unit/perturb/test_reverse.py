"""Reverse perturbation: ranks with ties, ways of ranking, and what is found on planted effects."""

from itertools import permutations

import numpy as np
import pytest

from cellwright.data.perturbation_splits import split_perturbations
from cellwright.data.synthetic import ScreenPlan, make_perturbed_cells
from cellwright.evaluate.reverse import ReverseStudy, evaluate_reverse, hit_curves
from cellwright.metrics.reverse import hit_at, rank_share, relevant_at, reverse_metrics
from cellwright.tasks.perturb import Predicted
from cellwright.tasks.reverse import (
    Ranked,
    Reference,
    State,
    asked_in,
    candidates_of,
    place_of,
    reference_of,
    shares_a_part,
)
from cellwright.tasks.reverse_folds import CHANCE, REPLICATE, Ranking, reverse_folds
from cellwright.tasks.screen import ScreenOptions, open_screen

PLAN = ScreenPlan(num_modules=2, genes_per_module=3, doubles=6, cells_each=24, num_measured=0)


@pytest.fixture(scope="module")
def screen():
    return open_screen(make_perturbed_cells(50, PLAN, seed=4), ScreenOptions(kind="genes"))


def ranking(screen, *, ways=("distance", "effect"), kind="pairs"):
    return Ranking(candidates=candidates_of(screen.perturbations, kind), ways=ways, sizes=(1, 5), cells_each=10)


@pytest.fixture(scope="module")
def found(screen):
    splits = split_perturbations(screen.profiles, "double", num_folds=2)
    return reverse_folds(screen, splits, [], ranking(screen, ways=("distance", "effect", "votes")))


@pytest.mark.parametrize("score", [[3, 1, 1, 1, 0], [1, 1, 1, 1, 1], [5, 4, 3, 2, 1], [2, 2, 1, 1, 1]])
def test_ties_count_as_their_orders_do_on_average(score):
    score_k = np.array(score, float)
    is_relevant_k = np.array([False, True, False, True, False])
    orders = [list(order) for order in permutations(range(5)) if (np.diff(score_k[list(order)]) <= 0).all()]
    for num in (1, 2, 3, 5):
        for truth in range(5):
            share = np.mean([truth in order[:num] for order in orders])
            assert hit_at(score_k, truth, num) == pytest.approx(share)
        share = np.mean([is_relevant_k[order[:num]].any() for order in orders])
        assert relevant_at(score_k, is_relevant_k, num) == pytest.approx(share)
    for truth in range(5):
        assert rank_share(score_k, truth) == pytest.approx(np.mean([order.index(truth) for order in orders]) / 4)


def test_the_table_names_every_size():
    assert list(reverse_metrics((1, 8))) == ["hit_at_1", "hit_at_8", "relevant_at_1", "relevant_at_8", "rank_share"]


def test_candidates_are_all_pairs_or_what_was_measured(screen):
    pairs = candidates_of(screen.perturbations, "pairs")
    assert len(pairs) == len(set(pairs)) == 6 + 15
    assert candidates_of(screen.perturbations, "measured") == screen.perturbations.parts
    assert set(screen.perturbations.parts) <= set(pairs)
    assert shares_a_part(pairs, ("P00", "P03")).sum() == 2 + 9
    with pytest.raises(ValueError, match="'NEW' is not among the 21 candidates"):
        place_of(pairs, ("NEW",))


def test_every_way_finds_the_state_that_was_predicted(screen):
    asked = asked_in(screen, candidates_of(screen.perturbations, "pairs"), 0)
    effect_kg = np.random.default_rng(0).normal(0, 1, asked.control_ug.shape)
    reference = reference_of(screen, asked, Predicted(effect_kg), cells_each=6)
    assert reference.cell_mg.shape == (21 * 6, 50)
    for truth in (0, 9, 20):
        cell_ng = reference.cell_mg[reference.candidate_m == truth]
        state = State(cell_ng=cell_ng, control_g=reference.control_g)
        for way in ("effect", "distance", "votes"):
            score_k = reference.scores(state, way, num_neighbors=3)
            assert score_k.argmax() == truth
            few = reference.over(np.arange(0, 50, 2))
            part = State(cell_ng=cell_ng[:, ::2], control_g=few.control_g)
            assert few.scores(part, way, num_neighbors=3).argmax() == truth
        assert Ranked.by(asked.parts, score_k).parts[0] == asked.parts[truth]


def test_votes_are_shared_among_cells_equally_far():
    cell_mg = np.array([[0.0], [0.0], [1.0], [1.0]])
    reference = Reference(
        parts=(("A",), ("B",)), effect_kg=np.zeros((2, 1)), control_g=np.zeros(1), cell_mg=cell_mg,
        candidate_m=np.array([0, 1, 0, 1]),
    )  # fmt: skip
    state = State(cell_ng=np.array([[0.1], [0.9], [0.2]]), control_g=np.zeros(1))
    for num in (1, 2, 3, 4, 9):
        assert reference.votes(state, num).tolist() == [1.5 * min(num, 4)] * 2


def test_methods_that_tell_nothing_apart_score_chance_exactly(found):
    for way in ("distance", "effect", "votes"):
        for metric, value_q in found.value[CHANCE][way].items():
            for name in ("no_change", "mean_effect"):
                assert found.value[name][way][metric] == pytest.approx(value_q), (name, way, metric)
    assert found.value[CHANCE]["distance"]["hit_at_5"] == pytest.approx(5 / 21)
    assert found.value[CHANCE]["distance"]["rank_share"] == pytest.approx(0.5)


def test_planted_sums_are_found_by_adding_up(found):
    for way in ("distance", "effect"):
        assert found.value["additive"][way]["hit_at_5"].mean() > 0.7
        assert found.value[REPLICATE][way]["hit_at_1"].mean() > 0.5
        assert found.value[REPLICATE][way]["rank_share"].mean() < 0.05
    assert found.value["additive"]["votes"]["rank_share"].mean() < 0.3
    assert len(found.at_q) == 2 * 6


def test_the_record_holds_floor_roof_and_every_state(found, screen):
    study = ReverseStudy(title="t", dataset="d", screen=screen, found=found, main="additive")
    evaluation = evaluate_reverse(study)
    kinds = {method.name: method.kind for method in evaluation.methods}
    assert (kinds[CHANCE], kinds[REPLICATE], kinds["additive"]) == ("floor", "roof", "baseline")
    assert evaluation.primary_metric == "hit_at_5"
    by_name = {method.name: method for method in evaluation.methods}
    score = by_name["additive"].scores["hit_at_5"]
    assert score.value == pytest.approx(found.value["additive"]["distance"]["hit_at_5"].mean())
    assert score.low <= score.value <= score.high
    table = next(s for s in evaluation.sections if s.heading == "State by state").tables[""]
    assert sorted(row[0] for row in table.rows) == sorted("+".join(p) for p in screen.perturbations.parts if len(p) > 1)
    curves = hit_curves(study)
    assert all((np.diff(hit_k) >= -1e-12).all() and hit_k[-1] == 1 for hit_k in curves.values())
    assert curves["additive"][4] == pytest.approx(score.value)


def test_test_cells_teach_nothing(screen):
    """A method is never shown the cells of the state that it is asked for."""

    class Watch:
        name, what = "watch", "looks at what it is given"
        num_trained = 0

        def __init__(self):
            self.seen = []

        def fit(self, lesson):
            self.seen.append(set(lesson.row_n.tolist()))
            return self

        def predict(self, asked):
            return Predicted(np.zeros(asked.control_ug.shape))

    watch = Watch()
    splits = split_perturbations(screen.profiles, "double", num_folds=2)
    reverse_folds(screen, splits, [watch], ranking(screen))
    for split, rows in zip(splits, watch.seen, strict=True):
        hidden = np.flatnonzero(np.isin(screen.profile_n, split.at("test")) | screen.is_scored_n)
        assert not rows & set(hidden.tolist())


def test_what_cannot_be_ranked_is_refused(screen):
    splits = split_perturbations(screen.profiles, "double", num_folds=2)
    with pytest.raises(ValueError, match="there are 21 candidates to rank and the first 50 are to be looked at"):
        reverse_folds(screen, splits, [], Ranking(candidates=ranking(screen).candidates, ways=("effect",), sizes=(50,)))
    singles = ranking(screen).candidates[:6]
    with pytest.raises(ValueError, match="is not among the 6 candidates"):
        reverse_folds(screen, splits, [], Ranking(candidates=singles, ways=("effect",), sizes=(1,)))
