"""Charts of numbers, as SVG bytes: methods side by side, losses over steps, calibration.

Baselines are grey and models blue wherever methods stand beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cellwright import metrics
from cellwright.evaluate.comparison import format_number, ranked
from cellwright.evaluate.measures import Measure
from cellwright.evaluate.parts import Curve, Method, Score
from cellwright.evaluate.style import (
    BASELINE,
    BOUNDS,
    MODEL,
    PALETTE,
    WIDTH,
    WRONG,
    house_style,
    place_axes,
    shorten,
    svg,
)

_ACROSS = 3
"""Metrics beside each other in the comparison figure."""


def comparison_figure(methods: Sequence[Method], measures: Mapping[str, Measure]) -> bytes:
    """Draw every method's score as a dot with its interval, best first by the first metric, a column a metric.

    More than three metrics go into further rows. Floor and roof, where there are any, are lines down the column too.
    """
    names = list(measures)
    order = ranked(methods, names[0], measures[names[0]])
    blocks = [names[at : at + _ACROSS] for at in range(0, len(names), _ACROSS)]
    height, label_width, value_width = 0.34 * len(order), 3.2, 0.55
    column = (WIDTH - label_width - 0.1) / len(blocks[0])
    step = height + 1.05
    up, is_cut = step * len(blocks) + 0.1, False
    with house_style():
        figure = Figure(figsize=(WIDTH, up))
        for down, block in enumerate(blocks):
            for place, name in enumerate(block):
                box = (label_width + place * column, 0.4 + step * (len(blocks) - 1 - down))
                axes = place_axes(figure, (*box, column - value_width - 0.2, height))
                is_cut |= _dots(axes, order, name, measures[name])
                axes.set_yticks(range(len(order)), [shorten(m.name, 37) for m in order] if place == 0 else [])
        handles = _legend(order, is_cut)
        figure.legend(
            handles=handles, loc="upper left", ncols=len(handles), frameon=False, bbox_to_anchor=(0, 1 - 0.02 / up)
        )
        return svg(figure)


def _legend(order: Sequence[Method], is_cut: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], marker="o", color=colour, label=label, linewidth=2)
        for colour, label in ((MODEL, "model"), (BASELINE, "baseline"))
    ]
    for bound, label in (("floor", "floor"), ("roof", "roof, out of competition")):
        if any(method.bound == bound for method in order):
            handles.append(Line2D([], [], color=BOUNDS[bound], label=label, linestyle="--", linewidth=1.3))
    if is_cut:
        handles.append(Line2D([], [], marker="<", color=BASELINE, label="arrow: off the scale", linewidth=0))
    return handles


def _dots(axes, order: Sequence[Method], name: str, measure: Measure) -> bool:
    """Draw one column and say whether any score is off its scale."""
    is_cut = False
    low, high = _scale([m.scores[name] for m in order if name in m.scores], measure)
    for y, method in enumerate(order):
        if (score := method.scores.get(name)) is None:
            continue
        colour = BASELINE if method.is_baseline else MODEL
        if low <= score.value <= high:
            if method.bound:
                axes.axvline(score.value, color=BOUNDS[method.bound], linewidth=1.3, linestyle="--", zorder=1)
            if score.low is not None:
                axes.plot([score.low, score.high], [y, y], color=colour, linewidth=2.4)
            axes.plot(score.value, y, "o", color=colour, markersize=6.5, markeredgecolor="white")
        else:
            is_cut = True
            at, marker = (low, "<") if score.value < low else (high, ">")
            axes.plot(at, y, marker, color=colour, markersize=7, clip_on=False)
        axes.annotate(
            format_number(score.value), (1, y), (8, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axes.set_title(f"{measure.label}\n", fontsize=10.5)
    axes.text(0, 1, measure.advice, transform=axes.transAxes, fontsize=9, va="bottom", color="#5A6270")
    axes.set(xlim=(low, high), ylim=(len(order) - 0.5, -0.5))
    axes.grid(axis="x", color="#E6E8EC", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(length=0)
    axes.tick_params(axis="y", pad=9)
    axes.spines["left"].set_visible(False)
    return is_cut


def _scale(scores: Sequence[Score], measure: Measure) -> tuple[float, float]:
    """Return the axis: all scores with their intervals, or those before a gap wider than half of the whole range.

    Without the cut one hopeless method (the majority class, say) would squeeze all others into a corner.
    """
    best_first = sorted(scores, key=lambda score: measure.gap(score.value))
    gaps = np.diff([measure.gap(score.value) for score in best_first])
    if len(best_first) > 3 and gaps[2:].max() > 0.5 * gaps.sum():
        best_first = best_first[: 3 + int(gaps[2:].argmax())]
    ends = [end for score in best_first for end in (score.value, score.low, score.high) if end is not None]
    span = max(ends) - min(ends)
    # at least 4 % of the numbers' own size: marks from 0.9990 to 1.0010 would be too long to stand side by side
    room = max(0.06 * span, (0.04 * max(map(abs, ends)) - span) / 2, 1e-3)
    return min(ends) - room, max(ends) + room


def curves_figure(curves: Sequence[Curve]) -> bytes:
    """Draw losses over steps, an axes a stage; thin pale = training, thick with dots = validation."""
    stages = list(dict.fromkeys(curve.stage for curve in curves))
    runs = {stage: [curve for curve in curves if curve.stage == stage] for stage in stages}
    columns = min(2, len(stages))
    width = 5.0 if columns == 2 else 7.0
    blocks = [stages[i : i + columns] for i in range(0, len(stages), columns)]
    heights = [3.45 + 0.22 * max(len(runs[stage]) for stage in block) for block in blocks]
    with house_style():
        figure = Figure(figsize=(WIDTH, sum(heights)))
        top = sum(heights)
        for block, height in zip(blocks, heights, strict=True):
            for place, stage in enumerate(block):
                axes = place_axes(figure, (0.65 + place * 5.55, top - 2.85, width - 0.35, 2.5))
                _losses(axes, stage, runs[stage])
            top -= height
        return svg(figure)


def _losses(axes, stage: str, curves: Sequence[Curve]) -> None:
    handles = []
    for place, curve in enumerate(curves):
        colour = PALETTE[place % len(PALETTE)]
        for kind, style in (
            ("train_loss", {"linewidth": 1.1, "alpha": 0.55}),
            ("valid_loss", {"linewidth": 2.2}),
        ):
            at = [(p.step, getattr(p, kind)) for p in curve.points if getattr(p, kind) is not None]
            if at:
                is_marked = kind == "valid_loss" and len(at) <= 40
                axes.plot(
                    *zip(*at, strict=True),
                    color=colour,
                    marker="o" if is_marked else "",
                    markersize=4,
                    **style,
                )
        handles.append(Line2D([], [], color=colour, linewidth=2.2, label=f"{place + 1}  {shorten(curve.name, 58)}"))
    axes.set_title(shorten(stage, 60))
    axes.set(xlabel="step", ylabel="loss (thin: training, thick: validation)")
    axes.yaxis.label.set_size(9)
    axes.grid(axis="y", color="#E6E8EC", linewidth=0.8)
    axes.margins(x=0.02)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.2), frameon=False, borderaxespad=0)


def reliability_figure(is_right_n: np.ndarray, confidence_n: np.ndarray) -> bytes:
    """Draw accuracy against confidence in 15 bins, and how many cells lie in each bin, right and wrong."""
    bin_n = metrics.confidence_bins(confidence_n)
    count_k, right_k, total_k = (
        np.bincount(bin_n, weights=weight_n, minlength=metrics.ECE_BINS)
        for weight_n in (np.ones(len(bin_n)), is_right_n.astype(float), confidence_n)
    )
    is_used_k = count_k > 0
    edges = np.arange(metrics.ECE_BINS) / metrics.ECE_BINS
    ece = metrics.ece(np.where(is_right_n, 0, 1), np.asarray(confidence_n)[:, None])
    with house_style():
        figure = Figure(figsize=(WIDTH, 4.5))
        axes = place_axes(figure, (0.65, 0.6, 3.5, 3.5))
        axes.plot([0, 1], [0, 1], color=BASELINE, linewidth=1.2, linestyle="--")
        axes.plot(
            (total_k / np.maximum(count_k, 1))[is_used_k], (right_k / np.maximum(count_k, 1))[is_used_k],
            color=MODEL, marker="o", linewidth=1.8,
        )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="mean confidence of the bin", ylabel="accuracy of the bin")
        axes.set_title(f"Calibration (ECE {ece:.3f})")
        axes.text(0.04, 0.95, "above the line: too cautious", fontsize=9, color="#5A6270", va="top")
        axes.text(0.97, 0.04, "below: too sure", fontsize=9, color="#5A6270", ha="right")
        axes = place_axes(figure, (5.45, 0.6, 5.3, 3.5))
        width = 0.9 / metrics.ECE_BINS
        axes.bar(edges, right_k, width, align="edge", color="#7FB5D8", label="right")
        axes.bar(edges, count_k - right_k, width, bottom=right_k, align="edge", color=WRONG, label="wrong")
        axes.set(xlim=(0, 1), xlabel="confidence", ylabel="cells", title="How sure it was")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(frameon=False, loc="upper left")
        return svg(figure)
