"""Objectives as data: views, terms, weights and options by the names of the tables `VIEWS` and `TERMS`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from cellwright.config import Config, did_you_mean, some_of
from cellwright.objectives import TERMS, VIEWS, Objective
from cellwright.protocols import Term, View


class ObjectiveConfig(Config):
    """What a model is trained for, by names of the tables in `cellwright.objectives`."""

    view: str | None = "generative_split"
    """Key of VIEWS; null = the view is the task's own (pairs of cells, say)."""
    view_options: dict[str, Any] = {}
    """Options of the view."""
    terms: dict[str, float] = {"masked_value": 1.0, "cell_value": 1.0, "prompted_value": 1.0}
    """Key of TERMS -> weight."""
    term_options: dict[str, dict[str, Any]] = {}
    """Key of TERMS -> options of the term; those of a term without weight say nothing."""


def build_view(config: ObjectiveConfig) -> View:
    """Build the view from its name; an unknown name is an error that offers the nearest."""
    if config.view is None:
        raise ValueError(f"objective.view is null: name one of {', '.join(sorted(VIEWS))}")
    if config.view not in VIEWS:
        raise ValueError(f"no view {config.view!r}{did_you_mean(config.view, VIEWS) or f'; views: {sorted(VIEWS)}'}")
    return VIEWS[config.view].read(config.view_options, f"objective.view_options of {config.view}")


def build_objective(
    config: ObjectiveConfig,
    view: View | None = None,
    *,
    heads: Mapping[str, nn.Module] | None = None,
    width: int | None = None,
    seed: int = 0,
) -> Objective:
    """Build view (unless given) and terms from their names; unknown names are errors that offer the nearest.

    Parameters
    ----------
    config
        Names, weights, options.
    view
        In the place of the one that is named.
    heads
        Name of a term -> the head that it owns, for terms that need to know their classes (``label``, ``domain``).
    width, seed
        Width of the hidden states, for terms that draw a head for them by themselves, and from what.

    Raises
    ------
    ValueError
        For a name that is not in the tables, an option that the view or term does not have, a term of a weight above 0
        whose head is not given, or a head of no term.
    """
    view, heads = build_view(config) if view is None else view, heads or {}
    for name in config.term_options:
        if name not in TERMS:
            near = did_you_mean(name, TERMS) or f"; terms: {sorted(TERMS)}"
            raise ValueError(f"objective.term_options: no loss term {name!r}{near}")
    for name in config.terms:
        if name not in TERMS:
            raise ValueError(f"no loss term {name!r}{did_you_mean(name, TERMS) or f'; terms: {sorted(TERMS)}'}")
    weight_of = {name: weight for name, weight in config.terms.items() if weight != 0}
    if unused := sorted(set(heads) - set(weight_of)):
        raise ValueError(f"a head is given for {unused[0]!r}, which is no term of this objective")
    build = partial(_term, config=config, heads=heads, width=width, seed=seed)
    return Objective(view, {name: (weight, build(name)) for name, weight in weight_of.items()})


def _term(name: str, config: ObjectiveConfig, heads: Mapping[str, nn.Module], width: int | None, seed: int) -> Term:
    options, where = config.term_options.get(name, {}), f"objective.term_options of {name}"
    if issubclass(TERMS[name], Config):
        return TERMS[name].read(options, where)
    if name not in heads and not hasattr(TERMS[name], "for_width"):
        raise ValueError(f"the term {name!r} needs classes, so it belongs to a task, not to a pre-training recipe")
    if name not in heads and width is None:
        raise ValueError(f"the term {name!r} has a head of its own; say how wide the hidden states are (width)")
    if name not in heads:
        if options:
            raise ValueError(f"{where}: it has no options, got {some_of(list(options))}")
        return TERMS[name].for_width(width, seed=seed)
    try:
        return TERMS[name](heads[name], **options)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
