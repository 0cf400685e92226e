"""Do cells of a type that the reference lacks stand out? Scores, table and figure of types taken out in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cellwright.evaluate.measures import Measure
from cellwright.evaluate.parts import Method, Picture, Score, Section, Table
from cellwright.evaluate.style import BASELINE, MODEL, WIDTH, WRONG, house_style, place_axes, shorten, svg
from cellwright.metrics import percentiles
from cellwright.metrics.networks import auroc

OUTSIDE, UNKNOWN = "outside_auroc", "unknown_auroc"
OUTSIDE_MEASURES = {
    OUTSIDE: Measure(
        label="outside AUROC",
        what="probability that a cell of a type that was taken out of the reference has a higher outside score than a "
        "cell of another type, mean over types",
        best=1.0,
        low=0.0,
        high=1.0,
    ),
    UNKNOWN: Measure(
        label="unknown AUROC",
        what="probability that a cell of a type that the reference lacks has a higher outside score than a cell of a "
        "type that it has",
        best=1.0,
        low=0.0,
        high=1.0,
    ),
}
NUM_RESAMPLES = 200
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeftOut:
    """Outside scores of all query cells by one method."""

    whole_n: np.ndarray
    """float ``[n]``: with the whole reference."""
    without: Mapping[int, np.ndarray]
    """Type code -> float ``[n]``: with a reference that lacks the type."""

    def __bool__(self) -> bool:
        return bool(self.without)


def outside_auroc(left_out: LeftOut, truth_n: np.ndarray, rows: np.ndarray | None = None) -> dict[int, float]:
    """Return type -> probability that one of its cells, taken out, scores higher than a cell of another known type.

    Types that ``rows`` (default all) have no cell of are left out.
    """
    rows = np.arange(len(truth_n)) if rows is None else rows
    rows = rows[truth_n[rows] >= 0]
    found = {}
    for code, score_n in left_out.without.items():
        is_new_n = truth_n[rows] == code
        if 0 < is_new_n.sum() < len(rows):
            found[code] = auroc(score_n[rows], is_new_n)
    return found


def with_outside(
    methods: Sequence[Method],
    left_out: Mapping[str, LeftOut],
    truth_n: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
) -> tuple[Method, ...]:
    """Add the scores of `OUTSIDE` and `UNKNOWN`, as far as they can be had, with intervals over query cells.

    Parameters
    ----------
    truth_n
        Type of each query cell, -1 = one that the reference lacks.
    """
    draws_rn = np.random.default_rng(seed).integers(0, len(truth_n), (NUM_RESAMPLES, len(truth_n)))
    filled = []
    for method in methods:
        own = left_out[method.name]
        by_type = outside_auroc(own, truth_n)
        found = {
            OUTSIDE: _score(lambda rows, own=own: _mean_outside(own, truth_n, rows), draws_rn, {"types": len(by_type)}),
            UNKNOWN: _score(
                lambda rows, own=own: _unknown(own, truth_n, rows), draws_rn, {"cells": int((truth_n < 0).sum())}
            ),
        }
        scores = {name: score for name, score in found.items() if score is not None}
        parts = {classes[code]: {OUTSIDE: Score(value=part)} for code, part in by_type.items()}
        filled.append(method.model_copy(update={"scores": dict(method.scores) | scores, "parts": parts}))
    return tuple(filled)


def _score(score: Callable[[np.ndarray], float | None], draws_rn: np.ndarray, counted: dict[str, int]) -> Score | None:
    value = score(np.arange(draws_rn.shape[1]))
    if value is None:
        return None
    drawn = [found for rows in draws_rn if (found := score(rows)) is not None]
    low, high = percentiles(np.array(drawn))
    return Score(value=value, low=min(low, value), high=max(high, value), cells=counted)


def _mean_outside(left_out: LeftOut, truth_n: np.ndarray, rows: np.ndarray) -> float | None:
    found = [*outside_auroc(left_out, truth_n, rows).values()]
    return float(np.mean(found)) if found else None


def _unknown(left_out: LeftOut, truth_n: np.ndarray, rows: np.ndarray) -> float | None:
    is_new_n = truth_n[rows] < 0
    return auroc(left_out.whole_n[rows], is_new_n) if 0 < is_new_n.sum() < len(rows) else None


def outside_section(
    left_out: Mapping[str, LeftOut], truth_n: np.ndarray, classes: Sequence[str], *, main: str
) -> Section:
    """Draw and list what the outside scores of each type are with it in the reference and without."""
    own = left_out[main]
    by_method = {name: outside_auroc(some, truth_n) for name, some in left_out.items()}
    order = sorted(own.without, key=lambda code: -by_method[main][code])
    rows = []
    for code in order:
        at_n = np.flatnonzero(truth_n == code)
        medians = [float(np.median(score_n[at_n])) for score_n in (own.whole_n, own.without[code])]
        rows.append((classes[code], len(at_n), *medians, *(by_method[name][code] for name in left_out)))
    columns = ("type taken out", "query cells", "median score, in the reference", "median score, taken out")
    table = Table(columns=(*columns, *(f"AUROC, {name}" for name in left_out)), rows=tuple(rows))
    picture = Picture(
        name="outside",
        alt="Outside scores of each type's query cells, with the type in the reference and taken out of it",
        svg=outside_figure(own, truth_n, [(code, classes[code]) for code in order[:_SHOWN]]),
    )
    note = (
        f"Outside scores by {main}: 0 = nearer to the reference than all of its own cells are to each other, 1 = "
        "farther out. Bars hold the middle half of the cells, dots are medians. Classifiers have no distances: theirs "
        "is 1 minus the probability of the winner."
    )
    return Section(heading="Outside the reference", note=note, pictures=(picture,), tables={"": table})


def outside_figure(left_out: LeftOut, truth_n: np.ndarray, types: Sequence[tuple[int, str]]) -> bytes:
    """Draw three bars a type: its cells with it in the reference, taken out, and all other cells then."""
    height = 0.52 * len(types) + 0.2
    kinds = {"in the reference": MODEL, "taken out": WRONG, "cells of other types, this one taken out": BASELINE}
    with house_style():
        figure = Figure((WIDTH, height + 1.25))
        axes = place_axes(figure, (2.6, 0.6, WIDTH - 2.9, height))
        for row, (code, _) in enumerate(types):
            is_own_n, is_other_n = truth_n == code, (truth_n >= 0) & (truth_n != code)
            without_n = left_out.without[code]
            groups = (left_out.whole_n[is_own_n], without_n[is_own_n], without_n[is_other_n])
            for place, (score_n, colour) in enumerate(zip(groups, kinds.values(), strict=True)):
                y = row + (place - 1) * 0.24
                low, middle, high = np.percentile(score_n, (25, 50, 75))
                axes.plot([low, high], [y, y], color=colour, linewidth=3.2, solid_capstyle="round", alpha=0.75)
                axes.plot(middle, y, "o", color=colour, markersize=6, markeredgecolor="white")
        axes.set_yticks(range(len(types)), [shorten(name, 26) for _, name in types])
        axes.set(ylim=(len(types) - 0.5, -0.5), xlim=(-0.02, 1.02), xlabel="outside score of query cells")
        axes.grid(axis="x", color="#E6E8EC", linewidth=0.8)
        handles = [Line2D([], [], color=colour, marker="o", label=text, linewidth=3) for text, colour in kinds.items()]
        figure.legend(handles=handles, loc="upper left", ncols=3, frameon=False)
        return svg(figure)
