"""Divergence, a full disk, the best and the last good checkpoint: fairchem's runner in this process."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from fairchem_runner import checkpoints, records, runner

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # imports fairchem, which warns


def spoiled(made: Any, steps: set[int]) -> None:
    """Give the steps (from 1) a target that is too large for any number: their gradient is not finite."""
    unit = made.train_eval_unit
    original = unit.get_next_train_batch

    def next_batch(state: Any, data: Any) -> Any:
        batches = original(state, data)
        if unit.train_progress.num_steps_completed + 1 in steps:
            batches[0].energy = batches[0].energy * 0 + 3e38
        return batches

    unit.get_next_train_batch = next_batch


@pytest.fixture(scope="module")
def in_one_go(shared_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 12 steps that nothing disturbed."""
    place = tmp_path_factory.mktemp("undisturbed")
    with runner(shared_release, place) as made:
        made.run()
    return place


@pytest.fixture
def undisturbed(in_one_go: Path) -> list[dict[str, Any]]:
    """Its train records."""
    return records(in_one_go, "train")


def test_it_trains_as_fairchems_own_unit_does(shared_release: Path, in_one_go: Path, tmp_path: Path):
    """The same weights after 12 steps, last and averaged, from the same configuration."""
    from aqvolt_flows.training.stages import load_checkpoint

    with runner(shared_release, tmp_path, theirs=True) as made:
        made.run()
    final = "direct/checkpoints/final/inference_ckpt.pt"
    ours, theirs = (load_checkpoint(place / final) for place in (in_one_go, tmp_path))
    for name in ("model_state_dict", "ema_state_dict"):
        here, there = getattr(ours, name), getattr(theirs, name)
        assert here.keys() == there.keys()
        assert max(float(abs(value - there[key]).max()) for key, value in here.items()) < 1e-5
    assert ours.model_config == theirs.model_config
    assert ours.tasks_config == theirs.tasks_config


def test_a_learning_rate_of_1e12_ends_the_training_and_keeps_the_good_checkpoint(release: Path, tmp_path: Path):
    from aqvolt_flows.training.unit import DivergenceError

    said = r"At step \d+ the (loss|gradient norm) .*the 3 steps before"
    with (
        runner(release, tmp_path, stage={"learning_rate": 1e12}, max_consecutive_skips=3) as made,
        pytest.raises(DivergenceError, match=said),
    ):
        made.run()
    assert checkpoints(tmp_path) == {"step_0"}
    (failed,) = records(tmp_path, "failed")
    assert failed["reason"] == "diverged"
    skipped = records(tmp_path, "skipped")
    assert len(skipped) == 4
    assert all(r["frame_ids"] and r["frame_ids"][0].startswith("train-") for r in skipped)
    assert [r["step"] for r in records(tmp_path, "train")] == [1]  # the one step that was taken
    assert not records(tmp_path, "end")


def test_stop_ends_at_the_first_bad_step(release: Path, tmp_path: Path):
    from aqvolt_flows.training.unit import DivergenceError

    with runner(release, tmp_path, on_divergence="stop") as made:
        spoiled(made, {6})
        with pytest.raises(DivergenceError, match="At step 6"):
            made.run()
    assert [r["step"] for r in records(tmp_path, "skipped")] == [6]
    assert checkpoints(tmp_path) == {"step_0", "step_4"}


def test_one_bad_step_is_skipped_and_the_weights_stay(release: Path, tmp_path: Path, undisturbed: list):
    import torch

    with runner(release, tmp_path) as made:
        spoiled(made, {5})  # its weights are those of the checkpoint at step 4, which therefore is not confirmed
        unit = made.train_eval_unit
        seen: dict[int, Any] = {}
        original = unit.train_step

        def step(state: Any, data: Any) -> None:
            original(state, data)
            seen[unit.last.step] = [p.detach().clone() for p in unit.model.parameters()]

        unit.train_step = step
        made.run()
    assert all(torch.equal(a, b) for a, b in zip(seen[4], seen[5], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[5], seen[6], strict=True))
    (skipped,) = records(tmp_path, "skipped")
    assert skipped["step"] == 5
    assert skipped["reason"]
    assert skipped["frame_ids"]
    assert {r["step"] for r in records(tmp_path, "train")} == set(range(1, 13)) - {5}
    assert records(tmp_path, "train")[-1]["skipped"] == 1
    rates = {r["step"]: r["learning_rate"] for r in undisturbed}  # the schedule counts skipped steps
    assert {r["step"]: r["learning_rate"] for r in records(tmp_path, "train")} == {
        step: rate for step, rate in rates.items() if step != 5
    }
    assert checkpoints(tmp_path) == {"step_0", "step_8", "final"}


