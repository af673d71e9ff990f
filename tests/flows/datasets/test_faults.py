"""Protocol as declared: what VASP really ran decides. The GaAs static is a real VASP 6.4.1 calculation."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqvolt_flows.datasets.faults import protocol_fault
from aqvolt_flows.datasets.labels import label_from_outcome
from aqvolt_flows.labeling.vasp import outcome_from_directory
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.vasp.settings import r2scan_protocol, static_incar

GAAS = Path(__file__).parents[1] / "vasp" / "gaas_r2scan_static"


def outcome(incar_updates=None, protocol=None, **details):
    incar = static_incar() | (incar_updates or {})
    return LabelOutcome(
        frame_id="frame-1",
        key="",
        status="converged",
        protocol=protocol or r2scan_protocol(),
        details={"incar": {k: v for k, v in incar.items() if v is not None}} | details,
    )


def test_the_real_gaas_static_is_read_and_refused_for_its_smearing():
    # OUTCAR says -27.04397986 eV; it ran the Materials Project's settings: tetrahedra (ISMEAR -5) and ENAUG 1360
    read = outcome_from_directory(GAAS, "frame-gaas", "key", r2scan_protocol())
    assert (read.status, read.energy) == ("converged", -27.04397986)
    label = label_from_outcome(read, None, "uuid")
    assert (label.status, label.failure.reason) == ("rejected", "wrong_protocol")
    assert "ISMEAR: 0.0 declared, -5.0 ran" in label.failure.message
    assert "ENAUG: None declared, 1360.0 ran" in label.failure.message


@pytest.mark.parametrize(
    ("updates", "reason"),
    [
        ({"METAGGA": None}, "wrong_functional"),  # PBE
        ({"METAGGA": "SCAN"}, "wrong_functional"),
        ({"ENCUT": 520}, "low_cutoff"),
        ({"ENCUT": None}, "low_cutoff"),
        ({"KSPACING": 0.5}, "wrong_protocol"),
        ({"ALGO": "Fast", "NELM": 100, "NCORE": 4, "LWAVE": True}, None),  # how, not what
        ({"ENCUT": 680, "METAGGA": "r2scan"}, None),
    ],
)
def test_what_ran_must_be_what_is_declared(updates, reason):
    fault = protocol_fault(outcome(updates))
    assert (fault.reason if fault else None) == reason


def test_a_campaigns_own_tags_are_declared_and_not_refused():
    assert protocol_fault(outcome({"ENAUG": 1360}, protocol=r2scan_protocol({"ENAUG": 1360}))) is None
    assert protocol_fault(outcome(protocol=r2scan_protocol({"ENAUG": 1360}))).reason == "wrong_protocol"


def test_pseudopotentials_are_matpes():
    assert protocol_fault(outcome(potcar_titles=["PAW_PBE Li_sv 10Sep2004", "PAW_PBE Cl 06Sep2000"])) is None
    wrong = protocol_fault(outcome(potcar_titles=["PAW_PBE Yb_3 08Jul2013"]))
    assert wrong.reason == "wrong_potcar"
    assert "Yb_3; the protocol declares Yb_h" in wrong.message
