"""What is hidden and how much of it, as the published collators and the masking function recorded it.

Their random numbers come from streams of their own, so that not the same genes are hidden; how many of each cell, the
digits of what is seen, and what becomes of ``<cls>`` are the same.
"""

import numpy as np
import pytest
import torch
from parity.test_scgpt_tokens import CLS, COLLATOR, PAD, PIPELINE, cells_of, pairs_by_cell, published_uniforms, ragged

from cellwright.objectives.views import GenerativeSplit, RandomMask
from cellwright.tokens import SequenceSpec, bin_ragged, encode_cells
from cellwright.types import Draw, Layout, TokenBatch

COUNTS_NG = COLLATOR["in/counts"]
PARTS = (("pcpt_gene", "pcpt_expr"), ("gen_gene", "gen_expr_target"))


class Tokenize:
    """Pre-training's tokens: ``<cls>`` with -2, then the upper digit of each expressed gene."""

    def __init__(self, max_length):
        self.spec = SequenceSpec(
            prefix=((CLS, -2.0),), max_length=max_length, num_bins=51, pad_gene=PAD, is_packed=False
        )

    def __call__(self, cells, draw):
        return encode_cells(cells, self.spec, draw)


def upper_digits(counts_ng):
    value_z, indptr_n1, _ = ragged(counts_ng)
    digit_ng = np.zeros_like(counts_ng)
    digit_ng[counts_ng != 0] = bin_ragged(value_z, indptr_n1, 51)
    return digit_ng


def assert_digits(pairs, digit_g):
    assert all(digit_g[gene] == value for gene, value in pairs.items() if gene != CLS)


@pytest.mark.parametrize("max_length", [100, 16])
def test_prompts_and_unknown_genes_are_as_many_as_published(max_length):
    name = f"out/both_len{max_length}"
    theirs = [pairs_by_cell(COLLATOR[f"{name}/{a}"], COLLATOR[f"{name}/{b}"]) for a, b in PARTS]
    longest = min(int((COUNTS_NG > 0).sum(1).max()) + 1, max_length)
    num_unknown = COLLATOR[f"{name}/gen_gene"].shape[1]
    (fraction,) = [p for p in (0.25, 0.5, 0.75) if int((longest - 1) * p) == num_unknown]
    tokens, targets = GenerativeSplit(fractions=(fraction,))(cells_of(COUNTS_NG), Tokenize(max_length), Draw(4))
    digit_ng, is_prompt_nt = upper_digits(COUNTS_NG), tokens.layout.is_prompt_nt()
    for cell, (prompt, unknown) in enumerate(zip(*theirs, strict=True)):
        ours = is_prompt_nt[cell] & ~tokens.layout.is_pad_nt()[cell]
        assert int(ours.sum()) == len(prompt)
        assert int(targets.is_scored_nt[cell].sum()) == len(unknown)
        assert prompt[CLS] == tokens.value_nt[cell, 0] == -2
        at, gene_t = targets.is_scored_nt[cell], tokens.gene_nt[cell]
        seen = dict(zip(gene_t[ours].tolist(), tokens.value_nt[cell][ours].tolist(), strict=True))
        asked = dict(zip(gene_t[at].tolist(), targets.value_nt[cell][at].tolist(), strict=True))
        for pairs in (prompt, unknown, seen, asked):
            assert_digits(pairs, digit_ng[cell])
        if max_length == 100:  # nothing is left out: both parts together are the cell
            assert {*prompt, *unknown} - {CLS} == set(np.flatnonzero(COUNTS_NG[cell]))
            assert {*tokens.gene_nt[cell].tolist()} - {CLS, PAD} == set(np.flatnonzero(COUNTS_NG[cell]))


@pytest.mark.parametrize("max_length", [100, 16])
@pytest.mark.parametrize(("style", "gene", "value"), [("gen", "pcpt_gene", "pcpt_expr"), ("pcpt", "gene", "expr")])
def test_whole_cells_of_the_pretraining_collator(max_length, style, gene, value):
    name = f"out/{style}_len{max_length}"
    tokens = Tokenize(max_length)(cells_of(COUNTS_NG), Draw(4))
    theirs = pairs_by_cell(COLLATOR[f"{name}/{gene}"], COLLATOR[f"{name}/{value}"])
    ours, digit_ng = pairs_by_cell(tokens.gene_nt, tokens.value_nt), upper_digits(COUNTS_NG)
    assert [len(pairs) for pairs in ours] == [len(pairs) for pairs in theirs]
    if max_length == 100:
        assert ours == theirs
    for cell, pairs in enumerate(theirs):
        assert_digits(pairs, digit_ng[cell])


def test_masking_hides_the_published_number_of_tokens_with_cls_among_them():
    value_nt, masked_nt = (torch.from_numpy(PIPELINE[key]) for key in ("in/mask_values", "out/mask/0.4"))
    is_pad_nt = value_nt == -2
    layout = Layout(tuple((~is_pad_nt).sum(1).tolist()), value_nt.shape[1])
    tokens = TokenBatch(
        gene_nt=torch.arange(value_nt.shape[1]).repeat(len(value_nt), 1),
        value_nt=value_nt.masked_fill(is_pad_nt, 0.0),
        is_hidden_nt=torch.zeros_like(is_pad_nt),
        layout=layout,
    )
    num_n, hidden = (masked_nt == -1).sum(1), []
    for seed in range(40):
        seen, targets = RandomMask(fraction=0.4)(cells_of(np.ones((7, 3))), lambda *_: tokens, Draw(seed))
        assert torch.equal(seen.is_hidden_nt.sum(1), num_n)
        assert torch.equal(targets.is_scored_nt, seen.is_hidden_nt)
        assert torch.equal(seen.value_nt[~seen.is_hidden_nt], tokens.value_nt[~seen.is_hidden_nt])
        hidden.append(seen.is_hidden_nt[:, 0])
    assert torch.equal(masked_nt[masked_nt != -1], value_nt[masked_nt != -1])
    assert 0.3 < torch.stack(hidden).float().mean() < 0.5  # <cls> as often as any other token


def test_cells_of_the_masking_collator():
    counts_ng = PIPELINE["in/counts"][:7]
    value_z, indptr_n1, _ = ragged(counts_ng)
    digit_ng = np.zeros_like(counts_ng)
    digit_ng[counts_ng != 0] = bin_ragged(
        value_z, indptr_n1, 51, ties="random", uniform_z=published_uniforms(12, indptr_n1)
    )
    spec = SequenceSpec(prefix=((CLS, -2.0),), max_length=100, pad_gene=PAD, is_packed=False)
    tokens = encode_cells(cells_of(digit_ng), spec, Draw())
    theirs = pairs_by_cell(PIPELINE["out/collate_mlm/gene"], PIPELINE["out/collate_mlm/expr"])
    assert pairs_by_cell(tokens.gene_nt, tokens.value_nt) == theirs
