"""Coarse and fine words chosen together: against every pair scored one by one, and never outside the hierarchy."""

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, new_model
from cellwright.tasks.hierarchy import word_hierarchy
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.tell import tell_categories, tell_cells, tell_pairs
from cellwright.types import CellBatch, Draw, Layout, TokenBatch
from cellwright.vocab import GeneVocab

FAMILY = FAMILIES["scmulan"]
GENES = [f"G{i:02}" for i in range(24)]
COARSE, FINE = ("A", "B", "C", "D"), ("A1", "A2", "AB", "B1", "C")
GIVEN = {"A1": "A", "A2": "A", "AB": ["A", "B"], "B1": "B", "C": "C"}
QUIET = InferenceOptions(progress=False, device="cpu", batch_size=16)
ASK = {"word": "annotate", "asked": ("coarse_type", "cell_type"), "options": QUIET}


@pytest.fixture(scope="module")
def model():
    """Random weights whose words are far apart, so that cells differ in what they are told."""
    vocab = GeneVocab.from_genes(GENES, FAMILY.specials, {"coarse_type": COARSE, "cell_type": FINE})
    made = new_model("scmulan", vocab, FAMILY.sizes["tiny"], seed=1)
    with torch.no_grad():
        for part in made.network.blocks.modules():
            if isinstance(part, torch.nn.Linear):
                part.weight.mul_(5)
        made.network.entity_head.weight.mul_(12)
        made.network.level_head.weight.mul_(40)  # words are read with levels other than 0, as decoding would
    made.network.eval()
    return made


@pytest.fixture(scope="module")
def source(model):
    rng = np.random.default_rng(0)
    genes = [np.sort(rng.choice(24, rng.integers(0, 12), replace=False)) for _ in range(50)]
    gene_z = np.concatenate(genes).astype(np.int32)
    return Source(
        CellBatch(
            indptr_n1=np.cumsum([0, *map(len, genes)]),
            gene_z=gene_z,
            value_z=rng.integers(1, 9, len(gene_z)).astype(np.float32),
            row_n=np.arange(50),
            total_n=np.full(50, 60.0),
        ),
        model.vocab,
    )


class Source:
    state = "raw"

    def __init__(self, cells, vocab):
        self.cells, self.vocab = cells, vocab

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(rows)


def hierarchy():
    """D has no fine word."""
    return word_hierarchy(COARSE, FINE, given=GIVEN)


@torch.inference_mode()
def every_pair(model, source, found):
    """Score every pair by reading the whole sentence anew, without memory, one cell at a time."""
    vocab, network = model.vocab, model.network
    coarse, fine = (torch.from_numpy(vocab.ids(words)) for words in (found.coarse, found.fine))
    prob_ncf = np.zeros((len(source), len(coarse), len(fine)))
    prob_nc, state_ncd = np.zeros((len(source), len(coarse))), np.zeros((len(source), len(coarse), network.width))
    for n in range(len(source)):
        tokens = model.tokenizer(task_word="annotate")(source.read(np.array([n])), Draw(0))
        gene_t, value_t = tokens.gene_nt.reshape(-1), tokens.value_nt.reshape(-1)
        before = forward(network, gene_t, value_t)
        prob_nc[n] = (before.hidden_ntd[0, -1] @ network.entity_head.weight.T)[coarse].softmax(-1)
        for c, word in enumerate(coarse):
            level = (before.hidden_ntd[0, -1] @ network.level_head.weight[word]).round().clamp(0, 10)
            after = forward(network, torch.cat([gene_t, word[None]]), torch.cat([value_t, level[None]]))
            state_ncd[n, c] = after.hidden_ntd[0, -1]
            score_f = (after.hidden_ntd[0, -1] @ network.entity_head.weight.T)[fine]
            allowed_f = torch.from_numpy(found.is_child_cf[c])
            if allowed_f.any():
                prob_ncf[n, c] = prob_nc[n, c] * score_f.masked_fill(~allowed_f, -torch.inf).softmax(-1).numpy()
    return prob_nc, prob_ncf, state_ncd


def forward(network, gene_t, value_t):
    layout = Layout((len(gene_t),), len(gene_t))
    hidden_nt = torch.zeros(1, len(gene_t), dtype=torch.bool)
    return network(TokenBatch(gene_nt=gene_t[None], value_nt=value_t[None], is_hidden_nt=hidden_nt, layout=layout))


def test_pairs_are_what_scoring_each_one_gives(model, source):
    found = hierarchy()
    prob_nc, prob_ncf, state_ncd = every_pair(model, source, found)
    told = tell_pairs(model, source, found, coverage=1.0, **ASK)
    at = {pair: k for k, pair in enumerate(found.pairs)}
    for c, coarse in enumerate(COARSE):
        alone_n = told.pairs.prob_nk[:, at[coarse, None]]
        np.testing.assert_allclose(alone_n, prob_nc[:, c] if coarse == "D" else 0, atol=1e-5)
        for f, fine in enumerate(FINE):
            if (coarse, fine) in at:
                np.testing.assert_allclose(told.pairs.prob_nk[:, at[coarse, fine]], prob_ncf[:, c, f], atol=1e-5)
    best_n = [max(at, key=lambda pair, n=n: told.pairs.prob_nk[n, at[pair]]) for n in range(len(source))]
    assert told.words["coarse_type"].tolist() == [coarse for coarse, _ in best_n]
    assert told.words["cell_type"].tolist() == [fine or coarse for coarse, fine in best_n]
    code_n = [COARSE.index(coarse) for coarse, _ in best_n]
    rows = np.arange(len(source))
    np.testing.assert_allclose(told.probs["coarse_type"], prob_nc[rows, code_n], atol=1e-5)
    np.testing.assert_allclose(told.embedding_nd, state_ncd[rows, code_n], atol=1e-4)
    np.testing.assert_allclose(told.pairs.prob_nk.sum(1), 1, atol=1e-5)
    assert len(set(told.words["cell_type"])) >= 3  # the test would be empty were all cells told the same


