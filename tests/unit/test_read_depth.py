"""Targets of read depth, what thinning refuses, and what the view of read depth hides and asks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_cells import ToyTokenizer, toy_cells

from cellwright.objectives.depth import ReadDepth
from cellwright.tokens import DepthTarget, thin_counts
from cellwright.types import CellBatch, Draw


@pytest.mark.parametrize(
    ("text", "total", "log10"),
    [
        ("t4", 700, 4),
        ("total=4.5", 0, 4.5),
        ("f1", 1000, 3),
        ("fold = 5", 2000, 4),
        ("a5", 10, 6),
        ("a-0.5", 100, 1.5),
        ("t3.123456789", 1, 3.123456789),
    ],
)
def test_targets_as_published(text, total, log10):
    target = DepthTarget.parse(text)
    found_n = target.log10_n(np.array([total]))
    assert found_n.dtype == np.float32
    assert found_n[0] == pytest.approx(log10, abs=1e-6)
    assert DepthTarget.parse(str(target)) == target


@pytest.mark.parametrize("text", ["", "4", "x4", "t", "f0", "f-1", "t-1", "tnan", "finf", "total4", "fold=", "t 4 5"])
def test_targets_that_mean_nothing_are_refused(text):
    with pytest.raises(ValueError, match="depth"):
        DepthTarget.parse(text)


def test_an_empty_cell_has_no_fold():
    with pytest.raises(ValueError, match=r"cell 1 has 0 molecules.*t4"):
        DepthTarget.parse("f1").log10_n(np.array([5, 0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value_z": np.array([1, 2.5], np.float32)}, "raw counts of molecules, got 2.5"),
        ({"state": "log1p"}, "got log1p values"),
        ({"value_z": np.array([1, -1], np.float32)}, "not negative"),
        ({"value_z": np.array([1, 2e7], np.float32)}, "beyond"),
        ({"total_n": np.array([2.0])}, r"row 7 has the total 2, but its genes have 3"),
    ],
)
def test_thinning_refuses_what_is_no_count(change, words):
    cells = CellBatch(
        indptr_n1=np.array([0, 2]),
        gene_z=np.array([0, 4], np.int32),
        value_z=np.array([1, 2], np.float32),
        row_n=np.array([7]),
        total_n=np.array([3.0]),
    )
    with pytest.raises(ValueError, match=words):
        thin_counts(replace(cells, **change), np.ones(1), Draw())


@pytest.mark.parametrize("share_n", [np.array([1.5] * 6), np.array([np.nan] * 6), np.ones(2)])
def test_thinning_refuses_what_is_no_share(share_n):
    with pytest.raises(ValueError, match=r"within 0 \.\. 1"):
        thin_counts(toy_cells(), share_n, Draw())


def deep_cells(num=400, total=5000.0):
    return replace(toy_cells(num, lengths=[20] * num), total_n=np.full(num, total))


def genes_and_depth(x_nt, num):
    x_nt = x_nt.reshape(num, 22)
    return x_nt[:, :20], x_nt[:, 20:]


def test_half_of_the_deep_cells_are_thinned_by_shares_of_beta():
    cells = deep_cells()
    tokens, targets = ReadDepth()(cells, ToyTokenizer(), Draw(3))
    _, depth_n2 = genes_and_depth(tokens.value_nt, len(cells))
    _, answer_n2 = genes_and_depth(targets.value_nt, len(cells))
    assert torch.allclose(depth_n2[:, 0], torch.log10(torch.tensor(5000.0)))  # T: the cell as it was
    assert torch.equal(answer_n2[:, 0], depth_n2[:, 0])
    share_n = 10 ** (depth_n2[:, 1] - depth_n2[:, 0])
    is_thinned_n = share_n < 1
    assert 0.42 < is_thinned_n.float().mean() < 0.58
    assert share_n[is_thinned_n].mean() == pytest.approx(0.5, abs=0.05)
    assert share_n[is_thinned_n].std() == pytest.approx(0.224, abs=0.03)


def test_answers_are_the_deep_cells_values_and_depth_is_never_hidden():
    cells = deep_cells()
    view = ReadDepth(thinned=1.0, hidden=1.0, replaced=0.0)
    tokens, targets = view(cells, ToyTokenizer(), Draw(3))
    answer_ng, _ = genes_and_depth(targets.value_nt, len(cells))
    assert torch.equal(answer_ng, torch.from_numpy(cells.value_z).view(len(cells), 20))
    _, is_scored_n2 = genes_and_depth(targets.is_scored_nt, len(cells))
    assert not is_scored_n2.any()
    assert torch.equal(tokens.is_hidden_nt, targets.is_scored_nt)
    seen_ng, _ = genes_and_depth(tokens.value_nt, len(cells))
    assert (seen_ng <= answer_ng).all()
    assert (seen_ng < answer_ng)[~genes_and_depth(tokens.is_hidden_nt, len(cells))[0]].float().mean() > 0.3


def test_shallow_cells_are_left_alone():
    cells = deep_cells(total=999.0)
    tokens, _ = ReadDepth(thinned=1.0, hidden=0.0, replaced=0.0)(cells, ToyTokenizer(), Draw())
    seen_ng, depth_n2 = genes_and_depth(tokens.value_nt, len(cells))
    assert torch.equal(seen_ng, torch.from_numpy(cells.value_z).view(len(cells), 20))
    assert torch.equal(depth_n2[:, 0], depth_n2[:, 1])


def test_a_cell_that_would_lose_everything_is_not_thinned():
    cells = CellBatch(
        indptr_n1=np.arange(201),
        gene_z=np.zeros(200, np.int32),
        value_z=np.ones(200, np.float32),
        row_n=np.arange(200),
        total_n=np.ones(200),
    )
    view = ReadDepth(thinned=1.0, least_molecules=0, hidden=0.0, replaced=0.0)
    tokens, _ = view(cells, ToyTokenizer(), Draw())
    assert (genes_and_depth(tokens.value_nt, 200)[0][:, 0] == 1).all()


def test_genes_are_chosen_at_the_published_rates():
    cells = replace(toy_cells(3000, lengths=[10] * 3000), total_n=np.full(3000, 100.0))
    tokens, targets = ReadDepth()(cells, ToyTokenizer(), Draw(1))
    answer_ng, _ = genes_and_depth(targets.value_nt, len(cells))
    seen_ng, _ = genes_and_depth(tokens.value_nt, len(cells))
    is_scored_ng, _ = genes_and_depth(targets.is_scored_nt, len(cells))
    is_hidden_ng, _ = genes_and_depth(tokens.is_hidden_nt, len(cells))
    assert is_scored_ng[answer_ng > 0].float().mean() == pytest.approx(0.3, abs=0.01)
    assert is_scored_ng[answer_ng == 0].float().mean() == pytest.approx(0.03, abs=0.005)
    assert is_hidden_ng[is_scored_ng].float().mean() == pytest.approx(0.8, abs=0.02)
    is_shown_ng = is_scored_ng & ~is_hidden_ng
    # a replaced value is often the same number by chance: silent genes tell how many were replaced
    assert (seen_ng > 0)[is_shown_ng & (answer_ng == 0)].float().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(seen_ng[~is_scored_ng], answer_ng[~is_scored_ng])


def test_thinning_is_the_same_in_every_minibatch():
    cells = deep_cells(40)
    view = ReadDepth(hidden=0.0, replaced=0.0)
    whole, _ = view(cells, ToyTokenizer(), Draw(3, 1, 0))
    part, _ = view(cells.take(np.array([30, 2])), ToyTokenizer(), Draw(3, 1, 9))
    assert torch.equal(part.value_nt.view(2, 22), whole.value_nt.view(40, 22)[[30, 2]])
    later, _ = view(cells, ToyTokenizer(), Draw(3, 2, 0))
    assert not torch.equal(later.value_nt, whole.value_nt)


def test_other_tokenisers_are_refused():
    class Plain:
        vocab = ToyTokenizer.vocab

        def __call__(self, cells, draw):
            raise AssertionError

    class Expressed(ToyTokenizer):
        """Leaves silent genes out."""

        def __call__(self, cells, draw, target_total_n=None):
            return super().__call__(cells, draw)

    with pytest.raises(ValueError, match="Plain knows no read depth"):
        ReadDepth()(toy_cells(), Plain(), Draw())
    with pytest.raises(ValueError, match=r'genes="panel"'):
        ReadDepth(thinned=1.0)(deep_cells(30), Expressed(), Draw())


@pytest.mark.parametrize("options", [{"hidden": 0.8, "replaced": 0.3}, {"expressed_fraction": 0, "silent_fraction": 0}])
def test_shares_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"together|nothing"):
        ReadDepth.read(options, "view")
