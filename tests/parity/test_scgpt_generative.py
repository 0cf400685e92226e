"""The two-stream generative attention of published pre-training (spec: prompt and unknown streams, shared weights)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from parity.cases import Case, assert_close

from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.known_genes import Question
from cellwright.tasks.unmask import unmask_cells

NAMES = ["pretrain_generative_padded", "pretrain_generative_nopad", "pretrain_generative_prenorm"]


def gather(case: Case, out, field: str, is_unknown: bool) -> torch.Tensor:
    """Return our values at prompt or unknown tokens, in the published order (cell by cell, pads left out)."""
    is_prompt_nt = out.layout.is_prompt_nt()
    return getattr(out, field)[~is_prompt_nt if is_unknown else is_prompt_nt]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_packed", [True, False])
def test_both_passes(name, is_packed):
    case = Case("scgpt", name)
    tokens = case.split_tokens()
    model = case.model()
    if not is_packed:
        tokens = tokens.padded(model.vocab.special_id("pad"))
    is_prompt, is_unknown = ~case["in/pcpt_pad_mask"], ~case["in/gen_pad_mask"]
    num_prompt = is_prompt.shape[1]
    with torch.no_grad():
        first = model.network(tokens)
        second = model.network(replace(tokens, cell_nd=first.cell_nd), {"value_nt"})
    if not is_packed:  # compare without pads
        pack = first.layout.pack
        first = replace(first, **{f: pack(getattr(first, f)) for f in ("hidden_ntd", "value_nt", "cell_value_nt")})
        first = replace(first, layout=first.layout.packed())
        second = replace(second, value_nt=pack(second.value_nt), layout=second.layout.packed())
    assert_close(gather(case, first, "value_nt", True), case["out/pass1/gen_preds"][is_unknown])
    assert_close(gather(case, first, "value_nt", False), case["out/pass1/pcpt_preds"][is_prompt])
    assert_close(gather(case, first, "hidden_ntd", True), case["out/pass1/int_gen_output"][is_unknown])
    assert_close(gather(case, first, "hidden_ntd", False), case["out/pass1/int_pcpt_output"][is_prompt])
    assert_close(first.cell_nd, case["out/pass1/cell_emb"])
    theirs = case["out/pass1/mvc_output"]
    assert_close(gather(case, first, "cell_value_nt", True), theirs[:, num_prompt:][is_unknown])
    assert_close(gather(case, first, "cell_value_nt", False), theirs[:, :num_prompt][is_prompt])
    assert_close(gather(case, second, "value_nt", True), case["out/pass2/gen_preds"][is_unknown])
    assert_close(gather(case, second, "value_nt", False), case["out/pass2/pcpt_preds"][is_prompt])
    assert_close(second.cell_nd, case["out/pass2/cell_emb"])


@pytest.mark.parametrize("name", NAMES)
def test_prompt_alone(name):
    case = Case("scgpt", name)
    whole = case.split_tokens()
    at = whole.layout.is_prompt_nt()
    layout = replace(whole.layout, lengths=whole.layout.prompt_lengths, prompt_lengths=None, _cache={})
    tokens = replace(
        whole,
        gene_nt=whole.gene_nt[at][None],
        value_nt=whole.value_nt[at][None],
        is_hidden_nt=whole.is_hidden_nt[at][None],
        layout=layout,
    )
    with torch.no_grad():
        out = case.model().network(tokens)
    is_prompt = ~case["in/pcpt_pad_mask"]
    assert_close(out.value_nt[0], case["out/pcpt_only/pcpt_preds"][is_prompt])
    assert_close(out.cell_nd, case["out/pcpt_only/cell_emb"])
    assert_close(out.cell_value_nt[0], case["out/pcpt_only/mvc_output"][is_prompt])


def test_unknown_genes_do_not_see_each_other():
    case = Case("scgpt", NAMES[0])
    tokens, model = case.split_tokens(), case.model()
    last = torch.tensor(tokens.layout.offsets()[1:]) - 1
    other = tokens.gene_nt.clone()
    other[0, last] = 5
    with torch.no_grad():
        a, b = (model.network(t).value_nt[0] for t in (tokens, replace(tokens, gene_nt=other)))
    untouched = torch.ones(len(a), dtype=torch.bool).index_fill(0, last, False)
    torch.testing.assert_close(a[untouched], b[untouched], rtol=0, atol=0)
    assert (a[last] - b[last]).abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_filling_in_is_the_published_pass(name):
    """Published weights fill in what published code predicts: from known genes, and with a cell prompt beside them."""
    case = Case("scgpt", name)
    model, tokens = case.model(), case.split_tokens()
    gene_ids = np.sort(model.vocab.ids(model.vocab.genes))
    column_v = np.full(len(model.vocab), -1)
    column_v[gene_ids] = np.arange(len(gene_ids))
    cell_t, column_t = tokens.layout.cell_of_token().numpy(), column_v[tokens.gene_nt[0].numpy()]
    is_prompt_t, is_gene_t = tokens.layout.is_prompt_nt()[0].numpy(), column_t >= 0
    shape = (tokens.layout.num_cells, len(gene_ids))
    value_ng, is_known_ng, is_asked_ng = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    known, asked = is_prompt_t & is_gene_t, ~is_prompt_t
    value_ng[cell_t[known], column_t[known]] = tokens.value_nt[0].numpy()[known]
    is_known_ng[cell_t[known], column_t[known]] = True
    is_asked_ng[cell_t[asked], column_t[asked]] = True
    question = Question(
        gene_ids=gene_ids, value_ng=value_ng, is_known_ng=is_known_ng, is_asked_ng=is_asked_ng,
        row_n=np.arange(len(value_ng)),
    )  # fmt: skip
    options = InferenceOptions(progress=False, device="cpu", max_length=10_000)
    is_unknown = ~case["in/gen_pad_mask"]
    prompted = replace(question, cell_nd=case["out/pass1/cell_emb"].numpy())
    for some, number in ((question, 1), (prompted, 2)):
        filled = unmask_cells(model, some, options=options)
        ours = torch.from_numpy(filled.value_ng[cell_t[asked], column_t[asked]])
        assert_close(ours, case[f"out/pass{number}/gen_preds"][is_unknown])
