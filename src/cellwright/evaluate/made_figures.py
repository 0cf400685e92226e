"""Figures of made cells beside real ones: where they lie, their genes' means, how many genes they have, score by type.

Methods keep one colour in all of them: models blue, baselines grey, floor and roof as in the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cellwright.evaluate.figures import Panel, scatter_panel
from cellwright.evaluate.measures import Measure
from cellwright.evaluate.parts import Method
from cellwright.evaluate.style import (
    BASELINE,
    BOUNDS,
    FAINT,
    INK,
    MODEL,
    WIDTH,
    LegendLine,
    house_style,
    place_axes,
    ranked_colours,
    shorten,
    svg,
    write_legend,
)

MAX_TYPES = 16
"""So many types are drawn one by one; tables and rows of results hold all."""
_MARKERS = "osD^vPX<>"
_ACROSS = 3


def method_looks(methods: Sequence[Method]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each method."""
    looks, num_plain = {}, 0
    for method in methods:
        if method.bound:
            looks[method.name] = (BOUNDS[method.bound], "_" if method.bound == "floor" else "|")
            continue
        num_plain += method.is_baseline
        marker = _MARKERS[num_plain % len(_MARKERS)] if method.is_baseline else "o"
        looks[method.name] = (BASELINE if method.is_baseline else MODEL, marker)
    return looks


