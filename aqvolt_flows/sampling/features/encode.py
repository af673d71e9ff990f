"""From files of configurations to feature shards: what goes into a shard, and the reading, filtering and encoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import read_batches
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.feature import Piece
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef

if TYPE_CHECKING:
    from aqvolt_flows.sampling.encoders.base import Encoder, Features
    from aqvolt_flows.sampling.encoders.flat import FlatFrames
    from aqvolt_flows.sampling.features.screen import Block
    from aqvolt_flows.sampling.features.shards import EncodedFrames

#: Fields of the parameters that decide what a shard holds, and so its key.
FILTERS = ("min_distance_factor", "max_volume_ratio", "min_packing", "duplicate_tolerance_a")
#: Rows of a trajectory file that are read, judged and encoded at a time.
_BLOCK_ROWS = 1024
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
#: Batches of the encoder that are collected before it is called, so that few are cut short by the end of a file.
_BATCHES = 8


@dataclass(frozen=True)
class Source:
    """A file of configurations: a trajectory, or a set that is declared covered.

    Attributes
    ----------
    name
        trajectory_id or the set's name.
    n_frames
        Rows of the file.
    n_atoms
        Atoms of a row, at least their average.
    first_row
        Where reading begins: after the equilibration of a run.
    """

    name: str
    file: ArtifactRef
    n_frames: int
    n_atoms: int
    first_row: int = 0


def shard_pieces(sources: Iterable[Source], stride: int, shard_atoms: int) -> list[list[Piece]]:
    """Return what goes into each shard: pieces of files in order, of about ``shard_atoms`` atoms together.

    Parameters
    ----------
    sources
        In the order in which their frames are to stand.
    stride
        Every stride-th row of each file is read, from its source's first.
    shard_atoms
        Atoms of a shard before filters; one frame at least.
    """
    shards: list[list[Piece]] = []
    room = 0
    for source in sources:
        start = source.first_row
        while start < source.n_frames:
            if room < source.n_atoms:
                shards.append([])
                room = max(shard_atoms, source.n_atoms)
            left = -(-(source.n_frames - start) // stride)
            take = min(left, room // max(source.n_atoms, 1))
            stop = min(start + take * stride, source.n_frames)
            shards[-1].append(Piece(source=source.name, file=source.file, start=start, stop=stop))
            room -= take * source.n_atoms
            start = stop
    return shards


def shard_key(pieces: Sequence[Piece], encoder_sha256: str, layer: str, parameters: SamplingParameters) -> str:
    """Return the content key of a shard: bytes of the files, rows, weights, layer, thinning and filters."""
    return content_key(
        "encode/1",
        pieces=[[p.source, p.file.sha256, p.start, p.stop] for p in pieces],
        encoder=encoder_sha256,
        layer=layer,
        stride=parameters.encode_stride,
        filters=parameters.model_dump(mode="json", include=set(FILTERS)),
    )


@dataclass(frozen=True, eq=False)
class Encoded:
    """What became of a shard's frames: features of some, and the counts of all."""

    frames: EncodedFrames | None
    counts: dict[str, int]


