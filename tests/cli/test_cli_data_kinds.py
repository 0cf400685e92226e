"""The same cells in every dress give the same embedding; OUT is where and what it may be."""

import os

import anndata
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from cli.command_line import refused, works, write

import cellwright
from cellwright.data import write_h5ad
from cellwright.files import sha256_file


@pytest.fixture(scope="module")
def wanted(adata, model):
    return cellwright.embed(adata, model)


def counts_in_raw(adata):
    adata.raw = adata.copy()
    adata.X = adata.X.toarray() - 1


def counts_in_a_layer(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.toarray() - 1


def without_x(adata):
    adata.layers["counts"] = adata.X.copy()
    del adata.X


def with_doubtful_symbols(adata):
    adata.var["gene_symbol"] = list(adata.var_names)
    adata.var_names = [f"{g}" for g in range(adata.n_vars)]


DRESSES = {
    "columns": (lambda adata: setattr(adata, "X", adata.X.tocsc()), ()),
    "dense": (lambda adata: setattr(adata, "X", adata.X.toarray()), ()),
    "dense on disk": (lambda adata: setattr(adata, "X", adata.X.toarray()), ("--backed",)),
    "rows on disk": (lambda adata: None, ("--backed",)),
    "int64": (lambda adata: setattr(adata, "X", adata.X.astype(np.int64)), ()),
    "float64": (lambda adata: setattr(adata, "X", adata.X.astype(np.float64)), ()),
    "uint8": (lambda adata: setattr(adata, "X", adata.X.astype(np.uint8)), ()),
    "counts in raw": (counts_in_raw, ()),
    "counts in a layer": (counts_in_a_layer, ()),
    "no X": (without_x, ()),
    "symbols in a column": (with_doubtful_symbols, ()),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_every_dress_gives_the_same_numbers(dress, adata, official, tmp_path, wanted):
    change, words = DRESSES[dress]
    changed = adata.copy()
    assert changed.X.max() < 256
    change(changed)
    path = write(changed, tmp_path / "in.h5ad")
    works("embed", official, path, "-o", tmp_path / "out.h5ad", "--no-progress", *words)
    assert np.allclose(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_scGPT"], wanted, atol=1e-5)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_zarr_in_and_out(suffix, adata, official, tmp_path, wanted):
    path, out = tmp_path / "in.zarr", tmp_path / f"out{suffix}"
    write_h5ad(adata, path)
    works("embed", official, path, "-o", out)
    read = anndata.read_zarr if suffix == ".zarr" else anndata.read_h5ad
    assert np.allclose(read(out).obsm["X_scGPT"], wanted, atol=1e-5)
    (path / "X" / "indices" / ".zarray").write_text("{}")
    refused(tmp_path, "embed", official, path, "-o", tmp_path / "again.h5ad", says=[path, "damaged"])


def write_folder(adata, folder):
    """Write a 10x matrix folder."""
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(adata.X.T.astype(np.int64)))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    (folder / "features.tsv").write_text(
        "".join(f"ID{g}\t{n}\tGene Expression\n" for g, n in enumerate(adata.var_names))
    )
    return folder


def write_hdf5(adata, path):
    """Write a Cell Ranger 3 file."""
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = adata.X.data, adata.X.indices, adata.X.indptr
        group["shape"] = np.array([adata.n_vars, adata.n_obs])
        group["barcodes"] = np.array(list(adata.obs_names), dtype="S")
        group["features/name"] = np.array(list(adata.var_names), dtype="S")
        group["features/id"] = np.array([f"ID{g}" for g in range(adata.n_vars)], dtype="S")
        group["features/feature_type"] = np.array(["Gene Expression"] * adata.n_vars, dtype="S")
    return path


def test_cell_ranger_folders(adata, official, tmp_path, wanted):
    folder = write_folder(adata, tmp_path / "filtered")
    works("embed", official, folder, "-o", tmp_path / "out.h5ad")
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert np.allclose(out.obsm["X_scGPT"], wanted, atol=1e-5)
    assert (out.X != adata.X).nnz == 0
    matrix = folder / "matrix.mtx"
    matrix.write_bytes(matrix.read_bytes()[:-40])
    refused(tmp_path, "embed", official, folder, "-o", tmp_path / "again.h5ad", says=[matrix, "damaged"])
    (folder / "features.tsv").unlink()
    refused(tmp_path, "embed", official, folder, "-o", tmp_path / "again.h5ad", says=["no features.tsv"])


def test_cell_ranger_files(adata, official, tmp_path, wanted):
    import h5py

    path = write_hdf5(adata, tmp_path / "filtered.h5")
    works("embed", official, path, "-o", tmp_path / "out.h5ad")
    assert np.allclose(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_scGPT"], wanted, atol=1e-5)
    with h5py.File(path, "r+") as file:
        del file["matrix/features/name"]
    refused(tmp_path, "embed", official, path, "-o", tmp_path / "again.h5ad", says=[path, "damaged", "name"])


@pytest.mark.parametrize("verb", ["embed", "annotate"])
def test_out_must_be_another_file_that_can_be_made(verb, annotator, data, tmp_path):
    own = tmp_path / "cells.h5ad"
    own.write_bytes(data.read_bytes())
    before = sha256_file(own)
    link = tmp_path / "link.h5ad"
    link.symlink_to(own)
    folder = tmp_path / "folder.h5ad"
    folder.mkdir()
    for out, says in {
        own: ["is the input; choose another name"],
        link: ["is the input; choose another name"],
        folder: ["exists and is a folder"],
        tmp_path / "out.txt": ["out.txt must end in .h5ad or .zarr"],
        tmp_path / "out": ["must end in .h5ad or .zarr"],
        own / "out.h5ad": ["cannot be written", "is a file, not a folder"],
    }.items():
        refused(tmp_path, verb, annotator, own, "-o", out, says=[out.name, *says])
    assert sha256_file(own) == before


def test_a_folder_without_permission_is_named_before_the_work(official, data, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    words = ["embed", official, data, "-o", tmp_path / "deep" / "out.h5ad"]
    refused(tmp_path, *words, says=["no permission to write into", tmp_path])


def test_an_input_that_is_linked_to_out_keeps_its_content(official, data, tmp_path):
    own, twin = tmp_path / "cells.h5ad", tmp_path / "twin.h5ad"
    own.write_bytes(data.read_bytes())
    os.link(own, twin)
    works("embed", official, own, "-o", twin)
    assert sha256_file(own) == sha256_file(data)
    assert "X_scGPT" in anndata.read_h5ad(twin).obsm
