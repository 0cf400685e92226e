"""Cells above the limit on tokens: every record, report and log says how many genes found no room."""

from __future__ import annotations

import numpy as np
import pytest
from cli.command_line import NUM_GENES, SIZE, gene_names

import cellwright
from cellwright.data import make_cells
from cellwright.evaluate import integration_sections, projection, study
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.gene_features import ModelContexts
from cellwright.tasks.left_out import LeftOut
from cellwright.verbs import IntegrateOptions, provenance
from cellwright.verbs.opening import open_data
from cellwright.vocab import GeneVocab

SHORT = cellwright.InferenceOptions(progress=False, device="cpu", max_length=21, seed=4)
LONG = SHORT.model_copy(update={"max_length": NUM_GENES + 1})


@pytest.fixture(autouse=True)
def _quick_drawing(monkeypatch):
    for module in (integration_sections, study):  # UMAP takes long to compile
        monkeypatch.setattr(module, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))


@pytest.fixture(scope="module")
def adata():
    return make_cells(60, NUM_GENES, num_types=2, num_batches=2, gene_names=gene_names(), depth=90, seed=0)


@pytest.fixture(scope="module")
def model():
    return new_model("scgpt", GeneVocab.from_genes(gene_names(), FAMILIES["scgpt"].specials), SIZE)


def expected(adata, room=20, seed=4):
    """Return the line, counted one cell after another."""
    num = [int((row.toarray() > 0).sum()) for row in adata.X]
    long = [n for n in num if n > room]
    assert 0 < len(long) < len(num)  # the test would say nothing of cells all alike
    percent = round(100 * sum((n - room) / n for n in long) / len(long))
    return (
        f"{len(long)} of {len(num)} cells have more than {room} expressed genes known to the model; in these, "
        f"{percent} % of genes on average are left out, drawn at random by seed {seed}"
    )


def test_the_sentence():
    few = LeftOut(num_cells=2000, num_long=1, room=1199, share=0.001, seed=0)
    assert few.line() == (
        "1 of 2,000 cells has more than 1,199 expressed genes known to the model; in it, under 1 % of genes on average "
        "are left out, drawn at random by seed 0"
    )
    many = LeftOut(num_cells=2000, num_long=312, room=1199, share=0.18, seed=7, is_training=True)
    assert many.line().startswith("312 of 2,000 cells have more than 1,199 expressed")
    assert many.line().endswith("in these, 18 % of genes on average are left out, drawn anew in each epoch by seed 7")


def test_an_embedding_says_it(adata, model):
    mine = adata.copy()
    cellwright.embed(mine, model, key_added="X", run=SHORT)
    assert list(mine.uns["cellwright"]["X"]["contract"]["warnings"]) == [expected(adata)]
    cellwright.embed(mine, model, key_added="Y", run=LONG)
    assert "left out" not in str(mine.uns["cellwright"]["Y"]["contract"]["warnings"])
    source = open_data(adata, model, run=SHORT)
    assert provenance(model, source, SHORT)["contract"]["warnings"] == [expected(adata)]
    assert f"warning: {expected(adata)}" in source.contract.lines()


def test_cells_on_disk_say_the_same(adata, model, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = open_data(tmp_path / "cells.h5ad", model, cellwright.ReadOptions(backed=True), run=SHORT)
    assert expected(adata) in backed.contract.warnings
    small = model.with_inputs(max_length=21)
    assert expected(adata, seed=0) in cellwright.inspect(tmp_path / "cells.h5ad", model=small)[0]["warnings"]
    spared = cellwright.inspect(tmp_path / "cells.h5ad", model=small, read=cellwright.ReadOptions(backed=True))
    assert not any("left out" in line for line in spared[0]["warnings"])


def test_fine_tuning_says_it_in_recipe_log_and_report(adata, model, tmp_path):
    done = cellwright.finetune(
        adata, model, label="cell_type", out=tmp_path / "run", run=SHORT, split_by="cells",
        changes=["train.max_epochs=1", "train.accelerator=cpu", 'inputs={"cls_value": 0.0, "max_length": 31}'],
    )  # fmt: skip
    line = expected(adata)
    assert line in (tmp_path / "run" / "recipe.json").read_text(encoding="utf-8")
    assert line in done.report.read_text(encoding="utf-8")
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "more than 30 expressed genes known to the model" in log
    assert "drawn anew in each epoch by seed 0" in log
    # the model keeps the limit that it was trained with
    found = open_data(adata, done.model, run=SHORT.model_copy(update={"max_length": None}))
    assert expected(adata, room=30) in found.contract.warnings


def test_pretraining_says_it_in_the_log(adata, tmp_path):
    changes = ["train.max_steps=1", "train.accelerator=cpu", "inputs.max_length=21", "data.min_cells=1"]
    done = cellwright.pretrain(adata, recipe="scgpt_tiny", out=tmp_path / "run", changes=changes)
    assert "cells have more than 20 expressed genes" in done.fit.notes[0]
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "cells have more than 20 expressed genes known to the model" in log


def test_an_integration_says_it(adata, model):
    few = IntegrateOptions(baselines=("pca",), num_resamples=100)
    done = cellwright.integrate(adata, model, tech_batch="tech_batch", label="cell_type", config=few, run=SHORT)
    assert done.record["contract"]["warnings"] == [expected(adata)]
    assert f"warning: {expected(adata)}" in done.evaluation.contracts[0].lines


def test_a_reference_says_it(adata, model):
    index = cellwright.index_reference(adata, model, labels=["cell_type"], run=SHORT)
    assert index.origin["contract"]["warnings"] == [expected(adata)]


def test_states_of_genes_keep_to_the_limit_and_say_it(adata, model):
    """They once read every gene, whatever limit was asked for."""
    source = open_data(adata, model)
    contexts = ModelContexts(model, source, gene_names(), SHORT)
    rows = np.arange(len(adata))
    assert contexts.left_out(rows).line() == expected(adata)
    num_n = np.array([(state_gd != 0).any(1).sum() for state_gd in contexts.read(rows)])
    own_n = (adata.X > 0).sum(1).A1 if hasattr((adata.X > 0).sum(1), "A1") else np.asarray((adata.X > 0).sum(1)).ravel()
    assert num_n.tolist() == np.minimum(own_n, 20).tolist()
    options = cellwright.verbs.NetworkOptions(embedding="context", min_cells=2)
    network = cellwright.grn(adata, model, regulators=gene_names()[:2], config=options, run=SHORT)
    assert expected(adata) in network.record["contract"]["warnings"]
