"""Low-rank adapters: no change at first, no gradient elsewhere, exact merging."""

import pytest
import torch
from torch import nn
from toy_cells import ToyModel, ToyTokenizer, toy_cells

from cellwright.nn.lora import LoraConfig, LoraLinear, add_lora, merge_lora
from cellwright.types import Draw

CONFIG = LoraConfig(rank=2, alpha=6.0, targets=(r"mix\.0", "head"))


def answer(model):
    return model(ToyTokenizer()(toy_cells(), Draw())).value_nt


def trained():
    model, generator = ToyModel(), torch.Generator().manual_seed(7)
    add_lora(model, CONFIG)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_up" in name:
                parameter.normal_(generator=generator)
    return model


def test_nothing_changes_at_first():
    model, before = ToyModel(), answer(ToyModel())
    assert add_lora(model, CONFIG) == 2
    assert isinstance(model.mix[0], LoraLinear)
    assert type(model.cell_head) is nn.Linear  # a target begins at a dot
    assert torch.equal(answer(model), before)


def test_only_adapters_get_a_gradient():
    model = trained()
    answer(model).square().mean().backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None}
    assert got == {f"{layer}.lora_{part}" for layer in ("mix.0", "head") for part in ("down", "up")}


def test_merging_is_exact_and_leaves_no_trace():
    model, plain = trained(), ToyModel()
    adapted = answer(model)
    assert (adapted - answer(plain)).abs().max() > 0.1
    assert merge_lora(model) == 2
    assert list(model.state_dict()) == list(plain.state_dict())
    assert {type(m) for m in model.modules()} == {type(m) for m in plain.modules()}
    torch.testing.assert_close(answer(model), adapted, rtol=1e-5, atol=1e-6)
    expected = plain.head.weight + 3.0 * (trained().head.lora_up @ trained().head.lora_down)
    torch.testing.assert_close(model.head.weight.detach(), expected.detach(), rtol=1e-6, atol=1e-6)
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(answer(plain), answer(model))


def test_merging_untrained_adapters_gives_the_same_weights_back():
    model, before = ToyModel(), ToyModel().state_dict()
    add_lora(model, CONFIG)
    merge_lora(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_layers_own_keys_stay_and_the_seed_decides():
    models = [ToyModel(), ToyModel(), ToyModel()]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(seed)  # the global stream does not matter
        add_lora(model, CONFIG, seed=seed)
    first, same, other = (model.state_dict() for model in models)
    assert set(ToyModel().state_dict()) < set(first)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["head.lora_down"], other["head.lora_down"])


def test_a_shared_layer_stays_shared():
    layer = nn.Linear(3, 3)
    net = nn.ModuleDict({"a": layer, "b": layer})
    assert add_lora(net, LoraConfig(targets=("a", "b"))) == 1
    assert net["a"] is net["b"]
    assert merge_lora(net) == 1
    assert net["a"] is net["b"]


@pytest.mark.parametrize("bias", [True, False])
def test_dtype_mode_and_bias_are_kept(bias):
    net = nn.Sequential(nn.Linear(3, 4, bias=bias)).to(torch.bfloat16).eval()
    add_lora(net, LoraConfig(targets=("0",)))
    assert not net[0].training
    assert net[0].lora_up.dtype == torch.bfloat16
    assert net(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    merge_lora(net)
    assert (net[0].bias is not None) == bias


def test_mistakes_are_errors():
    with pytest.raises(ValueError, match=r"target 'qkv'; layer names end in \['0', 'cell_head', 'head', 'value'\]"):
        add_lora(ToyModel(), LoraConfig(targets=("head", "qkv")))
    model = trained()
    with pytest.raises(ValueError, match="already"):
        add_lora(model, CONFIG)
    with pytest.raises(ValueError, match="rank"):
        LoraConfig(rank=0)
