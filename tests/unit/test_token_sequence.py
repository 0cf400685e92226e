"""Sequences of tokens: prefix, limit, panel, layout, and independence of the minibatch."""

import numpy as np
import pytest
import torch

from cellwright.tokens import SequenceSpec, bin_ragged, encode_cells, sequence
from cellwright.types import CellBatch, Draw

CLS, PAD = 900, 901


def make_cells(sizes, seed=0, num_genes=800, row_n=None):
    rng = np.random.default_rng(seed)
    gene_z = [np.sort(rng.choice(num_genes, size, replace=False)) for size in sizes]
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(sizes)]),
        gene_z=np.concatenate(gene_z).astype(np.int32),
        value_z=(rng.negative_binomial(0.5, 0.1, sum(sizes)) + 1).astype(np.float32),
        row_n=np.arange(len(sizes)) if row_n is None else np.asarray(row_n),
        total_n=np.ones(len(sizes)),
    )


def take(cells, chosen):
    """Another minibatch of the same cells."""
    parts = [slice(cells.indptr_n1[i], cells.indptr_n1[i + 1]) for i in chosen]
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum([part.stop - part.start for part in parts])]),
        gene_z=np.concatenate([cells.gene_z[part] for part in parts]),
        value_z=np.concatenate([cells.value_z[part] for part in parts]),
        row_n=cells.row_n[list(chosen)],
        total_n=cells.total_n[list(chosen)],
    )


def per_cell(tokens):
    """(gene, value) arrays of each cell."""
    packed = tokens.packed()
    lengths = list(packed.layout.lengths)
    genes, values = packed.gene_nt[0].split(lengths), packed.value_nt[0].split(lengths)
    return [(g.numpy(), v.numpy()) for g, v in zip(genes, values, strict=True)]


def spec_of(**options):
    return SequenceSpec(**{"max_length": 60, "prefix": ((CLS, -2.0),), "num_bins": 51, "pad_gene": PAD} | options)


