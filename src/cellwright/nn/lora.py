"""Low-rank adapters: train a small correction of chosen linear layers instead of the layers themselves.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (equation 3, scaling ``alpha / r``).
Adapters are added to a network in place and can be folded into its weights, after which nothing shows that they
were there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Which layers get adapters, and how large."""

    rank: int = 8
    """Inner size r of the correction."""
    alpha: float = 16.0
    """The correction is scaled by ``alpha / rank``."""
    targets: tuple[str, ...] = ("qkv", "out")
    """Regular expressions; a linear layer is adapted when one matches the end of its dotted name, from a dot on
    (``qkv`` matches ``blocks.0.attention.qkv``; ``blocks.1.attention.*`` the attention of the second block)."""

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; an adapter needs at least 1")
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}; it must be above 0")
        if not self.targets:
            raise ValueError("targets is empty; name at least one layer, for instance 'qkv'")


class LoraLinear(nn.Linear):
    """A linear layer plus ``scale * B A``; A is random and B zero, so at first nothing changes.

    It keeps the layer's own parameters under their own names (``weight``, ``bias``), frozen.
    """

    def __init__(self, base: nn.Linear, config: LoraConfig, generator: torch.Generator):
        nn.Module.__init__(self)  # nn.Linear's own would draw new weights
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale = config.alpha / config.rank
        bound = self.in_features**-0.5
        down = torch.empty(config.rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_down = nn.Parameter(down.to(base.weight))
        self.lora_up = nn.Parameter(base.weight.new_zeros(self.out_features, config.rank))
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``."""
        low = nn.functional.linear(x, self.lora_down)
        return super().forward(x) + self.scale * nn.functional.linear(low, self.lora_up)

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same; the sum is formed in float64 and rounded once."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        change = self.scale * (self.lora_up.double() @ self.lora_down.double())
        weight = (self.weight.double() + change).detach().to(self.weight.dtype)
        plain.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        if self.bias is not None:
            plain.bias = self.bias
        return plain.train(self.training)


def add_lora(network: nn.Module, config: LoraConfig, *, seed: int = 0) -> int:
    """Adapt the chosen linear layers of ``network`` in place and freeze all else in it.

    Returns the number of layers adapted. A layer that occurs under several names stays one layer.

    Raises
    ------
    ValueError
        If no layer matches a target, or the network has adapters already.
    """
    if any(isinstance(module, LoraLinear) for module in network.modules()):
        raise ValueError("the network has low-rank adapters already; merge them first with merge_lora")
    patterns = {target: re.compile(rf"(?:.*\.)?(?:{target})") for target in config.targets}
    linear = {name: m for name, m in network.named_modules(remove_duplicate=False) if isinstance(m, nn.Linear)}
    for target, pattern in patterns.items():
        if not any(pattern.fullmatch(name) for name in linear):
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(f"no linear layer matches the target {target!r}; layer names end in {ends}")
    chosen = {name: m for name, m in linear.items() if any(p.fullmatch(name) for p in patterns.values())}
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    adapted: dict[nn.Linear, LoraLinear] = {}
    for name, base in chosen.items():
        if base not in adapted:
            adapted[base] = LoraLinear(base, config, generator)
        _put(network, name, adapted[base])
    return len(adapted)


def merge_lora(network: nn.Module) -> int:
    """Fold all adapters into their layers, in place; return how many there were.

    The layers are plain again and the state dict has its original keys. Parameters stay frozen: call
    ``network.requires_grad_(True)`` to train them. A weight that was shared with another module is shared no more.
    """
    layers = {n: m for n, m in network.named_modules(remove_duplicate=False) if isinstance(m, LoraLinear)}
    merged = {layer: layer.merged() for layer in set(layers.values())}
    for name, layer in layers.items():
        _put(network, name, merged[layer])
    return len(merged)


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    if not last or not name:
        raise ValueError("the network is itself a linear layer; put it into a module to adapt it")
    setattr(network.get_submodule(parent), last, layer)
