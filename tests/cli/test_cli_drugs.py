"""``cellwright drug-response``: train, predict, transfer; what they write and what they refuse."""

import json

import numpy as np
import pandas as pd
import pytest
from cli.command_line import cellwright as call
from cli.command_line import works

CHANGES = (
    "net.cell_hidden=8", "net.cell_width=4", "net.drug_width=4", "net.head_width=8", "batch_size=32",
    "train.max_epochs=2", "train.accelerator=cpu",
)  # fmt: skip
SET = [word for change in CHANGES for word in ("--set", change)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    lines, drugs = [f"L{i}" for i in range(20)], [f"D{i}" for i in range(5)]
    value_lf = rng.normal(size=(20, 3))
    rows = [(a, b, i - j + value_lf[i, 0]) for i, a in enumerate(lines) for j, b in enumerate(drugs)]
    pd.DataFrame(rows, columns=["cell", "drug", "ln_ic50"]).to_csv(folder / "ic50.csv", index=False)
    pd.DataFrame(value_lf, index=lines, columns=["a", "b", "c"]).to_csv(folder / "lines.csv")
    pd.DataFrame(rng.normal(size=(40, 3)), columns=["a", "b", "c"]).rename("c{}".format).to_csv(folder / "cells.csv")
    labels = pd.DataFrame({"line": lines, "label": (value_lf[:, 0] > 0).astype(int)})
    labels.to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(tables):
    out = tables / "run"
    said = works("drug-response", "train", tables / "ic50.csv", tables / "lines.csv", "-o", out, "--line", "cell", *SET)
    return out, said


def test_training_leaves_a_model_scores_and_answers(run):
    out, said = run
    assert "held out by line: 20 pairs of 4 lines and 5 drugs" in said
    assert "kernel_ridge" in said
    names = {path.name for path in out.iterdir()}
    assert {"drug_model", "drug_scores.jsonl", "drug_scores.svg", "test_answers.csv", "recipe.json"} <= names
    rows = [json.loads(line) for line in (out / "drug_scores.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows} >= {"network", "drug_mean", "effects", "kernel_ridge"}
    answers = pd.read_csv(out / "test_answers.csv")
    assert len(answers) == 20
    assert answers["line"].nunique() == 4


def test_predictions_are_a_table(run, tables, tmp_path):
    out, _ = run
    works("drug-response", "predict", out, tables / "lines.csv", "-o", tmp_path / "all.csv", "--device", "cpu")
    frame = pd.read_csv(tmp_path / "all.csv")
    assert (len(frame), list(frame)) == (100, ["line", "drug", "ln_ic50", "is_new_drug"])
    tested = pd.read_csv(out / "test_answers.csv").merge(frame, on=["line", "drug"])
    assert np.allclose(tested["network"], tested["ln_ic50_y"], atol=1e-5)
    pairs = pd.DataFrame({"line": ["L3"], "drug": ["D1"]})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    words = ["--pairs", tmp_path / "pairs.csv", "--device", "cpu"]
    works("drug-response", "predict", out, tables / "lines.csv", "-o", tmp_path / "one.csv", *words)
    assert pd.read_csv(tmp_path / "one.csv")["line"].tolist() == ["L3"]


def test_transfer_scores_cells(tables, tmp_path):
    words = ["--value", "label", "--set", "hidden=8", "--set", "width=4", "--set", "num_folds=2"]
    more = ["--set", "train.max_epochs=1", "--set", "train.accelerator=cpu", "-o", tmp_path / "run"]
    said = works(
        "drug-response", "transfer", tables / "lines.csv", tables / "cells.csv", "--labels", tables / "labels.csv",
        *words, *more,
    )  # fmt: skip
    assert "AUROC on held-out bulk samples" in said
    frame = pd.read_csv(tmp_path / "run" / "cell_scores.csv")
    assert (len(frame), list(frame)) == (40, ["cell", "score", "held_out", "fold"])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["ic50.csv", "lines.csv"], "no column 'line'"),
        (["ic50.csv", "lines.csv", "--line", "cell", "--split", "donor"], "choose line, drug or pair"),
        (["ic50.csv", "lines.csv", "--line", "cell", "--split", "drug"], "cannot answer for held-out drugs"),
        (["ic50.csv", "lines.csv", "--line", "cell", "--fold", "9"], "no fold 9"),
        (["absent.csv", "lines.csv"], "no file"),
        (["ic50.csv", "lines.csv", "--line", "cell", "--set", "net.drug=graphs"], "net.drug"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tables, tmp_path, words, error):
    paths = [tables / word if word.endswith(".csv") else word for word in words]
    result = call("drug-response", "train", *paths, "-o", tmp_path / "bad")
    assert result.code == 2
    assert error in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "bad").exists()
