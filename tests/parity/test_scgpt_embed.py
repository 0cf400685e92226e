"""Zero-shot embedding by the public verb equals the published ``embed_data``."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from parity.cases import Case

from cellwright import verbs


def published_cells(kind: str) -> anndata.AnnData:
    case = Case("scgpt", "embed_data_endtoend")
    x = case.arrays["in/X"]
    matrix = {"dense": x, "csr": sp.csr_matrix(x), "csc": sp.csc_matrix(x), "float64": x.astype(np.float64)}[kind]
    return anndata.AnnData(
        matrix,
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(len(x))]),
        var=pd.DataFrame(index=list(case.arrays["in/gene_names"])),
    )


@pytest.mark.parametrize("kind", ["dense", "csr", "csc", "float64"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_equals_embed_data(kind, batch_size):
    case = Case("scgpt", "embed_data_endtoend")
    adata = published_cells(kind)
    folder = Case("scgpt", "released_layout").folder
    ours = verbs.embed(adata, folder, run=verbs.InferenceOptions(batch_size=batch_size, device="cpu"))
    assert ours.dtype == np.float32
    for name in ("X_scGPT", "X_scGPT_fastpath_off"):
        np.testing.assert_allclose(ours, case.arrays[f"out/{name}"], atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)


def test_gene_order_does_not_matter():
    adata, folder = published_cells("csr"), Case("scgpt", "released_layout").folder
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    np.testing.assert_allclose(verbs.embed(adata, folder), verbs.embed(shuffled, folder), atol=1e-5)


def test_what_was_lent_is_unchanged():
    adata, folder = published_cells("csr"), Case("scgpt", "released_layout").folder
    before = adata.copy()
    embedding = verbs.embed(adata, folder)
    assert (adata.X != before.X).nnz == 0
    assert not adata.obsm
    assert not adata.uns
    assert list(adata.var.columns) == list(before.var.columns)
    filled = verbs.embed(adata, folder, key_added="X_scGPT")
    np.testing.assert_array_equal(filled, embedding)
    np.testing.assert_array_equal(adata.obsm["X_scGPT"], embedding)
    assert adata.uns["cellwright"]["X_scGPT"]["model"]["family"] == "scgpt"
