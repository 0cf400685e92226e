"""Figure of training runs: a dot a run, a row a way of fine-tuning, baselines as lines across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cellwright.evaluate.style import BASELINE, INK, MODEL, WIDTH, house_style, place_axes, shorten, svg

_ROW, _ACROSS, _LETTER = 0.42, WIDTH - 2.6, 0.085  # inches: a row, the axes' width, about the width of a letter


def runs_figure(scores: Mapping[str, Sequence[float]], baselines: Mapping[str, float], label: str) -> bytes:
    """Draw the score of every run, the mean of each way as a bar, and what each baseline reaches.

    Parameters
    ----------
    scores
        Way -> score of each of its runs.
    baselines
        Name -> score. One far below all runs is left out: it would squeeze them into a corner.
    label
        Name of the score.

    Returns
    -------
    SVG.
    """
    every = [value for values in scores.values() for value in values]
    spread = max(max(every) - min(every), 0.02)
    shown = {name: value for name, value in baselines.items() if value >= min(every) - 2 * spread}
    ends = [*every, *shown.values()]
    room = 0.08 * max(max(ends) - min(ends), 0.02)
    span = max(ends) - min(ends) + 2 * room
    lanes = _lanes({f"{shorten(name, 40)} {value:.3f}": value for name, value in shown.items()}, span / _ACROSS)
    height = _ROW * len(scores)
    top = 0.25 + 0.2 * (1 + max((lane for _, lane in lanes.values()), default=0))
    with house_style():
        figure = Figure(figsize=(WIDTH, height + top + 0.75))
        axes = place_axes(figure, (1.6, 0.6, _ACROSS, height))
        for place, values in enumerate(scores.values()):
            mean = float(np.mean(values))
            axes.plot([mean, mean], [place - 0.3, place + 0.3], color=MODEL, linewidth=3)
            offsets = (np.arange(len(values)) - (len(values) - 1) / 2) * min(0.16, 0.5 / max(len(values), 1))
            axes.plot(values, place + offsets, "o", color=MODEL, markersize=6, alpha=0.55, markeredgewidth=0)
        for text, (value, lane) in lanes.items():
            axes.axvline(value, color=BASELINE, linewidth=1.2, linestyle="--", zorder=0)
            axes.annotate(
                text, (value, 1), (0, 6 + 14.4 * lane),
                xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", fontsize=9, color=INK,
                annotation_clip=False,
            )  # fmt: skip
        axes.set_yticks(range(len(scores)), [shorten(name, 24) for name in scores])
        axes.set(xlim=(min(ends) - room, max(ends) + room), ylim=(len(scores) - 0.5, -0.5))
        axes.set_xlabel(f"{label}; a dot is a run, a bar the mean of its way, a dashed line a baseline")
        axes.grid(axis="x", color="#E6E8EC", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        return svg(figure)


def _lanes(values: Mapping[str, float], per_inch: float) -> dict[str, tuple[float, int]]:
    """Return text -> (value, how many texts it stands above): the lowest place where it runs into no other."""
    ends: list[float] = []  # where the last text of each lane ends
    found = {}
    for text, value in sorted(values.items(), key=lambda item: item[1]):
        half = len(text) * _LETTER * per_inch / 2
        lane = next((place for place, end in enumerate(ends) if end <= value - half), len(ends))
        ends[lane : lane + 1] = [value + half]
        found[text] = (value, lane)
    return found
