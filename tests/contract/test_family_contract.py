"""What every family promises; a new entry of FAMILIES is covered at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, load, new_model
from cellwright.objectives import TERMS
from cellwright.tasks.generate import CellPrompt, GenerateConfig, generate_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.known_genes import ask, draw_known, fed_ids
from cellwright.tasks.tell import tell_categories
from cellwright.tasks.unmask import UnmaskConfig, check_unmasks, unmask_cells
from cellwright.types import CellBatch, CellEnd, Draw, Layout, Targets, WordScores
from cellwright.vocab import GeneVocab

NUM_GENES = 60


def make_cells(seed: int = 0, num_cells: int = 5) -> CellBatch:
    rng = np.random.default_rng(seed)
    length_n = rng.integers(5, 30, num_cells)
    genes = [np.sort(rng.choice(NUM_GENES, length, replace=False)) for length in length_n]
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(length_n)]),
        gene_z=np.concatenate(genes).astype(np.int32),
        value_z=rng.integers(1, 40, length_n.sum()).astype(np.float32),
        row_n=np.arange(num_cells),
        total_n=np.full(num_cells, 100.0),
    )


@pytest.fixture(params=FAMILIES)
def model(request):
    family = FAMILIES[request.param]
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(NUM_GENES)], family.specials)
    return new_model(request.param, vocab, family.sizes["tiny"], seed=1)


def run(model, tokens, outputs=None):
    with torch.inference_mode():
        return model.network.eval()(tokens, outputs)


def answer(out, field):
    """Return a predicted field as one tensor laid out like the tokens."""
    found = getattr(out, field)
    if not isinstance(found, WordScores):
        return found
    with torch.inference_mode(found.hidden_ntd.is_inference()):
        return found.dense()


class Source:
    """The made-up cells, to be read by position."""

    state = "raw"

    def __init__(self, vocab):
        self.cells, self.vocab = make_cells(), vocab

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(rows)


def is_causal(model):
    return model.family.decoding == "autoregressive"


def test_hidden_values_do_not_leak(model):
    cells = make_cells()
    other = replace(cells, value_z=cells.value_z.copy())
    tokens = model.tokenizer()(cells, Draw())
    at_nt = torch.zeros_like(tokens.is_hidden_nt)
    at_nt[0, 3::4] = True
    changed = replace(tokens, value_nt=torch.where(at_nt, tokens.value_nt + 7, tokens.value_nt))
    a, b = run(model, tokens.hide(at_nt)), run(model, changed.hide(at_nt))
    torch.testing.assert_close(a.cell_nd, b.cell_nd, rtol=0, atol=0)
    assert (other.value_z == cells.value_z).all()


def test_packed_equals_padded_and_pads_are_inert(model):
    tokens = model.tokenizer()(make_cells(), Draw()).packed()
    padded = tokens.padded(model.vocab.special_id("pad"))
    filled = replace(padded, gene_nt=torch.where(padded.layout.is_pad_nt(), 3, padded.gene_nt))
    want = run(model, tokens)
    for other in (padded, filled):
        got = run(model, other)
        torch.testing.assert_close(got.cell_nd, want.cell_nd, atol=1e-5, rtol=1e-4)
        for field in model.network.produces:
            ours, theirs = other.layout.pack(answer(got, field)), answer(want, field)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_cell_embedding_needs_no_more_than_it_is_pooled_from(model):
    tokens = model.tokenizer()(make_cells(), Draw()).packed()
    only = model.network.eval().pooled_from
    if only is None:  # a pooling over all tokens must not be cut short
        with pytest.raises(ValueError, match="made from all tokens"):
            model.network(tokens, (), only=CellEnd("first", 1))
        return
    for some in (tokens, tokens.padded(model.vocab.special_id("pad"))):
        with torch.inference_mode():
            want, got = (model.network(some, (), only=part) for part in (None, only))
        torch.testing.assert_close(got.cell_nd, want.cell_nd, atol=1e-5, rtol=1e-4)
        assert got.layout.lengths == (1,) * 5
        torch.testing.assert_close(got.hidden_ntd[0], got.cell_nd, rtol=0, atol=0)
    other = model.config.override(["pooling=mean"])
    assert model.family.build(other, model.vocab).pooled_from is None


def test_a_batch_of_one_equals_a_row_of_many(model):
    cells, tokenize = make_cells(), model.tokenizer()
    together = run(model, tokenize(cells, Draw())).cell_nd
    alone = torch.cat([run(model, tokenize(cells.take(np.array([i])), Draw())).cell_nd for i in range(len(cells))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


def test_produces_is_honest(model):
    tokens = model.tokenizer()(make_cells(), Draw())
    out = run(model, tokens)
    optional = {"value_nt", "expressed_nt", "cell_value_nt", "cell_expressed_nt", "entity", "level", "context_ntd"}
    assert {f for f in optional if getattr(out, f) is not None} == set(model.network.produces)
    for field in model.network.produces:
        only = run(model, tokens, {field})
        torch.testing.assert_close(answer(only, field), answer(out, field), rtol=0, atol=0)
        assert all(getattr(only, other) is None for other in model.network.produces - {field})
    assert out.cell_nd.shape == (5, model.network.width)


def test_save_and_load(model, tmp_path):
    tokens = model.tokenizer()(make_cells(), Draw())
    want = run(model, tokens)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.sha256() == model.sha256()
    assert again.vocab == model.vocab
    assert again.inputs == model.inputs
    torch.testing.assert_close(
        run(again, again.tokenizer()(make_cells(), Draw())).cell_nd, want.cell_nd, rtol=0, atol=0
    )


def test_published_format_round_trip(model, tmp_path):
    model.release(tmp_path / "published")
    again = load(tmp_path / "published")
    assert again.report.kind == "released"
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_fresh_weights_differ_by_seed_only(model):
    a, b, c = model.fresh(3), model.fresh(3), model.fresh(4)
    assert a.sha256() == b.sha256() != c.sha256()
    assert a.config == model.config


def test_frozen_parts_get_no_gradient_and_the_rest_do(model):
    tokens = model.tokenizer()(make_cells(), Draw())
    network = model.network.train()
    network.gene_encoder.requires_grad_(False)
    out = network(tokens)
    sum(answer(out, f).float().mean() for f in network.produces).backward()
    assert all(p.grad is None for p in network.gene_encoder.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.blocks.parameters())


def hidden_value_loss(model, tokens):
    """Return the error at hidden values, as the best of the model's value heads predicts them."""
    at_nt = torch.rand(tokens.value_nt.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    seen, value_nt = tokens.hide(at_nt), tokens.value_nt
    field = sorted(model.network.produces & {"value_nt", "cell_value_nt"})[-1]
    return lambda: (getattr(model.network(seen, {field}), field)[at_nt] - value_nt[at_nt]).square().mean()


def sentence_loss(model, tokens):
    """Return the loss of telling what follows each token of a sentence."""
    targets = Targets(
        entity_nt=tokens.gene_nt,
        level_nt=tokens.value_nt,
        is_asked_nt=torch.ones_like(tokens.is_hidden_nt),
        end_n=torch.full((tokens.layout.num_cells,), model.vocab.special_id("end")),
    )
    terms = [TERMS["next_entity"](), TERMS["next_level"]()]

    def loss():
        out = model.network(tokens)
        return sum(term(out, targets) for term in terms)

    return loss


def test_one_batch_can_be_memorised(model):
    tokens = model.tokenizer()(make_cells(), Draw())
    loss_of = sentence_loss(model, tokens) if is_causal(model) else hidden_value_loss(model, tokens)
    optimiser = torch.optim.Adam(model.network.train().parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0], losses[::30]


def test_the_order_of_genes_means_nothing_but_what_causality_makes_of_it(model):
    """Bidirectional: genes may come in any order. Causal: no token reaches an earlier one, and all reach the last."""
    tokens = model.tokenizer()(make_cells(num_cells=1), Draw())
    num = tokens.layout.lengths[0]
    if is_causal(model):
        gene_nt, value_nt = tokens.gene_nt.clone(), tokens.value_nt.clone()
        gene_nt[0, 3], value_nt[0, 3] = gene_nt[0, 3] ^ 1, 1.0
        changed = replace(tokens, gene_nt=gene_nt, value_nt=value_nt)
        before, after = (run(model, t).hidden_ntd[0] for t in (tokens, changed))
        torch.testing.assert_close(before[:3], after[:3], rtol=0, atol=0)
        assert ((before[3:] - after[3:]).abs().amax(1) > 1e-6).all()
        return
    order_t = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(num - 1)])
    moved = replace(tokens, gene_nt=tokens.gene_nt[:, order_t], value_nt=tokens.value_nt[:, order_t])
    want, got = run(model, tokens), run(model, moved)
    torch.testing.assert_close(got.cell_nd, want.cell_nd, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got.hidden_ntd, want.hidden_ntd[:, order_t], atol=1e-5, rtol=1e-4)


