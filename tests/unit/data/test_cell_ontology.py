"""The shipped Cell Ontology: facts of biology, a sound graph, names found however they are written."""

import re

import pytest

from cellwright.data.ontology import ROOT, cell_ontology, climb, folded, published_types

CL = cell_ontology()


def id_of(name):
    found = CL.resolve(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("CD4-positive, alpha-beta T cell", "T cell"),
        ("CD8-positive, alpha-beta T cell", "T cell"),
        ("T cell", "lymphocyte"),
        ("B cell", "lymphocyte"),
        ("lymphocyte", "leukocyte"),
        ("classical monocyte", "monocyte"),
        ("Kupffer cell", "macrophage"),
        ("plasmacytoid dendritic cell", "dendritic cell"),
        ("cardiac muscle cell", "muscle cell"),
        ("GABAergic neuron", "neuron"),
        ("hepatocyte", "epithelial cell"),
    ],
)
def test_what_is_one_of_what(below, above):
    below, above = id_of(below), id_of(above)
    assert CL.is_a(below, above)
    assert not CL.is_a(above, below)
    assert above in CL.ancestors(below)
    assert CL.common_ancestor(below, above) == above
    assert CL.distance(below, above) == CL.above(below)[above] > 0
    assert CL.roll_up([below], [above]) == {below: above}


def test_what_is_not():
    assert not CL.is_a(id_of("B cell"), id_of("T cell"))
    assert not CL.is_a(id_of("monocyte"), id_of("lymphocyte"))
    assert not CL.is_a(id_of("neuron"), id_of("leukocyte"))


def test_the_graph_is_sound():
    assert len(CL.name_of) > 3000
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", CL.release)
    assert CL.name_of[ROOT] == "cell"
    assert CL.parents(ROOT) == ()
    assert CL.name_of.keys() == CL.parents_of.keys()
    assert not CL.name_of.keys() & CL.obsolete.keys()
    for term in CL.name_of:
        above = CL.above(term)
        assert ROOT in above, term
        assert all(parent in CL.name_of for parent in CL.parents(term))
        assert all(term not in climb(parent, CL.parents_of) for parent in CL.parents(term)), f"cycle at {term}"
        assert above[term] == 0
        assert all(above[parent] == 1 for parent in CL.parents(term))


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("T cell", "T cell"),
        ("T cells", "T cell"),
        ("t-cells", "T cell"),
        ("T lymphocyte", "T cell"),
        ("CL:0000084", "T cell"),
        ("cl_0000084", "T cell"),
        (" NK cells ", "natural killer cell"),
        ("CD4+, alpha-beta T cells", "CD4-positive, alpha-beta T cell"),
        ("CD4 T cell", "CD4-positive, alpha-beta T cell"),
        ("CD14+ Monocytes", "CD14-positive monocyte"),
        ("CD16- monocyte", "CD14-positive, CD16-negative classical monocyte"),
        ("CD16+ monocyte", "CD14-positive, CD16-positive monocyte"),
        ("Haematopoietic stem cells", "hematopoietic stem cell"),
        ("pDC", "plasmacytoid dendritic cell"),
        ("Bm2' B cell", "Bm2' B cell"),
        ("Bm2 B cell", "Bm2 B cell"),
        ("insulin secreting cell", "insulin secreting cell"),  # a synonym of another term too; names go first
    ],
)
def test_names_are_found_as_people_write_them(written, name):
    assert CL.name_of[id_of(written)] == name


@pytest.mark.parametrize("written", ["", "cluster 7", "CD16 monocyte", "CL:9999999", "CL:0000002", "T", "CD4+ T"])
def test_names_that_stand_for_no_term(written):
    assert CL.resolve(written) is None
    assert CL.candidates(written) == ()


def test_every_name_finds_its_own_term():
    for term, name in CL.name_of.items():
        assert CL.resolve(name) == term, name
        assert CL.resolve(term) == term


def test_an_ambiguous_name_is_not_guessed():
    from dataclasses import replace

    two = replace(CL, ids_of={folded("X cell"): ("CL:0000084", "CL:0000236")})
    assert two.resolve("x cells") is None
    assert two.candidates("x cells") == ("CL:0000084", "CL:0000236")


def test_signs_are_words():
    assert folded("CD4+CD8- T cells") == folded("CD4-positive, CD8-negative T cell")
    assert folded("CD4-CD8- T cell") == folded("CD4-negative CD8-negative T cell")
    assert folded("CD8-positive") == folded("CD8+") != folded("CD8-")
    assert folded("T-cell") == folded("t cell")
    assert folded("basis") == "basis"


def test_roll_up_takes_the_nearest_target():
    targets = [id_of(name) for name in ("leukocyte", "T cell", "lymphocyte", "neuron")]
    names = ("CD4 T cell", "B cell", "monocyte", "hepatocyte", "T cell")
    found = CL.roll_up([id_of(name) for name in names], targets)
    named = [None if term is None else CL.name_of[term] for term in found.values()]
    assert named == ["T cell", "lymphocyte", "leukocyte", None, "T cell"]
    backwards = CL.roll_up([id_of(name) for name in names], targets[::-1])
    assert backwards == found


def test_roll_up_with_several_parents_is_decided():
    """A monocyte is a mononuclear phagocyte, a myeloid leukocyte and more, each one step away."""
    monocyte = id_of("monocyte")
    parents = CL.parents(monocyte)
    assert len(parents) > 1
    chosen = CL.roll_up([monocyte], parents)[monocyte]
    deepest = max(len(CL.above(parent)) for parent in parents)
    assert len(CL.above(chosen)) == deepest
    assert chosen == min(parent for parent in parents if len(CL.above(parent)) == deepest)


def test_common_ancestors_are_lowest_and_symmetric():
    names = ("CD4 T cell", "CD8 T cell", "B cell", "monocyte", "neuron", "hepatocyte", "Kupffer cell")
    for first in map(id_of, names):
        assert CL.distance(first, first) == 0
        for second in map(id_of, names):
            shared = CL.common_ancestor(first, second)
            assert shared == CL.common_ancestor(second, first)
            assert CL.distance(first, second) == CL.distance(second, first)
            both = CL.above(first).keys() & CL.above(second).keys()
            assert not any(shared in CL.ancestors(other) for other in both)
    pair = id_of("T cell"), id_of("B cell")
    assert CL.name_of[CL.common_ancestor(*pair)] == "lymphocyte"


@pytest.mark.parametrize(
    ("term", "words"),
    [("CL:0000002", "it is obsolete .obsolete immortal cell line cell."), ("T cell", "'T cell' is no term")],
)
def test_what_is_no_term_is_refused(term, words):
    for call in (CL.parents, CL.above, CL.ancestors, lambda t: CL.roll_up([t], [ROOT]), lambda t: CL.is_a(ROOT, t)):
        with pytest.raises(ValueError, match=words):
            call(term)


def test_published_types_are_terms_and_have_no_cycle():
    known = published_types()
    parents_of = {word: published.parents for word, published in known.items()}
    for word, published in known.items():
        assert published.term is None or published.term in CL.name_of
        assert published.term is not None or not published.is_exact
        assert all(word not in climb(parent, parents_of) for parent in published.parents)
    assert known["CD4 T cell"].term == id_of("CD4-positive, alpha-beta T cell")
    assert known["CD4 T cell"].parents == ("T cell",)
    assert set(known["Pericyte"].parents) == {"Cell", "Fibroblast", "Endothelial cell"}
    assert known["Unclassified"].term is None
    assert not known["Intermediate macrophage"].is_exact
