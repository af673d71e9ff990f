"""The written INCAR, and whole runs on the stand-in VASP."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from fake_vasp.fixtures import ELEMENTS, VASP_WARNINGS, rock_salt
from fake_vasp.fixtures import stand_in as stand_in
from jobflow import Response
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Incar

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.aimd import AIMDMaker
from aqvolt_flows.exploration.aimd_inputs import aimd_incar, aimd_key, aimd_seed, md_maker, seconds_left, timestep_fs
from aqvolt_flows.exploration.plan import plan_aimd
from aqvolt_flows.frames import read_frames
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.parameters import AIMDParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.vasp.inputs import matpes_static_set
from aqvolt_flows.vasp.settings import changes, r2scan_protocol, static_incar, theory

pytestmark = [*VASP_WARNINGS]
SHORT = AIMDParameters(n_steps=6)


def licl() -> Structure:
    return rock_salt(5.1, cubic=True).to_structure()


@pytest.fixture
def candidate(database) -> str:
    structure = licl()
    document = CandidateDocument.model_validate(
        {
            "candidate_id": "cand-licl",
            "key": "cand-licl",
            "name": "LiCl",
            "source": "user",
            "status": "accepted",
            "structure": structure.as_dict(),
            **describe_structure(structure),
        }
    )
    database.upsert("candidates", [document])
    return document.candidate_id


def run(candidate_id: str, parameters: AIMDParameters = SHORT, temperature: float = 600.0, **options):
    maker = AIMDMaker(parameters=parameters.model_dump(), polling_s=0.05, max_errors=1, **options)
    key = aimd_key(candidate_id, temperature, parameters, maker.incar_updates)
    return AIMDMaker.make.original(maker, candidate_id, temperature, key)


def test_the_written_incar_is_an_npt_langevin_run_at_the_statics_theory_level(tmp_path):
    """Numbers: VASP settings of the campaign (2 fs, 10/ps, 1 atm = 1.01325·10⁻³ kbar), one friction per element."""
    parameters = AIMDParameters()
    incar = aimd_incar(["Li", "Cl"], 900.0, parameters, seed=7)
    written = md_maker(incar, "vasp", 1, 1.0).input_set_generator.get_input_set(licl(), potcar_spec=True)
    written.incar.write_file(str(tmp_path / "INCAR"))
    read = dict(Incar.from_file(str(tmp_path / "INCAR")))
    expected = {
        "IBRION": 0,
        "NSW": 400,
        "POTIM": 2.0,
        "TEBEG": 900.0,
        "TEEND": 900.0,
        "MDALGO": 3,
        "ISIF": 3,
        "LANGEVIN_GAMMA": [10, 10],
        "LANGEVIN_GAMMA_L": 1,
        "PMASS": 10,
        "ISYM": 0,
        "NELMIN": 4,
        "MAXMIX": 20,
        "LCHARG": False,
        "LAECHG": False,
        "LWAVE": False,
        "ENCUT": 680,
        "KSPACING": 0.22,
        "ALGO": "All",
        "EDIFF": 1e-5,
    }
    seen = {k: read[k] for k in expected}
    assert changes(expected, seen) == {}
    assert read["PSTRESS"] == pytest.approx(1.01325e-3)
    assert read["RANDOM_SEED"] == [7, 0, 0]
    assert "GGA" not in read
    assert changes(theory(static_incar()), theory(read)) == {}


def test_hydrogen_shortens_the_step():
    parameters = AIMDParameters()
    assert timestep_fs(["Li", "Cl"], parameters) == 2.0
    assert timestep_fs(["Li", "Cl", "H"], parameters) == 0.5


def test_static_and_aimd_are_one_protocol_and_the_key_follows_the_physics():
    assert aimd_key("c", 300.0, SHORT) == aimd_key("c", 300.0, SHORT.model_copy(update={"temperatures_k": [1.0]}))
    assert aimd_key("c", 300.0, SHORT) != aimd_key("c", 300.0, AIMDParameters())
    assert aimd_key("c", 300.0, SHORT) != aimd_key("c", 300.0, SHORT, {"ENAUG": 1360})
    assert 0 <= aimd_seed(aimd_key("c", 300.0, SHORT)) <= 900_000_000


def test_a_campaign_plans_aimd_at_the_theory_level_of_its_statics(candidate, database):
    campaign = load_campaign("aqvolt26").model_copy(update={"aimd": AIMDParameters()})
    labeling = campaign.labeling.model_copy(update={"incar_updates": {"ENAUG": 1360}})
    plain, changed = (
        plan_aimd(c, database).items for c in (campaign, campaign.model_copy(update={"labeling": labeling}))
    )
    assert [i.key for i in plain] == [aimd_key(candidate, t, campaign.aimd) for t in campaign.aimd.temperatures_k]
    made = [item.make() for item in changed]
    assert all(job.maker.aimd_maker.incar_updates == {"ENAUG": 1360} for job in made)
    assert {i.key for i in plain}.isdisjoint(i.key for i in changed)


def test_a_run_becomes_a_trajectory_with_its_labels(candidate, database, stand_in):
    output = run(candidate)
    assert output["status"] == "completed"
    (document,) = database.find_by_ids("trajectories", [output["trajectory_id"]])
    assert (document["engine"], document["steps_done"], document["n_frames"]) == ("aimd", 6, 6)
    assert document["model"] == r2scan_protocol().name
    frames = list(read_frames(database.artifacts.local_path(ArtifactRef(**document["frames"]))))
    assert [f.step for f in frames] == [1, 2, 3, 4, 5, 6]
    start = licl()
    assert [int(z) for z in frames[0].atomic_numbers] == [s.specie.Z for s in start]
    folded = Structure(Lattice(frames[0].cell), start.species, frames[0].positions, coords_are_cartesian=True)
    assert max(a.distance(b) for a, b in zip(folded, start, strict=True)) < 1e-4
    drift = np.diff([f.positions @ np.linalg.inv(f.cell) for f in frames], axis=0)
    assert np.abs(drift).max() < 0.2, "positions are unfolded along the run"
    assert document["mean_temperature_k"] > 0
    assert document["max_force"] == pytest.approx(max(f.max_force for f in frames))


def test_a_rerun_gives_the_same_document_and_no_second_one(candidate, database, stand_in):
    first, second = run(candidate), run(candidate)
    assert first == second
    assert database["trajectories"].count_documents({}) == 1
    assert run(candidate, temperature=300.0)["trajectory_id"] != first["trajectory_id"]
    assert database["trajectories"].count_documents({}) == 2


def test_a_killed_run_keeps_the_steps_that_it_made(candidate, database, stand_in):
    stand_in({"mode": "wall_time"})
    output = run(candidate, SHORT.model_copy(update={"max_segments": 1}))
    assert (output["status"], output["reason"]) == ("failed", "wall_time")
    assert output["n_frames"] == 2, "the stand-in dies in the third of six steps"
    (document,) = database.find_by_ids("trajectories", [output["trajectory_id"]])
    assert len(list(read_frames(database.artifacts.local_path(ArtifactRef(**document["frames"]))))) == 2


def test_steps_without_self_consistency_are_no_labels(candidate, database, stand_in):
    stand_in({"mode": "scf"})
    output = run(candidate)
    assert (output["status"], output["reason"], output["n_frames"]) == ("failed", "electronic", 0)


def test_a_vasp_without_tbdyn_is_found_out(candidate, database, stand_in, monkeypatch):
    monkeypatch.setenv("FAKE_VASP_NO_TBDYN", "1")
    output = run(candidate)
    assert (output["status"], output["reason"]) == ("failed", "no_tbdyn")


def test_missing_potcars_are_a_document_with_a_reason(candidate, database, stand_in, tmp_path):
    assert "Li" in ELEMENTS
    (tmp_path / "potcars" / "POT_PAW_PBE_64" / "POTCAR.Li_sv").unlink()
    output = run(candidate)
    assert (output["status"], output["reason"]) == ("failed", "missing_resource")
    (document,) = database.find_by_ids("trajectories", [output["trajectory_id"]])
    assert "Li_sv" in document["failure"]["message"]


def trajectory(database, output):
    (document,) = database.find_by_ids("trajectories", [output["trajectory_id"]])
    return document, list(read_frames(database.artifacts.local_path(ArtifactRef(**document["frames"]))))


def test_segments_end_where_one_run_ends_and_no_step_is_made_twice(candidate, database, stand_in):
    """Independent: the same run in one launch. The stand-in's random numbers and velocities go on where they stood."""
    parameters = AIMDParameters(n_steps=7)
    whole, expected = trajectory(database, run(candidate, parameters))
    database["trajectories"].delete_many({})
    cut = parameters.model_copy(update={"segment_steps": 3})
    assert aimd_key(candidate, 600.0, cut) == aimd_key(candidate, 600.0, parameters)
    launches = []
    while not launches or isinstance(launches[-1], Response):
        launches.append(run(candidate, cut))
    assert [r.output["steps_done"] for r in launches[:-1]] == [3, 6]
    document, frames = trajectory(database, launches[-1])
    assert (document["status"], document["segments"], document["restart"]) == ("completed", 3, None)
    assert [f.step for f in frames] == [1, 2, 3, 4, 5, 6, 7]
    for a, b in zip(frames, expected, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=2e-4)
        np.testing.assert_allclose(a.cell, b.cell, atol=2e-5)
        assert a.energy == pytest.approx(b.energy, abs=1e-4)
        assert a.temperature == pytest.approx(b.temperature, abs=2)
    assert document["protocol_id"] == whole["protocol_id"] == r2scan_protocol().protocol_id
    assert document["protocol"]["version"].startswith("6.4.1")
    assert set(document["protocol"]["potcar_hashes"]) == {"Li", "Cl"}
    assert not list((database.settings.path(database.settings.checkpoint_dir) / "aimd").iterdir())


