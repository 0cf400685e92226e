"""How every figure looks: colours, type sizes, and SVG that is the same bytes for the same input.

Figures are drawn without pyplot. Text stays text in the SVG (small files, any script), with fall-back fonts no wider
than the one that was measured. Names given by the user are never read as mathematics.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

WIDTH = 11.0
"""Inches; shown about 1,040 pixels wide, where 9 points are 12 pixels."""
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#553118", "#B6C26D",
    "#6D0061", "#2449B6", "#316155", "#B6553D", "#9292FF", "#495500", "#00E79E", "#795586",
    "#AA0049", "#3DDBF3", "#F36179", "#E7C255", "#86B69E", "#551886", "#61AA3D", "#B6AACE",
)  # fmt: skip
"""Six colours of Okabe and Ito, then the colours farthest from all before them (CIELAB, least of normal, protan and
deutan sight). No two dozen colours suffice alone, so figures number their classes too."""
MODEL, BASELINE, WRONG, FAINT, INK = "#0072B2", "#8A8F98", "#D55E00", "#D3D6DB", "#1F2430"
BOUNDS = {"floor": "#D55E00", "roof": "#009E73"}
"""Lines of what a method reaches that knows nothing, and of what the best could reach."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cellwright",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8A8F98",
    "axes.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "lines.solid_capstyle": "round",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the type sizes and SVG settings inside the block, and put the user's settings back after it."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # text is stored as text: a sign that the measuring font lacks is still shown by the reader's browser
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def place_axes(figure: Figure, box: tuple[float, float, float, float]):
    """Add axes whose (left, bottom, width, height) are inches."""
    across, up = figure.get_size_inches()
    left, bottom, width, height = box
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def svg(figure: Figure, *, points_dpi: int | None = None) -> bytes:
    """Return the figure as SVG, without a date, so that equal figures are equal bytes.

    ``points_dpi`` is for figures with thousands of points, stored as pixels: their resolution. They are kept in 96
    colours, a third of the size with no difference to see.
    """
    content = io.BytesIO()
    figure.savefig(content, format="svg", dpi=points_dpi or 100, metadata={"Date": None})
    if points_dpi is None:
        return content.getvalue()
    return re.sub(rb"(?<=data:image/png;base64,)[A-Za-z0-9+/=\s]+", _with_fewer_colours, content.getvalue())


def _with_fewer_colours(found: re.Match[bytes]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(found.group())))
    reduced = image.quantize(96, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    reduced.save(content, "png", optimize=True)
    return base64.b64encode(content.getvalue())


def shorten(name: str, limit: int) -> str:
    """Return a name of at most ``limit`` letters, its middle replaced by a dot leader where it is longer."""
    name = " ".join(name.split())
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 2
    return f"{name[: limit - 1 - tail].rstrip()}…{name[-tail:].lstrip()}"


def ranked_colours(code_n: np.ndarray, num_names: int, limit: int = len(PALETTE)) -> tuple[list[str], list[int]]:
    """Return the colour of each name, and in order the codes that have one of their own: those of the most cells.

    Names beyond ``limit`` are grey. With fewer names the colour is the code's place in the palette, whatever the
    counts.
    """
    count_k = np.bincount(code_n[code_n >= 0], minlength=num_names)
    if num_names <= limit:
        return list(PALETTE[:num_names]), list(range(num_names))
    kept = sorted(np.argsort(-count_k, kind="stable")[:limit].tolist())
    colours = [BASELINE] * num_names
    for place, code in enumerate(kept):
        colours[code] = PALETTE[place]
    return colours, kept


@dataclass(frozen=True)
class LegendLine:
    """A line of a legend; without a colour it is a heading."""

    text: str
    colour: str | None = None


def write_legend(axes, lines: Sequence[LegendLine]) -> None:
    """Write a legend down an axes, a line every 0.2 inches."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0.2 * len(lines) + 0.1, 0))
    for place, line in enumerate(lines):
        y = 0.1 + 0.2 * place
        if line.colour is None:
            axes.text(0, y, line.text, va="center", fontsize=9.5, fontweight="bold")
        else:
            axes.plot(0.025, y, "o", color=line.colour, markersize=6.5, clip_on=False)
            axes.text(0.075, y, line.text, va="center", fontsize=9)
