"""Running a model over a source without training: deterministic, in bounded memory, rows in the source's order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from tqdm import tqdm

from cellwright.config import Config
from cellwright.protocols import CellSource, Tokenizer
from cellwright.types import CellBatch, Draw, ModelOutput, TokenBatch

MAX_TOKENS = 32768  # a minibatch, where options say nothing
MAX_TOKENS_CPU = 2048  # the same on a CPU: more are no faster there, and take memory
READ_AHEAD = 2048  # cells read at once; sorted by length inside, so that minibatches hold cells of like length


class MachineOptions(Config):
    """Where a model runs, and how much at once; none of these changes results beyond rounding."""

    batch_size: int = Field(64, ge=1)
    """Most cells a minibatch."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens a minibatch (a longer cell travels alone); bounds memory. Unset = 2,048 on a CPU, else 32,768; cells
    that are made: 32,768 anywhere."""
    device: str = "auto"
    """Where to run: auto | cpu | cuda | cuda:N | mps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network: float32 | bfloat16; results are float32 either way."""
    progress: bool = True
    """Show a progress bar on standard error, where that is a terminal or a log."""


class RunOptions(MachineOptions):
    """How to run, but for the seed; for verbs that have one seed for all."""

    ties: Literal["upper", "random"] | None = None
    """Bin of values at coinciding edges: upper | random; unset = as the model was made for."""
    max_length: int | None = Field(None, ge=2)
    """Most tokens a cell; longer cells are sub-sampled. Unset = as the model was made for."""


class InferenceOptions(RunOptions):
    """How to run; none of these changes results beyond rounding, but ``seed`` where something is drawn."""

    seed: int = Field(0, ge=0)
    """Seed of gene sub-sampling beyond the length limit, and of random ties."""


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` takes CUDA, then MPS, then the CPU. An absent one is refused."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is not known; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {name!r} cannot run models; use auto, cpu, cuda, cuda:N or mps")
    is_there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(device.type, lambda: True)
    if not is_there():
        raise ValueError(f"device {name!r} is not available on this machine; use --device cpu")
    return device


@contextmanager
def in_use(modules: list[nn.Module], device: torch.device) -> Iterator[None]:
    """Put modules on a device in evaluation mode, and put everything back as it was afterwards."""
    before = [(m, m.training, next(iter([*m.parameters(), *m.buffers()]), torch.empty(0)).device) for m in modules]
    try:
        for module in modules:
            module.to(device).eval()
        with torch.inference_mode():
            yield
    finally:
        for module, is_training, home in before:
            module.to(home).train(is_training)


def run_network(
    model: Any, source: CellSource, options: InferenceOptions, *, outputs: Collection[str] = (), what: str = "cells"
) -> Iterator[tuple[np.ndarray, ModelOutput]]:
    """Yield (positions in ``source``, network output on the device) for every cell, each once.

    Where no ``outputs`` are asked for, hidden states are those that the cell embedding is made from, no others.
    Must be used inside `in_use`. Within each block of cells read ahead, cells of like length travel together;
    the positions say which they are.
    """
    only = None if outputs else model.network.pooled_from
    for at_n, tokens in run_tokenizer(model, source, options, what=what):
        with in_precision(options, tokens.gene_nt.device):
            out = model.network(tokens, outputs, only=only)
        yield at_n, out


def run_tokenizer(
    model: Any,
    source: CellSource,
    options: InferenceOptions,
    *,
    what: str = "cells",
    inputs: Mapping[str, Any] | None = None,
) -> Iterator[tuple[np.ndarray, TokenBatch]]:
    """Yield (positions in ``source``, tokens on the network's device) for every cell, each once; see `run_network`.

    ``inputs`` are changes to how cells are prepared, fields of `cellwright.models.InputConfig`.
    """
    tokenize = tokenizer_for(model, options, inputs)
    device = next(model.network.parameters()).device
    with tqdm(total=len(source), desc=what, unit="cell", disable=not options.progress, leave=False) as bar:
        for start in range(0, len(source), READ_AHEAD):
            cells = source.read(np.arange(start, min(start + READ_AHEAD, len(source))))
            for at_n, tokens in token_batches(tokenize, cells, options, device):
                yield start + at_n, tokens
                bar.update(len(at_n))


def tokenizer_for(model: Any, options: InferenceOptions, inputs: Mapping[str, Any] | None = None) -> Tokenizer:
    """Return the tokeniser of a model that is run with these options, and ``inputs`` as in `run_tokenizer`."""
    changes = {"ties": options.ties, "max_length": options.max_length} | dict(inputs or {})
    return model.tokenizer(**{name: value for name, value in changes.items() if value is not None})


def refuse_max_length(options: RunOptions, why: str) -> None:
    """Raise ``ValueError`` where a limit on tokens was given to a task that says itself which genes cells are fed."""
    if options.max_length is not None:
        raise ValueError(f"max_length = {options.max_length}: {why}; leave it out (--max-length)")


def token_batches(
    tokenize: Tokenizer, cells: CellBatch, options: InferenceOptions, device: torch.device
) -> Iterator[tuple[np.ndarray, TokenBatch]]:
    """Yield (positions among ``cells``, tokens on the device) for every cell, each once, shortest first."""
    for at_n in by_length(tokenize.num_tokens_n(cells), options, device):
        yield at_n, tokenize(cells.take(at_n), Draw(options.seed)).to(device)


def in_precision(options: MachineOptions, device: torch.device) -> torch.autocast:
    """Return the context in which the network computes in the precision asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")


def by_length(length_n: np.ndarray, options: MachineOptions, device: torch.device) -> Iterator[np.ndarray]:
    """Cut cells, shortest first, into minibatches within the limits on cells and tokens."""
    max_tokens = options.max_tokens or (MAX_TOKENS_CPU if device.type == "cpu" else MAX_TOKENS)
    order_n = np.argsort(length_n, kind="stable")
    start = 0
    while start < len(order_n):
        stop = start + 1
        while stop < len(order_n) and stop - start < options.batch_size:
            if length_n[order_n[start : stop + 1]].sum() > max_tokens:
                break
            stop += 1
        yield order_n[start:stop]
        start = stop
