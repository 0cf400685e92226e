"""Fine-tuning that cannot work is refused before it begins, or leaves nothing when it fails."""

import numpy as np
import pytest
from cli.command_line import refused, works, write

LABEL = ("--label", "cell_type")


def column(values, name="cell_type"):
    def change(adata):
        adata.obs[name] = values

    return change


def some_missing(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[[3, 8], 0] = np.nan


def first(number):
    return lambda adata: adata[:number].copy()


LABELS = {
    "misspelt": (None, ("--label", "cel_type"), ["no column 'cel_type' in obs", "did you mean 'cell_type'?"]),
    "missing": (some_missing, LABEL, ["column 'cell_type' is empty (NaN) for 2 of 40 cells", "drop these cells"]),
    "blank": (column(["", "B"] * 20), LABEL, ["column 'cell_type' is blank for 20 of 40 cells", "drop these cells"]),
    "one class": (column("B"), LABEL, ["column 'cell_type' holds a single class ('B')", "at least two"]),
    "one cell": (first(1), LABEL, ["single class ('type 0')"]),
    "two cells": (first(2), LABEL, ["holds 2 labels for 2 cells, too few cells"]),
    "a measurement": (column(np.linspace(0, 1, 40), "depth"), ("--label", "depth"), ["40 labels for 40 cells"]),
    "one group": (column("a", "lab"), (*LABEL, "--split-by", "lab"), ["column 'lab' has 1 of the 3 groups"]),
    "two groups": (
        column(["a", "b"] * 20, "lab"),
        (*LABEL, "--split-by", "lab"),
        ["column 'lab' has 2 of the 3 groups", "--split-by cells"],
    ),
    "groups misspelt": (None, (*LABEL, "--split-by", "doner"), ["no column 'doner'", "did you mean 'donor'?"]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_learnt(case, adata, official, tmp_path):
    change, words, says = LABELS[case]
    changed = adata.copy()
    other = change(changed) if change else None
    path = write(changed if other is None else other, tmp_path / "in.h5ad")
    refused(tmp_path, "finetune", "annotate", official, path, "-o", tmp_path / "run", *words, says=says)


def test_groups_that_are_the_labels_are_refused(adata, official, tmp_path):
    changed = adata.copy()
    changed.obs["cell_type"] = changed.obs["lab"] = ["a", "b", "c", "d"] * 10
    words = [*LABEL, "--split-by", "lab"]
    path = write(changed, tmp_path / "in.h5ad")
    says = ["split by 'lab'", "choose another column"]
    refused(tmp_path, "finetune", "annotate", official, path, "-o", tmp_path / "run", *words, says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--mode", "prob"), ["mode = 'prob'", "'full', 'lora', 'probe', 'blocks' or 'scratch'"]),
        (("--set", "train.max_epoch=1"), ["no option 'train.max_epoch'", "did you mean 'max_epochs'?"]),
        (("--set", "train.max_epochs=-1"), ["train.max_epochs = -1"]),
        (("--set", "optim.lr=Infinity"), ["optim.lr = inf", "finite"]),
        (("--set", "hidden_fraction=1.5"), ["hidden_fraction = 1.5"]),
        (("--set", "lora.rank=0"), ["rank is 0"]),
        (("--set", 'inputs={"clsvalue": 3}'), ["no option 'clsvalue'", "did you mean 'cls_value'?"]),
        (("--set", "train.accelerator=quantum"), ["quantum"]),
        (("--set", "optim.lr=1e30", "--set", "train.max_epochs=2"), ["loss", "lower the learning rate"]),
        (("--batch-size", "0"), ["batch_size = 0"]),
    ],
)
def test_bad_options_leave_nothing_behind(words, says, official, data, tmp_path):
    out = tmp_path / "deep" / "run"
    options = [*LABEL, "--no-progress", "--set", "train.accelerator=cpu", *words]
    refused(tmp_path, "finetune", "annotate", official, data, "-o", out, *options, says=says)


def test_run_folders_that_cannot_be_made(official, data, tmp_path):
    own = tmp_path / "file"
    own.write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    for out, says in {own: [own], own / "run": ["is a file, not a folder"], full: [full]}.items():
        refused(tmp_path, "finetune", "annotate", official, data, "-o", out, *LABEL, says=says)


def test_few_cells_and_warnings_are_told(adata, official, tmp_path):
    some = adata[:8].copy()
    values_ng = some.X.toarray()
    values_ng[2] = 0
    some.X = values_ng
    words = ["--split-by", "cells", "--no-progress", "--set", "train.accelerator=cpu", "--set", "train.max_epochs=1"]
    path = write(some, tmp_path / "in.h5ad")
    said = works("finetune", "annotate", official, path, "-o", tmp_path / "run", *LABEL, *words)
    assert "warning: 1 cells express no gene of the vocabulary; they are kept, empty" in said
