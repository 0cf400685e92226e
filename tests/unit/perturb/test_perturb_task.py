"""The frame of perturbation prediction on planted effects: what is seen, who wins where, what leaks."""

from dataclasses import replace

import numpy as np
import pytest

from cellwright.baselines.perturbation import PERTURBATION_BASELINES, Asked, Known, Profiles, bilinear, usable
from cellwright.data.gene_graphs import gene_set_features, gene_set_graph
from cellwright.data.perturbation_splits import split_perturbations
from cellwright.data.synthetic import ScreenPlan, make_perturbed_cells
from cellwright.evaluate.perturbation import score_predictions
from cellwright.evaluate.perturbation_tables import calibration_rows, table_lines
from cellwright.tasks.lessons import make_lesson, whole_lesson
from cellwright.tasks.perturb import Predicted, predict_folds
from cellwright.tasks.perturb_graph import GraphConfig, GraphPerturb
from cellwright.tasks.screen import ScreenOptions, open_screen

GENES = ScreenOptions(kind="genes")
QUICK = GraphConfig(max_epochs=60, width=32, patience=60)


@pytest.fixture(scope="module")
def adata():
    return make_perturbed_cells(80, ScreenPlan(cells_each=30), seed=1)


@pytest.fixture(scope="module")
def screen(adata):
    return open_screen(adata, GENES)


@pytest.fixture(scope="module")
def graph(adata, screen):
    sets = {name: list(genes) for name, genes in adata.uns["sets"].items()}
    return gene_set_graph(tuple(dict.fromkeys([*screen.perturbations.all_parts, *screen.genes])), sets)


@pytest.fixture(scope="module")
def known(adata, screen):
    parts = screen.perturbations.all_parts
    sets = {name: list(genes) for name, genes in adata.uns["sets"].items()}
    features = dict(zip(parts, gene_set_features(parts, sets), strict=True))
    return Known(genes=screen.genes, panel_at=screen.panel_at, features={"gene_sets": features})


@pytest.fixture(scope="module")
def scored(screen, graph, known):
    splits = split_perturbations(screen.profiles, "gears", num_folds=3)
    predictions = predict_folds(screen, splits, [GraphPerturb(node_graph=graph, config=QUICK)], known=known)
    return predictions, score_predictions(screen, predictions, split="gears", has_cell_scores=False, num_resamples=100)


def test_a_screen_divides_controls_and_halves_profiles(screen):
    assert not (screen.is_seen_n & screen.is_scored_n).any()
    assert (screen.is_seen_n | screen.is_scored_n).sum() == (screen.profile_n == -1).sum() == 60
    for u in range(len(screen.profiles)):
        assert np.bincount(screen.half_n[screen.profile_n == u]).tolist() == [15, 15]
    assert screen.panel_at == {"P00": 0, "P01": 1}
    assert "14 of 16 perturbed genes are not measured" in screen.notes[0]


def test_profiles_with_few_cells_are_left_out_and_said(adata):
    few = adata[~((adata.obs["perturbation"] == "P03") & (np.arange(adata.n_obs) % 3 > 0))].copy()
    found = open_screen(few, GENES)
    assert ("P03",) not in found.profiles.parts
    assert any("1 profiles with fewer than 20 cells" in note and "P03" in note for note in found.notes)
    with pytest.raises(ValueError, match="no context has 100 control cells"):
        open_screen(adata, ScreenOptions(kind="genes", min_cells=100))


def test_totals_from_a_column_are_used_and_checked(adata):
    whole = adata.copy()
    whole.obs["all_counts"] = np.asarray(whole.X.sum(1)).ravel() * 10
    found, plain = (open_screen(whole, GENES.model_copy(update={"total": name})) for name in ("all_counts", None))
    assert np.expm1(found.log_ng.data) == pytest.approx(np.expm1(plain.log_ng.data) / 10, rel=1e-4)
    whole.obs["few"] = 1.0
    with pytest.raises(ValueError, match="smaller than the counts of some cells"):
        open_screen(whole, GENES.model_copy(update={"total": "few"}))
    with pytest.raises(ValueError, match="no column 'al_counts'.*all_counts"):
        open_screen(whole, GENES.model_copy(update={"total": "al_counts"}))


