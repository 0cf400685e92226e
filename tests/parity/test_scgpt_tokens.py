"""Digits and tokens equal those recorded from the published scGPT code, given its random numbers."""

from pathlib import Path

import numpy as np
import pytest

from cellwright.tokens import SequenceSpec, bin_ragged, encode_cells, library_size, normalise_ragged
from cellwright.tokens.draws import IS_COMPILED
from cellwright.tokens.quantiles import bin_rows, bin_scratch
from cellwright.types import CellBatch, Draw

DATA = Path(__file__).parent / "data" / "scgpt"
PIPELINE = np.load(DATA / "data_pipeline" / "io.npz")
COLLATOR = np.load(DATA / "pretrain_collator" / "io.npz")
CLS, PAD = 61, 60
ALMOST_ONE = 1 - 2.0**-40


def ragged(value_ng):
    """Return (value_z, indptr_n1, gene_z) of a dense matrix, zeros left out."""
    at_cell, gene_z = np.nonzero(value_ng)
    indptr_n1 = np.concatenate([[0], np.cumsum((value_ng != 0).sum(1))])
    return value_ng[at_cell, gene_z], indptr_n1, gene_z.astype(np.int32)


def cells_of(value_ng):
    value_z, indptr_n1, gene_z = ragged(value_ng)
    num = len(value_ng)
    return CellBatch(
        indptr_n1=indptr_n1,
        gene_z=gene_z,
        value_z=value_z.astype(np.float32),
        row_n=np.arange(num),
        total_n=value_ng.sum(1).astype(np.float64),
    )


def published_uniforms(seed, indptr_n1):
    """The published code draws ``rand(len(z))`` row after row from one legacy stream; empty rows draw nothing."""
    stream = np.random.RandomState(seed)
    return np.concatenate([stream.rand(size) for size in np.diff(indptr_n1)])


def pairs_by_cell(gene_nt, value_nt):
    """One dict gene -> value a cell, pads left out."""
    rows = zip(np.asarray(gene_nt), np.asarray(value_nt), strict=True)
    return [{int(g): float(v) for g, v in zip(gene, value, strict=True) if g != PAD} for gene, value in rows]


@pytest.mark.parametrize("num_bins", [51, 7])
@pytest.mark.parametrize("name", ["noties", "counts"])
@pytest.mark.parametrize("flavour", ["np", "torch"])
def test_random_ties_give_the_published_digits(name, num_bins, flavour):
    want_ng = PIPELINE[f"out/binning_{flavour}/{name}/{num_bins}"]
    input_ng = PIPELINE[f"in/{name}"][: len(want_ng)]  # the torch flavour fails on the empty last row
    value_z, indptr_n1, _ = ragged(input_ng)
    digit_z = bin_ragged(value_z, indptr_n1, num_bins, ties="random", uniform_z=published_uniforms(42, indptr_n1))
    np.testing.assert_array_equal(digit_z, want_ng[input_ng != 0])
    assert (want_ng[input_ng == 0] == 0).all()


@pytest.mark.parametrize("num_bins", [51, 7])
@pytest.mark.parametrize("name", ["noties", "counts"])
def test_upper_ties_give_the_published_digits(name, num_bins):
    value_z, indptr_n1, _ = ragged(PIPELINE[f"in/{name}"])
    digit_z = bin_ragged(value_z, indptr_n1, num_bins, ties="upper")
    np.testing.assert_array_equal(digit_z, PIPELINE[f"out/digitize_upper/{name}/{num_bins}"])


def test_stored_zeros_stay_zero_and_take_no_random_number():
    input_ng = PIPELINE["in/counts"]
    num, width = input_ng.shape
    uniform_ng = np.full(input_ng.shape, np.nan)
    uniform_ng[input_ng != 0] = published_uniforms(42, ragged(input_ng)[1])
    indptr_n1 = np.arange(num + 1) * width
    digit_z = bin_ragged(input_ng.ravel(), indptr_n1, 51, ties="random", uniform_z=uniform_ng.ravel())
    np.testing.assert_array_equal(digit_z.reshape(num, width), PIPELINE["out/binning_np/counts/51"])


def test_pretraining_digits_are_the_upper_ones():
    input_ng = COLLATOR["in/counts"]
    value_z, indptr_n1, _ = ragged(input_ng)
    digit_z = bin_ragged(value_z, indptr_n1, 51)
    np.testing.assert_array_equal(digit_z, COLLATOR["out/binning_one_sided"][input_ng != 0])


def test_preprocessor_digits():
    logged_ng = PIPELINE["out/prep/X_log1p"]
    value_z, indptr_n1, _ = ragged(logged_ng)
    digit_z = bin_ragged(value_z, indptr_n1, 51, ties="random", uniform_z=published_uniforms(7, indptr_n1))
    np.testing.assert_array_equal(digit_z, PIPELINE["out/prep/X_binned"][logged_ng != 0])


