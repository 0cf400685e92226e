"""Figures of predicted perturbations: every gene of a profile, real against predicted, and the genes that change most.

Real effects are those of all real cells of a profile against the controls that no model saw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cellwright.data.perturbations import JOIN
from cellwright.evaluate.style import BASELINE, FAINT, INK, MODEL, WIDTH, house_style, place_axes, shorten, svg
from cellwright.metrics.effects import pearson
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import Predictions

COLUMNS, MAX_PROFILES = 4, 12
NUM_GENES = 20


def effects_figure(screen: Screen, predictions: Predictions, method: str) -> bytes:
    """Draw predicted against real effects of all genes, one panel a test profile (12 at most, best and worst kept).

    Returns
    -------
    SVG.
    """
    real = {entry: _real_effect(screen, u)[0] for entry, u in enumerate(predictions.at_e)}
    made_eg = predictions.effect_eg[method]
    score_e = np.array([pearson(real[entry], made_eg[entry]) for entry in real])
    shown = _spread(np.argsort(-score_e, kind="stable"), MAX_PROFILES)
    num_rows = -(-len(shown) // COLUMNS)
    size = (WIDTH - 0.6) / COLUMNS
    with house_style():
        figure = Figure((WIDTH, num_rows * size + 0.75))
        for place, entry in enumerate(shown):
            row, column = divmod(place, COLUMNS)
            left, bottom = 0.75 + column * size, 0.65 + (num_rows - 1 - row) * size
            axes = place_axes(figure, (left, bottom, size - 0.5, size - 0.6))
            bound = max(np.abs(real[entry]).max(), np.abs(made_eg[entry]).max()) * 1.05 or 1.0
            axes.plot([-bound, bound], [-bound, bound], color=FAINT, linewidth=1)
            axes.plot(real[entry], made_eg[entry], ".", color=MODEL, markersize=3, alpha=0.6, rasterized=True)
            axes.set(xlim=(-bound, bound), ylim=(-bound, bound))
            axes.set_title(f"{_title(screen, predictions, entry)}  r {score_e[entry]:.2f}", fontsize=9)
            if column == 0:
                axes.set_ylabel("predicted effect")
            if row == num_rows - 1:
                axes.set_xlabel("real effect")
        return svg(figure, points_dpi=120)


def top_genes_figure(screen: Screen, predictions: Predictions, methods: Sequence[str], *, entry: int) -> bytes:
    """Draw the 20 most changed genes of one test profile: real effect with its 95 % interval, and what methods say.

    Parameters
    ----------
    methods
        At most three; the first is drawn as the model.
    entry
        Which entry of the predictions.
    """
    real_g, error_g = _real_effect(screen, predictions.at_e[entry])
    size_g = np.abs(real_g) / np.where(error_g > 0, error_g, np.inf)
    genes = np.argsort(-size_g, kind="stable")[:NUM_GENES]
    genes = genes[np.argsort(real_g[genes], kind="stable")]
    place_k = np.arange(len(genes))
    marks = [("o", MODEL), ("D", BASELINE), ("s", INK)]
    with house_style():
        figure = Figure((WIDTH, 3.6))
        axes = place_axes(figure, (0.8, 1.1, WIDTH - 1.0, 2.1))
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.bar(place_k, real_g[genes], color=FAINT, width=0.7, label="real")
        axes.errorbar(place_k, real_g[genes], 1.96 * error_g[genes], fmt="none", ecolor=INK, elinewidth=0.8)
        for method, (mark, colour) in zip(methods, marks, strict=False):
            effect_g = predictions.effect_eg[method][entry]
            axes.plot(place_k, effect_g[genes], mark, color=colour, markersize=5, label=method)
        axes.set_xticks(place_k, [shorten(screen.genes[g], 14) for g in genes], rotation=90)
        axes.set(ylabel="change of log expression", title=_title(screen, predictions, entry))
        axes.legend(frameon=False, ncols=4, loc="upper left")
        return svg(figure)


def middle_entry(predictions: Predictions, screen: Screen) -> int:
    """Return the entry whose real effect is of middling size: neither the easiest nor the emptiest to look at."""
    size_e = [np.linalg.norm(_real_effect(screen, u)[0]) for u in predictions.at_e]
    return int(np.argsort(size_e, kind="stable")[len(size_e) // 2])


def _real_effect(screen: Screen, u: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a profile's real effect and its standard error."""
    rows = np.flatnonzero(screen.profile_n == u)
    controls = np.flatnonzero(screen.is_scored_n & (screen.context_n == screen.context_u[u]))
    (mean_g, variance_g), (control_g, control_variance_g) = screen.moments(rows), screen.moments(controls)
    return mean_g - control_g, np.sqrt(variance_g / len(rows) + control_variance_g / len(controls))


def _spread(order: np.ndarray, num: int) -> list[int]:
    """Return at most so many, evenly over the order, its two ends included."""
    if len(order) <= num:
        return order.tolist()
    return order[np.linspace(0, len(order) - 1, num).round().astype(int)].tolist()


def _title(screen: Screen, predictions: Predictions, entry: int) -> str:
    u = int(predictions.at_e[entry])
    name = JOIN.join(screen.profiles.parts[u])
    return shorten(f"{name}, {screen.profiles.context[u]}" if len(screen.contexts) > 1 else name, 26)
