"""Each way in which LaunchPad, launch folders and store can disagree, made by hand and put right."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
import trivial_jobs
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt, stand_in, store_frames
from fireworks import FWAction, FWorker

from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.vasp.settings import r2scan_protocol
from aqvolt_flows.work import WorkItem
from aqvolt_launch import processes
from aqvolt_launch.launchpad import ensure_launchpad, get_launchpad
from aqvolt_launch.open_project import Project
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.repair import lost_runs as recovery
from aqvolt_launch.repair import reconcile as module
from aqvolt_launch.repair.reconcile import reconcile
from aqvolt_launch.submission import holds
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work

__all__ = ["stand_in", "store_frames"]
DEAD = f"aqvolt-{processes.host_name()}-{2**22 + 1}-1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "GRACE_S", 0.2)


def start(
    settings: AqvoltSettings, worker: str, folder: str = "launcher_2026-01-01-00-00-00-000001"
) -> tuple[int, Path]:
    """Check the next Firework out as a worker does; return its number and its folder."""
    path = settings.path(settings.launch_dir) / folder
    path.mkdir(parents=True)
    firework, _ = get_launchpad(settings).checkout_fw(FWorker(name=worker), str(path))
    return firework.fw_id, path


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


def test_label_whose_output_was_stored_before_the_worker_died_is_not_run_again(
    database: Database, settings: AqvoltSettings
) -> None:
    put_frames(database, "0")
    submit(trivial_jobs.bulk(1), settings)
    fw_id, _ = start(settings, DEAD)
    launchpad = get_launchpad(settings)
    job = launchpad.fireworks.find_one({})["spec"]["_tasks"][0]["job"]
    database["outputs"].insert_one(
        {k: job[k] for k in ("uuid", "index", "metadata")} | {"output": {"status": "converged"}}
    )
    assert reconcile(settings, dry_run=True).lost == [fw_id]
    report = reconcile(settings)
    assert (report.lost, report.recovered["finished"], report.recovered["rerun"]) == ([fw_id], 1, 0)
    assert launchpad.fireworks.find_one({})["state"] == launchpad.workflows.find_one({})["state"] == "COMPLETED"
    assert launchpad.launches.find_one({})["state"] == "COMPLETED"
    assert work(settings, until_empty=True).completed == 0


class TestVasp:
    """Runs of the stand-in VASP that ended before their worker could say so."""

    pytestmark: ClassVar = [*VASP_WARNINGS]

    def submit_one(self, store_frames: StoreFrames, settings: AqvoltSettings) -> tuple[R2scanStaticMaker, str, str]:
        (frame_id,) = store_frames([rock_salt(5.0, rattle=0.05, cubic=True)])
        maker = R2scanStaticMaker(polling_s=0.05)
        key = label_key(frame_id, r2scan_protocol())
        item = WorkItem(
            "label", key, "vasp", lambda: maker.make(frame_id, key), template=maker.make, arguments=(frame_id, key)
        )
        submit([item], settings)
        return maker, frame_id, key

    @pytest.mark.parametrize("state", ["RUNNING", "COMPLETED"])
    def test_finished_run_becomes_a_document_without_a_second_run(
        self, store_frames: StoreFrames, stand_in, database: Database, settings: AqvoltSettings, state: str, monkeypatch
    ) -> None:
        """Independent: the outcome that the maker itself returned for the same files."""
        maker, frame_id, key = self.submit_one(store_frames, settings)
        fw_id, folder = start(settings, DEAD)
        monkeypatch.chdir(folder)
        expected = R2scanStaticMaker.make.original(maker, frame_id, key)
        monkeypatch.setenv("VASP_CMD", "/no/vasp/any/more")
        launchpad = get_launchpad(settings)
        if state == "COMPLETED":
            launchpad.complete_launch(1, FWAction())
            assert reconcile(settings, dry_run=True).without_output == [fw_id]
        report = reconcile(settings)
        assert report.salvaged == ([fw_id] if state == "COMPLETED" else [])
        (document,) = database["outputs"].find()
        assert document["output"]["status"] == "converged"
        for name in ("energy", "forces", "stress", "positions", "key", "frame_id", "raw"):
            assert document["output"][name] == expected[name], name
        assert document["output"]["details"]["salvaged"] is True
        assert document["metadata"]["aqvolt"] == {"stage": "label", "key": key}
        assert launchpad.workflows.find_one({})["state"] == "COMPLETED"
        assert work(settings, until_empty=True).completed == 0

    def test_run_cut_short_is_repeated(self, store_frames, stand_in, database, settings, monkeypatch) -> None:
        maker, frame_id, key = self.submit_one(store_frames, settings)
        fw_id, folder = start(settings, DEAD)
        monkeypatch.chdir(folder)
        R2scanStaticMaker.make.original(maker, frame_id, key)
        run = folder / f"vasp-{key[:12]}"
        for name in ("vasprun.xml", "OUTCAR"):
            (file,) = run.glob(f"{name}*")
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        assert recovery.recover_dead(settings).rerun == 1
        assert database["outputs"].count_documents({}) == 0
        assert get_launchpad(settings).fireworks.find_one({"fw_id": fw_id})["state"] == "READY"


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
