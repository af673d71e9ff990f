"""Launches in which custodian starts VASP again, segments that keep mesh and moments, pressure: on the stand-in VASP.

Energies are compared with the stand-in's own formula (``fake_vasp.physics``), evaluated at the frames' positions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_vasp import physics
from fake_vasp.fixtures import VASP_WARNINGS, rock_salt
from fake_vasp.fixtures import stand_in as stand_in
from fake_vasp.potcars import potcar_text
from pymatgen.io.vasp.inputs import Incar, Kpoints

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.exploration.aimd import AIMDMaker, Where
from aqvolt_flows.exploration.aimd_inputs import aimd_key, blank_trajectory
from aqvolt_flows.frames import read_frames
from aqvolt_flows.schemas.parameters import AIMDParameters
from aqvolt_flows.schemas.trajectory import time_fs
from aqvolt_flows.units import pressure_gpa
from aqvolt_flows.vasp.settings import r2scan_protocol

pytestmark = [*VASP_WARNINGS]


class World:
    """A run outside a database: its document, its files, and the inputs of every start of VASP."""

    def __init__(self, folder: Path, parameters: AIMDParameters, monkeypatch: pytest.MonkeyPatch, max_errors: int = 4):
        self.structure = rock_salt(5.1, cubic=True).to_structure()
        self.maker = AIMDMaker(parameters=parameters, polling_s=0.05, max_errors=max_errors)
        self.where = Where(ArtifactStore(folder / "files"), folder / "segments")
        key = aimd_key("c", 600.0, parameters)
        self.document = blank_trajectory("c", self.structure, 600.0, key, parameters, r2scan_protocol())
        self.incars: list[Incar] = []
        self.meshes: list[Kpoints | None] = []
        self._watch(monkeypatch)

    def _watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from custodian.vasp.jobs import VaspJob

        real = VaspJob.run

        def run(job, directory="./"):
            self.incars.append(Incar.from_file(Path(directory) / "INCAR"))
            kpoints = Path(directory) / "KPOINTS"
            self.meshes.append(Kpoints.from_file(kpoints) if kpoints.is_file() else None)
            return real(job, directory=directory)

        monkeypatch.setattr(VaspJob, "run", run)

    def segment(self):
        from aqvolt_flows.exploration.aimd import forget

        before, self.document = self.document, self.maker.run_segment(self.where, self.document, self.structure)
        forget(self.where, before, self.document)
        return self.document

    def to_end(self):
        while self.document.status == "running":
            self.segment()
        return self.document

    @property
    def frames(self):
        return list(read_frames(self.where.artifacts.local_path(self.document.frames)))


@pytest.fixture
def world(tmp_path, monkeypatch, stand_in):
    return lambda parameters, **more: World(tmp_path / "world", parameters, monkeypatch, **more)


def energy_of(frame):
    """The stand-in's Morse energy, eV, and stress, with the radii and atomic energies of its POTCARs."""
    values = {}
    for element in ("Li", "Cl"):
        words = potcar_text(element).replace(";", "\n")
        find = lambda name, words=words: float(words.partition(f"{name} ")[2].partition("=")[2].split()[0])  # noqa: E731
        values[element] = (find("RWIGS"), find("EATOM"))
    symbols = ["Li" if z == 3 else "Cl" for z in frame.atomic_numbers]
    fractional = np.asarray(frame.positions, float) @ np.linalg.inv(np.asarray(frame.cell, float))
    radii, atoms = zip(*(values[s] for s in symbols), strict=True)
    energy, _, stress = physics.evaluate(frame.cell, fractional, symbols, radii, atoms)
    return energy, stress


