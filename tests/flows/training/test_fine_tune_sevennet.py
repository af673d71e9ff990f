"""Fine-tuning of SevenNet on Lennard-Jones labels: resumed as undisturbed, learned, and loaded by sevenn itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.potentials.trained import string_of
from aqvolt_flows.schemas.trainings import SevenNetParameters
from aqvolt_flows.trainers import TRAINERS, Trained, TrainingTask
from aqvolt_flows.training.curves import curve_table, summary_of
from aqvolt_flows.training.data import open_split
from aqvolt_flows.training.fine_tune import errors_on, frames_of, splits_for
from aqvolt_flows.training.fine_tune_sevennet import checkpoint_of
from aqvolt_flows.training.records import read_records

PARAMETERS = {"steps": 8, "max_atoms": 24, "learning_rate": 2e-3, "evaluations": 4}


@pytest.fixture
def trained(release: Path, tmp_path: Path) -> Trained:
    """A fine-tuning as the campaign's job runs it: a process of its own."""
    (release / "exports/aselmdb/test").symlink_to(release / "exports/aselmdb/val")
    parameters = SevenNetParameters(**PARAMETERS)
    return TRAINERS["sevennet"].train(TrainingTask(parameters, release, tmp_path / "run", "cpu"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Warnings of sevenn are none of ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_from_a_release_to_a_potential(
    trained: Trained, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    it_learned(trained)
    its_errors_are_those_of_the_potential(trained, release)
    sevenn_loads_it(trained, release)
    an_interrupted_one_ends_with_the_same_weights(trained, tmp_path, monkeypatch)


def pinned(weights: Path) -> str:
    """Return the model string of weights that the test made."""
    return string_of("sevennet", weights, "R2SCAN", file_sha256(weights))


def it_learned(trained: Trained) -> None:
    """The labels count from other atoms by eV: the fit takes that off, the steps reduce what is left of the forces."""
    start, after = trained.held_out["start"], trained.held_out["trained"]
    assert start["energy_per_atom_mae"] > 1.0
    assert after["energy_per_atom_mae"] < 0.1 * start["energy_per_atom_mae"]
    assert after["forces_mae"] < start["forces_mae"]
    assert set(trained.references) == {"Li", "F", "Cl"}
    rows = curve_table(trained.progress).to_pylist()
    steps = [r for r in rows if r["event"] == "train"]
    assert [r["step"] for r in steps] == list(range(1, 9))
    assert all(r["learning_rate"] > 0 and r["gradient_norm"] > 0 and r["atoms_per_s"] > 0 for r in steps)
    assert all(r["loss_energy"] is not None and 0 <= r["data_wait_share"] < 1 for r in steps)
    assert all(r["atoms"] <= 24 for r in steps)


def its_errors_are_those_of_the_potential(trained: Trained, release: Path) -> None:
    """Independent: our torch-sim potential on the same frames; stresses have another order and sign inside sevenn."""
    evaluations = [r for r in read_records(trained.progress) if r["event"] == "eval" and r["step"]]
    best = min(evaluations, key=lambda r: r["loss"])
    found = errors_on(
        open_split(release, "val"),
        pinned(trained.weights),
        "cpu",
    )
    assert found == pytest.approx(best["metrics"], rel=2e-3)
    first = next(r for r in read_records(trained.progress) if r["event"] == "eval" and r["step"] == 0)
    assert errors_on(open_split(release, "val"), "7net-mf-0/R2SCAN", "cpu") == pytest.approx(first["metrics"], rel=2e-3)


def sevenn_loads_it(trained: Trained, release: Path) -> None:
    from sevenn.calculator import SevenNetCalculator

    from aqvolt_flows.potentials import load_potential

    frame = next(frames_of(release / "exports/aselmdb/val"))
    (ours,) = load_potential(pinned(trained.weights)).evaluate([frame])
    frame.calc = SevenNetCalculator(str(trained.weights), modal="R2SCAN", device="cpu")
    assert frame.get_potential_energy() == pytest.approx(ours.energy, abs=1e-3)
    np.testing.assert_allclose(frame.get_forces(), ours.forces, atol=1e-3)
    np.testing.assert_allclose(frame.get_stress(), ours.stress, atol=1e-4)


def an_interrupted_one_ends_with_the_same_weights(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while step 6 is recorded, with states on disk after every step; float32 on the CPU repeats itself."""
    import torch

    from aqvolt_flows.training import sevennet_process

    class Interrupted(BaseException):
        pass

    folder = tmp_path / "interrupted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    given = json.loads((tmp_path / "run" / "config.json").read_text())
    run = sevennet_process._Run(given)
    write = run.record.write

    def stop(event: str, step: int, **values: Any) -> None:
        if (event, step) == ("train", 6):
            raise Interrupted
        write(event, step, **values)

    monkeypatch.setattr(run.record, "write", stop)
    with pytest.raises(Interrupted):
        run.run()
    assert not Path(sevennet_process.WEIGHTS).exists()
    sevennet_process._Run(given).run()
    states = [
        torch.load(path, weights_only=True)["model_state_dict"]
        for path in (trained.weights, folder / sevennet_process.WEIGHTS)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.allclose(states[0][n], states[1][n], rtol=1e-5, atol=1e-6) for n in states[0])
    steps = [r["step"] for r in read_records(folder / "progress.jsonl") if r["event"] == "train"]
    assert steps == list(range(1, 9))
    assert summary_of(curve_table(folder / "progress.jsonl"))["metrics"] == pytest.approx(
        summary_of(curve_table(trained.progress))["metrics"], rel=1e-4
    )
    divergence_is_given_up(given, tmp_path, monkeypatch)


def divergence_is_given_up(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate beyond all measure: steps are left out and named, then the training ends with a sentence."""
    from aqvolt_flows.training import sevennet_process

    folder = tmp_path / "diverged"
    folder.mkdir()
    monkeypatch.chdir(folder)
    wild = given | {"parameters": given["parameters"] | {"learning_rate": 1e12, "steps": 30, "fit_references": False}}
    with pytest.raises(SystemExit, match=r"diverged: 10 steps in a row .* lower learning_rate"):
        sevennet_process._Run(wild).run()
    skipped = [r for r in read_records(folder / "progress.jsonl") if r["event"] == "skipped"]
    assert len(skipped) == 10
    assert all(r["gradient_norm"] is None for r in skipped)
    assert all(name.startswith("train-") for r in skipped for name in r["frame_ids"])
    assert all(r["frame_ids"] for r in skipped)
    assert not Path(sevennet_process.WEIGHTS).exists()


def test_a_start_of_another_family_is_refused():
    with pytest.raises(InputError, match=r"sevennet trainer cannot start from 'chgnet/r2scan'; give 7net-mf-0/R2SCAN"):
        checkpoint_of("chgnet/r2scan")
    assert checkpoint_of("7net-mf-0/R2SCAN") == ("7net-mf-0", "R2SCAN")
    assert checkpoint_of("sevennet:/a/b.pth#PBE") == (Path("/a/b.pth"), "PBE")


def test_a_release_that_cannot_be_trained_on_is_refused(release: Path):
    with pytest.raises(InputError, match="a structure of 8 atoms, above max_atoms = 7; raise max_atoms to at least 8"):
        splits_for(release, 7)
    np.savez(release / "exports/aselmdb/val/metadata.npz", natoms=np.zeros(0, dtype=np.int64))
    assert splits_for(release)[2] == "train"
    np.savez(release / "exports/aselmdb/train/metadata.npz", natoms=np.zeros(0, dtype=np.int64))
    with pytest.raises(InputError, match="has an empty training split"):
        splits_for(release)
