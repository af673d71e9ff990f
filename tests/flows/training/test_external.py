"""MACE by another interpreter: a stand-in that reads the same command lines and writes the same files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read
from stand_in_mace import STAND_IN

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.trainings import MaceParameters
from aqvolt_flows.trainers import TRAINERS, Trained, TrainingTask
from aqvolt_flows.training.curves import curve_table, summary_of
from aqvolt_flows.training.external import command_of, results_of, versions_there, write_extxyz
from aqvolt_flows.training.fine_tune import frames_of
from aqvolt_flows.training.stages import TrainingError


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Path of the stand-in interpreter."""
    file = tmp_path / "bin" / "python"
    file.parent.mkdir()
    file.write_text(STAND_IN.format(python=sys.executable))
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def tested(release: Path) -> Path:
    """The release with its validation split as test split too."""
    (release / "exports/aselmdb/test").symlink_to(release / "exports/aselmdb/val")
    return release


def train(python: str, release: Path, folder: Path, **values: Any) -> Trained:
    parameters = MaceParameters(python=python, epochs=3, **values)
    return TRAINERS["mace"].train(TrainingTask(parameters, release, folder, "cpu"))


def test_a_training_by_another_interpreter(python: str, tested: Path, tmp_path: Path):
    """Expected errors are those that the stand-in makes: 0.5 eV/atom, 0.25 eV/Å, 0.125 eV/Å³."""
    found = train(python, tested, tmp_path / "run")
    assert found.weights.read_bytes() == b"a network"
    assert found.versions["mace-torch"] == "0.3.16"
    assert found.validated_on == "val"
    assert set(found.references) == {"Li", "F", "Cl"}
    expected = {"energy_per_atom_mae": 0.5, "forces_mae": 0.25, "stress_mae": 0.125}
    assert found.held_out["trained"] == pytest.approx(expected)
    said = summary_of(curve_table(found.progress))
    assert said["steps"] == 6
    assert [loss for _, loss in said["losses"]] == [1.0, 1.0, 0.5, 0.5, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert said["metrics_first"]["energy_per_atom_mae"] == pytest.approx(0.1)
    assert said["metrics"] == pytest.approx({"energy_per_atom_mae": 0.025, "forces_mae": 0.2, "stress_mae": 0.003})


def test_a_killed_training_goes_on_and_counts_its_epochs_once(
    python: str, tested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KILLED", "1")
    with pytest.raises(TrainingError, match="code -9"):
        train(python, tested, tmp_path / "run")
    found = train(python, tested, tmp_path / "run")
    table = curve_table(found.progress).to_pylist()
    assert [r["epoch"] for r in table if r["event"] == "train"] == [1, 1, 2, 2, 3, 3]
    assert [r["step"] for r in table if r["event"] == "eval"] == [0, 2, 4, 6]


def test_the_data_are_handed_over_with_units_and_signs(release: Path, tmp_path: Path):
    """What ASE reads from the file is what the release holds; the stress has nine numbers and ASE's sign."""
    folder = release / "exports/aselmdb/train"
    assert write_extxyz(folder, tmp_path / "train.xyz") == 24
    for written, frame in zip(read(tmp_path / "train.xyz", ":"), frames_of(folder), strict=True):
        assert written.info["REF_energy"] == pytest.approx(frame.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(written.arrays["REF_forces"], frame.get_forces(), atol=1e-7)
        full = np.reshape(written.info["REF_stress"], (3, 3))
        np.testing.assert_allclose(full, frame.get_stress(voigt=False), atol=1e-7)
        np.testing.assert_allclose(written.cell[:], frame.cell[:], atol=1e-7)
        assert written.calc is None


def test_a_fine_tuning_starts_from_a_foundation_model():
    command = command_of(
        MaceParameters(python="/p", epochs=1, start="medium", options={"ema": True}), "cuda:1", {3: -1}
    )
    assert command[:3] == ["/p", "-m", "mace.cli.run_train"]
    assert {"--foundation_model=medium", "--multiheads_finetuning=False", "--E0s=estimated", "--ema=True"} <= {*command}
    assert "--device=cuda" in command


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('{}')", "print('no JSON')", "import no_such_module"])
def test_an_interpreter_without_mace_says_what_to_do(tmp_path: Path, code: str):
    file = tmp_path / "python"
    file.write_text(f"#!{sys.executable}\n{code}\n")
    file.chmod(0o755)
    with pytest.raises(ResourceError, match=f"The interpreter {file} .*pip install mace-torch"):
        versions_there(str(file))


def test_results_that_cannot_be_read_are_passed_over(tmp_path: Path):
    results = tmp_path / "results"
    results.mkdir()
    lines = [
        json.dumps({"mode": "opt", "epoch": 0, "loss": 1.0}),
        '{"mode": "op',
        json.dumps({"mode": "eval", "epoch": 0}),
    ]
    (results / "aqvolt_run-0_train.txt").write_text("\n".join(lines))
    assert [r["mode"] for r in results_of(tmp_path)] == ["opt", "eval"]


def test_a_training_without_records_is_a_failure(tmp_path: Path, tested: Path):
    file = tmp_path / "python"
    body = STAND_IN.format(python=sys.executable).replace('say(mode="opt"', 'dict(mode="opt"')
    file.write_text(body)
    file.chmod(0o755)
    with pytest.raises(TrainingError, match="left no record of an optimizer step"):
        train(str(file), tested, tmp_path / "run")
