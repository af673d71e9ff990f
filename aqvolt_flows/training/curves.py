"""Training curves: from ``progress.jsonl`` to one table with units, and to the few points that a figure needs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.training.records import read_records

#: Points of one line that a document keeps for figures; the file has all of them.
MAX_POINTS = 200
#: Errors on the validation split, and their units.
METRICS = {"energy_per_atom_mae": "eV/atom", "forces_mae": "eV/Å", "stress_mae": "eV/Å³"}
_TEXT = {"stage": "", "event": "", "source": ""}
#: Column → unit; one row an event. ``train``: an optimizer step. ``eval``: a source on the validation split, or all of
#: it where ``source`` is empty. ``skipped``: a step that was left out. Losses are each trainer's own, without unit.
_NUMBERS = {
    "time_s": "s",
    "epoch": "",
    "loss": "",
    "loss_energy": "",
    "loss_forces": "",
    "loss_stress": "",
    "learning_rate": "",
    "gradient_norm": "",
    "atoms": "",
    "atoms_per_s": "1/s",
    "data_wait_share": "",
    "memory_gib": "GiB",
    **METRICS,
}
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), metadata={"unit": unit}) for name, unit in _TEXT.items()),
        pa.field("step", pa.int64(), metadata={"unit": "optimizer steps"}),
        *(pa.field(name, pa.float64(), metadata={"unit": unit}) for name, unit in _NUMBERS.items()),
    ]
)


def curve_table(progress: Path, stage: str = "train") -> pa.Table:
    """Return the curve of one stage.

    Parameters
    ----------
    progress
        Its ``progress.jsonl``; records of a killed run that were computed again count once.
    stage
        Name of the stage.

    Returns
    -------
    pyarrow.Table
        Columns of :data:`SCHEMA` with their units as metadata; times count from the first record.
    """
    records = read_records(progress)
    begun = float(records[0]["time"]) if records else 0.0
    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    for record in records:
        event, step = str(record["event"]), int(record["step"])
        base = {"stage": stage, "event": event, "step": step, "time_s": float(record["time"]) - begun}
        if event in {"train", "skipped"}:
            rows[event, step, ""] = base | {"source": ""} | _train_row(record)
        elif event == "eval":
            for source, metrics in [("", record.get("metrics") or {}), *(record.get("sources") or {}).items()]:
                errors = {name: metrics.get(name) for name in METRICS}
                rows[event, step, source] = base | {"source": source, "loss": record.get("loss")} | errors
    columns = {name: [row.get(name) for row in rows.values()] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA).sort_by([("step", "ascending"), ("event", "descending")])


def _train_row(record: Mapping[str, Any]) -> dict[str, Any]:
    losses = record.get("losses") or {}
    row = {name: record.get(name) for name in _NUMBERS if name not in METRICS and name != "time_s"}
    return row | {f"loss_{name}": losses.get(name) for name in ("energy", "forces", "stress")}


def put_curve(store: ArtifactStore, progress: Path, stage: str = "train") -> ArtifactRef:
    """Store the curve of a stage as Parquet and return its pointer."""
    buffer = io.BytesIO()
    pq.write_table(curve_table(progress, stage), buffer)
    return store.put_bytes(buffer.getvalue(), "parquet")


def summary_of(table: pa.Table) -> dict[str, Any]:
    """Return what a stage's entry in a model's document says of its curve.

    Returns
    -------
    dict
        ``steps``; ``train_loss_first`` and ``train_loss_last``; ``metrics_first`` and ``metrics`` (the first and last
        evaluation); ``losses`` and ``validation``, thinned for figures: (step, loss) pairs, and per source and metric
        (step, value) pairs; ``skipped_steps``.
    """
    rows = table.to_pylist()
    train = [r for r in rows if r["event"] == "train" and r["loss"] is not None]
    evaluations = [r for r in rows if r["event"] == "eval"]
    overall = [{m: r[m] for m in METRICS if r[m] is not None} for r in evaluations if r["source"] == ""]
    return {
        "steps": max((r["step"] for r in rows), default=0),
        "train_loss_first": train[0]["loss"] if train else None,
        "train_loss_last": train[-1]["loss"] if train else None,
        "losses": thinned([[r["step"], r["loss"]] for r in train]),
        "metrics_first": overall[0] if overall else {},
        "metrics": overall[-1] if overall else {},
        "validation": validation_of(evaluations),
        "skipped_steps": sum(r["event"] == "skipped" for r in rows),
    }


def validation_of(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[list[float]]]]:
    """Return source → metric → (step, value) pairs of the table's ``eval`` rows; the source of all of them is ''."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for row in evaluations:
        for metric in METRICS:
            if row[metric] is not None:
                found.setdefault(row["source"], {}).setdefault(metric, []).append([row["step"], row[metric]])
    return {source: {m: thinned(points) for m, points in metrics.items()} for source, metrics in found.items()}


def thinned(points: list[Any]) -> list[Any]:
    """Return at most :data:`MAX_POINTS` of the points, evenly spaced, the last one included."""
    every = max(1, -(-len(points) // MAX_POINTS))
    return points[::-1][::every][::-1]


def write_csv(tables: Sequence[pa.Table], path: Path) -> None:
    """Write curves as CSV; a column's unit is in its name, as in ``forces_mae (eV/Å)``."""
    import pyarrow.csv as pc

    joined = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    units = {name: (SCHEMA.field(name).metadata or {}).get(b"unit", b"").decode() for name in SCHEMA.names}
    renamed = joined.rename_columns([f"{name} ({units[name]})" if units[name] else name for name in SCHEMA.names])
    pc.write_csv(renamed, str(path))
