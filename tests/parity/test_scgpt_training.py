"""Losses, gradients and three optimiser steps equal the published training loops on the recorded cases."""

import pytest
import torch
from parity.cases import Case

from cellwright.models.scgpt.names import published_head_key, published_key
from cellwright.objectives.cell import Domain, Label, Similarity
from cellwright.objectives.value import CellValue, MaskedValue, PromptedValue, ZeroGate
from cellwright.types import Layout, ModelOutput, Targets

LOSS_RTOL, GRAD_RTOL, STEP_ATOL = 1e-4, 1e-3, 1e-5


def targets(case, tokens, prefix, **codes):
    is_pad_nt = tokens.layout.is_pad_nt()
    return Targets(
        value_nt=case[f"{prefix}target"].masked_fill(is_pad_nt, 0.0), is_scored_nt=tokens.is_hidden_nt, **codes
    )


def assert_loss(ours, theirs):
    torch.testing.assert_close(ours.detach().double(), theirs.double(), rtol=LOSS_RTOL, atol=1e-6)


def published(model):
    """Return name -> parameter or buffer under its published name."""
    value_input = model.config.value_input
    named = [*model.network.named_parameters(), *model.network.named_buffers()]
    layout = model.report.layout
    out = {published_key(k, layout, value_input): v for k, v in named}
    for head, module in model.heads.items():
        out |= {published_head_key(head, k, layout): v for k, v in module.named_parameters()}
    return out


def compare_gradients(case, model, prefix):
    names = published(model)
    recorded = {k.removeprefix(prefix): case[k] for k in case.arrays if k.startswith(prefix)}
    assert recorded
    noise = 5e-7 * max(float(theirs.abs().max()) for theirs in recorded.values())  # of sums that cancel exactly
    for name, theirs in recorded.items():
        ours = names[name].grad
        assert ours is not None, f"no gradient for {name}"
        torch.testing.assert_close(
            ours,
            theirs,
            rtol=GRAD_RTOL,
            atol=max(noise, GRAD_RTOL * 0.1 * float(theirs.abs().max())),
            msg=lambda m, n=name: f"{n}: {m}",
        )


