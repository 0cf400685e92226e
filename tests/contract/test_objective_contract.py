"""What every view and every term promises, on toy cells; a new entry of VIEWS or TERMS is covered at once."""

import inspect
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_cells import TOY_VOCAB, ToySentenceModel, ToyTokenizer, toy_cells

from cellwright.objectives import TERMS, VIEWS, Objective
from cellwright.types import Draw, Layout, Targets

DRAW = Draw(1, 2, 3)
ALL_ANSWERS = frozenset(field.name for field in fields(Targets))


def options_of(name):
    ids = [TOY_VOCAB.category_ids(category).tolist() for category in ("organ", "coarse_type", "cell_type")]
    options = {"head": nn.Linear(8, 3 if "words" not in inspect.signature(TERMS[name]).parameters else 7), "words": ids}
    return {key: value for key, value in options.items() if key in inspect.signature(TERMS[name]).parameters}


def build_term(name):
    return TERMS[name](**options_of(name))


def view_for(term):
    """Return the first view that answers all the term reads."""
    return next(view() for view in VIEWS.values() if term.reads <= view.answers)


class Given:
    """A view that always gives the same tokens and answers."""

    answers = ALL_ANSWERS

    def __init__(self, tokens, targets):
        self.pair = tokens, targets

    def __call__(self, cells, tokenize, draw):
        return self.pair


def loss_of(term, tokens, targets, model=None):
    objective = Objective(Given(tokens, targets), {"term": (1.0, term)})
    return objective.step(model or ToySentenceModel(), None, tokenize=None, draw=DRAW).loss


def token_fields(tokens):
    named = {field.name: getattr(tokens, field.name) for field in fields(tokens) if field.name != "layout"}
    return {name: value for name, value in named.items() if value is not None}


def assert_same_tokens(left, right):
    for part in ("lengths", "width", "prompt_lengths"):
        assert getattr(left.layout, part) == getattr(right.layout, part)
    left, right = token_fields(left), token_fields(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_finite_and_reach_network_and_head(name):
    torch.manual_seed(0)  # of dropout
    term, model = build_term(name), ToySentenceModel(dropout=0.1)
    objective = Objective(view_for(term), {name: (0.5, term)})
    objective.check(model)
    report = objective.step(model, toy_cells(), tokenize=ToyTokenizer(), draw=DRAW)
    report.loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if getattr(term, "is_detached", False):  # it listens to the network and leaves it as it is
        assert not grads
        assert list(objective.parameters())
    else:
        assert grads
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert any(grad.abs().max() > 0 for grad in grads)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in objective.parameters())
    assert report.loss.item() == pytest.approx(0.5 * report.parts[name].item())
    assert not report.parts[name].requires_grad


