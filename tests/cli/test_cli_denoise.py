"""The command that denoises: what it writes, what it says, what it refuses."""

import anndata
import numpy as np
import pytest
from cli.command_line import listing, made_up_cells, refused, works, write

import cellwright

SMALL = [
    "--no-progress", "--recipe", "scfoundation_tiny", "--set", "train.accelerator=cpu", "--set", "batch_size=8",
    "--set", "data.num_genes=40", "--set", "data.min_cells=1", "--set", "train.max_epochs=null",
    "--set", "train.max_steps=4",
]  # fmt: skip
RUN = ["--no-progress", "--device", "cpu"]


@pytest.fixture(scope="module")
def depth(tmp_path_factory):
    """A run folder of four steps."""
    folder = tmp_path_factory.mktemp("depth")
    works("pretrain", write(made_up_cells(40, seed=1), folder / "cells.h5ad"), "-o", folder / "run", *SMALL)
    return folder / "run"


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_it_adds_a_layer_and_leaves_the_rest(depth, data, home, tmp_path, suffix):
    before = listing(home)
    said = works("denoise", depth, data, "-o", tmp_path / f"deep{suffix}", "--depth", "f3", *RUN)
    assert 'layers["denoised"], 40 of 60 genes predicted at f3, 20 are NaN' in said
    assert listing(home) == before
    assert [path.name for path in tmp_path.iterdir()] == [f"deep{suffix}"], "nothing is left lying about"
    read = anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr
    deep, given = read(tmp_path / f"deep{suffix}"), anndata.read_h5ad(data)
    assert (deep.X != given.X).nnz == 0
    assert set(deep.obs) == set(given.obs)
    layer_ng = deep.layers["denoised"]
    assert layer_ng.dtype == np.float32
    assert np.isnan(layer_ng).all(axis=0).sum() == 20
    found = cellwright.denoise(given, depth, depth="f3", run=cellwright.InferenceOptions(progress=False, device="cpu"))
    is_known_g = ~np.isnan(layer_ng).any(axis=0)
    place_g = [found.genes.index(name) for name in given.var_names[is_known_g]]
    np.testing.assert_allclose(layer_ng[:, is_known_g], found.value_ng[:, place_g], rtol=1e-4, atol=1e-5)
    note = deep.uns["cellwright"]["denoised"]
    assert note["depth"] == "f3"
    assert note["num_empty_cells"] == 0


def test_some_genes_in_another_slot(depth, data, tmp_path):
    genes = cellwright.load(depth).vocab.genes[:2]
    works("denoise", depth, data, "-o", tmp_path / "x.h5ad", "--only", ",".join(genes), "--slot", "two", *RUN)
    deep = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert set(deep.var_names[~np.isnan(deep.layers["two"]).any(axis=0)]) == set(genes)


def test_bad_requests_end_in_one_line_and_leave_nothing(depth, official, data, tmp_path):
    out = tmp_path / "x.h5ad"
    refused(
        tmp_path,
        "denoise",
        depth,
        data,
        "-o",
        out,
        "--depth",
        "deep",
        *RUN,
        says=["read depth 'deep' is not understood"],
    )
    refused(tmp_path, "denoise", depth, data, "-o", out, "--only", "NOPE", *RUN, says=["none of the model's: NOPE"])
    refused(tmp_path, "denoise", official, data, "-o", out, *RUN, says=["knows no read depth"])
    refused(tmp_path, "denoise", depth, data, "-o", data, *RUN, says=["choose another name"])
    refused(tmp_path, "denoise", depth, data, "-o", out, "--slot", "a/b", *RUN, says=["must not be empty or contain"])
    assert not list(tmp_path.iterdir())
