"""``demo`` does the whole job on a user's own cells; what it cannot do it refuses."""

import pytest
from cli.command_line import made_up_cells, refused, works, write

import cellwright

TINY = [
    word
    for change in (
        "pretrain.model.width=16", "pretrain.model.num_heads=2", "pretrain.model.num_layers=1",
        "pretrain.model.feed_forward=16", "pretrain.batch_size=8", "pretrain.train.max_epochs=1",
        "pretrain.train.accelerator=cpu", "finetune.train.max_epochs=1", "finetune.train.accelerator=cpu",
    )
    for word in ("--set", change)
]  # fmt: skip


@pytest.mark.slow
def test_own_cells_from_counts_to_report(tmp_path):
    path = write(made_up_cells(80), tmp_path / "mine.h5ad")
    out = tmp_path / "demo"
    words = ["demo", "--data", path, "--label", "cell_type", "--split-by", "donor", "-o", out, "--no-progress", *TINY]
    said = works(*words)
    for name in ("scGPT, pre-trained", "scGPT, from scratch", "majority"):
        assert name in said
    assert f"report: {out / 'report.html'}" in said
    assert {path.name for path in out.iterdir()} >= {"pretrained", "finetuned", "scratch", "report.html"}
    assert cellwright.load(out / "finetuned").classes["label"] == ("type 0", "type 1")
    works("annotate", out / "finetuned", path, "-o", tmp_path / "out.h5ad")
    works(*words, "--seed", "1")  # an earlier demo is replaced


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--label", "cel_type"], ["no column 'cel_type'", "did you mean 'cell_type'?"]),
        (["--split-by", "doner"], ["no column 'doner'", "did you mean 'donor'?"]),
        (["--set", "pretrain.trian.max_epochs=1"], ["no option 'pretrain.trian.max_epochs'", "did you mean 'train'?"]),
        (["--set", "finetune.optim.lr=-1"], ["finetune.optim.lr = -1"]),
        (["--seed", "-1"], ["seed = -1"]),
    ],
)
def test_mistakes_are_named_before_anything_is_written(words, says, data, tmp_path):
    refused(tmp_path, "demo", "--data", data, "-o", tmp_path / "demo", *words, says=says)


def test_one_class_is_refused_before_pre_training(tmp_path):
    cells = made_up_cells(40)
    cells.obs["only"] = "T cell"
    path = write(cells, tmp_path / "mine.h5ad")
    words = ["demo", "--data", path, "--label", "only", "-o", tmp_path / "demo"]
    refused(tmp_path, *words, says=["'only'", "single class", "T cell"])


def test_a_folder_with_other_files_is_left_alone(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refused(tmp_path, "demo", "--data", data, "-o", tmp_path, says=["holds other files than an earlier demo"])