@pytest.mark.parametrize("name", [name for name in TERMS if build_term(name).reads])
def test_loss_is_a_mean_so_that_the_same_cells_twice_cost_the_same(name):
    term = build_term(name)
    tokens, targets = view_for(term)(toy_cells(), ToyTokenizer(), DRAW)
    layout = tokens.layout
    prompts = None if layout.prompt_lengths is None else layout.prompt_lengths * 2
    twice = {f: torch.cat([v, v], 1 if f.endswith("_nt") else 0) for f, v in token_fields(tokens).items()}
    twice_targets = {
        field.name: torch.cat([value, value], 1 if field.name.endswith("_nt") else 0)
        for field in fields(targets)
        if (value := getattr(targets, field.name)) is not None
    }
    two = replace(tokens, layout=Layout(layout.lengths * 2, None, prompts), **twice)
    once = loss_of(term, tokens, targets)
    torch.testing.assert_close(loss_of(term, two, Targets(**twice_targets)), once, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", TERMS)
def test_nothing_to_answer_is_an_error(name):
    tokens = ToyTokenizer()(toy_cells(1), DRAW)
    nothing = torch.zeros_like(tokens.is_hidden_nt)
    missing = torch.tensor([-1])
    targets = Targets(
        value_nt=tokens.value_nt,
        is_scored_nt=nothing,
        label_n=missing,
        domain_n=missing,
        entity_nt=tokens.gene_nt,
        level_nt=tokens.value_nt,
        is_asked_nt=nothing,
        end_n=missing,
    )
    with pytest.raises(ValueError, match=r"scored|outside 0|single cell"):
        loss_of(build_term(name), tokens, targets)


@pytest.mark.parametrize("name", [name for name in TERMS if build_term(name).reads])
def test_answers_that_the_view_did_not_give_are_an_error(name):
    tokens = ToyTokenizer()(toy_cells(2), DRAW)
    with pytest.raises(ValueError, match=r"gave no values|carry no"):
        loss_of(build_term(name), tokens, Targets())


@pytest.mark.parametrize("name", TERMS)
def test_weight_zero_means_absent(name):
    class Forbidden(type(build_term(name))):
        def __call__(self, *args, **kwargs):
            raise AssertionError("a term of weight 0 was computed")

    kept = TERMS["masked_value"]()
    objective = Objective(VIEWS["random_mask"](), {"off": (0, Forbidden(**options_of(name))), "on": (1, kept)})
    report = objective.step(ToySentenceModel(), toy_cells(), tokenize=ToyTokenizer(), draw=DRAW)
    assert set(report.parts) == {"on"}
    assert not objective.state_dict()
    assert objective.needs == kept.needs


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_hidden_value_is_never_in_the_tokens(name, is_packed):
    view, cells, tokenize = VIEWS[name](), toy_cells(8), ToyTokenizer(is_packed=is_packed)
    tokens, targets = view(cells, tokenize, DRAW)
    assert "is_scored_nt" not in view.answers or targets.is_scored_nt.any()
    is_hidden_nt = tokens.is_hidden_nt
    assert (tokens.value_nt[is_hidden_nt] == 0).all()
    if "is_scored_nt" in view.answers:
        assert (targets.is_scored_nt | ~is_hidden_nt).all()
    cell_nt = tokens.layout.spread(torch.arange(len(cells))).expand(is_hidden_nt.shape)
    hidden = set(zip(cell_nt[is_hidden_nt].tolist(), tokens.gene_nt[is_hidden_nt].tolist(), strict=True))
    cell_z = np.repeat(np.arange(len(cells)), cells.num_genes_n)
    is_hidden_z = np.array([pair in hidden for pair in zip(cell_z.tolist(), cells.gene_z.tolist(), strict=True)])
    changed = replace(cells, value_z=np.where(is_hidden_z, cells.value_z + 7, cells.value_z))
    tokens_2, targets_2 = view(changed, tokenize, DRAW)
    assert_same_tokens(tokens, tokens_2)
    if targets.value_nt is not None:
        differs_nt = targets.value_nt != targets_2.value_nt
        assert torch.equal(differs_nt, is_hidden_nt & (tokens.gene_nt < 20) & (targets.value_nt > 0))


@pytest.mark.parametrize("name", [name for name in VIEWS if "is_asked_nt" in VIEWS[name].answers])
@pytest.mark.parametrize("is_packed", [True, False])
def test_what_a_sentence_asks_stands_behind_the_question(name, is_packed):
    """A causal network sees a token and those before it: none of them may change with the answer."""
    view, cells, tokenize = VIEWS[name](), toy_cells(40), ToyTokenizer(is_packed=is_packed)
    assert not view.answers & {"is_scored_nt", "value_nt"}, "other terms could read what a bidirectional model sees"
    tokens, targets = view(cells, tokenize, DRAW)
    assert targets.is_asked_nt.any()
    assert not (targets.is_asked_nt & tokens.layout.is_pad_nt()).any()
    assert not tokens.is_hidden_nt.any()
    asked = {task.word for task in view.tasks}
    seen = set()
    others = replace(cells, obs={n: v if n in ("label", "tech_batch") else (v + 1) % 2 for n, v in cells.obs.items()})
    changed, _ = view(others, tokenize, DRAW)
    fields = (tokens.gene_nt, tokens.value_nt, targets.is_asked_nt, changed.gene_nt)
    for gene, value, is_asked, other in zip(
        *(tokens.layout.pack(x)[0].split(tokens.layout.lengths) for x in fields), strict=True
    ):
        question = int(is_asked.nonzero()[0])
        assert is_asked[question:].all()
        role = {tokenize.vocab.special_id(role): role for role in asked}[int(gene[question])]
        seen.add(role)
        task = next(task for task in view.tasks if task.word == role)
        is_gene = gene < 20
        assert is_gene[question + 1 :].all() if task.asks_genes else is_gene[: question - len(task.given)].all()
        assert ((value > 0) == is_gene).all()
        if task.asked:  # the answers changed; what the network sees up to the question did not
            assert torch.equal(gene[: question + 1], other[: question + 1])
            assert not torch.equal(gene[question + 1 :], other[question + 1 :])
    assert seen == asked


@pytest.mark.parametrize("name", VIEWS)
def test_views_depend_on_the_draw_alone(name):
    view, cells = VIEWS[name](), toy_cells(8)
    before = cells.value_z.copy()
    tokens, targets = view(cells, ToyTokenizer(), DRAW)
    torch.rand(3)  # the global stream is not theirs
    again, targets_again = view(cells, ToyTokenizer(), DRAW)
    assert_same_tokens(tokens, again)
    assert np.array_equal(cells.value_z, before)
    for field in fields(targets):
        one, two = getattr(targets, field.name), getattr(targets_again, field.name)
        assert (one is None) == (two is None) == (field.name not in view.answers)
        assert one is None or torch.equal(one, two)
    if view.answers & {"is_scored_nt", "is_asked_nt"}:
        for other in (Draw(1, 2, 4), Draw(1, 3, 3), Draw(2, 2, 3)):
            changed = view(cells, ToyTokenizer(), other)[0]
            assert not (torch.equal(changed.gene_nt, tokens.gene_nt) and torch.equal(changed.value_nt, tokens.value_nt))


@pytest.mark.parametrize("name", VIEWS)
def test_packed_and_padded_tokens_are_treated_alike(name):
    view, cells = VIEWS[name](), toy_cells(8)
    packed, targets = view(cells, ToyTokenizer(is_packed=True), DRAW)
    padded, targets_padded = view(cells, ToyTokenizer(is_packed=False), DRAW)
    assert not padded.layout.is_packed
    assert_same_tokens(padded.packed(), packed)
    for field in fields(targets):
        one, two = getattr(targets, field.name), getattr(targets_padded, field.name)
        if one is not None:
            assert torch.equal(padded.layout.pack(two) if field.name.endswith("_nt") else two, one)


@pytest.mark.parametrize("name", TERMS)
def test_packed_and_padded_tokens_cost_the_same(name):
    term = build_term(name)
    objective = Objective(view_for(term), {name: (1.0, term)})
    packed, padded = (
        objective.step(ToySentenceModel(), toy_cells(), tokenize=ToyTokenizer(is_packed=is_packed), draw=DRAW).loss
        for is_packed in (True, False)
    )
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", VIEWS)
def test_cells_of_no_gene_or_one_are_no_trouble(name):
    view = VIEWS[name]()
    cells = toy_cells(lengths=[0, 1, 12, 2])
    for is_packed in (True, False):
        tokens, targets = view(cells, ToyTokenizer(is_packed=is_packed), DRAW)
        if name == "read_depth":  # silent genes too
            assert tokens.layout.lengths == (22,) * 4
        elif "is_asked_nt" not in view.answers:
            assert tokens.layout.lengths == (1, 2, 13, 3)
        else:  # at least the task word, and what is asked beside it
            assert all(
                2 <= length - genes <= 4 for length, genes in zip(tokens.layout.lengths, (0, 1, 12, 2), strict=True)
            )
        assert targets.label_n.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_names_the_words_it_speaks_of(name):
    view, cells = VIEWS[name](), toy_cells()
    assert isinstance(view.categories, frozenset)
    bare = replace(cells, obs={key: codes for key, codes in cells.obs.items() if key not in view.categories})
    if not view.categories:
        view(bare, ToyTokenizer(), DRAW)
        return
    with pytest.raises(ValueError, match="sentences need the cells'"):
        view(bare, ToyTokenizer(), DRAW)
    for left_out in view.categories:
        known = view.categories - {left_out}
        assert view.narrowed(known).categories <= known
    codes = {key: cells.obs[key] for key in view.categories}
    assert view.is_usable(codes).shape == (len(cells),)
