"""What one step of training does, in the shape that Lightning drives. Nothing here knows a family or a loss."""

from __future__ import annotations

from collections.abc import Callable

import lightning
from torch import Tensor, nn

from cellwright.protocols import Tokenizer
from cellwright.train.optim import OptimConfig, build_optimiser, freeze
from cellwright.types import VALID_EPOCH, CellBatch, Draw, LossReport


class TrainPlan(lightning.LightningModule):
    """A network, what it is trained for, and how its weights are changed.

    Parameters
    ----------
    network
        A `CellModel`. It is trained in place.
    objective
        A `cellwright.objectives.Objective` or anything with its ``check``, ``step`` and ``terms``; checked here
        against the network.
    tokenize
        Turns the loader's cells into tokens.
    optim
        Optimiser, schedule, frozen parts. Prefixes begin with ``network.`` or ``objective.``.
    seed
        Of everything that tokeniser and view draw; together with epoch, minibatch and rank it decides all of it.

    Raises
    ------
    ValueError
        If a term asks for what the network or the view cannot give, or a frozen prefix names nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: nn.Module,
        tokenize: Tokenizer,
        *,
        optim: OptimConfig,
        seed: int = 0,
    ):
        super().__init__()
        objective.check(network)
        self.network = network
        self.objective = objective
        self.tokenize = tokenize
        self.optim = optim
        self.seed = seed
        self.horizon: Callable[[], tuple[int, int]] | None = None
        """Returns (total steps, steps per epoch); set by `cellwright.train.run.fit`."""
        freeze(self, optim.frozen)

    @property
    def lr(self) -> float:
        """Learning rate of the coming step, for a parameter whose factor is 1."""
        group = self.optimizers(use_pl_optimizer=False).param_groups[0]
        return group["lr"] / group["scale"]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the losses it logs, in order."""
        names = ("loss", *self.objective.terms)
        return tuple(f"{stage}/{name}" for stage in ("train", "valid") for name in names)

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """Return the loss of one minibatch of cells."""
        report = self._report(batch, self.current_epoch, batch_idx)
        self.log("train/loss", report.loss.detach(), prog_bar=True, batch_size=len(batch))
        self.log_dict({f"train/{name}": part for name, part in report.parts.items()}, batch_size=len(batch))
        return report.loss

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Log the loss of one minibatch; each validation draws the same numbers."""
        report = self._report(batch, VALID_EPOCH, batch_idx)
        losses = {"valid/loss": report.loss} | {f"valid/{name}": part for name, part in report.parts.items()}
        self.log_dict(losses, batch_size=len(batch), sync_dist=True)

    def _report(self, cells: CellBatch, epoch: int, batch_idx: int) -> LossReport:
        # counted in minibatches, not steps: with accumulation, several minibatches share a step but not a draw
        draw = Draw(self.seed, epoch, batch_idx * self.trainer.world_size + self.global_rank)
        return self.objective.step(self.network, cells, tokenize=self.tokenize, draw=draw)

    def transfer_batch_to_device(self, batch: CellBatch, device: object, dataloader_idx: int) -> CellBatch:
        """Leave cells where they are: tokens move once they are made."""
        return batch

    def configure_optimizers(self) -> dict:
        """Return the optimiser and its schedule, as Lightning takes them."""
        if self.horizon is None:
            raise ValueError("the plan does not know how long the run is; train it with cellwright.train.run.fit")
        total_steps, steps_per_epoch = self.horizon()
        optimiser, schedule = build_optimiser(
            self, self.optim, total_steps=total_steps, steps_per_epoch=steps_per_epoch
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
