"""Filling in unknown genes step by step: known genes stay, hidden ones cannot leak, every order does as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import cellwright
from cellwright.data import synthetic
from cellwright.data.cells import open_cells
from cellwright.models import FAMILIES, new_model
from cellwright.models.inputs import InputConfig
from cellwright.nn.heads import ErrorHead
from cellwright.objectives.views import _prompt_first
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.known_genes import Question, ask, cell_prompts, draw_known, fed_ids, named_genes, only_known
from cellwright.tasks.unmask import UnmaskConfig, unmask_cells
from cellwright.tasks.unmask_orders import ORDERS, Order, by_gene, by_truth
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab

NUM_GENES, NUM_CELLS = 24, 6
QUIET = InferenceOptions(progress=False, device="cpu")
SIZE = FAMILIES["scgpt"].sizes["tiny"].model_copy(update={"width": 16, "num_heads": 2, "feed_forward": 16})


class Source:
    """Made-up cells, read by position."""

    state = "raw"

    def __init__(self, vocab, cells):
        self.vocab, self.cells = vocab, cells

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(np.asarray(rows))


def made_cells(seed=0):
    rng = np.random.default_rng(seed)
    count_ng = rng.poisson(1.5, (NUM_CELLS, NUM_GENES)) * rng.integers(1, 9, (NUM_CELLS, NUM_GENES))
    cell_z, gene_z = np.nonzero(count_ng)
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum((count_ng > 0).sum(1))]),
        gene_z=gene_z.astype(np.int32),
        value_z=count_ng[cell_z, gene_z].astype(np.float32),
        row_n=np.arange(NUM_CELLS) + 100,
        total_n=count_ng.sum(1).astype(float),
    )


def made_model(*, genes="panel", has_head=True, **changes):
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(NUM_GENES)], FAMILIES["scgpt"].specials)
    config = SIZE.model_copy(update=changes)
    model = new_model("scgpt", vocab, config, seed=1, inputs=InputConfig(genes=genes))
    with torch.no_grad():  # values within the bins, so that rounding and clamping are at work
        if model.network.value_head is not None:
            model.network.value_head.net[-1].weight.mul_(60)
            model.network.value_head.net[-1].bias.fill_(15.0)
    if has_head:
        torch.manual_seed(2)
        model.heads["expected_error"] = ErrorHead(16).eval()
    return model


@pytest.fixture(scope="module")
def model():
    return made_model(has_zero_gate=True)


@pytest.fixture(scope="module")
def source(model):
    return Source(model.vocab, made_cells())


@pytest.fixture(scope="module")
def known_ng():
    return draw_known(NUM_CELLS, NUM_GENES, 0.4, seed=3)


@pytest.fixture(scope="module")
def question(model, source, known_ng):
    return ask(model, source, known_ng, gene_ids=fed_ids(model))


def test_one_step_is_the_plain_pass_exactly(model, source, known_ng, question):
    column_v = np.full(len(model.vocab), -1)
    column_v[fed_ids(model)] = np.arange(NUM_GENES)
    tokens = model.tokenizer()(only_known(source.read(np.arange(NUM_CELLS)), known_ng, column_v), Draw())
    is_unknown_nt = torch.from_numpy(~known_ng[:, column_v[fed_ids(model)]])
    is_unknown_t = torch.cat([torch.zeros(NUM_CELLS, 1, dtype=torch.bool), is_unknown_nt], 1).flatten()
    tokens = _prompt_first(tokens, is_unknown_t)
    tokens = tokens.hide(~tokens.layout.is_prompt_nt())
    with torch.inference_mode():
        plain_u = model.network.eval()(tokens, {"value_nt"}).value_nt[~tokens.layout.is_prompt_nt()].numpy()
    filled = unmask_cells(model, question, options=QUIET)
    np.testing.assert_array_equal(filled.value_ng[~known_ng], plain_u)
    assert (filled.step_ng[~known_ng] == 1).all()


@pytest.mark.parametrize("order", ORDERS)
def test_known_genes_stay_and_the_others_join_in_equal_parts(model, known_ng, question, order):
    filled = unmask_cells(model, question, UnmaskConfig(steps=4, order=order), options=QUIET)
    np.testing.assert_array_equal(filled.value_ng[known_ng], question.value_ng[known_ng])
    assert (filled.step_ng[known_ng] == 0).all()
    num_asked = int((~known_ng[0]).sum())
    sizes = np.diff(np.ceil(num_asked * np.arange(5) / 4).astype(int))
    for own in filled.step_ng:
        assert np.bincount(own[own > 0], minlength=5)[1:].tolist() == sizes.tolist()
    rounded_ng = filled.rounded()
    np.testing.assert_array_equal(rounded_ng[known_ng], question.value_ng[known_ng])
    assert rounded_ng.min() >= 0
    assert rounded_ng.max() <= 50
    assert (rounded_ng == np.rint(rounded_ng)).all()


@pytest.mark.parametrize("order", ORDERS)
def test_a_cell_alone_is_as_among_others_and_twice_the_same(model, question, order):
    config = UnmaskConfig(steps=3, order=order, seed=5)
    many = unmask_cells(model, question, config, options=QUIET)
    alone = unmask_cells(model, question, config, options=QUIET.model_copy(update={"batch_size": 1}))
    again = unmask_cells(model, question, config, options=QUIET)
    np.testing.assert_array_equal(many.step_ng, alone.step_ng)
    np.testing.assert_allclose(many.value_ng, alone.value_ng, atol=1e-4)
    np.testing.assert_array_equal(many.value_ng, again.value_ng)


@pytest.mark.parametrize("genes", ["panel", "expressed"])
def test_what_is_hidden_cannot_leak(source, known_ng, genes):
    model = made_model(genes=genes)
    cells = source.cells
    cell_z = np.repeat(np.arange(NUM_CELLS), cells.num_genes_n)
    is_hidden_z = ~known_ng[cell_z, cells.gene_z]
    others = replace(cells, value_z=np.where(is_hidden_z, cells.value_z * 7 + 3, cells.value_z))
    none_n1 = np.concatenate([[0], np.cumsum(~is_hidden_z)])[cells.indptr_n1]
    gone = replace(cells, indptr_n1=none_n1, gene_z=cells.gene_z[~is_hidden_z], value_z=cells.value_z[~is_hidden_z])
    answers = [
        unmask_cells(
            model,
            ask(model, Source(model.vocab, some), known_ng, gene_ids=fed_ids(model)),
            UnmaskConfig(steps=3),
            options=QUIET,
        ).value_ng
        for some in (cells, others, gone)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    changed = replace(cells, value_z=np.where(is_hidden_z, cells.value_z, cells.value_z[::-1]))
    seen = ask(model, Source(model.vocab, changed), known_ng, gene_ids=fed_ids(model))
    assert not np.array_equal(answers[0], unmask_cells(model, seen, UnmaskConfig(steps=3), options=QUIET).value_ng)


def test_genes_join_with_their_predicted_value(model, question):
    """Two steps by hand: what joined in the first is known in the second, rounded."""
    order = by_gene(np.arange(NUM_GENES), "last first")
    two = unmask_cells(model, question, UnmaskConfig(steps=2), order=order, options=QUIET)
    one = unmask_cells(model, question, options=QUIET)
    joined_ng = two.step_ng == 1
    np.testing.assert_array_equal(two.value_ng[joined_ng], one.value_ng[joined_ng])
    known_ng = question.is_known_ng | joined_ng
    value_ng = np.where(joined_ng, two.rounded(), question.value_ng)
    rest = replace(question, value_ng=value_ng, is_known_ng=known_ng, is_asked_ng=question.is_asked_ng & ~joined_ng)
    by_hand = unmask_cells(model, rest, options=QUIET)
    np.testing.assert_array_equal(two.value_ng[two.step_ng == 2], by_hand.value_ng[two.step_ng == 2])
    assert np.abs(two.value_ng - one.value_ng)[two.step_ng == 2].max() > 1e-3
    for own, asked in zip(two.step_ng, question.is_asked_ng, strict=True):
        assert own[asked].tolist() == sorted(own[asked], reverse=True)  # the highest ids came first


def test_the_surest_come_first(model, question):
    config = UnmaskConfig(steps=3, order="confident")
    seen = []
    surest = ORDERS["confident"](0)

    def rank(guess):
        seen.append(guess)
        return surest.rank(guess)

    filled = unmask_cells(model, question, config, order=replace(surest, rank=rank), options=QUIET)
    assert len(seen) == 2  # in the last step all join
    for step, guess in enumerate(seen, 1):
        log_u = guess.log_error_u.numpy()
        at = guess.cell_u, guess.column_u
        joined_u = filled.step_ng[at] == step
        for cell in range(NUM_CELLS):
            own = guess.cell_u == cell
            assert log_u[own & joined_u].max() <= log_u[own & ~joined_u].min()
        np.testing.assert_allclose(filled.error_ng[at][joined_u], np.exp(log_u[joined_u] / 2), rtol=1e-5)
    assert np.isnan(filled.error_ng[question.is_known_ng]).all()


def test_the_order_of_the_truth_and_of_chance(model, question):
    truth_ng = np.random.default_rng(1).integers(0, 40, question.value_ng.shape).astype(np.float32)
    one = unmask_cells(model, question, options=QUIET)
    two = unmask_cells(model, question, UnmaskConfig(steps=2), order=by_truth(truth_ng), options=QUIET)
    error_ng = np.abs(one.value_ng - truth_ng)
    for own, error_g in zip(two.step_ng, error_ng, strict=True):
        assert error_g[own == 1].max() <= error_g[own == 2].min()
    steps = [
        unmask_cells(model, question, UnmaskConfig(steps=2, order="random", seed=seed), options=QUIET).step_ng
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(steps[0], steps[1])
    assert not np.array_equal(steps[0], steps[2])
    assert len(np.unique(steps[0] == 1, axis=0)) > 1


def test_a_model_of_expressed_genes_is_given_no_zeros(source, known_ng):
    model = made_model(genes="expressed")
    with torch.no_grad():
        model.network.value_head.net[-1].bias.fill_(-40.0)  # everything predicted below 0
    question = ask(model, source, known_ng, gene_ids=fed_ids(model))
    filled = unmask_cells(model, question, UnmaskConfig(steps=3, order="fixed"), options=QUIET)
    assert filled.value_ng[~known_ng].max() < 0
    assert (filled.rounded()[~known_ng] == 1).all()
    silent_ng = known_ng & (question.value_ng == 0)
    assert silent_ng.any()
    without = replace(question, is_known_ng=known_ng & ~silent_ng)
    same = unmask_cells(model, without, UnmaskConfig(steps=3, order="fixed"), options=QUIET)
    np.testing.assert_array_equal(filled.value_ng[~known_ng], same.value_ng[~known_ng])
    assert np.isnan(same.value_ng[silent_ng]).all()
    assert (same.step_ng[silent_ng] == -1).all()
    panel = made_model(genes="panel")
    asked = ask(panel, source, known_ng, gene_ids=fed_ids(panel))
    pair = [
        unmask_cells(panel, q, options=QUIET).value_ng[~known_ng]
        for q in (asked, replace(asked, is_known_ng=without.is_known_ng))
    ]
    assert not np.allclose(*pair)  # zeros say something to a model that knows them


def test_only_what_is_asked_is_filled_in(model, source, known_ng):
    asked_ng = ~known_ng & (np.arange(NUM_GENES) % 2 == 0)
    question = ask(model, source, known_ng, gene_ids=fed_ids(model), is_asked_ng=asked_ng)
    filled = unmask_cells(model, question, options=QUIET)
    np.testing.assert_array_equal(np.isnan(filled.value_ng), ~(known_ng | asked_ng))
    # unknown genes see the prompt and themselves: what else is asked changes nothing in one pass
    whole = unmask_cells(model, ask(model, source, known_ng, gene_ids=fed_ids(model)), options=QUIET)
    np.testing.assert_allclose(filled.value_ng[asked_ng], whole.value_ng[asked_ng], atol=1e-4)
    nothing = replace(question, is_asked_ng=np.zeros_like(asked_ng))
    assert np.isnan(unmask_cells(model, nothing, UnmaskConfig(steps=2), options=QUIET).value_ng[~known_ng]).all()


def test_a_cell_prompt_takes_the_place_of_the_first_token(model, source):
    cell_nd = cell_prompts(model, source, QUIET)
    np.testing.assert_allclose(
        cell_nd[:1], cell_prompts(model, Source(model.vocab, source.cells.take(np.array([0]))), QUIET), atol=1e-5
    )
    assert np.abs(np.linalg.norm(cell_nd, axis=1) - 1).min() > 0.1
    none_ng = np.zeros((NUM_CELLS, NUM_GENES), bool)
    plain = Question(
        gene_ids=fed_ids(model), value_ng=none_ng.astype(np.float32), is_known_ng=none_ng, is_asked_ng=~none_ng,
        row_n=np.arange(NUM_CELLS),
    )  # fmt: skip
    without = unmask_cells(model, plain, options=QUIET).value_ng
    assert np.ptp(without, axis=0).max() < 1e-4  # nothing is known of any cell
    for steps in (1, 3):
        made = unmask_cells(model, replace(plain, cell_nd=cell_nd), UnmaskConfig(steps=steps), options=QUIET)
        assert np.ptp(made.value_ng, axis=0).min() > 1e-3
    alone = unmask_cells(
        model,
        replace(plain, cell_nd=cell_nd),
        UnmaskConfig(steps=3),
        options=QUIET.model_copy(update={"batch_size": 1}),
    )
    np.testing.assert_allclose(alone.value_ng, made.value_ng, atol=1e-4)


def test_padded_networks_answer_alike(model, question):
    padded = made_model(has_zero_gate=True, pooling="avg-pool")
    padded.network.load_state_dict(model.network.state_dict())
    padded.heads = model.heads
    pair = [unmask_cells(m, question, UnmaskConfig(steps=3), options=QUIET) for m in (model, padded)]
    np.testing.assert_array_equal(pair[0].step_ng, pair[1].step_ng)
    np.testing.assert_allclose(pair[0].value_ng, pair[1].value_ng, atol=1e-3)


def test_values_without_bins_are_not_rounded(source, known_ng):
    model = made_model(num_bins=None)
    filled = unmask_cells(
        model, ask(model, source, known_ng, gene_ids=fed_ids(model)), UnmaskConfig(steps=2), options=QUIET
    )
    assert filled.top is None
    asked = filled.rounded()[~known_ng]
    assert (asked != np.rint(asked)).any()


def test_drawn_and_named_genes(model):
    drawn_ng = draw_known(50, 20, 0.3, seed=1)
    assert (drawn_ng.sum(1) == 6).all()
    np.testing.assert_array_equal(drawn_ng[:10], draw_known(10, 20, 0.3, seed=1))
    assert not np.array_equal(drawn_ng, draw_known(50, 20, 0.3, seed=2))
    is_named_g = named_genes(model, ["G3", "G7"], fed_ids(model))
    assert np.flatnonzero(is_named_g).tolist() == [3, 7]


@pytest.mark.parametrize("fraction", [1.0, -0.1, 0.99])
def test_a_fraction_that_leaves_nothing_to_ask_for_is_refused(fraction):
    with pytest.raises(ValueError, match=r"known_fraction = .* leaves none of 20 genes"):
        draw_known(5, 20, fraction, seed=0)


def test_what_cannot_be_done_is_said_in_one_line(model, question):
    def refused(match, of=model, asked=question, **config):
        with pytest.raises(ValueError, match=match) as found:
            unmask_cells(of, asked, UnmaskConfig(**config), options=QUIET)
        assert "\n" not in str(found.value)

    refused(r"no order 'confidnt'; did you mean 'confident'\?", steps=2, order="confidnt")
    headless = made_model(has_head=False)
    refused(r"not trained to say how sure it is \(no head 'expected_error'\)", of=headless, steps=2)
    assert np.isfinite(unmask_cells(headless, question, options=QUIET).value_ng).all()  # one pass needs no order
    refused(r"reads expressed_nt, which this network does not produce", of=headless, steps=2, order="gate")
    refused(r"no flag for unknown genes", of=made_model(has_unknown_flag=False))
    refused(r"predicts no values", of=made_model(value_head="none"))
    refused(r"cell 0 has 25 tokens, known and asked, and the model takes 20", of=made_model(max_length=20))
    masked = made_model()
    masked.origin["pretraining"] = {"recipe": {"objective": {"view": "random_mask", "terms": {"masked_value": 1}}}}
    refused(r"trained with the view 'random_mask' and never on unknown genes", of=masked)
    masked.origin["pretraining"]["recipe"]["objective"]["view"] = "generative_split"
    prompted = replace(question, cell_nd=np.zeros((NUM_CELLS, 16), np.float32))
    refused(r"never given a cell embedding in training", of=masked, asked=prompted)
    with pytest.raises(ValueError, match="2 of 3 known genes are none of the model's: X1, X2"):
        named_genes(model, ["X1", "G1", "X2"], fed_ids(model))


def test_a_family_that_does_not_unmask_is_refused(question):
    family = FAMILIES["scfoundation"]
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(NUM_GENES)], family.specials)
    with pytest.raises(ValueError, match="scFoundation does not fill in unknown genes"):
        unmask_cells(new_model("scfoundation", vocab, family.sizes["tiny"]), question, options=QUIET)


def test_a_question_holds_nothing_hidden(question):
    with pytest.raises(ValueError, match="not known reached the question"):
        replace(question, value_ng=question.value_ng + 1)
    with pytest.raises(ValueError, match="known or asked for, not both"):
        replace(question, is_asked_ng=np.ones_like(question.is_asked_ng))


def test_an_order_of_ones_own(model, question):
    order = Order(rank=lambda guess: guess.value_u, what="largest value first")
    filled = unmask_cells(model, question, UnmaskConfig(steps=2), order=order, options=QUIET)
    one = unmask_cells(model, question, options=QUIET)
    for own, value_g in zip(filled.step_ng, one.value_ng, strict=True):
        assert value_g[own == 1].min() >= value_g[own == 2].max()


def test_a_recipe_can_train_the_head_and_the_model_keeps_it(tmp_path):
    """The network is as it would be without the head, since nothing is clipped."""
    adata = synthetic.make_cells(40, 60, depth=400)
    changes = [
        "data.num_genes=20", "data.min_cells=1", "inputs.genes=panel", "train.max_steps=4", "train.max_epochs=null",
        "train.accelerator=cpu", "data.valid_fraction=0", "model.width=16", "model.num_heads=2", "batch_size=8",
        "train.clip_norm=0",
    ]  # fmt: skip
    made = [
        cellwright.pretrain(adata, out=tmp_path / name, changes=[*changes, *more]).model
        for name, more in (("without", []), ("with", ["objective.terms.expected_error=1"]))
    ]
    assert not made[0].heads
    for name, value in made[0].network.state_dict().items():
        torch.testing.assert_close(made[1].network.state_dict()[name], value, rtol=0, atol=0)
    again = cellwright.load(tmp_path / "with")
    assert again.sha256() == made[1].sha256()
    fresh = ErrorHead(16)
    hidden = torch.randn(3, 16)
    torch.testing.assert_close(again.heads["expected_error"](hidden), made[1].heads["expected_error"](hidden))
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in again.heads["expected_error"].state_dict().items()
    }
    source = open_cells(adata, again.vocab, accepts=again.family.accepts)
    gene_ids = fed_ids(again)
    question = ask(again, source, draw_known(40, len(gene_ids), 0.5, seed=0), gene_ids=gene_ids)
    filled = unmask_cells(again, question, UnmaskConfig(steps=2), options=QUIET)
    assert np.isfinite(filled.error_ng[filled.step_ng > 0]).all()
    with pytest.raises(ValueError, match=r"expected_error: it has no options, got scale"):
        cellwright.pretrain(
            adata,
            out=tmp_path / "not",
            changes=[
                *changes,
                "objective.terms.expected_error=1",
                'objective.term_options={"expected_error": {"scale": 2}}',
            ],
        )
    assert not (tmp_path / "not").exists()
