"""Forms of task documents: where they come from, how they are written, and what their numbers mean; damaged ones."""

from __future__ import annotations

import copy
import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vasp_forms import CELL, KBAR, MATPES, TITLES

from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import label_from_import
from aqvolt_flows.datasets.importers.published import Broken, Imported, ImportOptions, Skipped

OPTIONS = ImportOptions(source="mp")
STRUCTURE = {
    "lattice": {"matrix": CELL.tolist()},
    "sites": [
        {"species": [{"element": e, "occu": 1}], "abc": abc, "properties": {"magmom": 0.0}}
        for e, abc in (("Li", [0, 0, 0]), ("Cl", [0.5, 0.5, 0.5]))
    ],
}
ENERGIES = {"e_fr_energy": -9.25, "e_wo_entrp": -9.15, "e_0_energy": -9.20}
#: What VASP up to 6.0.8 prints of the ionic step of a metal.
OLD = {"e_fr_energy": -9.25, "e_wo_entrp": -9.20, "e_0_energy": 0.10}
STRESS = [[10.0, 1.0, 2.0], [1.004, 20.0, 3.0], [2.0, 3.0, 30.0]]


def task(version="6.4.1", ionic=ENERGIES, electronic=(ENERGIES,), **changes):
    """Return a task document of LiCl as emmet 0.8x writes it."""
    step = ionic | {"forces": [[0, 0, 0.1], [0, 0, -0.1]], "stress": STRESS, "structure": STRUCTURE}
    step["electronic_steps"] = list(electronic)
    calculation = {
        "vasp_version": version,
        "input": {
            "incar": dict(MATPES),
            "parameters": {"ENMAX": 680.0, "NELM": 200, "PREC": "accura", "GGA": "--", "LREAL": False},
            "kpoints": {"generation_style": "Gamma", "kpoints": [[10, 10, 10]]},
            "potcar_spec": [{"titel": title} for title in TITLES],
            "structure": STRUCTURE,
        },
        "output": {"energy": -9.20, "ionic_steps": [step], "bandgap": 5.0},
    }
    made = {"task_id": "mp-1", "state": "successful", "run_type": "r2SCAN", "structure": STRUCTURE}
    return copy.deepcopy(made | {"calcs_reversed": [calculation], "output": {"energy": -9.20}} | changes)


def entries(path, text, options=OPTIONS):
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(data)
    return list(read_labels(path, options))


def only(path, document, options=OPTIONS):
    (entry,) = entries(path, json.dumps(document), options)
    return entry


@pytest.mark.parametrize(
    ("document", "energy"),
    [
        (task(), -9.20),
        (task(ionic=OLD, version="5.4.4"), None),  # r2SCAN of 5.4.4 needs the option, see below
        # dispersion is in the ionic step alone; output.energy agrees
        (task(ionic=dict(ENERGIES)), -9.20),
        # emmet 0.8x leaves the electronic steps out: VASP 6.1 and later are right as they are
        (task(electronic=()), -9.20),
        # output.energy without entropy, as pymatgen before 2022.1 had it, is no contradiction
        (task(output={"energy": -9.15}), -9.20),
        # task documents of VASP 6.1.1 exchange the names in the ionic step
        (task(ionic={"e_fr_energy": -9.20, "e_wo_entrp": -9.25, "e_0_energy": -9.15}), -9.20),
    ],
)
def test_the_energy_is_that_of_the_last_electronic_step(tmp_path, document, energy):
    entry = only(tmp_path / "t.json", document)
    if energy is None:
        assert "knows r2SCAN only if it was patched" in entry.reason
        entry = only(tmp_path / "t.json", document, OPTIONS.model_copy(update={"patched_vasp": True}))
    label = label_from_import(entry, OPTIONS)
    assert label.energy == pytest.approx(-9.20 if energy is None else energy, abs=1e-9)
    assert label.stress[5] == pytest.approx(-1.002 / KBAR), "asymmetric by 0.004 kbar, as real ones are: the mean"


def test_old_versions_without_electronic_steps_have_output_energy(tmp_path):
    """pymatgen repaired output.energy when it had the electronic steps."""
    patched = OPTIONS.model_copy(update={"patched_vasp": True})
    entry = only(tmp_path / "t.json", task("5.4.4", ionic=OLD, electronic=()), patched)
    assert entry.outcome.energy == -9.20


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (task(output={"energy": -8.0}), "its output says -8.000000 eV, its last ionic step -9.200000 eV"),
        (task(ionic=OLD), "in the ionic step and"),
        (task(run_type="GGA"), "its run_type says GGA, its INCAR and POTCARs say r2SCAN"),
        (task(state="TaskState.FAILED"), "state is TaskState.FAILED"),
    ],
)
def test_what_contradicts_is_set_aside(tmp_path, document, said):
    assert said in only(tmp_path / "t.json", document).reason


@pytest.mark.parametrize(
    ("given", "parameters", "said"),
    [
        ({"ENCUT": 680}, {"ENMAX": 520.0}, "ENCUT 680.0 in INCAR, 520.0 used"),
        ({}, {"KPOINTS": [[6, 6, 6]]}, "k-points 10×10×10 (KSPACING 0.22) in INCAR, 6×6×6 used"),
        ({"ICHARG": 11}, {}, "not self-consistent"),
        ({"LDAU": True, "LDAUU": [0, 5]}, {}, "say r2SCAN+U"),
    ],
)
def test_what_vasp_used_is_compared(tmp_path, given, parameters, said):
    document = task()
    settings_ = document["calcs_reversed"][0]["input"]
    settings_["incar"] |= given
    settings_["kpoints"]["kpoints"] = parameters.pop("KPOINTS", settings_["kpoints"]["kpoints"])
    settings_["parameters"] |= parameters
    assert said in only(tmp_path / "t.json", document).reason


