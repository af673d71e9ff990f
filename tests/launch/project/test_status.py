"""``aqvolt status``: what is counted, and the failures with their reasons."""

from __future__ import annotations

from pathlib import Path

import trivial_jobs

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


def test_status_counts_and_names_failures(database: Database, settings: AqvoltSettings) -> None:
    flag = Path.cwd() / "flag"
    flag.touch()
    submit(
        [
            trivial_jobs.add_item(1),
            trivial_jobs.add_item(2, stage="label", category="vasp"),
            WorkItem("explore", "f", "fails", lambda: trivial_jobs.fail_while(str(flag))),
        ],
        settings,
    )
    work(settings, category="cpu", until_empty=True)
    database["labels"].insert_one(
        {"label_id": "l", "key": "k", "status": "rejected", "failure": {"reason": "unconverged", "message": ""}}
    )
    found = collect_status(settings)
    assert found["stages"] == [
        {"stage": "explore", "READY": 0, "RUNNING": 0, "COMPLETED": 1, "FIZZLED": 1},
        {"stage": "label", "READY": 1, "RUNNING": 0, "COMPLETED": 0, "FIZZLED": 0},
    ]
    counts = {row["collection"]: (row["documents"], row["failures"]) for row in found["collections"]}
    assert counts["labels"] == (1, 1)
    assert counts["outputs"] == (1, 0)
    assert found["reasons"] == [{"collection": "labels", "reason": "unconverged", "documents": 1}]
    (failed,) = found["fizzled"]
    assert failed["reason"] == "ValueError: the cell has no volume"
    assert failed["stage"] == "explore"
    assert Path(failed["folder"]).is_dir()
