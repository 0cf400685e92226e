"""A run: its folder, its loop, and how it is taken up again.

A run folder holds ``recipe.json`` (what was asked), ``versions.json``, ``metrics.csv``, ``log.txt`` and
``checkpoints/``. The loop is Lightning's; what is put around it is in `cellwright.train.callbacks`.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import EarlyStopping

from cellwright.config import record_differences, versions
from cellwright.files import read_json, write_json
from cellwright.protocols import Loader
from cellwright.train.callbacks import (
    CHECKPOINTS,
    METRICS,
    Feed,
    Keeper,
    RandomState,
    Recorder,
    StderrBar,
    ValidFeed,
    latest,
    note,
    read_metrics,
)
from cellwright.train.checkpoint import FolderCheckpoint, read_tree
from cellwright.train.config import TrainConfig
from cellwright.train.plan import TrainPlan

RECIPE, VERSIONS = "recipe.json", "versions.json"
CHATTER = (
    "The number of training batches .* is smaller than the logging interval",
    "GPU available but not used",
    "You defined a `validation_step` but have no `val_dataloader`",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
"""Lightning's warnings about choices that are made here on purpose, and about its own code."""

__all__ = ["FitResult", "TrainConfig", "fit", "open_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a run came to."""

    history: list[dict[str, float]]
    """Rows of ``metrics.csv``: step, epoch, seconds, lr and the losses."""
    seconds: float
    """Wall time of this call."""
    num_steps: int
    """Steps made in all, those before a resume included."""
    best_step: int | None
    """Step of the lowest validation loss; ``None`` without validation."""
    best_loss: float | None
    num_trained: int
    """Parameters that were trained: parts that no loss reaches are not counted."""
    num_parameters: int
    """Parameters of network and heads, frozen ones included."""
    notes: tuple[str, ...] = ()
    """What there was to say of the cells it was trained on."""


def open_run(folder: str | Path, record: Mapping[str, Any], *, resume: bool = False) -> Path:
    """Make a run's folder, or open it again.

    Parameters
    ----------
    record
        The recipe in JSON form. On resume it must be the one the run was begun with; only what lies under ``train``
        (how long, on what) may differ, and the difference is noted in ``log.txt``.
    resume
        Take up the run in ``folder``.

    Raises
    ------
    ValueError
        If the folder holds files and ``resume`` is off, or holds another run or none at all and it is on.
    FileNotFoundError
        If there is nothing to resume.
    """
    folder = Path(folder)
    if rank_zero_only.rank:  # the first process has made it
        return folder
    is_run = (folder / RECIPE).exists()
    if resume:
        if not is_run:
            raise FileNotFoundError(f"no run to resume in {folder}: {RECIPE} is not there")
        _note_differences(folder, record)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "a run already; resume it" if is_run else "other files"
        raise ValueError(f"{folder} holds {what}, or choose a folder that is new or empty")
    write_json(folder / RECIPE, dict(record))
    write_json(folder / VERSIONS, versions())
    return folder


def _note_differences(folder: Path, record: Mapping[str, Any]) -> None:
    changed = record_differences(read_json(folder / RECIPE), record)
    for name, before, now in changed:
        if name.split(".")[0] != "train" or name == "train.seed":
            raise ValueError(
                f"the run in {folder} was begun with {name} = {before!r}, not {now!r}; only"
                " 'train' options other than the seed may change on resume"
            )
    lines = [f"resumed with {name} = {now!r}, before {before!r}" for name, before, now in changed]
    before, now = read_json(folder / VERSIONS), versions()
    lines += [
        f"resumed with {name} {now[name]}, before {before.get(name)}" for name in now if now[name] != before.get(name)
    ]
    for line in lines:
        note(folder, line)


def fit(
    plan: TrainPlan,
    loader: Loader,
    valid: Loader | None = None,
    *,
    config: TrainConfig,
    folder: str | Path,
    resume: bool = False,
    notes: Sequence[str] = (),
    is_progress_shown: bool = True,
) -> FitResult:
    """Train ``plan.network`` in place and return what came of it.

    Parameters
    ----------
    loader, valid
        Cells to train on and to validate on. Every process must get the same number of minibatches.
    folder
        Where metrics, log and checkpoints go; see `open_run`.
    resume
        Go on from the newest checkpoint in ``folder`` (from the beginning, if the run was stopped before the first).
        The result is that of a run that was never stopped, bit for bit on one machine.
    notes
        Lines for the log before the first step of a new run.
    is_progress_shown
        Show a progress bar on stderr.

    Raises
    ------
    ValueError
        If the folder holds results and ``resume`` is off, a loader is empty, ``keep`` or ``patience`` asks for
        validation and ``valid`` is ``None``, or the checkpoint is damaged or was made with other data.
    FloatingPointError
        If the loss is not finite.
    KeyboardInterrupt
        If the user stops the run; it can be resumed from its last checkpoint.

    Notes
    -----
    The network ends in evaluation mode. torch's global random state on the CPU is left as it was.
    """
    folder = Path(folder)
    _check(loader, valid, config)
    checkpoint = _starting_point(folder, resume=resume)
    keeper = Keeper(folder, config, has_valid=valid is not None)
    callbacks: list[lightning.Callback] = [RandomState(config.seed), Recorder(folder, config, plan.metrics)]
    if config.patience is not None:
        callbacks.append(EarlyStopping("valid/loss", patience=config.patience, check_on_train_epoch_end=False))
    callbacks += [keeper, *([StderrBar()] if is_progress_shown else [])]
    plan.horizon = lambda: _horizon(len(loader), config)
    plan.train()
    for line in () if resume or rank_zero_only.rank else notes:
        note(folder, line)
    begin = time.monotonic()
    with _quiet(), _leaving_no_trace():
        trainer = _trainer(config, callbacks, folder, is_progress_shown=is_progress_shown)
        feed = Feed(loader, trainer)
        path = None if checkpoint is None else str(checkpoint)
        trainer.fit(plan, feed, None if valid is None else ValidFeed(valid), ckpt_path=path)
    if config.keep == "best":
        plan.load_state_dict(read_tree(keeper.best_path)["state_dict"])
    plan.eval()
    seconds = time.monotonic() - begin
    if trainer.is_global_zero:
        note(folder, f"finished at step {trainer.global_step} after {seconds:.1f} s")
    return FitResult(
        history=read_metrics(folder / METRICS),
        seconds=seconds,
        num_steps=trainer.global_step,
        best_step=keeper.best_step,
        best_loss=None if keeper.best_step is None else keeper.best_loss,
        num_trained=sum(p.numel() for p in trainer.optimizers[0].state),
        num_parameters=sum(p.numel() for p in plan.parameters()),
        notes=tuple(notes),
    )


def _check(loader: Loader, valid: Loader | None, config: TrainConfig) -> None:
    for option, value in (("keep='best'", config.keep == "best"), ("patience", config.patience is not None)):
        if value and valid is None:
            raise ValueError(f"{option} needs a validation loss, and no validation cells were given")
    _check_accelerator(config.accelerator)
    if not len(loader) or (valid is not None and not len(valid)):
        raise ValueError("a loader gives no minibatches: too few cells for the minibatch size")


def _check_accelerator(name: str) -> None:
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    absent["gpu"] = absent["cuda"] and absent["mps"]
    if absent.get(name):
        raise ValueError(f"train.accelerator = {name!r}, and this machine has none; use auto or cpu")


def _starting_point(folder: Path, *, resume: bool) -> Path | None:
    """Return the checkpoint to go on from; refuse to write over results."""
    if resume:
        return latest(folder)
    if rank_zero_only.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, CHECKPOINTS):
            if (folder / name).exists():
                raise ValueError(f"{folder} holds the {name} of an earlier run; resume it or choose another folder")
    return None


