"""Neighbours, votes and outside scores of cells mapped onto a reference; the index on disk."""

import json

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from cellwright.tasks import mapping as mapping_module
from cellwright.tasks import neighbors as neighbors_module
from cellwright.tasks.mapping import IndexConfig, Labels, build_index, count_votes, load_index, map_cells
from cellwright.tasks.neighbors import Neighbors, leave_one_out, unit_length


def cells(num, width=8, seed=0, shift=0.0):
    """Three groups of cells around three corners."""
    generator = np.random.default_rng(seed)
    code_n = generator.integers(0, 3, num)
    return (4 * np.eye(width)[code_n] + shift + generator.normal(0, 1, (num, width))).astype(np.float32), code_n


def make_index(num=120, **options):
    x_md, code_m = cells(num)
    return build_index(x_md, {"type": Labels(code_m=code_m, names=("a", "b", "c"))}, config=IndexConfig(**options))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_exact_search_equals_an_independent_one_in_any_blocks(monkeypatch, metric):
    (x_md, _), (q_nd, _) = cells(200), cells(50, seed=1)
    x_md = unit_length(x_md) if metric == "cosine" else x_md
    expected = NearestNeighbors(n_neighbors=7, metric=metric).fit(x_md).kneighbors(q_nd)
    for block in (4096, 33):
        monkeypatch.setattr(neighbors_module, "BLOCK_CELLS", block)
        index_nk, distance_nk = Neighbors(x_md, metric=metric).search(q_nd, 7)
        np.testing.assert_array_equal(index_nk, expected[1])
        np.testing.assert_allclose(distance_nk, expected[0], atol=1e-5)


def test_approximate_search_finds_most_of_the_exact_neighbours():
    pytest.importorskip("faiss")
    (x_md, _), (q_nd, _) = cells(3000, width=16), cells(100, width=16, seed=1)
    exact_nk, _ = Neighbors(x_md, metric="euclidean").search(q_nd, 10)
    found_nk, _ = Neighbors(x_md, metric="euclidean", method="approximate").search(q_nd, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact_nk, found_nk, strict=True)]) > 0.8


def test_a_cell_is_never_its_own_neighbour_even_among_twins():
    x_md = np.repeat(np.float32([[1, 0], [0, 1]]), 4, axis=0)
    index_mk, distance_mk = leave_one_out(Neighbors(x_md), 3)
    assert not (index_mk == np.arange(8)[:, None]).any()
    np.testing.assert_allclose(distance_mk, 0, atol=1e-6)
    assert {*index_mk[0]} == {1, 2, 3}
    with pytest.raises(ValueError, match="has no 8 others"):
        leave_one_out(Neighbors(x_md), 8)


def test_votes_are_shares_and_ties_go_to_the_nearest():
    labels = Labels(code_m=np.array([0, 1, 1, 0, 2, -1]), names=("a", "b", "c"))
    votes = count_votes(labels, np.array([[1, 0, 3, 2], [4, 5, 5, 5], [5, 5, 5, 5], [3, 2, 1, 0]]))
    np.testing.assert_allclose(votes.share_nk, [[0.5, 0.5, 0], [0, 0, 1], [0, 0, 0], [0.5, 0.5, 0]])
    assert votes.label_n().tolist() == ["b", "c", "unassigned", "a"]
    assert votes.label_n(0.6).tolist() == ["unassigned", "c", "unassigned", "unassigned"]
    with pytest.raises(ValueError, match="threshold is 2"):
        votes.label_n(2)


def test_cells_of_the_reference_kind_get_their_label_and_strangers_stand_out():
    index = make_index()
    q_nd, code_n = cells(300, seed=5)
    mapped = map_cells(index, q_nd)
    assert np.mean(mapped.votes["type"].code_n == code_n) > 0.97
    assert 0.3 < mapped.outside_n.mean() < 0.7  # spread evenly
    assert map_cells(index, -q_nd).outside_n.mean() > 0.95


def test_an_index_is_the_same_after_reopening(tmp_path):
    index = make_index(num_neighbors=5, metric="euclidean")
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    q_nd, _ = cells(20, seed=3)
    before, after = map_cells(index, q_nd), map_cells(again, q_nd)
    np.testing.assert_array_equal(before.neighbor_nk, after.neighbor_nk)
    np.testing.assert_array_equal(before.outside_n, after.outside_n)
    assert again.config == index.config
    assert again.labels["type"].names == ("a", "b", "c")


def test_an_approximate_index_keeps_its_lists(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    index = make_index(num=400, method="approximate", num_neighbors=5)
    index.save(tmp_path / "index")
    assert (tmp_path / "index" / "lists.faiss").is_file()
    monkeypatch.setattr(neighbors_module, "_build_lists", None)  # nothing is made anew
    again = load_index(tmp_path / "index")
    q_nd, _ = cells(20, seed=3)
    np.testing.assert_array_equal(map_cells(index, q_nd).neighbor_nk, map_cells(again, q_nd).neighbor_nk)
    path = tmp_path / "index" / "lists.faiss"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="lists.faiss is damaged or missing"):
        load_index(tmp_path / "index")
    with pytest.raises(ValueError, match="not a file of inverted lists"):
        Neighbors(q_nd, method="approximate", lists=tmp_path / "index" / "index.json")
    index.neighbors.save_lists(tmp_path / "others")
    with pytest.raises(ValueError, match="holds 400 cells x 8, the reference 20 x 8"):
        Neighbors(q_nd, method="approximate", lists=tmp_path / "others")


def test_the_method_follows_the_size_and_is_recorded(monkeypatch):
    assert make_index().config.method == "exact"
    pytest.importorskip("faiss")
    monkeypatch.setattr(mapping_module, "EXACT_CELLS", 100)
    assert make_index(num=101).config.method == "approximate"
    assert make_index(num=100).config.method == "exact"


def test_the_spread_of_a_large_reference_is_that_of_some_of_its_cells(monkeypatch):
    whole = make_index(num=900)
    monkeypatch.setattr(mapping_module, "SPREAD_CELLS", 300)
    some = make_index(num=900)
    assert (len(whole.spread_m), len(some.spread_m)) == (900, 300)
    q_nd, _ = cells(200, seed=5)
    assert np.abs(map_cells(whole, q_nd).outside_n - map_cells(some, q_nd).outside_n).max() < 0.08


def test_a_damaged_index_is_refused(tmp_path):
    make_index().save(tmp_path / "index")
    with pytest.raises(FileNotFoundError, match="is no reference index"):
        load_index(tmp_path)
    path = tmp_path / "index" / "embedding.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="embedding.npy is damaged or missing"):
        load_index(tmp_path / "index")
    record = tmp_path / "index" / "index.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match="newer than this cellwright"):
        load_index(tmp_path / "index")


def test_bad_input_is_named():
    x_md, code_m = cells(30)
    labels = Labels(code_m=code_m, names=("a", "b", "c"))
    with pytest.raises(ValueError, match="not finite"):
        build_index(np.where(x_md > 3, np.nan, x_md), {})
    with pytest.raises(ValueError, match="'type' has 30 labels for 29"):
        build_index(x_md[:29], {"type": labels})
    with pytest.raises(ValueError, match="no reference cell has a 'type'"):
        build_index(x_md, {"type": Labels(code_m=np.full(30, -1), names=())})
    with pytest.raises(ValueError, match="has no 10 others"):
        build_index(x_md[:10], {})
    index = make_index()
    with pytest.raises(ValueError, match="has 8 columns"):
        map_cells(index, np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="query embedding has numbers that are not finite"):
        map_cells(index, np.full((2, 8), np.inf, np.float32))