def assert_same(one, other):
    for a, b in zip(per_cell(one), per_cell(other), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("ties", ["upper", "random"])
def test_tokens_are_prefix_then_a_subset_of_the_binned_genes_in_vocabulary_order(ties):
    cells = make_cells([59, 60, 200, 3, 0])
    tokens = encode_cells(cells, spec_of(ties=ties), Draw(1))
    assert tokens.layout.lengths == (60, 60, 60, 4, 1)
    assert tokens.layout.is_packed
    assert (tokens.gene_nt.dtype, tokens.value_nt.dtype) == (torch.int64, torch.float32)
    digit_z = bin_ragged(cells.value_z, cells.indptr_n1, 51, ties=ties, draw=Draw(1), row_n=cells.row_n)
    for cell, (gene, value) in enumerate(per_cell(tokens)):
        own = slice(cells.indptr_n1[cell], cells.indptr_n1[cell + 1])
        full = dict(zip(cells.gene_z[own].tolist(), digit_z[own].tolist(), strict=True))
        assert (gene[0], value[0]) == (CLS, -2.0)
        assert (np.diff(gene[1:]) > 0).all()
        assert all(full[g] == v for g, v in zip(gene[1:].tolist(), value[1:].tolist(), strict=True))


def test_values_pass_unbinned():
    cells = make_cells([5])
    ((gene, value),) = per_cell(encode_cells(cells, spec_of(num_bins=None, prefix=()), Draw()))
    np.testing.assert_array_equal(gene, cells.gene_z)
    np.testing.assert_array_equal(value, cells.value_z)


@pytest.mark.parametrize("keep_zero", [False, True])
@pytest.mark.parametrize("max_length", [20, 110, 300])
def test_padded_is_the_packed_form_padded(keep_zero, max_length):
    cells = make_cells([59, 200, 3, 0, 119])
    options = {
        "max_length": max_length,
        "ties": "random",
        "panel": np.arange(0, 800, 4),
        "keep_zero": keep_zero,
    }
    packed = encode_cells(cells, spec_of(**options), Draw(2))
    padded = encode_cells(cells, spec_of(**options, is_packed=False), Draw(2))
    assert padded.layout.width == max(packed.layout.lengths)
    assert torch.equal(padded.packed().gene_nt, packed.gene_nt)
    assert torch.equal(padded.packed().value_nt, packed.value_nt)
    assert torch.equal(packed.padded(PAD).gene_nt, padded.gene_nt)
    assert torch.equal(packed.padded(PAD).value_nt, padded.value_nt)


def test_a_cell_keeps_its_tokens_in_any_minibatch():
    cells = make_cells([100, 59, 300, 7, 61], row_n=[12, 3, 44, 5, 90])
    spec = spec_of(ties="random")
    whole = per_cell(encode_cells(cells, spec, Draw(3, 1, step=5)))
    for chosen in ([2], [4, 0], [3, 2, 1]):
        part = per_cell(encode_cells(take(cells, chosen), spec, Draw(3, 1, step=8)))
        for i, (gene, value) in zip(chosen, part, strict=True):
            np.testing.assert_array_equal(gene, whole[i][0])
            np.testing.assert_array_equal(value, whole[i][1])


def test_epochs_and_seeds_draw_afresh():
    cells, spec = make_cells([300]), spec_of()
    genes = [per_cell(encode_cells(cells, spec, draw))[0][0] for draw in (Draw(1), Draw(2), Draw(1, 1))]
    assert not any((genes[0] == other).all() for other in genes[1:])


@pytest.mark.parametrize(("size", "room"), [(12, 9), (12, 3), (7, 1)])
def test_subsets_are_uniform(size, room):
    """Dropping few and keeping few: each gene, and each pair of genes, is kept equally often."""
    num = 6000
    one = make_cells([size], seed=4)
    cells = CellBatch(
        indptr_n1=np.arange(num + 1) * size,
        gene_z=np.tile(one.gene_z, num),
        value_z=np.tile(one.value_z, num),
        row_n=np.arange(num),
        total_n=np.ones(num),
    )
    tokens = encode_cells(cells, spec_of(prefix=(), max_length=room), Draw(5))
    column = np.searchsorted(one.gene_z, tokens.gene_nt.numpy().reshape(num, room))
    is_kept = np.zeros((num, size), bool)
    np.put_along_axis(is_kept, column, True, axis=1)
    assert (is_kept.sum(1) == room).all()
    share = room / size
    spread = np.sqrt(num * share * (1 - share))
    assert (abs(is_kept.sum(0) - num * share) < 4.5 * spread).all()
    together = (is_kept.T.astype(int) @ is_kept)[np.triu_indices(size, 1)]
    pair = share * (room - 1) / (size - 1)
    assert (abs(together - num * pair) <= 4.5 * np.sqrt(num * pair * (1 - pair))).all()


def test_a_panel_restricts_before_binning():
    cells, panel = make_cells([100, 40]), np.arange(700, 0, -3)
    tokens = encode_cells(cells, spec_of(panel=panel, max_length=500), Draw())
    for cell, (gene, value) in enumerate(per_cell(tokens)):
        own = slice(cells.indptr_n1[cell], cells.indptr_n1[cell + 1])
        is_in = np.isin(cells.gene_z[own], panel)
        np.testing.assert_array_equal(gene[1:], cells.gene_z[own][is_in])
        kept = cells.value_z[own][is_in]
        np.testing.assert_array_equal(value[1:], bin_ragged(kept, [0, len(kept)], 51))


def test_keep_zero_lists_the_whole_panel_and_bins_no_zero():
    cells, panel = make_cells([100, 0]), np.arange(0, 800, 5)
    without = per_cell(encode_cells(cells, spec_of(panel=panel, max_length=500), Draw()))
    tokens = per_cell(encode_cells(cells, spec_of(panel=panel, max_length=500, keep_zero=True), Draw()))
    for (gene, value), (gene_seen, value_seen) in zip(tokens, without, strict=True):
        np.testing.assert_array_equal(gene[1:], panel)
        np.testing.assert_array_equal(gene[value != 0], gene_seen)
        np.testing.assert_array_equal(value[value != 0], value_seen)


def test_stored_zeros_and_unsorted_genes_change_nothing():
    cells = make_cells([80, 30])
    want = encode_cells(cells, spec_of(ties="random"), Draw(7))
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(80), 80 + rng.permutation(30)])
    shuffled = CellBatch(
        indptr_n1=cells.indptr_n1,
        gene_z=cells.gene_z[order],
        value_z=cells.value_z[order],
        row_n=cells.row_n,
        total_n=cells.total_n,
    )
    before = shuffled.gene_z.copy()
    assert_same(encode_cells(shuffled, spec_of(ties="random"), Draw(7)), want)
    np.testing.assert_array_equal(shuffled.gene_z, before)
    with_zeros = CellBatch(
        indptr_n1=cells.indptr_n1 + np.arange(3),
        gene_z=np.insert(cells.gene_z, [80, 110], [850, 850]),
        value_z=np.insert(cells.value_z, [80, 110], [0, 0]),
        row_n=cells.row_n,
        total_n=cells.total_n,
    )
    assert_same(encode_cells(with_zeros, spec_of(ties="random"), Draw(7)), want)


