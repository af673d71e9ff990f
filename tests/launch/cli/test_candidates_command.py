"""``aqvolt candidates import | list`` and ``aqvolt plan candidates`` as people call them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import command_of
from pymatgen.core import Lattice, Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import candidates, stages

Command = Callable[..., str]


@pytest.fixture
def aqvolt(database: Database) -> Command:
    return command_of(candidates, stages)


def salt(a: float, anion: str, cation: str = "Li") -> Structure:
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    others = [[(x + 0.5) % 1 for x in c] for c in corners]
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, corners + others)


def document(i: int, structure: Structure) -> dict[str, Any]:
    """The keys of MatPES that an import reads."""
    return {"structure": structure.as_dict(), "energy": -30.5, "matpes_id": f"mp-{i}", "functional": "r2SCAN"}


@pytest.fixture
def matpes(tmp_path: Path) -> Path:
    """Two Li halides, NaCl, the first LiCl at another volume, and a record without lattice, its number 5."""
    structures = [salt(5.13, "Cl"), salt(4.02, "F"), salt(5.64, "Cl", "Na"), salt(5.2, "Cl")]
    documents = [document(i, s) for i, s in enumerate(structures, 1)]
    documents.append({"structure": {"sites": []}, "matpes_id": "mp-5"})
    path = tmp_path / "matpes.json.gz"
    path.write_bytes(gzip.compress(json.dumps(documents).encode()))
    return path


def test_import_reports_what_went_in_and_what_did_not(aqvolt: Command, matpes: Path, tmp_path: Path) -> None:
    [report] = json.loads(aqvolt("candidates", "import", matpes, "--workers", 1, "--json"))
    assert (report["file"], report["read"], report["new"], report["quarantined"]) == ("matpes.json.gz", 5, 4, 1)
    assert report["accepted"] == {"matpes": 2}
    assert report["rejected"] == {"missing_element": 1, "duplicate": 1}
    [line] = Path(report["quarantine"]).read_text().splitlines()
    assert json.loads(line)["record"] == 5
    assert json.loads(line)["record_id"] == "mp-5"
    assert Path(report["quarantine"]).is_relative_to(tmp_path)
    again = aqvolt("candidates", "import", matpes, "--workers", 1)
    assert "Broken: matpes.json.gz, record 5" in again
    assert json.loads(aqvolt("candidates", "import", matpes, "--json"))[0]["new"] == 0


def test_list_answers_why_this_is_not_in(aqvolt: Command, matpes: Path) -> None:
    aqvolt("candidates", "import", matpes, "--workers", 1)
    accepted = json.loads(aqvolt("candidates", "list", "--json"))
    assert sorted(r["formula"] for r in accepted) == ["LiCl", "LiF"]
    assert all(r["source"] == "matpes" and "reason" not in r for r in accepted)
    kept = next(r for r in accepted if r["formula"] == "LiCl")
    rejected = {r["reason"]: r for r in json.loads(aqvolt("candidates", "list", "--rejected", "--json"))}
    assert set(rejected) == {"missing_element", "duplicate"}
    assert kept["candidate_id"] in rejected["duplicate"]["message"]
    assert kept["name"] in rejected["duplicate"]["message"]
    assert rejected["missing_element"]["message"] == "no Li in Cl, Na"
    [only] = json.loads(aqvolt("candidates", "list", "--reason", "duplicate", "--json"))
    assert only == rejected["duplicate"]
    shown = aqvolt("candidates", "list", "--rejected", "--limit", 1)
    assert "1 of 2; --limit 0 lists all." in shown
    assert json.loads(aqvolt("candidates", "list", "--source", "user", "--json")) == []
    counts = json.loads(aqvolt("candidates", "list", "--counts", "--json"))
    assert {(r["source"], r["status"], r["reason"], r["n"]) for r in counts} == {
        ("matpes", "accepted", "", 2),
        ("matpes", "rejected", "missing_element", 1),
        ("matpes", "rejected", "duplicate", 1),
    }


def test_reasons_may_be_counted_only(aqvolt: Command, matpes: Path) -> None:
    arguments = ("candidates", "import", matpes, "--count-only", "missing_element", "--json")
    [report] = json.loads(aqvolt(*arguments))
    assert (report["not_kept"], report["new"]) == ({"missing_element": 1}, 3)
    assert len(json.loads(aqvolt("candidates", "list", "--rejected", "--json"))) == 1


def test_hosts_are_a_list_of_their_own(aqvolt: Command, tmp_path: Path) -> None:
    known = {"possible_species": ["Ag+", "Cl-"], "theoretical": False}
    hosts = [
        {"material_id": f"mp-{i}", "structure": s.as_dict(), "energy_above_hull": hull, **known}
        for i, (s, hull) in enumerate([(salt(5.55, "Cl", "Ag"), 0.0), (salt(5.77, "Br", "Ag"), 0.06)])
    ]
    hosts[1]["possible_species"] = ["Ag+", "Br-"]
    path = tmp_path / "snapshot.jsonl"
    path.write_text("".join(json.dumps(d) + "\n" for d in hosts))
    [report] = json.loads(aqvolt("candidates", "import", path, "--as", "hosts", "--json"))
    assert report["rejected"] == {"above_hull": 1}
    assert json.loads(aqvolt("candidates", "list", "--json")) == []
    assert [r["formula"] for r in json.loads(aqvolt("candidates", "list", "--hosts", "--json"))] == ["AgCl"]
    [out] = json.loads(aqvolt("candidates", "list", "--hosts", "--rejected", "--json"))
    assert (out["formula"], out["reason"]) == ("AgBr", "above_hull")


def test_plan_says_what_the_campaign_offers_and_the_pool_holds(aqvolt: Command, matpes: Path) -> None:
    aqvolt("candidates", "import", matpes, "--workers", 1, "--campaign", "demo")
    plan = json.loads(aqvolt("plan", "candidates", "--campaign", "demo", "--json"))
    assert (plan["offered"], plan["accepted"], plan["rejected"], plan["known"]) == (6, 5, 1, 0)
    assert plan["pool_candidates"] == {"matpes": 2}
    assert plan["left_out_candidates"] == {"missing_element": 1, "duplicate": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.json.gz",), "There is no file none.json.gz; give the path"),
        (("Li.cif", "--format", "xlsx"), "There is no format 'xlsx'; expected one of matpes, mp, structure"),
        (("Li.cif", "--as", "guests"), "--as is 'guests'; expected li-halides or hosts"),
        (("Li.cif",), "Li.cif"),
        (("other.json",), "neither 'matpes_id' nor 'material_id'"),
        ((), "Nothing to import; give files"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(
    aqvolt: Command, project: Path, arguments: tuple[str, ...], said: str
) -> None:
    (project / "Li.cif").write_text("data_x\nloop_\n")
    (project / "other.json").write_text('[{"a": 1}]')
    with pytest.raises(InputError) as error:
        aqvolt("candidates", "import", *arguments)
    assert said in str(error.value)


def test_one_missing_file_does_not_keep_the_others_out(aqvolt: Command, matpes: Path) -> None:
    none, whole = json.loads(aqvolt("candidates", "import", "none.cif", matpes, "--json"))
    assert "There is no file none.cif" in none["stopped"][0]
    assert whole["new"] == 4


def test_a_missing_file_exits_with_2_and_a_sentence_on_standard_error(database: Database) -> None:
    command = [sys.executable, "-m", "aqvolt_launch", "candidates", "import", "none.json.gz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("aqvolt: ")
    assert "There is no file none.json.gz" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_many_files_end_with_totals_and_reasons(aqvolt: Command, matpes: Path, tmp_path: Path) -> None:
    salt(5.5, "Br").to(tmp_path / "good.cif")
    text = (tmp_path / "good.cif").read_text()
    (tmp_path / "bad.cif").write_text(text.replace("_cell_length_a   5.5", "_cell_length_a   ?"))
    (tmp_path / "page.cif").write_text("<html><body>Not found</body></html>")
    poscar = tmp_path / "POSCAR"
    salt(6.0, "I").to(poscar, fmt="poscar")
    files = [matpes, tmp_path / "good.cif", tmp_path / "bad.cif", tmp_path / "page.cif", poscar]
    shown = " ".join(aqvolt("candidates", "import", *files, "--workers", 1).split())
    _, _, totals = shown.partition("Total")
    columns = "files | read | new | repeated | quarantined | accepted | rejected | not_kept"
    assert all(name in totals for name in columns.split(" | "))
    # 5 + 4 records; 2 + 2 accepted, NaCl and the second LiCl rejected, one MatPES record and two files unread
    assert all(f" {n} " in totals for n in (5, 9, 6, 3, 4, 2))
    assert "missing_element" in totals
    assert "the file is a web page" in totals
    reports = json.loads(aqvolt("candidates", "import", *files, "--workers", 1, "--json"))
    assert [r["quarantined_for"] for r in reports[1:4]] == [{}, {"cell": 1}, {"html": 1}]
    assert sum(r["read"] for r in reports) == 9
