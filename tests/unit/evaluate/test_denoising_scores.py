"""From answers to rows: roles, the held-out molecules, clusters, the figure and the table."""

from dataclasses import replace

import numpy as np
import pytest

from cellwright.evaluate.denoising import cluster_codes, rows_table, score_denoised
from cellwright.evaluate.depth_cases import ROOF, DepthCase, baseline_answers, deep_values
from cellwright.evaluate.depth_curves import depth_curves_figure
from cellwright.metrics import DENOISING_METRICS
from cellwright.tokens import thin_counts
from cellwright.types import CellBatch, Draw

GENES = np.arange(20)


def cells(num, *, seed):
    rng = np.random.default_rng(seed)
    type_n = np.arange(num) % 3
    rate_kg = np.random.default_rng(9).gamma(0.4, 1.0, (3, 20))
    rate_ng = rate_kg[type_n]
    count_ng = rng.poisson(1500 * rate_ng / rate_ng.sum(1, keepdims=True))
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum((count_ng > 0).sum(1))]),
        gene_z=np.nonzero(count_ng)[1].astype(np.int32),
        value_z=count_ng[count_ng > 0].astype(np.float32),
        row_n=np.arange(num),
        total_n=count_ng.sum(1).astype(np.float64),
    ), type_n


@pytest.fixture(scope="module")
def rows():
    train, _ = cells(60, seed=1)
    deep, type_n = cells(45, seed=2)
    background_g = np.bincount(train.gene_z, weights=train.value_z, minlength=20)
    found = []
    for share in (0.005, 0.2):
        shallow = thin_counts(deep, np.full(len(deep), share), Draw(3))
        case = DepthCase(share=share, deep=deep, shallow=shallow, gene_ids=GENES, label_n=type_n)
        answers = baseline_answers(train, case, seed=0, names=["gene_mean", "library_size", "ridge"])
        answers["oracle"] = deep_values(deep, GENES)
        found += score_denoised(answers, case, background_g, models=["oracle"], seed=0, num_resamples=100)
    return found


def value(rows, method, metric, share):
    return next(r for r in rows if (r.method, r.metric, r.share) == (method, metric, share)).value


def test_every_method_has_every_score_and_a_role(rows):
    metrics = {*DENOISING_METRICS, "nmi", "ari"}
    for method in ("gene_mean", "library_size", "ridge", "oracle"):
        assert {r.metric for r in rows if r.method == method} == metrics
    assert {r.metric for r in rows if r.method == ROOF} == metrics - {"held_out_deviance"}
    roles = {r.method: r.role for r in rows}
    assert roles == {
        "gene_mean": "floor", "library_size": "baseline", "ridge": "baseline", ROOF: "roof", "oracle": "model",
    }  # fmt: skip
    assert all(r.low <= r.value <= r.high for r in rows)
    assert all(r.num_cells == 45 and r.num_genes == 20 for r in rows)


def test_the_deep_cells_themselves_score_best_and_more_molecules_help(rows):
    for metric, entry in DENOISING_METRICS.items():
        if metric == "held_out_deviance":
            continue
        assert value(rows, "oracle", metric, 0.005) == pytest.approx(entry.best, abs=1e-6)
    assert value(rows, "oracle", "nmi", 0.005) > 0.95
    assert value(rows, "gene_mean", "ari", 0.005) == 0
    for metric, sign in (("expressed_mae", 1), ("held_out_deviance", 1), ("cell_pearson", -1), ("ari", -1)):
        few, many = (value(rows, "library_size", metric, share) for share in (0.005, 0.2))
        assert sign * (few - many) > 0, metric
    assert value(rows, ROOF, "expressed_mae", 0.005) < value(rows, "library_size", "expressed_mae", 0.2)


def test_clusters_are_found_and_take_the_place_of_labels():
    deep, type_n = cells(45, seed=2)
    code_n = cluster_codes(deep_values(deep, GENES), 3, seed=0)
    assert len({(a, b) for a, b in zip(code_n.tolist(), type_n.tolist(), strict=True)}) == 3
    case = DepthCase(share=1.0, deep=deep, shallow=deep, gene_ids=GENES, groups_n=np.arange(45) % 5)
    found = score_denoised({ROOF: deep_values(deep, GENES)}, case, np.ones(20), seed=0, num_resamples=50)
    assert value(found, ROOF, "ari", 1.0) == 1
    assert {r.metric for r in found} == {*DENOISING_METRICS, "nmi", "ari"} - {"held_out_deviance"}


def test_wrong_cases_are_refused():
    deep, _ = cells(12, seed=2)
    shallow = thin_counts(deep, np.full(12, 0.5), Draw(1))
    with pytest.raises(ValueError, match="same cells"):
        DepthCase(share=0.5, deep=deep, shallow=shallow.take(np.arange(11)), gene_ids=GENES)
    swapped = DepthCase(share=0.5, deep=shallow, shallow=replace(deep), gene_ids=GENES)
    with pytest.raises(ValueError, match="thin the deep cells"):
        score_denoised({ROOF: deep_values(deep, GENES)}, swapped, np.ones(20), seed=0, num_resamples=5)
    case = DepthCase(share=0.5, deep=deep, shallow=shallow, gene_ids=GENES)
    with pytest.raises(ValueError, match="no denoising baseline 'mean'"):
        baseline_answers(deep, case, seed=0, names=["mean"])


def test_the_figure_is_the_same_bytes_and_names_every_method(rows):
    figure = depth_curves_figure(rows, ["expressed_mae", "cell_pearson", "held_out_deviance", "ari"])
    assert figure == depth_curves_figure(rows, ["expressed_mae", "cell_pearson", "held_out_deviance", "ari"])
    for method in {r.method for r in rows}:
        assert method.encode() in figure
    with pytest.raises(ValueError, match="no row of the metric"):
        depth_curves_figure(rows, ["accuracy"])


def test_the_table_puts_the_best_first(rows):
    lines = rows_table(rows, "expressed_mae").splitlines()
    assert lines[0].split() == ["expressed_mae", "role", "0.5%", "20%"]
    assert lines[1].startswith("oracle")
    assert len(lines) == 6
