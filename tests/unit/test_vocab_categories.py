"""Words of metadata beside genes: order, codes, building from a data set's own columns, growing."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from cellwright.data.genes import match_genes
from cellwright.vocab import GeneVocab

SPECIALS = {"end": "<E>", "pad": "<E>", "annotate": "<A>"}
WORDS = {"organ": ["Lung", "Liver"], "region": ["Lobe", "Liver"]}


def vocab():
    return GeneVocab.from_genes(["B", "A", "C"], SPECIALS, WORDS)


def test_words_are_in_id_order_and_no_genes():
    made = vocab()
    assert made.tokens == ("B", "A", "C", "Lung", "Liver", "Lobe", "<E>", "<A>")
    assert made.categories == {"organ": ("Lung", "Liver"), "region": ("Liver", "Lobe")}
    assert made.genes == ("B", "A", "C")
    assert made.words == ("Lung", "Liver", "Lobe")
    assert made.category_ids("region").tolist() == [4, 5]
    assert made.special_id("end") == made.special_id("pad") == 6
    values = ["Liver", None, float("nan"), np.float32("nan"), pd.NA, "", "Lung", "Lobe"]
    assert made.codes("organ", values).tolist() == [1, -1, -1, -1, -1, -1, 0, -1]
    with pytest.raises(ValueError, match="no category 'sex'; it has"):
        made.category_ids("sex")


def test_file_and_hash(tmp_path):
    made = vocab()
    made.save(tmp_path / "v.json")
    again = GeneVocab.load(tmp_path / "v.json")
    assert again == made
    assert again.sha256 == made.sha256
    plain = GeneVocab(made.tokens, SPECIALS)
    assert plain != made
    assert plain.sha256 != made.sha256
    plain.save(tmp_path / "plain.json")
    assert "categories" not in json.loads((tmp_path / "plain.json").read_text())


def test_hash_of_a_vocabulary_without_categories_is_what_it_always_was():
    assert GeneVocab.from_genes(["A", "B"], {"pad": "<pad>"}).sha256.startswith(_sha("A", "B", "<pad>"))


def _sha(*tokens):
    text = json.dumps([tokens, [["pad", "<pad>"]]], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def test_from_a_table_of_cells():
    obs = pd.DataFrame(
        {
            "tissue": pd.Categorical(["lung", "blood", None, "lung"]),
            "type": ["T cell", "B cell", "", "T cell"],
            "stage": [3, 1, 2, 3],
            "none": [None] * 4,
        }
    )
    made = GeneVocab.from_metadata(["G1"], SPECIALS, obs, columns={"organ": "tissue", "cell_type": "type"})
    assert made.categories == {"organ": ("blood", "lung"), "cell_type": ("B cell", "T cell")}
    assert made.codes("organ", obs["tissue"]).tolist() == [1, 0, -1, 1]
    assert GeneVocab.from_metadata(["G1"], SPECIALS, obs, columns=["stage"]).categories == {"stage": ("1", "2", "3")}
    with pytest.raises(ValueError, match="no column 'organ'; columns"):
        GeneVocab.from_metadata(["G1"], SPECIALS, obs, columns=["organ"])
    with pytest.raises(ValueError, match="'none' holds no value"):
        GeneVocab.from_metadata(["G1"], SPECIALS, obs, columns=["none"])
    with pytest.raises(ValueError, match="'lung' is a gene and a word"):
        GeneVocab.from_metadata(["lung"], SPECIALS, obs, columns=["tissue"])


def test_growing_keeps_ids():
    made = vocab()
    more = made.extended(["D", "A"], {"organ": ["Brain"], "sex": ["F", "M"]})
    assert more.tokens == (*made.tokens, "D", "Brain", "F", "M")
    assert more.genes == ("B", "A", "C", "D")
    assert more.categories["organ"] == ("Lung", "Liver", "Brain")
    assert more.specials == made.specials
    with pytest.raises(ValueError, match="'A' is a gene and a word"):
        made.extended(categories={"organ": ["A"]})
    with pytest.raises(ValueError, match="'Lung' is a gene and a word"):
        made.extended(["Lung"])


def test_words_that_cannot_be():
    with pytest.raises(ValueError, match="lacks 'Heart' of the category 'organ'"):
        GeneVocab(["A", "<E>"], {"end": "<E>"}, {"organ": ["Heart"]})
    with pytest.raises(ValueError, match="is a special token"):
        GeneVocab(["A", "<E>"], {"end": "<E>"}, {"organ": ["<E>"]})


def test_names_of_genes_never_match_words():
    made = GeneVocab.from_genes(["GAPDH", "TP53"], SPECIALS, {"sex": ["F", "M"], "organ": ["Lung"]})
    found = match_genes(["F", "GAPDH", "Lung", "<E>"], made)
    assert found.id_g.tolist() == [-1, 0, -1, -1]
