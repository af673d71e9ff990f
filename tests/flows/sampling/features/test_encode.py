"""From files to features: frames of many files go to the encoder together and keep their addresses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk

from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import Frame, write_frames
from aqvolt_flows.sampling.encoders.base import Features, FlatEncoder
from aqvolt_flows.sampling.features.encode import configurations, encode_configurations, encode_trajectories
from aqvolt_flows.schemas.feature import Piece
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef

REF = ArtifactRef(sha256="0" * 64, format="parquet", bytes=3)


class Places(FlatEncoder):
    """The first component of the first atom, and places; a frame with hydrogen is a failure. Remembers its calls."""

    layer, d_structure, d_atom, cutoff, sha256 = "x", 1, 3, 5.0, "0" * 64

    def __init__(self) -> None:
        self.name, self.calls = "places", []

    def _run(self, frames):
        self.calls.append(len(frames))
        bad = {i: "isolated_atom" for i in range(len(frames)) if (frames[i].numbers == 1).any()}
        kept = frames.take([i for i in range(len(frames)) if i not in bad])
        first = kept.positions[kept.offsets[:-1], :1]
        return Features(first.astype(np.float32), kept.positions.astype(np.float32), kept.n_atoms, bad)


def trajectory(path: Path, n: int, size: int, start: float, bad: tuple[int, ...] = ()) -> Path:
    """Write n frames of size³ × 2 atoms whose first atom is at x = start + row."""
    frames = []
    for row in range(n):
        atoms = bulk("HCl" if row in bad else "LiCl", "rocksalt", a=5.1) * size
        atoms.positions[:, 0] += start + row
        none = np.zeros((len(atoms), 3), np.float32)
        cell, places = atoms.cell[:].astype(np.float32), atoms.positions.astype(np.float32)
        numbers = atoms.numbers.astype(np.int16)
        frames.append(Frame("t", 10 * row, 300.0, 0.0, numbers, places, cell, none, np.zeros(6, np.float32)))
    write_frames(path, frames)
    return path


def test_frames_of_many_files_are_encoded_together_and_keep_their_addresses(tmp_path):
    encoder = Places()
    sizes = [(7, 1), (1, 2), (0, 1), (5, 1)]
    paths = [
        trajectory(tmp_path / f"{i}.parquet", n, size, 100 * i, (0, 3) if i == 3 else ())
        for i, (n, size) in enumerate(sizes)
        if n
    ]
    names = ["0", "1", "3"]
    pieces = [Piece(source=n, file=REF, start=1 if n == "0" else 0, stop=sizes[int(n)][0]) for n in names]
    parameters = SamplingParameters(max_batch_atoms=16, duplicate_tolerance_a=0)
    found = encode_trajectories(pieces, paths, encoder, parameters)
    assert found.counts["generated"] == 12
    assert (found.counts["encoded"], found.counts["unencodable_isolated_atom"]) == (10, 2)
    assert encoder.calls == [6, 1, 5], "38 atoms in batches of at most 16, not one call for each file"
    frames = found.frames
    assert frames is not None
    assert list(frames.trajectory_ids) == ["0"] * 6 + ["1"] + ["3"] * 3
    assert frames.rows.tolist() == [1, 2, 3, 4, 5, 6, 0, 1, 2, 4]
    assert frames.steps.tolist() == [10 * row for row in frames.rows]
    assert frames.features.n_atoms.tolist() == [2] * 6 + [16] + [2] * 3
    expected = [100 * int(n) + row for n, row in zip(frames.trajectory_ids, frames.rows, strict=True)]
    np.testing.assert_allclose(frames.features.structures[:, 0], expected)
    np.testing.assert_allclose(frames.features.atoms[frames.features.offsets[:-1], 0], expected)


def test_nothing_waits_beyond_a_few_batches(tmp_path, monkeypatch):
    encoder = Places()
    seen = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda f, n: seen.append(len(f.numbers)) or encode(f, n))
    path = trajectory(tmp_path / "a.parquet", 40, 1, 0)
    pieces = [Piece(source=str(i), file=REF, start=0, stop=40) for i in range(3)]
    parameters = SamplingParameters(max_batch_atoms=10, duplicate_tolerance_a=0)
    found = encode_trajectories(pieces, [path] * 3, encoder, parameters)
    assert found.counts["encoded"] == 120
    assert seen == [80, 80, 80], "8 batches of 10 atoms are enough for a call"


def test_a_shard_of_frames_that_cannot_be_encoded_has_none(tmp_path):
    path = trajectory(tmp_path / "a.parquet", 2, 1, 0, (0, 1))
    piece = Piece(source="a", file=REF, start=0, stop=2)
    found = encode_trajectories([piece], [path], Places(), SamplingParameters(duplicate_tolerance_a=0))
    assert found.frames is None
    assert (found.counts["encoded"], found.counts["unencodable"]) == (0, 2)


def atoms() -> list[Atoms]:
    return [bulk("LiCl", "rocksalt", a=5.1), bulk("LiF", "rocksalt", a=4.0, cubic=True), bulk("Li", "bcc", a=3.4)]


def columns(kind: str) -> dict[str, pa.Array]:
    flat = kind != "nested"
    numbers = [a.numbers.tolist() for a in atoms()]
    positions = [(a.positions.ravel() if flat else a.positions).tolist() for a in atoms()]
    cells = [(a.cell[:].ravel() if flat else a.cell[:]).tolist() for a in atoms()]
    vector = pa.list_(pa.float64(), 3) if kind == "fixed" else pa.list_(pa.float64())
    types = {
        "flat": (pa.list_(pa.float32()), pa.list_(pa.float64(), 9)),
        "large": (pa.large_list(pa.float64()), pa.large_list(pa.float64())),
    }.get(kind, (pa.list_(vector), pa.list_(vector)))
    if kind == "fixed":
        positions, cells = [a.positions.tolist() for a in atoms()], [a.cell[:].tolist() for a in atoms()]
    return {
        "atomic_numbers": pa.array(numbers, pa.list_(pa.int16())),
        "positions": pa.array(positions, types[0]),
        "cell": pa.array(cells, types[1]),
    }


@pytest.mark.parametrize("kind", ["flat", "nested", "fixed", "large"])
def test_configurations_of_any_lists(tmp_path, kind):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns(kind)), path)
    read = [(row, a) for rows, group in configurations(path, batch_rows=2) for row, a in zip(rows, group, strict=True)]
    assert [row for row, _ in read] == [0, 1, 2]
    for (_, found), given in zip(read, atoms(), strict=True):
        np.testing.assert_array_equal(found.numbers, given.numbers)
        np.testing.assert_allclose(found.positions, given.positions, atol=1e-6)
        np.testing.assert_allclose(found.cell[:], given.cell[:], atol=1e-6)
    encoded = encode_configurations(Piece(source="x", file=REF, start=1, stop=3), path, Places(), 4096)
    assert encoded.frames is not None
    assert encoded.frames.rows.tolist() == [1, 2]


def floats(*rows: list | None) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float64()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"positions": floats([0.0] * 6, [0.0] * 21, [0.0] * 3)},
            "Row 1 .* 8 atomic numbers and 21 numbers in 'positio",
        ),
        ({"cell": floats([1.0] * 9, [1.0] * 9, [1.0] * 6)}, "Row 2 .* 6 numbers in 'cell'; expected 9"),
        ({"cell": floats([1.0] * 9, None, [1.0] * 9)}, "rows without 'cell'"),
        ({"positions": floats([0.0] * 6, [None] * 24, [0.0] * 3)}, "empty places in 'positions'"),
        ({"positions": pa.array(["a", "b", "c"])}, "holds string in 'positions'; expected lists of numbers"),
    ],
)
def test_rows_that_do_not_belong_together_are_named(tmp_path, change, said):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns("flat") | change), path)
    with pytest.raises(InputError, match=said):
        list(configurations(path))
