"""Archives of custodian: which of its runs are the run, which repeat it, which cannot be read."""

from __future__ import annotations

import contextlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from custodian.utils import backup
from custodian.vasp.handlers import VASP_BACKUP_FILES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Poscar

from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration import aimd_parts
from aqvolt_flows.exploration.aimd_parts import Part, fault_of, joined, read_launch
from aqvolt_flows.vasp.continuation import read_poscar
from aqvolt_flows.vasp.outputs import Calculation, IonicStep, read_text

STEP = IonicStep(np.zeros((1, 3)), np.eye(3), 0.0, np.zeros((1, 3)), np.zeros(6), 5)
RUNS = {"MDALGO": 3, "ISIF": 3, "POTIM": 2.0, "TEBEG": 600, "ENCUT": 680}


def geometry(x: float, digits: int = 16) -> str:
    structure = Structure(Lattice.cubic(4.0), ["Li"], [[x, 0, 0]])
    return Poscar(structure).get_str(significant_figures=digits)


def part(folder: Path, start: float, end: float, steps: int, **incar) -> Part:
    folder.mkdir()
    (folder / "POSCAR").write_text(geometry(start))
    (folder / "CONTCAR").write_text(geometry(end, digits=10))
    (folder / "OUTCAR").write_text(" INCAR:\n MDALGO = 3\n POTCAR: x\n   MDALGO =      3\n")
    return Part(folder, Calculation("killed", incar=RUNS | incar, steps=[STEP] * steps))


def test_parts_that_start_from_the_last_contcar_go_on(tmp_path):
    a, b = part(tmp_path / "a", 0.0, 0.3, 4), part(tmp_path / "b", 0.3, 0.6, 5, POTIM=1.0)
    assert joined([a, b]) == ([a, b], 0)
    assert [p.timestep_fs for p in (a, b)] == [2.0, 1.0]


def test_a_part_that_starts_over_replaces_what_it_repeats(tmp_path):
    a, b = part(tmp_path / "a", 0.0, 0.3, 4), part(tmp_path / "b", 0.0, 0.5, 6)
    c = part(tmp_path / "c", 0.5, 0.9, 2)
    assert joined([a, b, c]) == ([b, c], 4)


def test_the_longest_way_counts(tmp_path):
    """A run of four steps is started over and killed in its second: the four are the run."""
    a, b = part(tmp_path / "a", 0.0, 0.3, 4), part(tmp_path / "b", 0.0, 0.1, 1)
    assert joined([a, b]) == ([a], 1)
    c = part(tmp_path / "c", 0.0, 0.3, 4)
    assert joined([a, c]) == ([c], 4), "of equal ones the last"


def test_a_part_that_starts_over_in_the_middle_keeps_the_beginning(tmp_path):
    a, b = part(tmp_path / "a", 0.0, 0.3, 4), part(tmp_path / "b", 0.3, 0.5, 2)
    c = part(tmp_path / "c", 0.3, 0.8, 5)
    assert joined([a, b, c]) == ([a, c], 2)


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        ({"ENCUT": 520}, "protocol_changed", "ENCUT 680.0 became 520.0"),
        ({"TEBEG": 300}, "dynamics_changed", "TEBEG 600.0 became 300.0"),
        ({"ISIF": 2}, "dynamics_changed", "ISIF 3.0 became 2.0"),
        ({"POTIM": 1.0, "NSW": 5, "ALGO": "Normal"}, None, ""),
    ],
)
def test_what_custodian_may_change(tmp_path, change, reason, said):
    fault = fault_of(part(tmp_path / "a", 0, 0.1, 2, **change), RUNS, {"ENCUT": 680})
    assert (fault and fault.reason) == reason
    assert fault is None or said in fault.message


def test_a_vasp_without_tbdyn_is_a_fault(tmp_path):
    found = part(tmp_path / "a", 0, 0.1, 2)
    (found.folder / "OUTCAR").write_text(" INCAR:\n MDALGO = 3\n POTCAR: x\n   MDALGO =      0\n")
    assert fault_of(found, RUNS, {"ENCUT": 680}).reason == "no_tbdyn"


