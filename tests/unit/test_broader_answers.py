"""Broader answers in plain examples: what is climbed, what it is called, what is refused."""

import numpy as np
import pytest

from cellwright.tasks.answers import back_off, most_likely
from cellwright.tasks.hierarchy import word_hierarchy
from cellwright.tasks.lineages import class_lineages, find_targets, pair_lineages, read_names, roll_up

BLOOD = ("CD4 T cell", "CD8 T cell", "B cells", "CD14+ Monocytes", "cluster 9")


def answered(found):
    return list(
        zip(found.label_n.tolist(), found.prob_n.astype(float).round(4).tolist(), found.level_n.tolist(), strict=True)
    )


def rows(*lists):
    return np.array(lists, np.float32)


def test_back_off_along_the_ontology():
    lineages = class_lineages(BLOOD)
    assert lineages.unplaced == ("cluster 9",)
    prob_nk = rows([0.9, 0.1, 0, 0, 0], [0.5, 0.4, 0.1, 0, 0], [0.3, 0.25, 0.4, 0.05, 0], [0, 0, 0.3, 0.3, 0.4])
    found = back_off(prob_nk, lineages, 0.8, along="ontology")
    assert answered(found) == [
        ("CD4 T cell", 0.9, "fine"),
        ("mature alpha-beta T cell", 0.9, "broader"),
        ("lymphocyte", 0.95, "broader"),
        ("cell", 1.0, "root"),
    ]
    assert found.term_n.tolist() == ["CL:0000624", "CL:0000791", "CL:0000542", "CL:0000000"]
    assert found.along == "ontology"
    assert found.coarse_n is None
    low = back_off(prob_nk, lineages, 0.8, along="ontology", threshold=0.93)
    assert low.label_n.tolist() == ["unassigned", "unassigned", "lymphocyte", "cell"]
    assert low.term_n.tolist()[0] == "unknown"
    assert low.level_n.tolist()[0] == "unassigned"


def test_nothing_is_climbed_without_need():
    prob_nk = rows([0.5, 0.4, 0.1, 0, 0], [0, 0, 0.3, 0.3, 0.4])
    for found in (
        back_off(prob_nk, class_lineages(BLOOD), 0.0, along="ontology"),
        most_likely(prob_nk, class_lineages(BLOOD), along="ontology"),
    ):
        assert answered(found) == [("CD4 T cell", 0.5, "fine"), ("cluster 9", 0.4, "fine")]
        assert found.term_n.tolist() == ["CL:0000624", "unknown"]


def test_a_class_above_another_takes_in_its_cells():
    """A model with the classes T cell and CD4 T cell: a CD4 T cell is a T cell."""
    lineages = class_lineages(["T cell", "CD4 T cell", "B cell"])
    prob_nk = rows([0.45, 0.44, 0.11], [0.2, 0.7, 0.1], [0.2, 0.4, 0.4])
    found = back_off(prob_nk, lineages, 0.6, along="ontology")
    assert answered(found) == [("T cell", 0.89, "fine"), ("CD4 T cell", 0.7, "fine"), ("T cell", 0.6, "fine")]


def test_a_word_whose_term_is_broader_stands_below_it():
    """Intermediate macrophages have no term of their own: they are macrophages, and not the other way round."""
    lineages = class_lineages(["Intermediate macrophage", "Macrophage", "Monocyte"])
    found = back_off(rows([0.6, 0.3, 0.1], [0.3, 0.6, 0.1]), lineages, 0.55, along="ontology")
    assert answered(found) == [("Intermediate macrophage", 0.6, "fine"), ("Macrophage", 0.9, "fine")]
    assert found.term_n.tolist() == ["CL:0000235", "CL:0000235"]


