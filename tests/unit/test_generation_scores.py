"""Scores of made cells: known answers, real against real, wrong types, copies; the simple ways to make cells."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellwright import metrics
from cellwright.baselines.generation import GENERATION_BASELINES
from cellwright.evaluate import generation
from cellwright.evaluate.generation import ALL_TYPES, LevelCells, baseline_levels, made_levels, read_levels
from cellwright.evaluate.generation_classifier import told_apart
from cellwright.metrics import GENERATION_METRICS, Markers, generation_interval, made
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.generate import GeneratedCells
from cellwright.types import CellBatch
from cellwright.vocab import GeneVocab

NUM_GENES, TYPES = 90, ("T", "B", "NK")
FAMILY = FAMILIES["scmulan"]


def draw_cells(num, seed):
    """Raw counts of three types; each lifts twelve genes of its own, libraries differ threefold."""
    rng = np.random.default_rng(seed)
    code_n = np.arange(num) % 3
    rate_kg = np.tile(np.random.default_rng(7).lognormal(0, 0.8, NUM_GENES), (3, 1))
    for k in range(3):
        rate_kg[k, 12 * k : 12 * k + 12] *= 6
    share_ng = rate_kg[code_n] / rate_kg[code_n].sum(1, keepdims=True)
    depth_n = rng.lognormal(5.5, 0.35, num)
    counts = sp.csr_matrix(rng.poisson(share_ng * depth_n[:, None] * rng.gamma(3, 1 / 3, share_ng.shape)))
    counts.sort_indices()
    return batch_of(counts), code_n


def batch_of(counts):
    return CellBatch(
        indptr_n1=counts.indptr.astype(np.int64),
        gene_z=counts.indices.astype(np.int32),
        value_z=counts.data.astype(np.float32),
        row_n=np.arange(counts.shape[0]),
        total_n=np.asarray(counts.sum(1), np.float64).ravel(),
    )


def dense(batch, width=NUM_GENES):
    return sp.csr_matrix((batch.value_z, batch.gene_z, batch.indptr_n1), shape=(len(batch), width)).toarray()


@pytest.fixture(scope="module")
def model():
    genes = [f"G{i:02}" for i in range(NUM_GENES)]
    return new_model(
        "scmulan", GeneVocab.from_genes(genes, FAMILY.specials, {"cell_type": TYPES}), FAMILY.sizes["tiny"]
    )


@pytest.fixture(scope="module")
def real(model):
    train, held_out = draw_cells(360, seed=0), draw_cells(180, seed=1)
    return train, read_levels(model, *train), read_levels(model, *held_out)


@pytest.fixture(scope="module")
def rows(model, real):
    """Value and interval by (method, type, metric): baselines, other real cells, types mixed up, copies of a half."""
    (train, code_n), train_levels, held_out = real
    wanted_m = np.repeat([0, 1, 2], 60)
    methods = baseline_levels(model, train, code_n, wanted_m=wanted_m, seed=3)
    other = read_levels(model, *draw_cells(180, seed=2))
    methods["other real"] = other
    methods["wrong type"] = LevelCells(other.level_ng, (other.code_n + 1) % 3)
    half = sp.vstack([methods["training_cells"].level_ng[::2], other.level_ng[np.argsort(other.code_n)][1::2]])
    methods["half copies"] = LevelCells(half.tocsr(), np.concatenate([wanted_m[::2], np.repeat([0, 1, 2], 30)]))
    found = generation.score_generated(methods, train_levels, held_out, classes=TYPES, seed=5, num_resamples=200)
    return {(row.method, row.cell_type, row.metric): row for row in found}


def test_every_method_type_and_metric_has_one_row(rows):
    methods = {*GENERATION_BASELINES, "other real", "wrong type", "half copies"}
    assert set(rows) == {(m, t, s) for m in methods for t in (*TYPES, ALL_TYPES) for s in GENERATION_METRICS}
    for row in rows.values():
        metric = GENERATION_METRICS[row.metric]
        assert metric.low <= row.low <= row.value <= row.high <= metric.high
        assert row.best == metric.best
        assert (row.num_made, row.num_real) == ((180, 180) if row.cell_type == ALL_TYPES else (60, 60))
        assert row.record()["metric"] == row.metric


def test_real_cells_score_about_best(rows):
    for cell_type in (*TYPES, ALL_TYPES):
        for metric in ("e_distance", "mmd", "detected_ratio", "detected_difference", "nearest_ratio"):
            row = rows["other real", cell_type, metric]
            spread = row.high - row.low
            assert row.low - 0.25 * spread <= row.best <= row.high + 0.25 * spread, (cell_type, metric)
        assert rows["other real", cell_type, "marker_recall"].value >= 0.75
        assert rows["other real", cell_type, "copied_share"].value == 0
    assert 0.4 < rows["other real", ALL_TYPES, "c2st_auroc"].value < 0.6
    assert 0.4 < rows["training_cells", ALL_TYPES, "c2st_auroc"].value < 0.6


@pytest.mark.parametrize("method", ["wrong type", "any_type"])
def test_cells_of_the_wrong_type_are_found_out(rows, method):
    for metric in ("e_distance", "mmd", "c2st_auroc"):
        wrong, right = rows[method, ALL_TYPES, metric], rows["other real", ALL_TYPES, metric]
        assert wrong.low > right.high, metric
    assert rows["wrong type", ALL_TYPES, "marker_recall"].high < 0.2
    assert rows["wrong type", ALL_TYPES, "c2st_auroc"].value > rows["any_type", ALL_TYPES, "c2st_auroc"].value > 0.7


def test_copies_are_found_out(rows):
    assert rows["training_cells", ALL_TYPES, "nearest_ratio"].value == 0
    assert rows["training_cells", ALL_TYPES, "copied_share"].value == 1
    assert rows["half copies", ALL_TYPES, "nearest_ratio"].value == pytest.approx(0.5, abs=0.05)
    assert rows["half copies", ALL_TYPES, "copied_share"].value == 0.5
    assert rows["half copies", ALL_TYPES, "nearest_ratio"].high < rows["other real", ALL_TYPES, "nearest_ratio"].low


def test_baselines_lie_between_floor_and_roof(rows):
    for metric in ("e_distance", "mmd"):
        floor, nb, roof = (rows[m, ALL_TYPES, metric].value for m in ("any_type", "class_nb", "training_cells"))
        assert roof - 0.01 < nb < 0.5 * floor, metric
    for method in ("class_nb", "class_gaussian", "training_cells"):
        assert rows[method, ALL_TYPES, "marker_recall"].low > rows["wrong type", ALL_TYPES, "marker_recall"].high
    assert rows["class_nb", ALL_TYPES, "copied_share"].value == 0
    assert rows["class_nb", ALL_TYPES, "detected_ratio"].value == pytest.approx(1, abs=0.1)


def test_the_same_seed_gives_the_same_rows(model, real):
    (train, code_n), train_levels, held_out = real
    before = train.value_z.copy(), held_out.level_ng.copy()
    runs = []
    for seed in (0, 0, 1):
        cells = baseline_levels(model, train, code_n, wanted_m=np.repeat([0, 2], 12), seed=seed)
        only = LevelCells(held_out.level_ng, np.where(held_out.code_n == 1, -1, held_out.code_n))
        only_nb = {"class_nb": cells["class_nb"]}
        runs.append(generation.score_generated(only_nb, train_levels, only, classes=TYPES, seed=seed, num_resamples=20))
    assert runs[0] == runs[1] != runs[2]
    assert {row.cell_type for row in runs[0]} == {"T", "NK", ALL_TYPES}
    assert (before[0] == train.value_z).all()
    assert (before[1] != held_out.level_ng).nnz == 0


def test_levels_are_those_of_the_cells_highest_value(model):
    log_ng = np.zeros((3, NUM_GENES), np.float32)
    log_ng[0, [1, 5, 8]] = [4.0, 0.39, 2.0]
    log_ng[1, 89] = 0.01
    cells = batch_of(sp.csr_matrix(log_ng))
    cells = CellBatch(**{name: getattr(cells, name) for name in ("indptr_n1", "gene_z", "value_z", "row_n", "total_n")},
                      state="log1p")  # fmt: skip
    levels = read_levels(model, cells, np.array([0, 1, 2]))
    want_ng = np.zeros((3, NUM_GENES), np.float32)
    want_ng[0, [1, 5, 8]] = [1.0, 0.1, 0.5]
    want_ng[1, 89] = 1
    np.testing.assert_array_equal(levels.level_ng.toarray(), want_ng)


def test_cells_longer_than_the_model_reads_lose_nothing(real):
    genes = [f"G{i:02}" for i in range(NUM_GENES)]
    short = FAMILY.sizes["tiny"].model_copy(update={"max_length": 8})
    model = new_model("scmulan", GeneVocab.from_genes(genes, FAMILY.specials), short)
    (train, code_n), levels, _ = real
    assert (read_levels(model, train, code_n).level_ng != levels.level_ng).nnz == 0


def test_made_cells_carry_the_type_that_was_asked_for():
    level_ng = sp.csr_matrix(np.eye(4, NUM_GENES, dtype=np.float32))
    prompt_n, flag_n = np.array([0, 0, 1, 2]), np.ones(4, bool)
    cells = GeneratedCells(
        level_ng=level_ng, genes=(), prompt_n=prompt_n, is_ended_n=flag_n, num_other_n=np.zeros(4, np.int64)
    )
    assert made_levels(cells, [2, 0, 2]).code_n.tolist() == [2, 2, 0, 2]
    with pytest.raises(ValueError, match="2 type codes for 3 prompts"):
        made_levels(cells, [2, 0])


def test_worked_examples_by_hand():
    made_ng, real_mg = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])
    # between: 1, 5, 1, 3; within made: 2; within real: 4
    assert made.e_distance(made_ng, real_mg) == pytest.approx(2 * 10 / 4 - 2 - 4)
    kernel = lambda d: np.exp(-(d**2) / (2 * 2.5**2))  # noqa: E731  pooled distances 1 1 2 3 4 5, median 2.5
    mmd = kernel(2) + kernel(4) - 2 * np.mean([kernel(d) for d in (1, 5, 1, 3)])
    assert made.mmd(made_ng, real_mg) == pytest.approx(mmd)
    assert made.c2st_auroc([1.0, 2.0], [0.0, 1.0, 3.0]) == pytest.approx((1.5 + 2) / 6)
    assert made.detected_ratio([4, 6, 9], [3, 5]) == 6 / 4
    assert made.detected_difference([4, 6, 9], [3, 5]) == 2
    assert made.nearest_ratio([1.0, 2.0], [4.0, 2.0]) == 0.5
    assert made.copied_share([0.9, 1.0, 3.0], [1.0, 2.0, 4.0]) == pytest.approx(1 / 3)
    markers = Markers(np.array([0, 2]), np.array([0.1, 0.5, 0.1]))
    assert made.marker_recall(np.array([[0.9, 1.0, 0.2], [0.9, 1.0, 0.2]]), markers) == 0.5
    assert made.marker_recall(np.zeros((2, 3)), markers) == 0


def test_ratios_to_nothing():
    assert made.nearest_ratio([0.0], [0.0]) == 1
    assert made.nearest_ratio([2.0], [0.0]) == np.inf
    low, high = generation_interval("nearest_ratio", [1.0], [0.0, 0.0, 0.0, 4.0], num_resamples=400, seed=0)
    assert low <= 1
    assert high == np.inf


def test_markers_stand_out_from_types_that_weigh_alike():
    value_ng = np.array([[1, 0, 0, 0.5]] * 2 + [[0, 1, 0, 0.5]] * 20 + [[0, 0.9, 0.8, 0.5]] * 2)
    code_n = np.array([0] * 2 + [1] * 20 + [2] * 2)
    found = metrics.choose_markers(sp.csr_matrix(value_ng), code_n, 2)
    assert found.background_g.tolist() == pytest.approx([0.5, 0.5, 0, 0.5])
    assert found.gene_k.tolist() == [2, 1]
    assert metrics.choose_markers(value_ng, code_n, 2, num_markers=1).gene_k.tolist() == [2]
    noisy_ng = np.random.default_rng(0).random((40, 30))
    noisy_ng[::2, 4] += 2
    assert metrics.choose_markers(noisy_ng, np.arange(40) % 2, 0).gene_k.tolist() == [4]
    with pytest.raises(ValueError, match="no gene stands out"):
        metrics.choose_markers(np.ones((4, 3)), np.array([0, 0, 1, 1]), 0)


def test_nearest_cells_are_those_of_a_plain_search(monkeypatch):
    rng = np.random.default_rng(0)
    query, train = rng.random((17, 6)), rng.random((23, 6))
    query[3] = train[11]
    plain = np.sqrt(((query[:, None] - train) ** 2).sum(-1)).min(1)
    monkeypatch.setattr("cellwright.metrics.made._CHUNK_ENTRIES", 50)
    for kind in (np.asarray, sp.csr_matrix):
        found = metrics.nearest_distances(kind(query), kind(train))
        np.testing.assert_allclose(found, plain, atol=1e-12)
        assert found[3] == 0


def test_intervals_do_not_hang_on_chunks_and_cover(monkeypatch):
    rng = np.random.default_rng(1)
    calls = [(rng.normal(0.3, 1, (40, 3)), rng.normal(0, 1, (40, 3))) for _ in range(60)]
    wide = [generation_interval("e_distance", *call, num_resamples=200, seed=0) for call in calls]
    # expected E-distance of the two laws, from many more cells
    truth = made.e_distance(rng.normal(0.3, 1, (1500, 3)), rng.normal(0, 1, (1500, 3)))
    assert np.mean([low <= truth <= high for low, high in wide]) > 0.8
    monkeypatch.setattr("cellwright.metrics.made._CHUNK_ENTRIES", 800)
    assert generation_interval("e_distance", *calls[0], num_resamples=200, seed=0) == pytest.approx(wide[0])


def test_a_model_that_makes_one_cell_only_is_told_apart():
    real_mg = np.random.default_rng(0).random((30, 12))
    one = np.repeat(real_mg[:1], 30, axis=0)
    assert made.c2st_auroc(*told_apart(one, real_mg, seed=0)) > 0.9
    assert made.e_distance(one, real_mg) > made.e_distance(real_mg[:15], real_mg[15:])


def test_twins_do_not_give_cells_away():
    """Twenty real cells drawn again and again are no easier to tell from other real cells than the cells themselves."""
    rng = np.random.default_rng(2)
    value = [
        made.c2st_auroc(*told_apart(np.repeat(rng.random((20, 30)), 4, axis=0), rng.random((80, 30)), seed=seed))
        for seed in range(5)
    ]
    assert 0.3 < np.mean(value) < 0.65


def test_negative_binomial_keeps_mean_and_variance_of_each_type():
    train, code_n = draw_cells(1500, seed=4)
    made_cells = GENERATION_BASELINES["class_nb"].make(train, code_n, np.repeat([2, 0], 1500), seed=0)
    ours, theirs = dense(made_cells), dense(train)
    for code, rows_m in ((2, slice(0, 1500)), (0, slice(1500, None))):
        want, got = theirs[code_n == code], ours[rows_m]
        np.testing.assert_allclose(got.mean(0), want.mean(0), rtol=0.25, atol=0.1)
        strong = want.mean(0) > 2
        np.testing.assert_allclose(got.var(0)[strong], want.var(0)[strong], rtol=0.4)
        assert (got.var(0)[strong] > 1.5 * got.mean(0)[strong]).mean() > 0.9  # a Poisson law would not do
    assert (made_cells.value_z == np.round(made_cells.value_z)).all()
    assert (made_cells.total_n >= ours.sum(1)).all()


def test_gaussian_keeps_the_means_of_each_type():
    train, code_n = draw_cells(900, seed=4)
    made_cells = GENERATION_BASELINES["class_gaussian"].make(train, code_n, np.repeat([1, 0], 400), seed=0)
    assert made_cells.state == "log1p"
    assert made_cells.value_z.min() > 0
    log_ng = np.log1p(dense(train) / train.total_n[:, None] * 1e4)
    for code, rows_m in ((1, slice(0, 400)), (0, slice(400, None))):
        mean_g = dense(made_cells)[rows_m].mean(0)
        assert np.corrcoef(mean_g, log_ng[code_n == code].mean(0))[0, 1] > 0.97


def test_training_cells_come_back_once_each_before_any_twice():
    train, code_n = draw_cells(30, seed=0)
    wanted_m = np.array([2] * 10 + [0] * 15)
    got = dense(GENERATION_BASELINES["training_cells"].make(train, code_n, wanted_m, seed=1))
    theirs = dense(train)
    row_of = {row.tobytes(): i for i, row in enumerate(theirs)}
    picked = [row_of[row.tobytes()] for row in got]
    assert sorted(picked[:10]) == np.flatnonzero(code_n == 2).tolist()
    assert set(picked[10:]) == set(np.flatnonzero(code_n == 0))
    assert np.bincount(picked).max() == 2


def test_baselines_refuse_what_they_cannot_do():
    train, code_n = draw_cells(30, seed=0)
    make = GENERATION_BASELINES["class_nb"].make
    with pytest.raises(ValueError, match="type code 5 is wanted, but no training cell has it"):
        make(train, code_n, np.array([0, 5]), seed=0)
    with pytest.raises(ValueError, match="wanted_m is float64"):
        make(train, code_n, np.array([0.0]), seed=0)
    with pytest.raises(ValueError, match="wanted_m is empty"):
        make(train, code_n, np.array([], int), seed=0)
    logs = CellBatch(**{n: getattr(train, n) for n in ("indptr_n1", "gene_z", "value_z", "row_n", "total_n")},
                     state="log1p")  # fmt: skip
    for baseline in GENERATION_BASELINES.values():
        with pytest.raises(ValueError, match="training cells are log1p"):
            baseline.make(logs, code_n, np.array([0]), seed=0)


def test_scoring_refuses_what_it_cannot_compare(real):
    _, train, held_out = real
    few = LevelCells(held_out.level_ng[:9], held_out.code_n[:9])
    narrow = LevelCells(held_out.level_ng[:, :5], held_out.code_n)

    def score(methods, reference=held_out, classes=TYPES):
        return generation.score_generated(methods, train, reference, classes=classes, seed=0, num_resamples=5)

    for call, words in (
        (lambda: score({}), "no method's cells"),
        (lambda: score({"few": few}), "'T' has 3 few cells, at least 10"),
        (lambda: score({"x": held_out}, few), "'T' has 3 held-out cells"),
        (lambda: score({"x": narrow}), "differ in their numbers of genes"),
        (lambda: score({"x": held_out}, classes=("T",)), "there are 1 classes"),
        (lambda: LevelCells(held_out.level_ng * 10, held_out.code_n), "not within 0 .. 1"),
        (lambda: LevelCells(held_out.level_ng, held_out.code_n[:3]), "one integer code a cell"),
        (lambda: made.e_distance(np.ones((1, 3)), np.ones((4, 3))), "at least 2 rows"),
        (lambda: made.e_distance(np.ones((4, 3)), np.ones((4, 2))), "both need the same genes"),
        (lambda: made.mmd(np.full((4, 3), np.nan), np.ones((4, 3))), "not finite"),
        (lambda: made.nearest_ratio([-1.0], [1.0]), "cannot be negative"),
        (lambda: generation_interval("fid", [1.0], [1.0], seed=0), "no metric 'fid'"),
        (lambda: generation_interval("mmd", np.eye(3), np.eye(3), num_resamples=0, seed=0), "0 resamples"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_families_without_levels_are_refused(real):
    scgpt = FAMILIES["scgpt"]
    plain = new_model("scgpt", GeneVocab.from_genes(["G00"], scgpt.specials), scgpt.sizes["tiny"])
    with pytest.raises(ValueError, match="scGPT reads no levels"):
        read_levels(plain, *real[0])
