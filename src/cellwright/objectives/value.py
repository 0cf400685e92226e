"""Losses on the values of genes.

Source: scGPT's published ``loss.py`` and training loops. Published names: `MaskedValue` = GEP, `CellValue` = GEPC
(code name MVC), `PromptedValue` = the second loss of generative pre-training, `ZeroGate` = ``explicit_zero_prob``.
All are means over every scored token of the minibatch, not means of cell means. Computed in float32 at least.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from cellwright.config import Config
from cellwright.types import ModelOutput, Targets

READS = frozenset({"value_nt", "is_scored_nt"})


class MaskedValue(Config):
    """Mean squared error of each scored token's predicted value (scGPT GEP, ``masked_mse_loss``)."""

    needs: ClassVar[frozenset[str]] = frozenset({"value_nt"})
    reads: ClassVar[frozenset[str]] = READS

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is scored."""
        return _squared_error(out.value_nt, targets)


class CellValue(Config):
    """Mean squared error of the values predicted from the cell embedding (scGPT GEPC / MVC)."""

    needs: ClassVar[frozenset[str]] = frozenset({"cell_value_nt"})
    reads: ClassVar[frozenset[str]] = READS

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is scored."""
        return _squared_error(out.cell_value_nt, targets)


class PromptedValue(Config):
    """Mean squared error of the values predicted when the cell embedding is given as the cell prompt."""

    needs: ClassVar[frozenset[str]] = frozenset({"prompted", "value_nt"})
    reads: ClassVar[frozenset[str]] = READS

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is scored or the second pass was not run."""
        if out.prompted is None:
            raise ValueError("prompted_value reads the prompted pass, and the model was run once only")
        return _squared_error(out.prompted.value_nt, targets)


class ZeroGate(Config):
    """Negative log likelihood of a scored value being zero or not (scGPT ``criterion_neg_log_bernoulli``).

    Probabilities are held off 0 and 1 by the machine precision of their own dtype, as `torch.distributions` does;
    outside that range they get no gradient.
    """

    reads: ClassVar[frozenset[str]] = READS

    of: Literal["value", "cell_value"] = "value"
    """Whose gate: the token's own prediction, or the one from the cell embedding."""

    @property
    def needs(self) -> frozenset[str]:
        """The probability of being expressed that this gate is scored on."""
        return frozenset({self._field})

    @property
    def _field(self) -> str:
        return "expressed_nt" if self.of == "value" else "cell_expressed_nt"

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is scored."""
        expressed_s, value_s = scored(getattr(out, self._field), targets)
        tiny = torch.finfo(expressed_s.dtype).eps
        expressed_s = _at_least_float32(expressed_s.clamp(tiny, 1 - tiny))
        likelihood_s = torch.where(value_s > 0, expressed_s.log(), torch.log1p(-expressed_s))
        return -likelihood_s.mean()


class CellZeroGate(ZeroGate):
    """The same for the gate of the cell embedding: both stand side by side in scGPT's integration recipe."""

    of: Literal["value", "cell_value"] = "cell_value"
    """Whose gate."""


def _squared_error(predicted_nt: Tensor | None, targets: Targets) -> Tensor:
    predicted_s, value_s = scored(predicted_nt, targets)
    predicted_s = _at_least_float32(predicted_s)
    return (predicted_s - value_s.to(predicted_s.dtype)).square().mean()


def scored(predicted_nt: Tensor | None, targets: Targets) -> tuple[Tensor, Tensor]:
    """Take predictions and answers at the scored tokens, ``[s]`` each (s: scored token of any cell)."""
    if predicted_nt is None:
        raise ValueError("the model left a field empty that this loss needs; let Objective.check(model) name it")
    if targets.value_nt is None or targets.is_scored_nt is None:
        raise ValueError("the view gave no values to score; use a view that hides values, such as random_mask")
    # indexing, not multiplying: a number at a pad or a seen token may be anything, and must get no gradient
    predicted_s = predicted_nt[targets.is_scored_nt]
    if not len(predicted_s):
        raise ValueError(
            "no token of the minibatch is scored (cells with too few genes for the hidden fraction);"
            " raise the fraction, use larger minibatches or drop near-empty cells"
        )
    return predicted_s, targets.value_nt[targets.is_scored_nt]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
