"""Frames survive Parquet within single precision, and broken files are named."""

from __future__ import annotations

import dataclasses
import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import (
    REQUIRED,
    SCHEMA,
    Frame,
    count_frames,
    from_columns,
    from_table,
    read_frame,
    read_frames,
    read_thinned,
    stacked_table,
    thin,
    to_columns,
    to_table,
    write_frames,
)


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
        pressure=float(np.float32(rng.normal())) if seed % 2 == 0 else None,
        equilibration=step < 2 if seed % 2 == 0 else None,
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
    assert structure.site_properties == {}


def test_atoms_hold_what_the_exploring_potential_said_and_a_copy_does_not():
    f = frame(5)
    atoms = f.to_atoms()
    assert atoms.get_potential_energy() == f.energy
    np.testing.assert_array_equal(atoms.get_forces(), f.forces.astype(float))
    np.testing.assert_array_equal(atoms.get_stress(), f.stress.astype(float))
    assert atoms.info == {"trajectory_id": f.trajectory_id, "step": f.step, "temperature": f.temperature}
    assert atoms.copy().calc is None
    atoms.positions[0, 0] += 0.1  # ASE refuses results of another configuration
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy()


def test_columns_of_a_document_are_the_frames_bit_by_bit():
    frames = [dataclasses.replace(frame(3), step=step, pressure=p) for step, p in ((0, None), (5, 0.25))]
    columns = json.loads(json.dumps(to_columns(frames)))
    assert all(same(a, b) for a, b in zip(frames, from_columns(frames[0].trajectory_id, columns), strict=True))


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


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 50), st.one_of(st.none(), st.integers(1, 400)))
def test_thinning_takes_rows_in_order_evenly_and_within_the_limit(n, stride, limit):
    rows = thin(n, stride, limit).tolist()
    every = list(range(0, n, stride))
    assert rows == sorted(set(rows))
    assert set(rows) <= set(every)
    assert len(rows) == min(len(every), limit or len(every))
    if len(rows) > 1:
        assert (rows[0], rows[-1]) == (every[0], every[-1])
        gaps = np.diff(rows) // stride
        assert gaps.max() - gaps.min() <= 1


def test_a_paper_run_gives_about_346_frames():
    """8.5 M encoded of 24,555 runs (section 2.1) are 346 each; a run of 50,000 steps writes every sixth."""
    assert len(thin(50_000 // 6 + 1, stride=24)) == pytest.approx(8.5e6 / (4911 * 5), rel=0.01)


def test_chosen_rows_are_read_from_their_row_groups(tmp_path):
    frames = [frame(3, i) for i in range(25)]
    path = tmp_path / "f.parquet"
    write_frames(path, frames, row_group_rows=4)
    assert count_frames(path) == 25
    found = list(read_thinned(path, stride=9))
    assert [row for row, _ in found] == [0, 9, 18]
    assert all(same(f, frames[row]) for row, f in found)
    assert [row for row, _ in read_thinned(path, max_frames=2)] == [0, 24]
    with pytest.raises(InputError, match="expected numbers of 1 or more"):
        list(read_thinned(path, stride=0))


def test_files_from_before_pressure_and_volume_are_read(tmp_path):
    frames = [frame(3, i) for i in range(5)]
    pq.write_table(to_table(frames).select(list(REQUIRED)), tmp_path / "old.parquet")
    back = list(read_frames(tmp_path / "old.parquet"))
    assert [f.pressure for f in back] == [None] * 5
    assert back[3].volume == pytest.approx(frames[3].volume)
    assert read_frame(tmp_path / "old.parquet", 4).step == 4
    assert [row for row, _ in read_thinned(tmp_path / "old.parquet", stride=2)] == [0, 2, 4]


def test_stacked_columns_are_the_frames_one_by_one():
    """The columns that a batch writes hold what a table of single frames holds."""
    frames = [dataclasses.replace(frame(4, i), trajectory_id="t", atomic_numbers=frame(4).atomic_numbers)
              for i in range(3)]  # fmt: skip
    names = ("step", "temperature", "energy", "pressure", "volume", "positions", "forces", "cell", "stress",
             "equilibration")  # fmt: skip
    columns = {name: np.stack([getattr(f, name) for f in frames]) for name in names}
    table = stacked_table("t", frames[0].atomic_numbers, columns)
    assert table.schema == SCHEMA
    assert table.equals(pa.concat_tables([to_table(frames)]))
    assert all(same(a, b) for a, b in zip(from_table(table), frames, strict=True))
    none = stacked_table("t", frames[0].atomic_numbers, {name: column[:0] for name, column in columns.items()})
    assert none.num_rows == 0