def test_a_full_disk_keeps_what_is_good_and_says_so(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full at step 8: dcp's writer fails with what the system says, half a file is left."""
    with runner(release, tmp_path) as made:
        save = made.save_state

        def full(place: str, **_: Any) -> bool:
            if place.endswith("step_8"):
                Path(place).mkdir()
                (Path(place) / "half.distcp").write_bytes(b"x" * 100)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return save(place)

        monkeypatch.setattr(made, "save_state", full)
        with pytest.raises(SystemExit) as caught:
            made.run()
    assert caught.value.code == 74
    (failed,) = records(tmp_path, "failed")
    assert failed["reason"] == "cannot_write"
    assert "No space left on device" in failed["message"]
    assert "resumes from step_4" in failed["message"]
    assert checkpoints(tmp_path) == {"step_0", "step_4"}
    assert not (tmp_path / "direct/checkpoints/step_8").exists()
    with runner(release, tmp_path) as made:  # room again
        made.run()
    assert [r["step"] for r in records(tmp_path, "start")] == [0, 4]
    assert records(tmp_path, "end")
    assert checkpoints(tmp_path) == {"step_4", "step_8", "final"}


def test_the_best_by_validation_is_kept_and_loads(release: Path, tmp_path: Path):
    from aqvolt_flows.training.stages import load_checkpoint

    with runner(release, tmp_path, best_by="energy_per_atom_mae") as made:
        made.run()
    evaluations = {r["step"]: r["metrics"]["energy_per_atom_mae"] for r in records(tmp_path, "eval")}
    best = json.loads((tmp_path / "direct/checkpoints/best/best.json").read_text())
    assert best["metric"] == "energy_per_atom_mae"
    assert best["value"] == pytest.approx(min(evaluations.values()), rel=1e-5)
    final = load_checkpoint(tmp_path / "direct/checkpoints/final/inference_ckpt.pt")
    kept = load_checkpoint(tmp_path / "direct/checkpoints/best/inference_ckpt.pt")
    assert kept.model_state_dict.keys() == final.model_state_dict.keys()
    assert kept.ema_state_dict.keys() == final.ema_state_dict.keys()
    assert kept.model_config == final.model_config
    assert kept.tasks_config == final.tasks_config


@pytest.mark.parametrize("how", ["SIGTERM", "the allocation ends"])
def test_it_stops_with_a_checkpoint_and_goes_on_from_it(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, undisturbed: list
):
    from aqvolt_flows.training.checkpoints import StoppedEarly

    if how != "SIGTERM":
        monkeypatch.setenv("AQVOLT_TRAINER_STOP_AT", repr(time.time()))
    with runner(release, tmp_path) as made:
        if how == "SIGTERM":
            unit = made.train_eval_unit
            original = unit.train_step

            def step(state: Any, data: Any) -> None:
                if unit.train_progress.num_steps_completed == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                original(state, data)

            unit.train_step = step
        with pytest.raises(StoppedEarly):
            made.run()
    (stopped,) = records(tmp_path, "stopped")
    assert (stopped["step"], stopped["reason"]) == (2, how)
    assert "step_2" in checkpoints(tmp_path)
    monkeypatch.delenv("AQVOLT_TRAINER_STOP_AT", raising=False)
    with runner(release, tmp_path) as made:
        made.run()
    losses = [{r["step"]: r["loss"] for r in found} for found in (records(tmp_path, "train"), undisturbed)]
    assert losses[0].keys() == losses[1].keys() == set(range(1, 13))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_stop_at_the_end_of_an_epoch_goes_on_with_the_next(release: Path, tmp_path: Path):
    """Four batches an epoch; fairchem's sampler refuses to start behind the last."""
    from aqvolt_flows.training.checkpoints import StoppedEarly

    with runner(release, tmp_path, stage={"batch_atoms": 48}) as made:
        unit = made.train_eval_unit
        assert unit.accumulation == 2
        per_epoch = -(-len(made.train_dataloader) // 2)
        original = unit.train_step

        def step(state: Any, data: Any) -> None:
            unit.stop_wanted = unit.train_progress.num_steps_completed == per_epoch
            original(state, data)

        unit.train_step = step
        with pytest.raises(StoppedEarly):
            made.run()
    with runner(release, tmp_path, stage={"batch_atoms": 48}) as made:
        made.run()
    steps = [r["step"] for r in records(tmp_path, "train")]
    assert steps == list(range(1, 13))
    assert all(math.isfinite(r["loss"]) for r in records(tmp_path, "train"))
    assert records(tmp_path, "start")[0]["steps_per_epoch"] == per_epoch
