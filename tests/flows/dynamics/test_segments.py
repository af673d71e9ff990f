"""A batch that is killed, runs out of time, or finds its checkpoint damaged; also the script of the killed process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import argon
import pytest
from argon import crystal, parameters, system

torch = pytest.importorskip("torch")

from aqvolt_flows.dynamics.checkpoints import BatchFolder, PartFrames  # noqa: E402
from aqvolt_flows.dynamics.npt import NpTRun  # noqa: E402
from aqvolt_flows.dynamics.segments import MARGIN_S, Segment, deadline, explore_to_folder  # noqa: E402
from aqvolt_flows.errors import ResourceError  # noqa: E402
from aqvolt_flows.frames import ROW_GROUP_ROWS, SCHEMA, read_frames, to_table  # noqa: E402


def make(folder: BatchFolder, out: Path, ensemble: str, n_steps: int = 80, **options) -> Segment:
    """Four systems of which two run together; one is squeezed and fails on the way."""
    p = parameters(ensemble=ensemble, n_steps=n_steps, stride=4, max_batch_atoms=8, max_volume_ratio=1.5)
    atoms = [crystal(5.3, 1), crystal(3.2, 1), crystal(5.2, 1), crystal(5.4, 1)]
    systems = [system(seed=i, name=f"s{i}", atoms=a) for i, a in enumerate(atoms)]

    def store(ended):
        name = ended.outcome.system.trajectory_id
        (out / f"{name}.parquet").write_bytes(ended.path.read_bytes())
        failure = ended.outcome.failure and ended.outcome.failure.message
        about = [ended.outcome.steps_done, failure, ended.statistics.n_frames]
        (out / f"{name}.json").write_text(json.dumps(about))

    out.mkdir(exist_ok=True)
    return Segment(folder, lambda sink: NpTRun(argon.model(), systems, p, sink), 12, store, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What runs write that nothing interrupts, by ensemble."""
    results = {}
    for ensemble in ("npt_nose_hoover_isotropic", "npt_crescale_full"):
        folder = tmp_path_factory.mktemp(ensemble)
        with BatchFolder(folder / "batch") as held:
            assert make(held, folder / "out", ensemble).go()
        assert not (folder / "batch").exists()
        results[ensemble] = contents(folder / "out")
    return results


def test_an_uninterrupted_batch_writes_every_frame_once(whole, tmp_path):
    for files in whole.values():
        assert len(files) == 8
        for name in ("s0", "s1", "s2", "s3"):
            steps_done, failure, n_frames = json.loads(files[f"{name}.json"])
            (tmp_path / name).write_bytes(files[f"{name}.parquet"])
            frames = list(read_frames(tmp_path / name))
            assert (failure is None) == (name != "s1")
            assert [f.step for f in frames] == list(range(0, steps_done if failure else 81, 4))
            assert len(frames) == n_frames
            assert all(f.pressure is not None for f in frames)


def test_a_killed_process_is_continued_to_the_same_bytes(whole, tmp_path):
    """Frames, energies in double precision among them, are those of the run that was not killed."""
    script = [sys.executable, __file__, str(tmp_path)]
    paths = os.pathsep.join([str(Path(argon.__file__).parent), *sys.path])
    process = subprocess.Popen(script, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.DEVNULL)
    reached = tmp_path / "reached"
    limit = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < limit and not reached.exists():
        time.sleep(0.02)
    assert process.poll() is None, "the process ended by itself"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "batch" / "checkpoint.pt").is_file()
    assert len(contents(tmp_path / "out")) < 8
    with BatchFolder(tmp_path / "batch") as held:
        segment = make(held, tmp_path / "out", "npt_nose_hoover_isotropic")
        assert segment.segment == 2
        assert 0 < min(segment.run.running.values()) < 40
        assert segment.go()
    assert contents(tmp_path / "out") == whole["npt_nose_hoover_isotropic"]


@pytest.mark.parametrize("stop", [13, 30, 64])
def test_cell_rescaling_continues_with_the_same_noise(whole, tmp_path, stop):
    """The run is left where it stands, with frames that no checkpoint names; what was written after it is undone."""
    with BatchFolder(tmp_path / "batch") as held:
        left = make(held, tmp_path / "out", "npt_crescale_full")
        with pytest.raises(KeyboardInterrupt):
            left.go(lambda run: _stop(run, stop))
        left.run.flush()
        left._frames.close_part()  # a part that the kill left behind
    with BatchFolder(tmp_path / "batch") as held:
        assert make(held, tmp_path / "out", "npt_crescale_full").go()
    assert contents(tmp_path / "out") == whole["npt_crescale_full"]


