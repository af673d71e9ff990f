"""NpT MD for any script: structures in, a typed document out, no project."""

from __future__ import annotations

import json
from pathlib import Path

import argon
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, jsanitize
from pymatgen.core import Lattice, Structure

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.exploration import npt_maker
from aqvolt_flows.exploration.npt_maker import NpTMDMaker
from aqvolt_flows.frames import read_frames
from aqvolt_flows.potentials.given import CalculatorRecipe
from aqvolt_flows.schemas.dynamics import NpTMDDocument
from aqvolt_flows.stores import Database

LJ = {"sigma": argon.SIGMA, "epsilon": argon.EPSILON, "rc": argon.CUTOFF, "smooth": True}
AR4 = bulk("Ar", cubic=True)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder; a database would be an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Database, "connect", lambda *_a, **_k: pytest.fail("a database was asked for"))


def maker(model=None, **changes) -> NpTMDMaker:
    parameters = argon.parameters(n_steps=20, stride=5, **changes)
    return NpTMDMaker(LennardJones(**LJ) if model is None else model, parameters=parameters)


def output_of(job, store: JobStore | None = None) -> NpTMDDocument:
    store = store or JobStore(MemoryStore())
    run_locally(job, store=store, ensure_success=True)
    return NpTMDDocument(**store.get_output(job.uuid))


def test_a_run_per_structure_and_temperature_with_frames_in_document_and_file():
    found = output_of(maker().make([AR4, AR4 * (2, 1, 1)], temperatures_k=[40, 60.0]))
    assert [(t.structure_index, t.temperature_k) for t in found.trajectories] == [(0, 40), (0, 60), (1, 40), (1, 60)]
    assert (found.model, found.model_hash, found.n_steps) == ("ase:LennardJones", None, 20)
    for t in found.trajectories:
        assert (t.status, t.failure, t.steps_done, t.n_frames) == ("completed", None, 20, 5)
        inline, stored = t.to_frames(), list(read_frames(t.frames_path()))
        assert [f.step for f in inline] == [0, 5, 10, 15, 20]
        for a, b in zip(inline, stored, strict=True):
            for name in ("positions", "forces", "cell", "stress", "atomic_numbers"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert (a.energy, a.temperature, a.pressure) == (b.energy, b.temperature, b.pressure)
        last = t.to_atoms()[-1]
        calculator = LennardJones(**LJ)
        fresh = last.copy()
        fresh.calc = calculator
        assert last.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(last.get_forces(), fresh.get_forces(), atol=1e-4)
        assert t.final_structure.volume == pytest.approx(last.get_volume(), rel=1e-5)
        assert [f.equilibration for f in inline] == [f.equilibration for f in stored] == [True, *[False] * 4]
        assert t.n_equilibration_frames == 1  # a fifth of 20 steps
        assert t.mean_volume_a3 == pytest.approx(np.mean([f.volume for f in stored[1:]]), rel=1e-4)
        assert t.mean_temperature_k == pytest.approx(np.mean([f.temperature for f in stored[1:]]), rel=1e-4)
        assert "set min_length_a" in t.warnings[0]  # 4 and 8 atoms
    assert len({t.seed for t in found.trajectories}) == 4


def test_seeds_follow_from_structure_and_temperature_not_from_the_order():
    pair = [AR4, AR4 * (2, 1, 1)]
    one, other = output_of(maker().make(pair)), output_of(maker().make(pair[::-1]))
    assert [t.seed for t in one.trajectories] == [t.seed for t in other.trajectories][::-1]
    np.testing.assert_array_equal(
        one.trajectories[0].to_frames()[-1].positions, other.trajectories[1].to_frames()[-1].positions
    )
    copies = output_of(maker().make([AR4, AR4]))
    assert copies.trajectories[0].seed == one.trajectories[0].seed != copies.trajectories[1].seed


@pytest.mark.parametrize("model", [CalculatorRecipe("ase.calculators.lj:LennardJones", LJ), "torch-sim"], ids=str)
def test_recipes_and_torch_sim_models_serve(model):
    found = output_of(maker(argon.model() if model == "torch-sim" else model).make(AR4))
    assert found.trajectories[0].status == "completed"
    assert found.model in {"ase:LennardJones", "torch-sim:LennardJonesModel"}


def test_a_structure_that_cannot_run_is_a_failure_beside_the_others():
    overlap = Atoms("Cu2", positions=[[0, 0, 0], [0.5, 0, 0]], cell=[5, 5, 5], pbc=True)
    structures = [bulk("Li", "fcc", a=4.3, cubic=True), overlap, bulk("Cu"), bulk("Cu", cubic=True)]
    found = output_of(NpTMDMaker(EMT(), parameters={"n_steps": 4, "stride": 2}).make(structures, temperatures_k=300.0))
    assert [t.status for t in found.trajectories] == ["failed", "failed", "failed", "completed"]
    reasons = [t.failure and t.failure.reason for t in found.trajectories]
    assert reasons == ["model_error", "overlapping_atoms", "single_atom", None]
    assert "No EMT-potential for Li" in found.trajectories[0].failure.message
    assert found.trajectories[0].frames is None
    assert found.trajectories[0].to_frames() == []


def test_many_frames_stay_in_their_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npt_maker, "INLINE_NUMBERS", 100)
    monkeypatch.setattr(npt_maker, "INLINE_SITES", 3)
    [t] = output_of(maker().make(AR4)).trajectories
    assert (t.frames.columns, t.final_structure, len(t.to_frames())) == (None, None, 5)
    path = Path(t.frames.path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ResourceError, match="another SHA-256"):
        t.to_frames()
    path.unlink()
    with pytest.raises(ResourceError, match="are not at"):
        t.to_atoms()


