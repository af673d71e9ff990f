"""Sets of configurations that count as covered: valid labels of a source, releases, Parquet files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_hash, content_key, file_sha256
from aqvolt_flows.releases import release_folder
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database

#: Columns of the Parquet files that labels are written to, and that any covered file needs.
SCHEMA = pa.schema(
    [
        ("atomic_numbers", pa.list_(pa.int16())),
        ("positions", pa.list_(pa.list_(pa.float64()))),
        ("cell", pa.list_(pa.list_(pa.float64()))),
    ]
)
#: Labels of one file; MatPES' 400,000 are eight.
_LABELS_PER_FILE = 50_000


@dataclass(frozen=True)
class CoveredSet:
    """A set of configurations by name: files of this machine, or none for labels."""

    name: str
    fingerprint: str
    paths: tuple[Path, ...]


def find_sets(database: Database, names: Sequence[str]) -> tuple[list[CoveredSet], list[str]]:
    """Return the sets that names stand for, and a sentence on each that is not there.

    Parameters
    ----------
    database
        Labels, releases, and the project folder that file names are relative to.
    names
        ``labels:SOURCE``, ``release:NAME`` (the newest of that name, or a release_id), or a Parquet file.
    """
    found: list[CoveredSet] = []
    problems: list[str] = []
    for name in names:
        if name.startswith("labels:"):
            if database.own("labels").find_one({"status": "valid", "source": name.removeprefix("labels:")}) is None:
                problems.append(f"{name} is to count as covered, but there is no valid label of that source")
            else:
                found.append(CoveredSet(name, labels_fingerprint(database, name), ()))
            continue
        paths = _release_files(database, name) if name.startswith("release:") else [database.settings.path(name)]
        paths = [p for p in paths if p.is_file()]
        if paths:
            fingerprint = content_key("covered/1", files=[file_sha256(p) for p in paths])
            found.append(CoveredSet(name, fingerprint, tuple(paths)))
        else:
            problems.append(f"{name} is to count as covered, but there is no such release or file")
    return found, problems


def _release_files(database: Database, name: str) -> list[Path]:
    """Return the Parquet files of a release's splits."""
    wanted = name.removeprefix("release:")
    query = {"$or": [{"name": wanted}, {"release_id": wanted}]}
    release = database.own("releases").find_one(query, {"_id": 0, "manifest": 0}, sort=[("last_updated", -1)])
    if release is None:
        return []
    return sorted((release_folder(database, release) / "data").glob("*.parquet"))


def store_files(database: Database, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Put files into the artifact store, where every worker finds them, and describe those that are not empty.

    Raises
    ------
    InputError
        If a file is not one of configurations, or none of them holds any.
    """
    described = [describe_file(path, database.artifacts.put_file(path, "parquet")) for path in paths]
    filled = [d for d in described if d["n_rows"]]
    if paths and not filled:
        raise InputError(f"{paths[0]} holds no configuration; give another file.")
    return filled


def describe_file(path: Path, artifact: ArtifactRef) -> dict[str, Any]:
    """Return pointer, rows and atoms a row (on average) of a Parquet file of configurations.

    Raises
    ------
    InputError
        If it is not Parquet or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as file:
            missing = [n for n in SCHEMA.names if n not in file.schema_arrow.names]
            if missing:
                raise InputError(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(SCHEMA.names)}.")
            rows, atoms = 0, 0
            for batch in file.iter_batches(columns=["atomic_numbers"]):
                rows, atoms = rows + batch.num_rows, atoms + len(batch.column(0).flatten())
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}); give another for covered_by.") from None
    return {"artifact": artifact.model_dump(mode="json"), "n_rows": rows, "n_atoms": -(-atoms // max(rows, 1))}


def label_files(database: Database, source: str) -> list[dict[str, Any]]:
    """Write the valid labels of ``labels:SOURCE`` into Parquet files of the artifact store and describe them.

    Files hold labels in the order of their identities, so that the same labels give the same files.

    Raises
    ------
    InputError
        If there is no such label.
    """
    found = []
    labels = _labels(database, source.removeprefix("labels:"))
    with tempfile.TemporaryDirectory() as folder:
        while True:
            path = Path(folder) / "labels.parquet"
            if not _write(path, labels):
                break
            found.append(describe_file(path, database.artifacts.put_file(path, "parquet")))
    if not found:
        raise InputError(f"There is no valid label of source {source.removeprefix('labels:')!r}; check covered_by.")
    return found


def labels_fingerprint(database: Database, source: str) -> str:
    """Return a hash of the identities of the valid labels of ``labels:SOURCE``; it changes when they do."""
    query = {"status": "valid", "source": source.removeprefix("labels:")}
    ids = sorted(d["label_id"] for d in database.own("labels").find(query, {"_id": 0, "label_id": 1}))
    return content_hash(ids)


def _labels(database: Database, source: str) -> Iterator[dict[str, Any]]:
    fields = {"_id": 0, "label_id": 1} | dict.fromkeys(SCHEMA.names, 1)
    query = {"status": "valid", "source": source}
    for label in database.own("labels").find(query, fields).sort("label_id", 1).batch_size(500):
        if label.get("positions") and label.get("cell"):
            yield {name: label[name] for name in SCHEMA.names}


def _write(path: Path, labels: Iterator[dict[str, Any]]) -> int:
    """Write the next labels to a file and return how many there were."""
    count, batch = 0, []
    with written_aside(path) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for label in labels:
            batch.append(label)
            if len(batch) == 1000 or count + len(batch) == _LABELS_PER_FILE:
                writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
                count, batch = count + len(batch), []
            if count == _LABELS_PER_FILE:
                return count
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
        return count + len(batch)
