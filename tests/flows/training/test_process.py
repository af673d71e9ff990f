from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from aqvolt_flows.errors import InputError
from aqvolt_flows.training.process import run_process
from aqvolt_flows.training.records import read_records
from aqvolt_flows.training.stages import TrainingError

WORK = """
import json, pathlib, sys, time
from aqvolt_flows.training.records import Recorder
record = Recorder("progress.jsonl")
state = pathlib.Path("state")
done = int(state.read_text()) if state.exists() else 0
record.write("start", done)
for step in range(done + 1, 6):
    record.write("train", step, loss=1.0 / step)
    state.write_text(str(step))
    if step == 3 and done == 0 and KILLED:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path("weights").write_text("w")
record.write("end", 5)
"""


def run(folder: Path, code: str, **config: Any) -> Path:
    return run_process([sys.executable, "-c", code], folder, config, folder / "weights")


def test_a_killed_process_is_resumed_and_a_finished_one_recognized(tmp_path: Path):
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"ended with code -9 after 3 steps; expected weights"):
        run(folder, WORK.replace("KILLED", "True"), a=1)
    progress = run(folder, WORK.replace("KILLED", "True"), a=1)
    records = read_records(progress)
    assert [r["step"] for r in records if r["event"] == "train"] == [1, 2, 3, 4, 5]
    assert [r["step"] for r in records if r["event"] == "start"] == [0, 3]
    assert sum(r["event"] == "launch" for r in records) == 2
    assert run(folder, "raise SystemExit('must not run')", a=1) == progress


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path):
    folder = tmp_path / "run"
    run(folder, WORK.replace("KILLED", "False"), learning_rate=1e-3, seed=0)
    with pytest.raises(InputError, match=r"other values of learning_rate \(learning_rate was 0.001 and is now 0.01\)"):
        run(folder, WORK, learning_rate=1e-2, seed=0)


def test_lost_weights_are_made_again(tmp_path: Path):
    folder = tmp_path / "run"
    run(folder, WORK.replace("KILLED", "False"))
    (folder / "weights").unlink()
    run(folder, WORK.replace("KILLED", "False"))
    assert (folder / "weights").is_file()


def test_the_end_of_the_log_says_why(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"code 1 after 0 steps(.|\n)*no memory left"):
        run(tmp_path / "run", "raise SystemExit('no memory left')")
    with pytest.raises(TrainingError, match="without an error but left no weights"):
        run(tmp_path / "other", "pass")
