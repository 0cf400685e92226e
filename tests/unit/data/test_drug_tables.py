"""Tables of drug response: names, repeats, features, and how pairs are held out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.data.drug_splits import PUBLISHED_LABELS, published_sample, published_split, split_pairs
from cellwright.data.drugs import (
    LineFeatures,
    Responses,
    identity_features,
    random_features,
    read_lines,
    read_responses,
    read_smiles,
    table_of,
)


def table(rows):
    return pd.DataFrame(rows, columns=["line", "drug", "ln_ic50"])


PAIRS = table([("B", "x", 1.0), ("A", "x", 2.0), ("A", "y", -1.5), ("NA", "y", 0.0)])


def grid(num_lines=10, num_drugs=6):
    line_p, drug_p = (part.ravel() for part in np.indices((num_lines, num_drugs)))
    names = tuple(f"L{i}" for i in range(num_lines)), tuple(f"D{i}" for i in range(num_drugs))
    return Responses(line_p, drug_p, np.arange(len(line_p), dtype=float), *names)


def test_a_table_becomes_codes_into_sorted_names(tmp_path):
    path = tmp_path / "ic50.csv"
    PAIRS.to_csv(path, index=False)
    found = read_responses(path)
    assert found.lines == ("A", "B", "NA")  # a line called NA is a name, no missing value
    assert found.drugs == ("x", "y")
    assert table_of(found, {"ln_ic50": found.value_p}).equals(PAIRS)
    asked = read_responses(path, value=None)
    assert np.isnan(asked.value_p).all()


def test_repeated_pairs_are_refused_averaged_or_kept():
    twice = pd.concat([PAIRS, table([("B", "x", 3.0)])])
    with pytest.raises(ValueError, match=r"1 pairs are measured more than once, for instance \(B, x\)"):
        read_responses(twice)
    mean = read_responses(twice, repeats="mean")
    assert mean.value_p.tolist() == [2.0, 2.0, -1.5, 0.0]
    assert [mean.lines[k] for k in mean.line_p] == ["B", "A", "A", "NA"]
    assert len(read_responses(twice, repeats="keep")) == 5


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (PAIRS, {"drug": "drugs"}, "no column 'drugs'; did you mean 'drug'"),
        (table([("A", "x", "high")]), {}, "holds 'high' in row 1"),
        (table([("A", None, 1.0)]), {}, "'drug' is empty in 1 of 1 rows"),
        (table([]), {}, "has no rows"),
        (table([("A", "x", np.inf)]), {}, "ln IC50 is a number"),
    ],
)
def test_mistakes_in_a_table_are_named(given, options, words):
    with pytest.raises(ValueError, match=words):
        read_responses(given, **options)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.csv"):
        read_responses("nowhere.csv")


def test_unknown_lines_are_refused_or_dropped():
    found = read_responses(PAIRS)
    with pytest.raises(ValueError, match=r"1 of 3 cell lines of the responses are unknown \('B'\)"):
        found.renamed(["A", "NA"], ["x", "y"])
    kept = found.renamed(["NA", "A"], ["y", "x", "z"], unmatched="drop")
    assert table_of(kept, {"v": kept.value_p}).values.tolist() == [["A", "x", 2.0], ["A", "y", -1.5], ["NA", "y", 0.0]]
    with pytest.raises(ValueError, match="none of 4 pairs"):
        found.renamed(["Q"], ["x"], unmatched="drop")


def test_features_come_from_anything_with_a_row_a_line(tmp_path):
    value_lf = np.arange(6, dtype=np.float32).reshape(2, 3)
    adata = AnnData(value_lf, obs=pd.DataFrame({"id": ["A", "B"]}, index=["r0", "r1"]))
    adata.var_names = ["g0", "g1", "g2"]
    adata.obsm["X_emb"] = value_lf[:, :2] + 10
    path = tmp_path / "lines.h5ad"
    adata.write_h5ad(path)
    frame = pd.DataFrame(value_lf, index=["A", "B"], columns=["g0", "g1", "g2"])
    frame.to_csv(tmp_path / "lines.csv")
    for found in (read_lines(path, name="id"), read_lines(frame), read_lines(tmp_path / "lines.csv")):
        assert (found.lines, found.names) == (("A", "B"), ("g0", "g1", "g2"))
        assert (found.value_lf == value_lf).all()
    embedded = read_lines(adata, key="X_emb")
    assert embedded.names == ("X_emb_0", "X_emb_1")
    assert (read_lines((["A", "B"], value_lf)).value_lf == value_lf).all()
    with pytest.raises(ValueError, match="obsm has no 'X_em'; did you mean 'X_emb'"):
        read_lines(adata, key="X_em")
    with pytest.raises(ValueError, match="obs has no column 'ids'; did you mean 'id'"):
        read_lines(adata, name="ids")


def test_features_are_put_in_the_order_of_training():
    found = LineFeatures(("A",), np.array([[1, 2, 3]], np.float32), ("a", "b", "c"))
    assert found.ordered(["c", "a"]).tolist() == [[3, 1]]
    with pytest.raises(ValueError, match=r"1 of 2 features that the model was trained on are missing \('d'\)"):
        found.ordered(["d", "a"])
    for bad, words in (
        ((("A", "A"), np.ones((2, 1)), ("g",)), "cell line 'A' is there twice"),
        ((("A", "B"), np.array([[1.0], [np.nan]]), ("g",)), "cell line 'B' are not finite"),
        ((("A",), np.ones((2, 1)), ("g",)), "for 1 cell lines"),
    ):
        with pytest.raises(ValueError, match=words):
            LineFeatures(*bad)


def test_name_tags_differ_for_every_line():
    assert (identity_features("abc").value_lf == np.eye(3)).all()
    one, two = (random_features("abc", 50, seed=seed).value_lf for seed in (0, 1))
    assert one.shape == (3, 50)
    assert (one == random_features("abc", 50, seed=0).value_lf).all()
    assert (one != two).all()


def test_structures_are_read_by_drug():
    frame = pd.DataFrame({"drug": ["x", "y"], "smiles": ["CC", "CO"]})
    assert read_smiles(frame) == {"x": "CC", "y": "CO"}
    with pytest.raises(ValueError, match="drug 'x' is in the table of drugs twice"):
        read_smiles(pd.concat([frame, frame]))
    with pytest.raises(ValueError, match="drug 'y' has no SMILES"):
        read_smiles(frame.assign(smiles=["CC", None]))


@given(by=st.sampled_from(["line", "drug", "pair"]), fold=st.integers(0, 2), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_what_is_held_out_is_nowhere_else(by, fold, seed):
    pairs = grid()
    split = split_pairs(pairs, by=by, fold=fold, num_folds=3, valid=0.2, seed=seed)
    parts = [split.train, split.valid, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(pairs)))
    assert all(len(part) for part in parts)
    if by != "pair":
        units = [set((pairs.line_p if by == "line" else pairs.drug_p)[part].tolist()) for part in parts]
        assert sum(map(len, units)) == len(set.union(*units))
    same = split_pairs(pairs, by=by, fold=fold, num_folds=3, valid=0.2, seed=seed)
    assert same.sha256 == split.sha256


@pytest.mark.parametrize("by", ["line", "drug", "pair"])
def test_folds_cover_everything_once(by):
    pairs = grid()
    tests = [split_pairs(pairs, by=by, fold=fold, seed=4).test for fold in range(5)]
    assert sorted(np.concatenate(tests).tolist()) == list(range(len(pairs)))


def test_mistakes_in_a_split_are_named():
    pairs = grid(4, 3)
    for options, words in (
        ({"by": "donor"}, "choose line, drug or pair"),
        ({"fold": 7, "num_folds": 3}, "no fold 7"),
        ({"by": "drug", "num_folds": 5}, "5 folds of 3"),
        ({"fold_k": np.zeros(3)}, "there are 4 to be held out by line"),
        ({"num_folds": 2, "valid": 0.9}, "holding out leaves 2 of 4"),
    ):
        with pytest.raises(ValueError, match=words):
            split_pairs(pairs, **options)


def test_the_published_sample_is_that_of_python_2():
    # random() after seed 0 gives .844, .758, .421, .259, .511, .405, .784, .303, .477, .583; worked out by hand
    assert published_sample([range(10), range(10)], share=0.5, seed=0) == [[8, 6, 3, 1, 7], [4, 7, 2, 3, 6]]


def test_the_published_split_draws_type_by_type_and_knows_repeats():
    rng = np.random.default_rng(0)
    labels = np.array([*["ALL"] * 40, *["OTHER"] * 10, *["COAD/READ"] * 20])[rng.permutation(70)]
    pairs = grid(14, 5)
    kept, split = published_split(pairs, labels)
    assert len(split.train) == 38 + 19
    assert len(split.test) == 2 + 1
    assert not len(split.valid)
    assert "OTHER" not in set(labels[kept])
    drawn = published_sample([range(40), range(20)], seed=0)
    places = [np.flatnonzero(labels == name) for name in ("ALL", "COAD/READ")]
    assert kept[:57].tolist() == [*places[0][drawn[0]], *places[1][drawn[1]]]
    # an instance equal to a training one in line, drug and value is in no part
    same = Responses(np.zeros(40, int), np.zeros(40, int), np.r_[np.zeros(39), 1.0], ("A",), ("x",))
    left = [p for p in range(40) if p not in published_sample([range(40)], seed=0)[0]]
    kept, split = published_split(same, ["ALL"] * 40) if 39 in left else (None, None)
    assert split is None or kept[split.test].tolist() == [39]
    assert len(PUBLISHED_LABELS) == len(set(PUBLISHED_LABELS)) == 25