def together_figure(
    umap_n2: np.ndarray, type_n: np.ndarray, source_n: np.ndarray, sources: Sequence[str], classes: Sequence[str]
) -> bytes:
    """Draw cells of several sources in one space, a panel a source; those of the first lie pale below the others.

    Parameters
    ----------
    umap_n2
        Positions of all cells, placed together.
    type_n
        Type of each cell, for made ones the type asked for.
    source_n
        Source of each cell: a code of ``sources``, 0 = the real cells.
    """
    panel, gap, row, legend_width = 2.55, 0.22, 3.15, 2.55
    colours, kept = ranked_colours(type_n, len(classes))
    legend = [LegendLine("Type (asked for)")]
    legend += [LegendLine(f"{k + 1}  {shorten(classes[k], 28)}", colours[k]) for k in kept if (type_n == k).any()]
    if len(kept) < len(classes):
        legend.append(LegendLine("smaller types", BASELINE))
    legend.append(LegendLine(f"{shorten(sources[0], 28)}, below", FAINT))
    height = max(row * -(-len(sources) // _ACROSS), 0.2 * len(legend) + 0.5)
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        for code, name in enumerate(sources):
            left, top = 0.25 + code % _ACROSS * (panel + gap), height - code // _ACROSS * row
            axes = place_axes(figure, (left, top - 0.3 - panel, panel, panel))
            shown_n = np.flatnonzero((source_n == 0) | (source_n == code))
            code_n = np.where(source_n == code, type_n, -1)[shown_n]
            title = shorten(name, 26)
            scatter_panel(axes, umap_n2[shown_n], Panel(title, code_n, colours, [], code == 0), umap_n2)
        room = 0.2 * len(legend) + 0.1
        write_legend(place_axes(figure, (WIDTH - legend_width, height - 0.25 - room, legend_width, room)), legend)
        return svg(figure, points_dpi=140)


def gene_means_figure(means: Mapping[str, np.ndarray], real_p: np.ndarray) -> bytes:
    """Draw each gene's mean level in made cells against that in real ones, a point a gene and type, a panel a method.

    Parameters
    ----------
    means
        Method -> mean level of each gene and type ``[p]``.
    real_p
        The same of held-out cells.
    """
    panel, row = 2.75, 3.55
    height = row * -(-len(means) // _ACROSS)
    highest = 1.04 * max(float(mean_p.max(initial=0.01)) for mean_p in (real_p, *means.values()))
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        for place, (name, mean_p) in enumerate(means.items()):
            left, top = 0.65 + place % _ACROSS * (panel + 0.75), height - place // _ACROSS * row
            axes = place_axes(figure, (left, top - 0.3 - panel, panel, panel))
            is_any_p = (mean_p > 0) | (real_p > 0)
            # the root spreads the many genes of low mean
            axes.set_xscale("function", functions=(_root, np.square))
            axes.set_yscale("function", functions=(_root, np.square))
            axes.plot([0, highest], [0, highest], color=BASELINE, linewidth=1, linestyle="--")
            axes.scatter(real_p[is_any_p], mean_p[is_any_p], s=5, color=INK, alpha=0.3, linewidths=0, rasterized=True)
            axes.set(xlim=(0, highest), ylim=(0, highest))
            axes.set_title(shorten(name, 34))
            axes.text(0.03, 0.97, f"r = {_correlation(mean_p, real_p)}", transform=axes.transAxes, va="top", fontsize=9)
            axes.set_xlabel("mean level, held-out real", fontsize=9)
            axes.set_ylabel("mean level, made", fontsize=9)
            ticks = [tick for tick in (0, 0.05, 0.2, 0.4, 0.6, 0.8, 1) if tick <= highest]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        return svg(figure, points_dpi=140)


def _root(value):
    return np.sqrt(np.clip(value, 0, None))


def _correlation(a_p: np.ndarray, b_p: np.ndarray) -> str:
    if np.ptp(a_p) == 0 or np.ptp(b_p) == 0:
        return "not defined"
    return f"{np.corrcoef(a_p, b_p)[0, 1]:.3f}"


def detected_figure(
    numbers: Mapping[str, Sequence[np.ndarray]], types: Mapping[int, str], looks: Mapping[str, tuple[str, str]]
) -> bytes:
    """Draw how many genes cells express: median, middle half (thick) and middle 90 % (thin), type by type.

    Parameters
    ----------
    numbers
        Source -> numbers of genes of the cells of each type; the first source is the real cells, whose middle half is
        shaded.
    types
        Number of each type -> its name, in the order of ``numbers``.
    looks
        Source -> colour and marker.
    """
    across, width = (2, 3.5) if len(types) > 1 else (1, 8.0)
    up = 0.2 * len(numbers)
    row = up + 0.6
    height = row * -(-len(types) // across) + 0.45
    highest = 1.03 * max(float(np.quantile(n, 0.95)) for by_type in numbers.values() for n in by_type)
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        for place, (number, title) in enumerate(types.items()):
            left, top = 2.35 + place % across * (width + 0.55), height - place // across * row
            axes = place_axes(figure, (left, top - 0.35 - up, width, up))
            for y, (name, by_type) in enumerate(numbers.items()):
                colour = looks[name][0]
                low, left_half, middle, right_half, high = np.quantile(by_type[place], [0.05, 0.25, 0.5, 0.75, 0.95])
                if y == 0:
                    axes.axvspan(left_half, right_half, color="#EEF1F4", zorder=0)
                axes.plot([low, high], [y, y], color=colour, linewidth=1)
                axes.plot([left_half, right_half], [y, y], color=colour, linewidth=4.5, solid_capstyle="butt")
                axes.plot(middle, y, "o", color=colour, markersize=5.5, markeredgecolor="white")
            names = [shorten(name, 26) for name in numbers] if place % across == 0 else []
            axes.set_yticks(range(len(numbers)), names, fontsize=9)
            axes.set(xlim=(0, highest), ylim=(len(numbers) - 0.5, -0.5))
            axes.set_title(f"{number}  {shorten(title, 40)}", fontsize=9.5)
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="x", color="#E6E8EC", linewidth=0.8)
            axes.set_axisbelow(True)
            if place + across >= len(types):
                axes.set_xlabel("expressed genes of a cell", fontsize=9)
            else:
                axes.set_xticklabels([])
        return svg(figure)


def by_type_figure(methods: Sequence[Method], types: Mapping[int, str], measures: Mapping[str, Measure]) -> bytes:
    """Draw the scores of all methods type by type, a column a metric; the model's with their intervals.

    ``types`` are number -> name.
    """
    looks = method_looks(methods)
    label_width, up = 2.6, 0.3 * len(types)
    column = (WIDTH - label_width - 0.1) / len(measures)
    height = up + 1.15
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        for place, (name, measure) in enumerate(measures.items()):
            axes = place_axes(figure, (label_width + place * column, 0.4, column - 0.3, up))
            for method in sorted(methods, key=lambda method: not method.is_baseline):
                colour, marker = looks[method.name]
                for y, part in enumerate(types.values()):
                    if (score := method.parts.get(part, {}).get(name)) is None:
                        continue
                    if not method.is_baseline and score.low is not None:
                        axes.plot([score.low, score.high], [y, y], color=colour, linewidth=2, alpha=0.5)
                    size = 11 if method.bound else 6
                    axes.plot(
                        score.value, y, "|" if method.bound else marker, color=colour, markersize=size,
                        markeredgewidth=2 if method.bound else 0,
                    )  # fmt: skip
            names = [f"{shorten(part, 28)}  {number}" for number, part in types.items()]
            axes.set_yticks(range(len(types)), names if place == 0 else [])
            axes.set_ylim(len(types) - 0.5, -0.5)
            axes.set_title(f"{measure.label}\n", fontsize=10.5)
            axes.text(0, 1, measure.advice, transform=axes.transAxes, fontsize=9, va="bottom", color="#5A6270")
            axes.grid(axis="both", color="#E6E8EC", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(length=0)
            axes.margins(x=0.08)
            axes.spines["left"].set_visible(False)
        handles = [
            Line2D([], [], color=looks[m.name][0], marker="|" if m.bound else looks[m.name][1], linewidth=0,
                   markersize=10 if m.bound else 6, markeredgewidth=2 if m.bound else 0, label=shorten(m.name, 24))
            for m in methods
        ]  # fmt: skip
        figure.legend(
            handles=handles, loc="upper left", ncols=min(len(handles), 6), frameon=False,
            bbox_to_anchor=(0, 1 - 0.02 / height),
        )  # fmt: skip
        return svg(figure)
