"""Scores of denoising over read depth, as SVG bytes: a line a method, an axes a metric."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cellwright.evaluate.denoising import DenoisingRow
from cellwright.evaluate.measures import metric_label
from cellwright.evaluate.style import BASELINE, MODEL, PALETTE, WIDTH, house_style, place_axes, shorten, svg
from cellwright.metrics import DENOISING_METRICS, METRICS

_DASH = {"floor": ":", "roof": "--"}


def depth_curves_figure(rows: Sequence[DenoisingRow], metric_names: Sequence[str]) -> bytes:
    """Draw each method's scores over the share of molecules that it saw, with its interval.

    Models are blue and thick, floor and roof grey and dashed, other baselines thin and coloured.

    Raises
    ------
    ValueError
        When there is no row of a metric.
    """
    methods = list({row.method: row.role for row in rows}.items())
    shares = sorted({row.share for row in rows})
    columns = min(3, len(metric_names))
    blocks = [metric_names[i : i + columns] for i in range(0, len(metric_names), columns)]
    legend_height, height = 0.3 + 0.24 * -(-len(methods) // 4), 3.0
    top = legend_height + height * len(blocks)
    with house_style():
        figure = Figure(figsize=(WIDTH, top))
        colours = _colours(methods)
        handles = [
            Line2D([], [], label=shorten(name, 34), **_line(role, colours[name]), marker="o", markersize=4)
            for name, role in methods
        ]
        figure.legend(handles=handles, loc="upper left", ncols=4, frameon=False)
        for at, block in enumerate(blocks):
            for place, metric in enumerate(block):
                width = (WIDTH - 0.3) / columns
                box = (0.6 + place * width, top - legend_height - height * (at + 1) + 0.55, width - 0.85, height - 1.0)
                _curves(place_axes(figure, box), rows, metric, shares=shares, colours=colours)
        return svg(figure)


def _colours(methods: Sequence[tuple[str, str]]) -> dict[str, str]:
    others = [colour for colour in PALETTE if colour != MODEL]
    plain = [name for name, role in methods if role not in ("model", *_DASH)]
    fixed = {name: MODEL if role == "model" else BASELINE for name, role in methods}
    return fixed | dict(zip(plain, others, strict=False))


def _line(role: str, colour: str) -> dict[str, object]:
    return {"color": colour, "linestyle": _DASH.get(role, "-"), "linewidth": 2.4 if role == "model" else 1.3}


def _curves(
    axes, rows: Sequence[DenoisingRow], metric: str, *, shares: Sequence[float], colours: dict[str, str]
) -> None:
    found = [row for row in rows if row.metric == metric]
    if not found:
        raise ValueError(f"no row of the metric {metric!r}; there are {sorted({row.metric for row in rows})}")
    for method, colour in colours.items():
        own = sorted((row for row in found if row.method == method), key=lambda row: row.share)
        if not own:
            continue
        at = [row.share for row in own]
        axes.plot(at, [row.value for row in own], marker="o", markersize=3.5, **_line(own[0].role, colour))
        axes.fill_between(
            at, [row.low for row in own], [row.high for row in own], color=colour, alpha=0.12, linewidth=0
        )
    better = "higher" if (DENOISING_METRICS | METRICS)[metric].is_higher_better else "lower"
    axes.set_title(metric_label(metric))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(shares)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    axes.set_xlabel(f"molecules seen ({better} is better)")
    axes.grid(axis="y", color="#E6E8EC", linewidth=0.8)
