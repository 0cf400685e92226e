"""``cellwright drug-response``: reports, folds and seeds, resuming, features made by a model, truth of cells."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from cli.command_line import cellwright as call
from cli.command_line import made_up_cells, made_up_model, refused, works

import cellwright
from cellwright.evaluate import Evaluation

SET = [
    word
    for change in (
        "net.cell_hidden=8", "net.cell_width=4", "net.drug_width=4", "net.head_width=8", "batch_size=64",
        "train.max_epochs=2", "train.accelerator=cpu",
    )
    for word in ("--set", change)
]  # fmt: skip
TRANSFER = [
    "--value", "label", "--set", "hidden=8", "--set", "width=4", "--set", "num_folds=2", "--set", "train.max_epochs=1",
    "--set", "train.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    lines, drugs = [f"L{i}" for i in range(45)], [f"D{i}" for i in range(4)]
    value_lf = rng.normal(size=(45, 3))
    rows = [(a, b, i - j + value_lf[i, 0]) for i, a in enumerate(lines) for j, b in enumerate(drugs)]
    pd.DataFrame(rows, columns=["line", "drug", "ln_ic50"]).to_csv(folder / "ic50.csv", index=False)
    pd.DataFrame(value_lf, index=lines, columns=["a", "b", "c"]).to_csv(folder / "lines.csv")
    pd.DataFrame({"line": lines, "label": (value_lf[:, 0] > 0).astype(int)}).to_csv(folder / "y.csv", index=False)
    cells = anndata.AnnData(rng.normal(size=(30, 3)), var=pd.DataFrame(index=["a", "b", "c"]))
    cells.obs_names = [f"c{i}" for i in range(30)]
    cells.obs["sensitive"] = [1.0 if x > 0 else 0.0 for x in cells.X[:, 0]]
    cells.obs.loc["c3", "sensitive"] = np.nan
    cells.obs["cell_line"] = pd.Categorical([f"line {i % 6}" for i in range(30)])
    cells.write_h5ad(folder / "cells.h5ad")
    return folder


@pytest.fixture(scope="module")
def run(tables):
    """All five folds."""
    out = tables / "run"
    words = ["--fold", "all", *SET]
    return out, works("drug-response", "train", tables / "ic50.csv", tables / "lines.csv", "-o", out, *words)


def test_all_folds_are_one_report(run, tables):
    out, said = run
    assert "held out by line: 180 pairs of 45 lines and 4 drugs" in said
    assert "All 5 folds held out by line; training seeds: 1." in said
    names = {path.name for path in out.iterdir()}
    assert {"evaluation.json", "results.jsonl", "report.html", "drug_scores.jsonl", "test_answers.csv"} <= names
    assert {name for name in names if name.startswith("fold_")} == {f"fold_{fold}_seed_0" for fold in range(5)}
    evaluation = Evaluation.load(out)
    assert [section.heading for section in evaluation.sections] == ["Over folds and seeds", "Drug by drug"]
    assert len(evaluation.curves) == 5
    answers = pd.read_csv(out / "test_answers.csv")
    assert len(answers) == 180
    assert answers.groupby("line")["fold"].nunique().max() == 1
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows} >= {"network", "drug_mean", "kernel_ridge"}


def test_seeds_of_one_fold_are_networks_of_their_own(tables, tmp_path):
    words = ["--set", "num_seeds=2", *SET]
    works("drug-response", "train", tables / "ic50.csv", tables / "lines.csv", "-o", tmp_path / "run", *words)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"fold_0_seed_0", "fold_0_seed_1"} <= names
    answers = pd.read_csv(tmp_path / "run" / "test_answers.csv")
    assert (answers["network"] != answers["network, seed 1"]).all()
    section = Evaluation.load(tmp_path / "run").sections[0]
    assert section.heading == "Over folds and seeds"
    rows = {row[0]: row[1:3] for row in section.tables["RMSE"].rows}
    assert rows["network"] == (1, 2)


def test_a_run_goes_on_where_it_was_stopped(run, tables, tmp_path):
    """What is finished is not trained again; a network that is missing is trained as it would have been."""
    out, _ = run
    words = ["--fold", "all", *SET, "--resume"]
    refused(
        tmp_path, "drug-response", "train", tables / "ic50.csv", tables / "lines.csv", "-o", tmp_path / "no", *words
    )
    before = pd.read_csv(out / "test_answers.csv")
    gone = out / "fold_3_seed_0"
    for path in sorted(gone.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    gone.rmdir()
    works("drug-response", "train", tables / "ic50.csv", tables / "lines.csv", "-o", out, *words)
    pd.testing.assert_frame_equal(pd.read_csv(out / "test_answers.csv"), before)
    changed = [*words, "--set", "net.dropout=0.3"]
    result = call("drug-response", "train", tables / "ic50.csv", tables / "lines.csv", "-o", out, *changed)
    assert "was begun with net.dropout = 0.1, not 0.3" in result.err


def test_predictions_of_measured_pairs_have_a_report(run, tables, tmp_path):
    out, _ = run
    words = ["--pairs", tables / "ic50.csv", "--report", tmp_path / "scores", "--device", "cpu"]
    said = works("drug-response", "predict", out, tables / "lines.csv", "-o", tmp_path / "all.csv", *words)
    assert f"report: {tmp_path / 'scores' / 'report.html'}" in said
    evaluation = Evaluation.load(tmp_path / "scores")
    assert {method.name for method in evaluation.methods} == {"network", "drug_mean"}
    assert "warning: 45 of 45 lines were in training" in evaluation.summary[0]
    members = [cellwright.predict_response(place, tables / "lines.csv", device="cpu") for place in out.glob("fold_*")]
    found = pd.read_csv(tmp_path / "all.csv").set_index(["line", "drug"])["ln_ic50"]
    mean = sum(frame.set_index(["line", "drug"])["ln_ic50"] for frame in members) / len(members)
    np.testing.assert_allclose(found.loc[mean.index], mean, atol=1e-5)
    bare = ["-o", tmp_path / "x.csv", "--report", tmp_path / "y", "--device", "cpu"]
    refused(tmp_path, "drug-response", "predict", out, tables / "lines.csv", *bare, says=["give them (pairs, --pairs)"])


def test_cells_with_a_truth_are_scored_and_a_transfer_is_resumed(tables, tmp_path):
    words = ["--labels", tables / "y.csv", *TRANSFER, "--truth", "sensitive", "--group", "cell_line"]
    paths = [tables / "lines.csv", tables / "cells.h5ad"]
    said = works("drug-response", "transfer", *paths, "-o", tmp_path / "run", *words)
    assert "29 of 30 cells have a truth" in said
    evaluation = Evaluation.load(tmp_path / "run")
    assert evaluation.primary_metric == "cell_auroc"
    assert {method.name for method in evaluation.methods} == {"network", "constant", "centroids", "logistic"}
    assert (tmp_path / "run" / "report.html").is_file()
    before = pd.read_csv(tmp_path / "run" / "cell_scores.csv")
    works("drug-response", "transfer", *paths, "-o", tmp_path / "run", *words, "--resume")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "cell_scores.csv"), before)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--truth", "sensitiv"], "did you mean 'sensitive'"),
        (["--truth", "cell_line"], "1 = sensitive, 0 = not, empty = not known"),
        (["--group", "donor"], "the cells have no column 'donor'"),
    ],
)
def test_columns_of_cells_that_cannot_be_used(tables, tmp_path, words, error):
    paths = [tables / "lines.csv", tables / "cells.h5ad", "-o", tmp_path / "run", "--labels", tables / "y.csv"]
    refused(tmp_path, "drug-response", "transfer", *paths, *TRANSFER, *words, says=[error])


def test_folds_that_are_none(tables, tmp_path):
    paths = [tables / "ic50.csv", tables / "lines.csv", "-o", tmp_path / "run"]
    refused(tmp_path, "drug-response", "train", *paths, "--fold", "first", says=["give 0 .. 4, or all"])


def test_a_model_makes_the_features_of_lines(tables, tmp_path):
    """Lines are expression, the network reads their embedding; another embedder later is refused."""
    lines = made_up_cells(45)
    lines.obs_names = [f"L{i}" for i in range(45)]
    made_up_model(seed=1).save(tmp_path / "one")
    made_up_model(seed=2).save(tmp_path / "two")
    changes = [word for word in SET if word != "--set"]
    columns = cellwright.verbs.ResponseColumns(embedder=str(tmp_path / "one"))
    found = cellwright.drug_response(tables / "ic50.csv", lines, out=tmp_path / "run", changes=changes, columns=columns)
    embedding_ld = cellwright.embed(lines, tmp_path / "one", run=cellwright.InferenceOptions(progress=False))
    assert len(found.predictor.features) == embedding_ld.shape[1]
    names = [f"e{i}" for i in range(embedding_ld.shape[1])]
    given = pd.DataFrame(embedding_ld, index=lines.obs_names, columns=names)
    plain = cellwright.drug_response(tables / "ic50.csv", given, out=tmp_path / "plain", changes=changes)
    assert np.allclose([row.value or 0 for row in found.rows], [row.value or 0 for row in plain.rows], atol=1e-6), (
        "the same as embedding first"
    )
    other = cellwright.verbs.ResponseColumns(embedder=str(tmp_path / "two"))
    with pytest.raises(ValueError, match="the model was trained on are missing"):
        cellwright.predict_response(tmp_path / "run", lines, columns=other)
    assert not any(line.startswith("features of lines") for line in Evaluation.load(tmp_path / "run").summary)
    made_up_model(seed=1).with_inputs(max_length=9).save(tmp_path / "short")
    short = cellwright.verbs.ResponseColumns(embedder=str(tmp_path / "short"))
    cellwright.drug_response(tables / "ic50.csv", lines, out=tmp_path / "told", changes=changes, columns=short)
    summary = Evaluation.load(tmp_path / "told").summary
    assert any(line.startswith("features of lines: 45 of 45 cells have more than 8") for line in summary)
    both = cellwright.verbs.ResponseColumns(embedder=str(tmp_path / "one"), slot="X_scGPT")
    with pytest.raises(ValueError, match="choose one"):
        cellwright.predict_response(tmp_path / "run", lines, columns=both)
