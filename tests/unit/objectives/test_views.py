"""How many tokens views hide, which ones, and in what order they leave the rest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cells import CLS, ToyTokenizer, toy_cells

from cellwright.objectives.views import Clean, GenerativeSplit, RandomMask
from cellwright.types import Draw

LENGTHS = st.lists(st.integers(0, 20), min_size=1, max_size=8)
DRAWS = st.builds(Draw, st.integers(0, 5), st.integers(0, 5), st.integers(0, 1000))


def per_cell(x_nt, layout):
    return x_nt[0].split(list(layout.lengths))


@settings(max_examples=40, deadline=None)
@given(LENGTHS, DRAWS, st.floats(0.05, 1), st.booleans())
def test_random_mask_hides_the_published_number_in_every_cell(lengths, draw, fraction, is_special_hidden):
    view = RandomMask(fraction=fraction, is_special_hidden=is_special_hidden)
    tokens, targets = view(toy_cells(lengths=lengths), ToyTokenizer(), draw)
    for hidden_t, length in zip(per_cell(tokens.is_hidden_nt, tokens.layout), lengths, strict=True):
        assert int(hidden_t.sum()) == int(fraction * (length + is_special_hidden))
        assert is_special_hidden or not hidden_t[0]
    assert torch.equal(targets.is_scored_nt, tokens.is_hidden_nt)


def test_random_mask_draws_one_fraction_for_each_minibatch():
    view, cells = RandomMask(fraction=(0.25, 0.5, 0.75)), toy_cells(lengths=[19, 19, 19])
    seen = set()
    for step in range(30):
        tokens, _ = view(cells, ToyTokenizer(), Draw(step=step))
        counts = {int(part.sum()) for part in per_cell(tokens.is_hidden_nt, tokens.layout)}
        assert len(counts) == 1
        seen |= counts
    assert seen == {5, 10, 15}


def test_random_mask_hides_every_position_equally_often():
    cells, times = toy_cells(lengths=[9] * 50), 60
    hits_t = sum(
        torch.stack(per_cell(tokens.is_hidden_nt, tokens.layout)).sum(0)
        for tokens, _ in (RandomMask(fraction=0.3)(cells, ToyTokenizer(), Draw(step=s)) for s in range(times))
    )
    expected = 0.3 * 50 * times
    assert (hits_t - expected).abs().max() < 5 * np.sqrt(expected * 0.7)
    assert int(hits_t.sum()) == 3 * 50 * times


def test_a_special_tokens_answer_is_its_input_value():
    tokens, targets = RandomMask(fraction=1.0)(toy_cells(4), ToyTokenizer(), Draw())
    assert (targets.value_nt[tokens.gene_nt == CLS] == 0).all()
    assert targets.is_scored_nt.all()


def test_values_that_the_tokeniser_withheld_are_not_scored():
    class Withholding(ToyTokenizer):
        def __call__(self, cells, draw):
            tokens = super().__call__(cells, draw)
            return tokens.hide(tokens.gene_nt < 10)

    for view in (RandomMask(fraction=1.0), GenerativeSplit(fractions=(1.0,))):
        tokens, targets = view(toy_cells(), Withholding(), Draw())
        assert not targets.is_scored_nt[tokens.gene_nt < 10].any()
        assert targets.is_scored_nt.any()


@settings(max_examples=40, deadline=None)
@given(LENGTHS, DRAWS, st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_generative_split_puts_the_prompt_first_and_loses_nothing(lengths, draw, fraction):
    cells = toy_cells(lengths=lengths)
    plain = ToyTokenizer()(cells, draw)
    tokens, targets = GenerativeSplit(fractions=(fraction,))(cells, ToyTokenizer(), draw)
    layout = tokens.layout
    assert layout.lengths == plain.layout.lengths
    parts = zip(
        *(per_cell(x_nt, layout) for x_nt in (tokens.gene_nt, targets.value_nt, tokens.value_nt, targets.is_scored_nt)),
        per_cell(plain.gene_nt, layout),
        per_cell(plain.value_nt, layout),
        layout.prompt_lengths,
        strict=True,
    )
    for gene_t, answer_t, value_t, scored_t, plain_gene_t, plain_value_t, prompt in parts:
        num_genes = len(gene_t) - 1
        assert prompt == num_genes + 1 - int(num_genes * fraction)
        assert gene_t[0] == CLS
        assert not scored_t[:prompt].any()
        assert scored_t[prompt:].all()
        assert torch.equal(value_t, torch.where(scored_t, 0.0, answer_t))
        order_t = torch.argsort(gene_t)  # gene ids are unique within a cell
        plain_order_t = torch.argsort(plain_gene_t)
        assert torch.equal(gene_t[order_t], plain_gene_t[plain_order_t])
        assert torch.equal(answer_t[order_t], plain_value_t[plain_order_t])
        for part_t in (gene_t[1:prompt], gene_t[prompt:]):  # the toy tokeniser's genes are in order
            assert (part_t.diff() > 0).all()


def test_generative_split_moves_every_token_field_together():
    from dataclasses import replace

    class Rich(ToyTokenizer):
        def __call__(self, cells, draw):
            tokens = super().__call__(cells, draw)
            return replace(tokens, flag_nt=tokens.gene_nt * 2, modality_nt=tokens.gene_nt * 3)

    for is_packed in (True, False):
        tokens, _ = GenerativeSplit()(toy_cells(), Rich(is_packed=is_packed), Draw())
        assert torch.equal(tokens.flag_nt, tokens.gene_nt * 2)
        assert torch.equal(tokens.modality_nt, tokens.gene_nt * 3)


def test_codes_are_copied_and_missing_columns_stay_absent():
    cells = toy_cells(4)
    targets = Clean()(cells, ToyTokenizer(), Draw())[1]
    assert targets.label_n.dtype == torch.int64
    assert targets.domain_n.tolist() == cells.obs["tech_batch"].tolist()
    targets.label_n[0] = 9
    assert cells.obs["label"][0] == 0
    assert Clean()(toy_cells(4, obs=False), ToyTokenizer(), Draw())[1].label_n is None


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": 1.5}, {"fraction": ()}, {"fractoin": 0.4}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=r"fract"):
        RandomMask(**options)
