"""Frames survive Parquet within single precision, and broken files are named."""

from __future__ import annotations

import dataclasses
import resource

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import Frame, read_frame, read_frames, write_frames


def frame(n: int, step: int = 0, seed: int = 0) -> Frame:
    rng = np.random.default_rng([n, step, seed])
    return Frame(
        trajectory_id=f"trajectory-{seed}",
        step=step,
        temperature=float(np.float32(rng.uniform(100, 1000))),
        energy=float(rng.normal()),
        atomic_numbers=rng.integers(1, 90, n).astype(np.int16),
        positions=rng.normal(size=(n, 3)).astype(np.float32),
        cell=(np.eye(3) * 5 + rng.normal(size=(3, 3))).astype(np.float32),
        forces=rng.normal(size=(n, 3)).astype(np.float32),
        stress=rng.normal(size=6).astype(np.float32),
    )


def same(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Frame))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=0, max_size=12), st.integers(1, 5))
def test_frames_come_back_as_they_were(tmp_path_factory, sizes, rows):
    path = tmp_path_factory.mktemp("frames") / "f.parquet"
    frames = [frame(n, i) for i, n in enumerate(sizes)]
    assert write_frames(path, iter(frames), row_group_rows=rows) == len(sizes)
    back = list(read_frames(path))
    assert len(back) == len(frames)
    assert all(same(a, b) for a, b in zip(frames, back, strict=True))
    if frames:
        last = len(frames) - 1
        assert same(read_frame(path, last), frames[last])


def test_a_frame_is_the_same_crystal_for_ase_and_pymatgen():
    f = frame(5)
    atoms, structure = f.to_atoms(), f.to_structure()
    assert atoms.get_volume() == pytest.approx(structure.volume) == pytest.approx(f.volume)
    np.testing.assert_allclose(atoms.get_all_distances(mic=False), f.to_atoms().get_all_distances(mic=False))
    assert [s.specie.Z for s in structure] == f.atomic_numbers.tolist()
    assert f.max_force == pytest.approx(np.sqrt((f.forces**2).sum(axis=1)).max())


def test_a_row_that_is_not_there_and_a_file_cut_short_are_named(tmp_path):
    path = tmp_path / "f.parquet"
    write_frames(path, [frame(2)])
    with pytest.raises(InputError, match="has 1 rows; row 1"):
        read_frame(path, 1)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cut short"):
        list(read_frames(cut))


def test_a_failed_write_leaves_no_file(tmp_path):
    def broken():
        yield frame(2)
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_frames(tmp_path / "f.parquet", broken())
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    path = tmp_path / "f.parquet"
    write_frames(path, (frame(64, i) for i in range(64)), row_group_rows=64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_frames(path, (frame(64, i) for i in range(4096)), row_group_rows=64)
    # 4,096 frames hold 4096·64·(3+3)·4 B = 6.3 MB of arrays and far more as Python objects (about 1 kB each array).
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
    assert pq.ParquetFile(path).num_row_groups == 64