def launch(folder: Path, runs: list[str]) -> Path:
    """Fill a folder as custodian does: each run's files are put into an archive before the next run."""
    folder.mkdir()
    for number, text in enumerate(runs, start=1):
        (folder / "OUTCAR").write_text(text)
        (folder / "POSCAR").write_text(geometry(0.1 * number))
        (folder / "CONTCAR").write_text(geometry(0.1 * (number + 1)))
        if number < len(runs):
            backup(VASP_BACKUP_FILES, directory=str(folder))
    return folder


@pytest.fixture
def counted(monkeypatch):
    """Read as many steps as OUTCAR has lines; the parsing of VASP's files is tested elsewhere."""

    def read(folder, **options):
        return Calculation("killed", incar=dict(RUNS), steps=[STEP] * len(read_text(folder, "OUTCAR").split()))

    monkeypatch.setattr(aimd_parts, "read_calculation", read)


def test_archives_are_read_in_the_order_of_their_numbers(tmp_path, counted):
    """Twelve runs: error.10 comes after error.9."""
    folder = launch(tmp_path / "run", [f"{'x ' * n}" for n in range(1, 13)])
    found = read_launch(folder, tmp_path / "unpacked")
    assert [len(p.found.steps) for p in found.parts] == list(range(1, 13))


def test_one_run_that_two_handlers_put_aside_is_one(tmp_path, counted):
    folder = launch(tmp_path / "run", ["a b", "c d e"])
    with tarfile.open(folder / "error.1.tar.gz") as first:
        first.extractall(tmp_path / "again", filter="data")
    for number in (2, 3):  # the second handler saw CONTCAR already copied
        inside = tmp_path / "again" / "error.1"
        (inside / "POSCAR").write_text((inside / "CONTCAR").read_text())
        with tarfile.open(folder / f"error.{number}.tar.gz", "w:gz") as archive:
            archive.add(inside, arcname=f"error.{number}")
    found = read_launch(folder, tmp_path / "unpacked")
    assert [len(p.found.steps) for p in found.parts] == [2, 3]
    assert found.repeated == 0


def test_an_archive_that_is_cut_short_is_named_and_the_others_are_read(tmp_path, counted):
    folder = launch(tmp_path / "run", ["a", "b c", "d e f"])
    path = folder / "error.1.tar.gz"
    path.write_bytes(path.read_bytes()[:200])
    found = read_launch(folder, tmp_path / "unpacked")
    assert [len(p.found.steps) for p in found.parts] == [2, 3]
    assert found.unread[0].startswith("error.1.tar.gz cannot be read, its steps are lost: ")


def test_an_archive_cannot_write_elsewhere(tmp_path, counted):
    folder = launch(tmp_path / "run", ["a"])
    evil = tmp_path / "OUTCAR"
    evil.write_text("x y z")
    with tarfile.open(folder / "error.1.tar.gz", "w:gz") as archive:
        archive.add(evil, arcname="../../../outside/OUTCAR")
        archive.add(evil, arcname="/OUTCAR")
    read_launch(folder, tmp_path / "unpacked")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["OUTCAR", "run", "unpacked"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300),
    st.sampled_from(["custodian.json", "error.1.tar.gz", "POSCAR", "OUTCAR"]),
    st.floats(0, 1, exclude_max=True),
)
def test_damage_is_no_traceback(tmp_path_factory, counted, damage, name, place):
    tmp_path = tmp_path_factory.mktemp("damage")
    folder = launch(tmp_path / "run", ["a", "b c"])
    corrections = [{"errors": ["eddrmm"], "actions": [{"file": "CONTCAR"}]}]
    (folder / "custodian.json").write_text(json.dumps([{"corrections": corrections}]))
    path = folder / name
    whole = path.read_bytes()
    at = int(place * len(whole))
    path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
    found = read_launch(folder, tmp_path / "unpacked")
    assert len(found.parts) >= 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.floats(0, 1, exclude_max=True))
def test_a_damaged_poscar_is_an_input_error_or_a_structure(damage, place):
    whole = geometry(0.2)
    at = int(place * len(whole))
    with contextlib.suppress(InputError):
        assert len(read_poscar(whole[:at] + damage + whole[at + len(damage) :]).structure) >= 0