def encode_trajectories(
    pieces: Sequence[Piece], paths: Sequence[Path], encoder: Encoder, parameters: SamplingParameters
) -> Encoded:
    """Read, screen and encode pieces of trajectories, in the memory of one block and the features.

    Parameters
    ----------
    pieces
        Of one shard; duplicates are found among them.
    paths
        Where the file of each piece is on this machine.
    encoder
        What computes the features.
    parameters
        Stride, filters and batch size.

    Raises
    ------
    InputError
        If a file is not readable, or has fewer rows than its document says.
    """
    from aqvolt_flows.sampling.features.screen import COLUMNS, Block, volume_per_atom

    encoding, stride = Encoding(encoder, parameters), parameters.encode_stride
    for piece, path in zip(pieces, paths, strict=True):
        first = next(read_batches(path, COLUMNS, 0, 1), None)
        volume = volume_per_atom(Block.of(first[1])) if first is not None else None
        batches = read_batches(path, COLUMNS, piece.start, piece.stop, stride, _BLOCK_ROWS)
        seen = encoding.add(piece.source, volume, ((rows, Block.of(batch)) for rows, batch in batches))
        expected = -(-(piece.stop - piece.start) // stride)
        if seen != expected:
            raise InputError(
                f"The file of {piece.source} gave {seen} of the {expected} frames that its document names up to row "
                f"{piece.stop}; it was cut short, explore it again."
            )
    return encoding.result()


class Encoding:
    """Screens and encodes frames, source after source, in the memory of one block and the features.

    Parameters
    ----------
    encoder
        What computes the features.
    parameters
        Filters and batch size.
    """

    def __init__(self, encoder: Encoder, parameters: SamplingParameters) -> None:
        from aqvolt_flows.sampling.features.screen import REASONS, Screen

        self._collector, self._screen = _Collector(encoder, parameters.max_batch_atoms), Screen(parameters)
        self._counts = dict.fromkeys(("generated", *REASONS[1:], "unencodable"), 0)

    def add(self, name: str, volume_per_atom: float | None, blocks: Iterable[tuple[NDArray[np.int64], Block]]) -> int:
        """Screen and encode the frames of one source; return how many were read.

        Parameters
        ----------
        name
            Of the source.
        volume_per_atom
            Of its first frame, Å³; None: frames are not compared with it.
        blocks
            Row numbers and frames.
        """
        from aqvolt_flows.sampling.features.screen import REASONS

        self._screen.start(volume_per_atom)
        seen = 0
        for rows, block in blocks:
            codes = self._screen.judge(block)
            for code, n in zip(*np.unique(codes, return_counts=True), strict=True):
                if code:
                    self._counts[REASONS[code]] += int(n)
            kept = np.flatnonzero(codes == 0)
            self._collector.add(name, rows[kept], block.steps[kept], block.frames(kept))
            seen += len(rows)
        self._counts["generated"] += seen
        return seen

    def result(self) -> Encoded:
        """Return the features with their addresses, and the counts."""
        return self._collector.result(self._counts)


def encode_configurations(piece: Piece, path: Path, encoder: Encoder, max_batch_atoms: int) -> Encoded:
    """Encode rows of any Parquet file with ``atomic_numbers``, ``positions`` and ``cell``; nothing is filtered."""
    collector, seen = _Collector(encoder, max_batch_atoms), 0
    for rows, group in configurations(path, piece.start, piece.stop):
        collector.add(piece.source, rows, np.zeros(len(rows), np.int64), group)
        seen += len(rows)
    return collector.result({"generated": seen, "unencodable": 0})


def configurations(
    path: str | Path, start: int = 0, stop: int | None = None, batch_rows: int = 256
) -> Iterator[tuple[NDArray[np.int64], FlatFrames]]:
    """Yield rows and configurations of a Parquet file in batches: of frames, of a release, or made elsewhere.

    Parameters
    ----------
    path
        Parquet with ``atomic_numbers`` (n_atoms), ``positions`` (n_atoms × 3, Å) and ``cell`` (9 or 3 × 3, Å), nested
        lists or flat ones.

    Raises
    ------
    InputError
        If the file is not Parquet or lacks a column, or a row's numbers do not belong together.
    """
    from aqvolt_flows.sampling.encoders.flat import FlatFrames

    names = ("atomic_numbers", "positions", "cell")
    for rows, batch in read_batches(path, names, start, stop, 1, batch_rows):
        numbers, positions, cells = (_flattened(path, name, batch.column(name)) for name in names)
        for name, (_, sizes), expected in (
            ("positions", positions, 3 * numbers[1]),
            ("cell", cells, np.full(len(rows), 9)),
        ):
            if (sizes != expected).any():
                i = int(np.flatnonzero(sizes != expected)[0])
                raise InputError(
                    f"Row {rows[i]} of {path} has {numbers[1][i]} atomic numbers and {sizes[i]} numbers in {name!r}; "
                    f"expected {expected[i]}: write the file again."
                )
        yield rows, FlatFrames(numbers[0], positions[0], cells[0], np.concatenate([[0], np.cumsum(numbers[1])]))


def _flattened(path: str | Path, name: str, column: pa.Array) -> tuple[NDArray, NDArray[np.int64]]:
    """Return the numbers of a column of lists, nested or not, and how many each row has."""
    values, ends = column, np.arange(len(column) + 1)
    while any(kind(values.type) for kind in _LISTS):
        if values.null_count:
            raise InputError(f"{path} has rows without {name!r}; expected numbers in each: leave those rows out.")
        sizes = np.full(len(values), getattr(values.type, "list_size", 0))
        if not pa.types.is_fixed_size_list(values.type):
            sizes = values.value_lengths().to_numpy(zero_copy_only=False)
        ends = np.concatenate([[0], np.cumsum(sizes)])[ends]
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise InputError(f"{path} holds {column.type} in {name!r}; expected lists of numbers: write the file again.")
    if values.null_count:
        raise InputError(f"{path} has empty places in {name!r}; expected a number in each: leave those rows out.")
    return values.to_numpy(zero_copy_only=False), np.diff(ends)


class _Collector:
    """Encodes frames as they come, those of several sources together, and keeps the features with their addresses."""

    def __init__(self, encoder: Encoder, max_batch_atoms: int) -> None:
        self._encoder, self._max_batch_atoms = encoder, max_batch_atoms
        self._waiting: list[FlatFrames] = []
        self._names: list[str] = []
        self._rows: list[NDArray[np.int64]] = []
        self._steps: list[NDArray[np.int64]] = []
        self._parts: list[Features] = []
        self._good: list[NDArray[np.bool_]] = []
        self._failures: Counter[str] = Counter()

    def add(self, name: str, rows: NDArray[np.int64], steps: NDArray[np.int64], frames: FlatFrames) -> None:
        """Take in some frames of one source."""
        if not len(frames):
            return
        self._waiting.append(frames)
        self._names += [name] * len(frames)
        self._rows.append(rows)
        self._steps.append(steps)
        if sum(len(f.numbers) for f in self._waiting) >= _BATCHES * self._max_batch_atoms:
            self._encode()

    def _encode(self) -> None:
        from aqvolt_flows.sampling.encoders.flat import FlatFrames

        frames = FlatFrames.joined(self._waiting)
        self._waiting = []
        features = self._encoder.encode(frames, self._max_batch_atoms)
        good = np.ones(len(frames), bool)
        good[list(features.failures)] = False
        self._good.append(good)
        self._failures.update(features.failures.values())
        if good.any():
            self._parts.append(features)

    def result(self, counts: dict[str, int]) -> Encoded:
        """Return everything, with the counts completed."""
        from aqvolt_flows.sampling.encoders.base import Features
        from aqvolt_flows.sampling.features.shards import EncodedFrames

        if self._waiting:
            self._encode()
        good = np.concatenate([np.empty(0, bool), *self._good])
        counts = counts | {"unencodable": self._failures.total(), "encoded": int(good.sum())}
        counts |= {f"unencodable_{reason}": n for reason, n in sorted(self._failures.items())}
        if not self._parts:
            return Encoded(None, counts)
        joined = Features(
            np.concatenate([p.structures for p in self._parts]),
            np.concatenate([p.atoms for p in self._parts]),
            np.concatenate([p.n_atoms for p in self._parts]),
        )
        names = [name for name, kept in zip(self._names, good, strict=True) if kept]
        rows, steps = np.concatenate(self._rows)[good], np.concatenate(self._steps)[good]
        return Encoded(EncodedFrames(names, rows, steps, joined), counts)
