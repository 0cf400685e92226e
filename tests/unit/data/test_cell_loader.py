"""The loader: each row once, equal steps on all ranks, and stop-resume equal to straight through."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.data import CellLoader, make_cells, open_cells
from cellwright.protocols import Loader
from cellwright.vocab import GeneVocab


@dataclass
class Rows:
    """A source whose cells are their positions."""

    vocab = None
    state = "raw"
    size: int = 10_000

    def __len__(self):
        return self.size

    def read(self, rows):
        return np.asarray(rows)


def visits(loader):
    return [batch.tolist() for batch in loader]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 3))
def test_every_row_once_an_epoch_for_any_world(num_rows, batch_size, world, shuffle, epoch):
    rows = np.arange(num_rows) * 3 + 1
    ranks = []
    for rank in range(world):
        loader = CellLoader(Rows(), rows, batch_size, seed=1, shuffle=shuffle, place=(rank, world))
        loader.set_epoch(epoch)
        ranks.append(visits(loader))
        assert len(ranks[-1]) == len(loader)
    assert len({len(batches) for batches in ranks}) == 1, "ranks take different numbers of steps"
    assert all(0 < len(batch) <= batch_size for batches in ranks for batch in batches)
    seen = sorted(row for batches in ranks for batch in batches for row in batch)
    assert sorted(set(seen)) == rows.tolist()
    assert len(seen) - num_rows == loader.num_repeats
    if world == 1 or (batch_size > 1 and num_rows >= world * batch_size):
        assert loader.num_repeats == 0


@settings(max_examples=80, deadline=None)
@given(st.integers(8, 90), st.integers(1, 4), st.integers(1, 2), st.data())
def test_stop_and_resume_equals_straight_through(num_rows, batch_size, world, data):
    def make():
        return CellLoader(Rows(), np.arange(num_rows), batch_size, seed=5, place=(world - 1, world))

    straight = make()
    straight.set_epoch(2)
    expected = visits(straight)
    stop = data.draw(st.integers(1, len(expected)))
    first = make()
    first.set_epoch(2)
    iterator = iter(first)
    begun = [next(iterator).tolist() for _ in range(stop)]
    state = first.state_dict()
    assert state == {"epoch": 2, "next": stop}
    second = make()
    second.load_state_dict(state)
    second.set_epoch(2)  # the engine tells the epoch again; it must not start anew
    assert begun + visits(second) == expected
    assert visits(second) == expected, "the epoch after a resumed one is whole"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 3))
def test_drop_last_gives_whole_batches_only(num_rows, batch_size, world):
    options = {"seed": 0, "drop_last": True}
    if num_rows < batch_size * world:
        with pytest.raises(ValueError, match="make no whole minibatch"):
            CellLoader(Rows(), np.arange(num_rows), batch_size, place=(0, world), **options)
        return
    ranks = [
        visits(CellLoader(Rows(), np.arange(num_rows), batch_size, place=(r, world), **options)) for r in range(world)
    ]
    seen = [row for batches in ranks for batch in batches for row in batch]
    assert len(set(seen)) == len(seen) == num_rows // (batch_size * world) * batch_size * world
    assert {len(batch) for batches in ranks for batch in batches} == {batch_size}


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch, batch_size=4):
        loader = CellLoader(Rows(), np.arange(50), batch_size, seed=seed)
        loader.set_epoch(epoch)
        return [row for batch in visits(loader) for row in batch]

    assert order(1, 0) == order(1, 0, batch_size=7)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    unshuffled = CellLoader(Rows(), np.array([9, 3, 5]), 2, seed=0, shuffle=False)
    assert visits(unshuffled) == [[9, 3], [5]]


def test_an_iteration_given_up_halfway_leaves_no_trace():
    loader = CellLoader(Rows(), np.arange(10), 2, seed=0)
    expected = visits(loader)
    next(iter(loader))
    assert visits(loader) == expected


def test_a_new_epoch_starts_at_its_beginning():
    loader = CellLoader(Rows(), np.arange(10), 2, seed=0)
    loader.load_state_dict({"epoch": 0, "next": 5})
    assert visits(loader) == [], "that epoch was finished"
    loader.load_state_dict({"epoch": 0, "next": 5})
    loader.set_epoch(1)
    assert len(visits(loader)) == 5
    assert loader.state_dict() == {"epoch": 1, "next": 5}


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no rows to load"):
        CellLoader(Rows(), np.array([]), 4, seed=0)
    with pytest.raises(ValueError, match="batch_size = 0"):
        CellLoader(Rows(), np.arange(3), 0, seed=0)
    for place in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="0 <= rank < world"):
            CellLoader(Rows(), np.arange(3), 1, seed=0, place=place)


def test_real_cells_are_batches():
    adata = make_cells(20, 15, seed=0)
    cells = open_cells(adata, GeneVocab(adata.var_names))
    loader: Loader = CellLoader(cells, np.arange(20), 6, seed=3)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    assert sorted(np.concatenate([batch.row_n for batch in batches])) == list(range(20))


@settings(max_examples=120, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_minibatches_of_groups_hold_one_group_on_all_ranks(sizes, batch_size, world, shuffle):
    group_n = np.repeat(np.arange(len(sizes)) * 2, sizes)
    rows = np.random.default_rng(0).permutation(len(group_n))
    ranks = []
    for rank in range(world):
        options = {"seed": 1, "shuffle": shuffle, "groups": group_n[rows], "place": (rank, world)}
        loader = CellLoader(Rows(), rows, batch_size, **options)
        ranks.append(visits(loader))
        assert len(ranks[-1]) == len(loader)
    for together in zip(*ranks, strict=True):
        assert len({group_n[row] for batch in together for row in batch}) == 1
        assert all(0 < len(batch) <= batch_size for batch in together)
    seen = [row for batches in ranks for batch in batches for row in batch]
    assert sorted(set(seen)) == sorted(rows.tolist())
    assert len(seen) - len(rows) == loader.num_repeats
    if world == 1:
        for group in set(group_n.tolist()):  # shared evenly: no minibatch of a lone cell where it can be helped
            lengths = [len(batch) for batch in ranks[0] if group_n[batch[0]] == group]
            assert max(lengths) - min(lengths) <= 1


def test_groups_take_turns_in_an_order_of_each_epoch_and_resume():
    group_n = np.arange(60) % 3
    loader = CellLoader(Rows(), np.arange(60), 5, seed=3, groups=group_n)
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append(visits(loader))
    turns = [[int(group_n[batch[0]]) for batch in batches] for batches in epochs]
    assert turns[0] != turns[1]
    assert turns[0] not in ([0] * 4 + [1] * 4 + [2] * 4, sorted(turns[0], reverse=True)), "as published: in their order"
    assert sorted(turns[0]) == sorted(turns[1])
    again = CellLoader(Rows(), np.arange(60), 5, seed=3, groups=group_n)
    again.load_state_dict({"epoch": 1, "next": 7})
    assert visits(again) == epochs[1][7:]
    assert visits(again) == epochs[1]
    with pytest.raises(ValueError, match="one a row"):
        CellLoader(Rows(), np.arange(60), 5, seed=3, groups=group_n[:50])