def test_a_lesson_holds_no_test_cell_and_no_scored_control(screen):
    for by in ("single", "double", "gears"):
        for split in split_perturbations(screen.profiles, by, num_folds=3):
            lesson = make_lesson(screen, split)
            hidden = np.isin(screen.profile_n, split.at("test", "unused")) | screen.is_scored_n
            assert not hidden[lesson.row_n].any()
            assert len(lesson.row_n) == (~hidden).sum()
            assert (lesson.log_ng != screen.log_ng[lesson.row_n]).nnz == 0
            parts = {screen.profiles.parts[u] for u in split.at("test", "unused")}
            assert not parts & set(lesson.profiles.asked.parts)


def test_test_cells_do_not_change_predictions(adata, graph):
    """Scrambling every test cell and every scored control leaves all predictions bit for bit as they were."""
    screen = open_screen(adata, GENES)
    split = split_perturbations(screen.profiles, "single", num_folds=3)[:1]
    models = [GraphPerturb(node_graph=graph, config=GraphConfig(max_epochs=3, width=8))]
    first = predict_folds(screen, split, models)
    log_ng = screen.log_ng.copy().tolil()
    hidden = np.flatnonzero(np.isin(screen.profile_n, split[0].at("test", "unused")) | screen.is_scored_n)
    log_ng[hidden] = np.random.default_rng(0).random((len(hidden), len(screen.genes)))
    second = predict_folds(replace(screen, log_ng=log_ng.tocsr()), split, models)
    for name, effect_eg in first.effect_eg.items():
        assert (effect_eg == second.effect_eg[name]).all(), name


def test_unseen_genes_are_told_by_their_neighbours(scored):
    _, scores = scored
    for name in ("graph", "bilinear_ridge_sets"):
        assert (
            scores.value(name, "pearson_delta", "single") > scores.value("mean_effect", "pearson_delta", "single") + 0.2
        )
        assert scores.value(name, "pds_cosine", "single") > 0.75


def test_effects_that_add_up_are_added_up(scored):
    _, scores = scored
    for metric in ("pearson_delta", "pearson_delta_mean", "r2w"):
        others = [n for n in ("no_change", "mean_effect", "bilinear_ridge") for _ in [0]]
        best = max(scores.value(name, metric, "several_seen2") for name in others)
        assert scores.value("additive", metric, "several_seen2") > best + 0.1


def test_floor_and_roof_are_where_they_belong(scored, screen):
    predictions, scores = scored
    for metric in ("pearson_delta", "pearson_delta_mean", "pds_cosine", "r2w", "de_auroc"):
        for method in predictions.effect_eg:
            assert scores.value(method, metric) < scores.value("replicate", metric) + 0.02, (method, metric)
    assert abs(scores.value("technical", "pearson_delta")) < 0.15
    assert scores.value("replicate", "nmse") == pytest.approx(0, abs=0.05)
    assert scores.value("no_change", "nmse") == pytest.approx(1, abs=0.1)
    rows = {row.metric: row for row in scores.rows if row.method == "replicate" and row.group == "all"}
    assert rows["mse"].calibrated == pytest.approx(1)
    assert all(row.low <= row.value <= row.high for row in scores.rows)
    found = {row["metric"]: row for row in calibration_rows(scores)}
    assert 0.5 < found["pearson_delta"]["dynamic_range"] <= 1
    assert found["pearson_delta"]["ceiling"] > found["pearson_delta"]["replicate"]
    assert table_lines(scores)[0].startswith("method")


def test_a_collapsed_model_is_called_so(screen):
    class Same:
        name, what = "same", "says the same of all"
        num_trained = 0

        def fit(self, lesson):
            self.effect_g = np.abs(lesson.train.effect_ug).mean(0)
            return self

        def predict(self, asked):
            return Predicted(np.tile(self.effect_g, (len(asked), 1)))

    splits = split_perturbations(screen.profiles, "single", num_folds=3)
    predictions = predict_folds(screen, splits, [Same()])
    scores = score_predictions(screen, predictions, split="single", has_cell_scores=False, num_resamples=20)
    assert len(scores.warnings) == 1
    assert "same has collapsed" in scores.warnings[0]
    with pytest.raises(ValueError, match="same has collapsed"):
        score_predictions(
            screen, predictions, split="single", has_cell_scores=False, num_resamples=20, on_collapse="stop"
        )


