"""Gradients do not depend on which thread comes first: no sum over repeated rows is left to atomic additions.

On a CPU, the backward of ``x[at]`` is an ``index_put`` that accumulates; from 32,768 numbers on it adds by several
threads at once, in no fixed order where ``at`` names a row twice. A race seldom shows, so the operation is looked for.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden.record import OWN_SETTINGS, SETTINGS, TINY, cells
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode

from cellwright.layout import Layout, taken_rows
from cellwright.nn.gene_graph import GeneGraphNetwork, GeneGraphShape
from cellwright.recipes import pretrain_model, recipe


class RaceFinder(TorchDispatchMode):
    """Notes shapes of accumulating writes to places that are named more than once."""

    def __init__(self):
        super().__init__()
        self.found, self.num_operations = [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.num_operations += 1
        is_sum = operation.name().startswith(("aten::index_put", "aten::_index_put_impl")) and args[3:4] == (True,)
        if is_sum and args[2].is_floating_point():
            index = torch.broadcast_tensors(*[at for at in args[1] if at is not None])
            places = torch.stack([at.flatten() for at in index])
            if index[0].dtype != torch.bool and places.unique(dim=1).shape[1] < places.shape[1]:
                self.found.append([tuple(x.shape) for x in (args[0], *index)])
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def races(monkeypatch):
    """What every backward pass of the test did."""
    finder, backward = RaceFinder(), torch.autograd.backward

    def watched(*args, **options):
        with finder:
            return backward(*args, **options)

    monkeypatch.setattr(torch.autograd, "backward", watched)
    return finder


def test_the_finder_finds_a_race(races):
    x = torch.randn(3, 4, requires_grad=True)
    x[torch.tensor([0, 1, 1])].sum().backward()
    assert races.found == [[(3, 4), (3,)]]


@pytest.mark.parametrize("name", TINY)
def test_no_recipe_races(name, races, tmp_path):
    changes = [*SETTINGS, *OWN_SETTINGS.get(name, ()), "train.max_steps=2", "train.checkpoint_every=2"]
    pretrain_model(recipe(name).override(changes), [cells()], tmp_path / "run")
    assert races.num_operations > 100
    assert not races.found


def test_the_graph_of_perturbations_does_not_race(races):
    eye = sparse.csr_array(np.eye(6, dtype=np.float32))
    network = GeneGraphNetwork(GeneGraphShape(num_genes=6, num_nodes=6, width=4), eye, eye, None, np.zeros(6))
    network(torch.rand(3, 6), torch.tensor([[1, 2], [1, -1], [2, 1]])).sum().backward()
    assert races.num_operations > 20
    assert not races.found


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3)])
def test_rows_that_are_taken_are_those_of_an_index(shape):
    at, x = torch.tensor([[0, 4, 4], [2, 0, 0]]), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, *shape[1:], dtype=torch.float64)
    found, wanted = taken_rows(x, at), x[at]
    assert torch.equal(found, wanted)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_spread_gives_one_gradient_by_any_number_of_threads():
    """The same rows in a disturbed order of threads: 3,900 tokens of 32 cells, 64 numbers each."""
    layout = Layout(tuple(np.random.default_rng(0).permutation(32) * 8 + 2))
    x, weight = torch.randn(32, 64, requires_grad=True), torch.randn(1, sum(layout.lengths), 64)
    threads, found = torch.get_num_threads(), []
    try:
        for num in (1, 2, 2, 4, 4):
            torch.set_num_threads(num)
            found.append(torch.autograd.grad((layout.spread(x) * weight).sum(), x)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found)
