"""``aqvolt benchmark`` and ``aqvolt report`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from aqvolt_flows.benchmarks import base
from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import benchmark, report

CAMPAIGN = "name: small\nbenchmarks:\n  ev_scan: {n_points: 5}\n"


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    benchmark.register(made)
    report.register(made)
    return made


@pytest.fixture
def configured(project: Path) -> dict[str, str]:
    (project / "small.yaml").write_text(CAMPAIGN)
    return {"campaign": str(project / "small.yaml")}


@pytest.fixture
def salt(database: Database) -> Database:
    """A database with lithium chloride, and a campaign that scans five points."""
    licl = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.1), ["Li", "Cl"], [[0] * 3, [0.5] * 3])
    primitive = licl.get_primitive_structure()
    database = database.in_campaign("small")
    database.upsert(
        "candidates",
        [
            CandidateDocument(
                key="k",
                candidate_id="candidate-0",
                name="LiCl",
                source="user",
                status="accepted",
                structure=primitive.as_dict(),
                **describe_structure(primitive),
            )
        ],
    )
    return database


def test_run_once_table_and_report(app: typer.Typer, salt: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ["benchmark", "run", "ev_scan", "--model", "chgnet/r2scan", "--json"]
    first = CliRunner().invoke(app, run)
    assert first.exit_code == 0, first.output
    row = json.loads(first.stdout)[0]
    assert (row["n_items"], row["n_failed"], row["spearman_compression_energy"]) == (1, 0, -1.0)
    monkeypatch.setattr(base, "load_potential", lambda *a: pytest.fail("computed again"))
    assert json.loads(CliRunner().invoke(app, run).stdout) == [row]
    assert salt["benchmarks"].count_documents({}) == 1

    rows = json.loads(CliRunner().invoke(app, ["benchmark", "table", "--json"]).stdout)
    assert [r["source"] for r in rows] == ["computed"] + ["paper"] * 9
    # Table 1 of the paper
    assert next(r for r in rows if r["model"] == "MatPES-MACE")["failed_percent"] == 14.8
    assert "not computed here" in CliRunner().invoke(app, ["benchmark", "table"]).stdout

    written = CliRunner().invoke(app, ["report", "--json"])
    assert written.exit_code == 0, written.output
    info = json.loads(written.stdout)
    assert info["changed"]
    assert "MatPES-MACE" in Path(info["path"]).read_text()
    assert "unchanged" in CliRunner().invoke(app, ["report"]).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eos", "--model", "chgnet/r2scan"], "known are ev_scan, force_bins"),
        (["ev_scan", "--model", "chgnet/r2scam"], "did you mean 'chgnet/r2scan'"),
        (["force_bins", "--model", "chgnet/r2scan"], "no release"),
        (["force_bins", "--model", "chgnet/r2scan", "--release", "x@1"], "not in releases"),
        (["ev_scan", "--model", "model-0000"], "no model 'model-0000'"),
    ],
)
def test_a_mistake_is_a_sentence(app: typer.Typer, salt: Database, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["benchmark", "run", *arguments])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert salt["benchmarks"].count_documents({}) == 0


def test_a_scan_needs_candidates(app: typer.Typer, database: Database) -> None:
    result = CliRunner().invoke(app, ["benchmark", "run", "ev_scan", "--model", "chgnet/r2scan"])
    assert isinstance(result.exception, InputError)
    assert "no accepted candidates" in str(result.exception)
