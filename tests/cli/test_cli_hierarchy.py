"""Cell types in a hierarchy on the command line and in Python: pairs, back-off, roll-up, ids, smoothing."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cli.command_line import gene_names, made_up_cells, refused, works, write

import cellwright
from cellwright import AnswerOptions
from cellwright.models import FAMILIES, new_model
from cellwright.vocab import GeneVocab

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
COARSE = ("T cell", "Myeloid cell", "odd ones")
FINE = ("CD4 T cell", "CD8 T cell", "Monocyte", "Macrophage", "cluster 9")
PLACES = {
    "CD4 T cell": {"T cell", "odd ones"},
    "CD8 T cell": {"T cell", "odd ones"},
    "Monocyte": {"Myeloid cell", "odd ones"},
    "Macrophage": {"Myeloid cell", "odd ones"},
    "cluster 9": set(COARSE),
}
"""What is published and known, with coarse words that nothing is known of left possible."""


def teller(categories, seed=0):
    """Return a small model whose words are far apart; it was never trained."""
    family = FAMILIES["scmulan"]
    size = family.sizes["tiny"].model_copy(update={"width": 32, "num_layers": 1})
    model = new_model("scmulan", GeneVocab.from_genes(gene_names(), family.specials, categories), size, seed=seed)
    with torch.no_grad():
        model.network.entity_head.weight.mul_(12)
        for part in model.network.blocks.modules():
            if isinstance(part, torch.nn.Linear):
                part.weight.mul_(5)
    return model


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A checkpoint that tells coarse and fine types, and the place of its files."""
    folder = tmp_path_factory.mktemp("hierarchy")
    teller({"coarse_type": COARSE, "cell_type": FINE}, seed=5).save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write(made_up_cells(48, seed=3), tmp_path_factory.mktemp("hierarchy_cells") / "cells.h5ad")


def annotated(*words):
    """Run annotate; return obs, the record, and what was said."""
    said = works("annotate", *words, "--device", "cpu", "--no-progress")
    adata = anndata.read_h5ad(words[words.index("-o") + 1])
    return adata.obs, adata.uns["cellwright"]["cell_type"], said


def test_pairs_obey_what_is_known(told, cells, tmp_path):
    obs, record, said = annotated(told, cells, "-o", tmp_path / "out.h5ad")
    assert list(obs.columns[-4:]) == [
        "cell_type_coarse_pred", "cell_type_coarse_prob", "cell_type_pred", "cell_type_prob"
    ]  # fmt: skip
    pairs = set(zip(obs["cell_type_coarse_pred"], obs["cell_type_pred"], strict=True))
    assert all(coarse in PLACES[fine] for coarse, fine in pairs)
    assert (obs["cell_type_prob"] <= obs["cell_type_coarse_prob"] + 1e-6).all()  # of the pair, not of its second half
    assert "hierarchy: 5 fine types under 3 coarse ones, placed 4 by published, 1 by nothing" in said
    assert "1 have no known place and may follow every coarse type: cluster 9" in said
    assert record["placed"]["unplaced"].tolist() == ["cluster 9"]
    loose, record, said = annotated(told, cells, "-o", tmp_path / "loose.h5ad", "--hierarchy", "none")
    assert "hierarchy:" not in said
    assert "placed" not in record
    loose_pairs = set(zip(loose["cell_type_coarse_pred"], loose["cell_type_pred"], strict=True))
    assert not all(coarse in PLACES[fine] for coarse, fine in loose_pairs)


def test_a_table_decides(told, cells, tmp_path):
    table = tmp_path / "places.csv"
    rows = {"CD4 T cell": "T cell", "CD8 T cell": "T cell", "Monocyte": "odd ones", "Macrophage": "odd ones"}
    table.write_text("fine,coarse\n" + "".join(f"{k},{v}\n" for k, v in (rows | {"cluster 9": "odd ones"}).items()))
    obs, record, said = annotated(told, cells, "-o", tmp_path / "out.h5ad", "--hierarchy", table)
    for coarse, fine in zip(obs["cell_type_coarse_pred"], obs["cell_type_pred"], strict=True):
        assert rows.get(fine, "odd ones") == coarse or coarse == fine == "Myeloid cell"
    assert "1 have no fine type and are the whole answer where they are told: Myeloid cell" in said
    given = AnswerOptions(hierarchy=rows | {"cluster 9": "odd ones"})
    same = cellwright.annotate(cells, told, answer=given, run=QUIET)
    assert same.words["cell_type"].tolist() == obs["cell_type_pred"].tolist()
    assert record["placed"]["childless"].tolist() == ["Myeloid cell"]


