"""Names of conditions, controls, panels; pairing; splits and their proofs."""

import numpy as np
import pandas as pd
import pytest

from cellwright.data.pairs import pair_controls
from cellwright.data.perturbation_splits import PerturbationSplit, ProfileNames, split_perturbations
from cellwright.data.perturbations import align_genes, parse_condition, read_perturbations
from cellwright.vocab import GeneVocab


def column(*names, name="perturbation"):
    return pd.DataFrame({name: list(names)}, index=[f"c{i}" for i in range(len(names))])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ctrl", ()), ("ctrl+ctrl", ()), ("KLF1", ("KLF1",)), ("KLF1+ctrl", ("KLF1",)), ("ctrl+KLF1", ("KLF1",)),
        ("SET+KLF1", ("KLF1", "SET")), ("KLF1+SET", ("KLF1", "SET")), ("KLF1 + SET", ("KLF1", "SET")),
        ("KLF1+KLF1", ("KLF1",)), ("KLF1+Control", ("KLF1",)), ("control", ("control",)),
    ],
)  # fmt: skip
def test_names_are_read_as_the_field_writes_them(name, parts):
    assert parse_condition(name, "ctrl") == parts


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match="'KLF1\\+' has an empty part"):
        parse_condition("KLF1+", "ctrl")


def test_one_condition_under_two_names_is_one_and_said():
    found = read_perturbations(column("ctrl", "KLF1+ctrl", "KLF1", "KLF1+SET", "SET+KLF1"))
    assert found.names == ("KLF1", "KLF1+SET")
    assert found.code_n.tolist() == [-1, 0, 0, 1, 1]
    assert any("KLF1+SET, SET+KLF1" in note for note in found.notes)


def test_perturbed_genes_outside_the_panel_stay_and_are_told():
    vocab = GeneVocab.from_genes(["KLF1", "ACTB", "MARCHF8"], {})
    found = read_perturbations(column("control", "KLF1", "TMSB4X", "MARCH8"), vocab=vocab)
    assert found.kind == "genes"
    assert found.panel_id == {"KLF1": 0, "MARCH8": 2, "TMSB4X": -1}
    assert "1 of 3 perturbed genes are not measured ('TMSB4X')" in found.notes[-1]
    assert found.all_parts == ("KLF1", "MARCH8", "TMSB4X")


def test_labels_are_parted_only_where_every_part_occurs_alone():
    found = read_perturbations(column("DMSO", "drug a+b", "cd3+cd28", "cd3", "cd28", "IFN-beta"))
    assert found.kind == "labels"
    assert found.parts == (("cd28",), ("cd28", "cd3"), ("cd3",), ("drug a+b",), ("IFN-beta",)) or set(found.parts) == {
        ("cd28",), ("cd28", "cd3"), ("cd3",), ("drug a+b",), ("IFN-beta",)
    }  # fmt: skip
    assert set(found.panel_id.values()) == {-1}


def test_controls_are_found_or_refused():
    assert read_perturbations(column("Non-Targeting", "KLF1")).control == "Non-Targeting"
    with pytest.raises(ValueError, match="no control in column 'perturbation'.*--control"):
        read_perturbations(column("a", "b"), column="perturbation")
    with pytest.raises(ValueError, match="several names of controls, 'DMSO', 'ctrl'"):
        read_perturbations(column("DMSO", "ctrl", "KLF1"), column="perturbation")
    with pytest.raises(ValueError, match="no control 'crtl'.*did you mean 'ctrl'"):
        read_perturbations(column("ctrl", "KLF1"), column="perturbation", control="crtl")
    with pytest.raises(ValueError, match="no column 'pert'"):
        read_perturbations(column("ctrl", "KLF1"), column="pert")
    with pytest.raises(ValueError, match="no column of perturbations found"):
        read_perturbations(column("ctrl", "KLF1", name="guide"))
    with pytest.raises(ValueError, match="holds only controls"):
        read_perturbations(column("ctrl", "ctrl+ctrl"))
    with pytest.raises(ValueError, match="empty \\(NaN\\) for 1 of 3 cells"):
        read_perturbations(column("ctrl", "KLF1", None))


def test_with_two_controls_the_one_named_counts_and_the_other_is_a_condition():
    found = read_perturbations(column("DMSO", "ctrl", "drug"), column="perturbation", control="DMSO")
    assert set(found.names) == {"ctrl", "drug"}


def test_names_are_aligned_by_spelling_and_by_other_names_of_the_gene():
    known = ["MARCHF8", "KLF1", "ENSG00000075624", "x"]
    assert align_genes(["KLF1", "MARCH8", "ACTB", "x", "y"], known).tolist() == [1, 0, 2, 3, -1]
    assert align_genes([], known).tolist() == []
    assert align_genes(["KLF1"], []).tolist() == [-1]


def test_pairs_share_context_and_batch_and_use_every_control():
    rng = np.random.default_rng(0)
    num = 400
    context_n, batch_n = rng.integers(0, 2, num), rng.integers(0, 3, num)
    controls = np.flatnonzero(rng.random(num) < 0.2)
    rows = np.setdiff1d(np.arange(num), controls)
    pairs = pair_controls(rows, controls, context_n=context_n, tech_batch_n=batch_n, seed=3)
    assert (context_n[pairs.row_n] == context_n[pairs.control_n]).all()
    assert (batch_n[pairs.row_n] == batch_n[pairs.control_n]).all()
    assert pairs.is_matched_n.all()
    assert set(pairs.control_n) == set(controls)
    again = pair_controls(rows, controls, context_n=context_n, tech_batch_n=batch_n, seed=3)
    other = pair_controls(rows, controls, context_n=context_n, tech_batch_n=batch_n, seed=4)
    assert (again.control_n == pairs.control_n).all()
    assert (other.control_n != pairs.control_n).any()


