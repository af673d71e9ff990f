from __future__ import annotations

import concurrent.futures
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.training import stages
from aqvolt_flows.training.resume import ResumeError
from aqvolt_flows.training.stages import DivergedError, StageStoppedError, TrainingError, read_progress, run_stage


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


CHECKPOINT = (
    "import pathlib; d = pathlib.Path('checkpoints/step_2'); d.mkdir(parents=True); (d / '.metadata').touch()\n"
)


def records(*events: dict) -> str:
    """Return code that appends records to progress.jsonl."""
    lines = "".join(json.dumps(record) + "\n" for record in events)
    return f"with open('progress.jsonl', 'a') as f:\n    f.write({lines!r})\n"


def test_a_trainer_that_stopped_in_time_goes_on_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stopped = event("stopped", time.time(), 2, reason="the allocation ends")
    trainer(monkeypatch, CHECKPOINT + records(event("train", time.time(), 2, loss=1.0), stopped))
    with pytest.raises(StageStoppedError, match=r"after 2 steps \(the allocation ends\); run it again"):
        run_stage(fake_config(tmp_path), tmp_path, "direct")
    trainer(monkeypatch, FINISH.replace("LOSS", "1.0"))
    assert run_stage(fake_config(tmp_path), tmp_path, "direct").progress.attempts == 2


def test_a_stop_counts_though_the_launcher_says_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """torchrun and srun end with codes of their own when their ranks are told to stop."""
    stopped = event("stopped", time.time(), 2, reason="SIGTERM")
    trainer(monkeypatch, records(stopped) + "raise SystemExit(1)")
    with pytest.raises(StageStoppedError, match="SIGTERM"):
        run_stage(fake_config(tmp_path), tmp_path, "direct")


def test_a_diverged_training_names_its_good_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    skipped = event("skipped", time.time(), 3, reason="the loss is not finite", gradient_norm=None, frame_ids=["f1"])
    failed = event("failed", time.time(), 3, reason="diverged", message="At step 3 the loss is not finite.")
    trainer(monkeypatch, CHECKPOINT + records(skipped, failed) + "raise SystemExit(1)")
    with pytest.raises(DivergedError, match=r"At step 3 the loss is not finite\. .*kept \(step_2\)") as caught:
        run_stage(fake_config(tmp_path), tmp_path, "direct")
    assert caught.value.reason == "diverged"
    assert (tmp_path / "direct/checkpoints/step_2/.metadata").is_file()
    assert read_progress(tmp_path / "direct/progress.jsonl").skipped[0]["frame_ids"] == ["f1"]


def test_a_full_disk_is_a_lack_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = "The checkpoint x could not be written (No space left on device); free space and run it again."
    trainer(monkeypatch, records(event("failed", time.time(), 3, reason="cannot_write", message=said)) + "exit(74)")
    with pytest.raises(ResourceError, match="free space and run it again"):
        run_stage(fake_config(tmp_path), tmp_path, "direct")


def test_a_trainer_that_dies_on_a_full_disk_says_nothing_about_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not the checkpoint but a line of its records found no room."""
    trainer(monkeypatch, "raise SystemExit(1)")
    monkeypatch.setattr("aqvolt_flows.training.stages.shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(ResourceError, match="full file system"):
        run_stage(fake_config(tmp_path), tmp_path, "direct")


def test_a_run_of_something_else_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "direct/checkpoints/step_1"
    trainer(monkeypatch, f"import os; os.makedirs('{folder}'); open('{folder}/.metadata', 'w'); exit('killed')")
    with pytest.raises(TrainingError, match="killed"):
        run_stage(fake_config(tmp_path), tmp_path, "direct", data={"release": "a"})
    trainer(monkeypatch, FINISH.replace("LOSS", "1.0"))
    with pytest.raises(ResumeError, match=r'data\.release was "a" and is "b"'):
        run_stage(fake_config(tmp_path), tmp_path, "direct", data={"release": "b"})
    assert folder.exists()
    assert run_stage(fake_config(tmp_path), tmp_path, "direct", data={"release": "b"}, resume="any").progress.finished


def test_a_second_worker_finds_what_the_first_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "POLL_S", 0.05)
    trainer(monkeypatch, "import time; time.sleep(0.5)\n" + FINISH.replace("LOSS", "1.0"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: run_stage(fake_config(tmp_path), tmp_path, "direct"), range(2))
    assert first == second
    assert first.progress.attempts == 1


WORKER = """
import pathlib, sys
from aqvolt_flows.training import stages
stages._command = lambda config, file: [sys.executable, "-c", pathlib.Path(sys.argv[2]).read_text()]
job = {"run_dir": sys.argv[1], "timestamp_id": "direct", "scheduler": {"ranks_per_node": 1}}
stages.run_stage({"job": job, "runner": {"max_steps": 3}}, pathlib.Path(sys.argv[1]), "direct")
"""
WAITING = """
import json, pathlib, signal, sys, time
def stop(*_):
    time.sleep(0.3)  # the checkpoint takes its time
    with open("progress.jsonl", "a") as f:
        f.write(json.dumps(dict(event="stopped", time=time.time(), step=1, reason="SIGTERM")) + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_sigterm_reaches_the_trainer_and_the_worker_waits_for_its_checkpoint(tmp_path: Path):
    (tmp_path / "trainer.py").write_text(WAITING)
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(tmp_path / "trainer.py")])
    deadline = time.monotonic() + 30
    while not (tmp_path / "direct/ready").exists():
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == -signal.SIGTERM  # as a worker that is killed at once: its Firework is run again
    assert read_progress(tmp_path / "direct/progress.jsonl").last["event"] == "stopped"
