"""The makers as somebody uses them who knows only their docs and atomate2: outside a project, in one flow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from aqvolt_flows import makers
from aqvolt_flows.errors import InputError
from aqvolt_flows.makers import CalculatorRecipe, DirectMaker, EachMaker, EVScanMaker, NpTMDMaker, SurrogateStaticMaker
from aqvolt_flows.schemas.benchmark_results import EVScanDocument
from aqvolt_flows.schemas.dynamics import NpTMDDocument
from aqvolt_flows.schemas.selection import DirectDocument
from aqvolt_flows.schemas.static import StaticDocument

pytestmark = pytest.mark.filterwarnings("ignore:.*Pauling electronegativity.*:UserWarning")
MD = {"potential": "chgnet/r2scan", "n_steps": 4, "stride": 2, "temperatures_k": [600.0], "timestep_fs": 1.0}


def rock_salt(anion: str, a: float) -> Structure:
    cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", anion], [[0, 0, 0], [0.5] * 3])
    return cubic.get_primitive_structure()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no project, without any setting."""
    import os

    for name in [n for n in os.environ if n.startswith("AQVOLT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flow_of() -> tuple[Flow, dict[str, str]]:
    """NpT MD of two structures, 2DIRECT, surrogate statics, and an E–V scan with an ASE calculator."""
    md = NpTMDMaker(parameters=MD).make([rock_salt("Cl", 5.13), rock_salt("F", 4.02)])
    direct = DirectMaker(parameters={"structure_threshold": 0.02, "atom_threshold": 0.02}).make(md.output)
    statics = EachMaker(SurrogateStaticMaker(potential="chgnet/r2scan")).make(direct.output.structures)
    calculator = CalculatorRecipe("chgnet.model.dynamics:CHGNetCalculator", {"use_device": "cpu"})
    scan = EVScanMaker(model=calculator, parameters={"n_points": 5}).make(direct.output.structures)
    names = {"md": md.uuid, "direct": direct.uuid, "statics": statics.uuid, "scan": scan.uuid}
    return Flow([md, direct, statics, scan], output=statics.output), names


def check(get, n_statics: int) -> None:
    """Results by schema: what a user reads from the store."""
    md = NpTMDDocument.model_validate(get("md"))
    assert [t.status for t in md.trajectories] == ["completed", "completed"]
    assert [t.n_frames for t in md.trajectories] == [3, 3]
    direct = DirectDocument.model_validate(get("direct"))
    assert 2 <= len(direct.structures) <= 6
    assert n_statics == len(direct.structures)
    scan = EVScanDocument.model_validate(get("scan"))
    assert (scan.n_items, scan.n_failed, scan.model) == (n_statics, 0, "ase:CHGNetCalculator")
    # 5 fs after the experimental lattice constants both salts are near their minimum: ±20 % goes uphill
    assert scan.metrics["spearman_compression_energy"] == pytest.approx(-1.0)
    assert scan.metrics["spearman_tension_energy"] == pytest.approx(1.0)


def test_a_calculator_object_scans_and_a_lennard_jones_crystal_has_one_minimum(nowhere: Path) -> None:
    """fcc argon with Lennard-Jones (σ = 3.4 Å) has its minimum at 1.09 σ √2 = 5.24 Å (Ashcroft and Mermin, ch. 20)."""
    job = EVScanMaker(model=LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)).make([bulk("Ar", "fcc", a=5.26)])
    store = JobStore(MemoryStore())
    run_locally(job, store=store, ensure_success=True, log=False)
    found = EVScanDocument.model_validate(store.get_output(job.uuid, load=True))
    assert (found.n_items, found.n_failed, found.model) == (1, 0, "ase:LennardJones")
    scan = found.results[0]
    lowest = scan.volumes[int(np.argmin(scan.energies))]
    assert (4 * lowest) ** (1 / 3) == pytest.approx(5.24, abs=0.11)  # the points are 2 % of the length apart


@pytest.mark.slow
def test_md_2direct_statics_and_a_scan_outside_a_project(nowhere: Path) -> None:
    flow, names = flow_of()
    store = JobStore(MemoryStore())
    run_locally(flow, store=store, create_folders=True, ensure_success=True, log=False)
    outputs = [StaticDocument.model_validate(o) for o in store.get_output(names["statics"], load=True)]
    check(lambda name: store.get_output(names[name], load=True), len(outputs))
    for static in outputs:
        assert static.status == "converged"
        assert np.shape(static.forces) == (2, 3)
        assert len(static.stress) == 6
        assert static.protocol_name.startswith("surrogate:chgnet/r2scan@")
    licl = next(s for s in outputs if s.formula == "LiCl")
    assert licl.energy == pytest.approx(-12.58, abs=0.1)  # CHGNet's own calculator at 5.10 Å gives −12.5816 eV


@pytest.mark.slow
def test_the_same_flow_through_a_launchpad(database, settings) -> None:
    from jobflow.managers.fireworks import flow_to_workflow

    from aqvolt_flows.stores import job_store
    from aqvolt_launch.launchpad import ensure_launchpad
    from aqvolt_launch.workers import work

    flow, names = flow_of()
    store = job_store()
    ensure_launchpad(settings).add_wf(flow_to_workflow(flow, store=store))
    report = work(settings, until_empty=True)
    assert report.fizzled == 0
    store.connect()
    statics = store.get_output(names["statics"], load=True)
    assert all(StaticDocument.model_validate(s).status == "converged" for s in statics)
    check(lambda name: store.get_output(names[name], load=True), len(statics))


def test_importing_the_makers_imports_no_torch() -> None:
    code = (
        "import sys, aqvolt_flows.makers as m\n"
        "for name in m.__all__: getattr(m, name)\n"
        "heavy = {'torch', 'sevenn', 'chgnet', 'fairchem', 'sklearn', 'matplotlib', 'torch_sim', 'gpaw'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", [n for n in makers.__all__ if n not in {"CalculatorRecipe", "EachMaker"}])
def test_every_maker_is_one_in_jobflows_sense(name: str) -> None:
    """It subclasses Maker, its name works, it is written and read as JSON, its job has an output schema."""
    from jobflow import Maker

    kind = getattr(makers, name)
    maker = kind(name="mine")
    assert isinstance(maker, Maker)
    assert maker.name == "mine"
    again = json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder)
    assert type(again) is kind
    assert again.as_dict() == maker.as_dict()
    atoms = bulk("Ar", "fcc", a=5.26)
    if name in {"ForceBinsMaker", "TrainMaker"}:
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104)
        atoms.get_stress()
        job = maker.make([atoms]) if name == "TrainMaker" else maker.make([atoms], LennardJones())
    elif name in {"EVScanMaker", "StructureBenchmarkMaker"}:
        job = maker.make([atoms], LennardJones())
    else:
        job = maker.make(atoms)
    assert job.output_schema is not None
    assert job.name == "mine"


BAD = {
    "a path": ("POSCAR", "A path was given"),
    "a number": (3.0, "is a float; expected a pymatgen Structure or ASE Atoms"),
    "an empty list": ([], "empty|is a list"),
    "partial occupancy": (Structure(Lattice.cubic(4.0), [{"Li": 0.5}], [[0, 0, 0]]), "partly occupied site Li:0.5"),
    "no cell": (bulk("Ar").__class__("Ar2", positions=[[0, 0, 0], [0, 0, 3]]), "periodic in 0 of 3 directions"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize(
    "name",
    [
        *("NpTMDMaker", "AIMDMaker", "RelaxMaker", "R2scanStaticMaker"),
        *("GpawStaticMaker", "SurrogateStaticMaker", "EVScanMaker"),
    ],
)
def test_what_is_no_structure_is_refused_when_the_job_is_made(name: str, what: str) -> None:
    given, message = BAD[what]
    with pytest.raises(InputError, match=message):
        getattr(makers, name)().make(given)
