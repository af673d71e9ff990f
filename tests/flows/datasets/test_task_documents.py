"""Materials Project tasks: a task document that emmet makes of a real VASP 6.4.1 run (GaAs, r2SCAN, MP24 settings)."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from pymatgen.io.vasp.outputs import Vasprun

from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import label_from_import
from aqvolt_flows.datasets.importers.published import ImportOptions, Skipped
from aqvolt_flows.datasets.importers.tasks import LANTHANIDES, MP_POTCARS, conflicting, is_task, outcome_of_task
from aqvolt_flows.datasets.labels import label_from_outcome
from aqvolt_flows.errors import InputError
from aqvolt_flows.vasp.settings import potcar_symbol, r2scan_protocol

GAAS = Path(__file__).parents[1] / "vasp" / "gaas_r2scan_static"


def only(path, made, options):
    path.write_text(json.dumps([made]))
    (entry,) = read_labels(path, options)
    return entry


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A task document that emmet makes of the real GaAs run (its geometry files are rebuilt from vasprun.xml)."""
    tasks = pytest.importorskip("emmet.core.tasks")
    folder = tmp_path_factory.mktemp("gaas")
    for file in GAAS.iterdir():
        shutil.copy(file, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = Vasprun(folder / "vasprun.xml.gz", parse_potcar_file=False, parse_dos=False).final_structure
        for name in ("POSCAR", "CONTCAR"):
            structure.to(filename=str(folder / name), fmt="poscar")
        made = tasks.TaskDoc.from_directory(folder, store_additional_json=False)
        return json.loads(made.model_dump_json()) | {"task_id": "mp-1"}


def test_the_real_gaas_task_keeps_its_own_protocol(tmp_path, task):
    options = ImportOptions(source="mp")
    label = label_from_import(only(tmp_path / "t.json", task, options), options)
    assert label.energy == -27.04397986  # OUTCAR
    assert label.pressure_gpa == pytest.approx(2.887409, abs=1e-5)  # OUTCAR: 28.87 kB
    assert (label.protocol_name, label.formula) == ("external:r2SCAN@MP", "GaAs")
    assert label.provenance["settings"] == {"ENCUT": 680.0, "ISMEAR": -5.0, "SIGMA": 0.05, "KSPACING": 0.22}
    assert label.protocol.version == "6.4.1"


def rerun(task, parameters=None, **incar):
    """Return the task as if VASP had run with other tags, and used them; None removes a tag."""
    other = json.loads(json.dumps(task))
    given = other["calcs_reversed"][0]["input"]
    given["incar"] = {k: v for k, v in (given["incar"] | incar).items() if v is not None}
    given["parameters"] |= parameters or {}
    return other


def test_pbe_low_cutoff_and_unconverged_tasks_do_not_enter(tmp_path, task):
    options = ImportOptions(source="mp")
    pbe = rerun(task, {"METAGGA": None}, METAGGA=None) | {"run_type": "PBE"}
    assert only(tmp_path / "a.json", pbe, options) == Skipped("other_functional")
    soft = rerun(task, {"ENMAX": 520.0}, ENCUT=520)
    assert "ENCUT is 520 eV" in only(tmp_path / "b.json", soft, options).reason
    lost = json.loads(json.dumps(task))
    lost["calcs_reversed"][0]["input"]["incar"]["NELM"] = 12  # it took 12 steps
    assert "12 electronic steps of 12" in only(tmp_path / "c.json", lost, options).reason
    assert "summary" in only(tmp_path / "d.json", {"material_id": "mp-1", "structure": {}}, options).reason


def test_conflicting_pseudopotentials_are_those_of_pymatgens_two_sets():
    from pymatgen.io.vasp.sets import MPScanRelaxSet

    theirs = MPScanRelaxSet.CONFIG["POTCAR"]
    differing = set()
    for element, symbol in theirs.items():
        try:
            differing |= {element} if potcar_symbol(element) != symbol else set()
        except InputError:
            continue
    assert differing == set(MP_POTCARS)
    assert {e: theirs[e] for e in MP_POTCARS} == MP_POTCARS
    assert {e for e in differing if conflicting({}, [e], "lanthanides")} == differing & LANTHANIDES
    assert all(conflicting({}, [e], "all") and not conflicting({}, [e], "none") for e in differing)
    named = {"input": {"potcar_spec": [{"titel": "PAW_PBE Yb_h 06Sep2000"}]}}
    assert not conflicting(named, ["Yb"], "all"), "what a task names counts, not what its set would"


def test_a_job_of_atomate2_is_judged_by_what_is_declared(task):
    assert is_task(task)
    assert not is_task({"frame_id": "x", "energy": 1.0})
    outcome = outcome_of_task(task, "task-1", r2scan_protocol())
    label = label_from_outcome(outcome, None, "uuid")
    assert (outcome.energy, label.status, label.failure.reason) == (-27.04397986, "rejected", "wrong_protocol")
    assert "ISMEAR: 0.0 declared, -5.0 ran" in label.failure.message
    theirs = rerun(task, {"ISMEAR": 0}, ENAUG=None, ISMEAR=0)
    good = label_from_outcome(outcome_of_task(theirs, "task-1", r2scan_protocol()), None, "uuid")
    assert (good.status, good.energy, good.protocol_id) == ("valid", -27.04397986, r2scan_protocol().protocol_id)
    plain = rerun(theirs, {"METAGGA": None}, METAGGA=None)
    pbe = label_from_outcome(outcome_of_task(plain, "task-1", r2scan_protocol()), None, "uuid")
    assert pbe.failure.reason == "wrong_functional"
    broken = outcome_of_task({"calcs_reversed": [{}]}, "task-2", r2scan_protocol())
    assert (broken.status, broken.failure.reason) == ("bad_output", "bad_outcome")
