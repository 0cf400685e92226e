"""The command that denoises: what it writes, what it says, what it refuses."""

import json

import anndata
import numpy as np
import pytest
from cli.command_line import listing, made_up_cells, refused, works, write

import cellwright
from cellwright.evaluate import Evaluation

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


@pytest.fixture(scope="module")
def scored(depth, tmp_path_factory):
    """A folder of scores, and what was said of it."""
    folder = tmp_path_factory.mktemp("scored")
    deep = write(made_up_cells(40, seed=7), folder / "deep.h5ad")
    train = write(made_up_cells(44, seed=8), folder / "train.h5ad")
    words = ["--train", train, "--label", "cell_type", "--shares", "0.2, 0.1", "-n", 30, "--num-resamples", 100]
    return folder / "out", works("evaluate", "denoise", depth, deep, "-o", folder / "out", *words, *RUN)


def test_scores_are_a_report_beside_baselines(scored):
    out, said = scored
    assert {path.name for path in out.iterdir()} == {
        "cells.npz", "evaluation.json", "figures", "recipe.json", "report.html", "results.jsonl",
    }  # fmt: skip
    assert "wins" in said or "has the best held-out deviance" in said
    assert "40 genes that the model answers for" in said
    evaluation = Evaluation.load(out)
    assert evaluation.task == "denoise"
    assert {picture.name for picture in evaluation.pictures()} == {"depth-curves"}
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {None, "10 % of molecules", "20 % of molecules"}
    assert {row["method"] for row in rows} >= {"scFoundation", "ridge", "training_neighbors", "gene_mean", "deep_again"}
    assert all(row["low"] is not None and row["low"] <= row["value"] <= row["high"] for row in rows)
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["config"]["shares"] == [0.2, 0.1]
    assert recipe["config"]["num_query"] == 30


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--shares", "0.1,half"], "--shares: 'half' is no number"),
        (["--shares", "1.5"], "less than 1"),
        (["--further", "magik"], "did you mean 'magic'"),
        (["--label", "celltype"], "did you mean 'cell_type'"),
        (["--num-resamples", "5"], "greater than or equal to 100"),
        (["--train", "nothing.h5ad"], "nothing.h5ad"),
    ],
)
def test_bad_requests_for_scores_end_in_one_line(depth, data, tmp_path, words, error):
    refused(tmp_path, "evaluate", "denoise", depth, data, "-o", tmp_path / "out", *words, *RUN, says=[error])


def test_a_family_without_depth_cannot_be_scored(official, data, tmp_path):
    refused(tmp_path, "evaluate", "denoise", official, data, "-o", tmp_path / "out", *RUN, says=["cannot denoise"])