def test_back_off_along_words_and_a_coarse_word_to_match():
    given = {"CD4": "T", "CD8": "T", "T": "Lymph", "B": "Lymph", "Mono": "Myelo", "NKT": ["T", "Lymph"]}
    found = word_hierarchy(("T", "Lymph", "Myelo"), ("CD4", "CD8", "B", "Mono", "NKT"), given=given)
    at = {pair: k for k, pair in enumerate(found.pairs)}
    prob_nk = np.zeros((5, len(at)), np.float32)
    for n, cells in enumerate(
        (
            {("T", "CD4"): 0.9, ("Lymph", "B"): 0.1},
            {("T", "CD4"): 0.5, ("T", "CD8"): 0.4, ("Lymph", "B"): 0.1},
            {("T", "CD4"): 0.3, ("T", None): 0.2, ("Lymph", "B"): 0.4, ("Myelo", "Mono"): 0.1},
            {("T", "NKT"): 0.45, ("Lymph", "NKT"): 0.4, ("Myelo", "Mono"): 0.15},
            {("T", "CD4"): 0.5, ("Myelo", "Mono"): 0.5},
        )
    ):
        for pair, prob in cells.items():
            prob_nk[n, at[pair]] = prob
    answers = back_off(prob_nk, pair_lineages(found, is_ontology=False), 0.8, along="words")
    assert answered(answers) == [
        ("CD4", 0.9, "fine"),
        ("T", 0.9, "coarse"),
        ("Lymph", 0.9, "coarse"),
        ("NKT", 0.85, "fine"),  # under either coarse word
        ("cell", 1.0, "root"),
    ]
    assert answers.coarse_n.tolist() == ["T", "T", "Lymph", "T", "cell"]
    np.testing.assert_allclose(answers.coarse_prob_n, [0.9, 0.9, 0.9, 0.45, 1], atol=1e-6)


def test_roll_up_sums_before_it_chooses():
    lineages = class_lineages(BLOOD)
    prob_nk = rows([0.25, 0.25, 0.4, 0.1, 0], [0, 0, 0.1, 0.3, 0.6])
    summed_nk, rolled = roll_up(prob_nk, lineages, find_targets(["myeloid leukocyte", "T cells"]))
    assert rolled.names == ("myeloid leukocyte", "T cell", "B cells", "cluster 9")
    np.testing.assert_allclose(summed_nk, rows([0.1, 0.5, 0.4, 0], [0.3, 0, 0.1, 0.6]), atol=1e-6)
    found = most_likely(summed_nk, rolled, along="ontology")
    assert answered(found) == [("T cell", 0.5, "broader"), ("cluster 9", 0.6, "fine")]
    safe = back_off(summed_nk, rolled, 0.9, along="ontology")
    assert answered(safe)[0] == ("lymphocyte", 0.9, "broader")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["lymphocite"], "'lymphocite' is no term of the Cell Ontology .*; did you mean 'lymphocyte'"),
        (["CL:9999999"], "'CL:9999999' is no term"),
        ([], "roll_up names no term"),
    ],
)
def test_targets_that_are_no_terms(targets, words):
    with pytest.raises(ValueError, match=words):
        find_targets(targets)


def test_targets_by_any_name():
    assert find_targets(["T cells", "CL:0000084", "cl_0000236", "Immune"]) == ("CL:0000084", "CL:0000236", "CL:0000738")


def test_names_come_by_list_or_file(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("# broad ones\nT cell\n\nCD4-positive, alpha-beta T cell  # with a comma\n")
    assert read_names(str(path)) == ["T cell", "CD4-positive, alpha-beta T cell"]
    assert read_names(" T cell, B cell ,") == ["T cell", "B cell"]
    with pytest.raises(FileNotFoundError, match="no file"):
        read_names(str(tmp_path / "absent.txt"))


@pytest.mark.parametrize("at_least", [-0.1, 1.5, float("nan")])
def test_back_off_is_a_probability(at_least):
    with pytest.raises(ValueError, match="back_off is"):
        back_off(rows([1.0, 0]), class_lineages(["T cell", "B cell"]), at_least, along="ontology")


def test_the_example_of_the_documentation():
    found = word_hierarchy(("T cell", "Lymphoid cell"), ("CD4 T cell", "CD8 T cell", "B cell", "T cell"))
    assert set(found.source_of.values()) == {"published"}
    lineages = pair_lineages(found, is_ontology=False)
    told = {("T cell", "CD4 T cell"): 0.5, ("T cell", "CD8 T cell"): 0.4, ("Lymphoid cell", "B cell"): 0.1}
    prob_nk = rows([told.get(pair, 0) for pair in found.pairs])
    answers = [answered(back_off(prob_nk, lineages, at_least, along="words"))[0] for at_least in (0.4, 0.8, 0.95)]
    assert answers == [("CD4 T cell", 0.5, "fine"), ("T cell", 0.9, "coarse"), ("Lymphoid cell", 1.0, "coarse")]