def test_a_batch_without_controls_is_paired_within_the_context_and_said():
    context_n, batch_n = np.zeros(4, int), np.array([0, 1, 0, -1])
    pairs = pair_controls([1, 3], [0, 2], context_n=context_n, tech_batch_n=batch_n, seed=0)
    assert not pairs.is_matched_n.any()
    with pytest.raises(ValueError, match="context 1 has perturbed cells and no control"):
        pair_controls([1], [0], context_n=np.array([0, 1]), seed=0)


GENES = [f"G{i}" for i in range(8)]
PARTS = tuple([(g,) for g in GENES] + [("G0", "G1"), ("G2", "G3"), ("G4", "X"), ("Y", "Z")])
ONE = ProfileNames(parts=PARTS, context=("all",) * len(PARTS))
TWO = ProfileNames(parts=PARTS * 3, context=tuple(c for c in "abc" for _ in PARTS))


@pytest.mark.parametrize("by", ["single", "double", "gears"])
@pytest.mark.parametrize("profiles", [ONE, TWO])
@pytest.mark.parametrize("seed", range(4))
def test_everything_is_held_out_once_and_never_seen(by, profiles, seed):
    splits = split_perturbations(profiles, by, num_folds=4, seed=seed)
    tested = [u for split in splits for u in split.at("test") if (len(profiles.parts[u]) > 1) == (by == "double")]
    wanted = [u for u, parts in enumerate(profiles.parts) if (len(parts) > 1) == (by == "double")]
    assert sorted(tested) == wanted
    for split in splits:
        train = {parts for u in split.at("train") for parts in [profiles.parts[u]]}
        held = {profiles.parts[u] for u in split.at("test", "valid")}
        assert not train & held
        assert split.at("valid")
        if by != "double":
            genes = {parts[0] for parts in held if len(parts) == 1}
            assert not genes & {gene for parts in train for gene in parts}
        for u in split.at("test"):
            known = {gene for parts in train for gene in parts}
            if len(profiles.parts[u]) > 1:
                assert split.group(u) == f"several_seen{len(known & set(profiles.parts[u]))}"
            else:
                assert split.group(u) == "single"


def test_contexts_are_held_out_whole():
    splits = split_perturbations(TWO, "cells")
    assert [sorted({TWO.context[u] for u in split.at("test")}) for split in splits] == [
        [c] for c in ["c", "a", "b"]
    ] or {TWO.context[split.at("test")[0]] for split in splits} == set("abc")
    for split in splits:
        assert len({TWO.context[u] for u in split.at("test")}) == 1
        assert not {TWO.context[u] for u in split.at("test")} & {TWO.context[u] for u in split.at("train", "valid")}
        assert split.group(split.at("test")[0]) == "context"


def test_empty_hold_outs_are_errors():
    singles = ProfileNames(parts=(("A",), ("B",)), context=("all", "all"))
    with pytest.raises(ValueError, match="'double' needs at least 2 combinations, there are 0"):
        split_perturbations(singles, "double")
    with pytest.raises(ValueError, match="'cells' needs at least 2 contexts"):
        split_perturbations(singles, "cells")
    with pytest.raises(ValueError, match="no profile is held for test"):
        PerturbationSplit(profiles=singles, part=("train", "train"), by="single", fold=0, num_folds=2, seed=0)
    with pytest.raises(ValueError, match="no profile is held for train"):
        PerturbationSplit(profiles=singles, part=("test", "valid"), by="single", fold=0, num_folds=2, seed=0)


def test_a_leak_is_noticed():
    profiles = ProfileNames(parts=(("A",), ("B",), ("A", "B")), context=("all",) * 3)
    with pytest.raises(ValueError, match="A is in train and in test"):
        PerturbationSplit(profiles=profiles, part=("test", "train", "train"), by="gears", fold=0, num_folds=2, seed=0)
    cells = ProfileNames(parts=(("A",), ("B",)), context=("x", "x"))
    with pytest.raises(ValueError, match="x is in train and in test"):
        PerturbationSplit(profiles=cells, part=("test", "train"), by="cells", fold=0, num_folds=2, seed=0)


def test_the_hash_tells_splits_cells_and_parts_apart():
    first, second = split_perturbations(ONE, "single", num_folds=2, seed=0)
    names, profile_n = ["a", "b", "c"], np.array([-1, 0, 5])
    assert first.sha256(names, profile_n) == first.sha256(names, profile_n)
    assert first.sha256(names, profile_n) != second.sha256(names, profile_n)
    assert first.sha256(names, profile_n) != first.sha256(["a", "b", "d"], profile_n)
    assert first.sha256(names, profile_n) != first.sha256(names, np.array([-1, 0, -1]))


def test_too_little_to_choose_by_is_said():
    few = ProfileNames(parts=(("A",), ("B",), ("C",)), context=("all",) * 3)
    split = split_perturbations(few, "single", num_folds=3)[0]
    assert not split.at("valid")
    assert "too little is left" in split.notes[-1]
