"""What the report shows, read from the documents as plain values in a fixed order; nothing is drawn here."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.releases import release_path
from aqvolt_flows.schemas.model import model_name_of
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database

Array = NDArray[np.float64]
Row = dict[str, Any]

SPLITS = ("train", "val", "test")
#: Per collection: which values of ``status`` are failures, and the field that says why.
OUTCOMES: dict[str, tuple[tuple[str, ...], str]] = {
    "candidates": (("rejected",), "rejection"),
    "trajectories": (("failed", "ended_early"), "failure"),
    "frames": ((), ""),
    "labels": (("rejected",), "failure"),
    "releases": ((), ""),
    "models": (("failed",), "failure"),
    "benchmarks": (("failed",), "failure"),
}
#: Reasons in the funnel of a sampling round for which frames were not encoded.
LEFT_OUT = ("not_finite", "exploded", "overlapping", "duplicate", "unencodable")
#: Packages whose versions decide numbers.
PACKAGES = (
    "aqvolt-flows",
    "ase",
    "atomate2",
    "chgnet",
    "fairchem-core",
    "fireworks",
    "gpaw",
    "jobflow",
    "maggma",
    "matgl",
    "numpy",
    "pymatgen",
    "pymongo",
    "scikit-learn",
    "scipy",
    "sevenn",
    "torch",
    "torch-sim-atomistic",
)


def _find(
    database: Database, collection: str, fields: Sequence[str], query: Mapping[str, Any] | None = None
) -> list[Row]:
    projection = {"_id": 0, **dict.fromkeys(fields, 1)}
    return list(database.own(collection).find(dict(query or {}), projection))


def _reason(document: Mapping[str, Any], field: str) -> str:
    value = document.get(field)
    return str(value.get("reason")) if isinstance(value, Mapping) and value.get("reason") else "no reason given"


def stages(database: Database) -> list[Row]:
    """Return one row per collection: documents, how many failed, and the reasons with their counts."""
    rows = []
    for collection, (failing, field) in OUTCOMES.items():
        fields = [f for f in ("status", f"{field}.reason" if field else "", "seconds") if f]
        documents = _find(database, collection, fields)
        failed = [d for d in documents if d.get("status") in failing]
        reasons = Counter(_reason(d, field) for d in failed)
        seconds = [float(d["seconds"]) for d in documents if d.get("seconds") is not None]
        rows.append(
            {
                "stage": collection,
                "documents": len(documents),
                "good": len(documents) - len(failed),
                "failed": len(failed),
                "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
                "seconds": sum(seconds) if seconds else None,
            }
        )
    return rows


def candidates(database: Database) -> list[Row]:
    """Return accepted candidates, then rejected ones, by name."""
    fields = ("candidate_id", "name", "formula", "chemsys", "n_atoms", "source", "status", "rejection", "references")
    rows = _find(database, "candidates", fields)
    return sorted(rows, key=lambda r: (r["status"] != "accepted", r["name"], r["candidate_id"]))


def trajectories(database: Database) -> list[Row]:
    """Return trajectories by formula and temperature."""
    fields = (
        "trajectory_id",
        "formula",
        "n_atoms",
        "engine",
        "model",
        "temperature_k",
        "mean_temperature_k",
        "mean_volume_per_atom",
        "max_force",
        "n_steps",
        "steps_done",
        "n_frames",
        "status",
        "failure",
        "timestep_fs",
        "ensemble",
        "pressure_gpa",
    )
    rows = _find(database, "trajectories", fields)
    return sorted(rows, key=lambda r: (r["formula"], r["temperature_k"], r["trajectory_id"]))


def labels(database: Database) -> Row:
    """Return counts of labels and their protocols."""
    fields = ("protocol_name", "protocol_id", "protocol.code", "protocol.functional", "source")
    valid = _find(database, "labels", fields, {"status": "valid"})
    protocols = Counter(
        (d["protocol_name"], d["protocol_id"], d["protocol"]["code"], d["protocol"]["functional"]) for d in valid
    )
    return {
        "valid": len(valid),
        "sampled": sum(d["source"] == "sampled" for d in valid),
        "protocols": [
            {"name": name, "protocol_id": identity, "code": code, "functional": functional, "labels": n}
            for (name, identity, code, functional), n in sorted(protocols.items())
        ],
        "surrogate": sum(n for (_, _, code, _), n in protocols.items() if code == "surrogate"),
    }


def sampling_rounds(database: Database) -> list[Row]:
    """Return the rounds of sampling, oldest first, each with how many frames its filters left out."""
    fields = (
        *("sample_id", "encoder", "encoder_sha256", "funnel", "coverage", "comparison", "picture", "previous"),
        *("parameters", "covered", "new_frames", "last_updated"),
    )
    rows = _find(database, "samples", fields)
    for row in rows:
        kept = row["funnel"]
        row["left_out"] = {name: kept[name] for name in LEFT_OUT if kept.get(name)}
    return sorted(rows, key=lambda r: (r["last_updated"], r["sample_id"]))


def funnel(
    database: Database, rounds: Sequence[Row], labelled: int, release: Row | None
) -> list[tuple[str, int | None]]:
    """Return how many sampled configurations each stage kept, from ML molecular dynamics to the newest release."""
    frames = _find(database, "trajectories", ("n_frames",), {"engine": "mlmd"})
    generated = sum(int(t["n_frames"]) for t in frames)
    read, encoded = (sum(int(r["funnel"].get(name, 0)) for r in rounds) for name in ("generated", "encoded"))
    return [
        ("generated", generated),
        *([("thinned", read)] if rounds and read < generated else []),
        ("encoded", encoded if rounds else None),
        ("selected", database.own("frames").count_documents({})),
        ("labelled", labelled),
        ("released", _sampled(release) if release else 0),
    ]


def _sampled(release: Row) -> int:
    paths = [release["folder"] / "data" / f"{split}.parquet" for split, n in release["splits"].items() if n]
    columns = [pq.read_table(path, columns=["source"])["source"] for path in paths]
    return sum(int(pc.sum(pc.equal(column, "sampled")).as_py() or 0) for column in columns)


def feature_map(database: Database, rounds: Sequence[Row]) -> dict[str, Any] | None:
    """Return density, edges and chosen places of the newest round with a picture, or None."""
    for row in reversed(rounds):
        if not row["picture"]:
            continue
        try:
            with np.load(database.artifacts.local_path(ArtifactRef(**row["picture"])), allow_pickle=False) as stored:
                return {
                    "density": stored["density"],
                    "x_edges": stored["x_edges"],
                    "y_edges": stored["y_edges"],
                    "selected": stored["chosen"],
                    "n_selected": int(stored["n_chosen"]),
                }
        except (ResourceError, OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
    return None


def releases(database: Database) -> list[Row]:
    """Return releases, the newest first, each with its folder's files and the sizes of its splits."""
    fields = ("release_id", "name", "content_hash", "counts", "protocols", "path", "last_updated")
    rows = _find(database, "releases", fields)
    for row in rows:
        folder = release_path(database, row)
        row["files"] = (
            [
                {"name": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size}
                for p in sorted(folder.rglob("*"))
                if p.is_file() and not p.name.startswith(".")
            ]
            if folder.is_dir()
            else []
        )
        row["folder"] = folder
        row["splits"] = {s: _rows(folder / "data" / f"{s}.parquet") for s in SPLITS}
    return sorted(rows, key=lambda r: (r["last_updated"], r["release_id"]), reverse=True)


