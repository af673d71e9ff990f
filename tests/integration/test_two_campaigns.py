"""Two campaigns in one database: what they share is computed once, and what is not shared does not mix."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("chgnet")

from aqvolt_flows.campaign import parse_campaign
from aqvolt_flows.stores import Database
from aqvolt_launch import chain, workers
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.repair import lost_runs
from aqvolt_launch.workers import work

SALTS = {
    "LiF": "{name: LiF, spacegroup: Fm-3m, a: 4.02, primitive: true, references: [x],"
    " sites: [{element: Li, xyz: [0, 0, 0]}, {element: F, xyz: [0.5, 0.5, 0.5]}]}",
    "LiCl": "{name: LiCl, spacegroup: Fm-3m, a: 5.13, primitive: true, references: [x],"
    " sites: [{element: Li, xyz: [0, 0, 0]}, {element: Cl, xyz: [0.5, 0.5, 0.5]}]}",
    "LiBr": "{name: LiBr, spacegroup: Fm-3m, a: 5.5, primitive: true, references: [x],"
    " sites: [{element: Li, xyz: [0, 0, 0]}, {element: Br, xyz: [0.5, 0.5, 0.5]}]}",
}
# One run a job: a trajectory does not depend on what runs beside it, so releases can be compared bit by bit.
TEXT = """
name: NAME
candidates:
  prototypes: [SALTS]
exploration: {potential: chgnet/r2scan, temperatures_k: [600.0], n_steps: 12, stride: 2, max_job_atoms: 2}
sampling: {structure_threshold: 0.02, atom_threshold: 0.02}
labeling: {labeler: surrogate, surrogate: chgnet/r2scan}
release: {name: NAME}
"""
STAGES = ("candidates", "explore", "sample", "label", "build", "release")


def campaign(name: str, *salts: str):
    return parse_campaign(TEXT.replace("NAME", name).replace("SALTS", ", ".join(SALTS[s] for s in salts)))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lost_runs, "GRACE_S", 0.5)
    monkeypatch.setattr(workers, "IDLE_LOOK_S", 0.5)


@pytest.fixture
def place(settings, monkeypatch, tmp_path, database):
    """Return the settings of another, empty database of the same server; jobs find it, too."""
    from aqvolt_flows.settings import load_settings

    made = []

    def use(name: str):
        monkeypatch.setenv("AQVOLT_DATABASE", f"{database.mongo.name}_{name}")
        for part in ("ARTIFACT_ROOT", "RELEASE_ROOT", "LAUNCH_DIR", "CHECKPOINT_DIR"):
            monkeypatch.setenv(f"AQVOLT_{part}", str(tmp_path / name / part.lower()))
        made.append(f"{database.mongo.name}_{name}")
        return load_settings()

    yield use
    for name in made:
        database.mongo.client.drop_database(name)


def run(settings, campaigns, stages=STAGES):
    """Plan and submit each stage for every campaign, then run what they queued together."""
    for stage in stages:
        for one in campaigns:
            chain.submit_stage(stage, one, settings)
        report = work(settings, until_empty=True)
        assert report.fizzled == 0, list(get_launchpad(settings).fireworks.find({"state": "FIZZLED"}))
    return {c.name: chain.database_of(c, settings).own("releases").find_one({"name": c.name}) for c in campaigns}


@pytest.mark.slow
def test_mixed_they_give_what_they_give_alone_and_nothing_shared_is_computed_twice(place):
    alpha, beta = campaign("alpha", "LiCl", "LiF"), campaign("beta", "LiF", "LiBr")
    alone = run(place("alpha"), [alpha]) | run(place("beta"), [beta])
    settings = place("mixed")
    mixed = run(settings, [alpha, beta])
    assert {n: r["content_hash"] for n, r in mixed.items()} == {n: r["content_hash"] for n, r in alone.items()}
    assert mixed["alpha"]["manifest"]["campaigns"] == ["alpha"]

    database = Database.connect(settings)
    members = {d["formula"]: sorted(d["campaigns"]) for d in database["trajectories"].find()}
    assert members == {"LiCl": ["alpha"], "LiF": ["alpha", "beta"], "LiBr": ["beta"]}
    fireworks = list(get_launchpad(settings).fireworks.find({}, {"spec.aqvolt": 1}))
    assert Counter(f["spec"]["aqvolt"]["stage"] for f in fireworks)["explore"] == 3  # one a run, LiF's once
    outcomes = Counter(
        d["metadata"]["aqvolt"]["key"] for d in database["outputs"].find({"metadata.aqvolt.stage": "label"})
    )
    assert set(outcomes.values()) == {1}
    assert len(outcomes) == database["frames"].count_documents({})
    shared = database["frames"].count_documents({"campaigns": {"$all": ["alpha", "beta"]}})
    assert shared > 0
    assert database["labels"].count_documents({"campaigns": {"$all": ["alpha", "beta"]}}) == shared
    for name in ("alpha", "beta"):
        view = database.in_campaign(name)
        assert view.own("labels").count_documents() == view.own("frames").count_documents()
        assert mixed[name]["counts"]["total"] == view.own("labels").count_documents({"status": "valid"})

    everything = chain.database_of(alpha, settings, all_campaigns=True)
    assert everything.own("labels").count_documents() == database["labels"].count_documents({})
    for one in (alpha, beta):  # submitting again is still submitting once
        for stage in STAGES:
            assert chain.submit_stage(stage, one, settings)[1].submitted == 0


@pytest.mark.slow
def test_frames_of_a_hold_out_never_enter_the_other_release(place):
    training, hold_out = campaign("training", "LiCl"), campaign("holdout", "LiF")
    settings = place("held")
    run(settings, [hold_out])
    released = run(settings, [training])["training"]
    database = Database.connect(settings)
    held = {d["frame_id"] for d in database["frames"].find({"formula": "LiF"})}
    assert held
    own = chain.database_of(training, settings)
    assert {d["formula"] for d in own.own("labels").find()} == {"LiCl"}
    assert released["counts"]["total"] == own.own("labels").count_documents({"status": "valid"})
    listed = settings.path(settings.release_root) / released["path"] / "frames.tsv"
    assert not held & {line.split("\t")[0] for line in listed.read_text().splitlines()}


@pytest.mark.slow
def test_a_late_campaign_takes_over_what_is_finished(place):
    settings = place("late")
    first, second = campaign("first", "LiF"), campaign("second", "LiF")
    made = run(settings, [first])["first"]
    before = get_launchpad(settings).fireworks.count_documents(
        {"spec.aqvolt.stage": {"$in": ["explore", "sample", "label"]}}
    )
    late = run(settings, [second])["second"]
    after = get_launchpad(settings).fireworks.count_documents(
        {"spec.aqvolt.stage": {"$in": ["explore", "sample", "label"]}}
    )
    assert after == before
    assert late["content_hash"] == made["content_hash"]
    states = {
        tuple(sorted(w["metadata"]["aqvolt"]["campaigns"]))
        for w in get_launchpad(settings).workflows.find({"metadata.aqvolt.stage": "label"})
    }
    assert states == {("first", "second")}
