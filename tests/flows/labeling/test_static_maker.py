"""Statics in a script: structures in, a typed document out; and the campaign's job around the same maker."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.labeling.jobs import LabelFrameMaker
from aqvolt_flows.labeling.protocols import label_key, surrogate_protocol
from aqvolt_flows.labeling.spec import label_spec
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.makers import GpawStaticMaker, SurrogateStaticMaker
from aqvolt_flows.schemas.static import StaticDocument

pytestmark = [*VASP_WARNINGS]
LICL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.10), ["Li", "Cl"], [[0, 0, 0], [0.5] * 3])


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "nowhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AQVOLT_MONGO_URI", "mongodb://127.0.0.1:1/")  # nobody is there, and nobody is asked
    return folder


def run(job) -> StaticDocument:
    store = JobStore(MemoryStore())
    run_locally(job, store=store, ensure_success=True, log=False)
    return StaticDocument.model_validate(store.get_output(job.uuid, load=True))


def test_a_surrogate_static_is_that_of_its_own_calculator(nowhere: Path) -> None:
    """CHGNet r2SCAN gives −12.5816 eV for LiCl (2 atoms) at 5.10 Å: an independent run of its own calculator."""
    found = run(SurrogateStaticMaker(potential="chgnet/r2scan").make(LICL.get_primitive_structure()))
    assert found.energy == pytest.approx(-12.5816, abs=2e-3)
    assert found.energy_per_atom == pytest.approx(found.energy / 2)
    assert (found.status, found.formula, found.n_atoms) == ("converged", "LiCl", 2)
    assert np.abs(found.forces).max() < 1e-3
    assert found.structure.matches(LICL)
    assert found.protocol_name == "surrogate:chgnet/r2scan@8eba3db0f35a"


def test_an_ase_calculator_labels_and_says_that_its_weights_are_not_known(nowhere: Path) -> None:
    argon = bulk("Ar", "fcc", a=5.26)
    found = run(SurrogateStaticMaker(potential=LennardJones(sigma=3.4, epsilon=0.0104)).make(argon))
    argon.calc = LennardJones(sigma=3.4, epsilon=0.0104)
    assert found.energy == pytest.approx(argon.get_potential_energy(), abs=1e-12)
    assert found.protocol_name == "surrogate:ase:LennardJones@unknown"
    other = SurrogateStaticMaker(potential=LennardJones(sigma=3.5, epsilon=0.0104)).protocol
    assert other.settings_hash == ""


def test_vasp_runs_outside_a_project_and_leaves_its_files(nowhere: Path, stand_in) -> None:
    found = run(R2scanStaticMaker(polling_s=0.05).make(LICL))
    assert found.status == "converged", found.failure
    assert found.protocol.functional == "r2SCAN"
    folder = Path(found.dir_name)
    assert folder.parent == nowhere
    assert list(folder.glob("OUTCAR*"))
    assert np.shape(found.forces) == (8, 3)
    assert [s.specie.symbol for s in found.structure] == [s.specie.symbol for s in LICL]


def test_what_stops_vasp_is_a_document_with_the_reason(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VASP_CMD", raising=False)
    found = run(R2scanStaticMaker().make(LICL))
    assert (found.status, found.failure.reason, found.energy) == ("failed", "missing_vasp", None)
    overlapping = Structure(Lattice.cubic(5), ["Li", "Cl"], [[0, 0, 0], [0.02, 0, 0]])
    assert run(SurrogateStaticMaker().make(overlapping)).failure.reason == "bad_structure"


def test_gpaw_without_gpaw_is_a_document(nowhere: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("gpaw"):
        pytest.skip("GPAW is installed")
    assert run(GpawStaticMaker().make(LICL)).failure.reason == "missing_gpaw"


def test_a_campaigns_job_nests_the_maker_and_gives_the_same_numbers(store_frames: StoreFrames, database) -> None:
    frame = rock_salt(5.1, rattle=0.1)
    (frame_id,) = store_frames([frame])
    maker = LabelFrameMaker("surrogate static", SurrogateStaticMaker())
    job = maker.make(frame_id, label_key(frame_id, surrogate_protocol("chgnet/r2scan")))
    again = json.loads(json.dumps(job, cls=MontyEncoder), cls=MontyDecoder)
    outcome = run_locally(again, ensure_success=True, log=False)[job.uuid][1].output
    alone = run(SurrogateStaticMaker().make(frame.to_structure()))
    assert outcome["energy"] == pytest.approx(alone.energy, abs=1e-5)
    assert outcome["frame_id"] == frame_id


def test_update_maker_kwargs_reaches_the_nested_maker() -> None:
    job = LabelFrameMaker("r2SCAN static", R2scanStaticMaker()).make("frame-1", "k")
    flow = Flow([job])
    flow.update_maker_kwargs({"max_errors": 2}, class_filter=R2scanStaticMaker)
    assert flow.jobs[0].maker.static_maker.max_errors == 2


def test_jobs_of_0_1_and_of_now_say_what_they_are_about() -> None:
    now = {"aqvolt": {"stage": "label", "key": "k", "frame_id": "frame-1", "labeler": "gpaw"}}
    assert label_spec(now).labeler == "gpaw"
    job = {"function": {"@bound": {"@module": "aqvolt_flows.labeling.vasp"}}, "function_args": ["frame-2", "k"]}
    earlier = {"aqvolt": {"stage": "label", "key": "k"}, "_tasks": [{"job": job}]}
    assert (label_spec(earlier).frame_id, label_spec(earlier).labeler) == ("frame-2", "vasp")
    assert label_spec({"aqvolt": {"stage": "explore", "key": "k"}}) is None
    assert label_spec({}) is None


def test_a_wrong_potential_fails_when_the_maker_is_made() -> None:
    with pytest.raises(InputError, match="did you mean 'chgnet/r2scan'"):
        SurrogateStaticMaker(potential="chgnet/r2scam")
    with pytest.raises(InputError, match="A float was given as model"):
        SurrogateStaticMaker(potential=1.0)
