"""The paper's plots as functions from values to SVG or PNG bytes; no database, no files.

Every function accepts empty input and then draws an empty panel that says so.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aqvolt_flows.figures import style
from aqvolt_flows.figures.style import Format, canvas, compact, empty, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Array = NDArray[np.float64]


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]


def _legend(axes: Axes, width: float = style.WIDTH) -> None:
    """Put the legend above the axes, where it can cover no data, in as many columns as fit into ``width`` inches."""
    names = axes.get_legend_handles_labels()[1]
    widest = max((len(name) for name in names), default=0)
    room = int((width * 72 - 50) / (widest * 0.62 * style.FONT_PT + 3.5 * style.FONT_PT))
    columns = max(1, min(len(names), room))
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.3, handlelength=1.8, columnspacing=1.2
    )


def _plain_log(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers, so that no exponent is set smaller than the rest."""
    within_a_decade = high / low < 12

    def minor(value: float, _: object) -> str:
        return f"{value:,g}" if within_a_decade and f"{value:e}"[0] in "235" else ""

    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(minor)


def share_per_bin(values: ArrayLike, edges: Array) -> Array:
    """Return percent of ``values`` in each bin; edges that rounding put inside the range still hold the ends."""
    v = np.asarray(values, dtype=float)
    return np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] * 100.0 / max(len(v), 1)


def funnel(stages: Sequence[tuple[str, int | None]], format: Format = "svg") -> bytes:
    """Return bars of how many configurations each stage kept (Figure 2), on a logarithmic axis.

    Parameters
    ----------
    stages
        Name and count, first stage first; None means not recorded.
    """
    with canvas(height=max(1.8, 0.5 * len(stages) + 0.7)) as (figure, axes):
        counts = [count or 0 for _, count in stages]
        if not any(counts):
            empty(axes, "no configurations yet")
            return render(figure, format)
        places = np.arange(len(stages))[::-1]
        axes.barh(places, np.maximum(counts, 0.8), height=0.62, left=0.0, color=style.color(0), linewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: compact(x))
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.set_xlim(0.8, max(counts) * 12)
        for place, (_, count) in zip(places, stages, strict=True):
            text = "not recorded" if count is None else compact(count)
            axes.annotate(text, (max(count or 0, 0.8), place), xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [name for name, _ in stages])
        axes.set_xlabel("configurations (log scale)")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        return render(figure, format)


