"""``pretrain`` makes a model, and ``--resume`` ends where a run that was never stopped ends."""

import json
import shutil

import numpy as np
import pytest
from cli.command_line import made_up_cells, refused, works, write

import cellwright

SMALL = [
    "--no-progress", "--set", "train.accelerator=cpu", "--set", "model.width=16", "--set", "model.num_heads=2",
    "--set", "model.num_layers=1", "--set", "model.feed_forward=16", "--set", "batch_size=8", "--set", "optim.lr=0.003",
    "--set", "train.checkpoint_every=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    said = works("pretrain", data, "-o", folder, *SMALL, "--set", "train.max_steps=4")
    assert "4 steps" in said
    assert f"model: {folder}" in said
    assert "raw values" in said
    return folder


def test_the_run_folder_is_a_model_of_the_datas_genes(pretrained, data, adata, tmp_path):
    model = cellwright.load(pretrained)
    assert set(model.vocab.genes) == set(adata.var_names)
    assert model.config.width == 16
    assert model.origin["pretraining"]["steps"] == 4
    works("embed", pretrained, data, "-o", tmp_path / "out.h5ad")
    recipe = json.loads((pretrained / "recipe.json").read_text())
    assert recipe["batch_size"] == 8
    assert recipe["optim"]["lr"] == 0.003


def test_resume_ends_where_a_straight_run_ends(pretrained, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    # as if killed after step 2: nothing of what came later is there
    shutil.rmtree(run / "checkpoints" / "step-000000004")
    for name in ("model.safetensors", "config.json", "vocab.json"):
        (run / name).unlink()
    works("pretrain", data, "-o", run, *SMALL, "--set", "train.max_steps=4", "--resume")
    assert cellwright.load(run).sha256() == cellwright.load(pretrained).sha256()


def test_resume_refuses_another_run(pretrained, data, adata, tmp_path):
    words = [*SMALL, "--set", "train.max_steps=6", "--resume"]
    refused(
        pretrained, "pretrain", data, "-o", pretrained, *words, "--set", "train.seed=1", says=["seed", "begun with"]
    )
    other = write(made_up_cells(40, seed=3), tmp_path / "other.h5ad")
    refused(pretrained, "pretrain", other, "-o", pretrained, *words, says=["begun with"])
    absent = ["pretrain", data, "-o", tmp_path / "absent", *words]
    refused(tmp_path, *absent, says=["no run to resume", tmp_path / "absent"])


def test_two_files_make_one_vocabulary(adata, tmp_path):
    first = write(adata[:, :40].copy(), tmp_path / "a.h5ad")
    second = write(adata[:, 20:].copy(), tmp_path / "b.h5ad")
    works("pretrain", first, second, "-o", tmp_path / "run", *SMALL, "--set", "train.max_steps=1")
    assert set(cellwright.load(tmp_path / "run").vocab.genes) == set(adata.var_names)


def test_what_the_values_are_can_be_said(data, tmp_path):
    words = [*SMALL, "--set", "train.max_steps=1"]
    works("pretrain", data, "-o", tmp_path / "run", "--assume", "normalised", "--layer", "X", *words)
    found = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert found["data"]["assume"] == "normalised"
    assert found["sources"]["contracts"][0]["delivered"] == "normalised"
    refused(tmp_path, "pretrain", data, "-o", tmp_path / "no", "--assume", "log2", *words, says=["log2", "log1p"])


def test_values_of_different_kinds_do_not_mix(data, adata, tmp_path):
    logs = adata.copy()
    logs.X = logs.X.multiply(1e4 / logs.X.sum(1)).tocsr().log1p().astype(np.float32)
    path = write(logs, tmp_path / "logs.h5ad")
    words = ["pretrain", data, path, "-o", tmp_path / "run", *SMALL]
    refused(tmp_path, *words, says=["different states (log1p, raw)", "give raw counts for all"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("family=scgtp", ["no model family 'scgtp'", "did you mean 'scgpt'?"]),
        ("model.widht=3", ["model: no option 'widht'", "did you mean 'width'?"]),
        ("trian.max_steps=3", ["no option 'trian.max_steps'", "did you mean 'train'?"]),
        ("train.max_steps", ["'train.max_steps' is not of the form name=value"]),
        ("train.max_steps=0", ["train.max_steps = 0"]),
        ("batch_size=1000", ["1000"]),
        ("batch_size=-1", ["batch_size = -1"]),
        ("optim.lr=NaN", ["optim.lr", "finite"]),
        ("optim.lr=-0.1", ["optim.lr = -0.1"]),
        ("model.width=15", ["width 15 must be a multiple of num_heads 2"]),
        ("objective.view=generativ_split", ["no view 'generativ_split'", "did you mean 'generative_split'?"]),
        ('objective.terms={"masked_valu": 1}', ["no loss term 'masked_valu'", "did you mean 'masked_value'?"]),
        ('objective.term_options={"masked_valu": {}}', ["no loss term 'masked_valu'", "did you mean 'masked_value'?"]),
        (
            'objective.term_options={"masked_value": {"x": 1}}',
            ["objective.term_options of masked_value", "no option 'x'"],
        ),
        ("data.min_cells=1000", ["no gene is expressed in 1000 cells"]),
        ('inputs.panel=["NOGENE"]', ["not in the vocabulary: NOGENE"]),
        ("train.accelerator=quantum", ["quantum"]),
    ],
)
def test_a_bad_option_leaves_nothing_behind(change, says, data, tmp_path):
    refused(tmp_path, "pretrain", data, "-o", tmp_path / "deep" / "run", *SMALL, "--set", change, says=says)


def test_a_failed_run_keeps_an_empty_folder_that_was_there(data, tmp_path):
    (tmp_path / "run").mkdir()
    refused(tmp_path, "pretrain", data, "-o", tmp_path / "run", *SMALL, "--set", "batch_size=1000")


def test_an_unknown_recipe_is_named(data, tmp_path):
    words = ["pretrain", data, "-o", tmp_path / "run", "--recipe", "scgpt_tny"]
    refused(tmp_path, *words, says=["no recipe 'scgpt_tny'", "did you mean 'scgpt_tiny'?"])