def _rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows) if path.is_file() else 0
    except (pa.ArrowInvalid, OSError):
        return 0


def release_values(release: Row, column: str) -> dict[str, Array]:
    """Return a column of the release's Parquet files per split; a split without file or column is left out."""
    values = {}
    for split in SPLITS:
        path = release["folder"] / "data" / f"{split}.parquet"
        if not _rows(path) or column not in pq.read_schema(path).names:
            continue
        values[split] = pq.read_table(path, columns=[column])[column].to_numpy().astype(float)
    return values


def release_elements(release: Row) -> dict[str, int]:
    """Return how many labels of a release hold each element."""
    counts: Counter[str] = Counter()
    for split in (s for s, n in release["splits"].items() if n):
        column = pq.read_table(release["folder"] / "data" / f"{split}.parquet", columns=["chemsys"])["chemsys"]
        for system in column.value_counts().to_pylist():
            for element in system["values"].split("-"):
                counts[element] += system["counts"]
    return dict(sorted(counts.items()))


def models(database: Database) -> list[Row]:
    """Return trained models and failed trainings, the newest first, each with a name people can tell apart."""
    rows = list(database.own("models").find({}, {"_id": 0}))
    for row in rows:
        row["label"] = model_label(row["model_id"], {row["model_id"]: row["architecture"]})
        row["name_shown"] = model_name_of(row)
    return sorted(rows, key=lambda r: (r["last_updated"], r["model_id"]), reverse=True)