def _horizon(num_batches: int, config: TrainConfig) -> tuple[int, int]:
    per_epoch = math.ceil(num_batches / config.accumulate)
    by_epochs = math.inf if config.max_epochs is None else config.max_epochs * per_epoch
    return int(min(by_epochs, config.max_steps or math.inf)), per_epoch


def _trainer(config: TrainConfig, callbacks: list, folder: Path, *, is_progress_shown: bool) -> lightning.Trainer:
    strategy = config.strategy
    if strategy == "auto" and config.devices != 1:
        strategy = "ddp_find_unused_parameters_true"
    every = config.validate_every
    return lightning.Trainer(
        accelerator=config.accelerator,
        devices=list(config.devices) if isinstance(config.devices, tuple) else config.devices,
        strategy=strategy,
        precision=config.precision,
        max_epochs=config.max_epochs or -1,
        max_steps=config.max_steps or -1,
        gradient_clip_val=config.clip_norm or None,
        accumulate_grad_batches=config.accumulate,
        val_check_interval=1.0 if every is None else every * config.accumulate,
        check_val_every_n_epoch=1 if every is None else None,
        deterministic=config.is_deterministic,
        callbacks=callbacks,
        plugins=[FolderCheckpoint()],
        default_root_dir=folder,
        enable_progress_bar=is_progress_shown,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes and adverts; warnings of anyone else, the user's included, pass."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in CHATTER:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """Put back what Lightning changes in the process: the answer to Ctrl-C, determinism, torch's random state."""
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns one into the other
            raise KeyboardInterrupt from None
        raise
    finally:
        torch.use_deterministic_algorithms(is_deterministic)
        if is_main:
            signal.signal(signal.SIGINT, handler)
