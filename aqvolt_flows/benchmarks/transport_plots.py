"""Figures of the benchmarks that run molecular dynamics: survival (Figure 6), predicted against measured values."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Okabe and Ito's colors, which color-blind readers can tell apart, doubled by dashes and markers.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
#: mS/cm; values below are drawn at the edge.
_LOWEST = 1e-12


def survival_figure(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return survival against temperature of every model as SVG, with intervals; empty without a curve."""
    curves = [(d, d["metrics"]["survival"]) for d in documents if d["metrics"].get("survival")]
    if not curves:
        return ""
    figure, axes = _axes()
    for (document, curve), color, dash in zip(curves, itertools.cycle(_COLORS), itertools.cycle(_DASHES), strict=False):
        t = curve["temperatures_k"]
        name = f"{document['model']}, {document['metrics']['n_structures_run']} structures"
        axes.step(t, curve["share"], where="post", color=color, linestyle=dash, label=name)
        axes.fill_between(t, curve["low"], curve["high"], step="post", color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="temperature (K)", ylabel="surviving share of runs", ylim=(0, 1.03))
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "survival", "Survival against temperature")


def parity_figure(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return predicted against measured conductivity at the target temperature as SVG; bounds are arrows.

    Materials without a number or a bound, or without an experiment, are not drawn; empty if none is.
    """
    drawn = [
        (d, [m for m in d["metrics"].get("materials", []) if m["ms_cm"] is not None and m["experiment_ms_cm"]])
        for d in documents
    ]
    drawn = [(d, found) for d, found in drawn if found]
    if not drawn:
        return ""
    figure, axes = _axes()
    for (document, found), color, marker in zip(
        drawn, itertools.cycle(_COLORS), itertools.cycle(_MARKERS), strict=False
    ):
        for m in found:
            x, y = (max(_LOWEST, m[name]) for name in ("experiment_ms_cm", "ms_cm"))
            filled = color if m["kind"] == "resolved" else "none"
            axes.plot(x, y, marker, color=color, markerfacecolor=filled, markersize=5)
            if m["kind"] == "below":
                axes.annotate("", (x, y / 10), (x, y), arrowprops={"arrowstyle": "->", "color": color})
            if m["experiment_is_bound"]:
                axes.annotate("", (x / 10, y), (x, y), arrowprops={"arrowstyle": "->", "color": color})
        resolved = sum(m["kind"] == "resolved" for m in found)
        label = f"{document['model']}: {resolved} numbers, {len(found) - resolved} bounds"
        axes.plot([], [], marker, color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel="measured (mS/cm)", ylabel="predicted (mS/cm)")
    low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color="#7a8691", linewidth=0.8, zorder=0)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "conductivity", "Predicted against measured conductivity")


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#d5dbe1", linewidth=0.6)
    return figure, axes


def _svg(figure: Any, name: str, title: str) -> str:
    """Return a figure as an SVG element with ids of its own; equal input gives equal bytes."""
    import matplotlib as mpl

    sink = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    for found in sorted(set(re.findall(r'id="([^"]+)"', text)), key=len, reverse=True):
        text = text.replace(f'id="{found}"', f'id="{name}-{found}"').replace(f"#{found}", f"#{name}-{found}")
    return text
