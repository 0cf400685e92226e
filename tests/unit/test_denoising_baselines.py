"""Simple ways to denoise: what each one promises, and how they stand to each other on cells of planted types."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cellwright.baselines import denoising, packages
from cellwright.baselines.denoising import DENOISING_BASELINES, PLAIN_BASELINES
from cellwright.metrics import DENOISING_METRICS
from cellwright.tokens import thin_counts
from cellwright.types import CellBatch, Draw

NAMES = list(PLAIN_BASELINES)
GENES = np.arange(2, 40)


def planted_cells(num, *, seed, depth=2000):
    """Cells of three types over 40 genes; molecules of genes outside the vocabulary count too."""
    rng = np.random.default_rng(seed)
    rate_kg = np.random.default_rng(9).gamma(0.5, 1.0, (3, 50))
    rate_ng = rate_kg[rng.integers(0, 3, num)]
    count_ng = rng.poisson(depth * rate_ng / rate_ng.sum(1, keepdims=True))
    own_ng = count_ng[:, :40]
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum((own_ng > 0).sum(1))]),
        gene_z=np.nonzero(own_ng)[1].astype(np.int32),
        value_z=own_ng[own_ng > 0].astype(np.float32),
        row_n=np.arange(num),
        total_n=count_ng.sum(1).astype(np.float64),
    )


def deep_and_shallow(share=0.05):
    deep = planted_cells(90, seed=1)
    return deep, thin_counts(deep, np.full(len(deep), share), Draw(4))


def values_of(cells):
    count_nv = np.zeros((len(cells), 40))
    count_nv[np.repeat(np.arange(len(cells)), cells.num_genes_n), cells.gene_z] = cells.value_z
    return np.log1p(1e4 * count_nv / np.maximum(cells.total_n, 1)[:, None])[:, GENES]


def answer(name, train, shallow, deep, seed=0):
    return DENOISING_BASELINES[name].denoise(train, shallow, GENES, target_total_n=deep.total_n, seed=seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_answers_and_changes_nothing(name):
    deep, shallow = deep_and_shallow()
    empty_too = thin_counts(deep, np.r_[0.0, np.full(len(deep) - 1, 0.05)], Draw(4))
    train = planted_cells(80, seed=2)
    before = [shallow.value_z.copy(), train.value_z.copy(), train.total_n.copy()]
    value_ng = answer(name, train, shallow, deep)
    assert value_ng.shape == (90, len(GENES))
    assert value_ng.dtype == np.float32
    assert np.isfinite(value_ng).all()
    assert (value_ng >= 0).all()
    assert np.array_equal(answer(name, train, shallow, deep), value_ng)
    assert all(map(np.array_equal, before, [shallow.value_z, train.value_z, train.total_n]))
    assert np.isfinite(answer(name, train, empty_too, deep)).all()
    with pytest.raises(ValueError, match="raw counts"):
        answer(name, replace(train, state="log1p"), replace(shallow, state="log1p"), deep)


def test_smoothing_beats_scaling_and_the_mean_is_the_floor_within_genes():
    deep, shallow = deep_and_shallow()
    train, truth_ng = planted_cells(200, seed=2), values_of(deep)
    error = {n: DENOISING_METRICS["expressed_mae"].function(answer(n, train, shallow, deep), truth_ng) for n in NAMES}
    pearson = {n: DENOISING_METRICS["gene_pearson"].function(answer(n, train, shallow, deep), truth_ng) for n in NAMES}
    assert error["ridge"] < error["neighbors"] < error["library_size"] < error["unchanged"]
    assert error["training_neighbors"] < error["neighbors"]
    assert pearson["gene_mean"] == pearson["query_mean"] == 0
    assert all(pearson[name] > 0.2 for name in NAMES if DENOISING_BASELINES[name].role != "floor")


def test_unchanged_and_scaled_counts_by_hand():
    deep, shallow = deep_and_shallow(0.5)
    count_ng = np.expm1(values_of(shallow)) * shallow.total_n[:, None] / 1e4
    unchanged_ng = np.log1p(1e4 * count_ng / deep.total_n[:, None])
    np.testing.assert_allclose(answer("unchanged", deep, shallow, deep), unchanged_ng, rtol=1e-5)
    np.testing.assert_allclose(answer("library_size", deep, shallow, deep), values_of(shallow), rtol=1e-5)
    mean_g = values_of(deep).mean(0)
    np.testing.assert_allclose(answer("gene_mean", deep, shallow, deep), np.tile(mean_g, (90, 1)), rtol=1e-5)


def test_at_full_depth_scaling_and_neighbours_of_one_give_the_cell_back(monkeypatch):
    deep, _ = deep_and_shallow()
    np.testing.assert_allclose(answer("library_size", deep, deep, deep), values_of(deep), rtol=1e-5)
    monkeypatch.setattr(denoising, "NUM_NEIGHBORS", 1)
    np.testing.assert_allclose(answer("neighbors", deep, deep, deep), values_of(deep), rtol=1e-5)


def test_optional_packages_are_named_with_the_extra_that_installs_them():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    for entry in DENOISING_BASELINES.values():
        if entry.package is None:
            assert entry.is_available
            assert entry.install == ""
        else:
            assert entry.install == f'pip install "cellwright[{entry.extra}]"'
            assert [wanted.split(">")[0] for wanted in extras[entry.extra]] == [entry.package]
    assert not replace(DENOISING_BASELINES["magic"], package="no_such_package").is_available


@pytest.fixture
def few_epochs(monkeypatch):
    monkeypatch.setattr(packages, "SCVI_EPOCHS", 15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["magic", "scvi"])
def test_packages_answer_where_they_are_installed_and_leave_no_trace(name, few_epochs, tmp_path, monkeypatch, capfd):
    entry = DENOISING_BASELINES[name]
    if not entry.is_available:
        pytest.skip(f"needs {entry.install}")
    monkeypatch.chdir(tmp_path)
    deep, shallow = deep_and_shallow(0.1)
    empty_too = thin_counts(deep, np.r_[0.0, np.full(len(deep) - 1, 0.1)], Draw(4))
    torch.manual_seed(5)
    states = [torch.get_rng_state(), np.random.get_state()[1], dict(os.environ)]  # noqa: NPY002
    value_ng = answer(name, deep, shallow, deep)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == dict(os.environ)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert value_ng.shape == (90, len(GENES))
    assert value_ng.dtype == np.float32
    assert (value_ng >= 0).all()
    assert np.array_equal(answer(name, deep, shallow, deep), value_ng)
    # a share of molecules: within a few per cent of what the cells have, and not the square of a mean of roots
    whole_n, given_n = np.expm1(value_ng).sum(1), np.expm1(values_of(shallow)).sum(1)
    assert whole_n.mean() == pytest.approx(given_n.mean(), rel=0.05)
    error = DENOISING_METRICS["expressed_mae"].function
    assert error(value_ng, values_of(deep)) < error(answer("unchanged", deep, shallow, deep), values_of(deep))
    silent_ng = answer(name, deep, empty_too, deep)
    assert (silent_ng[0] == 0).all()
    assert np.isfinite(silent_ng).all()
    with pytest.raises(ValueError, match="needs at least 10 cells with molecules; there are 9"):
        answer(name, deep, shallow.take(np.arange(9)), deep.take(np.arange(9)))
