"""Folders of VASP runs: what becomes a label, under which protocol, and what is set aside with its reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vasp_forms import KBAR, MATPES, VASP_KBAR, VOLUME, Form, oszicar, outcar, vasprun, write_run

from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import import_labels, label_from_import
from aqvolt_flows.datasets.importers.published import Broken, Imported, ImportOptions, Skipped
from aqvolt_flows.errors import InputError
from aqvolt_flows.vasp.settings import r2scan_protocol

GAAS = Path(__file__).parents[1] / "vasp" / "gaas_r2scan_static"
OPTIONS = ImportOptions(source="vasp", dataset="mine")
ANY = OPTIONS.model_copy(update={"functional": None})
PBE = {k: v for k, v in MATPES.items() if k != "METAGGA"}
MD = PBE | {"NSW": 4, "IBRION": 0, "TEBEG": 600.0, "TEEND": 600.0, "PSTRESS": 5.0}


def read(root, options=ANY):
    return list(read_labels(root, options))


def labels(root, options=ANY):
    return [label_from_import(e, options) for e in read(root, options) if isinstance(e, Imported)]


def reasons(root, options=ANY):
    return [e.reason for e in read(root, options) if isinstance(e, Broken)]


def test_the_real_run_is_what_ase_reads_of_it():
    (label,) = labels(GAAS)
    atoms = ase.io.read(GAAS / "vasprun.xml.gz", format="vasp-xml")
    assert (label.status, label.energy) == ("valid", atoms.get_potential_energy())
    np.testing.assert_allclose(label.forces, atoms.get_forces())
    np.testing.assert_allclose(label.stress, atoms.get_stress(), atol=1e-9)
    np.testing.assert_allclose(label.positions, atoms.positions, atol=1e-12)
    assert label.protocol.functional == "r2SCAN"
    assert label.protocol_id != r2scan_protocol().protocol_id, "it ran with ISMEAR −5 and ENAUG 1360"
    assert label.bandgap == pytest.approx(5.1812 - 3.9533, abs=1e-4)
    assert label.magmoms == [0.0, 0.0]
    assert label.provenance["run"] == "static"
    assert label.provenance["potcars"] == ["PAW_PBE Ga_d 06Jul2010", "PAW_PBE As 22Sep2009"]


def test_a_run_of_matpes_settings_is_of_our_own_protocol(tmp_path):
    write_run(tmp_path / "a", Form())
    write_run(tmp_path / "b" / "c", Form(free=-9.35, zero=-9.30), zipped=True)
    found = labels(tmp_path, OPTIONS)
    assert [label.energy for label in found] == [-9.20, -9.30]
    assert {label.protocol_id for label in found} == {r2scan_protocol().protocol_id}
    assert [label.provenance["record_id"] for label in found] == ["a/vasprun.xml#1", "b/c/vasprun.xml.gz#1"]


def test_statics_relaxations_and_md_each_give_their_steps(tmp_path):
    write_run(tmp_path / "1 static", Form(incar=PBE))
    write_run(tmp_path / "2 relaxation", Form(incar=PBE | {"NSW": 99, "IBRION": 2, "EDIFFG": -0.02}, steps=3))
    md = Form(incar=MD, steps=4)
    write_run(tmp_path / "3 md", md, OSZICAR=oszicar(md, ["600.", "******", "580.", "610."]))
    found = labels(tmp_path)
    assert [label.provenance["run"] for label in found] == ["static"] + ["relaxation"] * 3 + ["aimd"] * 4
    assert len({label.protocol_id for label in found}) == 1, "how atoms move is no part of the level"
    assert [label.temperature_k for label in found] == [None] * 4 + [600.0] * 4
    told = [label.provenance.get("temperature_of_step_k") for label in found[4:]]
    assert told == [600.0, None, 580.0, 610.0]
    np.testing.assert_allclose([label.energy for label in found[4:]], [-9.20, -9.199, -9.198, -9.197], atol=1e-9)
    assert found[6].stress[2] == pytest.approx(-32.0 / KBAR)
    thinned = labels(tmp_path, ANY.model_copy(update={"stride": 3}))
    assert [label.provenance["record"] for label in thinned if label.provenance["run"] == "aimd"] == [1, 4]


def test_the_enthalpy_of_a_run_under_pressure_is_no_energy(tmp_path):
    """PSTRESS adds P·V to the ionic energy and is taken off the stress; OUTCAR keeps both apart."""
    work = 5.0 * VOLUME / VASP_KBAR
    form = Form(incar=MD, ionic={"e_fr_energy": -9.25 + work, "e_wo_entrp": -9.15 + work, "e_0_energy": -9.20 + work})
    write_run(tmp_path, form)
    (label,) = labels(tmp_path)
    assert label.energy == pytest.approx(-9.20, abs=1e-7)
    assert label.stress[:3] == pytest.approx([-10 / KBAR, -20 / KBAR, -30 / KBAR])
    (tmp_path / "OUTCAR").unlink()
    assert "do not tell whether its stresses hold P (5 kbar)" in reasons(tmp_path)[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PBE, PBE | {"ENCUT": 520.0}),
        (PBE, PBE | {"SIGMA": 0.2}),
        (PBE, PBE | {"GGA": "PS"}),
        (PBE, PBE | {"LDAU": True, "LDAUU": [3.0, 0.0], "LDAUL": [2, -1], "LDAUJ": [0.0, 0.0]}),
    ],
)
def test_another_level_is_another_protocol(tmp_path, one, other):
    write_run(tmp_path / "a", Form(incar=one))
    write_run(tmp_path / "b", Form(incar=other))
    first, second = labels(tmp_path)
    assert first.protocol_id != second.protocol_id


def test_what_was_used_decides_and_not_what_incar_says(tmp_path):
    """A KPOINTS file overrules KSPACING; other POTCARs of the same functional are another level, too."""
    write_run(tmp_path / "a", Form(mesh=(6, 6, 6)))
    write_run(tmp_path / "b", Form(titles=("PAW_PBE Li 17Jan2003", "PAW_PBE Cl 06Sep2000")))
    write_run(tmp_path / "c", Form())
    a, b, c = labels(tmp_path)
    assert len({label.protocol_id for label in (a, b, c)}) == 3
    # 2π·0.33759/6 = 0.354, the next tenth is 0.4
    assert a.provenance["settings"]["KPOINTS"] == "Gamma, at most 0.4/Å"
    assert "KSPACING" not in a.provenance["settings"]


def test_outcar_alone_is_enough_and_a_run_is_read_once(tmp_path):
    write_run(tmp_path / "a", Form(incar=PBE), vasprun__xml=None)
    write_run(tmp_path / "b", Form(incar=PBE, steps=2), vasprun__xml="<modeling>")
    (tmp_path / "c").mkdir()
    for tag in (".relax1", ".relax2"):
        (tmp_path / "c" / f"vasprun.xml{tag}").write_text(vasprun(Form(incar=PBE, zero=-9.21)))
        (tmp_path / "c" / f"OUTCAR{tag}").write_text(outcar(Form(incar=PBE, zero=-9.21)))
    found = labels(tmp_path)
    assert [label.provenance["file"] for label in found] == [
        "a/OUTCAR", "b/vasprun.xml", "b/vasprun.xml", "c/vasprun.xml.relax1", "c/vasprun.xml.relax2"
    ]  # fmt: skip
    assert [label.energy for label in found] == pytest.approx([-9.20, -9.20, -9.199, -9.21, -9.21])
    assert found[3].label_id == found[4].label_id, "the same numbers are the same label, wherever they lie"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (Form(incar=PBE | {"ICHARG": 11}), "ICHARG = 11 keeps a given charge density"),
        (Form(incar=PBE | {"ALGO": "Eigenval"}), "does not search the ground state"),
        (Form(incar=PBE | {"ML_LMLFF": True}), "machine-learned force field"),
        (Form(incar=PBE | {"SPRING": -5.0}), "nudged elastic band"),
        (Form(incar=PBE, stress=False), "no stress"),
        (Form(incar=PBE, forces=False), "no forces"),
        (Form(incar=PBE, scf=200), "its SCF took 200 steps, as many as NELM allows"),
        (Form("6.1.1"), "expected 6.2.0 or later, or --patched-vasp"),
        (Form(titles=("PAW Li 17Jan2003", "PAW Cl 06Sep2000")), "its POTCARs are of LDA"),
        (Form(incar=PBE, ionic={"e_fr_energy": -9.0, "e_wo_entrp": -9.0, "e_0_energy": -9.0}), "INCAR names nothing"),
    ],
)
def test_what_is_no_label_is_set_aside_and_the_good_run_beside_it_goes_in(tmp_path, form, said):
    write_run(tmp_path / "a", form, OUTCAR=None, OSZICAR=None)
    write_run(tmp_path / "b", Form())
    (reason,) = reasons(tmp_path)
    assert said in reason
    assert [label.energy for label in labels(tmp_path)] == [-9.20]


def test_files_of_another_run_are_noticed(tmp_path):
    write_run(tmp_path, Form(incar=PBE), OSZICAR=oszicar(Form(free=-8.0)))
    assert "F is -9.250000 eV in vasprun.xml and -8.000000 eV in OSZICAR" in reasons(tmp_path)[0]


def test_a_stopcar_in_the_last_step_costs_that_step(tmp_path):
    form = Form(incar=MD, steps=3)
    write_run(tmp_path, form, OUTCAR=outcar(form, foot=False) + " hard stop encountered!  aborting job ...\n")
    assert len(labels(tmp_path)) == 2
    assert "STOPCAR" in reasons(tmp_path)[0]


def test_patched_versions_and_other_functionals_are_asked_for(tmp_path):
    write_run(tmp_path / "a", Form("6.1.1"))
    write_run(tmp_path / "b", Form(incar=PBE))
    patched = OPTIONS.model_copy(update={"patched_vasp": True})
    assert [e if isinstance(e, Skipped) else type(e) for e in read(tmp_path, patched)] == [
        Imported, Skipped("other_functional")
    ]  # fmt: skip


def test_a_second_import_adds_nothing_and_the_quarantine_counts(tmp_path, database):
    write_run(tmp_path / "runs" / "a", Form(incar=PBE | {"NSW": 9, "IBRION": 2}, steps=3))
    write_run(tmp_path / "runs" / "b", Form(incar=PBE | {"ICHARG": 11}))
    aside = tmp_path / "q.jsonl"
    reports = [import_labels(database, read_labels(tmp_path / "runs", ANY), ANY, aside) for _ in range(2)]
    assert [(r.read, r.labels, r.new, r.quarantined) for r in reports] == [(4, 3, 3, 1), (4, 3, 0, 1)]
    told = json.loads(aside.read_text())
    assert (told["file"], told["record"]) == ("b/vasprun.xml", 0)
    assert "ICHARG" in told["reason"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        read(tmp_path / "none")
    assert read(tmp_path) == []


TEXT = vasprun(Form(incar=PBE, steps=2, scf=3)).encode()
DAMAGE = st.tuples(
    st.floats(0, 1), st.integers(0, 300), st.binary(max_size=10) | st.sampled_from([b"*****", b"NaN", b"-"])
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(DAMAGE)
def test_a_damaged_run_costs_no_other(tmp_path_factory, damage):
    root = tmp_path_factory.mktemp("runs")
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        (root / name / "vasprun.xml").write_bytes(TEXT)
    at = int(damage[0] * len(TEXT))
    (root / "b" / "vasprun.xml").write_bytes(TEXT[:at] + damage[2] + TEXT[at + damage[1] :])
    found = [label_from_import(e, ANY) for e in read(root) if isinstance(e, Imported)]
    assert sum(label.provenance["file"][0] in "ac" for label in found) == 4
    assert all(label.status in ("valid", "rejected") for label in found)
    shutil.rmtree(root)
