"""The figure of integration: every method's cells, once by sequencing batch and once by type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from cellwright.evaluate.figures import Panel, scatter_panel
from cellwright.evaluate.style import (
    BASELINE,
    FAINT,
    PALETTE,
    WIDTH,
    LegendLine,
    house_style,
    place_axes,
    ranked_colours,
    shorten,
    svg,
    write_legend,
)

_ACROSS, _PANEL, _GAP, _ROW, _LEGEND = 3, 2.55, 0.22, 3.1, 2.45


@dataclass(frozen=True)
class SideBySide:
    """One way to colour the cells."""

    title: str
    code_n: np.ndarray
    """-1 = pale."""
    names: tuple[str, ...]


def side_by_side_figure(positions: Mapping[str, np.ndarray], colourings: Sequence[SideBySide]) -> bytes:
    """Draw the cells of several methods, three across; below each row of one colouring that of the next.

    Parameters
    ----------
    positions
        Method -> ``[n, 2]``; the same cells.
    colourings
        Sequencing batch, cell type.
    """
    names = list(positions)
    blocks = [names[at : at + _ACROSS] for at in range(0, len(names), _ACROSS)]
    looks = [_look(colouring) for colouring in colourings]
    rows = [max(_ROW, 0.2 * len(legend) + 0.4) for _, legend in looks]
    heights = [[max(_ROW, row) if at == 0 else _ROW for row in rows] for at in range(len(blocks))]
    height = sum(map(sum, heights))
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        top = height
        for at, block in enumerate(blocks):
            for colouring, (colours, legend), row in zip(colourings, looks, heights[at], strict=True):
                for place, name in enumerate(block):
                    left = 0.25 + place * (_PANEL + _GAP)
                    axes = place_axes(figure, (left, top - 0.3 - _PANEL, _PANEL, _PANEL))
                    panel = Panel(shorten(name, 30), colouring.code_n, colours, [], colouring.title == "cell type")
                    scatter_panel(axes, positions[name], panel)
                if at == 0:
                    room = 0.2 * len(legend) + 0.1
                    box = (WIDTH - _LEGEND, top - 0.25 - room, _LEGEND, room)
                    write_legend(place_axes(figure, box), legend)
                top -= row
        return svg(figure, points_dpi=110)


def _look(colouring: SideBySide) -> tuple[list[str], list[LegendLine]]:
    colours, kept = ranked_colours(colouring.code_n, len(colouring.names), len(PALETTE))
    present = set(np.unique(colouring.code_n).tolist())
    is_type = colouring.title == "cell type"
    legend = [LegendLine(colouring.title.capitalize())]
    for k in kept:
        if k in present:
            legend.append(LegendLine(f"{k + 1}  " * is_type + shorten(colouring.names[k], 26), colours[k]))
    if len(kept) < len(colouring.names):
        legend.append(LegendLine("others", BASELINE))
    if -1 in present:
        legend.append(LegendLine("not known", FAINT))
    return colours, legend
