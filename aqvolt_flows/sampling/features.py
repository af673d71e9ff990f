"""Features as Parquet: one row a frame, in the order of the trajectories they come from."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.encoders import Features

SCHEMA = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("row", pa.int64()),
        ("n_atoms", pa.int64()),
        ("structure", pa.list_(pa.float32())),
        ("atoms", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """Features with the address of each frame: trajectory and row of its Parquet file."""

    trajectory_ids: list[str]
    rows: NDArray[np.int64]
    features: Features


def write_features(path: str | Path, encoded: EncodedFrames) -> None:
    """Write features (zstd; written aside, then renamed)."""
    features = encoded.features
    bounds = np.r_[0, np.cumsum(features.n_atoms)]
    table = pa.Table.from_pydict(
        {
            "trajectory_id": encoded.trajectory_ids,
            "row": encoded.rows,
            "n_atoms": features.n_atoms,
            "structure": list(features.structures),
            "atoms": [features.atoms[a:b].ravel() for a, b in pairwise(bounds)],
        },
        schema=SCHEMA,
    )
    target = Path(path)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        pq.write_table(table, aside, compression="zstd", row_group_size=4096)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def read_features(paths: Sequence[str | Path]) -> EncodedFrames:
    """Return the features of several shards, in order.

    Raises
    ------
    InputError
        If a shard is not readable, lacks a column, or its atom features do not match n_atoms.
    """
    ids: list[str] = []
    rows, counts, structures, atoms = [], [], [], []
    for path in paths:
        try:
            table = pq.read_table(path, columns=SCHEMA.names)
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise InputError(f"Feature shard {path} cannot be read ({error}); encode its trajectories again.") from None
        if not table.num_rows:
            continue
        n = table["n_atoms"].to_numpy()
        flat_structures = table["structure"].combine_chunks().flatten().to_numpy()
        flat_atoms = table["atoms"].combine_chunks().flatten().to_numpy()
        if len(flat_atoms) % n.sum() or len(flat_structures) % len(n):
            raise InputError(
                f"Feature shard {path} is cut short: {len(flat_atoms)} atom values for {n.sum()} atoms; encode "
                "it again."
            )
        ids += table["trajectory_id"].to_pylist()
        rows.append(table["row"].to_numpy())
        counts.append(n)
        structures.append(flat_structures.reshape(len(n), -1))
        atoms.append(flat_atoms.reshape(n.sum(), -1))
    if not ids:
        raise InputError("The feature shards hold no frame; explore first, or relax the filters before encoding.")
    return EncodedFrames(
        ids, np.concatenate(rows), Features(np.concatenate(structures), np.concatenate(atoms), np.concatenate(counts))
    )
