"""What every labeler promises, whatever computes: forces, stress sign, key, schema, idempotence."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt

from aqvolt_flows.frames import Frame
from aqvolt_flows.labeling.labelers import labeler_maker, protocol_for
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.units import pressure_gpa

pytestmark = [*VASP_WARNINGS]
NEEDS_GPAW = pytest.mark.skipif(importlib.util.find_spec("gpaw") is None, reason="GPAW is not installed")
#: Distributions build libxc with it; GPAW warns that some SCFs converge badly then.
LIBXC = pytest.mark.filterwarnings("ignore:libxc should be compiled with --disable-fhc:UserWarning")
#: Small and loose: these tests are about the promises, GPAW keeps them at any cutoff that its stress allows.
GPAW = {"gpaw_ecut_ev": 340.0, "gpaw_kspacing": 0.9}

LABELERS = [
    pytest.param(LabelingParameters(labeler="surrogate", surrogate="chgnet/r2scan"), id="chgnet"),
    pytest.param(LabelingParameters(labeler="surrogate", surrogate="7net-mf-0/R2SCAN"), id="sevennet"),
    pytest.param(LabelingParameters(labeler="vasp"), id="vasp"),
    pytest.param(LabelingParameters(labeler="gpaw", **GPAW), id="gpaw", marks=[pytest.mark.gpaw, NEEDS_GPAW, LIBXC]),
]


@pytest.fixture(params=LABELERS)
def label(request: pytest.FixtureRequest, stand_in):
    """Return a function that labels a frame by identity with one of the labelers."""
    parameters: LabelingParameters = request.param

    def run(frame_id: str) -> LabelOutcome:
        maker = labeler_maker(parameters)
        if parameters.labeler == "vasp":
            maker = maker.update_kwargs({"polling_s": 0.05}, class_filter=R2scanStaticMaker)
        output = type(maker).make.original(maker, frame_id, label_key(frame_id, protocol_for(parameters)))
        assert json.loads(json.dumps(output)) == output, "the output is plain JSON"
        return LabelOutcome.model_validate(output)

    run.protocol = protocol_for(parameters)
    return run


def displaced(frame: Frame, atom: int, axis: int, by: float) -> Frame:
    positions = frame.positions.copy()
    positions[atom, axis] += by
    return replace(frame, positions=positions)


def strained(frame: Frame, strain: np.ndarray) -> Frame:
    deform = np.eye(3) + strain
    return replace(
        frame, positions=(frame.positions @ deform).astype(np.float32), cell=(frame.cell @ deform).astype(np.float32)
    )


def test_outcome_is_the_frame_at_the_promised_protocol(label, store_frames: StoreFrames):
    frame = rock_salt(5.1, rattle=0.1)
    (frame_id,) = store_frames([frame])
    first, second = label(frame_id), label(frame_id)
    assert first.failure is None
    assert first.status == "converged"
    assert (first.frame_id, first.key) == (frame_id, label_key(frame_id, label.protocol))
    assert first.protocol.protocol_id == label.protocol.protocol_id
    assert first.atomic_numbers == [3, 17]
    shift = (np.array(first.positions) - frame.positions) @ np.linalg.inv(frame.cell)
    assert np.abs(shift - np.round(shift)).max() < 1e-6
    assert np.shape(first.forces) == (2, 3)
    assert np.shape(first.stress) == (6,)
    volatile = {"cost_core_hours", "details", "raw"}
    assert first.model_dump(exclude=volatile) == second.model_dump(exclude=volatile)


def test_forces_are_minus_the_slope_of_the_energy(label, store_frames: StoreFrames):
    """Central difference over ±0.01 Å; its error falls with the square of the step, here a few 10⁻³ eV/Å."""
    frame, step = rock_salt(5.1, rattle=0.1, seed=3), 0.01
    centre, plus, minus = store_frames([frame, displaced(frame, 1, 0, step), displaced(frame, 1, 0, -step)])
    slope = (label(plus).energy - label(minus).energy) / (2 * step)
    force = label(centre).forces[1][0]
    assert abs(force) > 0.02
    assert force == pytest.approx(-slope, abs=5e-3)


def test_stress_is_the_slope_of_the_energy_with_strain(label, store_frames: StoreFrames):
    """σ_xx = dE/dε_xx / V, over ±0.5 %; positive when stretched (ASE's sign)."""
    frame, step = rock_salt(5.6), 0.005
    strain = np.diag([step, 0, 0])
    centre, plus, minus = store_frames([frame, strained(frame, strain), strained(frame, -strain)])
    slope = (label(plus).energy - label(minus).energy) / (2 * step) / frame.volume
    assert slope > 0
    assert label(centre).stress[0] == pytest.approx(slope, rel=0.05, abs=5e-4)


def test_compressed_licl_pushes_and_stretched_licl_pulls(label, store_frames: StoreFrames):
    """The experimental lattice constant is 5.13 Å; 4.7 and 5.7 Å are far on either side for any potential."""
    small, large = store_frames([rock_salt(4.7), rock_salt(5.7)])
    assert pressure_gpa(label(small).stress) > 1
    assert pressure_gpa(label(large).stress) < -0.5


def test_a_frame_that_is_not_there_is_a_failed_outcome(label, database):
    outcome = label("frame-none")
    assert (outcome.status, outcome.failure.reason) == ("failed", "missing_frame")
    assert outcome.protocol.protocol_id == label.protocol.protocol_id
