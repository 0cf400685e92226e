"""Ranks of attention scores: against a plain reckoning, whatever the minibatch; what cannot be asked is refused."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from cellwright.data import make_cells, open_cells
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.attention import attention_ranks, column_ranks, fed_genes
from cellwright.tasks.inference import InferenceOptions
from cellwright.types import Draw
from cellwright.vocab import GeneVocab

QUIET = InferenceOptions(progress=False, device="cpu")
GENES = tuple(f"GENE{g:04d}" for g in range(24))
SILENT = "NEVER"


def make_model(family="scgpt", **changes):
    vocab = GeneVocab.from_genes([*GENES, SILENT], FAMILIES[family].specials)
    config = FAMILIES[family].sizes["tiny"].model_copy(update=changes)
    model = new_model(family, vocab, config, seed=1)
    model.network.eval()
    return model


def open_toy(model, num=7):
    return open_cells(make_cells(num, len(GENES), depth=60.0), model.vocab, accepts=model.family.accepts)


def by_hand(model, source, genes, layer):
    """One cell at a time, every rank by scipy: ``[g, g]``, row = the gene that asks."""
    tokenize = model.tokenizer(genes="panel", panel=list(genes))
    wanted = model.vocab.ids(genes)
    total = 0
    for row in range(len(source)):
        tokens = tokenize(source.read(np.array([row])), Draw())
        at = [tokens.gene_nt[0].tolist().index(i) for i in wanted]
        with torch.inference_mode():
            q_thd, k_thd = (x[0, at].double().numpy() for x in model.network.queries_keys(tokens, layer))
        for h in range(q_thd.shape[1]):
            score_gg = (q_thd[:, h] @ k_thd[:, h].T).astype(np.float32)
            total = total + (rankdata(rankdata(score_gg, axis=1), axis=0) - 1) / len(genes) / q_thd.shape[1]
    return total / len(source)


@pytest.mark.parametrize("layer", [-1, 0])
def test_ranks_agree_with_a_plain_reckoning_in_any_minibatches(layer):
    model = make_model()
    source, genes, regulators = open_toy(model), [*GENES[:15], SILENT], [GENES[3], SILENT, GENES[0]]
    expected = by_hand(model, source, genes, layer)[:, [3, 15, 0]].T
    for options in (QUIET, QUIET.model_copy(update={"batch_size": 1}), QUIET.model_copy(update={"max_tokens": 50})):
        found = attention_ranks(model, source, genes, regulators=regulators, layer=layer, options=options)
        np.testing.assert_allclose(found, expected, atol=1e-6 + 2 / 15 / 7)  # a rank or two may turn by rounding
        assert np.abs(found - expected).mean() < 1e-3
        assert found.mean() == pytest.approx((len(genes) - 1) / 2 / len(genes))


def test_every_cell_counts_the_first_as_much_as_the_last():
    model = make_model()
    source = open_toy(model, 6)
    parts = [
        attention_ranks(model, source.select(rows), GENES, regulators=GENES[:4], options=QUIET)
        for rows in (np.arange(2), np.arange(2, 6), np.arange(6))
    ]
    np.testing.assert_allclose((2 * parts[0] + 4 * parts[1]) / 6, parts[2], atol=1e-9)
    assert np.abs(parts[0] - parts[1]).max() > 0.01


def test_a_regulator_that_its_targets_ask_for_most_ranks_them_first():
    generator = np.random.default_rng(0)
    score_gg = generator.normal(size=(40, 40)).astype(np.float32)
    score_gg[10:18, 5] += 4  # rows 10..17 ask for column 5
    score_gg += 3 * generator.normal(size=(40, 1))  # what a gene asks in general says nothing
    (rank_g,) = column_ranks(torch.from_numpy(score_gg), torch.tensor([5]))
    assert set(np.argsort(-rank_g.numpy())[:8]) == set(range(10, 18))


def test_equal_scores_share_their_ranks():
    ranks = column_ranks(torch.zeros(5, 5), torch.arange(5))
    torch.testing.assert_close(ranks, torch.full((5, 5), 2 / 5))


def test_fed_genes_are_variable_expressed_and_include_the_regulators():
    model = make_model()
    source = open_toy(model, 30)
    assert fed_genes(source, [], num_genes=100, min_cells=1) == GENES
    some = fed_genes(source, [SILENT, GENES[0]], num_genes=8, min_cells=1)
    assert {SILENT, GENES[0]} <= set(some)
    assert 9 <= len(some) <= 10
    assert fed_genes(source, [SILENT], num_genes=100, min_cells=31) == (SILENT,)


def test_a_family_with_an_exact_decoder_can_be_asked_and_a_linear_one_says_why_not():
    exact = make_model("scfoundation", decoder_attention="exact")
    source = open_toy(exact)
    found = attention_ranks(exact, source, GENES[:10], regulators=GENES[:2], options=QUIET)
    np.testing.assert_allclose(found, by_hand(exact, source, GENES[:10], -1)[:, :2].T, atol=1e-6 + 2 / 10 / 7)
    with pytest.raises(ValueError, match="linear attention compares no two tokens"):
        attention_ranks(make_model("scfoundation"), source, GENES, regulators=GENES[:1], options=QUIET)


def test_bad_input_is_named():
    model = make_model()
    source = open_toy(model)

    def ask(some=model, genes=GENES, regulators=GENES[:1], run=QUIET, **options):
        return attention_ranks(some, source, genes, regulators=regulators, options=run, **options)

    with pytest.raises(ValueError, match="layer = 2: scGPT has layers 0 to 1 here"):
        ask(layer=2)
    with pytest.raises(ValueError, match="max_length = 9: attention is read between all genes"):
        ask(run=QUIET.model_copy(update={"max_length": 9}))
    with pytest.raises(ValueError, match="bfloat16 would tie them"):
        ask(run=QUIET.model_copy(update={"precision": "bfloat16"}))
    with pytest.raises(ValueError, match="1 genes are not in the model's vocabulary: TP53"):
        ask(genes=[*GENES, "TP53"])
    with pytest.raises(ValueError, match="'NEVER' is not among the 24 genes"):
        ask(regulators=[SILENT])
    with pytest.raises(ValueError, match="named twice"):
        ask(genes=[*GENES, GENES[0]])
    with pytest.raises(ValueError, match="0 cells"):
        attention_ranks(model, source.select([]), GENES, regulators=GENES[:1], options=QUIET)
    sentences = FAMILIES["scmulan"]
    mulan = new_model("scmulan", GeneVocab.from_genes(GENES, sentences.specials), sentences.sizes["tiny"])
    cells = open_cells(make_cells(5, 24), mulan.vocab, accepts=sentences.accepts)
    with pytest.raises(ValueError, match="scMulan is not fed the same genes in every cell"):
        attention_ranks(mulan, cells, GENES, regulators=GENES[:1], options=QUIET)


def test_a_model_whose_answers_depend_on_pads_is_fed_none():
    model = make_model(input_norm="batch")
    assert model.network.needs_padding
    found = attention_ranks(model, open_toy(model), GENES, regulators=GENES[:2], options=QUIET)
    assert found.shape == (2, 24)
    assert ((found >= 0) & (found < 1)).all()