def test_a_report_does_without_scores_that_are_not_defined():
    """One perturbation in two contexts: nothing to tell apart, and nothing to collapse."""
    from cellwright.evaluate.perturbation_report import PerturbationStudy, evaluate_perturbations

    plan = ScreenPlan(
        num_modules=1, genes_per_module=1, doubles=0, cells_each=20, contexts=("one", "two"), num_measured=1
    )
    screen = open_screen(make_perturbed_cells(30, plan), GENES.model_copy(update={"context": "cell_type"}))
    predictions = predict_folds(screen, split_perturbations(screen.profiles, "cells"), [])
    scores = score_predictions(screen, predictions, split="cells", has_cell_scores=False, num_resamples=20)
    study = PerturbationStudy(
        title="t", dataset="d", screen=screen, predictions=predictions, scores=scores, split="cells", main="mean_effect"
    )
    found = evaluate_perturbations(study)
    assert "collapse_index" not in found.measures
    assert "pds_cosine" not in found.measures
    assert set(found.drawn) <= set(found.measures)
    assert len(found.methods) == 2 + len(predictions.effect_eg)


def test_predicted_cells_are_compared_with_real_ones(screen):
    class Cells:
        name, what = "cells", "gives cells"
        num_trained = 0

        def fit(self, lesson):
            self.lesson = lesson
            return self

        def predict(self, asked):
            made = {row: np.full((12, len(self.lesson.genes)), 50.0) for row in range(len(asked))}
            return Predicted(np.zeros(asked.control_ug.shape), made)

    splits = split_perturbations(screen.profiles, "double", num_folds=3)[:1]
    predictions = predict_folds(screen, splits, [Cells()])
    scores = score_predictions(screen, predictions, split="double", num_resamples=20)
    assert scores.value("cells", "e_distance") > 10 * scores.value("no_change", "e_distance")
    assert scores.value("cells", "c2st_auroc") > 0.95
    assert abs(scores.value("replicate", "e_distance")) < 0.5 * scores.value("no_change", "e_distance")
    assert abs(scores.value("replicate", "c2st_auroc") - 0.5) < 0.3


def test_bad_models_are_refused(screen, graph):
    class Bad:
        name, what = "bad", "is bad"
        num_trained = 0

        def __init__(self, value):
            self.value = value

        def fit(self, lesson):
            return self

        def predict(self, asked):
            return Predicted(self.value(asked))

    splits = split_perturbations(screen.profiles, "double", num_folds=2)[:1]
    with pytest.raises(ValueError, match="bad predicted effects of shape"):
        predict_folds(screen, splits, [Bad(lambda asked: np.zeros((1, 1)))])
    with pytest.raises(ValueError, match="bad predicted effects that are not finite"):
        predict_folds(screen, splits, [Bad(lambda asked: asked.control_ug * np.nan)])
    model = GraphPerturb(node_graph=graph)
    with pytest.raises(ValueError, match="method names must differ"):
        predict_folds(screen, splits, [model, model])


def test_the_same_seed_gives_the_same_model_and_unknown_names_are_no_error(screen, graph):
    lesson = whole_lesson(screen)
    config = GraphConfig(max_epochs=4, width=8)
    asked = screen.asked_anew(("P02", "NEVER_HEARD_OF"))
    first, second = (GraphPerturb(node_graph=graph, config=config).fit(lesson).predict(asked) for _ in range(2))
    assert (first.effect_ug == second.effect_ug).all()
    alone = GraphPerturb(node_graph=graph, config=config).fit(lesson).predict(screen.asked_anew(("P02",)))
    assert first.effect_ug == pytest.approx(alone.effect_ug, abs=1e-5)


def test_many_genes_are_predicted_in_parts(screen, graph, monkeypatch):
    lesson = whole_lesson(screen)
    fitted = GraphPerturb(node_graph=graph, config=GraphConfig(max_epochs=2, width=8)).fit(lesson)
    asked = screen.asked(range(len(screen.profiles)))
    whole = fitted.predict(asked).effect_ug
    monkeypatch.setattr("cellwright.tasks.perturb_graph._CHUNK_VALUES", 2 * 8 * len(screen.genes))
    assert fitted.predict(asked).effect_ug == pytest.approx(whole, abs=1e-6)


