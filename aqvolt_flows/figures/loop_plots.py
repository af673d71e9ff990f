"""Figures of a loop: the error on the hold-out against labels, and errors against doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aqvolt_flows.figures import style
from aqvolt_flows.figures.style import Format


def learning(rounds: Sequence[Mapping[str, float]], format: Format = "svg") -> bytes:
    """Return the force error on the hold-out against the number of labels, with its 95 % intervals.

    Parameters
    ----------
    rounds
        ``labels`` so far, ``error`` (eV/Å) and, where it is known, ``low`` and ``high``; the first round first.
    """
    with style.canvas() as (figure, axes):
        if not rounds:
            style.empty(axes, "no round is done yet")
            return style.render(figure, format)
        x, y = [r["labels"] for r in rounds], [1e3 * r["error"] for r in rounds]
        below = [1e3 * (r["error"] - r.get("low", r["error"])) for r in rounds]
        above = [1e3 * (r.get("high", r["error"]) - r["error"]) for r in rounds]
        axes.errorbar(x, y, yerr=[below, above], marker="o", color=style.color(0), capsize=3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("labels of all rounds")
        axes.set_ylabel("force MAE on the hold-out (meV/Å)")
        axes.grid()
        return style.render(figure, format)


def calibration(curves: Mapping[str, Sequence[Sequence[float]]], format: Format = "svg") -> bytes:
    """Return root mean square errors against root mean square doubts, with the line where both are equal.

    Parameters
    ----------
    curves
        Round → rows (doubt, error, atoms), eV/Å.
    """
    with style.canvas(style.WIDTH, 2.9 + 0.15 * len(curves)) as (figure, axes):
        points = [row for rows in curves.values() for row in rows if row[0] > 0 and row[1] > 0]
        if not points:
            style.empty(axes, "nothing is calibrated yet")
            return style.render(figure, format)
        for index, (label, rows) in enumerate(curves.items()):
            good = [row for row in rows if row[0] > 0 and row[1] > 0]
            axes.plot([r[0] for r in good], [r[1] for r in good], marker="o", color=style.color(index), label=label)
        ends = [min(min(p[:2]) for p in points), max(max(p[:2]) for p in points)]
        axes.plot(ends, ends, color=style.MUTED, linestyle=":")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("doubt of atoms, σ of the force (eV/Å)")
        axes.set_ylabel("error of their forces (eV/Å)")
        axes.grid()
        figure.legend(loc="outside upper center", ncols=3)
        return style.render(figure, format)
