"""Scores on held-out cells: ``evaluate generate``, ``evaluate annotate``, and what they refuse."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from cli.command_line import made_up_cells, refused, works, write

import cellwright
from cellwright.evaluate import Evaluation, made_sections, projection, study
from cellwright.metrics import GENERATION_METRICS

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
METHODS = {"scMulan", "any_type", "class_nb", "class_gaussian", "training_cells"}
CHANGES = (
    "train.accelerator=cpu", "model.width=32", "model.num_layers=1", "batch_size=16", "optim.lr=0.005",
    "optim.warmup_steps=2", "train.max_epochs=null", "data.min_cells=1", "data.valid_fraction=0", "train.max_steps=12",
    "data.metadata.organ=tissue",
)  # fmt: skip
FEW = ["-n", 10, "--max-genes", 12, "--num-resamples", 100, "--device", "cpu"]


def cells(num_cells, start=0):
    """Cells of three types, others for another ``start``; ``tissue`` is Lung for the first type, either for others."""
    adata = made_up_cells(108, num_types=3)
    is_lung = (adata.obs["cell_type"] == "type 0").to_numpy() | (np.arange(108) % 2 == 0)
    adata.obs["tissue"] = pd.Categorical(np.where(is_lung, "Lung", "Blood"))
    adata.obs["donor"] = pd.Categorical([f"donor {n // 9}" for n in range(108)])
    return adata[start : start + num_cells].copy()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("scores")


@pytest.fixture(scope="module")
def train(place):
    return write(cells(54), place / "train.h5ad")


@pytest.fixture(scope="module")
def held(place):
    """Held-out cells: one type has no word in the model, one has too few cells."""
    adata = cells(54, start=54)
    names = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    names[np.flatnonzero(names == "type 2")[:12]] = "type 22"
    adata.obs["cell_type"] = pd.Categorical(names)
    return write(adata, place / "held.h5ad")


@pytest.fixture(scope="module")
def mulan(place, train):
    words = [word for change in CHANGES for word in ("--set", change)]
    works("pretrain", train, "-o", place / "mulan", "--no-progress", "--recipe", "scmulan_tiny", *words)
    return place / "mulan"


@pytest.fixture(autouse=True)
def _quick_drawing(monkeypatch):
    """Place cells by PCA: UMAP takes long to compile."""
    for module in (study, made_sections):
        monkeypatch.setattr(module, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))


@pytest.fixture(scope="module")
def scored(place, mulan, train, held):
    """The folder of one evaluation, and what was said."""
    patch = pytest.MonkeyPatch()
    patch.setattr(made_sections, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))
    out = place / "scored"
    said = works(
        "evaluate", "generate", mulan, train, held, "--label", "cell_type", "--group", "donor", "-o", out, *FEW
    )
    patch.undo()
    return out, said


def test_made_cells_stand_beside_baselines(scored):
    out, said = scored
    assert {path.name for path in out.iterdir()} == {
        "recipe.json", "generated.h5ad", "evaluation.json", "cells.npz", "figures", "results.jsonl", "report.html",
    }  # fmt: skip
    evaluation = Evaluation.load(out)
    assert {method.name for method in evaluation.methods} == METHODS
    assert {m.name: m.bound for m in evaluation.methods if m.bound} == {"any_type": "floor", "training_cells": "roof"}
    for method in evaluation.methods:
        assert set(method.scores) == set(GENERATION_METRICS)
        assert set(method.parts) == {"type 0", "type 1"}
        for scores in method.parts.values():
            assert scores["e_distance"].cells == {"made": 10, "real": 18}
    model, roof = (next(m for m in evaluation.methods if m.name == name) for name in ("scMulan", "training_cells"))
    assert model.scores["c2st_auroc"].value > 0.9  # after 12 steps
    assert abs(roof.scores["e_distance"].value) < 0.2 * model.scores["e_distance"].value
    assert roof.scores["nearest_ratio"].value == 0
    assert {d.other for d in evaluation.differences} == {"any_type", "class_nb", "class_gaussian"}
    assert "scMulan" in said
    assert "floor" in said


def test_what_is_not_scored_is_named(scored):
    out, said = scored
    for line in (
        "not scored: 'type 2', 6 held-out cells (too few held-out cells: 6, at least 10 are needed)",
        "not scored: 'type 22', 12 held-out cells (the model has no word for it; did you mean 'type 2'?)",
        "Held out by donor: 6 groups, none of them among the 6 trained on.",
        "Prompts of training said organ too; these did not",
    ):
        assert line in " ".join(Evaluation.load(out).summary + Evaluation.load(out).limitations), line
    assert "not scored: 'type 22', 12 held-out cells" in said
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 5
    for heading in ("Types", "Score by type", "Cells", "Genes", "Detected genes"):
        assert f"<h2>{heading}</h2>" in page


def test_rows_and_record_say_what_was_compared(scored, mulan, held):
    out, _ = scored
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == len(METHODS) * len(GENERATION_METRICS) * 3
    row = next(r for r in rows if (r["method"], r["part"], r["metric"]) == ("class_nb", "type 1", "mmd"))
    assert row["low"] <= row["value"] <= row["high"]
    assert row["floor"] > row["roof"]
    assert row["model_sha256"] == cellwright.load(mulan).sha256()
    assert row["split_sha256"]
    assert row["data_sha256"]
    record = json.loads((out / "recipe.json").read_text())
    assert (record["task"], record["label"], record["held_out"]) == ("generate", "cell_type", str(held))
    assert record["config"]["num_cells"] == 10


def test_cells_that_were_made_before_get_the_same_scores(scored, mulan, train, held):
    out, _ = scored
    config = cellwright.ScoreConfig(num_resamples=100, group="donor")
    adata = anndata.read_h5ad(held)
    before = adata.copy()
    again = cellwright.score(
        adata, mulan, task="generate", label="cell_type", train=train, made=out / "generated.h5ad",
        out=out.parent / "again", config=config, run=QUIET,
    )  # fmt: skip
    assert again.made is None
    first = Evaluation.load(out)
    assert again.evaluation.methods[0].parts == first.methods[0].parts
    assert again.evaluation.provenance.others["made cells, seed"] == "0"
    assert not (out.parent / "again" / "generated.h5ad").exists()
    assert adata.obs.equals(before.obs)
    assert (adata.X != before.X).nnz == 0


def test_further_words_come_in_the_shares_of_the_held_out_cells(mulan, train, held, tmp_path):
    config = cellwright.ScoreConfig(num_cells=10, max_genes=4, num_resamples=100, words={"organ": "tissue"}, seed=3)
    result = cellwright.score(
        held, mulan, task="generate", label="cell_type", train=train, out=tmp_path / "out", config=config, run=QUIET
    )
    counts = result.made.obs.groupby("cell_type", observed=True)["organ"].value_counts().unstack(fill_value=0)
    assert counts.loc["type 0"].tolist() == [0, 10]
    assert counts.loc["type 1"].tolist() == [5, 5]
    assert not any("Prompts of training" in line for line in result.evaluation.limitations)
    assert any("20 of 20 made cells did not come to their end" in line for line in result.evaluation.summary)
    assert result.made.uns["cellwright"]["generated"]["options"]["seed"] == 3


def spoilt(path, tmp_path, change):
    return write(change(anndata.read_h5ad(path)), tmp_path / "spoilt.h5ad")


def counts(adata):
    adata.X = adata.X * 37
    return adata


def normalised(adata):
    adata.X = adata.X * 0.93
    return adata


def without(column):
    def change(adata):
        del adata.obs[column]
        return adata

    return change


def renamed(adata):
    adata.var_names = ["NOGENE", *adata.var_names[1:]]
    del adata.uns["cellwright"]
    return adata


def cut(adata):
    adata = adata[:, 1:].copy()
    del adata.uns["cellwright"]
    return adata


def other_model(adata):
    adata.uns["cellwright"]["generated"]["model"]["sha256"] = "0" * 64
    return adata


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (counts, ["X holds values from 3.7", "levels, 0 .. 1", "neither counts nor normalised"]),
        (normalised, ["no level of the model (multiples of 1/10)"]),
        (without("cell_type"), ["no column 'cell_type' in obs that says what each cell was asked to be"]),
        (renamed, ["1 of 60 genes are not in the model's vocabulary ('NOGENE')"]),
        (cut, ["lacks 1 of 60 genes"]),
        (other_model, ["was made by another model", "give the model that made it"]),
        (lambda adata: adata[:7].copy(), ["no type can be scored", "too few made cells: 7"]),
    ],
)
def test_a_made_file_that_is_none_is_refused(change, says, scored, mulan, train, held, tmp_path):
    made = spoilt(scored[0] / "generated.h5ad", tmp_path, change)
    words = ["evaluate", "generate", mulan, train, held, "--label", "cell_type", "--made", made, "--device", "cpu"]
    refused(tmp_path, *words, "-o", tmp_path / "out", says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--label", "cell_typ"], ["no column 'cell_typ'", "did you mean 'cell_type'?"]),
        (["--label", "tissue"], ["no type can be scored", "'Blood': the model has no word for it", "'type 0'"]),
        (["--label", "cell_type", "--category", "region"], ["has no words of 'region'", "cell_type"]),
        (["--label", "cell_type", "--words", "organ=donor"], ["column 'donor'", "no organ that the model knows"]),
        (["--label", "cell_type", "--words", "organ"], ["--words 'organ' is not of the form name=value"]),
        (["--label", "cell_type", "--words", "cell_type=tissue"], ["name another category"]),
        (["--label", "cell_type", "-n", 5], ["num_cells"]),
        (["--label", "cell_type", "--word", "plac"], ["never trained on the task 'plac'"]),
    ],
)
def test_what_cannot_be_scored_is_refused(words, says, mulan, train, held, tmp_path):
    refused(tmp_path, "evaluate", "generate", mulan, train, held, *words, "-o", tmp_path / "out", says=says)


def test_training_cells_are_not_held_out(mulan, train, held, tmp_path):
    words = ["evaluate", "generate", mulan, train]
    label = ["--label", "cell_type", "-o", tmp_path / "out"]
    refused(tmp_path, *words, train, *label, says=["54 of 54 held-out cells are training cells too"])
    shared = cells(54, start=54)
    shared.obs["donor"] = pd.Categorical(["donor 1"] * 54)
    path = write(shared, tmp_path / "shared.h5ad")
    refused(tmp_path, *words, path, *label, "--group", "donor", says=["donor 'donor 1' is in the training and"])
    few = write(cells(24, start=60), tmp_path / "few.h5ad")
    refused(tmp_path, *words, few, *label, says=["no type can be scored", "too few held-out cells: 8"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused(tmp_path, *words, held, *label[:-1], tmp_path / "full", says=["holds files; choose a folder"])


def test_a_model_that_makes_no_cells_is_refused(official, train, held, tmp_path):
    words = ["--label", "cell_type", "-o", tmp_path / "out"]
    refused(tmp_path, "evaluate", "generate", official, train, held, *words, says=["scGPT writes no sentences"])
    refused(tmp_path, "evaluate", "annotate", official, held, *words, says=["has no trained label head"])
    with pytest.raises(ValueError, match="'generat' cannot be evaluated; did you mean 'generate'"):
        cellwright.score(held, official, task="generat", label="cell_type", out=tmp_path / "out")
    with pytest.raises(ValueError, match="need training cells"):
        cellwright.score(held, made_mulan(), task="generate", label="cell_type", out=tmp_path / "out")


def made_mulan():
    from cellwright.models import FAMILIES, new_model
    from cellwright.vocab import GeneVocab

    family = FAMILIES["scmulan"]
    vocab = GeneVocab.from_genes(["A", "B"], family.specials, {"cell_type": ["x"]})
    return new_model("scmulan", vocab, family.sizes["tiny"])


def test_told_labels_are_scored_beside_baselines(mulan, train, held, tmp_path):
    out = tmp_path / "told"
    words = ["--label", "cell_type", "--train", train, "--no-progress", "--device", "cpu", "--group", "donor"]
    said = works("evaluate", "annotate", mulan, held, *words, "-o", out)
    evaluation = Evaluation.load(out)
    names = [method.name for method in evaluation.methods]
    assert names == ["scMulan, told in words", "majority", "pca_knn", "pca_logistic", "gene_logistic"]
    assert evaluation.classes == ("type 0", "type 1", "type 2")
    assert evaluation.methods[0].scores["accuracy"].cells == {"cells": 42}
    told = cellwright.annotate(held, mulan, run=QUIET, tell=["cell_type"])
    truth = anndata.read_h5ad(held).obs["cell_type"].astype(str).to_numpy()
    is_known = truth != "type 22"
    share = (told.words["cell_type"] == truth)[is_known].mean()
    assert evaluation.methods[0].scores["accuracy"].value == pytest.approx(share)
    confidence_n = evaluation.cells.confidence_n
    np.testing.assert_allclose(confidence_n, told.probs["cell_type"], atol=1e-6)
    assert "12 of 54 cells have a label that the model cannot say" in said
    assert "not scored: 'type 22', 12 cells (no such class; did you mean 'type 2'?)" in said
    assert "whole groups" in evaluation.interval_note
    refused(
        tmp_path, "evaluate", "annotate", mulan, held, "--label", "donor", "-o", tmp_path / "no",
        says=["none of its 6 labels", "can say ('type 0'"],
    )  # fmt: skip


def test_a_label_head_is_scored_alone(annotator, tmp_path):
    held = write(made_up_cells(30, seed=11), tmp_path / "held.h5ad")
    words = ["--label", "cell_type", "--no-progress", "--device", "cpu", "-o", tmp_path / "out"]
    said = works("evaluate", "annotate", annotator, held, *words)
    evaluation = Evaluation.load(tmp_path / "out")
    assert [method.name for method in evaluation.methods] == ["scGPT, label head"]
    assert "no baseline was run" in said
    assert evaluation.headline == "scGPT, label head naming 30 labelled cells."
    page = (tmp_path / "out" / "report.html").read_text()
    for heading in ("Cells", "Classes", "Calibration"):
        assert f"<h2>{heading}</h2>" in page
    assert "trained parameters" not in page
    works("report", tmp_path / "out", "--out", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page
