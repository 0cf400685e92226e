"""How groups are found, what is refused, and labels that a split takes from training."""

import json

import numpy as np
import pandas as pd
import pytest

from cellwright.data import Split, hold_out, label_codes, make_cells, split_cells


@pytest.fixture
def obs():
    """Six donors of ten cells, two labels each; batch = label, as in sorted cells."""
    n = np.arange(60)
    columns = {"Donor_ID": [f"d{d}" for d in n // 10], "cell_type": [f"t{t}" for t in n % 2]}
    frame = pd.DataFrame(columns, index=[f"c{i}" for i in n])
    return frame.assign(batch=frame["cell_type"])


def test_a_donor_column_is_found_whatever_its_case(obs):
    split = split_cells(obs, valid=0.2, test=0.2, label="cell_type")
    assert split.by == "Donor_ID"
    assert len(split.groups["valid"]) == len(split.groups["test"]) == 1
    assert (len(split.train), len(split.valid), len(split.test)) == (40, 10, 10)
    json.dumps(split.record())


def test_a_column_that_repeats_the_label_is_not_used(obs):
    split = split_cells(obs.drop(columns="Donor_ID"), label="cell_type")
    assert split.by == "cells"
    assert "'batch' was not used: each of its groups holds one label only" in split.notes[0]
    assert "random cells" in split.notes[1]
    assert split_cells(obs.drop(columns="Donor_ID")).by == "batch", "without a label it is like any other"


def test_runs_of_sorted_cells_are_not_groups_for_a_coarser_label_either():
    obs = pd.DataFrame({"batch": list("aabbccdd"), "cell_type": list("TTTTTTBB")}, index=list("12345678"))
    assert split_cells(obs, valid=0.25, label="cell_type").by == "cells"


def test_too_few_groups_fall_back_to_cells(obs):
    obs = obs.assign(Donor_ID=["x"] * 30 + ["y"] * 30, batch="one")
    assert split_cells(obs, valid=0.1, test=0.1).by == "cells"
    assert split_cells(obs, valid=0.1).by == "Donor_ID"
    with pytest.raises(ValueError, match="would be empty with 2 groups of 'Donor_ID'"):
        split_cells(obs, by="Donor_ID", valid=0.1, test=0.1)


def test_labels_stay_in_train_where_groups_allow(obs):
    rare = obs.assign(cell_type=np.where(obs["Donor_ID"] == "d3", "rare", obs["cell_type"]))
    for seed in range(10):
        split = split_cells(rare, by="Donor_ID", valid=0.2, test=0.2, seed=seed, label="cell_type")
        assert "d3" in split.groups["train"]
    only = obs.assign(cell_type=obs["Donor_ID"])
    split = split_cells(only, by="Donor_ID", valid=0.2, label="cell_type")
    assert split.notes == (f"labels without a training cell: '{split.groups['valid'][0]}'",)


def test_cells_without_a_label_can_be_split(obs):
    obs.loc[obs.index[:5], "cell_type"] = np.nan
    split = split_cells(obs, by="cells", valid=0.5, label="cell_type")
    assert len(split.valid) == 30


def test_mistakes_are_named(obs):
    with pytest.raises(ValueError, match="no column 'donor_id' in obs; did you mean 'Donor_ID'"):
        split_cells(obs, by="donor_id")
    with pytest.raises(ValueError, match="no column 'celltype' in obs; did you mean 'cell_type'"):
        split_cells(obs, by="cells", label="celltype")
    for valid, test in ((-0.1, 0.2), (0.6, 0.4)):
        with pytest.raises(ValueError, match="shares must be 0 or more"):
            split_cells(obs, valid=valid, test=test)
    with pytest.raises(ValueError, match="test would be empty with 1 cells"):
        split_cells(obs[:1], by="cells", valid=0.0, test=0.1)
    obs.loc[obs.index[:3], "Donor_ID"] = None
    with pytest.raises(ValueError, match=r"'Donor_ID' is empty \(NaN\) for 3 of 60 cells; give every cell a group"):
        split_cells(obs, by="Donor_ID")


def test_nothing_is_held_out_only_when_asked(obs):
    split = split_cells(obs, by="Donor_ID", valid=0.0, test=0.0)
    assert (len(split.train), len(split.valid), len(split.test)) == (60, 0, 0)


def test_hold_out_named_groups(obs):
    split = hold_out(obs, "Donor_ID", ["d1", "d4"], valid=0.25)
    assert set(obs["Donor_ID"].iloc[split.test]) == {"d1", "d4"}
    assert (len(split.train), len(split.valid)) == (30, 10)
    assert hold_out(obs, "Donor_ID", "d1").groups["test"] == ("d1",)
    with pytest.raises(ValueError, match="no 'd11' in column 'Donor_ID'; did you mean 'd1'"):
        hold_out(obs, "Donor_ID", "d11")
    with pytest.raises(ValueError, match="leaves 0 cells"):
        hold_out(obs, "batch", ["t0", "t1"])


def test_a_split_proves_itself():
    parts = {"train": np.array([0, 1]), "valid": np.array([2]), "test": np.array([], np.int64)}
    rest = {"by": "cells", "seed": 0, "groups": {}, "sha256": ""}
    Split(**parts, **rest)
    with pytest.raises(ValueError, match="cell 1 is in two parts"):
        Split(**{**parts, "valid": np.array([1, 2])}, **rest)
    with pytest.raises(ValueError, match="not the positions 0 .. 2"):
        Split(**{**parts, "valid": np.array([3])}, **rest)
    with pytest.raises(ValueError, match="a group is in two parts"):
        Split(**parts, **{**rest, "groups": {"train": ("a",), "test": ("a",)}})


def test_label_codes():
    obs = make_cells(9, 10, seed=0).obs
    codes, classes = label_codes(obs, "cell_type")
    assert classes == ("type 0", "type 1", "type 2")
    assert codes.tolist() == [0, 1, 2] * 3
    assert label_codes(obs[:2], "cell_type")[1] == ("type 0", "type 1"), "unused categories are left out"
    assert label_codes(obs.assign(n=range(9)), "n")[1][0] == "0"
    with pytest.raises(ValueError, match="no column 'celltype' in obs; did you mean 'cell_type'"):
        label_codes(obs, "celltype")
    obs.loc[obs.index[1:3], "cell_type"] = np.nan
    with pytest.raises(ValueError, match=r"empty \(NaN\) for 2 of 9 cells; drop these cells, or give them a label"):
        label_codes(obs, "cell_type")