def test_a_killed_segment_goes_on_from_its_last_step(candidate, database, stand_in):
    _, expected = trajectory(database, run(candidate))
    database["trajectories"].delete_many({})
    stand_in({"mode": "killed"})
    first = run(candidate)
    assert first.output == first.output | {"status": "running", "steps_done": 2, "n_frames": 2, "segments": 2}
    assert first.addition.function_args == (candidate, 600.0, first.output["trajectory_id"].removeprefix("trajectory-"))
    stand_in({"mode": "ok"})
    document, frames = trajectory(database, run(candidate))
    assert (document["status"], document["segments"], document["steps_done"]) == ("completed", 2, 6)
    assert [f.step for f in frames] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(frames[-1].positions, expected[-1].positions, atol=2e-4)


def test_steps_of_a_worker_that_died_are_read_and_not_made_again(candidate, database, stand_in, monkeypatch):
    """The folder of a segment stands in the project, so that another worker finds it."""
    from aqvolt_flows.exploration import aimd_segments

    stand_in({"mode": "killed"})
    with monkeypatch.context() as died:
        died.setattr(aimd_segments, "harvest", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(candidate)
    (document,) = database["trajectories"].find({})
    assert (document["status"], document["steps_done"]) == ("running", 0)
    monkeypatch.setattr("aqvolt_flows.vasp.run.run_maker", lambda *a: pytest.fail("VASP was started again"))
    assert run(candidate).output["steps_done"] == 2


def test_launches_have_a_limit(candidate, database, stand_in):
    stand_in({"mode": "wall_time"})
    limited = SHORT.model_copy(update={"max_segments": 2})
    assert run(candidate, limited).output["segments"] == 2
    output = run(candidate, limited)
    assert (output["status"], output["reason"], output["n_frames"]) == ("failed", "wall_time", 3)
    assert run(candidate, limited) == output, "what has ended is not repeated"


def test_vasp_is_told_to_stop_before_the_walltime(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert seconds_left(None) is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1000))
    assert seconds_left(5000.0) == pytest.approx(1000, abs=5)
    maker = md_maker({}, "vasp", 1, 1.0, seconds_left(5000.0))
    handler = maker.run_vasp_kwargs["handlers"][-1]
    assert handler.wall_time == pytest.approx(1000, abs=5)
    assert handler.buffer_time == pytest.approx(100, abs=1)


