"""Splits over arbitrary groups and labels: disjoint, exhaustive, group-pure, and a function of the seed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.data.splits import PARTS, split_cells

shares = st.sampled_from([(0.1, 0.0), (0.2, 0.2), (0.0, 0.3), (0.4, 0.4)])


@st.composite
def tables(draw):
    """Draw an obs table of 4 .. 60 cells with 3 .. 8 donors, each occurring, and 1 .. 4 labels."""
    num_donors = draw(st.integers(3, 8))
    extra = draw(st.lists(st.integers(0, num_donors - 1), min_size=1, max_size=52))
    donors = [*range(num_donors), *extra]
    labels = draw(st.lists(st.integers(0, 3), min_size=len(donors), max_size=len(donors)))
    columns = {"donor": [f"d{d}" for d in donors], "kind": [f"k{k}" for k in labels]}
    return pd.DataFrame(columns, index=[f"c{n}" for n in range(len(donors))])


def _is_too_small(obs, share, has_label):
    """Whether the cells that may leave train, all but one of each label, are fewer than twice the parts asked."""
    num_labels = obs["kind"].nunique() if has_label else 1
    return len(obs) - num_labels < 2 * max(1, round(max(share) * len(obs)))


@settings(max_examples=40, deadline=None)
@given(tables(), shares, st.integers(0, 5), st.sampled_from(["donor", "cells"]), st.booleans())
def test_parts_are_disjoint_exhaustive_and_group_pure(obs, share, seed, by, has_label):
    options = {"by": by, "valid": share[0], "test": share[1], "seed": seed, "label": "kind" if has_label else None}
    if by == "cells" and _is_too_small(obs, share, has_label):
        return
    split = split_cells(obs, **options)
    rows = np.concatenate([split.train, split.valid, split.test])
    assert sorted(rows.tolist()) == list(range(len(obs)))
    assert len(split.train)
    assert bool(len(split.valid)) == (share[0] > 0)
    assert bool(len(split.test)) == (share[1] > 0)
    if by == "donor":
        donors = [set(obs["donor"].iloc[getattr(split, part)]) for part in PARTS]
        assert sum(map(len, donors)) == obs["donor"].nunique()
        assert donors == [set(split.groups[part]) for part in PARTS]
    again = split_cells(obs, **options)
    assert all((getattr(split, part) == getattr(again, part)).all() for part in PARTS)
    assert split.sha256 == again.sha256


@settings(max_examples=40, deadline=None)
@given(tables(), shares)
def test_random_cells_keep_every_label_in_train(obs, share):
    if _is_too_small(obs, share, has_label=True):
        return
    split = split_cells(obs, by="cells", valid=share[0], test=share[1], label="kind")
    assert set(obs["kind"].iloc[split.train]) == set(obs["kind"])


@settings(max_examples=20, deadline=None)
@given(tables(), st.integers(0, 3))
def test_the_hash_speaks_of_cells_and_parts_only(obs, seed):
    split = split_cells(obs, by="donor", valid=0.2, seed=seed)
    other = split_cells(obs, by="donor", valid=0.2, seed=seed + 1)
    assert (split.sha256 == other.sha256) == np.array_equal(split.valid, other.valid)
    renamed = obs.set_axis([f"x{n}" for n in range(len(obs))])
    assert split_cells(renamed, by="donor", valid=0.2, seed=seed).sha256 != split.sha256


@pytest.mark.parametrize("num_cells", [100, 1000])
def test_random_shares_are_met_exactly(num_cells):
    obs = pd.DataFrame({"kind": np.arange(num_cells) % 7}, index=np.arange(num_cells).astype(str))
    split = split_cells(obs, by="cells", valid=0.1, test=0.2, label="kind")
    assert (len(split.valid), len(split.test)) == (num_cells // 10, num_cells // 5)
