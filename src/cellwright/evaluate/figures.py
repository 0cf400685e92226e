"""Figures of the cells themselves, as SVG bytes that need nothing else to be shown: positions and confusions.

Points are stored as pixels inside the SVG, so that a hundred thousand cells take no more room than a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from cellwright import metrics
from cellwright.evaluate.evaluation import Cells
from cellwright.evaluate.projection import projection_name
from cellwright.evaluate.style import (
    BASELINE,
    FAINT,
    INK,
    WIDTH,
    WRONG,
    LegendLine,
    house_style,
    place_axes,
    ranked_colours,
    shorten,
    svg,
    write_legend,
)

MAX_CONFUSION_CLASSES = 40
MAX_GROUPINGS, MAX_GROUPS = 3, 12
_PANEL, _GAP, _ROW = (
    3.6,
    0.35,
    4.35,
)  # inches: a square panel, the space beside it, a row with title and axis name
_LEGEND_LEFT, _LEGEND = 0.3 + 2 * (_PANEL + _GAP) - 0.1, 3.0


@dataclass(frozen=True)
class Panel:
    """One drawing of positions, coloured by code."""

    title: str
    code_n: np.ndarray
    """-1 = pale."""
    colours: list[str]
    legend: list[LegendLine]
    """Empty when an earlier panel's legend holds."""
    is_numbered: bool = False
    """Whether each code's number is written at the median of its cells."""


