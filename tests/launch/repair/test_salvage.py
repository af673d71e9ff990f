"""Runs that ended before their worker could say so become documents without a second run."""

from __future__ import annotations

from typing import ClassVar

import pytest
import trivial_jobs
from checked_out import DEAD, start
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt, stand_in, store_frames
from fireworks import FWAction

from aqvolt_flows import __version__
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.vasp.settings import r2scan_protocol
from aqvolt_flows.work import WorkItem
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.repair import lost_runs as recovery
from aqvolt_launch.repair.reconcile import reconcile
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work

__all__ = ["stand_in", "store_frames"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "GRACE_S", 0.2)


def put_frames(database: Database, *names: str) -> None:
    """Write frames whose file is in the artifact store."""
    artifact = database.artifacts.put_bytes(b"frames", "parquet").model_dump()
    for name in names:
        database["frames"].insert_one({"frame_id": name, "key": name, "artifact": artifact, "row": 0})


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
        assert document["metadata"]["aqvolt"] == {"stage": "label", "key": key, "version": __version__}
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
