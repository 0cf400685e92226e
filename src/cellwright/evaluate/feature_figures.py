"""Figures of features told from another modality: each feature's score, and measured against told values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cellwright.evaluate.style import BASELINE, FAINT, INK, MODEL, WIDTH, house_style, place_axes, shorten, svg

_ACROSS = 6
MAX_MAPS = 6
_MARKERS = "sDv^"
_MAX_POINTS = 2000


def scores_figure(names: Sequence[str], score_f: Mapping[str, np.ndarray], model: str) -> bytes:
    """Draw each feature's score as a row of dots, one a method; features in the given order."""
    up = 0.24 * len(names)
    with house_style():
        figure = Figure(figsize=(WIDTH, up + 1.0))
        axes = place_axes(figure, (2.4, 0.45, WIDTH - 2.6, up))
        handles = []
        for place, (method, value_f) in enumerate(score_f.items()):
            is_model = method == model
            marker = "o" if is_model else _MARKERS[(place - 1) % len(_MARKERS)]
            colour = MODEL if is_model else BASELINE
            style = {
                "marker": marker,
                "color": colour,
                "markeredgecolor": "white",
                "markersize": 8 if is_model else 6.5,
            }
            axes.plot(value_f, np.arange(len(names)), linewidth=0, zorder=3 if is_model else 2, **style)
            handles.append(Line2D([], [], linewidth=0, label=shorten(method, 40), **style))
        axes.set_yticks(range(len(names)), [shorten(name, 26) for name in names], fontsize=9)
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="Pearson's r over cells, told against measured")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.grid(axis="both", color="#E6E8EC", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        figure.legend(handles=handles, loc="upper left", ncols=len(handles), frameon=False, bbox_to_anchor=(0, 1))
        return svg(figure)


def told_figure(names: Sequence[str], measured_nf: np.ndarray, told_nf: np.ndarray, score_f: np.ndarray) -> bytes:
    """Draw measured (across) against told values (up) of each feature; the line is where both are the same.

    Of more than 2,000 cells as many are drawn, at random.
    """
    rows = np.random.default_rng(0).permutation(len(measured_nf))[:_MAX_POINTS]
    across = min(_ACROSS, len(names))
    down = -(-len(names) // across)
    side, step = 1.4, 1.76
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.3 + 2.1 * down))
        for place, name in enumerate(names):
            left, top = 0.62 + step * (place % across), 0.3 + 2.1 * down - 2.1 * (place // across)
            axes = place_axes(figure, (left, top - 0.45 - side, side, side))
            x_n, y_n = measured_nf[rows, place], told_nf[rows, place]
            both = np.concatenate([x_n, y_n])
            low, high = float(both.min()), float(both.max())
            room = max(0.05 * (high - low), 1e-3)
            axes.plot([low, high], [low, high], color=BASELINE, linewidth=1.0, linestyle="--")
            axes.scatter(
                x_n, y_n, s=float(np.clip(3000 / len(rows), 1.5, 8)), c=MODEL, alpha=0.35, linewidths=0, rasterized=True
            )
            axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
            axes.set_title(shorten(name, 18), fontsize=9.5)
            score = "" if not np.isfinite(score_f[place]) else f"r = {score_f[place]:.2f}"
            axes.text(0.04, 0.96, score, transform=axes.transAxes, fontsize=9, va="top")
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelsize=8, length=2)
            if place % across == 0:
                axes.set_ylabel("told", fontsize=9)
            if place + across >= len(names):
                axes.set_xlabel("measured", fontsize=9)
        return svg(figure, points_dpi=110)


def maps_figure(names: Sequence[str], umap_n2: np.ndarray, measured_nf: np.ndarray, told_nf: np.ndarray) -> bytes:
    """Draw cells by their value of up to six features: measured above, told of cells that lack them below.

    ``measured_nf`` is NaN where a cell was not measured; the two rows share their colours. Other cells are pale.
    """
    num = min(MAX_MAPS, len(names))
    side, step = 1.42, 1.76
    has_n = np.isfinite(measured_nf).any(1)
    order_n = np.random.default_rng(0).permutation(len(umap_n2))
    size = float(np.clip(5000 / max(len(umap_n2), 1), 0.8, 8))
    with house_style():
        figure = Figure(figsize=(WIDTH, 3.9))
        for place in range(num):
            both = np.where(has_n, measured_nf[:, place], told_nf[:, place])
            low, high = np.nanpercentile(both, [2, 98])
            for row, (is_shown_n, value_n) in enumerate(
                ((has_n & np.isfinite(measured_nf[:, place]), measured_nf[:, place]), (~has_n, told_nf[:, place]))
            ):
                axes = place_axes(figure, (0.42 + step * place, 3.5 - (row + 1) * (side + 0.32) + 0.12, side, side))
                pale_n, shown_n = order_n[~is_shown_n[order_n]], order_n[is_shown_n[order_n]]
                axes.scatter(*umap_n2[pale_n].T, c=FAINT, s=size, linewidths=0, rasterized=True)
                points = {"c": value_n[shown_n], "cmap": "viridis", "vmin": low, "vmax": max(high, low + 1e-6)}
                axes.scatter(*umap_n2[shown_n].T, s=size, linewidths=0, rasterized=True, **points)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if row == 0:
                    axes.set_title(f"{shorten(names[place], 14)}  {low:.1f} .. {high:.1f}", fontsize=9)
                if place == 0:
                    axes.set_ylabel("measured" if row == 0 else "told", fontsize=9.5)
        return svg(figure, points_dpi=110)