def model_label(model: str, architectures: Mapping[str, str]) -> str:
    """Return a model string as it is, and ``eSEN-L4 0f3a1b2c`` for a model trained here."""
    if model in architectures:
        return f"{architectures[model]} {model.removeprefix('model-')[:8]}"
    return model


def benchmarks(database: Database, kind: str) -> list[Row]:
    """Return benchmark documents of one kind by model and dataset; failed ones too."""
    rows = list(database.own("benchmarks").find({"benchmark": kind}, {"_id": 0}))
    architectures = {d["model_id"]: d["architecture"] for d in _find(database, "models", ("model_id", "architecture"))}
    for row in rows:
        row["label"] = model_label(row["model"], architectures)
    return sorted(rows, key=lambda r: (r["model_id"] is not None, r["model"], r["dataset"], r["benchmark_id"]))


def newest_per_model(rows: Iterable[Row]) -> list[Row]:
    """Return the newest completed document of each model, in the order given."""
    newest: dict[str, Row] = {}
    for row in rows:
        if row["status"] == "completed":
            seen = newest.setdefault(row["model"], row)
            newest[row["model"]] = max(seen, row, key=lambda r: (r["last_updated"], r["benchmark_id"]))
    return list(newest.values())


def ev_curves(database: Database, rows: Iterable[Row]) -> list[Row]:
    """Return, per structure, each model's volumes (Å³) and energies (eV/atom), and which models did not fail."""
    structures: dict[str, Row] = {}
    for row in newest_per_model(rows):
        if not row["details"]:
            continue
        try:
            path = database.artifacts.local_path(ArtifactRef(**row["details"]))
        except ResourceError:
            continue
        for scan in pq.read_table(path).to_pylist():
            named = scan.get("item_id") or scan["candidate_id"]  # version 0.1 wrote candidate_id
            if scan["volumes"] is None:
                continue
            entry = structures.setdefault(
                named, {"name": scan["name"], "formula": scan["formula"], "curves": {}, "steady": []}
            )
            entry["curves"][row["label"]] = (scan["volumes"], [e / scan["n_atoms"] for e in scan["energies"]])
            if scan["failure_reason"] is None:
                entry["steady"].append(row["label"])
    return [structures[key] for key in sorted(structures, key=lambda k: (structures[k]["name"], k))]


def details(database: Database, row: Row) -> list[Row]:
    """Return the rows of a benchmark document's table; none where the artifact is not here."""
    if not row["details"]:
        return []
    try:
        path = database.artifacts.local_path(ArtifactRef(**row["details"]))
    except ResourceError:
        return []
    found: list[Row] = pq.read_table(path).to_pylist()
    return [r for r in found if "item_id" in r]  # version 0.1 wrote other columns


def by_set(database: Database, rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Return set → model's label → rows of its newest document on that set; sets of one model too."""
    sets: dict[str, list[Row]] = {}
    for row in rows:
        sets.setdefault(row["dataset"], []).append(row)
    return {
        name: {r["label"]: found for r in newest_per_model(some) if (found := details(database, r))}
        for name, some in sorted(sets.items())
    }


def versions() -> list[tuple[str, str]]:
    """Return the installed versions of :data:`PACKAGES`; those not installed are left out."""
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def changed_at(database: Database) -> datetime | None:
    """Return when the newest document of any collection was written, or None for an empty database."""
    dates = []
    for collection in OUTCOMES:
        newest = database.own(collection).find({}, {"_id": 0, "last_updated": 1}).sort("last_updated", -1).limit(1)
        dates += [d["last_updated"] for d in newest]
    return max(dates, default=None)