def train(case, model, batches, loss_of, *, lr):
    """Run the recorded three steps; return total losses and gradient norms."""
    model.network.train()
    parameters = [p for module in (model.network, *model.heads.values()) for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=lr, eps=1e-8)
    losses, norms = [], []
    for step, batch in enumerate(batches):
        optimiser.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        if step == 0:
            compare_gradients(case, model, "grad0/train/")
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        losses.append(loss.item())
        optimiser.step()
    torch.testing.assert_close(torch.tensor(losses), case["train/train/losses"].float(), rtol=LOSS_RTOL, atol=0)
    torch.testing.assert_close(torch.tensor(norms), case["train/train/grad_norms"].float(), rtol=GRAD_RTOL, atol=0)
    after = {k.removeprefix("after/train/"): case[k] for k in case.arrays if k.startswith("after/train/")}
    assert after
    names = published(model)
    for name, theirs in after.items():
        if name == "value_encoder.norm.bias" and model.config.input_norm == "domain":
            continue  # batch norm takes the shift out again: its gradient is noise too
        ours = names[name].detach().clone()
        if name.endswith(("in_proj_bias", "Wqkv.bias")):
            # softmax does not see the key bias: its gradient is rounding noise, which Adam blows up to a full step
            width = len(ours) // 3
            ours[width : 2 * width] = theirs[width : 2 * width]
        torch.testing.assert_close(ours, theirs, atol=STEP_ATOL, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_integration_recipe():
    case = Case("scgpt", "integration_dsbn_dab_zero")
    model = case.model()
    terms = {
        "gep": (1, MaskedValue()),
        "gep_zero": (1, ZeroGate()),
        "gepc": (1, CellValue()),
        "gepc_zero": (1, ZeroGate(of="cell_value")),
        "ecs": (10, Similarity(threshold=0.8)),
        "dab": (1, Domain(model.heads["domain"])),
    }

    def loss_of(domain):
        prefix = f"in/b{domain}_"
        tokens = case.tokens(prefix, tech_batch_n=f"{prefix}batch_labels")
        out = model.network(tokens)
        asked = targets(case, tokens, prefix, domain_n=tokens.tech_batch_n)
        parts = {name: term(out, asked) for name, (_, term) in terms.items()}
        if domain == 0:
            for name, part in parts.items():
                recorded = case[f"loss0/train/{name}"]
                assert_loss(part, recorded / 10 if name == "ecs" else recorded)  # recorded with its weight
        total = sum(weight * parts[name] for name, (weight, _) in terms.items())
        if domain == 0:
            assert_loss(total, case["loss0/train/total"])
        return total

    train(case, model, range(3), loss_of, lr=1e-4)


def test_annotation_recipe():
    case = Case("scgpt", "annotation_cls")
    model = case.model()
    term = Label(model.heads["label"])

    def loss_of(i):
        tokens = case.tokens(f"in/b{i}_", hidden_value=None)
        loss = term(model.network(tokens, ()), Targets(label_n=case[f"in/b{i}_y"]))
        if i == 0:
            assert_loss(loss, case["loss0/train/cls"])
            assert_loss(loss, case["loss0/train/total"])
        return loss

    train(case, model, range(3), loss_of, lr=1e-4)


def test_multiomic_recipe():
    case = Case("scgpt", "multiomic/mod_batch")
    model = case.model()
    domain = Domain(model.heads["domain"])
    tokens = case.tokens(modality_nt="in/mod_types", tech_batch_n="in/batch_labels")

    def loss_of(i):
        out, asked = model.network(tokens), targets(case, tokens, "in/", domain_n=tokens.tech_batch_n)
        parts = {"gep": MaskedValue()(out, asked), "gepc": CellValue()(out, asked), "dab": domain(out, asked)}
        parts["total"] = sum(parts.values())
        if i == 0:
            for name, part in parts.items():
                assert_loss(part, case[f"loss0/train/{name}"])
        return parts["total"]

    train(case, model, range(3), loss_of, lr=1e-3)


@pytest.mark.parametrize("name", ["plain", "zero", "softplus_adaptive", "mvc"])
def test_perturbation_recipe(name):
    """All genes are scored; the zero gates get no gradient, for the published loss does not sample in training."""
    case = Case("scgpt", f"perturb_generator/{name}")
    model = case.model()
    tokens = case.tokens(hidden_value=None, flag_nt="in/pert_flags")
    asked = Targets(value_nt=case["in/target"], is_scored_nt=torch.ones_like(tokens.is_hidden_nt))

    def loss_of(i):
        loss = MaskedValue()(model.network(tokens, {"value_nt"}), asked)
        if i == 0:
            assert_loss(loss, case["loss0/train/mse"])
            assert_loss(loss, case["loss0/train/total"])
        return loss

    train(case, model, range(3), loss_of, lr=1e-4)


@pytest.mark.parametrize(
    "name", ["pretrain_generative_padded", "pretrain_generative_nopad", "pretrain_generative_prenorm"]
)
def test_generative_pretraining_losses_and_gradients(name):
    from dataclasses import replace

    case = Case("scgpt", name)
    model, tokens = case.model(), case.split_tokens()
    is_unknown_nt = ~tokens.layout.is_prompt_nt()
    value_nt = torch.zeros_like(tokens.value_nt)
    value_nt[is_unknown_nt] = case["in/gen_expr_target"][~case["in/gen_pad_mask"]]
    asked = Targets(value_nt=value_nt, is_scored_nt=is_unknown_nt)
    out = model.network(tokens)
    out = replace(out, prompted=model.network(replace(tokens, cell_nd=out.cell_nd.detach()), {"value_nt"}))
    parts = {"gep": MaskedValue()(out, asked), "mvc": CellValue()(out, asked), "gen": PromptedValue()(out, asked)}
    for part, value in parts.items():
        assert_loss(value, case[f"loss/{part}"])
    sum(parts.values()).backward()
    compare_gradients(case, model, "grad/")


def test_recorded_losses_of_the_base_model():
    case = Case("scgpt", "base_continuous")
    tokens = case.tokens()
    with torch.no_grad():
        out = case.model().network(tokens)
    asked = targets(case, tokens, "in/")
    assert_loss(MaskedValue()(out, asked), case["loss/masked_mse_mlm"])
    assert_loss(CellValue()(out, asked), case["loss/masked_mse_mvc"])
    assert_loss(Similarity(threshold=0.3)(out, asked), case["out/all/loss_ecs"])


def test_recorded_losses():
    case = Case("scgpt", "metrics_losses")
    value_nt, predicted_nt = case["in/loss_target"], case["in/loss_input"]
    layout = Layout((value_nt.shape[1],) * len(value_nt), value_nt.shape[1])
    hidden_ntd = torch.zeros(*value_nt.shape, 1)
    out = ModelOutput(
        hidden_ntd=hidden_ntd, cell_nd=hidden_ntd[:, 0], layout=layout, value_nt=predicted_nt, expressed_nt=predicted_nt
    )
    asked = Targets(value_nt=value_nt, is_scored_nt=case["in/loss_mask"])
    assert_loss(MaskedValue()(out, asked), case["out/loss/masked_mse"])
    assert_loss(ZeroGate()(out, asked), case["out/loss/neg_log_bernoulli"])
