"""What turns hidden states into answers: poolings, expression heads, class heads, gradient reversal.

Source: scGPT's published decoders. Published names: `ExpressionHead` = ExprDecoder, `AffineHead` =
AffineExprDecoder, `CellValueHead` = MVCDecoder (objective GEPC), `ClassHead` = ClsDecoder and, reversed,
AdversarialDiscriminator. What the published code calls ``zero_probs`` is the probability of *not* being zero; here
it is ``expressed``. `ErrorHead` is ours: no published code says how sure a predicted value is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cellwright.types import Layout, WordScores

POOLINGS = ("cls", "last", "mean", "avg-pool", "w-pool")
CellStyle = Literal["inner product", "inner product, detach", "concat query", "sum query"]


def pool(hidden_ntd: Tensor, value_nt: Tensor, layout: Layout, how: str) -> Tensor:
    """Reduce each cell's tokens to one vector ``[n, d]``, not normalised unless said.

    ``cls``: the first token. ``last``: the last token. ``mean``: mean over the cell's tokens. ``avg-pool`` and
    ``w-pool`` are published and count pads, so they need a padded layout: mean over all positions; sum weighted by the
    input values (markers included), then scaled to length 1.
    """
    if how == "cls":
        return layout.first(hidden_ntd)
    if how == "last":
        return layout.last(hidden_ntd)
    if how == "mean":
        is_token_nt = ~layout.is_pad_nt(hidden_ntd.device)
        weight_nt = is_token_nt.to(hidden_ntd.dtype)
        return _sum_by_cell(hidden_ntd * weight_nt[..., None], layout) / _sum_by_cell(weight_nt[..., None], layout)
    if layout.is_packed:
        raise ValueError(f"pooling {how!r} counts pads as published, so it needs padded tokens; use 'mean' or 'cls'")
    if how == "avg-pool":
        return hidden_ntd.mean(1)
    return nn.functional.normalize((hidden_ntd * value_nt[..., None]).sum(1), dim=1)


def _sum_by_cell(x_ntd: Tensor, layout: Layout) -> Tensor:
    if not layout.is_packed:
        return x_ntd.sum(1)
    zero_nd = x_ntd.new_zeros(layout.num_cells, x_ntd.shape[-1])
    return zero_nd.index_add(0, layout.cell_of_token(x_ntd.device), x_ntd[0])


def _expression_net(num_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_in, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
    )


class ExpressionHead(nn.Module):
    """Value of each token from its hidden state, and (optionally) the probability that it is expressed."""

    def __init__(self, num_in: int, width: int, *, has_gate: bool = False):
        super().__init__()
        self.net = _expression_net(num_in, width)
        self.gate = _expression_net(num_in, width) if has_gate else None

    def forward(self, context_ntd: Tensor, value_nt: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return predicted values and expressed probabilities, each ``[n, t]``; the input values are not used."""
        value = self.net(context_ntd)[..., 0]
        return value, None if self.gate is None else torch.sigmoid(self.gate(context_ntd)[..., 0])