def test_back_off_along_the_words(told, cells, tmp_path):
    plain, _, _ = annotated(told, cells, "-o", tmp_path / "plain.h5ad")
    obs, record, said = annotated(told, cells, "-o", tmp_path / "out.h5ad", "--back-off", 0.8)
    assert (obs["cell_type_prob"] >= 0.8 - 1e-4).all()
    assert (obs["cell_type_prob"] >= plain["cell_type_prob"] - 1e-5).all()
    level_n = obs["cell_type_level"].astype(str)
    assert set(level_n) <= {"fine", "coarse", "broader", "root"}
    assert {"coarse"} < set(level_n)
    assert set(obs["cell_type_pred"][level_n == "fine"]) <= set(FINE)
    assert set(obs["cell_type_pred"][level_n == "coarse"]) <= set(COARSE)
    assert (obs["cell_type_pred"].astype(str) == obs["cell_type_coarse_pred"].astype(str))[level_n != "fine"].all()
    assert "cell_type_ontology_term_id" not in obs
    assert record["back_off"] == 0.8
    assert record["along"] == "words"
    assert 'obs["cell_type_level"]' in said
    adata = made_up_cells(48, seed=3)
    found = cellwright.annotate(adata, told, answer=AnswerOptions(back_off=0.8), key_added="cell_type", run=QUIET)
    assert adata.obs["cell_type_pred"].tolist() == obs["cell_type_pred"].tolist()
    assert found.answers.level_n.tolist() == level_n.tolist()
    # the told words are still there, as without
    assert found.words["cell_type"].tolist() == plain["cell_type_pred"].tolist()
    strict, _, _ = annotated(told, cells, "-o", tmp_path / "strict.h5ad", "--back-off", 0.5, "--threshold", 0.9)
    is_low_n = (strict["cell_type_prob"] < 0.9).to_numpy()
    assert 0 < is_low_n.sum() < 48
    assert ((strict["cell_type_pred"] == "unassigned").to_numpy() == is_low_n).all()
    assert ((strict["cell_type_level"] == "unassigned").to_numpy() == is_low_n).all()


def test_ids_and_back_off_along_the_ontology(told, cells, tmp_path):
    obs, _, said = annotated(told, cells, "-o", tmp_path / "out.h5ad", "--ontology")
    ids = {
        "CD4 T cell": "CL:0000624", "CD8 T cell": "CL:0000625", "Monocyte": "CL:0000576", "Macrophage": "CL:0000235",
        "cluster 9": "unknown",
    }  # fmt: skip
    assert obs["cell_type_ontology_term_id"].tolist() == [ids[word] for word in obs["cell_type_pred"]]
    assert (obs["cell_type_level"] == "fine").all()
    plain, _, _ = annotated(told, cells, "-o", tmp_path / "plain.h5ad")
    assert plain["cell_type_pred"].tolist() == obs["cell_type_pred"].tolist()
    obs, record, said = annotated(told, cells, "-o", tmp_path / "off.h5ad", "--ontology", "--back-off", 0.9)
    assert record["along"] == "ontology"
    assert record["cell_ontology"] == "2026-03-26"
    is_t_n = obs["cell_type_pred"].isin(["T cell", "mature alpha-beta T cell"])
    assert set(obs["cell_type_ontology_term_id"][is_t_n]) <= {"CL:0000084", "CL:0000791"}
    assert (obs["cell_type_prob"] >= 0.9 - 1e-4).all()


