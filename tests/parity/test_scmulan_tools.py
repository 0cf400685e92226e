"""Gene-symbol unification and label smoothing equal the published functions on recorded inputs."""

import csv
import json

import numpy as np
import pytest
import scipy.sparse as sp
from parity.cases import Case

from cellwright.data.genes import match_genes
from cellwright.data.symbols import unify_columns, unify_symbols
from cellwright.tasks.smooth import smooth_labels
from cellwright.vocab import GeneVocab

SYMBOLS = Case("scmulan", "gene_symbol_uniform")
SMOOTHING = Case("scmulan", "smoothing")


def tables():
    with open(SYMBOLS.folder / "ref.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["Status"] == "Approved"]
    reference = [(r["Approved symbol"], r["Alias symbol"], r["Previous symbol"]) for r in rows]
    with open(SYMBOLS.folder / "total_gene_list.txt", newline="") as file:
        targets = [r["Approved symbol"] for r in csv.DictReader(file, delimiter="\t")]
    return targets, reference


def test_symbols():
    unified = unify_symbols(SYMBOLS.arrays["query"], *tables())
    record = json.loads((SYMBOLS.folder / "case.json").read_text())["report"]
    assert list(unified.genes) == SYMBOLS.arrays["out_genes"].tolist()
    assert list(unified.status_g) == [row["Status"] for row in record]
    for row in record:
        assert "|".join(unified.candidates.get(row["Original.Name"], ())) == row["Modified.Name"]
    counts = sp.csr_matrix(SYMBOLS.arrays["counts"])
    for is_averaged, key in ((True, "out_avg"), (False, "out_sum")):
        out = unify_columns(counts, unified, is_averaged=is_averaged)
        assert np.array_equal(out.toarray(), SYMBOLS.arrays[key])


def test_symbols_that_cannot_be_placed_are_errors():
    targets, reference = tables()
    with pytest.raises(ValueError, match="occurs twice"):
        unify_symbols(["AAA1", "OLDA", "AAA1"], targets, reference)
    with pytest.raises(ValueError, match="'OLDZ' means 'ZZZ9', which is not among"):
        unify_symbols(["OLDZ"], targets, [*reference, ("ZZZ9", "", "OLDZ")])


def test_our_own_harmoniser_differs_on_purpose():
    """Ours sums columns of one gene and knows Ensembl ids; the published function averages, and drops them."""
    vocab = GeneVocab.from_genes(["SEPTIN2", "GAPDH"], {"end": "<E>"})
    names = ["SEPTIN2", "SEPT2", "ENSG00000111640"]  # a symbol, its previous one, an Ensembl id
    ours = match_genes(names, vocab)
    assert ours.id_g.tolist() == [0, 0, 1]
    assert ours.duplicates == {"SEPTIN2": ("SEPTIN2", "SEPT2")}
    theirs = unify_symbols(names, ["SEPTIN2", "GAPDH"], [("SEPTIN2", "", "SEPT2")])
    assert theirs.status_g == ("No Change", "Changed", "Abandoned")
    out = unify_columns(sp.csr_matrix(np.array([[2.0, 4.0, 9.0]])), theirs)
    assert out.toarray().tolist() == [[0, 3]]  # by code point: GAPDH, SEPTIN2


RUNS = {
    "default": {},
    "thr0p1": {"threshold": 0.1},
    "unweighted": {"is_weighted": False},
    "int_thr": {"is_weighted": False, "threshold": 8, "num_neighbours": 20},
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_smoothing(name, form):
    found = smooth_labels(SMOOTHING.arrays["pred"], form(SMOOTHING.arrays[f"{name}/distances"]), **RUNS[name])
    np.testing.assert_allclose(found.score_n, SMOOTHING.arrays[f"{name}/score"], atol=1e-6)
    assert found.label_n.tolist() == SMOOTHING.arrays[f"{name}/label"].tolist()


def test_smoothing_at_its_edges():
    alone = smooth_labels(["a", "b"], np.array([[0.0, 0.0], [2.0, 0.0]]))
    assert alone.label_n.tolist() == ["Unclassified", "a"]
    assert alone.score_n.tolist() == [0, 1]
    with pytest.raises(ValueError, match="2 x 2 for 3 labels"):
        smooth_labels(["a", "b", "c"], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="threshold = -0.1"):
        smooth_labels(["a"], np.zeros((1, 1)), threshold=-0.1)