class AffineHead(nn.Module):
    """Value of each token as ``scale * input value + shift``, both from its hidden state (perturbation model).

    Parameters
    ----------
    activation
        Name of a ``torch.nn`` activation put on scale and shift, or ``None``.
    is_adaptive
        Multiply the shift by the cell's mean non-zero input value.
    """

    def __init__(
        self,
        num_in: int,
        width: int,
        *,
        has_gate: bool = False,
        activation: str | None = None,
        is_adaptive: bool = False,
    ):
        super().__init__()
        # the published shift also carries a gate that nothing reads; it is kept so that its weights survive
        self.scale = ExpressionHead(num_in, width, has_gate=has_gate)
        self.shift = ExpressionHead(num_in, width, has_gate=has_gate)
        self.activation = nn.Identity() if activation is None else getattr(nn, activation)()
        self.is_adaptive = is_adaptive

    def begin_unchanged(self) -> None:
        """Set the last layers so that each value is answered as it is: scale 1, shift 0 (before any activation)."""
        for net, bias in ((self.scale.net, 1.0), (self.shift.net, 0.0)):
            nn.init.zeros_(net[-1].weight)
            nn.init.constant_(net[-1].bias, bias)

    def forward(self, context_ntd: Tensor, value_nt: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return predicted values and expressed probabilities, each ``[n, t]``. Padded layouts only if adaptive."""
        scale_nt, expressed_nt = self.scale(context_ntd, value_nt)
        shift_nt = self.activation(self.shift.net(context_ntd)[..., 0])
        if self.is_adaptive:
            mean_n1 = value_nt.sum(1, keepdim=True) / (value_nt != 0).sum(1, keepdim=True)
            shift_nt = shift_nt * mean_n1
        return self.activation(scale_nt) * value_nt + shift_nt, expressed_nt


class CellValueHead(nn.Module):
    """Value of each gene from the cell embedding and the gene alone; four published ways of asking.

    inner product: ``(W q_j) . c`` with ``q_j = sigmoid(Linear(gene_j))``; with ", detach" the gene embedding gets no
    gradient. concat query / sum query: a small network on ``[c, q_j]`` / ``c + q_j``. The published code runs these two
    without a gate and on cells as wide as genes only; here the gate is a second answer of the small network.
    """

    def __init__(self, gene_width: int, cell_width: int, style: CellStyle = "inner product", *, has_gate: bool = False):
        super().__init__()
        self.style = style
        is_product = style.startswith("inner product")
        query_width = {"concat query": 64, "sum query": cell_width}.get(style, gene_width)
        self.query = nn.Linear(gene_width, query_width)
        if is_product:
            self.project = nn.Linear(gene_width, cell_width, bias=False)
            self.gate = nn.Linear(gene_width, cell_width) if has_gate else None
        else:
            self.linear1 = nn.Linear(cell_width + 64 if style == "concat query" else cell_width, 64)
            self.activation = nn.PReLU()
            self.linear2 = nn.Linear(64, 1)
            self.gate = nn.Linear(64, 1) if has_gate else None

    def forward(self, cell_nd: Tensor, gene_ntd: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Return predicted values and expressed probabilities (or ``None``), each ``[n, t]``."""
        if self.style == "inner product, detach":
            gene_ntd = gene_ntd.detach()
        query_ntd = torch.sigmoid(self.query(gene_ntd))
        cell_ntd = layout.spread(cell_nd)
        if self.style.startswith("inner product"):
            value_nt = (self.project(query_ntd) * cell_ntd).sum(-1)
            expressed_nt = None if self.gate is None else torch.sigmoid((self.gate(query_ntd) * cell_ntd).sum(-1))
            return value_nt, expressed_nt
        joined_ntd = torch.cat([cell_ntd, query_ntd], -1) if self.style == "concat query" else cell_ntd + query_ntd
        hidden_ntd = self.activation(self.linear1(joined_ntd))
        expressed_nt = None if self.gate is None else torch.sigmoid(self.gate(hidden_ntd)[..., 0])
        return self.linear2(hidden_ntd)[..., 0], expressed_nt


class WordHead(nn.Module):
    """One row of weights a vocabulary entry, no bias; its answers are formed where they are read (`WordScores`).

    Not a `torch.nn.Linear`: low-rank adapters and other changes of linear layers would go unnoticed by readers of
    the rows.
    """

    def __init__(self, num_entries: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_entries, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, hidden_ntd: Tensor) -> WordScores:
        """Return the scores of all entries at every token, not yet multiplied out."""
        return WordScores(hidden_ntd, self.weight)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """Return ``x`` unchanged; its gradient is turned round (Ganin & Lempitsky 2015, strength 1)."""
    return _Reverse.apply(x)


class CellNorm(nn.BatchNorm1d):
    """Each channel of the cell embedding to mean 0 and variance 1 over cells; a minibatch of one by what was seen."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, affine=False)

    def forward(self, cell_nd: Tensor) -> Tensor:
        """``[n, d] -> [n, d]``."""
        if self.training and len(cell_nd) == 1:
            return (cell_nd - self.running_mean) * torch.rsqrt(self.running_var + self.eps)
        return super().forward(cell_nd)


class ClassHead(nn.Module):
    """Class logits ``[n, k]`` from the cell embedding: (layers - 1) x [Linear, activation, LayerNorm], then Linear.

    ``kind="label"`` uses ReLU; ``kind="domain"`` uses LeakyReLU and reverses the gradient of its input, so that the
    network learns to hide the domain. ``hidden`` is the width of the layers between, ``None`` = the embedding's.
    ``is_standardised`` puts a `CellNorm` before, ``has_layer_norm=False`` leaves the layer norms out: scFoundation's.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        num_layers: int = 3,
        kind: Literal["label", "domain"] = "label",
        hidden: int | None = None,
        is_standardised: bool = False,
        has_layer_norm: bool = True,
    ):
        super().__init__()
        self.kind, self.num_layers, self.hidden, self.has_layer_norm = kind, num_layers, hidden, has_layer_norm
        self.norm = CellNorm(width) if is_standardised else None
        parts: list[nn.Module] = []
        for _ in range(num_layers - 1):
            parts += [nn.Linear(width, hidden or width), nn.ReLU() if kind == "label" else nn.LeakyReLU()]
            width = hidden or width
            parts += [nn.LayerNorm(width)] if has_layer_norm else []
        self.trunk = nn.Sequential(*parts)
        self.out = nn.Linear(width, num_classes)

    @property
    def options(self) -> dict[str, Any]:
        """What is needed to build the same head again; what is as usual is left out."""
        said = {"num_classes": self.out.out_features, "num_layers": self.num_layers, "kind": self.kind}
        further = {"hidden": (self.hidden, None), "is_standardised": (self.norm is not None, False)}
        further["has_layer_norm"] = (self.has_layer_norm, True)
        return said | {name: value for name, (value, usual) in further.items() if value != usual}

    def forward(self, cell_nd: Tensor) -> Tensor:
        """``[n, d] -> [n, k]``."""
        cell_nd = reverse_gradient(cell_nd) if self.kind == "domain" else cell_nd
        return self.out(self.trunk(cell_nd if self.norm is None else self.norm(cell_nd)))


class ErrorHead(nn.Module):
    """Natural logarithm of the squared error to be expected of each token's predicted value, from its hidden state."""

    FIRST = 100.0
    """Squared error that a fresh head expects of everything: too high is soon corrected, while from too low the first
    gradients would drown those of the network beside it (bins 0 .. 50 have squared errors of some hundreds)."""

    def __init__(self, num_in: int):
        super().__init__()
        self.net = _expression_net(num_in, num_in)
        nn.init.constant_(self.net[-1].bias, math.log(self.FIRST))

    @property
    def options(self) -> dict[str, int | str]:
        """What is needed to build the same head again."""
        return {"kind": "error"}

    def forward(self, hidden_ntd: Tensor) -> Tensor:
        """``[..., d] -> [...]``."""
        return self.net(hidden_ntd)[..., 0]


def build_head(width: int, options: Mapping[str, Any]) -> ClassHead | ErrorHead:
    """Build the head whose ``options`` were recorded, freshly initialised; one without a kind is a `ClassHead`."""
    if options.get("kind") != "error":
        return ClassHead(width, **options)
    if further := set(options) - {"kind"}:
        raise TypeError(f"a head of the kind 'error' takes no {', '.join(sorted(further))}")
    return ErrorHead(width)