def test_roll_up(told, cells, tmp_path):
    terms = tmp_path / "terms.txt"
    terms.write_text("lymphocyte\nCL:0000763  # myeloid cell\n")
    obs, _, said = annotated(told, cells, "-o", tmp_path / "out.h5ad", "--roll-up", terms)
    assert set(obs["cell_type_pred"]) <= {"lymphocyte", "Myeloid cell", "myeloid cell", "cluster 9", "odd ones"}
    again, _, _ = annotated(told, cells, "-o", tmp_path / "two.h5ad", "--roll-up", "Lymphocytes, myeloid cells")
    assert obs["cell_type_pred"].tolist() == again["cell_type_pred"].tolist()
    found = cellwright.annotate(cells, told, answer=AnswerOptions(roll_up=("lymphocyte", "CL:0000763")), run=QUIET)
    assert found.answers.label_n.tolist() == obs["cell_type_pred"].tolist()


def test_smoothing_is_a_column_of_its_own(told, annotator, data, cells, tmp_path):
    plain, _, _ = annotated(told, cells, "-o", tmp_path / "plain.h5ad")
    words = ["--smooth", "--smooth-threshold", 0.1]
    obs, _, said = annotated(told, cells, "-o", tmp_path / "out.h5ad", *words)
    assert obs["cell_type_pred"].tolist() == plain["cell_type_pred"].tolist()
    assert obs["cell_type_smoothed_share"].between(0, 1).all()
    assert set(obs["cell_type_smoothed"]) <= {*obs["cell_type_pred"], "Unclassified"}
    assert 'obs["cell_type_smoothed"]' in said
    obs, _, _ = annotated(annotator, data, "-o", tmp_path / "head.h5ad", "--smooth")
    assert {"cell_type_smoothed", "cell_type_smoothed_share"} <= set(obs)
    obs, _, _ = annotated(told, cells, "-o", tmp_path / "faithful.h5ad", "--faithful", "--smooth")
    assert "cell_type_smoothed" in obs


def test_a_class_head_backs_off_as_well(annotator, data, tmp_path):
    table = tmp_path / "places.tsv"
    table.write_text("type 0\tkind\ntype 1\tkind\n")
    plain, _, _ = annotated(annotator, data, "-o", tmp_path / "plain.h5ad")
    at_least = float(plain["cell_type_prob"].median())
    words = ["--back-off", at_least, "--hierarchy", table]
    obs, record, said = annotated(annotator, data, "-o", tmp_path / "given.h5ad", *words)
    is_sure_n = (plain["cell_type_prob"] >= at_least - 1e-5).to_numpy()
    assert 0 < is_sure_n.sum() < len(obs)
    assert (obs["cell_type_pred"].astype(str) == "kind").to_numpy().tolist() == (~is_sure_n).tolist()
    assert record["along"] == "given"
    obs, _, said = annotated(annotator, data, "-o", tmp_path / "cl.h5ad", "--back-off", at_least)
    assert set(obs["cell_type_pred"]) <= {"type 0", "type 1", "cell"}
    assert "2 types have no place in the Cell Ontology: type 0, type 1" in said


def test_a_model_without_coarse_words(cells, tmp_path):
    model = teller({"cell_type": FINE}, seed=5)
    model.save(tmp_path / "fine")
    obs, _, _ = annotated(tmp_path / "fine", cells, "-o", tmp_path / "out.h5ad", "--back-off", 0.9, "--ontology")
    assert (obs["cell_type_prob"] >= 0.9 - 1e-4).all()
    assert "cell_type_coarse_pred" not in obs
    table = tmp_path / "places.csv"
    table.write_text("Monocyte,Myeloid cell\n")
    words = ["annotate", tmp_path / "fine", cells, "-o", tmp_path / "not.h5ad", "--hierarchy", table]
    refused(tmp_path, *words, says=["has no words of coarse cell types"])
    plain, _, said = annotated(tmp_path / "fine", cells, "-o", tmp_path / "plain.h5ad")
    assert "hierarchy:" not in said
    assert set(plain["cell_type_pred"]) <= set(FINE)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--back-off", 1.5], ["back_off = 1.5"]),
        (["--back-off", -1], ["back_off = -1"]),
        (["--back-off", "high"], ["'--back-off'", "valid number"]),
        (["--roll-up", "lymphocite"], ["'lymphocite' is no term of the Cell Ontology", "did you mean 'lymphocyte'?"]),
        (["--roll-up", "absent.txt"], ["no file absent.txt"]),
        (["--roll-up", ","], ["roll_up names no term"]),
        (["--hierarchy", "absent.csv"], ["no hierarchy at absent.csv"]),
        (["--smooth-threshold", 2], ["smooth_threshold = 2"]),
        (["--faithful", "--back-off", 0.5], ["the published pipeline", "back_off"]),
        (["--tell", "coarse_type", "--back-off", 0.5], ["are for cell types", "tell cell_type too"]),
        (["--hierarchy", "none", "--back-off", 0.5], ["need the hierarchy"]),
        (["--threshold", 2, "--back-off", 0.5], ["threshold is 2"]),
    ],
)
def test_what_cannot_be_asked_is_refused(words, says, told, cells, tmp_path):
    refused(tmp_path, "annotate", told, cells, "-o", tmp_path / "out.h5ad", *words, says=says)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("CD4 T cell,a\na,b\nb,a\n", ["has a cycle", "'a' is below 'b' and above it"]),
        ("CD4 T cell,T cells\n", ["'T cells', which is no coarse type", "did you mean 'T cell'?"]),
        ("CD4 T cel,T cell\n", ["places no fine type of the model", "did you mean 'CD4 T cell'?"]),
        ("CD4 T cell\n", ["row 1"]),
    ],
)
def test_a_bad_table_is_refused(rows, says, told, cells, tmp_path):
    table = tmp_path / "places.csv"
    table.write_text(rows)
    words = ["annotate", told, cells, "-o", tmp_path / "out.h5ad", "--hierarchy", table]
    refused(tmp_path, *words, says=says)


