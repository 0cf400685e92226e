"""The options of a run; kept apart from `run` so that reading them does not import the training engine."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from cellwright.config import Config


class TrainConfig(Config):
    """How long, on what, and what is kept. A *step* is one change of the weights (``accumulate`` minibatches)."""

    max_epochs: PositiveInt | None = None
    """Stop after so many passes over the data."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps; of the two limits, the first one reached counts. One must be given."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Numbers of the forward pass; weights and losses stay float32."""
    accelerator: str = "auto"
    """Lightning's name: auto | cpu | gpu | mps."""
    devices: PositiveInt | Literal["auto"] | tuple[NonNegativeInt, ...] = 1
    """How many, or which ones."""
    strategy: str = "auto"
    """Lightning's name. auto on other than one device = data-parallel with parts of the network idle (a head that no
    term reads gets no gradient); ``ddp`` saves that search when all parts are used."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 = not clipped."""
    accumulate: PositiveInt = 1
    """Minibatches to a step; their gradients are averaged."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints; one is also written at the end."""
    validate_every: PositiveInt | None = None
    """Steps between validations (counted as ``accumulate`` minibatches each); None = after each epoch. One is also
    made at the end."""
    keep: Literal["last", "best"] = "last"
    """The weights the network has in the end: the last, or those of the lowest validation loss."""
    patience: PositiveInt | None = None
    """Stop after so many validations without improvement; None = never."""
    log_every: PositiveInt = 10
    """Steps between rows of metrics.csv."""
    seed: NonNegativeInt = 0
    """Of everything random in the run: new weights, the split, the order of cells, what is hidden, dropout."""
    is_deterministic: bool = False
    """Refuse operations that may differ from run to run on a GPU (slower)."""

    @model_validator(mode="after")
    def _check_limits(self) -> TrainConfig:
        if self.max_epochs is None and self.max_steps is None:
            raise ValueError("max_epochs and max_steps are both unset; a run needs an end")
        return self
