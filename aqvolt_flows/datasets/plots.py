"""The pictures on a release's card: Figures 3, S3 and S4 of the paper, for this release, as PNG.

Drawn from ``stats.json`` alone; the same numbers give the same bytes with one version of matplotlib. Colours are Okabe
and Ito's (https://jfly.uni-koeln.de/color/), doubled by dashes.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Element

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _GRID = "#1d2733", "#5a6672", "#d5dbe1"
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a8691")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)), (0, (3, 1)))
_RC: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
}
#: Quantity → what the axis says, and the range that is drawn at least (as binned).
_PANELS = {
    "cohesive_energy_per_atom": "cohesive energy (eV/atom)",
    "force": "force on an atom (eV/Å)",
    "pressure_gpa": "pressure (GPa)",
}


def available() -> bool:
    """Return whether matplotlib is installed (the extra ``report``); without it releases have no pictures."""
    return importlib.util.find_spec("matplotlib") is not None


def pictures(stats: Mapping[str, Any]) -> dict[str, bytes]:
    """Return file name → PNG of what :func:`~aqvolt_flows.datasets.stats.statistics` returns."""
    drawings: dict[str, tuple[float, float, Callable[[Figure, Mapping[str, Any]], None]]] = {
        "distributions.png": (11.0, 3.4, _distributions),
        "elements.png": (8.6, 9.0, _elements),
        "structures.png": (9.0, 3.4, _structures),
    }
    return {name: _draw(stats, *how) for name, how in drawings.items()}


def _draw(
    stats: Mapping[str, Any], width: float, height: float, draw: Callable[[Figure, Mapping[str, Any]], None]
) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure, stats)
        sink = io.BytesIO()
        figure.savefig(sink, format="png", dpi=120, facecolor="#ffffff", metadata={"Software": "aqvolt-flows"})
    return sink.getvalue()


def _distributions(figure: Figure, stats: Mapping[str, Any]) -> None:
    """Draw Figure 3: how much of each source lies in a bin, in percent."""
    panels = figure.subplots(1, 3)
    sources = list(stats["by_source"])
    for axes, (name, label) in zip(panels, _PANELS.items(), strict=True):
        histogram = stats["histograms"][name]
        edges = np.linspace(histogram["low"], histogram["high"], histogram["bins"] + 1)
        if histogram["scale"] == "log10":
            edges = 10**edges
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        held = np.zeros(len(edges) - 1)
        for index, source in enumerate(sources):
            counts = np.array(histogram["counts"].get(source, [0] * len(held)), dtype=float)
            held += counts
            if counts.sum():
                share = 100 * counts / counts.sum()
                style = {"color": _SERIES[index % 7], "linestyle": _DASHES[index % 6], "linewidth": 1.6}
                axes.stairs(share, edges, label=source, fill=False, **style)
                if len(sources) == 1:
                    axes.stairs(share, edges, color=_SERIES[0], alpha=0.15, fill=True)
        filled = np.flatnonzero(held)
        if len(filled):
            axes.set_xlim(edges[max(filled[0] - 2, 0)], edges[min(filled[-1] + 3, len(edges) - 1)])
        else:
            axes.text(0.5, 0.5, "not known", ha="center", va="center", transform=axes.transAxes, color=_MUTED)
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
    panels[0].set_ylabel("share of the source (%)")
    if len(sources) > 1:
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(sources), 6))


def place(symbol: str) -> tuple[float, float]:
    """Return column and row of an element in the periodic table, lanthanides and actinides in rows of their own."""
    element = Element(symbol)
    if element.is_lanthanoid or element.is_actinoid:
        return float(element.Z - (57 if element.is_lanthanoid else 89) + 3), 8.4 if element.is_lanthanoid else 9.4
    return float(element.group), float(element.row)


def _elements(figure: Figure, stats: Mapping[str, Any]) -> None:
    """Draw Figure S3: in how many configurations, and in how many compositions, each element is."""
    top, bottom = figure.subplots(2, 1)
    _table(figure, top, stats["elements"], "configurations that hold the element")
    _table(figure, bottom, stats["elements_formulas"], "compositions that hold the element")


def _table(figure: Figure, axes: Axes, counts: Mapping[str, int], title: str) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    norm = LogNorm(1, max(2, *counts.values()))
    colors = colormaps["YlGnBu"]
    for z in range(1, 104):
        symbol = Element.from_Z(z).symbol
        x, y = place(symbol)
        number = counts.get(symbol, 0)
        fill = colors(norm(number)) if number else "#f2f4f6"
        axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=fill, edgecolor="none"))
        dark = number and norm(number) > 0.55
        ink = "#ffffff" if dark else _INK if number else "#a3acb5"
        axes.text(x, y - 0.13, symbol, ha="center", va="center", fontsize=9, color=ink)
        if number:
            axes.text(x, y + 0.25, _short(number), ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xlim(0.4, 18.6)
    axes.set_ylim(10.0, 0.4)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, loc="left")
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, shrink=0.6, aspect=25, pad=0.01)
    bar.ax.yaxis.set_major_formatter(lambda value, _: _short(value))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)  # type: ignore[operator]


def _short(count: float) -> str:
    if count >= 1e6:
        return f"{count / 1e6:.3g}M"
    return f"{count / 1e3:.3g}k" if count >= 1e4 else f"{count:g}"


def _structures(figure: Figure, stats: Mapping[str, Any]) -> None:
    """Draw Figure S4: configurations by number of elements and of sites, on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    panels = figure.subplots(1, 2)
    for axes, (name, label) in zip(panels, {"n_elements": "elements", "n_sites": "sites"}.items(), strict=True):
        pairs = [(int(k), n) for k, n in stats[name].items()]
        if name == "n_sites":
            sites = np.array([k for k, _ in pairs])
            edges = np.arange(sites.min(), sites.max() + 2) - 0.5
            if len(edges) > 60:
                edges = np.linspace(edges[0], edges[-1], 51)
            counts = np.histogram(sites, edges, weights=[n for _, n in pairs])[0]
            axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_SERIES[0], linewidth=0)
            axes.set_xlim(0, max(edges[-1], 20) * 1.02)
        else:
            axes.bar([k for k, _ in pairs], [n for _, n in pairs], 0.8, color=_SERIES[0], linewidth=0)
            axes.set_xlim(0.4, max(6, *(k for k, _ in pairs)) + 0.6)
            for k, n in pairs:
                axes.annotate(_short(n), (k, n), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8.5)
        axes.set_yscale("log")
        axes.set_ylim(0.7, 3 * max(n for _, n in pairs))
        axes.yaxis.set_major_locator(LogLocator(10))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        axes.yaxis.set_minor_formatter(lambda *_: "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"{label} per structure")
        axes.grid(axis="y")
    panels[0].set_ylabel("configurations")
