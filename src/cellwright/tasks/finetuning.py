"""Fine-tuning for any task: a copy of a model, an objective, a mode, and the engine's loop around them.

A task brings the objective and what was new in the network (`cellwright.models.adapt`); which weights move is decided
here, in the same four ways for all tasks. Nothing here knows a task or a family.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field

from cellwright.config import Config
from cellwright.data.cells import Cells
from cellwright.data.loader import CellLoader
from cellwright.nn.heads import ClassHead
from cellwright.nn.lora import LoraConfig, add_lora, merge_lora
from cellwright.objectives import Objective
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.left_out import training_notes
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig

if TYPE_CHECKING:
    from cellwright.train.run import FitResult


SPARING = ("probe", "blocks", "lora")
"""Modes that leave most of what a network has learnt as it is."""


class FinetuneConfig(Config):
    """How a model is fine-tuned, whatever for."""

    mode: Literal["full", "lora", "probe", "blocks", "scratch"] = "full"
    """full: all weights. lora: low-rank changes, folded in at the end. probe: the network stays as it is.
    blocks: some transformer blocks alone. scratch: all weights, newly drawn (what pre-training is worth is the
    difference to full)."""
    batch_size: int = Field(32, ge=1)
    """Cells a step."""
    inputs: dict[str, Any] = {"cls_value": 0.0}
    """Changes to how cells are prepared; published fine-tuning gives ``<cls>`` the value 0."""
    lora: LoraConfig = LoraConfig()
    """Used by mode lora."""
    blocks: tuple[int, ...] = (-2,)
    """Blocks that mode blocks trains, counted from 0, or back from -1 (published scFoundation: the last but one)."""
    optim: OptimConfig = OptimConfig(lr=1e-4, schedule="step", decay_per_epoch=0.9)
    """Optimiser; learning rates of small networks trained from little data want to be higher."""
    train: TrainConfig = TrainConfig(max_epochs=10, keep="best")
    """Length, precision, checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Positions of cells to train on, and to choose the best weights by (may be empty)."""

    train: np.ndarray
    valid: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def to_finetune(model: Any, config: FinetuneConfig) -> Any:
    """Return the copy of a model that is going to be trained: newly drawn in mode scratch, inputs as configured."""
    tuned = model.fresh(config.train.seed) if config.mode == "scratch" else model.copy()
    tuned.inputs = type(tuned.inputs).read(tuned.inputs.record() | config.inputs, "inputs")
    return tuned


def new_class_head(width: int, num_classes: int, *, seed: int, **options: Any) -> ClassHead:
    """Return a class head drawn from ``seed``; the process's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClassHead(width, num_classes, **options)


def cell_loaders(source: Cells, rows: Rows, config: FinetuneConfig) -> list[CellLoader]:
    """Return the loader of training cells, and that of validation cells where there are any."""
    seed = config.train.seed
    loaders = [CellLoader(source, rows.train, config.batch_size, seed=seed)]
    if len(rows.valid):
        loaders.append(CellLoader(source, rows.valid, config.batch_size, seed=seed, shuffle=False))
    return loaders


def fit_objective(
    tuned: Any,
    objective: Objective,
    loaders: list[CellLoader],
    *,
    config: FinetuneConfig,
    folder: Path,
    unlearnt: Collection[str] = (),
    is_progress_shown: bool = False,
) -> FitResult:
    """Train a model's network, and the heads that the objective owns, in place.

    Parameters
    ----------
    tuned
        What `to_finetune` returned, with further parts where the task needs them.
    objective
        What is trained for.
    loaders
        Training minibatches and, if there are any, those to choose the best weights by.
    folder
        Run folder; see `cellwright.train.run.open_run`.
    unlearnt
        Tensors of the network that hold no learnt numbers (`cellwright.models.adapt.Adapted.unlearnt`): they are
        trained in modes probe, lora and blocks too.

    Raises
    ------
    ValueError
        When the network cannot answer what the objective asks, or nothing would be trained.
    """
    from cellwright.train.plan import TrainPlan
    from cellwright.train.run import fit

    for loader in loaders:
        check_vocab(tuned, loader.source)
    network = tuned.network.train()
    how = {"lora": config.lora, "blocks": config.blocks, "seed": config.train.seed}
    choose_trained(network, config.mode, unlearnt=unlearnt, **how)
    tokenize = tuned.tokenizer()
    plan = TrainPlan(network, objective, tokenize, optim=config.optim, seed=config.train.seed)
    notes = training_notes(tokenize, loaders[0])
    result = fit(plan, *loaders, config=config.train, folder=folder, notes=notes, is_progress_shown=is_progress_shown)
    if config.mode == "lora":
        merge_lora(network)
    network.requires_grad_(True).eval()
    return result


def choose_trained(
    network: Any,
    mode: str,
    *,
    lora: LoraConfig,
    blocks: Collection[int],
    unlearnt: Collection[str],
    seed: int,
) -> None:
    """Switch gradients off where a mode trains nothing, in place; mode lora adds its adapters (see `merge_lora`)."""
    if mode in ("probe", "blocks"):
        network.requires_grad_(False)
        if mode == "blocks":
            _release_blocks(network, blocks)
    elif mode == "lora":
        add_lora(network, lora, seed=seed)
    if mode in SPARING:
        for name, parameter in network.named_parameters():
            if name in unlearnt:
                parameter.requires_grad_(True)


def _release_blocks(network: Any, chosen: Collection[int]) -> None:
    """Let some transformer blocks of a frozen network be trained."""
    num = len(network.blocks)
    for number in chosen:
        if not -num <= number < num:
            raise ValueError(f"blocks = {number}: the network has blocks 0 to {num - 1}, or -{num} to -1 from the end")
        network.blocks[number].requires_grad_(True)
