"""Neighbours for smoothing: exact, in principal components, deterministic."""

import numpy as np
import pytest

from cellwright.tasks.smooth import UNCLASSIFIED, neighbour_distances, smooth_labels


def test_they_are_the_nearest_others():
    rng = np.random.default_rng(0)
    x_nd = rng.normal(size=(60, 6)) * [9, 7, 5, 0.01, 0.01, 0.01]
    found = neighbour_distances(x_nd.astype(np.float32), num_neighbours=5, num_components=3).toarray()
    centred_nd = x_nd - x_nd.mean(0)
    basis = np.linalg.svd(centred_nd, full_matrices=False)[2][:3]
    place_nd = centred_nd @ basis.T
    true_nn = np.linalg.norm(place_nd[:, None] - place_nd[None], axis=2)
    for cell in range(60):
        nearest = np.argsort(true_nn[cell])[1:5]
        assert set(np.flatnonzero(found[cell])) == set(nearest)
        np.testing.assert_allclose(found[cell, nearest], true_nn[cell, nearest], rtol=1e-3)
    again = neighbour_distances(x_nd.astype(np.float32), num_neighbours=5, num_components=3).toarray()
    assert (again == found).all()


def test_smoothing_mends_single_cells_among_their_like():
    rng = np.random.default_rng(1)
    x_nd = np.concatenate([rng.normal(size=(40, 20)), rng.normal(size=(40, 20)) + 12]).astype(np.float32)
    label_n = np.repeat(["a", "b"], 40).astype(object)
    label_n[[3, 50]] = "b", "a"
    found = smooth_labels(label_n, neighbour_distances(x_nd))
    assert found.label_n.tolist() == ["a"] * 40 + ["b"] * 40


def test_few_cells_and_bad_numbers():
    assert neighbour_distances(np.zeros((1, 4), np.float32)).shape == (1, 1)
    assert smooth_labels(["a"], neighbour_distances(np.zeros((1, 4), np.float32))).label_n.tolist() == [UNCLASSIFIED]
    three = neighbour_distances(np.arange(12.0).reshape(3, 4) ** 2)
    assert three.nnz == 6
    with pytest.raises(ValueError, match="not finite"):
        neighbour_distances(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="at least 2 and 1"):
        neighbour_distances(np.zeros((3, 2)), num_neighbours=1)
