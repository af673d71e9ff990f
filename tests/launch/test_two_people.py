"""Two people with a project folder each on one server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trivial_jobs

from aqvolt_flows.settings import CONFIG_VARIABLE, AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


def test_two_people_submit_and_work_at_once_and_nothing_runs_twice(
    database: Database, settings: AqvoltSettings, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = project / "trace"
    folders = [project / name for name in ("ann", "ben")]
    processes = []
    for folder in folders:
        folder.mkdir()
        (folder / "aqvolt.yaml").write_text((project / "aqvolt.yaml").read_text())
        code = (
            "import trivial_jobs\nfrom aqvolt_flows.settings import load_settings\n"
            "from aqvolt_launch.submission.submit import submit\nfrom aqvolt_launch.workers import work\n"
            f"submit([trivial_jobs.add_item(n, trace={str(trace)!r}) for n in range(8)], load_settings())\n"
            "print(work(load_settings(), until_empty=True).completed)\n"
        )
        environment = os.environ | {CONFIG_VARIABLE: str(folder / "aqvolt.yaml")}
        command = [sys.executable, "-c", code]
        processes.append(
            subprocess.Popen(
                command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        )
    done = [int(process.communicate(timeout=90)[0]) for process in processes]
    assert sum(done) == 8
    assert len(trace.read_text().splitlines()) == 8
    folders_used = {Path(d["output"]["root"]) for d in database["outputs"].find()}
    assert folders_used <= set(folders), "each works in the own folder"
    (row,) = collect_status(settings)["progress"]
    assert (row["done"], row["waiting"], row["failed"]) == (8, 0, 0)
    assert submit([trivial_jobs.add_item(n) for n in range(8)], settings).done == 8
    assert work(settings, until_empty=True).completed == 0
    assert get_launchpad(settings).launches.count_documents({}) == 8