def test_a_halved_time_step_is_told_and_the_steps_before_it_are_kept(world, stand_in):
    """The stand-in warns of EDDRMM in the fifth of nine steps; custodian halves POTIM and goes on from CONTCAR."""
    stand_in({"mode": "eddrmm", "attempts": 1})
    run = world(AIMDParameters(n_steps=9))
    document = run.to_end()
    assert (document.status, document.steps_done, document.segments) == ("completed", 9, 1), document.failure
    told = [(p.first_step, p.n_steps, p.timestep_fs, p.start_fs, p.corrections) for p in document.parts]
    assert told == [(1, 4, 2.0, 0.0, []), (5, 5, 1.0, 8.0, ["eddrmm"])]
    assert document.duration_fs == 4 * 2.0 + 5 * 1.0
    assert [time_fs(document.parts, s) for s in (1, 4, 5, 9, 10)] == [0.0, 6.0, 8.0, 12.0, None]
    assert [f.step for f in run.frames] == list(range(1, 10))
    first, second = run.incars
    assert (first["NSW"], second["NSW"]) == (9, 5)
    assert (first["POTIM"], second["POTIM"]) == (2.0, 1.0)
    assert second["RANDOM_SEED"] != first["RANDOM_SEED"], "the noise goes on where it stood"
    assert run.meshes[0] is None
    assert run.meshes[1].kpts[0] == (6, 6, 6), "2π / (5.1 Å × 0.22 / Å) = 5.6"
    for frame in run.frames:
        assert frame.energy == pytest.approx(energy_of(frame)[0], abs=1e-4)
    moves = [np.abs(b.positions - a.positions).max() for a, b in zip(run.frames, run.frames[1:], strict=False)]
    assert max(moves[4:]) < 0.75 * max(moves[:3]), "half the time, about half the way"


def test_a_launch_that_only_fails_goes_on_from_its_last_step(world, stand_in):
    """custodian gives up after one correction; the next launch asks for the time step that the run is to have."""
    stand_in({"mode": "eddrmm", "attempts": 2})
    run = world(AIMDParameters(n_steps=8), max_errors=1)
    document = run.segment()
    assert (document.status, document.steps_done, document.segments) == ("running", 3, 2)
    stand_in({"mode": "ok"})
    document = run.to_end()
    assert document.status == "completed"
    assert [(p.n_steps, p.timestep_fs, p.segment) for p in document.parts] == [(3, 2.0, 1), (5, 2.0, 2)]
    assert [f.step for f in run.frames] == list(range(1, 9))
    assert [s.step for s in document.seams] == [4]


def test_energies_at_a_pressure_are_those_of_the_cell(world):
    """At 10 GPa P·V is 132.65 Å³ × 100 kbar / 1602.18 kbar = 8.28 eV of eight atoms; none of it is in a frame."""
    run = world(AIMDParameters(n_steps=4, pressure_gpa=10.0))
    document = run.to_end()
    assert document.status == "completed", document.failure
    assert document.pressure_removed
    assert run.incars[0]["PSTRESS"] == pytest.approx(100.0)
    for frame in run.frames:
        energy, stress = energy_of(frame)
        assert frame.energy == pytest.approx(energy, abs=1e-4)
        assert pressure_gpa(frame.stress) == pytest.approx(-np.trace(stress) / 3 * 160.21766, abs=1e-3)


def test_a_run_whose_files_do_not_tell_of_the_pressure_has_no_labels(world, monkeypatch):
    import aqvolt_flows.vasp.pressure as module

    monkeypatch.setattr(module, "_most", lambda *a: None)
    run = world(AIMDParameters(n_steps=4, pressure_gpa=10.0))
    document = run.to_end()
    assert (document.status, document.failure.reason, document.n_frames) == ("failed", "pressure_in_energy", 0)
    assert "PSTRESS 100" in document.failure.message


