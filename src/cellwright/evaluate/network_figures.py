"""Figure of ranked targets: the score of each regulator, a model beside simple ways, as SVG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cellwright.evaluate.parts import Method
from cellwright.evaluate.style import BASELINE, INK, MODEL, PALETTE, WIDTH, house_style, place_axes, shorten, svg

_MARKS = "osD^vP"


def regulators_figure(methods: Sequence[Method], num_targets: Mapping[str, int], metric: str) -> bytes:
    """Draw a row a regulator and a mark a method, models in front; the floor is left out, a line stands at 1.

    Parameters
    ----------
    methods
        With a score of ``metric`` for each regulator among their parts.
    num_targets
        Regulator -> known targets, in the order of the rows.
    metric
        A ratio to a random order.
    """
    shown = [method for method in methods if method.bound is None]
    looks = _looks(shown)
    height = 0.27 * len(num_targets) + 0.2
    legend_height = 0.3 + 0.24 * -(-len(shown) // 3)
    with house_style():
        figure = Figure((WIDTH, height + legend_height + 0.75))
        axes = place_axes(figure, (1.9, 0.6, WIDTH - 2.1, height))
        axes.axvline(1, color=INK, linewidth=1, linestyle="--", zorder=1)
        for method in reversed(shown):
            at = [method.parts[name][metric].value for name in num_targets]
            axes.plot(at, range(len(at)), linewidth=0, **looks[method.name])
        axes.set_yticks(range(len(num_targets)), [f"{shorten(name, 14)} ({num})" for name, num in num_targets.items()])
        axes.set_ylim(len(num_targets) - 0.4, -0.6)
        axes.set_xlabel("area under precision-recall over the share of targets (higher is better)")
        axes.grid(axis="x", color="#E6E8EC", linewidth=0.8)
        handles = [Line2D([], [], label=shorten(m.name, 40), linewidth=0, **looks[m.name]) for m in shown]
        figure.legend(handles=handles, loc="upper left", ncols=3, frameon=False)
        return svg(figure)


def _looks(methods: Sequence[Method]) -> dict[str, dict[str, object]]:
    others = [colour for colour in PALETTE if colour not in (MODEL, BASELINE)]
    models = [method.name for method in methods if not method.is_baseline]
    found = {}
    for place, method in enumerate(methods):
        colour = MODEL if not method.is_baseline else others[(place - len(models)) % len(others)]
        is_main = bool(models) and method.name == models[0]
        found[method.name] = {
            "color": colour,
            "marker": _MARKS[place % len(_MARKS)],
            "markersize": 8 if is_main else 5.5,
            "zorder": 4 if is_main else 3,
            "alpha": 1.0 if is_main else 0.8,
        }
    return found