def test_a_run_that_was_told_to_stop_goes_on(candidate, database, stand_in, monkeypatch):
    """VASP looks for STOPCAR after every ionic step; here it is there from the start."""
    from aqvolt_flows.vasp import run as module

    real = module.run_maker

    def with_stopcar(*arguments):
        Path("STOPCAR").write_text("LSTOP = .TRUE.\n")
        return real(*arguments)

    monkeypatch.setattr(module, "run_maker", with_stopcar)
    first = run(candidate)
    assert isinstance(first, Response)
    assert first.output["steps_done"] == 1


def test_the_plain_static_set_is_not_touched_by_md(tmp_path):
    written = matpes_static_set().get_input_set(licl(), potcar_spec=True)
    assert dict(written.incar)["NSW"] == 0


def test_a_run_in_a_script_is_that_of_the_campaign(stand_in, tmp_path, monkeypatch):
    """Three launches of two steps each, outside a project: the same frames as one launch of six."""
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    from aqvolt_flows.schemas.dynamics import AIMDDocument

    monkeypatch.setenv("AQVOLT_MONGO_URI", "mongodb://127.0.0.1:1/")  # nobody is there, and nobody is asked
    found = []
    for name, segment in (("whole", None), ("parts", 2)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        parameters = SHORT.model_copy(update={"n_steps": 6, "segment_steps": segment})
        job = AIMDMaker(parameters=parameters, polling_s=0.05, max_errors=1).make(licl(), 600.0)
        store = JobStore(MemoryStore())
        run_locally(job, store=store, ensure_success=True, log=False)
        found.append(AIMDDocument.model_validate(store.get_output(job.uuid, load=True)))
    whole, parts = found
    assert (whole.status, parts.status) == ("completed", "completed"), (whole.failure, parts.failure)
    assert (whole.segments, parts.segments) == (1, 3)
    assert [f.step for f in parts.to_frames()] == [1, 2, 3, 4, 5, 6]
    assert whole.times_fs() == parts.times_fs() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert [(s.step, s.basis) for s in parts.seams] == [(3, "made again"), (5, "made again")]
    a, b = whole.to_atoms()[-1], parts.to_atoms()[-1]
    assert np.abs(a.positions - b.positions).max() < 2e-4  # CONTCAR's digits
    assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=1e-2)
    assert whole.protocol_name == r2scan_protocol().name
    with pytest.raises(InputError, match="temperature_k is -3; expected a number above 0"):
        AIMDMaker().make(licl(), -3)