def _stop(run, tick):
    if run.tick >= tick:
        raise KeyboardInterrupt


def test_a_walltime_ends_segments_at_checkpoints_and_the_next_goes_on(whole, tmp_path):
    """Each tick takes a second by this clock; 12 steps lie between checkpoints and a segment may take 30."""
    segments = 0
    done = False
    while not done:
        now = [0.0]
        with BatchFolder(tmp_path / "batch") as held:
            segment = make(
                held, tmp_path / "out", "npt_nose_hoover_isotropic", ends_at=30.0, clock=lambda now=now: now[0]
            )
            done = segment.go(lambda run, now=now: now.__setitem__(0, now[0] + 1.0))
        segments += 1
        assert done or now[0] == 24.0  # the next checkpoint would come at 36
    assert segments > 3
    assert segment.segment == segments
    assert contents(tmp_path / "out") == whole["npt_nose_hoover_isotropic"]


def test_a_segment_gets_on_even_if_its_time_is_over_at_once(tmp_path):
    ticks = []
    for _ in range(2):
        with BatchFolder(tmp_path / "batch") as held:
            segment = make(held, tmp_path / "out", "npt_nose_hoover_isotropic", ends_at=-1.0)
            assert not segment.go()
            ticks.append(segment.run.tick)
    assert ticks == [4, 8]


def test_the_deadline_is_the_walltime_or_the_end_of_the_allocation():
    assert deadline(None, 100.0, {}) is None
    assert deadline(60.0, 100.0, {}) == 160.0
    assert deadline(6e5, 100.0, {"SLURM_JOB_END_TIME": "5000"}) == 5000 - MARGIN_S
    assert deadline(None, 100.0, {"SLURM_JOB_END_TIME": "not a number"}) is None


def test_a_damaged_checkpoint_is_set_aside_and_a_held_folder_is_refused(tmp_path):
    with BatchFolder(tmp_path / "batch") as held:
        held.save({"run": {}, "parts": {}})
        assert held.load() == {"version": 2, "run": {}, "parts": {}}
        path = tmp_path / "batch" / "checkpoint.pt"
        path.write_bytes(path.read_bytes()[:100])
        assert held.load() is None
        assert (tmp_path / "batch" / "checkpoint.damaged").is_file()
        with pytest.raises(ResourceError, match="Another process runs the batch"), BatchFolder(tmp_path / "batch"):
            pass
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ResourceError, match="set checkpoint_dir"), BatchFolder(blocked / "below"):
        pass


def test_systems_run_into_a_folder_without_a_database(tmp_path):
    ended = explore_to_folder(
        argon.model(), [system(name="a", atoms=crystal(5.3, 1))], parameters(n_steps=20), tmp_path
    )
    assert ended["a"].statistics.n_frames == 3
    assert ended["a"].outcome.seconds > 0
    assert [f.step for f in read_frames(tmp_path / "a.parquet")] == [0, 10, 20]
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_joined_files_do_not_tell_where_parts_ended(tmp_path):
    [outcome] = NpTRun(argon.model(), [system(atoms=crystal(5.3, 1))], parameters(n_steps=30, stride=1)).run()
    table = to_table(outcome.frames * 40)  # 1,240 rows
    files = []
    for sizes in ((1240,), (7, 1100, 133)):
        folder = tmp_path / f"parts{len(sizes)}"
        folder.mkdir()
        frames, first = PartFrames(folder), 0
        for size in sizes:
            frames.add("other", table.slice(0, 3))
            frames.add("t", table.slice(first, size))
            frames.close_part()
            first += size
        statistics = frames.join("t", folder / "joined")
        files.append((folder / "joined").read_bytes())
        assert statistics.n_frames == 1240
        assert statistics.max_force == pytest.approx(max(f.max_force for f in outcome.frames))
        assert frames.forget({"t"}) == []
        assert len(frames.forget({"t", "other"})) == len(sizes)
    assert files[0] == files[1]
    assert ROW_GROUP_ROWS < 1240
    empty = tmp_path / "empty"
    empty.mkdir()
    assert PartFrames(empty).join("t", empty / "joined").n_frames == 0
    assert list(read_frames(empty / "joined")) == []
    assert table.schema == SCHEMA


if __name__ == "__main__":
    place = Path(sys.argv[1])

    def slow(run) -> None:
        """Say that a checkpoint has been passed, then take so long that the kill comes before the end."""
        if run.tick > 30:
            (place / "reached").touch()
            time.sleep(0.5)

    with BatchFolder(place / "batch") as held:
        make(held, place / "out", "npt_nose_hoover_isotropic").go(slow)
