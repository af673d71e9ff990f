"""Training curves on the report page."""

from __future__ import annotations

from typing import Any

import pytest

from aqvolt_flows.figures.report import collect, render_report
from aqvolt_flows.figures.training import error_curves, figures_of, loss_curves
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.stores import Database

STAGES: list[dict[str, Any]] = [
    {"stage": "direct", "losses": [[1, 9.0], [2, 3.0]], "validation": {"": {"forces_mae": [[2, 0.2]]}}},
    {
        "stage": "conservative",
        "losses": [[1, 2.0]],
        "validation": {
            "": {"forces_mae": [[1, 0.1], [2, 0.05]], "stress_mae": [[2, 0.01]]},
            "matpes": {"forces_mae": [[2, 0.07]]},
        },
    },
]


def test_errors_come_in_the_units_of_the_axis_one_line_a_stage_and_source():
    """0.2 eV/Å are 200 meV/Å; 0.01 eV/Å³ are 1.602 GPa."""
    forces = error_curves(STAGES, "forces_mae")
    assert list(forces) == ["direct", "conservative", "conservative, matpes"]
    assert forces["conservative"] == ((1, 2), [100.0, 50.0])
    assert forces["conservative, matpes"][1] == pytest.approx([70.0])
    assert error_curves(STAGES, "stress_mae")["conservative"][1] == pytest.approx([1.602], abs=1e-3)
    assert error_curves(STAGES, "energy_per_atom_mae") == {}
    assert loss_curves(STAGES) == {"direct": ((1, 2), (9.0, 3.0)), "conservative": ((1,), (2.0,))}


def test_a_figure_for_the_loss_and_one_for_each_error():
    names = [name for name, _ in figures_of(STAGES)]
    assert names == ["Training loss", "Validation force MAE (meV/Å)", "Validation stress MAE (GPa)"]
    assert figures_of([{"name": "x", "steps": 1}]) == []


def test_the_page_tells_start_and_held_out_errors(database: Database):
    errors = {"energy_per_atom_mae": 0.0151, "forces_mae": 0.084, "stress_mae": 0.0019}
    document = ModelDocument(
        key="k", model_id="model-0a", name="demo-sevennet", trainer="sevennet", status="trained", stages=STAGES,
        release_id="demo@0", content_hash="0", architecture="7net fine-tuned", start="7net-mf-0/R2SCAN@81791329b37d",
        held_out={"split": "test", "n": 7, "start": errors, "trained": {"forces_mae": 0.0485}},
    )  # fmt: skip
    database.upsert("models", [document])
    page = render_report(collect(database))
    for said in (
        "demo-sevennet",
        "start, 7net-mf-0/R2SCAN@81791329b37d",
        "7 frames that no training saw",
        ">15.1<",
        ">48.5<",
    ):
        assert said in page
    assert page.count('aria-label="Validation') == 2
