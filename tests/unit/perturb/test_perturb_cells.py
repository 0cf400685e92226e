"""A network fine-tuned to turn controls into perturbed cells: what is fed, what is answered, what it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.data.perturbation_splits import split_perturbations
from cellwright.data.synthetic import ScreenPlan, make_perturbed_cells
from cellwright.metrics.effects import pearson
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.lessons import make_lesson, whole_lesson
from cellwright.tasks.perturb import predict_folds
from cellwright.tasks.perturb_cells import (
    ADAPTED,
    CellPerturb,
    CellPerturbConfig,
    FittedCells,
    _minibatches,
    begin_unchanged,
)
from cellwright.tasks.perturb_tokens import Feed
from cellwright.tasks.perturb_weights import NEW_PARTS
from cellwright.tasks.screen import ScreenOptions, open_screen
from cellwright.verbs.perturb_methods import LABELS, cell_method
from cellwright.vocab import GeneVocab

PLAN = ScreenPlan(num_modules=2, genes_per_module=3, doubles=4, cells_each=24, num_measured=2)
QUICK = CellPerturbConfig(lr=5e-3, max_epochs=1, batch_size=32, cells_per_profile=4, valid_pool=8, device="cpu")
TINY = {"width": 16, "num_heads": 2, "num_layers": 1, "feed_forward": 16, "dropout": 0.0, "num_bins": None}


@pytest.fixture(scope="module")
def adata():
    return make_perturbed_cells(40, PLAN, seed=3)


@pytest.fixture(scope="module")
def screen(adata):
    return open_screen(adata, ScreenOptions(kind="genes", tech_batch="tech_batch"))


def network(names, **changes):
    """Return an untrained tiny scGPT that begins at no change."""
    vocab = GeneVocab.from_genes(list(names), FAMILIES["scgpt"].specials)
    config = FAMILIES["scgpt"].config.read(FAMILIES["scgpt"].sizes["tiny"].record() | TINY | ADAPTED | changes, "tiny")
    model = new_model("scgpt", vocab, config)
    begin_unchanged(model.network)
    return model


def all_names(screen):
    return dict.fromkeys([*screen.genes, *screen.perturbations.all_parts])


@pytest.fixture(scope="module")
def model(screen):
    return network(all_names(screen))


def untrained(model, screen, **changes):
    """Return a fitted model that has learnt nothing, with random answers."""
    torch.manual_seed(0)
    twin = model.copy()
    for parameter in twin.network.value_head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    controls = np.flatnonzero(screen.is_seen_n)
    return FittedCells(
        feed=Feed(twin, screen.genes),
        config=QUICK.model_copy(update=changes),
        seed=0,
        control_cg=screen.log_ng[controls],
        context_c=screen.context_n[controls],
    )


def test_what_is_perturbed_is_always_fed_and_every_gene_answered_once(model, screen):
    fitted = untrained(model, screen, max_genes=7)
    assert fitted.feed.columns(("P00", "P01")) == [0, 1]
    assert fitted.feed.columns(("P01", "P04")) == [1]
    chunks = list(fitted._chunks(("P00", "P01")))
    assert all({0, 1} <= set(columns.tolist()) and len(columns) <= 7 for columns, _ in chunks)
    answered = np.concatenate([columns[is_native] for columns, is_native in chunks])
    assert sorted(answered.tolist()) == list(range(40))
    assert len(list(replace_config(fitted, max_genes=40)._chunks(("P00",)))) == 1


def replace_config(fitted, **changes):
    return replace(fitted, config=fitted.config.model_copy(update=changes))


def test_training_minibatches_hold_what_is_perturbed_in_them(model, screen, monkeypatch):
    seen = []
    run = FittedCells.run

    def watch(self, value_nk, columns_k, parts_n, device):
        seen.append((set(columns_k.tolist()), {c for parts in parts_n for c in self.feed.columns(parts)}))
        return run(self, value_nk, columns_k, parts_n, device)

    monkeypatch.setattr(FittedCells, "run", watch)
    CellPerturb(model=model, config=QUICK.model_copy(update={"max_genes": 9})).fit(whole_lesson(screen, valid=0))
    assert len(seen) > 1
    assert all(perturbed <= fed and len(fed) == 9 for fed, perturbed in seen)
    assert any(perturbed for _, perturbed in seen)
    assert len({frozenset(fed) for fed, _ in seen}) == len(seen)


def test_tokens_flag_what_is_perturbed_and_withhold_what_is_not_measured(model, screen):
    feed = Feed(model, screen.genes, flag=2)
    columns = np.array([0, 1, 5])
    value_nk = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    tokens = feed.tokens(value_nk, columns, [("P01", "P04"), ()])
    assert tokens.flag_nt.tolist() == [[0, 2, 0, 2], [0, 0, 0, 0]]
    assert tokens.is_hidden_nt.tolist() == [[False, False, False, True], [False] * 4]
    assert tokens.layout.lengths == (4, 3)
    assert tokens.gene_nt[0].tolist() == model.vocab.ids(["P00", "P01", screen.genes[5], "P04"]).tolist()
    assert tokens.gene_nt[1, 3] == model.vocab.special_id("pad")
    assert tokens.value_nt[:, :3].tolist() == value_nk.tolist()
    twice = feed.tokens(value_nk[:1], columns, [("P01", "P01", "P04")])  # a part that is named twice is one token
    assert twice.flag_nt.tolist() == [[0, 2, 0, 2]]


def test_a_cell_is_answered_alike_whatever_travels_with_it(model, screen):
    fitted = untrained(model, screen)
    values, columns = screen.log_ng[:3].toarray(), np.arange(40)
    parts = [("P04", "P05"), (), ("P00",)]
    with torch.inference_mode():
        together = fitted.run(values, columns, parts, "cpu").value_nt[:, :40]
        alone = [fitted.run(values[[n]], columns, [parts[n]], "cpu").value_nt[0, :40] for n in range(3)]
    assert together.numpy() == pytest.approx(torch.stack(alone).numpy(), abs=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-2)


def test_memory_limits_change_nothing_and_predictions_repeat(model, screen):
    fitted = untrained(model, screen, max_genes=16)
    asked = screen.asked([0, 7])
    first = fitted.predict(asked)
    second = replace_config(fitted, max_tokens=40).predict(asked)
    assert (first.effect_ug == fitted.predict(asked).effect_ug).all()
    assert first.effect_ug == pytest.approx(second.effect_ug, abs=1e-5)
    assert set(first.cells) == {0, 1}
    assert first.cells[0].shape == (24, 40)
    assert first.cells[0].min() >= 0
    assert not replace_config(fitted, cells_kept=0).predict(asked).cells


def test_what_the_network_does_not_know_stays_as_it_is(screen):
    known = [name for name in all_names(screen) if name not in (screen.genes[10], screen.genes[11], "P05", "P01")]
    fitted = untrained(network(known), screen)
    asked = [screen.asked_anew(parts) for parts in (("P00",), ("P05",), ("P00", "P05"))]
    alone, nothing, both = (fitted.predict(question) for question in asked)
    fed = np.setdiff1d(np.arange(40), [1, 10, 11])
    assert fitted.feed.fed_k.tolist() == fed.tolist()
    assert not alone.effect_ug[:, [1, 10, 11]].any()
    assert (alone.effect_ug[:, fed] != 0).all()
    assert not nothing.effect_ug.any()
    assert both.effect_ug == pytest.approx(alone.effect_ug)
    start = screen.log_ng[:4].toarray()
    other = start.copy()
    other[:, 10] += 3  # what is not fed cannot be attended
    with torch.inference_mode():
        made, again = (fitted.predict_cells(cells, ("P00",)) for cells in (start, other))
    assert (made[:, fed] == again[:, fed]).all()
    assert (again[:, 10] == other[:, 10]).all()


def test_training_begins_at_no_change(model, screen):
    controls = np.flatnonzero(screen.is_seen_n)
    fitted = FittedCells(
        feed=Feed(model, screen.genes), config=QUICK, seed=0,
        control_cg=screen.log_ng[controls], context_c=screen.context_n[controls],
    )  # fmt: skip
    assert fitted.predict(screen.asked([0, 3])).effect_ug == pytest.approx(0, abs=1e-5)


def test_pairs_keep_to_batch_and_validation_cells_are_not_trained_on(screen):
    split = split_perturbations(screen.profiles, "double", num_folds=2)[0]
    lesson = make_lesson(screen, split)
    config = QUICK.model_copy(update={"cells_per_profile": None})
    pairs = [np.stack(found) for found in _minibatches(lesson, config, np.random.default_rng(0))]
    control_n, row_n = np.concatenate(pairs, axis=1)
    assert (lesson.profile_n[control_n] == -1).all()
    assert (lesson.tech_batch_n[control_n] == lesson.tech_batch_n[row_n]).all()
    trained = set(lesson.profile_n[row_n].tolist())
    assert trained == {-1, *np.flatnonzero(~lesson.is_valid_u).tolist()}
    assert (control_n == row_n).sum() == (lesson.profile_n == -1).sum()
    without = config.model_copy(update={"control_pairs": False})
    rows = np.concatenate([row for _, row in _minibatches(lesson, without, np.random.default_rng(0))])
    assert (lesson.profile_n[rows] >= 0).all()


def test_it_learns_effects_and_tells_perturbations_apart(model, screen):
    config = QUICK.model_copy(update={"max_epochs": 14, "cells_per_profile": 16, "lr": 1e-2})
    method = CellPerturb(model=model, config=config)
    before = model.sha256()
    lesson = whole_lesson(screen, valid=0)
    effect_ug = method.fit(lesson).predict(lesson.train.asked).effect_ug
    real_ug = lesson.train.effect_ug
    score_uv = np.array([[pearson(made, real) for real in real_ug] for made in effect_ug])
    assert np.diag(score_uv).mean() > 0.6
    singles = [u for u, parts in enumerate(lesson.train.asked.parts) if len(parts) == 1]
    own = np.diag(score_uv)[singles].mean()
    others = (score_uv[np.ix_(singles, singles)].sum() - own * len(singles)) / (len(singles) * (len(singles) - 1))
    assert own > others + 0.2
    history = method.history[0]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert model.sha256() == before


def test_the_same_lesson_gives_the_same_model_and_test_cells_do_not_count(model, screen):
    split = split_perturbations(screen.profiles, "single", num_folds=3)[:1]
    method = CellPerturb(model=model, config=QUICK.model_copy(update={"max_genes": 12}))
    first = predict_folds(screen, split, [method])
    log_ng = screen.log_ng.copy().tolil()
    hidden = np.flatnonzero(np.isin(screen.profile_n, split[0].at("test", "unused")) | screen.is_scored_n)
    log_ng[hidden] = np.random.default_rng(0).random((len(hidden), len(screen.genes)))
    second = predict_folds(replace(screen, log_ng=log_ng.tocsr()), split, [method])
    assert (first.effect_eg["cells"] == second.effect_eg["cells"]).all()
    assert first.effect_eg["cells"].any()


def test_a_gate_is_trained_and_weighs_the_answers(screen):
    gated = network(all_names(screen), has_zero_gate=True, cell_value_style="none")
    config = QUICK.model_copy(update={"mode": "scratch"})
    lesson = whole_lesson(screen, valid=0)
    fitted = CellPerturb(model=gated, config=config).fit(lesson)
    values = screen.log_ng[:2].toarray()
    with torch.inference_mode():
        out = fitted.run(values, np.arange(40), [("P00",)] * 2, "cpu")
        made = fitted.predict_cells(values, ("P00",))
    assert made == pytest.approx((out.value_nt * out.expressed_nt).numpy(), abs=1e-5)


def test_words_stand_for_perturbations_that_are_no_genes(adata):
    treated = adata.copy()
    names = {"ctrl": "ctrl", "P00": "drug one", "P01": "drug two", "P02": "drug three"}
    treated = treated[treated.obs["perturbation"].isin(list(names))].copy()
    treated.obs["perturbation"] = treated.obs["perturbation"].map(names).astype(str)
    screen = open_screen(treated)
    assert screen.perturbations.kind == "labels"
    plain = network(screen.genes, value_head="plain", num_conditions=0, condition_pad=None, num_bins=51)
    with pytest.raises(ValueError, match="knows none of what is perturbed in training .drug one, drug three"):
        CellPerturb(model=network(screen.genes), config=QUICK).fit(whole_lesson(screen, valid=0))
    method, notes = cell_method(screen, plain, QUICK)
    assert method.model.vocab.categories[LABELS] == ("drug one", "drug three", "drug two")
    assert "3 of 3 perturbations have a token" in notes[0]
    effect_ug = method.fit(whole_lesson(screen, valid=0)).predict(screen.asked([0, 1])).effect_ug
    assert np.abs(effect_ug[0] - effect_ug[1]).max() > 1e-4


def test_a_pretrained_network_keeps_what_it_has_learnt(screen):
    plain = network(list(screen.genes), value_head="plain", num_conditions=0, condition_pad=None, num_bins=51)
    method, notes = cell_method(screen, plain, QUICK)
    old, new = plain.network.state_dict(), method.model.network.state_dict()
    kept = [name for name in old if not name.startswith("value_head.")]
    assert all(torch.equal(old[name], new[name]) for name in kept)
    assert not new["condition.weight"][0].any()
    assert method.model.config.value_head == "affine"
    assert "does not know have no effect in its answers: P02, P03, P04, P05" in notes[1]
    again, _ = cell_method(screen, method.model, QUICK)
    assert all(torch.equal(new[name], value) for name, value in again.model.network.state_dict().items())


@pytest.mark.parametrize("mode", ["probe", "lora"])
def test_what_a_mode_does_not_train_stays_bit_for_bit(screen, mode):
    plain = network(all_names(screen), value_head="plain", num_conditions=0, condition_pad=None, num_bins=51)
    method, _ = cell_method(screen, plain, QUICK.model_copy(update={"mode": mode}))
    fitted = method.fit(whole_lesson(screen, valid=0))
    tuned = fitted.feed.model.network
    before, after = method.model.network.state_dict(), tuned.state_dict()
    assert list(before) == list(after)  # adapters are folded in
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    new = {name for name in before if name.split(".")[0] in ("value_head", "condition")}
    assert "condition.weight" in moved
    assert any(name.startswith("value_head.shift") for name in moved)
    attention = {f"blocks.0.attention.{part}.weight" for part in ("qkv", "out")}
    assert moved - new == (attention if mode == "lora" else set())
    num_new = sum(after[name].numel() for name in new)
    assert fitted.num_trained == num_new if mode == "probe" else num_new < fitted.num_trained < num_new + 1000
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    assert (fitted.predict(screen.asked([0])).effect_ug != 0).any()


@pytest.mark.parametrize("mode", ["probe", "lora"])
def test_a_table_that_grew_learns_its_new_rows_alone(adata, mode):
    treated = adata[adata.obs["perturbation"].isin(["ctrl", "P00", "P01"])].copy()
    names = {"ctrl": "ctrl", "P00": "drug one", "P01": "drug two"}
    treated.obs["perturbation"] = treated.obs["perturbation"].map(names).astype(str)
    screen = open_screen(treated)
    plain = network(screen.genes, value_head="plain", num_conditions=0, condition_pad=None, num_bins=51)
    method, _ = cell_method(screen, plain, QUICK.model_copy(update={"mode": mode, "max_epochs": 3}))
    name = "gene_encoder.embedding.weight"
    assert method.new_rows[name] == len(plain.vocab)
    fitted = method.fit(whole_lesson(screen, valid=0))
    tuned = fitted.feed.model.network.state_dict()[name]
    start = method.model.network.state_dict()[name]
    assert torch.equal(tuned[: len(plain.vocab)], start[: len(plain.vocab)])
    assert (tuned[len(plain.vocab) :] != start[len(plain.vocab) :]).any(1).all()
    new = [part for key, part in fitted.feed.model.network.named_parameters() if key.split(".")[0] in NEW_PARTS]
    num_new = sum(part.numel() for part in new) + start[len(plain.vocab) :].numel()
    assert fitted.num_trained == num_new if mode == "probe" else num_new < fitted.num_trained < num_new + 1000


def test_a_probe_leaves_running_means_alone(model, screen):
    normed = network(all_names(screen), input_norm="batch")
    for mode, is_left in (("full", False), ("probe", True)):
        config = QUICK.model_copy(update={"mode": mode})
        tuned = CellPerturb(model=normed, config=config).fit(whole_lesson(screen, valid=0)).feed.model
        means = [name for name in tuned.network.state_dict() if name.endswith("running_mean")]
        assert means
        for name in means:
            assert torch.equal(tuned.network.state_dict()[name], normed.network.state_dict()[name]) == is_left


def test_models_that_cannot_are_refused_in_one_line(screen):
    names = list(all_names(screen))
    with pytest.raises(ValueError, match="must answer values and take 2 condition flags .it takes 0"):
        Feed(network(names, num_conditions=0, condition_pad=None), screen.genes)
    with pytest.raises(ValueError, match="knows none of the 40 genes"):
        Feed(network(["TP53", "KLF1"]), screen.genes)
    with pytest.raises(ValueError, match="told sequencing batches"):
        Feed(network(names, num_tech_batches=2), screen.genes)
    other = FAMILIES["scmulan"]
    vocab = GeneVocab.from_genes(names, other.specials)
    with pytest.raises(ValueError, match="its family has no condition_pad; feed a graph model"):
        cell_method(screen, new_model("scmulan", vocab, other.sizes["tiny"]), QUICK)
