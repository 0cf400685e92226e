"""The curve of hits of reverse perturbation, as SVG bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from cellwright.evaluate.style import BASELINE, BOUNDS, MODEL, WIDTH, house_style, place_axes, svg

_DASHES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)))


def hits_figure(curve: Mapping[str, np.ndarray], is_baseline: Mapping[str, bool], *, floor: str, roof: str) -> bytes:
    """Draw the share of hits over the number of candidates looked at (logarithmic), a line a method.

    Models are blue, baselines grey, each with dashes of its own; floor and roof have the colours of bounds.
    """
    with house_style():
        figure = Figure((WIDTH, 4.2))
        axes = place_axes(figure, (0.75, 0.65, WIDTH - 4.2, 3.2))
        dashes = {True: iter(_DASHES * 3), False: iter(_DASHES * 3)}
        for name, hit_k in curve.items():
            bound = {floor: "floor", roof: "roof"}.get(name)
            colour = BOUNDS[bound] if bound else BASELINE if is_baseline[name] else MODEL
            style = "-" if bound else next(dashes[is_baseline[name]])
            width = 2.2 if bound or not is_baseline[name] else 1.6
            axes.step(
                np.arange(1, len(hit_k) + 1), hit_k, where="post", color=colour, linestyle=style, linewidth=width,
                label=name,
            )  # fmt: skip
        axes.set_xscale("log")
        num = max(len(hit_k) for hit_k in curve.values())
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if tick <= num]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set(xlim=(1, num), ylim=(0, 1.02), xlabel="candidates looked at (K)", ylabel="share of states found")
        axes.grid(color="#E6E8EC", linewidth=0.8)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.02))
        return svg(figure)
