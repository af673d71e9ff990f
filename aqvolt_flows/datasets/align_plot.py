"""The picture of an alignment: shifts, what they leave of the energies, force cosines, pressures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aqvolt_flows.aside import written_aside
from aqvolt_flows.datasets.align import Alignment, Estimate
from aqvolt_flows.datasets.plots import available
from aqvolt_flows.errors import InputError, ResourceError

_BLUE, _RED, _INK = "#0072b2", "#d55e00", "#1d2733"


def draw(found: Alignment, target: Path) -> None:
    """Write the picture; the suffix of its name (png, pdf, svg) is its format.

    Raises
    ------
    ResourceError
        If matplotlib is not installed.
    InputError
        If the suffix is none of them.
    """
    if not available():
        raise ResourceError("A figure needs matplotlib; install the extra 'report' (pip install aqvolt-flows[report]).")
    if target.suffix not in {".png", ".pdf", ".svg"}:
        raise InputError(f"The figure {target} is {target.suffix or 'without suffix'}; expected .png, .pdf or .svg.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    figure.suptitle(f"{found.b} − {found.a}: {found.frames:,} frames, {found.atoms:,} atoms", color=_INK, fontsize=10)
    ((left, right), (below, last)) = figure.subplots(2, 2)
    elements = list(found.shifts)
    values = np.array([found.shifts[e].value for e in elements])
    left.barh(elements, values, xerr=_bars([found.shifts[e] for e in elements]), color=_BLUE, ecolor=_INK, height=0.6)
    left.axvline(0, color=_INK, linewidth=0.8)
    left.set_xlabel("shift of the element (eV/atom)")
    left.tick_params(axis="y", labelsize=8 if len(elements) < 30 else 4)
    right.hist(1e3 * found.residuals, bins=60, color=_BLUE)
    right.set_xlabel(f"energy left (meV/atom), RMSE {1e3 * found.rmse.value:.1f}")
    right.set_ylabel("frames")
    if len(found.cosines):
        below.hist(found.cosines, bins=np.linspace(-1, 1, 81), color=_RED)
        below.set_yscale("log")
    below.set_xlabel(f"force cosine, mean {found.force_cosine.value:.4f}")
    below.set_ylabel("atoms")
    last.scatter(found.pressures[:, 0], found.pressures[:, 1], s=4, color=_RED)
    ends = [float(found.pressures.min()), float(found.pressures.max())]
    last.plot(ends, ends, color=_INK, linewidth=0.8)
    last.set_xlabel(f"pressure of {found.a} (GPa)")
    last.set_ylabel(f"pressure of {found.b} (GPa)")
    with written_aside(target) as aside:
        figure.savefig(aside, format=target.suffix[1:], dpi=130, metadata=_metadata(target.suffix))


def _metadata(suffix: str) -> dict[str, str | None]:
    """Return what keeps clocks out of the file: the same numbers give the same bytes."""
    known: dict[str, dict[str, str | None]] = {
        ".png": {"Software": "aqvolt-flows"},
        ".pdf": {"CreationDate": None},
        ".svg": {"Date": None},
    }
    return known[suffix]


def _bars(estimates: list[Estimate]) -> list[list[float]] | None:
    if any(e.low is None or e.high is None for e in estimates):
        return None
    low = [max(e.value - (e.low or 0.0), 0.0) for e in estimates]
    return [low, [max((e.high or 0.0) - e.value, 0.0) for e in estimates]]