def test_a_large_document_fits_into_mongodb():
    """At the limits of both kinds, BSON is below 9 of 16 MB."""
    import bson

    from aqvolt_flows.schemas.dynamics import INLINE_NUMBERS, INLINE_SITES

    numbers = bson.encode({"x": list(np.random.default_rng(0).normal(size=INLINE_NUMBERS))})
    n = 100
    structure = Structure(Lattice.cubic(20), ["Ar"] * n, np.random.default_rng(0).random((n, 3)))
    sites = len(bson.encode(jsanitize(structure.as_dict()))) * INLINE_SITES / n
    assert len(numbers) + sites < 9e6


def test_a_job_is_written_as_json_and_read_again():
    job = maker().make([AR4])
    again = MontyDecoder().process_decoded(json.loads(json.dumps(jsanitize(job.as_dict(), strict=True))))
    assert again.maker.parameters == job.maker.parameters
    assert output_of(again).trajectories[0].status == "completed"


def test_structures_may_be_references():
    first = maker().make([AR4])
    second = maker().make([first.output.trajectories[0].final_structure], temperatures_k=[50.0])
    store = JobStore(MemoryStore())
    run_locally(Flow([first, second]), store=store, ensure_success=True)
    assert NpTMDDocument(**store.get_output(second.uuid)).trajectories[0].status == "completed"


DISORDERED = Structure(Lattice.cubic(5), [{"Ar": 0.5, "Ne": 0.5}], [[0, 0, 0]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: maker().make("POSCAR"), r"A path was given as structure, 'POSCAR'.*Structure\.from_file"),
        (lambda: maker().make(5), "The structure is a int; expected a pymatgen Structure or ASE Atoms"),
        (lambda: maker().make([]), "The list of structures is empty"),
        (lambda: maker().make([AR4, DISORDERED]), "structure 1 .* partly occupied site"),
        (lambda: maker().make([Atoms("Ar2", positions=[[0, 0, 0], [3, 0, 0]])]), "periodic in 0 of 3 directions"),
        (lambda: maker().make([AR4], temperatures_k=[]), "ExplorationParameters.temperatures_k"),
        (lambda: maker().make([AR4], temperatures_k="hot"), "temperatures_k is a str; expected numbers in K"),
        (lambda: maker().make([AR4], temperatures_k=[-3.0]), "greater than 0"),
        (lambda: maker().make([AR4], temperatures_k=[40, 40.0]), "40 K was given twice"),
        (lambda: maker(5), "A int was given as model; expected a model string"),
        (lambda: maker("7net").make(AR4), "There is no potential '7net'"),
        (lambda: maker(Path("x.pt")), "A path was given as model; write it as a model string"),
        (lambda: NpTMDMaker(parameters={"n_stepz": 1}), "no field 'n_stepz'; known are .*n_steps"),
        (lambda: NpTMDMaker(parameters={"n_steps": 0}), "ExplorationParameters.n_steps is 0"),
        (lambda: NpTMDMaker(parameters=7), "given as a int; expected ExplorationParameters or a dict"),
    ],
    ids=range(15),
)
def test_what_is_wrong_is_said_when_the_job_is_made(call, said):
    with pytest.raises(InputError, match=said):
        call()