class ExpressionContexts:
    """Context embeddings that hold the cell's own expression; counts what is read at once."""

    def __init__(self, screen):
        self.screen, self.width, self.genes, self.most = screen, 2, screen.genes, 0

    def read(self, rows):
        self.most = max(self.most, len(rows))
        value_ng = self.screen.log_ng[rows].toarray()
        return np.stack([value_ng, np.ones_like(value_ng)], -1).astype(np.float32)


def test_contexts_are_read_cell_by_cell(screen, graph):
    contexts = ExpressionContexts(screen)
    config = GraphConfig(max_epochs=6, width=8, cells_per_profile=2, cells_to_predict=9, batch_size=5)
    lesson = whole_lesson(screen)
    fitted = GraphPerturb(node_graph=graph, config=config, contexts=contexts).fit(lesson)
    effect_ug = fitted.predict(screen.asked([0, 1, 20])).effect_ug
    assert effect_ug.shape == (3, len(screen.genes))
    assert contexts.most == 10
    alone = fitted.predict(screen.asked([20])).effect_ug
    assert effect_ug[2:] == pytest.approx(alone, abs=1e-5)


def profiles(parts, effect_ug, context=None):
    effect_ug = np.asarray(effect_ug, float)
    context_u = np.zeros(len(parts), int) if context is None else np.asarray(context)
    control_ug = 1.0 + context_u[:, None] + np.zeros_like(effect_ug)
    asked = Asked(parts=tuple(parts), context_u=context_u, control_ug=control_ug)
    return Profiles(asked=asked, mean_ug=control_ug + effect_ug, num_cells_u=np.full(len(parts), 9))


def test_baselines_say_what_they_should():
    train = profiles([("A",), ("B",), ("A", "C")], [[1, 0, 0], [0, 2, 0], [0, 0, 6]])
    asked = profiles([("A",), ("A", "B"), ("A", "X"), ("X",)], np.zeros((4, 3))).asked
    said = {name: PERTURBATION_BASELINES[name].predict(train, asked, Known()) for name in usable(Known())}
    mean, single = [1 / 3, 2 / 3, 2], [0.5, 1, 0]
    assert (said["no_change"] == 0).all()
    assert said["mean_effect"] == pytest.approx(np.tile(mean, (4, 1)))
    assert said["matching_mean"] == pytest.approx(np.array([[1, 0, 0], [0.5, 1, 0], [1, 0, 0], mean]))
    assert said["additive"] == pytest.approx(np.array([[1, 0, 0], [1, 2, 0], np.add([1, 0, 0], single), single]))
    assert said["bilinear_ridge"] == pytest.approx(np.tile(mean, (4, 1)))
    assert set(said) == set(PERTURBATION_BASELINES) - {"bilinear_ridge_sets", "bilinear_ridge_model"}


def test_the_match_in_other_contexts_comes_first():
    train = profiles([("A",), ("A",), ("B",)], [[1, 1], [3, 3], [9, 9]], context=[0, 1, 0])
    asked = profiles([("A",), ("B",)], np.zeros((2, 2)), context=[2, 2]).asked
    found = PERTURBATION_BASELINES["matching_mean"].predict(train, asked, Known())
    assert found.tolist() == [[2, 2], [9, 9]]


def test_bilinear_ridge_recovers_a_bilinear_law():
    rng = np.random.default_rng(0)
    gene_gd, inner_dd = rng.normal(0, 1, (50, 3)), rng.normal(0, 1, (3, 3))
    node = {f"P{i}": rng.normal(0, 1, 3) for i in range(20)}
    mean_g = rng.normal(0, 1, 50)
    effect = {(name,): gene_gd @ inner_dd @ vector for name, vector in node.items()}
    rows = list(effect)[:15]
    train_ug = np.array([effect[parts] for parts in rows])
    node_mean = np.mean([node[parts[0]] for parts in rows], axis=0)
    centred = {name: vector - node_mean for name, vector in node.items()}
    train = profiles(rows, mean_g + train_ug)
    asked = profiles(list(effect)[15:], np.zeros((5, 50))).asked
    found = bilinear(train, asked, gene_gd, centred, ridge=1e-8)
    assert found == pytest.approx(mean_g + np.array([effect[parts] for parts in asked.parts]), abs=1e-4)
    assert bilinear(train, asked, gene_gd, {}) == pytest.approx(np.tile(train.effect_ug.mean(0), (5, 1)))
