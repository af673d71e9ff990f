"""Each way in which LaunchPad, launch folders and store can disagree, made by hand and put right."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
import trivial_jobs
from checked_out import start

from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import ensure_launchpad, get_launchpad
from aqvolt_launch.open_project import Project
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.repair import lost_runs as recovery
from aqvolt_launch.repair import reconcile as module
from aqvolt_launch.repair.reconcile import reconcile
from aqvolt_launch.submission import holds
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "GRACE_S", 0.2)


def put_frames(database: Database, *names: str) -> None:
    """Write frames whose file is in the artifact store."""
    artifact = database.artifacts.put_bytes(b"frames", "parquet").model_dump()
    for name in names:
        database["frames"].insert_one({"frame_id": name, "key": name, "artifact": artifact, "row": 0})


def test_all_is_well(database: Database, settings: AqvoltSettings) -> None:
    put_frames(database, "0", "1")
    submit(trivial_jobs.bulk(2), settings)
    assert work(settings, max_launches=1).completed == 1
    found = reconcile(settings).as_dict()
    assert not any(value for name, value in found.items() if name != "recovered"), found
    assert not any(found["recovered"].values())


def test_queued_work_that_is_needless_is_removed(database: Database, settings: AqvoltSettings) -> None:
    put_frames(database, "0", "1", "2")
    submit(trivial_jobs.bulk(4), settings, window=2)  # frame 3 is gone
    done = {"output": {"status": "converged"}, "metadata": {"aqvolt": {"stage": "label", "key": "bulk-0"}}}
    database["outputs"].insert_one(done | {"uuid": "of another submission", "index": 1})
    looked = reconcile(settings, dry_run=True)
    assert (looked.labelled_already, looked.without_frame) == ([1], [4])
    launchpad = get_launchpad(settings)
    assert launchpad.fireworks.count_documents({}) == 4
    reconcile(settings)
    assert sorted(f["fw_id"] for f in launchpad.fireworks.find({})) == [2, 3]
    assert sorted(w["nodes"][0] for w in launchpad.workflows.find({})) == [2, 3]
    assert reconcile(settings).labelled_already == []
    assert work(settings, until_empty=True).completed == 2


def test_leftovers_of_killed_submissions(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_frames(database, "0", "1")
    submit(trivial_jobs.bulk(2), settings, window=0)
    launchpad = get_launchpad(settings)
    launchpad.fireworks.delete_one({"fw_id": 1})
    assert reconcile(settings, dry_run=True).empty_workflows == [], "may be of a submission in progress"
    monkeypatch.setattr(module, "ORPHAN_AGE", -timedelta(seconds=5))
    found = reconcile(settings)
    assert (found.empty_workflows, found.broken) == (["bulk-0"], [])
    assert submit(trivial_jobs.bulk(2), settings).submitted == 1


def test_workflow_that_lost_a_firework_is_held(database: Database, settings: AqvoltSettings) -> None:
    submit([trivial_jobs.flow_item()], settings)
    get_launchpad(settings).fireworks.delete_one({"fw_id": 2})
    assert reconcile(settings).broken == ["flow"]
    assert [h["what"] for h in holds.held_now(database)] == ["flow"]


def test_silent_run_of_another_host_is_held_not_rerun(database: Database, settings: AqvoltSettings) -> None:
    put_frames(database, "0", "1")
    submit(trivial_jobs.bulk(2), settings, window=0)
    (first, _), _ = start(settings, "another worker"), start(settings, "slow worker", "launcher_2")
    launchpad = get_launchpad(settings)
    assert reconcile(settings, dry_run=True).silent == []
    old = datetime.now(UTC) - module.SILENT_AFTER - timedelta(minutes=1)
    change = {"state_history.0.updated_on": old, "state_history.0.created_on": old}
    launchpad.launches.update_one({"fw_id": first}, {"$set": change})
    assert reconcile(settings, dry_run=True).silent == [first]
    assert holds.held_now(database) == []
    reconcile(settings)
    (held,) = collect_status(settings)["held"]
    assert (held["kind"], held["what"], held["reason"]) == ("firework", str(first), "no_heartbeat")
    assert launchpad.fireworks.find_one({"fw_id": first})["state"] == "RUNNING"
    holds.lift(Project(settings), str(first))
    reconcile(settings)
    assert holds.held_now(database) == [], "lifted for this reason once, it is not held for it again"


def test_documents_without_files_are_held(database: Database, settings: AqvoltSettings) -> None:
    put_frames(database, "0", "1")
    raw = database.artifacts.put_bytes(b"raw", "tar.gz")
    gone = raw.model_copy(update={"sha256": "0" * 64})
    database["frames"].update_one({"frame_id": "1"}, {"$set": {"artifact": gone.model_dump()}})
    for number, reference in enumerate([raw, gone]):
        document = {"uuid": f"job-{number}", "index": 1, "output": {"raw": reference.model_dump()}}
        database["outputs"].insert_one(document)
    found = reconcile(settings)
    assert (found.frames_without_file, found.outputs_without_file) == (["1"], ["job-1"])
    assert {(h["kind"], h["what"]) for h in holds.held_now(database)} == {("frame", "1"), ("output", "job-1")}
    nothing = reconcile(settings, check_files=False)
    assert nothing.frames_without_file == nothing.outputs_without_file == []
    database.artifacts.local_path(ArtifactRef.model_validate(raw)).write_bytes(b"ra")
    assert reconcile(settings, dry_run=True).outputs_without_file == ["job-0", "job-1"], "cut short counts, too"


def test_unknown_launch_folders_are_named(database: Database, settings: AqvoltSettings) -> None:
    ensure_launchpad(settings)
    folder = settings.path(settings.launch_dir) / "launcher_2026-01-01-00-00-00-000009"
    folder.mkdir(parents=True)
    assert reconcile(settings).unknown_folders == [str(folder)]
    assert os.path.isdir(folder)  # noqa: PTH112


def test_reconcile(database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    submit([trivial_jobs.add_item(n) for n in range(3)], settings)
    work(settings, until_empty=True)
    launchpad = get_launchpad(settings)
    database["outputs"].delete_one({"metadata.aqvolt.key": "key-0"})
    launchpad.fireworks.delete_one({"spec.aqvolt.key": "key-1"})
    orphan = launchpad.fireworks.find_one({"spec.aqvolt.key": "key-2"}, {"_id": 0}) | {"fw_id": 99, "state": "WAITING"}
    launchpad.fireworks.insert_one(orphan)
    looked = reconcile(settings, dry_run=True)
    assert (looked.without_output, looked.broken) == ([1], ["key-1"])
    assert looked.orphans == [], "a young Firework without a workflow may be of a submission in progress"
    monkeypatch.setattr("aqvolt_launch.repair.reconcile.ORPHAN_AGE", -timedelta(seconds=5))
    assert reconcile(settings, dry_run=True).orphans == [99]
    assert launchpad.fireworks.count_documents({"fw_id": 99}) == 1
    assert database["outputs"].count_documents({}) == 2
    done = reconcile(settings)
    assert (done.without_output, done.orphans) == ([1], [99])
    assert launchpad.fireworks.count_documents({"fw_id": 99}) == 0
    assert work(settings, until_empty=True).completed == 1
    assert database["outputs"].count_documents({"metadata.aqvolt.key": "key-0"}) == 1
    assert reconcile(settings).without_output == []