def test_ids_of_authors_are_not_replaced(told, tmp_path):
    adata = made_up_cells(8)
    adata.obs["cell_type_ontology_term_id"] = pd.Categorical(["CL:0000084"] * 8)
    path = write(adata, tmp_path / "cells.h5ad")
    words = ["annotate", told, path, "-o", tmp_path / "out.h5ad", "--ontology"]
    refused(tmp_path, *words, says=["already have obs['cell_type_ontology_term_id']", "another key"])
    works(*words, "--slot", "told")
    obs = anndata.read_h5ad(tmp_path / "out.h5ad").obs
    assert (obs["cell_type_ontology_term_id"] == "CL:0000084").all()
    assert "told_ontology_term_id" in obs
    with pytest.raises(ValueError, match="another key"):
        cellwright.annotate(adata, told, answer=AnswerOptions(ontology=True), key_added="cell_type", run=QUIET)


def test_head_options_that_change_nothing_are_refused(annotator, data, tmp_path):
    table = tmp_path / "places.csv"
    table.write_text("type 0,kind\n")
    words = ["annotate", annotator, data, "-o", tmp_path / "out.h5ad", "--hierarchy", table]
    refused(tmp_path, *words, says=["changes nothing for a class head unless back_off"])
    refused(tmp_path, *words, "--back-off", 0.5, "--ontology", says=["leave out one of the two"])


def test_pre_training_keeps_which_types_were_told_together(tmp_path):
    adata = made_up_cells(24, num_types=3)
    adata.obs["lineage"] = np.where(adata.obs["cell_type"] == "type 0", "myeloid", "lymphoid")
    path = write(adata, tmp_path / "cells.h5ad")
    metadata = json.dumps({"coarse_type": "lineage", "cell_type": "cell_type"})
    changes = ("train.accelerator=cpu", "train.max_epochs=null", "train.max_steps=1", "data.min_cells=1")
    changes += (
        "model.width=16",
        "model.num_heads=2",
        "model.num_layers=1",
        "batch_size=8",
        f"data.metadata={metadata}",
    )
    words = [word for change in changes for word in ("--set", change)]
    works("pretrain", path, "-o", tmp_path / "run", "--recipe", "scmulan_tiny", "--no-progress", *words)
    model = cellwright.load(tmp_path / "run")
    places = {"type 0": ["myeloid"], "type 1": ["lymphoid"], "type 2": ["lymphoid"]}
    assert model.origin["pretraining"]["hierarchy"] == places
    found = cellwright.annotate(path, model, run=QUIET)
    pairs = zip(found.words["coarse_type"], found.words["cell_type"], strict=True)
    assert all(places[fine] == [coarse] for coarse, fine in pairs)
    assert "placed 3 by training" in found.hierarchy.lines()[0]
