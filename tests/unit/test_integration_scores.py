"""Scores of integration: what is known of simple arrangements, and agreement with scib-metrics where it is there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_samples

from cellwright.metrics import INTEGRATION_METRICS, embedded_cells
from cellwright.metrics.integration import averages
from cellwright.metrics.neighbourhoods import cluster_cells, lisi, neighbor_graph, silhouettes

NAMES = [name for name in INTEGRATION_METRICS if name not in ("overall", "avg_bio", "avg_batch")]
NUM = 240


def arranged(*, types: float, batches: float, seed: int = 0, width: int = 6):
    """Three types and two batches on axes of their own, so far apart; batch 1 lacks half of type 2."""
    rng = np.random.default_rng(seed)
    label_n, batch_n = np.arange(NUM) % 3, np.arange(NUM) // 3 % 2
    x_nd = rng.normal(size=(NUM, width))
    x_nd[:, 0] += types * label_n
    x_nd[:, 1] += types * (label_n == 1)
    x_nd[:, 2] += batches * batch_n
    kept_n = ~((label_n == 2) & (batch_n == 1) & (np.arange(NUM) % 4 == 0))
    return x_nd[kept_n], batch_n[kept_n], label_n[kept_n]


def cells_of(x_nd, batch_n, label_n, before_nd=None):
    return embedded_cells(x_nd, batch_n, label_n, unintegrated_nd=x_nd if before_nd is None else before_nd)


def scores_of(cells):
    return {name: INTEGRATION_METRICS[name].function(cells) for name in NAMES}


def test_all_scores_lie_in_their_range_and_say_what_is_planted():
    apart, batch_n, label_n = arranged(types=12, batches=12)
    mixed, *_ = arranged(types=12, batches=0)
    shapeless, *_ = arranged(types=0, batches=0)
    unmixed = scores_of(cells_of(apart, batch_n, label_n))
    good = scores_of(cells_of(mixed, batch_n, label_n, apart))
    nothing = scores_of(cells_of(shapeless, batch_n, label_n, apart))
    for found in (unmixed, good, nothing):
        assert all(0 <= value <= 1 for value in found.values()), found
    assert unmixed["ilisi"] < 0.05 < 0.8 < good["ilisi"]
    assert unmixed["asw_batch"] < 0.3 < 0.9 < good["asw_batch"]
    assert unmixed["bras"] < 0.3 < 0.9 < good["bras"]
    assert unmixed["pcr_comparison"] == pytest.approx(0, abs=1e-9)
    assert good["pcr_comparison"] > 0.95
    assert unmixed["graph_connectivity"] < 0.75 < good["graph_connectivity"]
    assert good["clisi"] > 0.99 > 0.5 > nothing["clisi"]
    assert good["asw_label"] > 0.85 > 0.55 > nothing["asw_label"]


def test_scores_do_not_depend_on_the_names_of_groups_or_the_order_of_cells():
    x_nd, batch_n, label_n = arranged(types=4, batches=2)
    order = np.random.default_rng(1).permutation(len(x_nd))
    turned = cells_of(x_nd[order], 7 - 3 * batch_n[order], (label_n[order] + 1) % 3 * 5, x_nd[order] * 2 + 1)
    assert scores_of(turned) == pytest.approx(scores_of(cells_of(x_nd, batch_n, label_n, x_nd * 2 + 1)), abs=1e-9)


def test_resamples_of_all_cells_once_are_the_score_itself():
    cells = cells_of(*arranged(types=4, batches=2), before_nd=arranged(types=4, batches=5)[0])
    rng = np.random.default_rng(0)
    draws_rn = rng.multinomial(len(cells.label_n), np.full(len(cells.label_n), 1 / len(cells.label_n)), 200)
    for name in NAMES:
        score = INTEGRATION_METRICS[name].function
        parts = score.prepare(cells)
        low, high = np.quantile(score.finish(parts, draws_rn.astype(float)), [0.005, 0.995])
        assert low - 1e-9 <= score(cells) <= high + 1e-9, name
        twice = score.finish(parts, np.full((1, len(cells.label_n)), 2.0))[0]
        assert twice == pytest.approx(score(cells), abs=1e-9), name


def test_a_type_of_one_batch_does_not_count_for_batches():
    x_nd, batch_n, label_n = arranged(types=12, batches=3)
    label_n = np.where((label_n == 2) & (batch_n == 0), 3, label_n)  # type 3 in batch 0 only, type 2 in batch 1 only
    cells = cells_of(x_nd, batch_n, label_n)
    for name in ("asw_batch", "bras"):
        score = INTEGRATION_METRICS[name].function
        is_in_kn = np.equal.outer(np.arange(4), label_n).astype(float)
        found_k = score.finish(score.prepare(cells), is_in_kn)
        assert np.isnan(found_k[2:]).all()
        assert score(cells) == pytest.approx(found_k[:2].mean())


def test_the_silhouette_is_that_of_scikit_learn():
    x_nd, batch_n, label_n = arranged(types=3, batches=1)
    label_n = np.where(np.arange(len(label_n)) == 5, 3, label_n)  # alone in its group
    for distance in ("euclidean", "cosine"):
        expected = silhouette_samples(x_nd, label_n, metric=distance)
        assert np.allclose(silhouettes(x_nd, label_n, distance=distance), expected, atol=1e-6)
    assert silhouettes(np.ones((8, 2)), np.arange(8) % 2).tolist() == [0] * 8


def test_the_share_between_batches_is_that_of_principal_component_regression():
    x_nd, batch_n, label_n = arranged(types=4, batches=2)
    before_nd = arranged(types=4, batches=6)[0]
    shares = []
    for some_nd in (before_nd, x_nd):
        model = PCA().fit(some_nd)
        component_nd = model.transform(some_nd)
        fitted_nd = np.stack([component_nd[batch_n == b].mean(0) for b in (0, 1)])[batch_n]
        r2_d = 1 - ((component_nd - fitted_nd) ** 2).sum(0) / (component_nd**2).sum(0)
        shares.append(r2_d @ model.explained_variance_ / model.explained_variance_.sum())
    found = INTEGRATION_METRICS["pcr_comparison"].function(cells_of(x_nd, batch_n, label_n, before_nd))
    assert found == pytest.approx((shares[0] - shares[1]) / shares[0], abs=1e-9)


def test_lisi_counts_groups():
    """Neighbours at one distance weigh alike: the index is that of their shares."""
    index_nk = np.arange(31)[None] * np.ones((1, 1), int)
    near_nk = np.r_[0.0, np.full(30, 2.0)][None]
    for num_first, expected in ((15, 2.0), (30, 1.0), (20, 1 / (4 / 9 + 1 / 9))):
        code_n = np.r_[0, np.zeros(num_first, int), np.ones(30 - num_first, int)]
        assert lisi(near_nk, index_nk, code_n)[0] == pytest.approx(expected)


def test_clusters_find_planted_types():
    cells = cells_of(*arranged(types=15, batches=0))
    code_n, resolution = cluster_cells(cells, seed=0)
    assert resolution is None
    assert averages({"nmi": 1.0, "ari": 1.0, "asw_label": 1.0, "asw_batch": 0.5, "graph_connectivity": 1.0}) == {
        "overall": pytest.approx(0.9), "avg_bio": 1.0, "avg_batch": 0.75,
    }  # fmt: skip
    assert len(set(zip(code_n.tolist(), cells.label_n.tolist(), strict=True))) == 3
    pytest.importorskip("leidenalg")
    code_n, resolution = cluster_cells(cells, how="leiden", seed=0)
    assert 0.1 <= resolution <= 2
    assert len(set(zip(code_n.tolist(), cells.label_n.tolist(), strict=True))) == 3


def test_twins_keep_themselves_as_first_neighbour():
    x_nd = np.repeat(np.random.default_rng(0).normal(size=(10, 3)), 20, axis=0)
    cells = embedded_cells(x_nd, np.arange(200) % 2, np.arange(200) // 100)
    assert (cells.index_nk[:, 0] == np.arange(200)).all()
    assert all(len(set(row)) == len(row) for row in cells.index_nk.tolist())
    found = scores_of(cells_of(x_nd, np.arange(200) % 2, np.arange(200) // 100))
    assert np.isnan(found.pop("pcr_comparison"))  # batches of the same cells differ in nothing
    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_nd": np.full((50, 3), np.nan)}, "finite"),
        ({"x_nd": np.zeros((10, 3))}, "at least 16"),
        ({"batch_n": np.zeros(50, int)}, "sequencing batches: all 50"),
        ({"label_n": np.zeros(50, int)}, "cell types: all 50"),
        ({"label_n": -np.ones(50, int)}, "one code"),
        ({"before_nd": np.zeros((3, 2))}, "3 cells before"),
    ],
)
def test_what_cannot_be_scored_is_refused(changes, says):
    given = {"x_nd": np.random.default_rng(0).normal(size=(50, 3)), "batch_n": np.arange(50) % 2}
    given |= {"label_n": np.arange(50) % 3, "before_nd": np.zeros((50, 2))} | changes
    if "x_nd" in changes:
        given |= {name: given[name][: len(given["x_nd"])] for name in ("batch_n", "label_n", "before_nd")}
    with pytest.raises(ValueError, match=says):
        embedded_cells(given["x_nd"], given["batch_n"], given["label_n"], unintegrated_nd=given["before_nd"])


SCIB = {
    "asw_label": 0.61316,
    "clisi": 0.93633,
    "ilisi": 0.83343,
    "asw_batch": 0.93219,
    "bras": 0.86156,
    "graph_connectivity": 1.0,
    "pcr_comparison": 0.81358,
}
"""What scib-metrics 0.5.10 says of the cells of `compared`; the slow test asks it again."""


def compared():
    x_nd, batch_n, label_n = arranged(types=3, batches=1.5, width=12)
    return cells_of(x_nd, batch_n, label_n, arranged(types=3, batches=4, width=12)[0])


def test_scores_are_those_recorded_of_scib_metrics():
    assert scores_of(compared()) == pytest.approx(SCIB, abs=2e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_scib_metrics():
    scib, cells = pytest.importorskip("scib_metrics"), compared()
    x_nd, batch_n, label_n = cells.embedding_nd, cells.tech_batch_n, cells.label_n
    near = scib.nearest_neighbors.NeighborsResults(indices=cells.index_nk, distances=cells.distance_nk)
    # scib (and scGPT's evaluation) take the symmetric graph; scib-metrics hands a directed one to the same function
    graph = SimpleNamespace(knn_graph_distances=neighbor_graph(cells))
    expected = {
        "asw_label": scib.silhouette_label(x_nd, label_n),
        "asw_batch": scib.silhouette_batch(x_nd, label_n, batch_n),
        "bras": scib.bras(x_nd, label_n, batch_n),
        "ilisi": scib.ilisi_knn(near, batch_n),
        "clisi": scib.clisi_knn(near, label_n),
        "graph_connectivity": scib.graph_connectivity(graph, label_n),
        "pcr_comparison": scib.pcr_comparison(cells.unintegrated_nd, x_nd, batch_n, categorical=True),
    }
    expected = {name: float(value) for name, value in expected.items()}
    assert scores_of(cells) == pytest.approx(expected, abs=2e-4)
    assert pytest.approx(expected, abs=2e-4) == SCIB