def test_an_autoregressive_family_reads_word_by_word(model):
    if not is_causal(model):
        assert not hasattr(model.network, "new_cache")
        return
    tokens = model.tokenizer()(make_cells(), Draw()).padded(model.vocab.special_id("pad"))
    want = run(model, tokens)
    layout, cache = tokens.layout, model.network.new_cache(tokens.layout.width)
    hidden = []
    with torch.inference_mode():
        first, second = (
            replace(tokens, **{f: getattr(tokens, f)[:, part] for f in ("gene_nt", "value_nt", "is_hidden_nt")},
                    layout=Layout(lengths, width))
            for part, lengths, width in (
                (slice(None, 4), (4,) * 5, 4),
                (slice(4, None), tuple(length - 4 for length in layout.lengths), layout.width - 4),
            )
        )  # fmt: skip
        hidden = [model.network(part, cache=cache).hidden_ntd for part in (first, second)]
    is_token_nt = ~layout.is_pad_nt()
    torch.testing.assert_close(torch.cat(hidden, 1)[is_token_nt], want.hidden_ntd[is_token_nt], atol=1e-5, rtol=1e-4)


def test_a_family_is_described(model):
    family = model.family
    assert {"tiny", "small", "released"} <= set(family.sizes)
    for text in (family.title, family.citation, family.weights_terms):
        assert text
    assert set(family.accepts) <= {"raw", "normalised", "log1p", "binned", "unknown"}


