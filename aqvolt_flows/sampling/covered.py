"""Sets of configurations that count as covered: valid labels of a source, releases, Parquet files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_hash
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


def describe_file(path: Path, artifact: ArtifactRef) -> dict[str, Any]:
    """Return pointer, rows and atoms a row (on average) of a Parquet file of configurations.

    Raises
    ------
    InputError
        If it is not Parquet, lacks a column, or has no row.
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
    if not rows:
        raise InputError(f"{path} holds no configuration; take it out of covered_by.")
    return {"artifact": artifact.model_dump(mode="json"), "n_rows": rows, "n_atoms": -(-atoms // rows)}


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
    ids = sorted(d["label_id"] for d in database["labels"].find(query, {"_id": 0, "label_id": 1}))
    return content_hash(ids)


def _labels(database: Database, source: str) -> Iterator[dict[str, Any]]:
    fields = {"_id": 0, "label_id": 1} | dict.fromkeys(SCHEMA.names, 1)
    query = {"status": "valid", "source": source}
    for label in database["labels"].find(query, fields).sort("label_id", 1).batch_size(500):
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
