"""The loss of the repository's history: both terms, gradients of every weight, optimiser groups, first weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from parity.cases import Case
from parity.sentences import sentence_tokens

from cellwright.models import FAMILIES, load, new_model
from cellwright.models.scmulan.weights import published_key
from cellwright.objectives.entity import NextEntity, NextLevel
from cellwright.train.optim import OptimConfig, parameter_groups
from cellwright.types import Targets
from cellwright.vocab import GeneVocab

CASE = Case("scmulan", "training_loss")
RECORD = json.loads((CASE.folder / "case.json").read_text())


def recorded(is_packed):
    """Return tokens and what is asked of them; the recorded dense targets are what follows each token."""
    lengths = CASE["xlen"].tolist()
    tokens = sentence_tokens(CASE["idx"], CASE["x_expr"], lengths)
    is_asked_nt = torch.arange(tokens.layout.width) >= CASE["x_prefix_len"][:, None]
    is_asked_nt &= ~tokens.layout.is_pad_nt()
    if is_packed:
        is_asked_nt, tokens = tokens.layout.pack(is_asked_nt), tokens.packed()
    targets = Targets(
        entity_nt=tokens.gene_nt,
        level_nt=tokens.value_nt,
        is_asked_nt=is_asked_nt,
        end_n=torch.zeros(len(lengths), dtype=torch.long),
    )
    return tokens, targets


@pytest.mark.parametrize("is_packed", [True, False])
def test_loss_and_gradients(is_packed):
    model = load(CASE.folder)
    network = model.network.train()
    tokens, targets = recorded(is_packed)
    out = network(tokens)
    entity, level = NextEntity()(out, targets), NextLevel()(out, targets)
    torch.testing.assert_close(entity.detach(), CASE["loss_cls"], rtol=1e-5, atol=0)
    torch.testing.assert_close(level.detach(), CASE["loss_exp"], rtol=1e-5, atol=0)
    loss = entity + RECORD["beta"] * level
    torch.testing.assert_close(loss.detach(), CASE["loss"], rtol=1e-5, atol=0)
    loss.backward()
    names = [name for name, _ in network.named_parameters()]
    assert {f"grad/{published_key(name)}" for name in names} == {k for k in CASE.arrays if k.startswith("grad/")}
    for name, parameter in network.named_parameters():
        theirs = CASE[f"grad/{published_key(name)}"]
        torch.testing.assert_close(
            parameter.grad, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()), msg=lambda m, n=name: f"{n}: {m}"
        )


def dense_loss(out, targets):
    """The published criterion with its dense targets, filled with the words behind each token (a set)."""
    layout = out.layout
    parts = (out.entity.dense(), out.level.dense(), targets.entity_nt, targets.level_nt, targets.is_asked_nt)
    losses, errors = [], []
    for logit, level, entity, value, is_asked in zip(
        *(layout.pack(x)[0].split(layout.lengths) for x in parts), strict=True
    ):
        for at in is_asked.nonzero()[:, 0].tolist():
            answer_v, value_v = torch.zeros(logit.shape[1]), torch.zeros(logit.shape[1])
            answer_v[entity[at + 1 :]] = 1
            value_v[entity[at + 1 :]] = value[at + 1 :]
            if at == len(entity) - 1:
                answer_v[0] = 1
            losses.append(
                torch.nn.functional.binary_cross_entropy_with_logits(logit[at], answer_v, reduction="none").sum()
            )
            errors.append((level[at] - value_v)[answer_v > 0].square())
    return torch.stack(losses).mean(), torch.cat(errors).mean()


def test_words_that_come_twice_are_asked_for_once():
    tokens, targets = recorded(is_packed=True)
    entity_nt = tokens.gene_nt.clone()
    entity_nt[0, 12] = entity_nt[0, 11]  # the two answers of the first cell are the same word, as organ and region may
    entity_nt[0, -1] = entity_nt[0, -3]
    level_nt = tokens.value_nt.clone()
    level_nt[0, -1] = level_nt[0, -3]
    tokens = replace(tokens, gene_nt=entity_nt, value_nt=level_nt)
    targets = replace(targets, entity_nt=entity_nt, level_nt=level_nt)
    with torch.no_grad():
        out = load(CASE.folder).network(tokens)
    for ours, theirs in zip(
        (NextEntity()(out, targets), NextLevel()(out, targets)), dense_loss(out, targets), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_recorded_targets_are_the_words_that_follow():
    tokens, targets = recorded(is_packed=False)
    for i, length in enumerate(tokens.layout.lengths):
        for at in targets.is_asked_nt[i].nonzero()[:, 0].tolist():
            follows = set(tokens.gene_nt[i, at + 1 : length].tolist()) or {0}
            assert set(CASE["targets"][i, at].nonzero()[:, 0].tolist()) == follows


def test_optimiser_groups():
    network = load(CASE.folder).network
    names = {parameter: published_key(name) for name, parameter in network.named_parameters()}
    config = OptimConfig(optimiser="adamw", weight_decay=0.1, undecayed=("entity_head",))
    ours = {
        group["weight_decay"]: sorted(names[p] for p in group["params"]) for group in parameter_groups(network, config)
    }
    assert ours == {group["weight_decay"]: sorted(group["params"]) for group in RECORD["optimizer_groups"]}


def test_first_weights():
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(96)], FAMILIES["scmulan"].specials)
    config = FAMILIES["scmulan"].sizes["tiny"].override(["width=256", "num_layers=2"])
    network = new_model("scmulan", vocab, config).network
    named = {published_key(name): p.detach() for name, p in network.named_parameters()}
    for name, (mean, std) in RECORD["init_stats"]["param_mean_std"].items():
        error = std / np.sqrt(named[name].numel())
        assert abs(named[name].mean() - mean) < 8 * error, name
        assert named[name].std() == pytest.approx(std, rel=0.05), name
    assert all((p == 1).all() for name, p in named.items() if "ln_" in name)
