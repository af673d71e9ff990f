"""``aqvolt candidates lithiate`` and ``substitute`` as people call them, through a worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from aqvolt_flows.candidates.hosts import host_document
from aqvolt_flows.schemas.parameters import HostParameters
from aqvolt_flows.stores import Database


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aqvolt_launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_refused_host_is_submitted_once_worked_and_kept_with_its_reason(database: Database) -> None:
    # rutile MnF2, Wyckoff 1963; Mn2+ has no lower halide (Greenwood & Earnshaw ch. 24), so no potential is needed
    mnf2 = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.8734, 3.3099), ["Mn", "F"], [[0, 0, 0], [0.31, 0.31, 0]]
    )
    host = host_document(mnf2, HostParameters(), "MnF2", "user", ["Wyckoff 1963"], {"e_above_hull_ev_per_atom": 0.0})
    database.upsert("candidates", [host])
    submitted = run("candidates", "lithiate", "--campaign", "aqvolt26", "--json")
    assert submitted.returncode == 0, submitted.stderr
    assert json.loads(submitted.stdout)["submitted"] == 1
    worked = run("work", "--until-empty", "--json")
    assert json.loads(worked.stdout)["completed"] == 1, worked.stderr
    found = database["candidates"].find_one({"source": "stuffed"})
    assert found is not None
    assert found["rejection"]["reason"] == "not_reducible"
    assert "Mn +2 (lowest +2)" in found["rejection"]["message"]
    again = json.loads(run("plan", "lithiate", "--campaign", "aqvolt26", "--json").stdout)
    assert (again["hosts"], again["finished"], again["to_run"]) == (1, 1, 0)


def test_substituting_nothing_says_what_to_set(database: Database) -> None:
    refused = run("candidates", "substitute", "--campaign", "aqvolt26")
    assert refused.returncode == 2
    assert "no accepted candidate of source stuffed" in " ".join(refused.stderr.split())
    assert "reference_entries must name a JSON file" in " ".join(refused.stderr.split())


def test_hosts_from_cif_bring_their_hull_energies_in_a_table(database: Database, tmp_path: Path) -> None:
    """Three files: one in the table, one above the limit, one that the table does not name."""
    for name, a in (("low", 5.2), ("high", 5.6), ("unnamed", 6.0)):
        lattice = Lattice.hexagonal(a, 13.3)
        crystal = Structure.from_spacegroup(
            "R-3c", lattice, ["Fe", "F"], [[0, 0, 0], [0.41 - 0.05 * (a - 5.2), 0, 0.25]]
        )
        crystal.replace_species({"Fe": {"low": "Fe", "high": "V", "unnamed": "Ti"}[name]})
        CifWriter(crystal).write_file(str(tmp_path / f"{name}.cif"))
    table = tmp_path / "hull.csv"
    table.write_text("name,e_above_hull_ev_per_atom\nlow,0.01\nhigh.cif,0.2\ntypo,0\n")
    files = [str(tmp_path / f"{name}.cif") for name in ("low", "high", "unnamed")]
    command = ("candidates", "import", *files, "--as", "hosts", "--campaign", "aqvolt26", "--workers", "1")
    done = run(*command, "--hull-energies", str(table))
    assert done.returncode == 0, done.stderr
    assert "1 of 3 names of hull.csv fit no record: typo." in " ".join(done.stdout.split())
    reasons = {d["formula"]: (d["rejection"] or {}).get("reason") for d in database["candidates"].find()}
    assert reasons == {"FeF3": None, "VF3": "above_hull", "TiF3": "unknown_hull"}
    refused = run(*command, "--hull-energies", str(tmp_path / "none.csv"))
    assert refused.returncode == 2
    assert "There is no file" in " ".join(refused.stderr.split())
    plan = json.loads(run("plan", "lithiate", "--campaign", "aqvolt26", "--json").stdout)
    assert (plan["hosts"], plan["to_run"], plan["reducible"], plan["not_reducible"]) == (1, 1, 1, 0)
