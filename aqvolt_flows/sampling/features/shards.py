"""Feature shards: what an encoder said of some frames, in files that are read block by block.

A shard is an Arrow IPC file ("Feather 2", https://arrow.apache.org/docs/format/Columnar.html), one row a frame, in
the order of the trajectories it was made from, uncompressed, in record batches of about 64,000 atoms:

====================  ============================================  ====================================
column                type                                          meaning
====================  ============================================  ====================================
trajectory_id         string                                        the run, or the source of an import
row                   int64                                         row of the run's Parquet file
step                  int64                                         MD step
n_atoms               int32
structure             fixed_size_list<float32>[d_structure]         structure vector
atoms                 list<fixed_size_list<float32>[d_atom]>        one vector an atom, in the frame's order
====================  ============================================  ====================================

The schema's metadata ``aqvolt`` is JSON with format version, encoder, hash of its weights, layer, and the numbers of
frames and atoms that the file must hold. A reader checks them, so that a file cut short is named and refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import ArtifactRef

if TYPE_CHECKING:
    from aqvolt_flows.artifacts import ArtifactStore
    from aqvolt_flows.sampling.encoders.base import Encoder, Features

Array32 = NDArray[np.float32]
Index = NDArray[np.int64]

FORMAT_VERSION = 1
#: Atoms of one record batch: 64 features of float32 take 16 MB.
BATCH_ATOMS = 65_536


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """Features with the address of each frame.

    Attributes
    ----------
    trajectory_ids
        (n,) names.
    rows, steps
        (n,), row of the trajectory's Parquet file, and MD step.
    features
        Of n frames.
    """

    trajectory_ids: Sequence[str]
    rows: Index
    steps: Index
    features: Features


def _schema(d_structure: int, d_atom: int, about: dict[str, Any]) -> pa.Schema:
    fields = [
        ("trajectory_id", pa.string()),
        ("row", pa.int64()),
        ("step", pa.int64()),
        ("n_atoms", pa.int32()),
        ("structure", pa.list_(pa.float32(), d_structure)),
        ("atoms", pa.list_(pa.list_(pa.float32(), d_atom))),
    ]
    return pa.schema(fields, metadata={"aqvolt": json.dumps(about, sort_keys=True)})


def write_shard(path: str | Path, encoded: EncodedFrames, encoder: Encoder) -> None:
    """Write a shard (aside, then renamed).

    Parameters
    ----------
    path
        Where.
    encoded
        Its frames, at least one.
    encoder
        What made the features; named in the metadata.
    """
    features, n = encoded.features, len(encoded.features.n_atoms)
    about = {
        "version": FORMAT_VERSION,
        "encoder": encoder.name.partition(":")[0],
        "sha256": encoder.sha256,
        "layer": encoder.layer,
        "frames": n,
        "atoms": int(features.n_atoms.sum()),
    }
    schema = _schema(features.structures.shape[1], features.atoms.shape[1], about)
    offsets = features.offsets
    with written_aside(path) as target, pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        first = 0
        while first < n:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BATCH_ATOMS, side="right")) - 1)
            writer.write_batch(_batch(encoded, schema, offsets, first, min(last, n)))
            first = min(last, n)


def _batch(encoded: EncodedFrames, schema: pa.Schema, offsets: Index, first: int, last: int) -> pa.RecordBatch:
    features, part = encoded.features, slice(first, last)
    atoms = features.atoms[offsets[first] : offsets[last]]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(atoms.ravel()), atoms.shape[1])
    starts = pa.array((offsets[first : last + 1] - offsets[first]).astype(np.int32))
    structures = features.structures[part]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(list(encoded.trajectory_ids[part]), pa.string()),
            pa.array(encoded.rows[part]),
            pa.array(encoded.steps[part]),
            pa.array(features.n_atoms[part].astype(np.int32)),
            pa.FixedSizeListArray.from_arrays(pa.array(structures.ravel()), structures.shape[1]),
            pa.ListArray.from_arrays(starts, vectors),
        ],
        schema=schema,
    )


class _Blocks:
    """Blocks of rows that can be read again and again: every ``iter()`` starts afresh."""

    def __init__(self, shards: FeatureShards, column: str) -> None:
        self._shards, self._column = shards, column

    def __iter__(self) -> Iterator[Array32]:
        """Yield (rows, d) float32 arrays in order."""
        for path in self._shards.paths:
            for batch in _read(path, [self._column]):
                column = batch.column(0)
                flat = column.flatten() if self._column == "structure" else column.flatten().flatten()
                width = self._shards.d_structure if self._column == "structure" else self._shards.d_atom
                # Arrow's memory is read-only and shared; blocks are the reader's own
                yield np.array(flat.to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)


class FeatureShards:
    """Shards read as one set of frames, in bounded memory: one record batch, and a few numbers a frame.

    Parameters
    ----------
    paths
        Files in order.

    Attributes
    ----------
    n_atoms
        (n,), atoms of each frame.
    d_structure, d_atom
        Lengths of the vectors.
    encoder_sha256, layer
        What made them, the same in all shards.

    Raises
    ------
    InputError
        If there is no frame, a file is no shard, is cut short, or was made by another encoder than the first.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths = [Path(p) for p in paths]
        counts, ids, rows, steps = [], [], [], []
        self._names: dict[str, int] = {}
        self.encoder_sha256 = self.layer = ""
        self.d_structure = self.d_atom = 0
        for path in self.paths:
            about = self._check(path)
            frames = atoms = 0
            for batch in _read(path, ["trajectory_id", "row", "step", "n_atoms"]):
                named = batch.column(0).dictionary_encode()
                codes = [self._names.setdefault(name, len(self._names)) for name in named.dictionary.to_pylist()]
                ids.append(np.asarray(codes, np.int32)[named.indices.to_numpy(zero_copy_only=False)])
                rows.append(np.array(batch.column(1).to_numpy()))
                steps.append(np.array(batch.column(2).to_numpy()))
                counts.append(batch.column(3).to_numpy().astype(np.int64))
                frames, atoms = frames + len(counts[-1]), atoms + int(counts[-1].sum())
            if (frames, atoms) != (about["frames"], about["atoms"]):
                raise InputError(
                    f"Feature shard {path} holds {frames} frames with {atoms} atoms, its head says {about['frames']} "
                    f"with {about['atoms']}; it is cut short: encode its trajectories again."
                )
        if not counts:
            raise InputError("The feature shards hold no frame; explore first, or relax the filters before encoding.")
        self.n_atoms: Index = np.concatenate(counts)
        self._ids, self._rows, self._steps = np.concatenate(ids), np.concatenate(rows), np.concatenate(steps)
        self._by_code = list(self._names)

    @classmethod
    def of(cls, artifacts: ArtifactStore, references: Sequence[ArtifactRef], verify: bool = True) -> FeatureShards:
        """Return shards of the artifact store.

        Parameters
        ----------
        artifacts
            The store.
        references
            Pointers, in order.
        verify
            Also compare every file's bytes with its hash (reads each once, about a second a gigabyte).

        Raises
        ------
        InputError
            If a file was changed or cut short.
        """
        for reference in references:
            path = artifacts.local_path(reference)
            if path.stat().st_size != reference.bytes:
                raise InputError(
                    f"Feature shard {path} is cut short: {path.stat().st_size} of {reference.bytes} bytes; remove it "
                    "and encode its trajectories again."
                )
            if verify:
                artifacts.verify(reference)
        return cls([artifacts.local_path(r) for r in references])

    def _check(self, path: Path) -> dict[str, Any]:
        """Return the shard's metadata after comparing it with the shards before."""
        schema = _schema_of(path)
        try:
            about = json.loads(schema.metadata[b"aqvolt"])
            widths = schema.field("structure").type.list_size, schema.field("atoms").type.value_type.list_size
            version, _, _ = about["version"], about["frames"], about["atoms"]
            sha256, layer = str(about["sha256"]), str(about["layer"])
        except (TypeError, KeyError, ValueError, AttributeError):
            raise InputError(f"{path} is no feature shard: its Arrow schema is another; encode it again.") from None
        if version != FORMAT_VERSION:
            raise InputError(f"Feature shard {path} has format {version}; this version reads {FORMAT_VERSION}.")
        if not self.d_structure:
            self.d_structure, self.d_atom = widths
            self.encoder_sha256, self.layer = sha256, layer
        if (sha256, layer, *widths) != (self.encoder_sha256, self.layer, self.d_structure, self.d_atom):
            raise InputError(
                f"Feature shard {path} was made by the encoder {sha256[:12]}… ({layer}), the shards before by "
                f"{self.encoder_sha256[:12]}… ({self.layer}); features of different encoders cannot be compared."
            )
        return dict(about)

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self.n_atoms)

    def structures(self) -> Iterable[Array32]:
        """Return blocks (rows, d_structure) that can be iterated again and again."""
        return _Blocks(self, "structure")

    def atoms(self) -> Iterable[Array32]:
        """Return blocks (rows, d_atom) that can be iterated again and again."""
        return _Blocks(self, "atoms")

    def places(self, frames: Sequence[tuple[str, int]]) -> Index:
        """Return for every row the number of its frame in a list of (trajectory_id, MD step), (n,); −1: not there."""
        found = np.full(len(self), -1, np.int64)
        known = [(self._names[name], step, i) for i, (name, step) in enumerate(frames) if name in self._names]
        if known:
            codes, steps, numbers = np.array(known, np.int64).T
            span = int(max(self._steps.max(), steps.max())) + 1
            asked, rows = codes * span + steps, self._ids.astype(np.int64) * span + self._steps
            order = np.argsort(asked)
            at = np.minimum(np.searchsorted(asked[order], rows), len(asked) - 1)
            there = asked[order][at] == rows
            found[there] = numbers[order][at][there]
        return found

    def addresses(self, indices: Iterable[int]) -> list[tuple[str, int, int]]:
        """Return trajectory, row of its file and MD step of some frames."""
        return [(self._by_code[self._ids[i]], int(self._rows[i]), int(self._steps[i])) for i in indices]


def _schema_of(path: Path) -> pa.Schema:
    """Return the schema of an Arrow file; its footer, the last bytes, says where everything is."""
    try:
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
            return reader.schema
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"Feature shard {path} cannot be read ({error}); it may be cut short: encode its trajectories again."
        ) from None


def _read(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a shard, reading only some columns."""
    try:
        with pa.OSFile(str(path), "rb") as source:
            with pa.ipc.open_file(source) as reader:
                wanted = [reader.schema.names.index(c) for c in columns]
            options = pa.ipc.IpcReadOptions(included_fields=wanted)
            with pa.ipc.open_file(source, options=options) as reader:
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise InputError(
            f"Feature shard {path} cannot be read ({error}); it may be cut short: encode its trajectories again."
        ) from None
