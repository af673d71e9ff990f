"""A labeling job as MongoDB carries it: small, JSON, and still callable after a round trip."""

from __future__ import annotations

import json
import tarfile

import bson
import numpy as np
import pytest
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt
from jobflow import run_locally
from monty.json import MontyDecoder, MontyEncoder

from aqvolt_flows.frames import Frame
from aqvolt_flows.labeling.labelers import labeler_maker, protocol_for
from aqvolt_flows.labeling.outcomes import bounded
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import check_size, job_store

pytestmark = [*VASP_WARNINGS]
OUTCOME = {
    "frame_id": "frame-1",
    "key": "0",
    "status": "converged",
    "protocol": protocol_for(LabelingParameters()),
    "energy": -1.0,
}


@pytest.mark.parametrize("labeler", ["vasp", "gpaw", "surrogate"])
def test_a_job_refers_to_its_frame_and_carries_no_arrays(labeler: str):
    parameters = LabelingParameters(labeler=labeler)
    frame_id = "frame-0123456789abcdef"
    job = labeler_maker(parameters).make(frame_id, label_key(frame_id, protocol_for(parameters)))
    text = json.dumps(job, cls=MontyEncoder)
    assert len(text) < 4000
    again = json.loads(text, cls=MontyDecoder)
    assert list(again.function_args) == list(job.function_args)
    assert type(again.maker) is type(job.maker)


def test_a_stored_job_runs_and_its_outcome_lands_in_outputs(store_frames: StoreFrames, stand_in, database):
    (frame_id,) = store_frames([rock_salt()])
    maker = R2scanStaticMaker(polling_s=0.05)
    job = maker.make(frame_id, label_key(frame_id, protocol_for(LabelingParameters())))
    again = json.loads(json.dumps(job, cls=MontyEncoder), cls=MontyDecoder)
    run_locally(again, store=job_store(), create_folders=True, log=False)
    stored = database["outputs"].find_one({"uuid": job.uuid})
    outcome = LabelOutcome.model_validate(stored["output"])
    assert outcome.status == "converged"
    assert len(bson.encode(stored)) < 20_000


def test_two_hundred_atoms_with_verbose_output_stay_far_below_sixteen_megabytes(
    store_frames: StoreFrames, stand_in, monkeypatch, database
):
    """Eigenvalues after every electronic step and projections on 200 atoms: 20 MB of files, all in the artifact store.

    The document holds a label's arrays and small facts: below 64 KiB.
    """
    monkeypatch.setenv("FAKE_VASP_VERBOSE", "1")
    unit = rock_salt(5.13, cubic=True).to_atoms().repeat((5, 5, 1))
    assert len(unit) == 200
    rattled = unit.positions + 0.05 * np.random.default_rng(1).normal(size=unit.positions.shape)
    frame = Frame(
        trajectory_id="traj-test",
        step=0,
        temperature=300.0,
        energy=0.0,
        atomic_numbers=unit.numbers.astype(np.int16),
        positions=rattled.astype(np.float32),
        cell=unit.cell.array.astype(np.float32),
        forces=np.zeros((200, 3), np.float32),
        stress=np.zeros(6, np.float32),
    )
    (frame_id,) = store_frames([frame])
    maker = R2scanStaticMaker(polling_s=0.05)
    output = R2scanStaticMaker.make.original(maker, frame_id, label_key(frame_id, protocol_for(LabelingParameters())))
    assert output["status"] == "converged"
    check_size(output, "outcome")
    assert len(bson.encode(output)) < 64 * 1024
    with tarfile.open(database.artifacts.local_path(ArtifactRef(**output["raw"]))) as tar:
        sizes = {entry.name: entry.size for entry in tar}
    assert sizes["vasprun.xml"] + sizes["OUTCAR"] > 16 * 2**20, "the files themselves would not fit into a document"
    assert output["details"]["task"]["n_sites"] == 200


def test_details_that_grow_without_limit_are_dropped_and_the_label_stays():
    outcome = bounded(LabelOutcome(**OUTCOME, details={"said": "x" * 100_000}))
    assert list(outcome.details) == ["dropped"]
    assert outcome.energy == -1.0
    kept = LabelOutcome(**OUTCOME, details={"said": "x"})
    assert bounded(kept) is kept
