"""``aqvolt status``: what is counted, and the failures with their reasons."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
import trivial_jobs
from counted_commands import CountedCommands
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem
from aqvolt_launch.launchpad import ensure_launchpad, get_launchpad
from aqvolt_launch.project import progress as progress_module
from aqvolt_launch.project.progress import STAGE_FIELD, _counting, progress, state_counts
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.repair.lost_runs import lasted
from aqvolt_launch.resources import occupied
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


def test_progress_tells_rate_time_left_and_what_failed_attempts_took(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    flag = Path.cwd() / "flag"
    flag.touch()
    submit(
        [
            *(trivial_jobs.add_item(n, stage="label", category="vasp") for n in range(5)),
            WorkItem("explore", "f", "fails", lambda: trivial_jobs.fail_while(str(flag))),
        ],
        settings,
    )
    work(settings, category="cpu", until_empty=True)
    work(settings, category="vasp", max_launches=3)
    launches = get_launchpad(settings).launches
    launches.update_many({"state": "COMPLETED"}, {"$set": {"runtime_secs": 1200.0}})
    launches.update_many({"state": "FIZZLED"}, {"$set": {"runtime_secs": 600.0}})
    explore, label = collect_status(settings)["progress"]
    counted = ("waiting", "running", "done", "failed", "per_hour", "eta_h", "attempts", "attempts_lost")
    assert [label[name] for name in counted] == [2, 0, 3, 0, 3.0, pytest.approx(2 / 3), 3, 0]
    assert label["core_hours"] == pytest.approx(3 * 3 * 1200 / 3600), "three launches of 20 min on three cores"
    assert label["gpu_hours"] == 0
    assert [explore[name] for name in counted] == [0, 0, 0, 1, 0.0, None, 1, 1]
    assert explore["core_hours"] == explore["core_hours_lost"] == pytest.approx(3 * 600 / 3600)


def test_launches_without_a_stage_are_looked_up(database: Database, settings: AqvoltSettings) -> None:
    """As FireWorks' rlaunch leaves them."""
    submit([trivial_jobs.add_item(1, stage="label")], settings)
    work(settings, until_empty=True)
    launchpad = get_launchpad(settings)
    launchpad.launches.update_many({}, {"$set": {"runtime_secs": 1800.0}, "$unset": {"fworker.env": ""}})
    launchpad.launches.insert_one({"launch_id": 77, "fw_id": 77, "state": "FIZZLED", "fworker": {"name": "x"}})
    rows = {row["stage"]: row for row in progress(launchpad, state_counts(launchpad))}
    assert rows["label"]["core_hours"] == pytest.approx(0.5), "one core is counted"
    assert rows["other"]["attempts_lost"] == 1


def test_counts_of_states_use_the_index(database: Database, settings: AqvoltSettings) -> None:
    launchpad = ensure_launchpad(settings)
    submit([trivial_jobs.add_item(n) for n in range(3)], settings)
    for pipeline in _counting({}, embedded=False):
        plan = launchpad.fireworks.find(pipeline[0]["$match"]).explain()
        winning = str(plan["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in winning
        assert STAGE_FIELD in winning
        assert "COLLSCAN" not in winning
    work(settings, until_empty=True)
    for begin in (datetime(2026, 1, 1), "2026"):
        recent = launchpad.launches.find({"state": "COMPLETED", "time_end": {"$gt": begin}}).explain()
        assert "time_end_1" in str(recent["queryPlanner"]["winningPlan"])


def test_status_asks_the_database_a_bounded_number_of_times(
    counted: CountedCommands, database: Database, settings: AqvoltSettings
) -> None:
    """Whatever the number of Fireworks; each costs a round trip to a far server."""
    submit([trivial_jobs.add_item(n, stage=("label", "explore")[n % 2]) for n in range(40)], settings)
    counted.on = True
    collect_status(settings)
    counted.on = False
    assert sum(counted.counts.values()) < 60


def test_a_lost_launch_counts_up_to_its_last_sign_of_life() -> None:
    history = [
        {"state": "RESERVED", "created_on": "2026-01-01T00:00:00"},
        {"state": "RUNNING", "created_on": "2026-01-01T01:00:00", "updated_on": "2026-01-01T03:00:00"},
    ]
    assert lasted({"state_history": history}) == 7200.0
    assert lasted({}) == 0.0


@given(
    slurm=st.integers(0, 64), per_task=st.integers(0, 8), visible=st.lists(st.integers(0, 7)), share=st.integers(0, 100)
)
def test_what_a_worker_occupies(slurm: int, per_task: int, visible: list[int], share: int) -> None:
    values = {"SLURM_NTASKS": str(slurm), "SLURM_CPUS_PER_TASK": str(per_task)}
    values |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, visible)), "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(share)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "2")
        found = occupied("gpu")
        assert found.cores == (slurm * (per_task or 1) or 2)
        assert found.gpus == pytest.approx(len(visible) * (share or 100) / 100)
        assert occupied("vasp").gpus == 0


@pytest.mark.parametrize("embedded", [True, False])
def test_every_firework_is_counted_once(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch, embedded: bool
) -> None:
    """As it is asked of the embedded database, and of a mongod."""
    monkeypatch.setattr(progress_module, "is_embedded", lambda _: embedded)
    fireworks = ensure_launchpad(settings).fireworks
    numbers = {("explore", "COMPLETED"): 4, ("explore", "FIZZLED"): 1, ("label", "COMPLETED"): 7, ("label", "READY"): 5}
    pairs = [pair for pair, number in numbers.items() for _ in range(number)]
    ours = [{"state": state, "spec": {"aqvolt": {"stage": stage, "campaigns": ["x"]}}} for stage, state in pairs]
    others = [{"state": "READY", "spec": {}}, {"state": "READY", "spec": {"aqvolt": {"stage": "of a plug-in"}}}]
    fireworks.insert_many([{"fw_id": i} | document for i, document in enumerate([*ours, *others])])
    found = state_counts(get_launchpad(settings))
    assert list(found) == ["explore", "label", "other", "of a plug-in"]
    beside = {("other", "READY"): 1, ("of a plug-in", "READY"): 1}
    assert {(s, b): n for s, states in found.items() for b, n in states.items() if n} == numbers | beside
    mine = state_counts(get_launchpad(settings), {"spec.aqvolt.campaigns": "x"})
    assert {(s, b): n for s, states in mine.items() for b, n in states.items() if n} == numbers
