from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aqvolt_flows.errors import InputError
from aqvolt_flows.training import stages
from aqvolt_flows.training.stages import TrainingError, read_progress, run_stage


def write_lines(path: Path, *records: dict | str) -> None:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))


def event(name: str, time_s: float, step: int, **values: object) -> dict:
    return {"event": name, "time": time_s, "step": step, **values}


def test_progress_of_a_killed_and_resumed_run(tmp_path: Path):
    """Expected numbers by hand: 10 s and 6 s of work, 1000 s in between not counted, step 5 computed twice."""
    file = tmp_path / "progress.jsonl"
    write_lines(
        file,
        event("launch", 100, 0),
        event("start", 105, 0, n_parameters=7, ranks=1),
        event("train", 108, 5, loss=3.0),
        event("eval", 110, 5, metrics={"forces_mae": 0.5}),
        '{"event": "tra\n',
        event("launch", 1110, 0),
        event("start", 1112, 4, n_parameters=7, ranks=1),
        event("train", 1113, 5, loss=2.9),
        event("eval", 1115, 9, metrics={"forces_mae": 0.25}),
        event("end", 1116, 9),
    )
    reached = read_progress(file)
    assert reached.steps == 9
    assert reached.finished
    assert reached.attempts == 2
    assert reached.n_parameters == 7
    assert reached.losses == [(5, 2.9)]
    assert reached.evaluations == [(5, {"forces_mae": 0.5}), (9, {"forces_mae": 0.25})]


def test_time_between_attempts_is_not_counted(tmp_path: Path):
    file = tmp_path / "progress.jsonl"
    first = [event("launch", 100, 0), event("start", 110, 0, n_parameters=1)]
    write_lines(file, *first, event("launch", 1000, 0), event("end", 1006, 2))
    assert read_progress(file).seconds == pytest.approx(16.0)


def test_an_end_before_the_last_launch_is_no_end(tmp_path: Path):
    file = tmp_path / "progress.jsonl"
    write_lines(file, event("launch", 1, 0), event("end", 2, 3), event("launch", 3, 0))
    assert not read_progress(file).finished


def fake_config(tmp_path: Path, max_steps: int = 3) -> dict:
    job = {"run_dir": str(tmp_path), "timestamp_id": "direct", "scheduler": {"ranks_per_node": 1}}
    return {"job": job, "runner": {"max_steps": max_steps}}


def trainer(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Replace fairchem by a few lines of Python that run in the stage's folder, as a process of their own."""
    monkeypatch.setattr(stages, "_command", lambda config, file: [sys.executable, "-c", code])


FINISH = """
import json, pathlib, time
pathlib.Path("checkpoints/final").mkdir(parents=True)
pathlib.Path("checkpoints/final/inference_ckpt.pt").write_text("weights")
with open("progress.jsonl", "a") as f:
    for r in [dict(event="train", step=3, loss=LOSS), dict(event="eval", step=3, metrics=dict(forces_mae=0.1)),
              dict(event="end", step=3)]:
        f.write(json.dumps(r | dict(time=time.time())) + "\\n")
"""


def test_a_failing_trainer_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer(monkeypatch, "print('one'); raise SystemExit('the disk is on fire')")
    with pytest.raises(TrainingError, match=r"code 1 after 0 steps(.|\n)*one\nthe disk is on fire"):
        run_stage(fake_config(tmp_path), tmp_path, "direct")


def test_a_trainer_that_stops_early_in_silence_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer(monkeypatch, "print('preempted')")
    with pytest.raises(TrainingError, match=r"no final checkpoint(.|\n)*preempted"):
        run_stage(fake_config(tmp_path), tmp_path, "direct")


def test_fewer_steps_than_asked_for_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer(monkeypatch, FINISH.replace("LOSS", "1.0"))
    with pytest.raises(TrainingError, match="after 3 steps"):
        run_stage(fake_config(tmp_path, max_steps=4), tmp_path, "direct")


def test_divergence_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer(monkeypatch, FINISH.replace("LOSS", "float('nan')"))
    with pytest.raises(TrainingError, match="diverged"):
        run_stage(fake_config(tmp_path), tmp_path, "direct")


def test_a_finished_stage_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer(monkeypatch, FINISH.replace("LOSS", "1.0"))
    first = run_stage(fake_config(tmp_path), tmp_path, "direct")
    assert first.checkpoint.read_text() == "weights"
    trainer(monkeypatch, "raise SystemExit('must not run')")
    assert run_stage(fake_config(tmp_path), tmp_path, "direct") == first


def test_a_final_checkpoint_that_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    final = tmp_path / "direct" / stages.FINAL
    final.parent.mkdir(parents=True)
    final.write_text("half")
    write_lines(tmp_path / "direct" / "progress.jsonl", event("launch", 1, 0), event("train", 2, 3, loss=1.0))
    trainer(monkeypatch, FINISH.replace("LOSS", "1.0"))
    assert run_stage(fake_config(tmp_path), tmp_path, "direct").checkpoint.read_text() == "weights"


def test_a_second_process_waits_for_a_trainer_that_outlived_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lock is inherited: the worker closes its descriptor (as if killed) while its child still runs."""
    monkeypatch.setattr(stages, "POLL_S", 0.05)
    with stages.only_one(tmp_path) as lock:
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.0)"], pass_fds=(lock,))
    started = time.monotonic()
    with stages.only_one(tmp_path):
        assert orphan.poll() is not None or orphan.wait(1) == 0
    assert time.monotonic() - started > 0.5


def test_a_configuration_for_another_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="make it for this folder"):
        run_stage(fake_config(tmp_path), tmp_path, "conservative")
