"""Every baseline of integration embeds the cells it is given, repeatably; the ones that correct do correct."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cellwright.baselines import integration
from cellwright.baselines.integration import INTEGRATION_BASELINES, IntegrationCase
from cellwright.data import make_cells
from cellwright.metrics import INTEGRATION_METRICS, embedded_cells


@pytest.fixture(scope="module")
def case():
    adata = make_cells(240, 60, num_types=3, num_batches=2, depth=800, seed=1)
    counts_ng = sparse.csr_matrix(adata.X)
    total_n1 = np.asarray(counts_ng.sum(1))
    logcp10k_ng = counts_ng.multiply(1e4 / total_n1).log1p().tocsr()
    return IntegrationCase(
        logcp10k_ng=logcp10k_ng, counts_ng=counts_ng, tech_batch_n=adata.obs["tech_batch"].cat.codes.to_numpy(np.int64),
        label_n=adata.obs["cell_type"].cat.codes.to_numpy(np.int64), seed=3, scvi_epochs=2,
    )  # fmt: skip


def score(case, name, embedding_nd):
    cells = embedded_cells(embedding_nd, case.tech_batch_n, case.label_n, unintegrated_nd=integration.pca(case))
    return INTEGRATION_METRICS[name].function(cells)


@pytest.mark.parametrize("name", [name for name in INTEGRATION_BASELINES if name != "scvi"])
def test_a_baseline_is_repeatable_and_finite(case, name):
    baseline = INTEGRATION_BASELINES[name]
    if baseline.package:
        pytest.importorskip(baseline.package)
    assert baseline.why_not(case) == ""
    first = baseline.embed(case)
    assert first.shape[0] == 240
    assert np.isfinite(first).all()
    assert np.allclose(first, baseline.embed(case), atol=1e-8)


@pytest.mark.slow
def test_scvi_is_repeatable_and_leaves_the_process_as_it_was(case):
    import torch

    pytest.importorskip("scvi")
    state = torch.get_rng_state()
    first = INTEGRATION_BASELINES["scvi"].embed(case)
    assert first.shape == (240, 30)
    assert torch.equal(state, torch.get_rng_state())
    assert np.allclose(first, INTEGRATION_BASELINES["scvi"].embed(case), atol=1e-5)


def test_what_corrects_mixes_batches_and_keeps_types(case):
    plain = integration.pca(case)
    corrected = {"centred_pca": integration.centred_pca(case)}
    if INTEGRATION_BASELINES["harmony"].why_not(case) == "":
        corrected["harmony"] = integration.harmony(case)
    for name, embedding_nd in corrected.items():
        assert score(case, "ilisi", embedding_nd) > score(case, "ilisi", plain) + 0.05, name
        assert score(case, "clisi", embedding_nd) > 0.9, name


def test_the_bounds_are_bounds(case):
    floor, roof = integration.shuffled(case), integration.label_positions(case)
    assert score(case, "clisi", floor) < 0.6 < 0.99 < score(case, "clisi", roof)
    assert score(case, "ilisi", floor) > 0.85
    assert score(case, "ilisi", roof) > 0.85
    assert score(case, "graph_connectivity", roof) == 1


def test_what_is_missing_is_said(case, monkeypatch):
    import dataclasses

    bare = dataclasses.replace(case, counts_ng=None, label_n=None)
    assert INTEGRATION_BASELINES["labels"].why_not(bare) == "it needs labels"
    monkeypatch.setattr(integration, "find_spec", lambda name: None)
    assert INTEGRATION_BASELINES["harmony"].why_not(case) == (
        'harmonypy is not installed: pip install "cellwright[harmony]"'
    )
    monkeypatch.setattr(integration, "find_spec", lambda name: object())
    assert INTEGRATION_BASELINES["scvi"].why_not(bare) == "it needs raw counts"
