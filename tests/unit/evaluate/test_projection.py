"""Positions for drawing."""

import numpy as np
import pytest

from cellwright.evaluate import projection_name, umap_embedding


def test_few_cells_get_their_principal_components():
    generator = np.random.default_rng(0)
    x_nd = generator.normal(size=(9, 5))
    xy_n2 = umap_embedding(x_nd, seed=0)
    assert projection_name(9) == "PCA"
    assert xy_n2.dtype == np.float32
    centred = x_nd - x_nd.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    assert np.allclose(np.abs(xy_n2), np.abs(centred @ axes), atol=1e-5)
    assert (umap_embedding(x_nd, seed=1) == xy_n2).all()


@pytest.mark.parametrize(("num_cells", "width"), [(1, 4), (2, 4), (5, 1)])
def test_tiny_inputs_have_two_columns(num_cells, width):
    xy_n2 = umap_embedding(np.arange(num_cells * width).reshape(num_cells, width) ** 1.5, seed=0)
    assert xy_n2.shape == (num_cells, 2)
    assert np.isfinite(xy_n2).all()


@pytest.mark.parametrize(
    ("x_nd", "words"),
    [
        (np.zeros((0, 3)), "cells x width"),
        (np.zeros(4), "cells x width"),
        (np.full((3, 2), np.nan), "not finite"),
    ],
)
def test_mistakes_are_named(x_nd, words):
    with pytest.raises(ValueError, match=words):
        umap_embedding(x_nd, seed=0)


@pytest.mark.slow  # about 15 s of compilation inside umap-learn, the first time in a process
@pytest.mark.parametrize("num_cells", [10, 60])
def test_umap_is_repeatable_and_keeps_groups_apart(num_cells):
    generator = np.random.default_rng(0)
    label_n = np.arange(num_cells) % 2
    x_nd = generator.normal(size=(num_cells, 8)) + 30 * label_n[:, None]
    xy_n2 = umap_embedding(x_nd, seed=0, num_neighbors=4)
    assert (umap_embedding(x_nd, seed=0, num_neighbors=4) == xy_n2).all()
    centre = np.stack([xy_n2[label_n == k].mean(axis=0) for k in (0, 1)])
    nearest = np.linalg.norm(xy_n2[:, None] - centre[None], axis=-1).argmin(axis=1)
    assert (nearest == label_n).mean() > 0.9
    assert np.isfinite(umap_embedding(np.ones((num_cells, 4)), seed=0)).all()
