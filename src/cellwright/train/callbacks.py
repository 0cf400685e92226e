"""What happens around the steps of a run: records, checkpoints, random numbers, and the order of the data.

Lightning's own checkpoint callback stores absolute paths, and a checkpoint it writes just before a validation skips
that validation on resume; and no callback of it restores random numbers. Hence these. A run stopped anywhere and
resumed gives the same numbers as one that was not stopped.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from cellwright.files import atomic_path
from cellwright.protocols import Loader
from cellwright.train.checkpoint import remove_tree
from cellwright.train.config import TrainConfig
from cellwright.train.plan import TrainPlan
from cellwright.types import CellBatch

METRICS, LOG, CHECKPOINTS = "metrics.csv", "log.txt", "checkpoints"


class Feed:
    """Hands the loader's minibatches to Lightning, and knows where in the data a run stands.

    Nothing is asked of the loader before the first minibatch of an epoch is wanted, so that a loader may do its work
    eagerly; and the epoch is the trainer's, whatever a checkpoint made at an epoch's end says.
    """

    def __init__(self, loader: Loader, trainer: Trainer):
        self.loader, self.trainer = loader, trainer
        self._state: dict[str, Any] | None = None
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[CellBatch]:
        state, self._state = self._state, None
        self._epoch = self.trainer.current_epoch
        if state is not None and state["epoch"] == self._epoch:
            self.loader.load_state_dict(state["loader"])
        else:
            self.loader.set_epoch(self._epoch)
        yield from self.loader

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's own state and the epoch it belongs to."""
        return {"loader": dict(self.loader.state_dict()), "epoch": self._epoch, "length": len(self)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from there with the next iteration."""
        if state_dict["length"] != len(self):
            raise ValueError(
                f"the checkpoint was made with {state_dict['length']} minibatches an epoch, the loader has"
                f" {len(self)}; resume with the same data, minibatch size and number of processes"
            )
        self._state = dict(state_dict)


class ValidFeed:
    """Hands the validation loader's minibatches to Lightning, in the same order every time."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[CellBatch]:
        self.loader.set_epoch(0)
        yield from self.loader


class RandomState(Callback):
    """Keeps torch's own random numbers (dropout) of every process in the checkpoint, and seeds them at the start."""

    KEY = "cellwright_random"

    def __init__(self, seed: int):
        self.seed = seed
        self._states: list[dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather every process's state."""
        device = pl_module.device
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        states: list[Any] = [{"cpu": torch.get_rng_state(), "cuda": cuda}]
        if trainer.world_size > 1:
            (mine,), states = states, [None] * trainer.world_size
            torch.distributed.all_gather_object(states, mine)
        checkpoint[self.KEY] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what the checkpoint holds."""
        self._states = checkpoint[self.KEY]
        if len(self._states) != trainer.world_size:
            raise ValueError(
                f"the checkpoint was made by {len(self._states)} processes, this run has {trainer.world_size};"
                " resume with the same number"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed, or put back what was saved."""
        if self._states is None:
            torch.manual_seed((self.seed << 16) + trainer.global_rank)
            return
        state, self._states = self._states[trainer.global_rank], None
        torch.set_rng_state(state["cpu"])
        if state["cuda"] is not None and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], pl_module.device)


class Recorder(Callback):
    """Writes ``metrics.csv`` and ``log.txt`` as the run goes; every row is on disk when its step is over.

    A row of metrics holds either training losses (of the last minibatch of that step, mean over processes) or
    validation losses; the other columns are empty. On resume, rows after the checkpoint are dropped.
    """

    def __init__(self, folder: Path, config: TrainConfig, metrics: tuple[str, ...]):
        self.folder, self.path, self.config = folder, folder / METRICS, config
        self.columns = ("step", "epoch", "seconds", "lr", *metrics)
        self._begin = time.monotonic()
        self._is_writer = True
        self._step, self._lr = 0, 0.0
        self._num_rows = 0

    def state_dict(self) -> dict[str, Any]:
        """Return how many rows are written."""
        return {"num_rows": self._num_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after so many rows."""
        self._num_rows = state_dict["num_rows"]

    def on_train_start(self, trainer: Trainer, plan: TrainPlan) -> None:
        """Begin the table, or cut it back to the checkpoint."""
        self._is_writer, self._step = trainer.is_global_zero, trainer.global_step
        if not self._is_writer:
            return
        kept = read_metrics(self.path)[: self._num_rows]
        self._begin = time.monotonic() - max((row["seconds"] for row in kept), default=0.0)
        with atomic_path(self.path) as draft:
            draft.write_text("".join([",".join(self.columns) + "\n", *map(self._line, kept)]), encoding="utf-8")
        note(self.folder, f"training from step {self._step}, epoch {trainer.current_epoch}")

    def on_train_batch_start(self, trainer: Trainer, plan: TrainPlan, *_: Any) -> None:
        """Note the learning rate, which is another one when the step is over."""
        self._lr = plan.lr

    def on_train_batch_end(self, trainer: Trainer, plan: TrainPlan, *_: Any) -> None:
        """Write a row every ``log_every`` steps."""
        step = trainer.global_step
        is_new, self._step = step != self._step, step
        if is_new and (step == 1 or step % self.config.log_every == 0 or step == self.config.max_steps):
            self._add(trainer, plan, "train")

    def on_validation_end(self, trainer: Trainer, plan: TrainPlan) -> None:
        """Write a row of validation losses."""
        self._add(trainer, plan, "valid")
        if self._is_writer:
            note(
                self.folder,
                f"step {self._step}: validation loss {float(trainer.callback_metrics['valid/loss']):.6g}",
            )

    def _add(self, trainer: Trainer, plan: TrainPlan, stage: str) -> None:
        found = trainer.callback_metrics
        row: dict[str, Any] = {"step": self._step, "epoch": trainer.current_epoch}
        row["seconds"] = round(time.monotonic() - self._begin, 3)
        if stage == "train":
            row["lr"] = self._lr
        for name in (name for name in self.columns if name.startswith(f"{stage}/")):
            value = found[name]
            if stage == "train" and trainer.world_size > 1:
                value = trainer.strategy.reduce(value.detach().clone(), reduce_op="mean")
            row[name] = float(value)
        self._num_rows += 1
        if self._is_writer:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(self._line(row))

    def _line(self, row: Mapping[str, Any]) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow([row.get(name, "") for name in self.columns])
        return out.getvalue()

    def on_exception(self, trainer: Trainer, plan: LightningModule, exception: BaseException) -> None:
        """Note why the run stopped."""
        if trainer.is_global_zero:
            text = f"stopped at step {trainer.global_step} by {type(exception).__name__} {exception}"
            note(self.folder, text.partition("\n")[0])


def note(folder: Path, text: str) -> None:
    """Add a line to the log of a run."""
    with open(folder / LOG, "a", encoding="utf-8") as handle:
        handle.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Read ``metrics.csv`` as one dict a row, empty cells left out; a last line that was cut short is dropped.

    A file that is not there has no rows.
    """
    path = Path(path)
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(whole))
    return [
        {name: int(value) if name in ("step", "epoch") else float(value) for name, value in row.items() if value}
        for row in rows
    ]


