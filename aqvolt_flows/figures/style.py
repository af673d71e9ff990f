"""One look for all figures: size, type, colours that colour-blind readers can tell apart, and bytes out.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), always doubled by marker, dash or hatch.
Text is at least 9 pt and stays text in SVG. The same input gives the same bytes: no dates, fixed ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

INK, MUTED, GRID, PAPER = "#1d2733", "#5a6672", "#d5dbe1", "#ffffff"
#: Blue, vermillion, bluish green, reddish purple, orange, sky blue, grey.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a8691")
#: Fills that are pixels in SVG and must be seen on a light and a dark page.
DENSITY = "#2f8fce"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (5, 1.5, 1.5, 1.5)),
    (0, (8, 2)),
    (0, (3, 1)),
    (0, (1, 1)),
)
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++")
#: Inches; at 4.8 in a figure is legible at the width of a phone.
WIDTH, HEIGHT = 4.8, 3.2
#: For panels that stand three in a row.
NARROW = 3.7
FONT_PT = 10.0

_RC: Any = {
    "font.size": FONT_PT,
    "axes.labelsize": FONT_PT,
    "axes.titlesize": FONT_PT + 1,
    "xtick.labelsize": FONT_PT - 0.5,
    "ytick.labelsize": FONT_PT - 0.5,
    "legend.fontsize": FONT_PT - 0.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "aqvolt",
    "path.simplify": True,
}


def color(index: int) -> str:
    """Return the colour of a series."""
    return SERIES[index % len(SERIES)]


@contextmanager
def canvas(width: float = WIDTH, height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure and its axes in this style; save it inside the block, with :func:`render`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def render(figure: Figure, format: Format = "svg") -> bytes:
    """Return the figure's bytes: SVG without dates, or PNG at 200 dpi on white."""
    sink = io.BytesIO()
    if format == "svg":
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": "aqvolt-flows"})
    else:
        figure.savefig(sink, format="png", dpi=200, facecolor=PAPER, metadata={"Software": "aqvolt-flows"})
    return sink.getvalue()


def empty(axes: Axes, message: str) -> None:
    """Say in the middle of the axes why there is nothing to see."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", transform=axes.transAxes, color=MUTED)


def compact(count: float) -> str:
    """Return a count as people read it: 950, 12,300, 8.5 M."""
    if count >= 1e6:
        return f"{count / 1e6:.3g} M"
    return f"{count:,.0f}"
