"""The exploration job on a database: documents, frames, and doing finished work only once."""

from __future__ import annotations

import pytest
from ase.build import bulk
from jobflow import run_locally

from aqvolt_flows.campaign import parse_campaign
from aqvolt_flows.candidates.jobs import SelectMaker
from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.mlmd import MLMDMaker
from aqvolt_flows.exploration.plan import plan_explore
from aqvolt_flows.frames import read_frames
from aqvolt_flows.labeling.plan import plan_label
from aqvolt_flows.potentials import physics
from aqvolt_flows.sampling.jobs import TwoStageSampleMaker
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stages import plan_sample

TEXT = """
name: test
candidates:
  prototypes:
    - {name: LiCl, spacegroup: Fm-3m, a: 5.13, primitive: true, references: [x],
       sites: [{element: Li, xyz: [0, 0, 0]}, {element: Cl, xyz: [0.5, 0.5, 0.5]}]}
    - {name: LiF, spacegroup: Fm-3m, a: 4.02, primitive: true, references: [x],
       sites: [{element: Li, xyz: [0, 0, 0]}, {element: F, xyz: [0.5, 0.5, 0.5]}]}
exploration: {temperatures_k: [600.0], timestep_fs: 2.0, n_steps: 6, stride: 2}
sampling: {structure_threshold: 0.02, atom_threshold: 0.02}
labeling: {labeler: surrogate}
"""


@pytest.fixture
def campaign():
    return parse_campaign(TEXT)


@pytest.fixture
def explored(database, campaign):
    run_locally(SelectMaker(parameters=campaign.candidates.model_dump(mode="json")).make("k"), ensure_success=True)
    [item] = plan_explore(campaign, database).items
    run_locally(item.make(), ensure_success=True)
    return database


@pytest.mark.slow
def test_a_batch_writes_documents_and_frames_and_is_not_repeated(explored, campaign):
    documents = list(explored["trajectories"].find().sort("formula", 1))
    assert [(d["formula"], d["status"], d["n_frames"], d["steps_done"]) for d in documents] == [
        ("LiCl", "completed", 4, 6), ("LiF", "completed", 4, 6),
    ]  # fmt: skip
    for d in documents:
        frames = list(read_frames(explored.artifacts.local_path(ArtifactRef(**d["frames"]))))
        assert [f.step for f in frames] == [0, 2, 4, 6]
        assert {f.trajectory_id for f in frames} == {d["trajectory_id"]}
    plan = plan_explore(campaign, explored)
    assert (plan.items, plan.facts["finished"]) == ([], 2)
    runs = [{k: d[k] for k in ("trajectory_id", "key", "candidate_id", "temperature_k", "seed")} for d in documents]
    again = MLMDMaker(parameters=campaign.exploration.model_dump(mode="json")).make(runs)
    output = run_locally(again, ensure_success=True)[again.uuid][1].output
    assert output == {"completed": 0, "ended_early": 0, "failed": 0, "already_done": 2, "frames": 0, "left": 0}
    assert list(explored["trajectories"].find().sort("formula", 1)) == documents

    # sampling goes on from here: funnel, lineage, and the frames' own numbers
    [round_] = plan_sample(campaign, explored).items
    flow = round_.make()
    responses = run_locally(flow, ensure_success=True)
    funnel = responses[flow.output.uuid][1].output["funnel"]
    # step 0 is equilibration: a fifth of six steps
    assert (funnel["generated"], funnel["overlapping"], funnel["encoded"]) == (6, 0, 6)
    selected = list(explored["frames"].find())
    assert len(selected) == funnel["selected"] >= 2
    for d in selected:
        frames = list(read_frames(explored.artifacts.local_path(ArtifactRef(**d["artifact"]))))
        frame = frames[d["row"]]
        assert (frame.trajectory_id, frame.step) == (d["trajectory_id"], d["step"])
        assert frame.max_force == pytest.approx(d["surrogate_max_force"])
    assert plan_sample(campaign, explored).items[0].done
    labels = plan_label(campaign, explored)
    assert len(labels.todo) == len(selected)
    assert labels.facts["protocol"].startswith("surrogate:chgnet/r2scan@")


def test_a_potential_without_licls_minimum_explores_nothing(database, campaign, monkeypatch):
    """CHGNet has the minimum at 5.1 Å; a world in which 6 Å is expected refuses it before the first step."""
    monkeypatch.setattr(physics, "LICL_A", 6.0)
    run_locally(SelectMaker(parameters=campaign.candidates.model_dump(mode="json")).make("k"), ensure_success=True)
    [item] = plan_explore(campaign, database).items
    maker, [runs] = MLMDMaker(parameters=campaign.exploration.model_dump(mode="json")), item.make().function_args
    with pytest.raises(InputError, match=r"LiCl has its minimum at 5.*do not use it"):
        MLMDMaker.make.original(maker, runs)
    assert database["trajectories"].count_documents({}) == 0


def test_claimed_runs_are_left_out_of_new_batches(database, campaign):
    run_locally(SelectMaker(parameters=campaign.candidates.model_dump(mode="json")).make("k"), ensure_success=True)
    [item] = plan_explore(campaign, database).items
    assert len(item.units) == 2
    claimed = frozenset(item.units[:1])
    [rest] = plan_explore(campaign, database, claimed).items
    assert rest.units == item.units[1:]
    assert plan_explore(campaign, database, frozenset(item.units)).items == []


def test_stages_say_what_they_wait_for(database, campaign):
    assert "no accepted candidate" in plan_explore(campaign, database).missing[0]
    run_locally(SelectMaker(parameters=campaign.candidates.model_dump(mode="json")).make("k"), ensure_success=True)
    assert "2 of 2 trajectories are not finished" in plan_sample(campaign, database).missing[0]
    assert "no selected frame" in plan_label(campaign, database).missing[0]


def test_groups_of_trajectories_are_encoded_by_separate_jobs(campaign):
    maker = TwoStageSampleMaker.from_parameters(campaign.sampling.model_copy(update={"trajectories_per_job": 2}))
    flow = maker.make(["c", "a", "b"], "key")
    assert [len(job.function_args[0]) for job in flow.jobs[:-1]] == [2, 1]
    assert flow.jobs[0].function_args[0] == ["a", "b"]


def test_structures_are_sent_to_the_maker_for_structures(database):
    with pytest.raises(InputError, match="for structures use NpTMDMaker"):
        MLMDMaker.make.original(MLMDMaker(), [bulk("Cu")])