@pytest.mark.parametrize("keep", [False, True])
def test_the_jump_of_a_new_basis_is_told_or_does_not_happen(world, monkeypatch, keep):
    """The stand-in's basis lacks 2 eV/atom × ln(V/V₀); a new one lacks nothing: the energy falls by that much."""
    monkeypatch.setenv("FAKE_VASP_BASIS", "2.0")
    run = world(AIMDParameters(n_steps=16, segment_steps=8, pressure_gpa=5.0, keep_orbitals=keep))
    document = run.to_end()
    (seam,) = document.seams
    volumes = [f.volume for f in run.frames]
    expected = -2.0 * np.log(volumes[8] / volumes[0])
    assert abs(expected) > 0.02, "the cell must change"
    assert (seam.step, seam.segment) == (9, 2)
    assert seam.energy_scatter < 1e-4
    if keep:
        assert (seam.basis, run.incars[1]["ISTART"]) == ("kept", 2)
        grids = {"NGX": 36, "NGY": 36, "NGZ": 36, "NGXF": 72, "NGYF": 72, "NGZF": 72}  # 7 and 14 points × 5.1 Å
        assert {tag: run.incars[1].get(tag) for tag in grids} == grids
        assert seam.energy_jump == pytest.approx(0, abs=1e-4)
    else:
        assert seam.basis == "made again"
        assert "NGX" not in run.incars[1], "grids of another cell would alias"
        assert seam.energy_jump == pytest.approx(expected, abs=1e-4)
    assert not list(run.where.segments.iterdir()), "orbitals are removed with the run"


def test_segments_keep_the_mesh_and_the_moments_of_the_run(world, monkeypatch):
    moments = [0.4, -0.4, 0.2, -0.2, 0.0, 0.0, 0.1, -0.1]
    monkeypatch.setenv("FAKE_VASP_MOMENTS", " ".join(map(str, moments)))
    run = world(AIMDParameters(n_steps=6, segment_steps=3))
    document = run.to_end()
    assert (document.status, document.segments) == ("completed", 2)
    first, second = run.incars
    assert (run.meshes[0], first["KSPACING"]) == (None, 0.22)
    assert run.meshes[1].kpts[0] == (6, 6, 6)
    assert "KSPACING" not in second
    assert first["MAGMOM"] == pytest.approx([0.6] * 8), "MatPES starts Li and Cl with 0.6"
    assert second["MAGMOM"] == pytest.approx(moments)
    assert document.seams[0].magnetization_before == 0.0


def test_steps_that_were_made_but_not_written_keep_their_numbers(world, stand_in, monkeypatch):
    """The stand-in is killed in its fifth step; the last two of four whole steps did not reach vasprun.xml."""
    from aqvolt_flows.exploration import aimd_segments

    real = aimd_segments.read_launch

    def late(folder, unpacked):
        (path,) = (p for p in (folder / "vasprun.xml", folder / "vasprun.xml.gz") if p.is_file())
        assert path.suffix == ".xml"
        whole = path.read_text().split("<calculation>")
        path.write_text("<calculation>".join(whole[:3]))
        return real(folder, unpacked)

    stand_in({"mode": "killed"})
    run = world(AIMDParameters(n_steps=9))
    with monkeypatch.context() as lagging:
        lagging.setattr(aimd_segments, "read_launch", late)
        document = run.segment()
    assert (document.status, document.steps_done, document.n_frames) == ("running", 4, 2)
    assert document.steps_unread == [3, 4]
    stand_in({"mode": "ok"})
    document = run.to_end()
    assert (document.status, document.steps_done, document.duration_fs) == ("completed", 9, 18.0)
    assert [f.step for f in run.frames] == [1, 2, 5, 6, 7, 8, 9]
    assert document.seams[0].energy_jump is None, "its neighbor is not there"


def test_a_state_of_before_still_continues(world):
    """States that version 0.1 stored have neither mesh nor moments; documents of then have no parts."""
    import json

    run = world(AIMDParameters(n_steps=4, segment_steps=2))
    document = run.segment()
    plain = json.loads(run.where.artifacts.local_path(document.restart).read_bytes())
    old = {k: plain[k] for k in ("contcar", "unfolded", "random_seed")}
    restart = run.where.artifacts.put_bytes(json.dumps(old, sort_keys=True).encode(), "json")
    now = {"parts", "seams", "duration_fs", "steps_repeated", "pressure_removed"}
    values = document.model_dump(exclude=now) | {"restart": restart}
    run.document = type(document).model_validate(values)
    document = run.to_end()
    assert (document.status, document.steps_done) == ("completed", 4)
    assert [(p.first_step, p.n_steps, p.start_fs) for p in document.parts] == [(1, 2, 0.0), (3, 2, 4.0)]
    assert document.pressure_removed is False, "its first steps were read with P·V in them"
    assert run.meshes == [None, None]
