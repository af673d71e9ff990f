from __future__ import annotations

import numpy as np
import pytest
from fake_vasp.fixtures import StoreFrames, rock_salt

from aqvolt_flows.errors import DatabaseError
from aqvolt_flows.labeling.protocols import label_key, surrogate_protocol
from aqvolt_flows.labeling.surrogate import SurrogateStaticMaker
from aqvolt_flows.schemas.label import LabelOutcome

PROTOCOL = surrogate_protocol("chgnet/r2scan")


def run(maker, frame_id: str, key: str) -> LabelOutcome:
    return LabelOutcome.model_validate(type(maker).make.original(maker, frame_id, key))


def test_licl_has_the_energy_that_chgnet_itself_gives(store_frames: StoreFrames):
    """CHGNet r2SCAN gives −12.5816 eV for LiCl (2 atoms) at 5.10 Å: an independent run of its own calculator."""
    (frame_id,) = store_frames([rock_salt(5.10)])
    outcome = run(SurrogateStaticMaker(), frame_id, label_key(frame_id, PROTOCOL))
    assert outcome.failure is None
    assert outcome.status == "converged"
    assert outcome.energy == pytest.approx(-12.5816, abs=2e-3)
    assert outcome.atomic_numbers == [3, 17]
    assert outcome.protocol.name.startswith("surrogate:chgnet/r2scan@8eba3db0f35a")
    assert outcome.cost_core_hours > 0
    assert np.allclose(outcome.positions, rock_salt(5.10).positions)


def test_missing_frame_and_foreign_key_are_failed_outcomes(store_frames: StoreFrames):
    outcome = run(SurrogateStaticMaker(), "frame-none", label_key("frame-none", PROTOCOL))
    assert (outcome.status, outcome.failure.reason) == ("failed", "missing_frame")
    (frame_id,) = store_frames([rock_salt()])
    outcome = run(SurrogateStaticMaker(), frame_id, "0" * 24)
    assert (outcome.status, outcome.failure.reason) == ("failed", "key_mismatch")


def test_lost_artifact_is_a_failed_outcome(store_frames: StoreFrames, database):
    (frame_id,) = store_frames([rock_salt()])
    from aqvolt_flows.schemas.provenance import ArtifactRef

    artifact = ArtifactRef(**database["frames"].find_one({"frame_id": frame_id})["artifact"])
    database.artifacts.local_path(artifact).unlink()
    outcome = run(SurrogateStaticMaker(), frame_id, label_key(frame_id, PROTOCOL))
    assert (outcome.status, outcome.failure.reason) == ("failed", "missing_artifact")


def test_a_database_that_is_away_is_an_error_and_no_outcome(project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AQVOLT_MONGO_URI", "mongodb://127.0.0.1:1/")
    monkeypatch.setenv("AQVOLT_TIMEOUT_S", "0.3")
    with pytest.raises(DatabaseError, match="No MongoDB answers"):
        run(SurrogateStaticMaker(), "frame-x", label_key("frame-x", PROTOCOL))


def test_what_the_potential_raises_becomes_the_reason(store_frames: StoreFrames, monkeypatch: pytest.MonkeyPatch):
    (frame_id,) = store_frames([rock_salt()])

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("aqvolt_flows.labeling.surrogate.as_potential", broken)
    outcome = run(SurrogateStaticMaker(), frame_id, label_key(frame_id, PROTOCOL))
    assert (outcome.status, outcome.failure.reason) == ("failed", "evaluation_failed")
    assert outcome.failure.message == "RuntimeError: out of memory"
    assert outcome.atomic_numbers == [3, 17]
