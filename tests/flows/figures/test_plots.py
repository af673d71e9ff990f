"""Figures are valid, legible, repeatable bytes, with and without data."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from aqvolt_flows.figures import plots, style

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(500, 2))
VOLUMES = np.linspace(20, 40, 21)

EMPTY: dict[str, Callable[..., bytes]] = {
    "funnel": lambda **k: plots.funnel([], **k),
    "funnel of zeros": lambda **k: plots.funnel([("generated", 0), ("encoded", None)], **k),
    "distribution": lambda **k: plots.distribution({}, "x (eV)", **k),
    "nothing finite": lambda **k: plots.distribution({"train": [np.nan]}, "x (eV)", logarithmic=True, **k),
    "map": lambda **k: plots.feature_map(np.empty((0, 2)), np.empty((0, 2)), **k),
    "curves": lambda **k: plots.ev_curves({}, **k),
    "curves without energies": lambda **k: plots.ev_curves({"m": (VOLUMES, VOLUMES * np.nan)}, "LiCl", **k),
    "bars": lambda **k: plots.force_bars({}, [], "MAE (eV)", **k),
    "bars without errors": lambda **k: plots.force_bars({"m": [None]}, ["0–1"], "MAE (eV)", **k),
    "elements": lambda **k: plots.element_counts({}, **k),
    "training": lambda **k: plots.training_curves({}, **k),
}
FULL: dict[str, Callable[..., bytes]] = {
    "funnel": lambda **k: plots.funnel([("made", 2e8), ("encoded", None), ("selected", 186627), ("released", 0)], **k),
    "distribution": lambda **k: plots.distribution({"train": POINTS[:, 0], "val": [], "test": [0.3]}, "x (eV)", **k),
    "logarithmic": lambda **k: plots.distribution({"train": np.abs(POINTS[:, 0])}, "x (eV)", logarithmic=True, **k),
    "one value": lambda **k: plots.distribution({"train": [1.0]}, "x (eV)", logarithmic=True, **k),
    "map": lambda **k: plots.feature_map(POINTS, POINTS[:20], **k),
    "density": lambda **k: plots.density_map(np.eye(3) * 2e6, range(4), range(4), POINTS[:2], 186627, **k),
    "one point": lambda **k: plots.feature_map(POINTS[:1], POINTS[:1], **k),
    "curves": lambda **k: plots.ev_curves({"a": (VOLUMES, VOLUMES**2), "b": (VOLUMES, -VOLUMES)}, "LiCl", ["a"], **k),
    "bars": lambda **k: plots.force_bars({"a": [1.0, None, 900.0], "b": [0.0, 2.0, 3.0]}, ["x", "y", "z"], "MAE", **k),
    "elements": lambda **k: plots.element_counts({f"X{i}": i for i in range(60)}, **k),
    "training": lambda **k: plots.training_curves({"direct": ([1, 2], [3.0, 1.0])}, **k),
}


def texts(svg: bytes) -> list[str]:
    return [
        re.sub(r"\s+", " ", t.text or "") for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("draw", [*EMPTY.values(), *FULL.values()], ids=[*(f"empty {n}" for n in EMPTY), *FULL])
def test_svg_is_valid_repeatable_and_legible(draw: Callable[..., bytes]) -> None:
    svg = draw()
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert draw() == svg
    sizes = [float(s) for s in re.findall(rb"font-size: ([\d.]+)px", svg)]
    assert sizes
    assert min(sizes) >= 9.0


@pytest.mark.parametrize("draw", [*EMPTY.values(), *FULL.values()], ids=[*(f"empty {n}" for n in EMPTY), *FULL])
def test_png_is_a_picture(draw: Callable[..., bytes]) -> None:
    png = draw(format="png")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", io.BytesIO(png[16:24]).read())
    assert width in (style.WIDTH * 200, style.NARROW * 200)
    assert height > 300


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_panel_says_so(name: str) -> None:
    assert any(t.startswith(("no ", "nothing")) for t in texts(EMPTY[name]()))


def test_counts_and_units_stand_in_the_figure() -> None:
    seen = texts(FULL["funnel"]())
    assert {"200 M", "186,627", "not recorded", "0"} <= set(seen)
    assert "x (eV)" in texts(FULL["distribution"]())
    assert "train (500)" in texts(FULL["distribution"]())
    assert any("35 more elements" in t for t in [" ".join(texts(FULL["elements"]()))])


def test_a_histogram_holds_all_values() -> None:
    # Both ends of the range are bin edges: the smallest and the largest value must be counted.
    shares = plots.share_per_bin(np.array([0.0, 0.5, 1.0]), np.linspace(0, 1, 5))
    assert shares.sum() == pytest.approx(100.0)


def test_series_can_be_told_apart_without_colour() -> None:
    ways = [style.SERIES, style.MARKERS, style.HATCHES, [str(dash) for dash in style.DASHES]]
    assert [len(set(way)) for way in ways] == [7, 7, 7, 7]
