from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from fake_vasp.fixtures import StoreFrames, rock_salt

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.labeling.gpaw import GpawStaticMaker, kpoint_grid, missing_setups
from aqvolt_flows.labeling.labelers import check_labeler
from aqvolt_flows.labeling.protocols import gpaw_protocol, label_key
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.vasp.settings import element_moment

ABSENT = importlib.util.find_spec("gpaw") is None


def test_kpoint_grid_follows_vasps_rule():
    """VASP 6.4.1 wrote a 9 × 9 × 9 mesh for KSPACING 0.22 and this GaAs cell (a = 5.6 Å; a real vasprun.xml)."""
    gaas = np.array([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]])
    assert kpoint_grid(gaas, 0.22) == (9, 9, 9)
    assert kpoint_grid(np.diag([10.0, 5.0, 100.0]), 0.22) == (3, 6, 1)


def test_moments_are_those_of_matpes():
    assert (element_moment("Mn"), element_moment("Fe"), element_moment("Li")) == (5, 5, 0)


@pytest.mark.skipif(not ABSENT, reason="GPAW is installed")
def test_without_gpaw_the_outcome_says_so(store_frames: StoreFrames):
    (frame_id,) = store_frames([rock_salt()])
    maker = GpawStaticMaker()
    key = label_key(frame_id, gpaw_protocol(maker.ecut_ev, maker.kspacing))
    outcome = LabelOutcome.model_validate(GpawStaticMaker.make.original(maker, frame_id, key))
    assert (outcome.status, outcome.failure.reason) == ("failed", "missing_gpaw")


@pytest.mark.gpaw
@pytest.mark.skipif(ABSENT, reason="GPAW is not installed")
def test_an_element_without_a_dataset_is_named_before_anything_runs(store_frames: StoreFrames):
    """gpaw-data has no uranium."""
    assert missing_setups(["Li", "U", "Cl"]) == ["U"]
    frame = rock_salt()
    frame = replace(frame, atomic_numbers=np.array([3, 92], np.int16))
    (frame_id,) = store_frames([frame])
    maker = GpawStaticMaker(ecut_ev=340.0, kspacing=0.9)
    outcome = LabelOutcome.model_validate(
        GpawStaticMaker.make.original(maker, frame_id, label_key(frame_id, gpaw_protocol(340.0, 0.9)))
    )
    assert (outcome.status, outcome.failure.reason) == ("failed", "missing_setup")
    with pytest.raises(ResourceError, match="no PAW dataset for U"):
        check_labeler(LabelingParameters(labeler="gpaw"), ["U"])


@pytest.mark.gpaw
@pytest.mark.skipif(ABSENT, reason="GPAW is not installed")
@pytest.mark.filterwarnings("ignore:libxc should be compiled with --disable-fhc:UserWarning")
def test_licl_by_real_r2scan_and_its_text_is_kept(store_frames: StoreFrames, database):
    """Rock salt: forces vanish by symmetry. −12.2 eV is what GPAW 26.7 with libxc 5.2 gave, on its own reference."""
    (frame_id,) = store_frames([rock_salt(5.1)])
    maker = GpawStaticMaker(ecut_ev=340.0, kspacing=0.9)
    key = label_key(frame_id, gpaw_protocol(340.0, 0.9))
    outcome = LabelOutcome.model_validate(GpawStaticMaker.make.original(maker, frame_id, key))
    assert outcome.failure is None
    assert outcome.protocol.name.startswith("gpaw:r2SCAN@")
    assert np.abs(outcome.forces).max() < 5e-3
    assert outcome.energy == pytest.approx(-12.2, abs=0.1)
    text = database.artifacts.local_path(outcome.raw).read_text()
    assert "MGGA_X_R2SCAN+MGGA_C_R2SCAN" in text