@pytest.mark.parametrize("keep_zero", [False, True])
@pytest.mark.parametrize("max_length", [15, 110, 300])
@pytest.mark.parametrize("num_bins", [None, 51])
def test_without_numba_the_tokens_are_the_same(monkeypatch, keep_zero, max_length, num_bins):
    cells = make_cells([59, 200, 3, 0, 119])
    spec = spec_of(
        max_length=max_length,
        num_bins=num_bins,
        ties="random",
        panel=np.arange(2, 800, 4),
        keep_zero=keep_zero,
    )
    want = encode_cells(cells, spec, Draw(2))
    monkeypatch.setattr(sequence, "IS_COMPILED", False)
    assert_same(encode_cells(cells, spec, Draw(2)), want)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 1}, "no room"),
        ({"keep_zero": True}, "needs a panel"),
        ({"is_packed": False, "pad_gene": None}, "pad_gene"),
        ({"ties": "both"}, "'both'"),
        ({"num_bins": 1}, "num_bins = 1"),
        ({"panel": np.array([3, 3])}, "each once"),
        ({"panel": np.array([], int)}, "at least one"),
        ({"panel": np.array([-1, 2])}, "negative"),
    ],
)
def test_specs_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        spec_of(**options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value_z": np.array([1.0, -1.0], np.float32)}, "finite and not negative"),
        ({"gene_z": np.array([4, 4], np.int32)}, "twice"),
        ({"gene_z": np.array([-1, 4], np.int32)}, "negative"),
        ({"gene_z": np.array([1], np.int32)}, "1 genes, 2 values"),
        ({"row_n": np.array([1, 2])}, "2 rows, 1 cells"),
        ({"row_n": np.array([], int)}, "no cells"),
    ],
)
def test_minibatches_that_do_not_fit_are_refused(changes, words):
    good = {
        "indptr_n1": np.array([0, 2]),
        "gene_z": np.array([1, 4], np.int32),
        "value_z": np.ones(2, np.float32),
        "row_n": np.array([0]),
        "total_n": np.ones(1),
    }
    with pytest.raises(ValueError, match=words):
        encode_cells(CellBatch(**good | changes), spec_of(), Draw())


def test_a_cell_without_tokens_is_named():
    cells = make_cells([4, 0], row_n=[10, 77])
    with pytest.raises(ValueError, match="row 77"):
        encode_cells(cells, spec_of(prefix=()), Draw())


def test_the_spec_leaves_the_caller_its_panel():
    panel = np.array([9, 2, 5])
    assert spec_of(panel=panel).panel.tolist() == [2, 5, 9]
    assert panel.tolist() == [9, 2, 5]
    assert panel.flags.writeable