def test_it_is_better_than_one_word_after_another(model, source):
    """The likeliest coarse word does not always begin the likeliest pair, and words in turn leave the hierarchy."""
    found = hierarchy()
    prob_nc, prob_ncf, _ = every_pair(model, source, found)
    told = tell_pairs(model, source, found, **ASK)
    first_n = np.array(COARSE)[prob_nc.argmax(1)]
    assert (first_n != told.words["coarse_type"]).any()
    in_turn = tell_cells(model, source, options=QUIET)
    pairs = set(zip(in_turn.words["coarse_type"], in_turn.words["cell_type"], strict=True))
    assert not pairs <= set(found.pairs)


@pytest.mark.parametrize("coverage", [0.0, 0.5, 0.99])
def test_stopping_early_changes_no_answer(model, source, coverage):
    found = hierarchy()
    whole, early = (tell_pairs(model, source, found, coverage=c, **ASK) for c in (1.0, coverage))
    for name in ("coarse_type", "cell_type"):
        assert whole.words[name].tolist() == early.words[name].tolist()
        np.testing.assert_allclose(whole.probs[name], early.probs[name], atol=1e-6)
    np.testing.assert_allclose(whole.embedding_nd, early.embedding_nd, atol=1e-5)
    np.testing.assert_allclose(early.pairs.prob_nk.sum(1), 1, atol=1e-5)
    num_fine = len(found.pairs) - len(COARSE)
    untried_n = early.pairs.prob_nk[:, num_fine:-1].sum(1)  # D's probability is its own
    assert (untried_n <= 1 - coverage + 1e-6).all()
    assert (whole.pairs.prob_nk[:, num_fine:-1] == 0).all()
    tried_nk = early.pairs.prob_nk[:, :num_fine]
    assert np.isclose(tried_nk, whole.pairs.prob_nk[:, :num_fine], atol=1e-6)[tried_nk > 0].all()
    if coverage == 0:
        assert (untried_n > 0).any()


def test_no_answer_is_outside_the_hierarchy(model, source):
    found = hierarchy()
    told = tell_pairs(model, source, found, **ASK)
    allowed = {pair for pair in found.pairs if pair[1]} | {("D", "D")}
    assert set(zip(told.words["coarse_type"], told.words["cell_type"], strict=True)) <= allowed


def test_company_changes_nothing(model, source):
    found = hierarchy()
    many = tell_pairs(model, source, found, coverage=0.9, **ASK)
    for size in (1, 7):
        few = tell_pairs(
            model, source, found, coverage=0.9, **ASK | {"options": QUIET.model_copy(update={"batch_size": size})}
        )
        np.testing.assert_allclose(few.pairs.prob_nk, many.pairs.prob_nk, atol=1e-5)
        assert (few.pairs.best_n == many.pairs.best_n).all()


def test_where_words_in_turn_agree_so_does_the_rest(model, source):
    """Every fine word may follow every coarse one: the first word decided, the numbers are those of decoding."""
    found = word_hierarchy(COARSE, FINE, given={word: list(COARSE) for word in FINE})
    together, in_turn = tell_pairs(model, source, found, **ASK), tell_cells(model, source, options=QUIET)
    is_same_n = together.words["coarse_type"] == in_turn.words["coarse_type"]
    assert 5 < is_same_n.sum() < len(source)
    assert (together.words["cell_type"] == in_turn.words["cell_type"])[is_same_n].all()
    np.testing.assert_allclose(together.embedding_nd[is_same_n], in_turn.embedding_nd[is_same_n], atol=1e-5)
    product_n = in_turn.probs["coarse_type"] * in_turn.probs["cell_type"]
    np.testing.assert_allclose(together.probs["cell_type"][is_same_n], product_n[is_same_n], atol=1e-5)
    assert (together.probs["cell_type"] >= product_n - 1e-6).all()


def test_fine_words_alone(model, source):
    found = word_hierarchy((), FINE)
    told = tell_pairs(model, source, found, word="annotate", asked=("cell_type",), options=QUIET)
    np.testing.assert_allclose(told.pairs.prob_nk.sum(1), 1, atol=1e-5)
    assert (told.words["cell_type"] == np.array(FINE)[told.pairs.prob_nk.argmax(1)]).all()
    assert told.probs.keys() == {"cell_type"}


def test_categories_are_told_by_pairs(model, source):
    found = hierarchy()
    told = tell_categories(model, source, hierarchy=found, options=QUIET)
    assert told.hierarchy is found
    assert told.pairs is not None
    assert told.words["cell_type"].tolist() == tell_pairs(model, source, found, **ASK).words["cell_type"].tolist()
    low = tell_categories(model, source, ["cell_type"], hierarchy=found, threshold=0.5, options=QUIET)
    assert low.words.keys() == {"cell_type"}
    assert ((low.words["cell_type"] == "unassigned") == (told.probs["cell_type"] < 0.5)).all()
    faithful = tell_categories(model, source, hierarchy=found, is_faithful=True, options=QUIET)
    assert faithful.pairs is None