@pytest.mark.skipif(not IS_COMPILED, reason="reads the kernel's working memory")
def test_preprocessor_edges():
    for logged_g, want in zip(PIPELINE["out/prep/X_log1p"], PIPELINE["out/prep/bin_edges"], strict=True):
        value_z = logged_g[logged_g > 0]
        scratch = bin_scratch(len(value_z), 51, value_z.dtype)
        bounds, digit_z = np.array([0, len(value_z)]), np.empty(len(value_z), np.float32)
        bin_rows(value_z, bounds, np.zeros(1, np.uint64), np.empty(0), False, scratch, digit_z)
        np.testing.assert_array_equal(scratch.edge_k, want[1:])
        assert want[0] == 0


def test_normalisation_agrees_with_the_preprocessor():
    counts_ng = PIPELINE["in/prep_counts"][:, PIPELINE["out/prep/kept_genes"]]
    value_z, indptr_n1, _ = ragged(counts_ng)
    got_z = normalise_ragged(value_z, indptr_n1, library_size(value_z, indptr_n1))
    for name in ("X_log1p", "X_normed"):  # the second is the first: published code logs it in place
        np.testing.assert_allclose(got_z, PIPELINE[f"out/prep/{name}"][counts_ng != 0], rtol=5e-7)


@pytest.mark.parametrize("keep_zero", [False, True])
@pytest.mark.parametrize("max_length", [100, 20])
def test_tokens_of_binned_cells(keep_zero, max_length):
    binned_ng = PIPELINE["in/tok_binned"]
    name = f"out/tok/zero{int(keep_zero)}_len{max_length}"
    want_nt = PIPELINE[f"{name}/genes"]
    spec = SequenceSpec(
        prefix=((CLS, 0.0),),
        max_length=max_length,
        panel=np.arange(60) if keep_zero else None,
        keep_zero=keep_zero,
        pad_gene=PAD,
        is_packed=False,
    )
    tokens = encode_cells(cells_of(binned_ng), spec, Draw(3))
    assert tokens.gene_nt.shape == want_nt.shape
    assert (tokens.gene_nt[:, 0] == CLS).all()
    got, want = (
        pairs_by_cell(tokens.gene_nt, tokens.value_nt),
        pairs_by_cell(want_nt, PIPELINE[f"{name}/values"]),
    )
    if max_length == 100:
        assert got == want
    for cell, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        assert len(ours) == len(theirs)
        ours.pop(CLS)
        assert all(binned_ng[cell, gene] == value for gene, value in ours.items())


def test_collated_cells_equal_the_published_ones_given_its_uniforms():
    counts_ng = PIPELINE["in/counts"][:7]
    value_z, indptr_n1, _ = ragged(counts_ng)
    binned_ng = np.zeros_like(counts_ng)
    binned_ng[counts_ng != 0] = bin_ragged(
        value_z, indptr_n1, 51, ties="random", uniform_z=published_uniforms(11, indptr_n1)
    )
    spec = SequenceSpec(prefix=((CLS, -2.0),), max_length=100, pad_gene=PAD, is_packed=False)
    tokens = encode_cells(cells_of(binned_ng), spec, Draw())
    want = pairs_by_cell(PIPELINE["out/collate_embed_len100/gene"], PIPELINE["out/collate_embed_len100/expr"])
    assert pairs_by_cell(tokens.gene_nt, tokens.value_nt) == want


@pytest.mark.parametrize("max_length", [100, 12])
def test_collated_cells_keep_the_published_bounds(max_length):
    """With our own random numbers: lengths, prefix, and every digit inside the range that the rule allows."""
    counts_ng = PIPELINE["in/counts"][:7]
    value_z, indptr_n1, _ = ragged(counts_ng)
    highest_ng, lowest_ng = np.zeros_like(counts_ng), np.zeros_like(counts_ng)
    highest_ng[counts_ng != 0] = bin_ragged(value_z, indptr_n1, 51)
    lowest_ng[counts_ng != 0] = bin_ragged(
        value_z, indptr_n1, 51, ties="random", uniform_z=np.full(len(value_z), ALMOST_ONE)
    )
    spec = SequenceSpec(
        prefix=((CLS, -2.0),),
        max_length=max_length,
        num_bins=51,
        ties="random",
        pad_gene=PAD,
        is_packed=False,
    )
    tokens = encode_cells(cells_of(counts_ng), spec, Draw(11))
    want_nt = PIPELINE[f"out/collate_embed_len{max_length}/gene"]
    assert tokens.gene_nt.shape == want_nt.shape
    np.testing.assert_array_equal((tokens.gene_nt != PAD).sum(1), (want_nt != PAD).sum(1))
    for cell, pairs in enumerate(pairs_by_cell(tokens.gene_nt, tokens.value_nt)):
        assert pairs.pop(CLS) == -2.0
        for gene, digit in pairs.items():
            assert lowest_ng[cell, gene] <= digit <= highest_ng[cell, gene]
