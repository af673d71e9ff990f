"""A labeling job as MongoDB carries it: small, JSON, and still callable after a round trip."""

from __future__ import annotations

import json

import bson
import numpy as np
import pytest
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt
from jobflow import run_locally
from monty.json import MontyDecoder, MontyEncoder

from aqvolt_flows.frames import Frame
from aqvolt_flows.labeling.labelers import labeler_maker
from aqvolt_flows.labeling.protocols import label_key, protocol_for
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.stores import check_size, job_store

pytestmark = [*VASP_WARNINGS]


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


def test_the_outcome_of_two_hundred_atoms_stays_far_below_sixteen_megabytes(store_frames: StoreFrames, stand_in):
    """The raw vasprun.xml and OUTCAR go to the artifact store; the document holds a label's arrays only."""
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
    assert output["raw"]["bytes"] > 10_000
