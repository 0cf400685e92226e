"""Optimiser, parameter groups and learning-rate schedules.

Published values: scGPT fine-tuning uses Adam, rate 1e-4, times 0.9 after each epoch, no weight decay; its
pre-training Adam, 1e-4, 10,000 warm-up steps and then a cosine. Its "0.9 weight decay" is the decay of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cellwright.config import Config, did_you_mean

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """Optimiser and schedule. Prefixes are dotted names from the plan on: ``network.blocks``, ``objective.heads``."""

    optimiser: Literal["adam", "adamw"] = "adam"
    """adamw takes the weight decay out of the gradient (Loshchilov & Hutter 2019)."""
    lr: PositiveFloat = 1e-4
    """Highest learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of Adam's two running means."""
    eps: PositiveFloat = 1e-8
    """Adam's floor; published fine-tuning in half precision uses 1e-4."""
    weight_decay: NonNegativeFloat = 0.0
    """For weight matrices only: biases, norms and embeddings are never decayed."""
    undecayed: tuple[str, ...] = ()
    """Prefixes of further parameters without weight decay (scMulan: its entity head)."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """After the warm-up: cosine falls to 0 at the last step; step falls after each epoch."""
    decay_per_epoch: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor after each epoch, for the schedule step."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate rises in a straight line; the first step is not at 0 (published: it is)."""
    frozen: tuple[str, ...] = ()
    """Prefixes of parameters that are not trained."""
    lr_scale: dict[str, PositiveFloat] = {}
    """Prefix -> factor on the learning rate; the longest matching prefix counts."""


def freeze(module: nn.Module, prefixes: Iterable[str]) -> None:
    """Switch gradients off under these prefixes; a prefix that names nothing is a ``ValueError``."""
    for prefix in _known(module, prefixes):
        for name, parameter in module.named_parameters():
            if _is_under(name, prefix):
                parameter.requires_grad_(False)


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Sort the parameters that require gradients into groups of one rate and one weight decay.

    Each group has ``params``, ``lr``, ``weight_decay`` and ``scale`` (its factor on the rate). Parameters under
    ``config.frozen`` are left out.

    Raises
    ------
    ValueError
        If a prefix names nothing in ``module``, or nothing is left to train.
    """
    frozen, scaled = _known(module, config.frozen), _known(module, config.lr_scale)
    spared = _known(module, config.undecayed)
    undecayed = {
        id(p)
        for m in module.modules()
        for p in m.parameters(recurse=False)
        if isinstance(m, nn.Embedding | nn.EmbeddingBag) or p.ndim < 2
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or any(_is_under(name, prefix) for prefix in frozen):
            continue
        prefix = max((p for p in scaled if _is_under(name, p)), key=len, default=None)
        scale = 1.0 if prefix is None else config.lr_scale[prefix]
        is_spared = id(parameter) in undecayed or any(_is_under(name, prefix) for prefix in spared)
        decay = 0.0 if is_spared else config.weight_decay
        groups.setdefault((scale, decay), []).append(parameter)
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen")
    return [
        {"params": params, "lr": config.lr * scale, "weight_decay": decay, "scale": scale}
        for (scale, decay), params in groups.items()
    ]


def build_optimiser(
    module: nn.Module, config: OptimConfig, *, total_steps: int, steps_per_epoch: int
) -> tuple[Optimizer, LambdaLR]:
    """Return the optimiser and a schedule that is to be stepped after every optimiser step."""
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
    optimiser = make(parameter_groups(module, config), lr=config.lr, betas=config.betas, eps=config.eps)

    def factor(step: int) -> float:
        return lr_factor(config, step, total_steps=total_steps, steps_per_epoch=steps_per_epoch)

    return optimiser, LambdaLR(optimiser, factor)


def lr_factor(config: OptimConfig, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
    """Return the factor on the learning rate at ``step`` (0 = the first), 0 .. 1."""
    warmup = config.warmup_steps
    rise = min(1.0, (step + 1) / (warmup + 1))
    if config.schedule == "step":
        return rise * config.decay_per_epoch ** (step // max(steps_per_epoch, 1))
    if config.schedule == "cosine" and step > warmup:
        progress = min(1.0, (step - warmup) / max(total_steps - warmup, 1))
        return 0.5 * (1 + math.cos(math.pi * progress))
    return rise


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _known(module: nn.Module, prefixes: Iterable[str]) -> list[str]:
    parts = [name.split(".") for name, _ in module.named_parameters()]
    known = {".".join(words[:size]) for words in parts for size in range(1, len(words) + 1)}
    for prefix in (prefixes := list(prefixes)):
        if prefix not in known:
            tops = sorted({words[0] for words in parts})
            near = did_you_mean(prefix, known) or f"; names begin with {tops}"
            raise ValueError(f"no parameter is named {prefix!r} or lies under it{near}")
    return prefixes
