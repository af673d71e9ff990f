"""Figures are SVG that shows every model and says how many materials stand behind it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from aqvolt_flows.benchmarks.transport_plots import parity_figure, survival_figure


def heated(model: str, shares: list[float]) -> dict:
    curve = {"temperatures_k": [300.0, 1000.0, 2100.0], "share": shares, "low": shares, "high": [1.0, 1.0, 1.0]}
    return {"model": model, "metrics": {"survival": curve, "n_structures_run": 25}}


def material(kind: str, value: float | None, experiment: float | None, bound: bool = False) -> dict:
    return {"kind": kind, "ms_cm": value, "experiment_ms_cm": experiment, "experiment_is_bound": bound}


def test_survival_of_two_models():
    found = survival_figure([heated("model one", [1.0, 0.9, 0.5]), heated("model two", [1.0, 0.4, 0.1])])
    root = ElementTree.fromstring(found)
    text = " ".join(t.strip() for t in root.itertext() if t.strip())
    assert "model one, 25 structures" in text
    assert "model two, 25 structures" in text
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert all(i.startswith("survival-") for i in ids)
    assert found == survival_figure([heated("model one", [1.0, 0.9, 0.5]), heated("model two", [1.0, 0.4, 0.1])])
    assert survival_figure([{"model": "x", "metrics": {}}]) == ""


def test_parity_counts_numbers_and_bounds_and_leaves_out_the_rest():
    materials = [
        material("resolved", 1.0, 0.5),
        material("below", 4.0, 1e-7, bound=True),
        material("not_resolved", None, 1.0),
        material("resolved", 3.0, None),
    ]
    found = parity_figure([{"model": "m", "metrics": {"materials": materials}}])
    assert "m: 1 numbers, 1 bounds" in " ".join(ElementTree.fromstring(found).itertext())
    assert parity_figure([{"model": "m", "metrics": {"materials": materials[2:]}}]) == ""
