"""``finetune annotate`` makes a model that ``annotate`` takes, here on other cells with genes named otherwise."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from cli.command_line import cellwright as call
from cli.command_line import in_ensembl, listing, made_up_cells, refused, works, write

import cellwright
from cellwright.files import sha256_file
from cellwright.tasks.annotate import Annotation
from cellwright.verbs import annotation_columns

QUICK = ["--no-progress", "--set", "train.accelerator=cpu", "--set", "train.max_epochs=1"]


@pytest.fixture(scope="module")
def query():
    """Other cells of the same types."""
    return made_up_cells(24, seed=7)


def test_the_run_folder_is_a_model_with_its_report(annotator):
    assert {
        "config.json", "vocab.json", "model.safetensors", "recipe.json", "versions.json", "metrics.csv", "log.txt",
        "evaluation.json", "cells.npz", "figures", "results.jsonl", "report.html",
    } <= {path.name for path in annotator.iterdir()}  # fmt: skip
    recipe = json.loads((annotator / "recipe.json").read_text())
    assert recipe["label"] == "cell_type"
    assert recipe["split"]["by"] == "donor"  # found by name
    assert recipe["mode"] == "full"
    record = json.loads(works("inspect", annotator, "--json"))
    assert record["heads"] == {"label": ["type 0", "type 1"]}


def test_annotate_names_the_cells_of_another_file(annotator, query, tmp_path):
    path = write(in_ensembl(query), tmp_path / "query.h5ad")
    before = sha256_file(path)
    said = works("annotate", annotator, path, "-o", tmp_path / "out.h5ad")
    assert sha256_file(path) == before
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert out.obs_names.tolist() == query.obs_names.tolist()
    found, prob_n = out.obs["cell_type_pred"], out.obs["cell_type_prob"].to_numpy()
    assert isinstance(found.dtype, pd.CategoricalDtype)
    assert list(found.cat.categories) == ["type 0", "type 1"]
    assert prob_n.dtype == np.float32
    assert (prob_n >= 0.5).all()
    assert (prob_n <= 1.0).all()
    assert (found.astype(str) == query.obs["cell_type"].astype(str).to_numpy()).mean() > 0.9
    assert out.obs["cell_type"].astype(str).tolist() == query.obs["cell_type"].astype(str).tolist()
    assert out.uns["cellwright"]["cell_type"]["threshold"] == 0
    assert 'obs["cell_type_pred"], obs["cell_type_prob"]' in said
    again = cellwright.annotate(query, annotator, run=cellwright.InferenceOptions(progress=False))
    assert np.allclose(again.prob_n, prob_n, atol=1e-5)


def test_cells_below_the_threshold_are_unassigned(annotator, query, tmp_path):
    path = write(query.copy(), tmp_path / "query.h5ad")
    works("annotate", annotator, path, "-o", tmp_path / "all.h5ad", "--slot", "ct")
    prob_n = anndata.read_h5ad(tmp_path / "all.h5ad").obs["ct_prob"].to_numpy()
    threshold = float(np.median(prob_n))
    works("annotate", annotator, path, "-o", tmp_path / "some.h5ad", "--threshold", repr(threshold))
    obs = anndata.read_h5ad(tmp_path / "some.h5ad").obs
    assert ((obs["cell_type_pred"] == "unassigned") == (prob_n < np.float32(threshold))).all()
    assert 0 < (obs["cell_type_pred"] == "unassigned").sum() < len(obs)
    assert (obs["cell_type_prob"] == prob_n).all()  # the number stays, so that the choice can be made again


def test_a_class_may_itself_be_called_unassigned():
    prob_nk = np.array([[0.9, 0.1], [0.45, 0.55]], np.float32)
    found = Annotation(classes=("B", "unassigned"), prob_nk=prob_nk, threshold=0.6)
    column = annotation_columns(found, "ct")["ct_pred"]
    assert list(column) == ["B", "unassigned"]
    assert list(column.categories) == ["B", "unassigned"]


@pytest.mark.parametrize(("mode", "by"), [("probe", "donor"), ("lora", "cells"), ("scratch", "cells")])
def test_every_mode_trains_and_holds_out_what_it_says(mode, by, official, model, data, tmp_path):
    run = tmp_path / "run"
    words = ["--label", "cell_type", "--mode", mode, "--split-by", by, *QUICK, "--set", "train.seed=4"]
    said = works("finetune", "annotate", official, data, "-o", run, *words)
    assert f"model:  {run}" in said
    assert "majority" in said
    tuned = cellwright.load(run)
    before, after = model.network.state_dict(), tuned.network.state_dict()
    same = {name for name, value in before.items() if bool((value == after[name]).all())}
    assert before.keys() == after.keys()  # low-rank changes are folded in
    if mode == "probe":
        assert same == before.keys()
    elif mode == "lora":
        assert {name for name in before if name not in same} <= {n for n in before if "attention" in n}
        assert len(same) < len(before)
    else:
        assert "gene_encoder.embedding.weight" not in same
    split = json.loads((run / "recipe.json").read_text())["split"]
    assert (split["by"], split["seed"]) == (by, 4)
    assert sum(split["sizes"].values()) == 40
    assert set(split["groups"]) == (set() if by == "cells" else {"train", "valid", "test"})


def test_report_is_written_again_from_the_evaluation(annotator, tmp_path):
    said = works("report", annotator, "-o", tmp_path / "again.html")
    assert "scGPT fine-tuned" in said
    page = (tmp_path / "again.html").read_text()
    assert page.startswith("<!doctype html") or page.startswith("<!DOCTYPE html")
    assert "Cell types of cells.h5ad" in page
    refused(tmp_path, "report", tmp_path, says=["evaluation.json is missing"])


def test_python_fine_tunes_without_a_word(adata, model, tmp_path, capsys):
    lent = adata.copy()
    before = model.sha256()
    changes = ["mode=probe", "train.max_epochs=1", "train.accelerator=cpu"]
    run = cellwright.InferenceOptions(progress=False)
    result = cellwright.finetune(lent, model, label="cell_type", out=tmp_path / "run", changes=changes, run=run)
    assert model.sha256() == before
    assert model.classes == {}
    assert lent.obs.equals(adata.obs)
    assert not lent.uns
    assert result.folder == tmp_path / "run"
    assert result.report.is_file()
    found = cellwright.annotate(lent, result.model, key_added="ct", run=run)
    assert set(lent.obs) - set(adata.obs) == {"ct_pred", "ct_prob"}
    assert found.classes == ("type 0", "type 1")
    assert capsys.readouterr() == ("", "")


def test_a_used_run_folder_is_refused(annotator, official, data):
    before = listing(annotator)
    result = call("finetune", "annotate", official, data, "--label", "cell_type", "-o", annotator, *QUICK)
    assert result.code == 2
    assert str(annotator) in result.err
    assert listing(annotator) == before