class Keeper(Callback):
    """Writes checkpoints where a run can go on from, and stops the run at its last step.

    ``step-<n>`` is the whole state, ``best-<n>`` the weights of the lowest validation loss. A checkpoint that is due
    when a validation or an epoch's end comes next waits for it, so that neither is lost on resume. Older ones are
    removed only after a whole newer state is on disk.
    """

    def __init__(self, folder: Path, config: TrainConfig, *, has_valid: bool):
        self.folder, self.config, self.has_valid = folder / CHECKPOINTS, config, has_valid
        self.best_step: int | None = None
        self.best_loss = math.inf
        self._saved = 0
        self._is_due = False

    @property
    def best_path(self) -> Path:
        """Where the best weights are."""
        return self.folder / _name("best", self.best_step or 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation so far."""
        return {"best_step": self.best_step, "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        self.best_step, self.best_loss = state_dict["best_step"], state_dict["best_loss"]

    def on_train_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Note where the run stands."""
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, plan: LightningModule, *_: Any) -> None:
        """Save if it is due and nothing comes between."""
        step = trainer.global_step
        is_last_epoch = trainer.current_epoch + 1 == self.config.max_epochs
        if step == self.config.max_steps or (trainer.is_last_batch and is_last_epoch):
            trainer.should_stop = True  # Lightning would stop by itself, but perhaps without a last validation
        self._is_due |= step != self._saved and (step % self.config.checkpoint_every == 0 or trainer.should_stop)
        if not trainer.is_last_batch and not self._is_validation_next(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Compare with the best so far; save if it is due."""
        loss = float(trainer.callback_metrics["valid/loss"])
        if loss < self.best_loss:
            self.best_step, self.best_loss = trainer.global_step, loss
            if self.config.keep == "best":
                trainer.save_checkpoint(self.best_path, weights_only=True)
                self._is_due = True  # the state must know its best before an older best may go
        self._is_due |= trainer.should_stop
        if not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Save what was put off to here."""
        if trainer.is_last_batch:
            self._save(trainer)

    def _is_validation_next(self, trainer: Trainer) -> bool:
        if not self.has_valid:
            return False
        if trainer.should_stop or trainer.is_last_batch:
            return True
        every = self.config.validate_every
        return every is not None and (trainer.fit_loop.total_batch_idx + 1) % (every * self.config.accumulate) == 0

    def _save(self, trainer: Trainer) -> None:
        batches = trainer.fit_loop.batch_idx + 1
        is_between_steps = batches % self.config.accumulate == 0 or trainer.is_last_batch
        if not self._is_due or not is_between_steps:  # half-gathered gradients are in no checkpoint
            return
        self._is_due, self._saved = False, trainer.global_step
        trainer.save_checkpoint(self.folder / _name("step", self._saved))
        if trainer.is_global_zero:
            keep = {_name("step", self._saved), _name("best", self.best_step or 0)}
            for old in (*self.folder.glob("step-*"), *self.folder.glob("best-*")):
                if old.name not in keep:
                    remove_tree(old)


def _name(kind: str, step: int) -> str:
    return f"{kind}-{step:09d}"


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run folder that training can go on from, or ``None``."""
    return max((folder / CHECKPOINTS).glob("step-*"), default=None)


class StderrBar(TQDMProgressBar):
    """Lightning's progress bar, on stderr: stdout belongs to results."""

    def init_train_tqdm(self) -> Any:
        """Return the bar of an epoch."""
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Any:
        """Return the bar of a validation."""
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()
