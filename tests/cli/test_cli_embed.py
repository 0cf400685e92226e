"""``embed``: what it takes, what it writes, and that nothing else changes."""

from importlib import import_module

import anndata
import numpy as np
import pytest
import torch
from cli.command_line import in_ensembl, listing, refused, works, write

import cellwright
from cellwright.files import sha256_file


def embedding(path, key="X_scGPT"):
    return anndata.read_h5ad(path).obsm[key]


@pytest.fixture(scope="module")
def wanted(adata, model):
    return cellwright.embed(adata, model)


def test_out_is_data_with_the_embedding_beside_it(data, official, tmp_path, wanted):
    before = sha256_file(data)
    said = works("embed", official, data, "-o", tmp_path / "out.h5ad")
    assert sha256_file(data) == before
    source, out = anndata.read_h5ad(data), anndata.read_h5ad(tmp_path / "out.h5ad")
    found = out.obsm["X_scGPT"]
    assert found.dtype == np.float32
    assert found.shape == (40, 16)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.array_equal(found, wanted)
    assert out.obs.equals(source.obs)
    assert out.var.equals(source.var)
    assert (out.X != source.X).nnz == 0
    assert 'obsm["X_scGPT"] 40 x 16' in said
    assert "values are raw" in said
    assert listing(tmp_path).keys() == {"out.h5ad"}


def test_provenance_says_what_the_numbers_depend_on(data, official, model, tmp_path):
    works("embed", official, data, "-o", tmp_path / "out.h5ad", "--seed", "3", "--batch-size", "7")
    record = anndata.read_h5ad(tmp_path / "out.h5ad").uns["cellwright"]["X_scGPT"]
    assert record["model"]["vocab_sha256"] == model.vocab.sha256
    assert record["model"]["source"] == str(official)
    assert record["options"]["seed"] == 3
    assert record["options"]["batch_size"] == 7
    assert record["options"]["ties"] == "upper"
    assert record["contract"]["state"]["kind"] == "raw"
    assert record["versions"]["cellwright"]


def test_rows_follow_data_whatever_the_minibatch(data, adata, official, tmp_path, wanted):
    order = np.random.default_rng(0).permutation(40)
    mixed = write(adata[order].copy(), tmp_path / "mixed.h5ad")
    works("embed", official, mixed, "-o", tmp_path / "out.h5ad", "--batch-size", "3", "--no-progress")
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obs_names.tolist() == adata.obs_names[order].tolist()
    assert np.allclose(embedding(tmp_path / "out.h5ad"), wanted[order], atol=1e-5)


def test_every_kind_of_model_gives_the_same_numbers(data, official, own, tmp_path, wanted, monkeypatch):
    monkeypatch.setattr(import_module("cellwright.models.load"), "SHIPPED", official.parent)
    for number, model in enumerate((official, official / "best_model.pt", own, "official")):
        works("embed", model, data, "-o", tmp_path / f"{number}.h5ad")
        assert np.allclose(embedding(tmp_path / f"{number}.h5ad"), wanted, atol=1e-6)


def test_ensembl_ids_in_another_order_give_the_same_numbers(adata, official, tmp_path, wanted):
    twin = write(in_ensembl(adata), tmp_path / "ensembl.h5ad")
    assert "60 ensembl" in works("embed", official, twin, "-o", tmp_path / "out.h5ad")
    assert np.allclose(embedding(tmp_path / "out.h5ad"), wanted, atol=1e-5)
    words = ["embed", official, twin, "-o", tmp_path / "exact.h5ad", "--genes", "exact"]
    refused(tmp_path, *words, says=["none of the 60 genes is in the vocabulary", "ensembl"])


def test_random_ties_follow_the_seed(data, official, tmp_path, wanted):
    def drawn(name, seed):
        works("embed", official, data, "-o", tmp_path / name, "--ties", "random", "--seed", seed)
        return embedding(tmp_path / name)

    first = drawn("a.h5ad", 1)
    assert np.array_equal(first, drawn("b.h5ad", 1))
    assert not np.allclose(first, drawn("c.h5ad", 2), atol=1e-4)
    assert not np.allclose(first, wanted, atol=1e-4)


def test_another_slot_and_earlier_records_stay_side_by_side(data, official, tmp_path):
    works("embed", official, data, "-o", tmp_path / "a.h5ad")
    works("embed", official, tmp_path / "a.h5ad", "-o", tmp_path / "b.h5ad", "--slot", "X_again")
    out = anndata.read_h5ad(tmp_path / "b.h5ad")
    assert set(out.obsm) == set(out.uns["cellwright"]) == {"X_scGPT", "X_again"}


def test_out_may_be_replaced_and_its_folder_made(data, official, tmp_path):
    out = tmp_path / "new" / "folder" / "out.h5ad"
    works("embed", official, data, "-o", out)
    first = sha256_file(out)
    works("embed", official, data, "-o", out, "--slot", "X_other")
    assert sha256_file(out) != first
    assert "X_scGPT" not in anndata.read_h5ad(out).obsm


def test_python_leaves_the_callers_objects_alone(adata, official, capsys, wanted):
    lent = adata.copy()
    model = cellwright.load(official)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    assert np.array_equal(cellwright.embed(lent, model), wanted)
    assert set(lent.obsm) == set(lent.uns) == set()
    assert list(lent.obs) == list(adata.obs)
    assert (lent.X != adata.X).nnz == 0
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    run = cellwright.InferenceOptions(progress=False)
    returned = cellwright.embed(lent, model, key_added="X_kept", run=run)
    assert np.array_equal(lent.obsm["X_kept"], returned)
    assert lent.uns["cellwright"]["X_kept"]["model"]["family"] == "scgpt"
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="key_added='X_kept' fills a slot of an AnnData, but a path was given"):
        cellwright.embed("cells.h5ad", model, key_added="X_kept")