def distribution(
    values: Mapping[str, ArrayLike],
    xlabel: str,
    logarithmic: bool = False,
    bins: int | None = None,
    format: Format = "svg",
) -> bytes:
    """Return histograms of one quantity, one line per split (Figure 3), each normalised to its own size.

    Parameters
    ----------
    values
        Split → values; not finite ones (and, on a logarithmic axis, those not above zero) are left out.
    xlabel
        Quantity with unit.
    logarithmic
        Logarithmic horizontal axis and bins.
    bins
        Number of bins over the range of all splits; by default 8 to 40, twice the root of the number of values.
    """
    clean = {name: _finite(v) for name, v in values.items()}
    if logarithmic:
        clean = {name: v[v > 0] for name, v in clean.items()}
    everything = np.concatenate([np.empty(0), *clean.values()])
    with canvas() as (figure, axes):
        if not len(everything):
            empty(axes, "no values yet")
            return render(figure, format)
        bins = bins or int(np.clip(2 * np.sqrt(len(everything)), 8, 40))
        low, high = float(everything.min()), float(everything.max())
        if logarithmic:
            low, high = (low / 1.3, high * 1.3) if high / low < 1.01 else (low, high)
            edges = np.geomspace(low, high, bins + 1)
            axes.set_xscale("log")
            _plain_log(axes.xaxis, low, high)
        else:
            low, high = (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)
            edges = np.linspace(low, high, bins + 1)
        for index, (name, v) in enumerate(clean.items()):
            if not len(v):
                continue
            share = share_per_bin(v, edges)
            axes.stairs(
                share,
                edges,
                color=style.color(index),
                linewidth=1.8,
                linestyle=style.DASHES[index],
                fill=False,
                label=f"{name} ({len(v):,})",
            )
            if index == 0:
                axes.stairs(share, edges, color=style.color(index), fill=True, alpha=0.22, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("share of the split (%)")
        axes.grid(axis="y")
        _legend(axes)
        return render(figure, format)


def feature_map(
    encoded: ArrayLike, selected: ArrayLike, labels: tuple[str, str] = ("PC 1", "PC 2"), format: Format = "svg"
) -> bytes:
    """Return a map of feature space: density of all encoded frames, dots for the selected ones (Figure 2).

    Parameters
    ----------
    encoded, selected
        (n, ≥ 2); the first two principal components.
    labels
        Axis labels.
    """
    everything, chosen = np.asarray(encoded, dtype=float), np.asarray(selected, dtype=float)
    if not len(everything):
        return density_map(np.zeros((1, 1)), [0, 1], [0, 1], chosen, 0, labels, format)
    bins = int(np.clip(np.sqrt(len(everything)) * 1.2, 16, 90))
    counts, xs, ys = np.histogram2d(everything[:, 0], everything[:, 1], bins=bins)
    return density_map(counts, xs, ys, chosen, len(chosen), labels, format)


def density_map(
    density: ArrayLike,
    x_edges: ArrayLike,
    y_edges: ArrayLike,
    selected: ArrayLike,
    n_selected: int,
    labels: tuple[str, str] = ("PC 1", "PC 2"),
    format: Format = "svg",
) -> bytes:
    """Return the map of :func:`feature_map` from a histogram, which is small however many frames there are.

    Parameters
    ----------
    density
        (bins, bins), frames per cell; the first axis is the horizontal one.
    x_edges, y_edges
        (bins + 1,).
    selected
        (m, 2), places of the selected frames, or of a part of them.
    n_selected
        How many were selected in all.
    labels
        Axis labels.
    """
    counts, chosen = np.asarray(density, dtype=float), np.asarray(selected, dtype=float)
    with canvas(height=3.9) as (figure, axes):
        if not counts.any():
            empty(axes, "nothing encoded yet")
            return render(figure, format)
        from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb

        blue = to_rgb(style.DENSITY)
        ramp = LinearSegmentedColormap.from_list("aqvolt", [(*blue, 0.18), (*blue, 1.0)])
        mesh = axes.pcolormesh(
            np.asarray(x_edges, dtype=float),
            np.asarray(y_edges, dtype=float),
            np.ma.masked_less(counts.T, 1),
            cmap=ramp,
            norm=LogNorm(1, max(2.0, counts.max())),
            rasterized=True,
        )
        bar = figure.colorbar(mesh, ax=axes, label="encoded frames per cell", fraction=0.05, pad=0.02)
        _plain_log(bar.ax.yaxis, 1, counts.max())
        bar.outline.set_visible(False)  # type: ignore[operator]
        if len(chosen):
            axes.plot(
                chosen[:, 0],
                chosen[:, 1],
                linestyle="none",
                marker="o",
                markersize=float(np.clip(60 / np.sqrt(len(chosen)), 1.4, 3.6)),
                color=style.color(1),
                markeredgewidth=0,
                label=f"selected ({n_selected:,})",
                rasterized=len(chosen) > 3000,
            )
            _legend(axes)
        for limits, edges in ((axes.set_xlim, x_edges), (axes.set_ylim, y_edges)):
            low, high = float(np.min(edges)), float(np.max(edges))
            limits(low - 0.03 * (high - low), high + 0.03 * (high - low))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        return render(figure, format)


def ev_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    title: str = "",
    steady: Sequence[str] = (),
    format: Format = "svg",
) -> bytes:
    """Return the energy–volume curves of one structure, one line per model.

    Parameters
    ----------
    curves
        Model → (volumes in Å³, energies in eV/atom), in any order; missing energies are gaps.
    title
        The structure.
    steady
        Models whose scan did not fail; if any, the vertical range is theirs, and others may leave it.
    """
    drawn: dict[str, tuple[Array, Array]] = {}
    for name, (volumes, energies) in curves.items():
        v, e = np.asarray(volumes, dtype=float), np.asarray(energies, dtype=float)
        order = np.argsort(v, kind="stable")
        v, e = v[order], e[order]
        if len(v) and np.isfinite(e).any():
            middle = len(v) // 2
            zero = e[middle] if np.isfinite(e[middle]) else np.nanmin(e[np.isfinite(e)])
            drawn[name] = (v / v[middle], e - zero)
    with canvas(style.NARROW, 2.7 + 0.2 * len(drawn)) as (figure, axes):
        if not drawn:
            empty(axes, f"{title}\nno energies" if title else "no energies")
            return render(figure, format)
        for index, (name, (ratio, energy)) in enumerate(drawn.items()):
            axes.plot(
                ratio,
                energy,
                color=style.color(index),
                linestyle=style.DASHES[index % 7],
                marker=style.MARKERS[index % 7],
                markersize=3.6,
                label=name,
            )
        framing = [drawn[n][1] for n in drawn if n in steady] or [e for _, e in drawn.values()]
        visible = _finite(np.concatenate(framing))
        margin = max(0.06 * np.ptp(visible), 0.02)
        axes.set_ylim(visible.min() - margin, visible.max() + margin)
        axes.axvline(1.0, color=style.GRID, linewidth=1.0, zorder=0)
        axes.set_xlabel("V / V as given")
        axes.set_ylabel("E − E as given (eV/atom)")
        axes.grid(axis="y")
        _legend(axes, style.NARROW)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=style.FONT_PT + 1, fontweight="bold", color=style.INK)
        return render(figure, format)


