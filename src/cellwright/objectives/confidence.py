"""How sure a network is of a value: the squared error to be expected of it, predicted by a head that only listens.

Published scGPT speaks of a "prediction confidence" in generation and defines none; this one is ours. The loss is the
negative log likelihood of the error under a Gaussian whose variance the head predicts (Nix and Weigend 1994), less its
constant. Its least value is reached where the head says the logarithm of the expected squared error.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from cellwright.nn.heads import ErrorHead
from cellwright.objectives.value import scored
from cellwright.types import ModelOutput, Targets

LEAST_ERROR = 1e-4
"""Squared error below which errors are taken as equal: without it a value that is hit exactly would count for ever."""


class ExpectedError(nn.Module):
    """Gaussian negative log likelihood of each scored value's error, its variance predicted from the hidden state.

    ``0.5 * (s + (error^2 + 1e-4) * exp(-s))``, mean over scored tokens, where ``s`` is what the head says. Neither the
    error nor the hidden state gets a gradient: the network is trained as it would be without this term (but for a
    shared clipping of gradients), and a head can be fitted to a network that is trained already.

    Parameters
    ----------
    head
        Maps hidden states ``[..., d]`` to ``[...]`` or ``[..., 1]``. The term owns it: it is trained with the
        objective, and recipes save it with the model.
    """

    needs: frozenset[str] = frozenset({"value_nt"})
    reads: frozenset[str] = frozenset({"value_nt", "is_scored_nt"})
    is_detached = True
    """It sends no gradient into the network."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    @classmethod
    def for_width(cls, width: int, *, seed: int) -> Self:
        """Return the term with a fresh head for hidden states of this width."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(ErrorHead(width))

    def forward(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is scored."""
        value_s, answer_s = scored(out.value_nt, targets)
        error_s = (value_s.detach().float() - answer_s.float()).square() + LEAST_ERROR
        log_s = self.head(out.hidden_ntd.detach()[targets.is_scored_nt]).float()
        log_s = log_s[..., 0] if log_s.ndim > 1 else log_s
        return 0.5 * (log_s + error_s * torch.exp(-log_s)).mean()