def test_every_way_to_write_documents_is_read(tmp_path):
    one, two = task(), task(task_id="mp-2")
    bare = {k: v for k, v in one.items() if k != "task_id"}
    texts = {
        "one.json": (json.dumps(one), 1),
        "indented.json": (json.dumps(one, indent=2), 1),
        "indented list.json": (json.dumps([one, two], indent=2), 2),
        "lines.jsonl": (json.dumps(one) + "\n" + json.dumps(two) + "\n", 2),
        "one after the other.json": (json.dumps(one, indent=2) + "\n" + json.dumps(two, indent=1) + "\n", 2),
        "mapping.json": (json.dumps({"a": one, "b": two}), 2),
        "indented mapping.json": (json.dumps({"a": one, "b": two}, indent=4), 2),
        "job store.json": (json.dumps({"uuid": "u-1", "index": 1, "metadata": {}, "output": bare}, indent=1), 1),
        "no identity.json": (json.dumps([bare]), 1),
    }
    for name, (text, count) in texts.items():
        found = entries(tmp_path / name, text)
        assert [type(e) for e in found] == [Imported] * count, name
        zipped = entries(tmp_path / f"{name}.gz", gzip.compress(text.encode()))
        assert [e.outcome for e in zipped] == [e.outcome for e in found]
    assert entries(tmp_path / "u.json", texts["job store.json"][0])[0].outcome.frame_id == "mp-task-u-1"


def test_a_task_without_identity_has_that_of_its_numbers(tmp_path):
    bare = {k: v for k, v in task().items() if k != "task_id"}
    first, again = (only(tmp_path / f"{n}.json", bare).outcome for n in "ab")
    other = only(tmp_path / "c.json", {**bare, "dir_name": "elsewhere"}).outcome
    assert first.frame_id == again.frame_id == other.frame_id
    moved = copy.deepcopy(bare)
    moved["calcs_reversed"][0]["output"]["ionic_steps"][0]["forces"] = [[0, 0, 0.2], [0, 0, -0.2]]
    assert only(tmp_path / "d.json", moved).outcome.frame_id != first.frame_id


def test_enums_identifiers_and_arrays_as_monty_writes_them(tmp_path):
    document = task(
        run_type={"@module": "emmet.core.vasp.calc_types.enums", "@class": "RunType", "value": "r2SCAN"},
        state={"@module": "emmet.core.vasp.calculation", "@class": "TaskState", "value": "successful"},
        task_id={"@module": "emmet.core.mpid", "@class": "MPID", "string": "mp-7"},
    )
    step = document["calcs_reversed"][0]["output"]["ionic_steps"][0]
    step["forces"] = {"@module": "numpy", "@class": "array", "dtype": "float64", "data": step["forces"]}
    entry = only(tmp_path / "t.json", document)
    assert entry.outcome.frame_id == "mp-task-mp-7"
    assert entry.provenance["run_type"] == "r2SCAN"
    np.testing.assert_allclose(entry.outcome.forces, [[0, 0, 0.1], [0, 0, -0.1]])


def test_other_functionals_are_skipped_by_all_that_they_say(tmp_path):
    pbe = task(run_type="None")
    del pbe["calcs_reversed"][0]["input"]["incar"]["METAGGA"]
    assert only(tmp_path / "t.json", pbe) == Skipped("other_functional")
    told = label_from_import(only(tmp_path / "t.json", pbe, ImportOptions(source="mp", functional=None)), OPTIONS)
    assert told.protocol_name == "external:PBE@MP"


TEXT = json.dumps([task(), task(task_id="mp-2"), task(task_id="mp-3")])
SECOND = TEXT.index('{"task_id": "mp-2"')
THIRD = TEXT.index(', {"task_id": "mp-3"')
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=4), x, max_size=2),
    max_leaves=4,
)


def places(value, path=()):
    """Yield the path of everything in a document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = list(places(task()))


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.floats(0, 1), st.integers(0, 200), st.text(max_size=6) | st.sampled_from(["NaN", "null", "{", '"', "]"]))
def test_damaged_text_costs_no_other_document(tmp_path_factory, place, cut, put):
    at = SECOND + int(place * (THIRD - SECOND))
    text = TEXT[:at] + put + TEXT[min(at + cut, THIRD) :]
    found = entries(tmp_path_factory.getbasetemp() / "damaged.json", text.encode("utf-8", "surrogatepass"))
    assert all(isinstance(e, Imported | Broken | Skipped) for e in found)
    good = [e.outcome.frame_id for e in found if isinstance(e, Imported)]
    assert "mp-task-mp-1" in good
    assert "mp-task-mp-3" in good


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_in_any_place_is_a_label_or_a_reason(tmp_path_factory, path, value):
    document = task(task_id="mp-2")
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    text = json.dumps([task(), document, task(task_id="mp-3")])
    found = entries(tmp_path_factory.getbasetemp() / "value.json", text.encode("utf-8", "surrogatepass"))
    assert [type(e) for e in (found[0], found[2])] == [Imported, Imported]
    if isinstance(found[1], Imported):
        assert label_from_import(found[1], OPTIONS).status in ("valid", "rejected")
    else:
        assert isinstance(found[1], Skipped) or found[1].reason