def force_bars(
    errors: Mapping[str, Sequence[float | None]], bin_labels: Sequence[str], ylabel: str, format: Format = "svg"
) -> bytes:
    """Return grouped bars of one error, per force bin and model (Figure 4).

    Parameters
    ----------
    errors
        Model → one error per bin; None where the bin is empty or nothing could be computed.
    bin_labels
        Bins of the largest reference force, with the unit on the axis: eV/Å.
    ylabel
        Error with unit. The axis is logarithmic if errors span more than a factor of thirty.
    """
    values = _finite([v for row in errors.values() for v in row if v is not None])
    with canvas(style.NARROW, 2.7 + 0.2 * len(errors)) as (figure, axes):
        if not len(values):
            empty(axes, "no errors yet")
            return render(figure, format)
        positive = values[values > 0]
        logarithmic = bool(len(positive)) and positive.max() / positive.min() > 30
        floor = positive.min() / 2 if logarithmic else 0.0
        width = 0.8 / len(errors)
        for index, (name, row) in enumerate(errors.items()):
            places = np.arange(len(bin_labels)) + (index - (len(errors) - 1) / 2) * width
            heights = [v or np.nan for v in row]
            axes.bar(
                places,
                heights,
                width * 0.92,
                color=style.color(index),
                edgecolor=style.PAPER,
                linewidth=0.4,
                hatch=style.HATCHES[index % 7],
                label=name,
            )
            for place, v in zip(places, row, strict=True):
                if v is None or v == 0:
                    text = "–" if v is None else "0"
                    axes.annotate(text, (place, 0.005), xycoords=("data", "axes fraction"), ha="center", va="bottom")
        if logarithmic:
            axes.set_yscale("log")
            axes.set_ylim(floor, positive.max() * 1.6)
            _plain_log(axes.yaxis, floor, positive.max() * 1.6)
        axes.set_xticks(range(len(bin_labels)), list(bin_labels))
        axes.set_xlabel("largest reference |F| (eV/Å)")
        axes.set_ylabel(ylabel)
        axes.grid(axis="y")
        _legend(axes, style.NARROW)
        return render(figure, format)


def element_counts(counts: Mapping[str, int], unit: str = "labels", top: int = 24, format: Format = "svg") -> bytes:
    """Return bars of how many structures hold each element (Figure S3), most frequent first.

    Parameters
    ----------
    counts
        Element symbol → number of structures that hold it.
    unit
        What is counted.
    top
        How many elements are drawn; the axis says how many more there are.
    """
    ranked = sorted(((n, s) for s, n in counts.items() if n > 0), key=lambda item: (-item[0], item[1]))
    shown = ranked[:top]
    with canvas(height=max(2.0, 0.25 * len(shown) + 0.9)) as (figure, axes):
        if not shown:
            empty(axes, "no elements yet")
            return render(figure, format)
        places = np.arange(len(shown))[::-1]
        axes.barh(places, [n for n, _ in shown], height=0.68, color=style.color(2), linewidth=0)
        axes.set_yticks(places, [s for _, s in shown])
        for place, (n, _) in zip(places, shown, strict=True):
            axes.annotate(compact(n), (n, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, shown[0][0] * 1.18)
        rest = f"; {len(ranked) - top} more elements not shown" if len(ranked) > top else ""
        axes.set_xlabel("\n".join(textwrap.wrap(f"{unit} that hold the element{rest}", 46)))
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        return render(figure, format)


def training_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], ylabel: str = "training loss", format: Format = "svg"
) -> bytes:
    """Return loss against optimizer steps, one line per stage; logarithmic where losses span more than a decade.

    Parameters
    ----------
    curves
        Stage → (steps, losses).
    ylabel
        What is drawn, with unit where it has one.
    """
    with canvas() as (figure, axes):
        drawn = {n: (np.asarray(x, float), np.asarray(y, float)) for n, (x, y) in curves.items() if len(_finite(y))}
        if not drawn:
            empty(axes, "no training curves recorded")
            return render(figure, format)
        for index, (name, (x, y)) in enumerate(drawn.items()):
            axes.plot(
                x,
                y,
                color=style.color(index),
                linestyle=style.DASHES[index % 7],
                label=name,
                marker=style.MARKERS[index % 7] if len(x) < 40 else None,
            )
        losses = np.concatenate([_finite(y) for _, y in drawn.values()])
        if losses.min() > 0 and losses.max() / losses.min() > 10:
            axes.set_yscale("log")
            _plain_log(axes.yaxis, losses.min(), losses.max())
        axes.set_xlabel("optimizer step of the stage")
        axes.set_ylabel(ylabel)
        axes.grid(axis="y")
        _legend(axes)
        return render(figure, format)
