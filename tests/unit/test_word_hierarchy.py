"""Fine words under coarse ones: who places them, what is refused, nothing dropped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, new_model
from cellwright.tasks.hierarchy import model_hierarchy, read_hierarchy, told_together, word_hierarchy
from cellwright.vocab import GeneVocab

PUBLISHED = Path(__file__).parents[1] / "parity" / "data" / "scmulan" / "pipeline_realvocab" / "meta_info.pt"
COARSE = ("T cell", "Myeloid cell", "my own")
FINE = ("CD4 T cell", "Monocyte", "T cell", "odd", "my own")


def children(found):
    """Return coarse word -> fine words that may follow it."""
    return {
        word: [found.fine[f] for f in np.flatnonzero(row)]
        for word, row in zip(found.coarse, found.is_child_cf, strict=True)
    }


def test_published_places_come_before_the_ontology_and_unknown_coarse_words_stay_possible():
    found = word_hierarchy(COARSE, (*FINE, "Treg", "neutrophil"))
    assert found.source_of == {
        "CD4 T cell": "published",
        "Monocyte": "published",
        "T cell": "ontology",  # published under lymphoid cells, which are no coarse word here: it is one itself
        "odd": "nothing",
        "my own": "itself",
        "Treg": "ontology",
        "neutrophil": "ontology",
    }
    assert children(found) == {
        "T cell": ["CD4 T cell", "T cell", "odd", "Treg"],
        "Myeloid cell": ["Monocyte", "odd", "neutrophil"],
        "my own": ["CD4 T cell", "Monocyte", "T cell", "odd", "my own", "Treg", "neutrophil"],
    }
    assert found.unplaced == ("odd",)
    assert found.childless == ()
    assert "1 have no known place and may follow every coarse type: odd" in " ".join(found.lines())
    assert found.record()["placed_by"] == {"published": 2, "ontology": 3, "itself": 1, "nothing": 1}


def test_training_cells_come_before_what_is_published():
    trained = {"CD4 T cell": ["my own", "T cell"], "Monocyte": ["a word since removed"], "odd": ["Myeloid cell"]}
    found = word_hierarchy(COARSE, FINE, trained=trained)
    assert [found.source_of[word] for word in FINE] == ["training", "published", "ontology", "training", "itself"]
    assert children(found)["T cell"] == ["CD4 T cell", "T cell"]
    assert children(found)["Myeloid cell"] == ["Monocyte", "odd"]
    assert found.parents_of["CD4 T cell"] == ("my own", "T cell")


def test_what_is_given_comes_first_and_may_go_over_names_between():
    given = {"CD4 T cell": "helper", "helper": ["adaptive"], "adaptive": "my own", "odd": "T cell", "elsewhere": "odd"}
    found = word_hierarchy(COARSE, FINE, given=given, trained={"CD4 T cell": ["T cell"]})
    assert found.source_of["CD4 T cell"] == found.source_of["odd"] == "given"
    assert "CD4 T cell" not in children(found)["T cell"]
    assert "CD4 T cell" in children(found)["my own"]
    assert "odd" in children(found)["T cell"]
    assert found.parents_of["CD4 T cell"] == ("helper",)
    assert found.unknown == ("elsewhere",)
    assert "no words of the model: elsewhere" in found.lines()[-1]


def test_a_word_may_be_its_own_parent():
    found = word_hierarchy(("a", "b"), ("a", "x"), given={"a": "a", "x": "b"})
    assert children(found) == {"a": ["a"], "b": ["x"]}
    assert word_hierarchy(("a", "b"), ("x",), given={"x": "a"}).childless == ("b",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": "y", "y": "z", "z": "x"}, "cycle: 'x' is below 'y' and above it"),
        ({"x": "aa"}, "leads from 'x' to 'aa', which is no coarse type; did you mean"),
        ({"x": "nowhere at all"}, "no coarse type; coarse types: aaa, b"),
        ({"x": "x"}, "leads from 'x' to 'x'"),
        ({"xx": "aaa"}, "places no fine type of the model; did you mean 'x'"),
        ({}, "places no fine type"),
        ({"x": []}, "no parent for 'x'"),
        ({"x": ""}, "no parent for 'x'"),
    ],
)
def test_bad_hierarchies_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        word_hierarchy(("aaa", "b"), ("x", "w"), given=given)


def test_tables_are_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('child,parent\nCD4 T cell,T cell\n\n"CD4-positive, alpha-beta T cell",T cell\nCD4 T cell,Immune\n')
    read = read_hierarchy(path)
    assert read == {"CD4 T cell": ["T cell", "Immune"], "CD4-positive, alpha-beta T cell": ["T cell"]}
    path = tmp_path / "table.tsv"
    path.write_text("a, b\tc\n")
    assert read_hierarchy(path) == {"a, b": ["c"]}
    for text, words in (
        ("a,b,c\n", "row 1: .* not two names"),
        ("x,y\na\n", "row 2"),
        ("a,\n", "row 1"),
        ("child,parent\n", "has no row"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_hierarchy(path)
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="is not text"):
        read_hierarchy(path)
    with pytest.raises(FileNotFoundError, match="no hierarchy at"):
        read_hierarchy(tmp_path / "absent.csv")


def test_the_published_vocabulary_is_placed_whole():
    meta = torch.load(PUBLISHED, weights_only=True)
    found = word_hierarchy(sorted(meta["MCT"]), sorted(meta["cell_type"]))
    assert found.unplaced == found.childless == ()
    below = children(found)
    assert {"CD4 T cell", "CD8 T cell", "MAIT cell"} <= set(below["T cell"])
    assert below["Unclassified"] == ["Unclassified"]
    assert "Hepatocyte" in below["Cell"]
    # its published parent, granulocyte, is no coarse word: the next one up is
    assert "Neutrophilic granulocyte" in below["Myeloid cell"]
    assert "Neutrophilic granulocyte" not in below["Immune"]
    assert "Oligodendrocyte precursor cell (OPC)" in below["Neuroglial cell"]
    assert found.is_child_cf.sum() < 0.05 * found.is_child_cf.size


def test_pairs_are_all_that_is_allowed_and_each_coarse_word_alone():
    found = word_hierarchy(("a", "b"), ("x", "y"), given={"x": ["a", "b"], "y": "b"})
    assert found.pairs == (("a", "x"), ("b", "x"), ("b", "y"), ("a", None), ("b", None))
    assert word_hierarchy((), ("x", "y")).pairs == ((None, "x"), (None, "y"))


def test_words_told_together_in_training():
    coarse_n, fine_n = np.array([0, 0, 1, 1, 1, -1, 0]), np.array([0, 1, 0, 0, 2, 0, -1])
    found = told_together(coarse_n, fine_n, ("a", "b"), ("x", "y", "z", "w"))
    assert found == {"x": ["b", "a"], "y": ["a"], "z": ["b"]}


def make(categories):
    family = FAMILIES["scmulan"]
    vocab = GeneVocab.from_genes(["G0", "G1"], family.specials, categories)
    return new_model("scmulan", vocab, family.sizes["tiny"])


def test_the_hierarchy_of_a_model():
    model = make({"coarse_type": ["a", "b"], "cell_type": ["x"]})
    assert model_hierarchy(model).unplaced == ("x",)
    model.origin["pretraining"] = {"hierarchy": {"x": ["b"]}}
    assert children(model_hierarchy(model)) == {"a": [], "b": ["x"]}
    assert children(model_hierarchy(model, {"x": "a"})) == {"a": ["x"], "b": []}
    assert model_hierarchy(make({"cell_type": ["x"]})).coarse == ()
    assert model_hierarchy(make({"organ": ["x"]})) is None
    with pytest.raises(ValueError, match="has no words of coarse cell types"):
        model_hierarchy(make({"cell_type": ["x"]}), {"x": "a"})
    with pytest.raises(ValueError, match="has no words of fine cell types"):
        model_hierarchy(make({"coarse_type": ["a"]}), {"x": "a"})