def test_a_family_that_writes_says_what_it_can_be_asked(model):
    family = model.family
    if family.decoding != "autoregressive":
        assert not family.categories
        assert not family.questions
        return
    assert family.questions
    for word, asked in family.questions.items():
        assert word in family.specials
        assert asked
        assert set(asked) <= set(family.categories)
    for ours, theirs in family.categories.items():
        assert family.category(ours) == family.category(theirs) == ours
    assert family.category("no such category") == "no such category"


def test_words_are_told_and_cells_are_made_or_refused(model):
    """A family that writes answers in words of its vocabulary; another one refuses with a line."""
    family, quiet = model.family, InferenceOptions(progress=False, device="cpu")
    if family.decoding != "autoregressive":
        with pytest.raises(ValueError, match="writes no sentences"):
            tell_categories(model, Source(model.vocab), options=quiet)
        with pytest.raises(ValueError, match="writes no sentences"):
            generate_cells(model, [CellPrompt(words={})], options=quiet)
        return
    words = {name: [f"{name} {i}" for i in range(3)] for name in family.categories}
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(NUM_GENES)], family.specials, words)
    knowing = new_model(family.name, vocab, family.sizes["tiny"], seed=1)
    wanted = [name for asked in family.questions.values() for name in asked]
    found = tell_categories(knowing, Source(vocab), wanted, options=quiet)
    assert set(found.words) == set(wanted)
    for name, label_n in found.words.items():
        assert set(label_n) <= set(words[name])
        assert ((found.probs[name] >= 1 / 3) & (found.probs[name] <= 1)).all()
    first = next(iter(family.questions.values()))[0]
    prompt = CellPrompt(words={first: words[first][0]}, num_cells=2)
    made = generate_cells(knowing, [prompt], GenerateConfig(seed=1), max_genes=5, options=quiet)
    assert made.level_ng.shape == (2, NUM_GENES)


def test_known_genes_stay_where_a_family_fills_in_the_others(model):
    """The others are refused; one step is the plain pass, so that a cell alone is as among others."""
    source, quiet = Source(model.vocab), InferenceOptions(progress=False, device="cpu")
    gene_ids = fed_ids(model)
    is_known_ng = draw_known(len(source), len(gene_ids), 0.5, seed=1)
    if model.family.decoding != "unmask":
        with pytest.raises(ValueError, match="does not fill in unknown genes"):
            check_unmasks(model)
        return
    question = ask(model, source, is_known_ng, gene_ids=gene_ids, options=quiet)
    filled = unmask_cells(model, question, UnmaskConfig(steps=2, order="fixed"), options=quiet)
    np.testing.assert_array_equal(filled.value_ng[is_known_ng], question.value_ng[is_known_ng])
    assert np.isfinite(filled.value_ng).all()
    alone = unmask_cells(
        model, question, UnmaskConfig(steps=2, order="fixed"), options=quiet.model_copy(update={"batch_size": 1})
    )
    np.testing.assert_allclose(alone.value_ng, filled.value_ng, atol=1e-4)