def umap_figure(cells: Cells, classes: Sequence[str]) -> bytes:
    """Draw the cells' positions by true class, predicted class, where cells come from, and where it is wrong.

    Classes carry the same number and colour in every panel; numbers stand at the medians. Cells without a class
    are pale. Of more than 24 classes (12 groups) the largest have a colour.
    """
    panels = [*_class_panels(cells, classes), *_grouping_panels(cells), *_wrong_panels(cells)]
    panels = panels or [Panel("All cells", np.zeros(len(cells), dtype=np.int64), [BASELINE], [])]
    per_row = min(2, len(panels))
    starts, down = [], 0.2
    for place, panel in enumerate(panels):  # a legend begins beside its panel, or below the legend before it
        starts.append(max(down, 0.2 + place // 2 * _ROW))
        down = starts[-1] + 0.2 * len(panel.legend) + 0.2 if panel.legend else down
    height = max(down, _ROW * -(-len(panels) // 2))
    legend_left = _LEGEND_LEFT - (2 - per_row) * (_PANEL + _GAP)
    with house_style():
        figure = Figure(figsize=(WIDTH, height))
        for place, (panel, start) in enumerate(zip(panels, starts, strict=True)):
            left, top = 0.3 + place % 2 * (_PANEL + _GAP), height - place // 2 * _ROW
            scatter_panel(place_axes(figure, (left, top - 0.3 - _PANEL, _PANEL, _PANEL)), cells.umap_n2, panel)
            if panel.legend:
                room = 0.2 * len(panel.legend) + 0.1
                write_legend(place_axes(figure, (legend_left, height - start - room, _LEGEND, room)), panel.legend)
        # more cells, more noise in the picture, more bytes; the points of large sets are small anyway
        return svg(figure, points_dpi=140 if len(cells) <= 5000 else 100 if len(cells) <= 30_000 else 80)


def _class_panels(cells: Cells, classes: Sequence[str]) -> list[Panel]:
    sides = {"True class": cells.truth_n, "Predicted class": cells.pred_n}
    found = {title: code_n for title, code_n in sides.items() if code_n is not None}
    if not found:
        return []
    both = np.concatenate(list(found.values()))
    colours, kept = ranked_colours(both, len(classes))
    present = set(np.unique(both).tolist())
    legend = [LegendLine("Class")]
    legend += [LegendLine(f"{k + 1}  {shorten(classes[k], 34)}", colours[k]) for k in kept if k in present]
    if rest := len(present - set(kept) - {-1}):
        legend.append(LegendLine(f"{rest} smaller classes", BASELINE))
    if -1 in present:
        legend.append(LegendLine("not known or unassigned", FAINT))
    legends = [legend, []]
    return [Panel(t, c, colours, lines, True) for (t, c), lines in zip(found.items(), legends, strict=False)]


def _grouping_panels(cells: Cells) -> list[Panel]:
    panels = []
    for name, grouping in list(cells.groupings.items())[:MAX_GROUPINGS]:
        colours, kept = ranked_colours(grouping.code_n, len(grouping.names), MAX_GROUPS)
        legend = [LegendLine(shorten(name, 34))]
        legend += [LegendLine(shorten(grouping.names[k], 36), colours[k]) for k in kept]
        if len(grouping.names) > len(kept):
            legend.append(LegendLine(f"{len(grouping.names) - len(kept)} smaller groups", BASELINE))
        panels.append(Panel(f"By {shorten(name, 34)}", grouping.code_n, colours, legend))
    return panels


def _wrong_panels(cells: Cells) -> list[Panel]:
    if cells.truth_n is None or cells.pred_n is None:
        return []
    state_n = np.where(cells.pred_n < 0, 1, np.where(cells.pred_n == cells.truth_n, 0, 2))
    is_shown_n = cells.truth_n >= 0  # cells drawn for orientation are training cells: right or wrong says little there
    if cells.is_scored_n is not None:
        is_shown_n = is_shown_n & cells.is_scored_n
    state_n = np.where(is_shown_n, state_n, -1)
    colours = ["#B9D7EA", "#E69F00", WRONG]
    legend = [LegendLine("Answer")]
    for state, word in enumerate(("right", "unassigned", "wrong")):
        if count := int((state_n == state).sum()):
            legend.append(LegendLine(f"{word}: {count:,} cells", colours[state]))
    return [Panel("Where it is wrong", state_n, colours, legend)]


def scatter_panel(axes, umap_n2: np.ndarray, panel: Panel, frame_m2: np.ndarray | None = None) -> None:
    """Draw positions with colours by code, pale cells below.

    ``frame_m2`` are the positions that the axes shall hold, where panels are to share a frame; else the cells' own.
    """
    order_n = np.random.default_rng(0).permutation(len(umap_n2))  # no class lies on top because of its code
    order_n = order_n[np.argsort(panel.code_n[order_n] >= 0, kind="stable")]  # pale cells below
    points = np.array([*panel.colours, FAINT])[panel.code_n[order_n]]
    size = float(np.clip(9000 / max(len(umap_n2), 1), 1.2, 20))
    axes.scatter(*umap_n2[order_n].T, c=points, s=size, linewidths=0, rasterized=True)
    axes.set_title(panel.title)
    # equal scales: the shorter side is centred
    frame_m2 = umap_n2 if frame_m2 is None else frame_m2
    middle_2 = (frame_m2.max(axis=0) + frame_m2.min(axis=0)) / 2
    half = max(float(np.ptp(frame_m2, axis=0).max()) / 2 * 1.06, 1e-6)
    axes.set(xlim=(middle_2[0] - half, middle_2[0] + half), ylim=(middle_2[1] - half, middle_2[1] + half))
    axes.set(aspect="equal", xticks=[], yticks=[])
    name = projection_name(len(frame_m2))
    axes.set_xlabel(f"{name} 1", loc="left", fontsize=9, labelpad=2)
    axes.set_ylabel(f"{name} 2", loc="bottom", fontsize=9, labelpad=2)
    if panel.is_numbered:
        _number(axes, umap_n2, panel, half)


def _number(axes, umap_n2: np.ndarray, panel: Panel, half: float) -> None:
    """Write each class's number at the median of its cells, numbers pushed apart where they would collide."""
    codes = [k for k in np.unique(panel.code_n) if k >= 0 and panel.colours[k] != BASELINE]
    at_k2 = np.array([np.median(umap_n2[panel.code_n == k], axis=0) for k in codes]).reshape(-1, 2)
    room = 0.13 * half
    for _ in range(60):
        apart_kk2 = at_k2[:, None] - at_k2[None]
        far_kk = np.linalg.norm(apart_kk2, axis=-1) + np.eye(len(codes)) * 1e9
        close_kk = np.clip(room - far_kk, 0, None) / 2
        apart_kk2 = np.where(far_kk[..., None] < 1e-9, np.sign(np.subtract.outer(codes, codes))[..., None], apart_kk2)
        at_k2 = at_k2 + (close_kk[..., None] * apart_kk2 / np.maximum(far_kk, 1e-9)[..., None]).sum(axis=1)
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.72}
    for code, (x, y) in zip(codes, at_k2, strict=True):
        axes.text(x, y, str(code + 1), ha="center", va="center", fontsize=9.5, weight="bold", bbox=box)


def confusion_figure(truth_n: np.ndarray, pred_n: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw true (rows) against predicted classes (columns): colour = share of the row, numbers = cells.

    Classes that neither side holds are left out. Unassigned cells have a column of their own. Of more than 40 classes
    the 40 with the most true cells are drawn and the others pooled.
    """
    counts, rows, columns = _confusion_table(truth_n, pred_n, classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = min(6.5 / len(columns), 0.62)  # inches
    is_wide = cell >= 0.32  # room for counts, and for names below
    longest = max(map(len, [*rows, *columns]))
    left = 0.5 + 0.076 * longest  # inches; about 0.076 a letter
    across, up, below = cell * len(columns), cell * len(rows), 0.65 + 0.054 * longest if is_wide else 1.0
    with house_style():
        figure = Figure(figsize=(WIDTH, up + below + 0.4))
        axes = place_axes(figure, (left, below, across, up))
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(rows)), rows, fontsize=9)
        if is_wide:
            slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
            axes.set_xticks(range(len(columns)), columns, fontsize=9, **slant)
            _write_counts(axes, counts, share, cell)
        else:
            short = [name.rpartition("  ")[2].replace(" smaller classes, pooled", " others") for name in columns]
            axes.set_xticks(range(len(columns)), short, fontsize=9, rotation=90)
        below_text = "predicted" if is_wide else "predicted (numbers as in the rows)"
        axes.set(xlabel=below_text, ylabel="true", title="Cells by true and predicted class")
        axes.yaxis.set_label_coords((0.15 - left) / across, 0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar_axes = place_axes(figure, (left + across + 0.15, below + max(up - 2.0, 0), 0.14, min(2.0, up)))
        bar = figure.colorbar(image, cax=bar_axes, ticks=[0, 0.5, 1])
        bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
        bar.set_label("share of the true class", fontsize=9)
        bar.outline.set_visible(False)
        return svg(figure)


def _write_counts(axes, counts: np.ndarray, share: np.ndarray, cell: float) -> None:
    for i, j in np.argwhere(counts > 0):
        count = int(counts[i, j])
        text = f"{count:,}"
        if len(text) * 0.08 > cell:  # about 0.08 inches a letter
            text = f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"
        colour = "white" if share[i, j] > 0.55 else INK
        axes.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)


def _confusion_table(truth_n, pred_n, classes: Sequence[str]) -> tuple[np.ndarray, list[str], list[str]]:
    is_known_n = truth_n >= 0
    truth_n, pred_n = truth_n[is_known_n], pred_n[is_known_n]
    counts = metrics.confusion(truth_n, pred_n, len(classes))
    unassigned_k = np.bincount(truth_n[pred_n < 0], minlength=len(classes))
    size_k = np.bincount(truth_n, minlength=len(classes))
    used = np.flatnonzero((size_k > 0) | (counts.sum(axis=0) > 0))
    kept = np.sort(used[np.argsort(-size_k[used], kind="stable")][:MAX_CONFUSION_CLASSES])
    names = [f"{shorten(classes[k], 32)}  {k + 1}" for k in kept]
    pooled = np.setdiff1d(used, kept)
    if len(pooled):
        groups = [*([k] for k in kept), pooled]
        counts = np.array([[counts[np.ix_(a, b)].sum() for b in groups] for a in groups])
        unassigned_k = np.array([unassigned_k[a].sum() for a in groups])
        names.append(f"{len(pooled)} smaller classes, pooled")
    else:
        counts, unassigned_k = counts[np.ix_(kept, kept)], unassigned_k[kept]
    if unassigned_k.any():
        return np.column_stack([counts, unassigned_k]), names, [*names, "unassigned"]
    return counts, names, names
