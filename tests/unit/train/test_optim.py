"""Parameter groups, freezing and schedules."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cellwright.train.optim import OptimConfig, build_optimiser, freeze, lr_factor, parameter_groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gene = nn.Embedding(5, 3)
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.norm = nn.LayerNorm((2, 3))
        self.out = nn.Linear(3, 5, bias=False)


def by_name(net, groups):
    names = {id(p): name for name, p in net.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


def test_only_weight_matrices_decay():
    net = Net()
    net.norm = nn.LayerNorm(3)
    groups = by_name(net, parameter_groups(net, OptimConfig(weight_decay=0.1)))
    assert set(groups) == {name for name, _ in net.named_parameters()}
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    assert decayed == {"blocks.0.weight", "blocks.1.weight", "out.weight"}


def test_a_weight_shared_with_an_embedding_does_not_decay_and_is_there_once():
    net = Net()
    net.out.weight = net.gene.weight
    groups = parameter_groups(net, OptimConfig(weight_decay=0.1))
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    assert by_name(net, groups)["gene.weight"]["weight_decay"] == 0


def test_the_longest_prefix_sets_the_rate():
    config = OptimConfig(lr=0.1, lr_scale={"blocks": 0.5, "blocks.1": 2.0})
    net = Net()
    rates = {name: group["lr"] for name, group in by_name(net, parameter_groups(net, config)).items()}
    assert rates["blocks.0.weight"] == 0.05
    assert rates["blocks.1.bias"] == 0.2
    assert rates["gene.weight"] == 0.1


def test_frozen_parts_are_left_out_and_get_no_gradient():
    net = Net()
    config = OptimConfig(frozen=("gene", "blocks.0"))
    assert not {"gene.weight", "blocks.0.weight"} & set(by_name(net, parameter_groups(net, config)))
    freeze(net, config.frozen)
    net.out(net.blocks[1](net.blocks[0](net.gene(torch.arange(5))))).sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is None and "norm" not in name} == {
        "gene.weight",
        "blocks.0.weight",
        "blocks.0.bias",
    }


@pytest.mark.parametrize("options", [{"frozen": ("block",)}, {"lr_scale": {"blocks.2": 0.5}}])
def test_a_prefix_that_names_nothing_is_an_error(options):
    with pytest.raises(ValueError, match=r"did you mean 'blocks"):
        parameter_groups(Net(), OptimConfig(**options))


def test_a_prefix_ends_at_a_dot():
    net = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1)})
    freeze(net, ["a"])
    assert net["ab"].weight.requires_grad


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(Net().requires_grad_(False), OptimConfig())


def rates(config, steps, **counts):
    optimiser, schedule = build_optimiser(Net(), config, **counts)
    out = []
    for _ in range(steps):
        out.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return out


def test_cosine_rises_then_falls_to_nothing():
    out = rates(OptimConfig(lr=1.0, schedule="cosine", warmup_steps=4), 21, total_steps=20, steps_per_epoch=5)
    assert out[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert out[12] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert out[20] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in zip(out[4:], out[5:], strict=False))


def test_step_decays_by_epoch():
    out = rates(OptimConfig(lr=2.0, schedule="step", decay_per_epoch=0.5), 7, total_steps=9, steps_per_epoch=3)
    assert out == pytest.approx([2, 2, 2, 1, 1, 1, 0.5])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["constant", "cosine", "step"]),
    st.integers(0, 20),
    st.integers(1, 30),
    st.integers(1, 10),
    st.integers(0, 60),
)
def test_factors_stay_between_nothing_and_one(schedule, warmup, total, per_epoch, step):
    config = OptimConfig(schedule=schedule, warmup_steps=warmup)
    factor = lr_factor(config, step, total_steps=total, steps_per_epoch=per_epoch)
    assert 0 <= factor <= 1
    assert step >= total or factor > 0


def test_adam_is_the_published_default_and_decay_is_decoupled_in_adamw():
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        optimiser, _ = build_optimiser(Net(), OptimConfig(optimiser=name), total_steps=1, steps_per_epoch=1)
        assert type(optimiser) is kind
        assert optimiser.defaults["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("options", [{"lr": 0}, {"betas": (0.9, 1.0)}, {"schedule": "linear"}, {"lr_scale": {"a": 0}}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        OptimConfig(**options)
