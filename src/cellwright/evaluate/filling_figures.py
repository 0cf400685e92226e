"""Figures of genes that were filled in: scores over the number of steps, and how far the model knows its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cellwright.evaluate.measures import Measure
from cellwright.evaluate.style import BASELINE, FAINT, INK, MODEL, PALETTE, WIDTH, house_style, place_axes, svg

Point = tuple[int, float, float, float]
"""Steps, score, low and high end of its interval."""
_HEIGHT = 3.1


def step_curves_figure(
    curves: Mapping[str, Mapping[str, Sequence[Point]]],
    levels: Mapping[str, Mapping[str, float]],
    measures: Mapping[str, Measure],
    *,
    main: str,
    roof: str,
) -> bytes:
    """Draw each order's scores over the number of steps, and baselines as levels; an axes a metric.

    Parameters
    ----------
    curves
        Order -> metric -> points.
    levels
        Baseline -> metric -> score. One that lies so far off that the curves would be flat is named, not drawn.
    main, roof
        The orders that are drawn thick, and grey and dashed.

    Returns
    -------
    SVG.
    """
    names = list(measures)
    columns = min(2, len(names))
    blocks = [names[i : i + columns] for i in range(0, len(names), columns)]
    colours, handles = _curve_legend(curves, levels, main, roof)
    legend = 0.3 + 0.24 * -(-len(handles) // 5)
    top = legend + _HEIGHT * len(blocks)
    with house_style():
        figure = Figure(figsize=(WIDTH, top))
        figure.legend(handles=handles, loc="upper left", ncols=5, frameon=False)
        for at, block in enumerate(blocks):
            for place, metric in enumerate(block):
                width = (WIDTH - 0.3) / columns
                box = (0.7 + place * width, top - legend - _HEIGHT * (at + 1) + 0.6, width - 1.0, _HEIGHT - 1.05)
                axes = place_axes(figure, box)
                _curves(axes, curves, metric, colours, main=main, roof=roof)
                _levels(axes, {name: own[metric] for name, own in levels.items()}, colours)
                axes.set_title(measures[metric].label)
                axes.set_xlabel(f"steps K ({measures[metric].advice})")
        return svg(figure)


def _curve_legend(
    curves: Mapping[str, object], levels: Mapping[str, object], main: str, roof: str
) -> tuple[dict[str, str], list[Line2D]]:
    others = iter(colour for colour in PALETTE if colour != MODEL)
    colours = {name: MODEL if name == main else BASELINE if name == roof else next(others) for name in curves}
    colours |= dict.fromkeys(levels, INK)
    handles = [Line2D([], [], label=name, marker="o", **_line(name, colours, main, roof)) for name in curves]
    styles = dict(zip(levels, _STYLES, strict=False))
    handles += [Line2D([], [], label=name, color=INK, linewidth=1, linestyle=styles[name]) for name in levels]
    return colours, handles


_STYLES = (":", "-.", (0, (6, 2)), (0, (1, 4)))
"""Lines of the baselines."""


def _line(name: str, colours: Mapping[str, str], main: str, roof: str) -> dict[str, object]:
    return {
        "color": colours[name],
        "linewidth": 2.4 if name == main else 1.3,
        "linestyle": "--" if name == roof else "-",
        "markersize": 4,
    }


def _curves(
    axes,
    curves: Mapping[str, Mapping[str, Sequence[Point]]],
    metric: str,
    colours: Mapping[str, str],
    *,
    main: str,
    roof: str,
) -> None:
    steps = sorted({point[0] for own in curves.values() for point in own[metric]})
    for name, own in curves.items():
        at, value = zip(*((k, value) for k, value, *_ in sorted(own[metric])), strict=True)
        axes.plot(at, value, marker="o", **_line(name, colours, main, roof))
    _step_axis(axes, steps)
    axes.grid(axis="y", color="#E6E8EC", linewidth=0.8)


def _step_axis(axes, steps: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _levels(axes, levels: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Draw baselines as lines across where they lie within the curves' own span of them; name the others."""
    low, high = axes.get_ylim()
    span, far = high - low, []
    for (name, value), style in zip(levels.items(), _STYLES, strict=False):
        if low - span <= value <= high + span:
            axes.axhline(value, color=colours[name], linewidth=1, linestyle=style)
        else:
            far.append(f"{name} {value:.3g}")
    if far:
        axes.set_ylim(top=axes.get_ylim()[1] + 0.16 * span)
        axes.text(
            0.99, 0.99, f"off the scale: {', '.join(far)}", ha="right", va="top", transform=axes.transAxes, fontsize=8
        )  # fmt: skip


def gaps_figure(gaps: Mapping[str, Sequence[Point]], *, unit: str, main: str, roof: str) -> bytes:
    """Draw each order's score less that of one pass, with its paired interval, over the number of steps.

    Parameters
    ----------
    gaps
        Order -> points.
    unit
        What is drawn, for the axis.
    main, roof
        The orders that are drawn thick, and grey and dashed.

    Returns
    -------
    SVG.
    """
    steps = sorted({point[0] for own in gaps.values() for point in own})
    with house_style():
        colours, handles = _curve_legend(gaps, {}, main, roof)
        figure = Figure(figsize=(WIDTH, 3.8))
        figure.legend(handles=handles, loc="upper left", ncols=len(handles), frameon=False)
        axes = place_axes(figure, (0.75, 0.6, WIDTH - 1.0, 2.5))
        axes.axhline(0, color=INK, linewidth=0.8)
        for place, (name, own) in enumerate(gaps.items()):
            shift = 1 + 0.02 * (place - (len(gaps) - 1) / 2)  # side by side, on a logarithmic axis
            at, value, low, high = zip(*sorted(own), strict=True)
            ends = np.abs(np.array([low, high]) - np.array(value))
            look = _line(name, colours, main, roof)
            axes.errorbar([k * shift for k in at], value, yerr=ends, marker="o", elinewidth=1, **look)
        _step_axis(axes, steps)
        axes.grid(axis="y", color="#E6E8EC", linewidth=0.8)
        axes.set(xlabel="steps K", ylabel=unit)
        axes.set_title("above 0: worse than one pass")
        return svg(figure)


def certainty_figure(deciles: Sequence[tuple[float, float, float]]) -> bytes:
    """Draw expected against true errors of tenths of the unknown genes, and the error of the surest part.

    Returns
    -------
    SVG.
    """
    expected, true, up_to = zip(*deciles, strict=True)
    top = 1.08 * max(*expected, *true)
    share = [(place + 1) / len(up_to) for place in range(len(up_to))]
    with house_style():
        figure = Figure(figsize=(WIDTH, 3.3))
        left = place_axes(figure, (0.75, 0.65, 4.3, 2.3))
        left.plot([0, top], [0, top], color=FAINT, linewidth=1)
        left.plot(expected, true, "o-", color=MODEL, markersize=5, linewidth=1.2)
        left.set(xlim=(0, top), ylim=(0, top), xlabel="expected error (bins)", ylabel="true error (bins)")
        left.set_title("tenths of the unknown genes, root mean squares")
        right = place_axes(figure, (6.2, 0.65, 4.5, 2.3))
        right.plot(share, up_to, "o-", color=MODEL, markersize=5, linewidth=1.2)
        right.axhline(up_to[-1], color=BASELINE, linewidth=1, linestyle=":")
        right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        right.set(xlabel="surest part of the unknown genes", ylabel="MSE", ylim=(0, None))
        right.set_title("error of the surest part, one pass")
        return svg(figure)
