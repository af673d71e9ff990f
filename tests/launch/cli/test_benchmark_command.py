"""``aqvolt benchmark`` and ``aqvolt report`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from ase.build import bulk
from ase.io import write
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from aqvolt_flows.benchmarks import base
from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import ConfigError, InputError
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


def crystals(folder: Path) -> Path:
    """A file of lithium fluoride, xenon and a block that is cut off."""
    path = folder / "crystals.extxyz"
    write(path, [bulk("LiF", "rocksalt", a=4.0), bulk("Xe", "fcc", a=6.2)])
    path.write_text(path.read_text() + "2\ncut off\n")
    return path


def test_a_file_is_measured_without_a_project(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AQVOLT_MONGO_URI", "AQVOLT_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "deep" / "ev.json"
    arguments = ["benchmark", "run", "ev-scan", "--model", "chgnet/r2scan", "--structures", str(crystals(tmp_path))]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["n_items"], row["n_failed"], row["n_refused"], row["dataset"]) == (3, 0, 1, "crystals.extxyz")
    document = json.loads(out.read_text())
    assert document["benchmark"] == "ev_scan"
    assert [r["failure_reason"] for r in document["rows"]][::2] == [None, "unreadable"]
    assert len(document["rows"][0]["energies"]) == 21
    assert list(tmp_path.glob(".aqvolt*")) == [], "nothing else was written"
    needs = CliRunner().invoke(app, ["benchmark", "run", "ev-scan", "--model", "chgnet/r2scan"])
    assert isinstance(needs.exception, ConfigError)
    unknown = CliRunner().invoke(app, [*arguments[:4], "model-0123", *arguments[5:]])
    assert "no project here that knows 'model-0123'" in str(unknown.exception)


def test_a_file_and_a_collection_in_a_project(app: typer.Typer, salt: Database, tmp_path: Path) -> None:
    run = ["benchmark", "run", "ev_scan", "--model", "chgnet/r2scan", "--json", "--structures"]
    of_file = CliRunner().invoke(app, [*run, str(crystals(tmp_path))])
    assert of_file.exit_code == 0, of_file.output
    assert json.loads(of_file.stdout)[0]["n_items"] == 3
    out = tmp_path / "ev.json"
    of_candidates = CliRunner().invoke(app, [*run, "candidates", "--out", str(out), "--model", "7net-mf-0/R2SCAN"])
    assert of_candidates.exit_code == 0, of_candidates.output
    assert [d["n_items"] for d in json.loads(out.read_text())] == [1, 1]
    assert salt["benchmarks"].count_documents({}) == 3
    shown = json.loads(CliRunner().invoke(app, ["benchmark", "table", "--json"]).stdout)
    pairs = [r for r in shown if r["source"] == "paired"]
    assert {(r["dataset"], r["n_both"]) for r in pairs} == {("1 candidates", 1)}
    assert "both computed" in CliRunner().invoke(app, ["benchmark", "table"]).stdout
    empty = CliRunner().invoke(app, [*run, "labels"])
    assert "labels has no usable document" in str(empty.exception)
