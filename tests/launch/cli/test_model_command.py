"""``aqvolt model`` as a user runs it; weights are bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import model
from aqvolt_launch.project.status import collect_status


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    model.register(made)
    return made


@pytest.fixture
def trained(database: Database) -> Database:
    """One trained model and one failed training of the settings' campaign."""
    database = database.in_campaign("aqvolt26")
    common = {"release_id": "demo@0", "content_hash": "0", "architecture": "eSEN-L4"}
    database.upsert(
        "models",
        [
            ModelDocument(
                key="a",
                model_id="model-a",
                name="demo-esen",
                status="trained",
                checkpoint=database.artifacts.put_bytes(b"weights", "pt"),
                held_out={"split": "test", "n": 3, "trained": {"energy_per_atom_mae": 0.002, "forces_mae": 0.05}},
                **common,
            ),
            ModelDocument(
                key="b", model_id="model-b", status="failed", failure={"reason": "bad_input", "message": "x"}, **common
            ),
        ],
    )
    return database


def test_models_are_listed_shown_and_exported(app: typer.Typer, trained: Database, project: Path):
    run = CliRunner().invoke
    rows = {r["model_id"]: r for r in json.loads(run(app, ["model", "list", "--json"]).stdout)}
    assert (rows["model-a"]["E meV/atom"], rows["model-a"]["F meV/Å"]) == (2.0, 50.0)
    assert rows["model-b"]["status"] == "failed"
    assert rows["model-b"]["name"] == "demo-eSEN-L4"
    shown = run(app, ["model", "show", "demo-esen"]).stdout
    assert "# demo-esen" in shown
    assert 'from_model_checkpoint("inference_ckpt.pt"' in shown
    assert json.loads(run(app, ["model", "show", "model-a", "--json"]).stdout)["model_id"] == "model-a"
    written = json.loads(run(app, ["model", "export", "demo-esen", "out", "--json"]).stdout)
    assert written["files"] == ["README.md", "SHA256SUMS", "aqvolt_model.json", "inference_ckpt.pt"]
    assert (project / "out" / "inference_ckpt.pt").read_bytes() == b"weights"
    again = run(app, ["model", "export", "demo-esen", "out"])
    assert isinstance(again.exception, InputError)
    for name in ("model-b", "nothing"):
        assert isinstance(run(app, ["model", "export", name, "other"]).exception, InputError)
    assert not (project / "other").exists()


def test_changed_weights_are_not_exported(app: typer.Typer, trained: Database, project: Path):
    (file,) = (project / "artifacts").rglob("*.pt")
    file.write_bytes(b"WEIGHTS")
    found = CliRunner().invoke(app, ["model", "export", "demo-esen", "out"])
    assert isinstance(found.exception, InputError)
    assert "was changed" in str(found.exception)


def test_status_shows_trainings_that_run_here(database: Database, project: Path):
    folder = project / ".aqvolt" / "training" / "0a"
    for name, end in (("direct", True), ("conservative", False)):
        (folder / name).mkdir(parents=True)
        records = [
            {"event": "launch", "time": 1.0, "step": 0},
            {"event": "train", "time": 2.0, "step": 4, "loss": 0.5},
            {"event": "eval", "time": 3.0, "step": 4, "metrics": {"forces_mae": 0.25}},
        ]
        if end:
            records.append({"event": "end", "time": 4.0, "step": 4})
        (folder / name / "progress.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = collect_status(database.settings, database=database)["training"]
    assert found == [
        {
            "model_id": "model-0a", "stage": "conservative", "step": 4, "loss": 0.5,
            "E meV/atom": None, "F meV/Å": 250.0, "last": 3.0,
        }
    ]  # fmt: skip
