"""What tests of releases share: labels from the factory, and an independent content hash."""

from __future__ import annotations

import hashlib

import label_factory
import numpy as np
import pyarrow.parquet as pq

from aqvolt_flows.datasets.labels import label_from_outcome
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.schemas.parameters import ReleaseParameters

SPLITS = ("train", "val", "test")


def make_labels(numbers, formula="LiCl", protocol=label_factory.SURROGATE, **changes):
    """Return label documents of frames ``numbers``."""
    made = []
    for i in numbers:
        result = label_factory.outcome(i, formula, protocol, **changes)
        made.append(
            label_from_outcome(
                result, label_factory.frame(i, formula).model_dump(), f"uuid-{protocol.code}-{i}", "2026-01-01"
            )
        )
    return made


def independent_content_hash(path):
    """Return a release's content hash from its Parquet alone, as docs describe it, sharing no code with the package."""
    steps = {"positions": 1e-6, "cell": 1e-6, "energy": 1e-6, "forces": 1e-6, "stress": 1e-8}
    lines = []
    for file in (path / "data").glob("*.parquet"):
        split = file.stem
        for row in pq.read_table(file).to_pylist():
            sha = hashlib.sha256(f"{row['frame_id']}\0{row['label_id']}\0{row['n_atoms']}\0".encode())
            sha.update(np.array(row["atomic_numbers"], "<i8").tobytes())
            for name, step in steps.items():
                sha.update(np.rint(np.array(row[name]) / step).astype("<i8").tobytes())
            lines.append(f"{row['frame_id']}\t{row['label_id']}\t{split}\t{sha.hexdigest()}\n")
    return hashlib.sha256(b"aqvolt-release/1\n" + "".join(sorted(lines)).encode()).hexdigest()


def changed(parameters, **changes):
    return ReleaseParameters(**(parameters.model_dump() | changes))


def create(database, parameters, root):
    document = create_release(database, parameters, root)
    return document, root / document.path


def tree(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def rows_of(path):
    return {s: pq.read_table(path / "data" / f"{s}.parquet").to_pylist() for s in SPLITS}
