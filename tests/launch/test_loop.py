"""A loop driven by ticks: rounds through real jobs of small parts, killed, overtaken, held and tried again."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import toy_loop
from in_process import command_of

from aqvolt_flows.errors import InputError
from aqvolt_flows.loop.rounds import HOLD_OUT, draw_hold_out, rounds_of
from aqvolt_flows.schemas.loop import STEPS
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_launch import chain, loop, workers
from aqvolt_launch.cli import loop as loop_command
from aqvolt_launch.cli import query
from aqvolt_launch.launchpad import get_launchpad


@pytest.fixture(autouse=True)
def toys(monkeypatch, quick):
    from aqvolt_flows.potentials.registry import FAMILIES
    from aqvolt_flows.trainers import TRAINERS

    monkeypatch.setattr(toy_loop, "FAILING", set())
    monkeypatch.setitem(FAMILIES._entries, "toy", toy_loop.FAMILY)
    monkeypatch.setitem(TRAINERS._entries, "toy", toy_loop.TRAINER)


@pytest.fixture
def configured(tmp_path):
    return {"campaign": "mini.yaml", "job_packages": ["toy_loop"]}


def begin(settings, database, tmp_path, **options):
    """Write the campaign, accept its candidates and start the loop."""
    campaign = toy_loop.campaign(tmp_path, **options)
    (tmp_path / "mini.yaml").write_text(json.dumps(campaign.model_dump(mode="json")))
    chain.submit_stage("candidates", campaign, settings)
    work(settings)
    loop.start(settings, campaign)
    return campaign


def work(settings):
    with workers.exported(settings):
        workers.work(settings, until_empty=True)


def drive(settings, campaign, most=40):
    """Tick and work by turns until the loop is held or done."""
    for _ in range(most):
        found = loop.tick(settings, campaign)
        if found.over:
            return found
        assert found.waiting, found
        work(settings)
    raise AssertionError(f"the loop does not end: {found}")


@pytest.mark.slow
def test_killed_at_any_write_it_ends_as_an_undisturbed_one(settings, database, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_run(settings, database, tmp_path, patch)
    releases = {r["name"]: r["content_hash"] for r in database["releases"].find()}
    database.mongo.client.drop_database(database.mongo.name)
    two_rounds(settings, database, tmp_path)
    assert {r["name"]: r["content_hash"] for r in database["releases"].find()} == releases


def two_rounds(settings, database, tmp_path):
    """Rounds learn, keep their hold-out, and every frame says why."""
    campaign = begin(settings, database, tmp_path)
    ended = drive(settings, campaign)
    assert (ended.status, ended.round) == ("done", 1), ended.said
    first, second = rounds_of(database.in_campaign("mini"), campaign)
    assert [s.name for s in first.steps] == [s.name for s in second.steps] == list(STEPS)
    assert (first.decision["stop"], second.decision["rule"]) == (False, "max_rounds")

    # nothing doubts in the first round: 2DIRECT alone, uncalibrated; in the second a committee does
    one, two = first.facts_of("select"), second.facts_of("select")
    assert (one["doubtful_fraction"], one["calibrated"]) == (None, False)
    assert two["calibrated"]
    assert 0 <= two["doubtful_fraction"] <= 1
    assert second.potential.startswith("committee:")
    assert second.scale == first.facts_of("evaluate")["hold_out"]["calibration"]["scale"] > 0
    new = second.facts_of("evaluate")["new_labels"]
    assert new["n_labels"] == second.facts_of("build")["valid"] > 0
    assert 0 < len(one["chosen"]) <= 8
    assert 0 < len(two["chosen"]) <= 8

    # what explored in the second round was the first's committee, with momenta of its own
    runs = list(database["trajectories"].find({"model_hash": second.potential_sha256}))
    assert len(runs) == 4
    assert {r["seed"] for r in runs}.isdisjoint(
        database["trajectories"].distinct("seed", {"model_hash": first.potential_sha256})
    )

    # the hold-out is the same, and no round trains on it
    assert first.hold_out == second.hold_out
    for number in (0, 1):
        release = database["releases"].find_one({"name": f"{campaign.release.name}-r{number}"})
        folder = settings.path(settings.release_root) / release["path"] / "data"
        splits = {p.stem: set(pq.read_table(p)["frame_id"].to_pylist()) for p in folder.glob("*.parquet")}
        assert splits[HOLD_OUT] == set(first.hold_out)
        assert all(not ids & set(first.hold_out) for name, ids in splits.items() if name != HOLD_OUT)

    # errors by hand: the committee's ε against the oracle's, |F| scales with it
    held = second.facts_of("evaluate")["hold_out"]
    committee = database.artifacts.local_path(ArtifactRef(**second.facts_of("train")["committee"]))
    members = [m["model"] for m in json.loads(committee.read_text())["members"]]
    weights = [ArtifactRef(**database["models"].find_one({"model_id": m})["checkpoint"]) for m in members]
    epsilons = [json.loads(database.artifacts.local_path(w).read_text())["epsilon"] for w in weights]
    forces = np.concatenate(
        [np.abs(d["forces"]).ravel() for d in database["labels"].find({"frame_id": {"$in": first.hold_out}})]
    )
    expected = abs(np.mean(epsilons) / 0.1 - 1) * forces.mean()
    assert held["force_mae_ev_per_a"] == pytest.approx(expected, rel=1e-3)
    assert held["calibration"]["scale"] == pytest.approx(abs(np.mean(epsilons) - 0.1) / np.std(epsilons), rel=1e-3)

    # every frame that was offered says why
    table = pq.read_table(database.artifacts.local_path(ArtifactRef(**two["table"]))).to_pylist()
    assert len(table) == two["offered"]
    for row in (table[0], table[-1]):
        [said] = [s for s in loop.judgments(database, row["frame_id"]) if s["identity"] == "mini-r1"]
        assert (said["facts"]["verdict"], said["facts"]["why"]) == (row["verdict"], row["why"])
    assert {r["frame_id"] for r in table if r["verdict"] == "chosen"} == set(two["chosen"])
    assert loop.judgments(database, "frame-none") == []
    run = command_of(loop_command, query)
    left_out = next(r for r in table if r["verdict"] != "chosen")
    assert left_out["why"] in json.dumps(json.loads(run("why", left_out["frame_id"], "--json")), ensure_ascii=False)
    chosen = json.loads(run("why", two["chosen"][0], "--json"))
    assert {"candidate", "frame", "label", "loop round"} <= {s["what"] for s in chosen}
    shown = json.loads(run("loop", "status", "--json"))
    assert [r["force_mae_ev_per_a"] for r in shown][1] == held["force_mae_ev_per_a"]
    assert json.loads(run("loop", "plan", "--json"))["status"] == "done"
    assert json.loads(run("loop", "tick", "--json"))["status"] == "done"

    # another tick changes nothing
    before = list(database["loops"].find())
    assert loop.tick(settings, campaign).status == "done"
    assert list(database["loops"].find()) == before
    rows = loop.status(settings, campaign)
    assert [r["labels"] for r in rows] == [first.facts_of("build")["valid"], second.facts_of("build")["valid"]]


class _KilledError(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def killed_run(settings, database, tmp_path, monkeypatch):
    """Run a loop whose writes are cut off, before or after, three of five times."""
    campaign = begin(settings, database, tmp_path)
    draw = np.random.default_rng(7)
    change, create, submit = loop._change, loop._create, loop._submit
    kills = [0]

    def deadly(function):
        def run(*arguments, **values):
            when = draw.choice(["before", "after", "never"], p=[0.3, 0.3, 0.4])
            if when == "before":
                kills[0] += 1
                raise _KilledError
            found = function(*arguments, **values)
            if when == "after":
                kills[0] += 1
                raise _KilledError
            return found

        return run

    for name, function in (("_change", change), ("_create", create), ("_submit", submit)):
        monkeypatch.setattr(loop, name, deadly(function))
    for _ in range(200):
        try:
            if loop.tick(settings, campaign).over:
                break
            work(settings)
        except _KilledError:
            continue
    assert kills[0] >= 10
    documents = rounds_of(database.in_campaign("mini"), campaign)
    assert [(d.round, d.status) for d in documents] == [(0, "done"), (1, "done")]
    states = {w["state"] for w in get_launchpad(settings).workflows.find()}
    assert states == {"COMPLETED"}
    keys = [w["metadata"]["aqvolt"]["key"] for w in get_launchpad(settings).workflows.find()]
    assert len(keys) == len(set(keys))
    planned = [key for d in documents for s in d.steps for key in s.keys]
    assert len(planned) == len(set(planned)), "no unit was made twice"
    # every label was computed once, and those of the rounds are all there are
    chosen = {f for d in documents for f in d.facts_of("select")["chosen"]}
    labels = [d["output"]["frame_id"] for d in database["outputs"].find({"metadata.aqvolt.stage": "label"})]
    assert sorted(labels) == sorted(chosen)


class TestHolds:
    def test_failed_trainings_hold_it_and_retry_runs_them_again(self, settings, database, tmp_path):
        campaign = begin(settings, database, tmp_path, members=2, max_labels=4, stop={"max_rounds": 1})
        toy_loop.FAILING.add(1)
        held = drive(settings, campaign)
        assert (held.status, held.step) == ("held", "train")
        assert "1 of 2 trainings failed" in held.said
        assert "it was told to fail" in held.said
        assert loop.tick(settings, campaign).status == "held", "it stays held"
        toy_loop.FAILING.clear()
        loop.retry(settings, campaign)
        assert (ended := drive(settings, campaign)).status == "done", ended.said
        assert database["models"].count_documents({"status": "trained"}) == 2
        with pytest.raises(InputError, match="is done, not held"):
            loop.retry(settings, campaign)

    def test_two_ticks_at_once_are_one(self, settings, database, tmp_path, monkeypatch):
        campaign = begin(settings, database, tmp_path)
        real, inside = loop._submit, []

        def slow(*arguments):
            if not inside:  # the other tick goes all the way while this one is submitting
                inside.append(1)
                loop.tick(settings, campaign)
            return real(*arguments)

        monkeypatch.setattr(loop, "_submit", slow)
        first = loop.tick(settings, campaign)
        assert (first.step, first.submitted, first.waiting) == ("explore", 0, 1)
        assert get_launchpad(settings).workflows.count_documents({"metadata.aqvolt.stage": "explore"}) == 1
        work(settings)
        inside.clear()
        overtaken = loop.tick(settings, campaign)  # done with explore twice: one writes it
        [document] = rounds_of(database.in_campaign("mini"), campaign)
        assert overtaken.status in {"overtaken", "running"}
        assert [s.name for s in document.steps] == ["explore"]

    def test_stopped_it_waits_for_a_user(self, settings, database, tmp_path):
        campaign = begin(settings, database, tmp_path)
        run = command_of(loop_command)
        assert "round 0; run 'aqvolt loop tick'" in run("loop", "start")
        assert json.loads(run("loop", "plan", "--json"))["units"] == 1
        assert "is stopped in round 0" in run("loop", "stop")
        assert loop.tick(settings, campaign).status == "stopped"
        assert get_launchpad(settings).workflows.count_documents({"metadata.aqvolt.stage": "explore"}) == 0
        with pytest.raises(InputError, match="has ended already"):
            loop.stop(settings, campaign)
        assert "goes on with explore of round 0" in run("loop", "retry")
        assert "explore of round 0: 1 units to run" in run("loop", "tick")
        with pytest.raises(InputError, match="expected seconds above 0"):
            run("loop", "tick", "--watch", "0")

    def test_a_round_whose_labels_all_fail(self, settings, database, tmp_path):
        campaign = begin(settings, database, tmp_path, max_labels=4)
        broken = toy_loop.write_model(tmp_path / "oracle.json", float("nan"))
        held = drive(settings, campaign)
        assert (held.status, held.step) == ("held", "label")
        assert "All 4 labels of the round failed" in held.said
        assert broken
        loop.retry(settings, campaign)
        assert drive(settings, campaign).status == "held", "nothing has changed"

    def test_single_labels_hold_nothing(self, settings, database, tmp_path):
        """One of four labels fizzles, and one ends by its wall time while others are still to run."""
        # two labels are left: one is held out, so the other must not fall into a split that nothing is trained on
        release = {"train_fraction": 1.0, "val_fraction": 0.0, "test_fraction": 0.0}
        options = {"max_labels": 4, "members": 2, "stop": {"max_rounds": 1}}
        campaign = begin(settings, database, tmp_path, release=release, **options)
        while loop.tick(settings, campaign).step != "label":
            work(settings)
        launchpad = get_launchpad(settings)
        lost = launchpad.workflows.find_one({"metadata.aqvolt.stage": "label"})
        fw_id = lost["nodes"][0]
        launchpad.fireworks.update_one({"fw_id": fw_id}, {"$set": {"state": "FIZZLED"}})
        fizzled = {"state": "FIZZLED", f"fw_states.{fw_id}": "FIZZLED"}
        launchpad.workflows.update_one({"_id": lost["_id"]}, {"$set": fizzled})
        with workers.exported(settings):
            workers.work(settings, until_empty=True, max_launches=1)
        late = {"output.status": "killed", "output.failure": {"reason": "wall_time", "message": "late"}}
        database["outputs"].update_one({"metadata.aqvolt.stage": "label"}, {"$set": late})
        assert (found := loop.tick(settings, campaign)).status == "running", found.said
        assert found.waiting == 3
        assert (ended := drive(settings, campaign)).status == "done", ended.said
        [document] = rounds_of(database.in_campaign("mini"), campaign)
        facts = document.facts_of("label")
        assert (facts["chosen"], facts["converged"], facts["fizzled"]) == (4, 2, 1)

    def test_runs_without_a_frame(self, settings, database, tmp_path):
        campaign = begin(settings, database, tmp_path)
        dense = campaign.exploration.model_copy(update={"min_packing": 0.95})  # no salt fills so much of its volume
        held = drive(settings, campaign.model_copy(update={"exploration": dense}))
        assert (held.status, held.step) == ("held", "explore")
        assert "None of 4 runs gave a frame" in held.said


class TestStart:
    def test_a_training_that_the_campaign_lacks(self, settings, database, tmp_path):
        with pytest.raises(InputError, match=r"loop\.training is 'esen'; the campaign's trainings are toy"):
            loop.start(settings, toy_loop.campaign(tmp_path, training="esen"))

    def prepared(self, settings, tmp_path, **options):
        campaign = toy_loop.campaign(tmp_path, **options)
        chain.submit_stage("candidates", campaign, settings)
        work(settings)
        return campaign

    def test_without_candidates(self, settings, database, tmp_path):
        campaign = toy_loop.campaign(tmp_path)
        with pytest.raises(InputError, match="no accepted candidate yet"):
            loop.start(settings, campaign)
        with pytest.raises(InputError, match="has not begun; run 'aqvolt loop start'"):
            loop.tick(settings, campaign)

    def test_an_element_that_the_base_potential_lacks(self, settings, database, tmp_path):
        campaign = self.prepared(settings, tmp_path)
        toy_loop.write_model(tmp_path / "base.json", 0.05, elements=(3, 17))
        with pytest.raises(InputError, match="was not trained on F, which LiF contains"):
            loop.start(settings, campaign)
        assert database["loops"].count_documents({}) == 0

    def test_a_hold_out_without_labels(self, settings, database, tmp_path):
        campaign = self.prepared(settings, tmp_path, hold_out={"source": "measured"})
        with pytest.raises(InputError, match=r"No valid label matches loop\.hold_out"):
            loop.start(settings, campaign)

    def test_twice_is_once_and_a_name_belongs_to_one_campaign(self, settings, database, tmp_path):
        campaign = self.prepared(settings, tmp_path)
        first, again = loop.start(settings, campaign), loop.start(settings, campaign)
        assert first == again
        other = campaign.model_copy(update={"name": "other", "loop": campaign.loop.model_copy(update={"name": "mini"})})
        with pytest.raises(InputError, match=r"belongs to the campaign mini; set loop\.name"):
            loop.start(settings, other)


class TestHoldOut:
    def test_whole_trajectories_by_hash_and_the_same_in_any_order(self):
        frames = {f"f{i}": f"t{i % 5}" for i in range(20)}
        held = draw_hold_out(frames, 0.3, "salt")
        assert held == draw_hold_out(dict(reversed(frames.items())), 0.3, "salt")
        assert {frames[f] for f in held}.isdisjoint({frames[f] for f in frames.keys() - set(held)})
        assert 6 <= len(held) <= 8  # 30 % of 20, in steps of 4

    def test_something_is_left_to_train_on(self):
        assert len(draw_hold_out({"a": "t", "b": "t"}, 0.9, "salt")) == 1
        assert len(draw_hold_out({"a": "t", "b": "u", "c": "u"}, 0.99, "salt")) in {1, 2}
        with pytest.raises(InputError, match="1 valid labels; a hold-out and a training set need two"):
            draw_hold_out({"a": "t"}, 0.2, "salt")
