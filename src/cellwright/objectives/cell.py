"""Losses on whole cells.

Published names (scGPT): `Label` = CLS, `Similarity` = ECS, `Contrast` = CCE, `Domain` = DAR (code name DAB).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from cellwright.config import Config
from cellwright.types import ModelOutput, Targets


class Label(nn.Module):
    """Cross entropy of each cell's class.

    Parameters
    ----------
    head
        Maps ``cell_nd`` to logits ``[n, k]``. The term owns it: it is trained and saved with the objective.
    class_weight
        Weight of each class ``[k]``, for instance the inverse of its frequency; the loss is then the weighted mean
        over cells. ``None`` = all alike.
    smoothing
        Part of the target that is spread evenly over the classes, 0 .. 1.

    Raises
    ------
    ValueError
        If a weight is not positive and finite, or the smoothing lies outside [0, 1).
    """

    needs: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset({"label_n"})

    def __init__(self, head: nn.Module, class_weight: Sequence[float] | None = None, smoothing: float = 0.0):
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}; it must be at least 0 and below 1")
        if class_weight is not None and not all(math.isfinite(w) and w > 0 for w in class_weight):
            raise ValueError("class_weight must hold positive finite numbers, one a class")
        self.head = head
        self.smoothing = smoothing
        weight_k = None if class_weight is None else torch.tensor(list(class_weight), dtype=torch.float32)
        self.register_buffer("class_weight", weight_k)

    def forward(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when a cell has no class or one that the head does not know.

        Sentences with answers in them are refused: a cell embedding pooled over them has read the answers.
        """
        if targets.is_asked_nt is not None:
            raise ValueError(
                "label cannot be scored on sentences, whose cell embedding has read the answers; use the view clean, "
                "or the term word_label"
            )
        logits_nk = self.head(out.cell_nd)
        if self.class_weight is not None and len(self.class_weight) != logits_nk.shape[1]:
            raise ValueError(
                f"class_weight has {len(self.class_weight)} entries, the head has {logits_nk.shape[1]} classes"
            )
        return _cross_entropy(
            logits_nk, targets.label_n, "class", weight=self.class_weight, label_smoothing=self.smoothing
        )


class Similarity(Config):
    """Elastic cell similarity: cells of a minibatch are to be either clearly alike or clearly apart (scGPT ECS).

    ``mean(1 - (s - threshold)^2)`` over all pairs, the diagonal included as 0, where ``s`` is the cosine of two cell
    embeddings, negative ones taken as 0. Published weight in the loss: 10.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[frozenset[str]] = frozenset()

    threshold: float = Field(0.8, ge=0, le=1)
    """Cosine at which the push turns from apart to alike (published 0.8 in scripts, 0.3 as class default)."""

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` for a minibatch of one cell."""
        if len(out.cell_nd) < 2:
            raise ValueError("similarity compares cells of a minibatch, and this one has a single cell")
        unit_nd = nn.functional.normalize(out.cell_nd.float(), dim=1)
        cosine_nn = unit_nd @ unit_nd.T
        is_self_nn = torch.eye(len(unit_nd), dtype=torch.bool, device=unit_nd.device)
        cosine_nn = cosine_nn.masked_fill(is_self_nn, 0.0).relu()
        return (1 - (cosine_nn - self.threshold).square()).mean()


class Contrast(Config):
    """Two passes over the same cell are to be alike, and unlike those of the other cells (scGPT CCE).

    Cross entropy over rows of ``cos(first_i, second_k) / temperature`` with the answer ``k = i``: the two passes see
    the same tokens and differ by dropout alone (SimCSE, Gao et al. 2021). Published weight in the loss: 10; off in
    every published recipe.

    On several devices each compares the cells of its own minibatch. (Published code gathers those of all devices; with
    n cells a device the loss then counts more strangers, and has another scale.)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"again"})
    reads: ClassVar[frozenset[str]] = frozenset()

    temperature: float = Field(0.5, gt=0)
    """Divides the cosines; smaller = only the nearest strangers count."""

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` for a minibatch of one cell, or when the model was run once only."""
        if out.again is None:
            raise ValueError("contrast reads a second pass over the same tokens, and the model was run once only")
        if len(out.cell_nd) < 2:
            raise ValueError("contrast compares cells of a minibatch, and this one has a single cell")
        first_nd, second_nd = (nn.functional.normalize(x.cell_nd.float(), dim=1) for x in (out, out.again))
        logits_nn = first_nd @ second_nd.T / self.temperature
        return nn.functional.cross_entropy(logits_nn, torch.arange(len(logits_nn), device=logits_nn.device))


class Domain(nn.Module):
    """Cross entropy of each cell's sequencing batch, for a head that reverses gradients (scGPT DAR, code name DAB).

    Parameters
    ----------
    head
        Maps ``cell_nd`` to logits ``[n, k]`` and turns the gradient round, so that the network learns to hide the
        domain while the head learns to find it. The term owns it.
    """

    needs: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset({"domain_n"})

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when a cell has no domain or one that the head does not know."""
        return _cross_entropy(self.head(out.cell_nd), targets.domain_n, "sequencing batch")


def _cross_entropy(
    logits_nk: Tensor, code_n: Tensor | None, what: str, *, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    if code_n is None or not len(code_n):
        raise ValueError(f"the cells carry no {what} codes; name the column of obs that holds the {what}")
    num_classes = logits_nk.shape[1]
    is_bad_n = (code_n < 0) | (code_n >= num_classes)
    if is_bad_n.any():
        bad = int(code_n[is_bad_n][0])
        raise ValueError(
            f"{int(is_bad_n.sum())} of {len(code_n)} cells have a {what} outside 0 .. {num_classes - 1} (first:"
            f" {bad}; -1 means missing); drop those cells or build the head for all"
        )
    return nn.functional.cross_entropy(logits_nk.float(), code_n, weight=weight, label_smoothing=label_smoothing)
