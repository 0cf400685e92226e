"""An objective: one view and a weighted sum of terms.

It is no part of a model: a term that needs parameters owns its head, so that a network's state dict never depends
on what it is trained for. Published recipes are combinations of these (scGPT, Nature Methods 21:1470, and the
published code's ``train`` functions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from cellwright.config import did_you_mean
from cellwright.nn.blocks import has_dropout
from cellwright.protocols import CellModel, Term, Tokenizer, View
from cellwright.types import CellBatch, Draw, LossReport, ModelOutput, Targets

PROMPTED = "prompted"
"""In a term's ``needs``: the term reads the second pass, in which the cell embedding is given as the cell prompt."""
AGAIN = "again"
"""In a term's ``needs``: the term reads a second pass over the same tokens, under other dropout."""
PASSES = frozenset({PROMPTED, AGAIN})
ALWAYS = frozenset({"hidden_ntd", "cell_nd", "layout"})
"""Fields of `ModelOutput` that every model fills."""


class Objective(nn.Module):
    """One view and weighted terms.

    Parameters
    ----------
    view
        Decides what the model sees and what is asked. Its ``answers`` names the `Targets` fields it can fill.
    terms
        Name -> (weight, term). The loss is the sum of weight times term. A term of weight 0 is absent: it is not
        computed and its head is not trained. A term's ``needs`` names the optional `ModelOutput` fields that it
        reads and its ``reads`` the `Targets` fields. ``prompted`` or ``again`` among its needs asks for a second pass,
        and its other needs are then fields of that one.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, no term is left, or a name cannot stand in a table of losses.
    """

    def __init__(self, view: View, terms: Mapping[str, tuple[float, Term]]):
        super().__init__()
        for name, (weight, _) in terms.items():
            if not name.isidentifier() or name == "loss":
                raise ValueError(f"{name!r} cannot name a term; use a plain word other than 'loss'")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"term {name!r} has weight {weight}; a weight is finite and not negative")
        self.view = view
        self.terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight > 0}
        if not self.terms:
            raise ValueError(f"no term of {sorted(terms)} has a weight above 0; there is nothing to train for")
        self.heads = nn.ModuleDict({n: term for n, (_, term) in self.terms.items() if isinstance(term, nn.Module)})
        self._wanted = {of: self._outputs(of) for of in ("first", *PASSES)}

    @property
    def needs(self) -> frozenset[str]:
        """All `ModelOutput` fields that the terms read."""
        return frozenset().union(*(term.needs for _, term in self.terms.values()))

    def _outputs(self, of: str) -> frozenset[str] | None:
        """Return what is asked of the model in one pass; ``None`` = no term needs the pass."""
        needs = [term.needs for _, term in self.terms.values() if _pass_of(term) == of]
        if of != "first" and not needs:
            return None
        return frozenset().union(*needs) - PASSES - ALWAYS

    def check(self, model: CellModel) -> None:
        """Raise ``ValueError`` where a term asks for what the model cannot produce or the view cannot answer."""
        model_name, view_name = type(model).__name__, type(self.view).__name__
        if self._wanted[AGAIN] is not None and not has_dropout(model):
            names = ", ".join(name for name, (_, term) in self.terms.items() if AGAIN in term.needs)
            raise ValueError(
                f"{names} compares two passes under different dropout, and {model_name} has none: both would be the "
                "same; build it with dropout above 0"
            )
        for name, (_, term) in self.terms.items():
            for field in sorted(term.needs - PASSES - ALWAYS - model.produces):
                near = did_you_mean(field, model.produces) or f"; it produces {sorted(model.produces)}"
                raise ValueError(f"term {name!r} needs {field!r}, which {model_name} does not produce{near}")
            for field in sorted(term.reads - self.view.answers):
                known = sorted(self.view.answers)
                raise ValueError(
                    f"term {name!r} needs the answer {field!r}, which the view {view_name} does not give to"
                    f" {model_name}; it gives {known}"
                )

    def step(self, model: CellModel, cells: CellBatch, *, tokenize: Tokenizer, draw: Draw) -> LossReport:
        """Compute the loss of one minibatch.

        The view works on the CPU; tokens and answers then move to the model's device. When a term needs the
        prompted pass, the model runs a second time with the (detached) cell embedding of the first as the cell
        prompt, and is asked only for what the prompted terms read (scGPT's pre-training, pass 2). When a term needs the
        pass ``again``, it runs a second time on the same tokens; in evaluation, where nothing is dropped, the first
        pass is that one too.

        Raises
        ------
        ValueError
            If a term finds nothing to score.
        FloatingPointError
            If the loss is not finite; the message names the term and the draw.
        """
        tokens, targets = self.view(cells, tokenize, draw)
        device = _device(model)
        tokens, targets = tokens.to(device), targets.to(device)
        first = self._wanted["first"]
        if self._wanted[AGAIN] is not None and not _drops(model):
            first |= self._wanted[AGAIN]
        out = model(tokens, outputs=first)
        if (wanted := self._wanted[PROMPTED]) is not None:
            prompted = replace(tokens, cell_nd=out.cell_nd.detach().float())
            out = replace(out, prompted=model(prompted, outputs=wanted))
        if (wanted := self._wanted[AGAIN]) is not None:
            out = replace(out, again=model(tokens, outputs=wanted) if _drops(model) else out)
        return self._report(out, targets, draw)

    def _report(self, out: ModelOutput, targets: Targets, draw: Draw) -> LossReport:
        parts: dict[str, Tensor] = {name: term(out, targets) for name, (_, term) in self.terms.items()}
        loss = sum(weight * parts[name] for name, (weight, _) in self.terms.items())
        if not torch.isfinite(loss):
            bad = next((name for name, part in parts.items() if not torch.isfinite(part)), "the weighted sum")
            value = (parts[bad] if bad in parts else loss).item()
            raise FloatingPointError(
                f"loss term {bad!r} is {value} at {draw};"
                " lower the learning rate, or check the network's weights and the input values"
            )
        return LossReport(loss=loss, parts={name: part.detach() for name, part in parts.items()})


def _pass_of(term: Term) -> str:
    """Return the pass that a term's fields are of."""
    return next(iter(term.needs & PASSES), "first")


def _drops(model: CellModel) -> bool:
    return bool(getattr(model, "training", False))


def _device(model: CellModel) -> torch.device:
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device
