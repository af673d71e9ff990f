"""Exploration as Fireworks of a real worker: segments that queue the next, refusals, and a worker that is killed."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytest.importorskip("chgnet")

from jobflow import run_locally

from aqvolt_flows.campaign import parse_campaign
from aqvolt_flows.candidates.jobs import SelectMaker
from aqvolt_flows.exploration import mlmd
from aqvolt_flows.exploration.plan import plan_explore
from aqvolt_flows.frames import read_frames
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_launch import workers
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.repair import lost_runs as recovery
from aqvolt_launch.submission.submit import claimed_units, submit
from aqvolt_launch.workers import spawn_worker, work

TEXT = """
name: test
candidates:
  prototypes:
    - {name: LiCl, spacegroup: Fm-3m, a: 5.13, primitive: true, references: [x],
       sites: [{element: Li, xyz: [0, 0, 0]}, {element: Cl, xyz: [0.5, 0.5, 0.5]}]}
    - {name: LiF, spacegroup: Fm-3m, a: 4.02, primitive: true, references: [x],
       sites: [{element: Li, xyz: [0, 0, 0]}, {element: F, xyz: [0.5, 0.5, 0.5]}]}
exploration: {potential: chgnet/r2scan, temperatures_k: [600.0], stride: 2, STEPS}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(recovery, "GRACE_S", 0.5)
    monkeypatch.setattr(workers, "IDLE_LOOK_S", 0.5)


def campaign_with(database, steps: str):
    campaign = parse_campaign(TEXT.replace("STEPS", steps))
    run_locally(SelectMaker(parameters=campaign.candidates.model_dump(mode="json")).make("k"), ensure_success=True)
    return campaign


def frames_of(database, document):
    return list(read_frames(database.artifacts.local_path(ArtifactRef(**document["frames"]))))


def test_a_walltime_queues_segments_and_an_unfit_structure_is_refused_by_name(database, settings, monkeypatch):
    campaign = campaign_with(database, "n_steps: 6")
    good = database["candidates"].find_one({"formula": "LiF"}, {"_id": 0})
    sites = [dict(s) for s in good["structure"]["sites"]]
    sites[1] = sites[1] | {"abc": [0.45, 0.45, 0.45]}
    broken = {"candidate_id": "candidate-broken", "key": "broken", "structure": good["structure"] | {"sites": sites}}
    database["candidates"].insert_one(good | broken)
    monkeypatch.setenv("AQVOLT_WALLTIME_S", "0.001")  # over before the first step: one written step a segment
    [item] = plan_explore(campaign, database).items
    submit([item], settings)
    limited = settings.model_copy(update={"walltime_s": 0.001})
    monkeypatch.setattr(mlmd, "HEARTBEAT_S", 0.0)
    assert work(limited, until_empty=True, max_launches=1).completed == 1
    running = list(database["trajectories"].find({"status": "running"}))
    assert [d["steps_done"] for d in running] == [2, 2], "the heartbeat says how far they are"
    waiting = claimed_units(get_launchpad(settings))
    assert set(item.units) <= waiting, "the workflow is not finished, so its runs stay claimed"
    report = work(limited, until_empty=True)
    assert (report.completed, report.fizzled) == (2, 0)
    launchpad = get_launchpad(settings)
    fireworks = list(launchpad.fireworks.find({}, {"state": 1, "spec._category": 1, "spec.aqvolt.key": 1}))
    assert len(fireworks) == 3
    assert {(f["state"], f["spec"]["_category"], f["spec"]["aqvolt"]["key"]) for f in fireworks} == {
        ("COMPLETED", "gpu", item.key)
    }
    assert launchpad.workflows.find_one({})["state"] == "COMPLETED"
    documents = {d["candidate_id"]: d for d in database["trajectories"].find()}
    refused = documents.pop("candidate-broken")
    assert (refused["status"], refused["steps_done"], refused["frames"]) == ("failed", 0, None)
    assert refused["failure"]["reason"] == "overlapping_atoms"
    assert "LiF (candidate-broken)" in refused["failure"]["message"]
    for d in documents.values():
        assert (d["status"], d["steps_done"], d["n_frames"], d["segments"]) == ("completed", 6, 4, 3)
        assert [f.step for f in frames_of(database, d)] == [0, 2, 4, 6]
    status = collect_status(settings)
    assert {"collection": "trajectories", "reason": "overlapping_atoms", "documents": 1} in status["reasons"]
    assert not list(settings.path(settings.checkpoint_dir).glob("*/checkpoint.pt"))


@pytest.mark.slow
def test_a_killed_worker_is_recovered_and_goes_on_from_its_checkpoint(database, settings):
    campaign = campaign_with(database, "n_steps: 160, checkpoint_steps: 8")
    [item] = plan_explore(campaign, database).items
    submit([item], settings)
    victim = spawn_worker(settings)
    folder = settings.path(settings.checkpoint_dir)
    end = time.monotonic() + 240
    while not list(folder.glob("*/checkpoint.pt")):
        assert victim.poll() is None
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert {d["status"] for d in database["trajectories"].find()} == {"running"}
    report = work(settings, until_empty=True)
    assert (report.completed, report.recovered) == (1, 1)
    for d in database["trajectories"].find():
        assert (d["status"], d["steps_done"], d["segments"]) == ("completed", 160, 2)
        assert [f.step for f in frames_of(database, d)] == list(range(0, 161, 2))
    assert not list(folder.glob("*/part-*"))
