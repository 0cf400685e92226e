"""Drawing leaves the process as it was: UMAP's compiled loops set the number of threads for all that comes after."""

import numpy as np
import pytest
import torch

from cellwright.evaluate.projection import umap_embedding


@pytest.mark.slow  # UMAP compiles
def test_drawing_leaves_the_number_of_threads():
    before = torch.get_num_threads()
    x_nd = np.random.default_rng(0).normal(size=(60, 5))
    try:
        torch.set_num_threads(1)
        umap_embedding(x_nd, seed=0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
