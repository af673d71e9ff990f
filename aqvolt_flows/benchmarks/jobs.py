"""Jobflow makers of the benchmarks, and the same work in this process for the command line."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from jobflow import job
from pymatgen.core.structure import Structure

from aqvolt_flows.benchmarks import ev_scan, force_bins
from aqvolt_flows.benchmarks.evaluate import evaluate_each
from aqvolt_flows.benchmarks.release_data import read_release
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import content_key
from aqvolt_flows.models import ResolvedModel, resolve_model
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.releases import release_folder
from aqvolt_flows.schemas.benchmark import BenchmarkDocument
from aqvolt_flows.schemas.parameters import EVScanParameters, ForceBinParameters
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.stores import Database

STAGE = "benchmark/1"
#: Failures named in the document itself; all of them are in its details.
MAX_LISTED_FAILURES = 500
_FAILURE_COLUMNS = [("failure_reason", pa.string()), ("failure_message", pa.string())]
#: Columns of the per-item files: Å³, eV; eV/atom (signed), eV/Å, eV/Å³.
SCHEMAS = {
    "ev_scan": pa.schema(
        [
            ("candidate_id", pa.string()),
            ("name", pa.string()),
            ("formula", pa.string()),
            ("n_atoms", pa.int64()),
            ("volumes", pa.list_(pa.float64())),
            ("energies", pa.list_(pa.float64())),
            *((f"spearman_{measure}", pa.float64()) for measure in ev_scan.MEASURES),
            ("flips", pa.int64()),
            ("tortuosity", pa.float64()),
            *_FAILURE_COLUMNS,
        ]
    ),
    "force_bins": pa.schema(
        [
            ("label_id", pa.string()),
            ("frame_id", pa.string()),
            ("formula", pa.string()),
            ("n_atoms", pa.int64()),
            ("max_force", pa.float64()),
            ("energy_error", pa.float64()),
            ("force_mae", pa.float64()),
            ("stress_mae", pa.float64()),
            *_FAILURE_COLUMNS,
        ]
    ),
}
Benchmark = Literal["ev_scan", "force_bins"]
Progress = Callable[[int], None]


def ev_scan_key(model: ResolvedModel, parameters: EVScanParameters, candidate_ids: Sequence[str]) -> str:
    """Return the key of an E–V scan; the order of the candidates does not matter."""
    return content_key(
        STAGE,
        benchmark="ev_scan",
        model=model.name,
        weights=model.sha256,
        parameters=parameters,
        candidate_ids=sorted(set(candidate_ids)),
    )


def force_bins_key(model: ResolvedModel, parameters: ForceBinParameters, content_hash: str) -> str:
    """Return the key of force-binned errors on the release with this ``content_hash``."""
    return content_key(
        STAGE,
        benchmark="force_bins",
        model=model.name,
        weights=model.sha256,
        parameters=parameters,
        content_hash=content_hash,
    )


def finished(database: Database, key: str) -> dict[str, Any] | None:
    """Return the completed document of a key, or None; a failed one is computed again."""
    return database["benchmarks"].find_one({"key": key, "status": "completed"}, {"_id": 0})


def compute_ev_scan(
    database: Database,
    model: ResolvedModel,
    parameters: EVScanParameters,
    candidate_ids: Sequence[str],
    key: str,
    progress: Progress | None = None,
) -> BenchmarkDocument:
    """Scan candidates with a model, write the document and return it; finished work is only read."""
    stored = finished(database, key)
    if stored:
        return BenchmarkDocument(**stored)
    start = time.perf_counter()
    ids = sorted(set(candidate_ids))
    if not ids:
        raise InputError("An E–V scan needs at least one accepted candidate; add some with 'aqvolt candidates'.")
    candidates = database.find_by_ids("candidates", ids)
    structures = [Structure.from_dict(c["structure"]).to_ase_atoms(msonable=False) for c in candidates]
    potential = load_potential(model.load, database.settings.resolve_device())
    scans = ev_scan.scan_structures(
        potential.evaluate, structures, parameters.n_points, parameters.max_linear_strain, progress
    )
    rows = [_scan_row(c, s) for c, s in zip(candidates, scans, strict=True)]
    document = _document("ev_scan", key, model, dataset=f"{len(ids)} candidates", n_items=len(rows))
    document.metrics = ev_scan.aggregate(scans) | {"parameters": parameters.model_dump(mode="json")}
    _finish(database, document, rows, ("candidate_id", "formula"), start)
    return document


def compute_force_bins(
    database: Database,
    model: ResolvedModel,
    parameters: ForceBinParameters,
    release_id: str,
    key: str,
    progress: Progress | None = None,
) -> BenchmarkDocument:
    """Compare a model with a release's labels, write the document and return it; finished work is only read."""
    stored = finished(database, key)
    if stored:
        return BenchmarkDocument(**stored)
    start = time.perf_counter()
    force_bins.check_edges(parameters.edges_ev_per_a)
    release = database.find_by_ids("releases", [release_id])[0]
    folder = release_folder(database, release)
    potential = load_potential(model.load, database.settings.resolve_device())
    errors: list[force_bins.ItemErrors] = []
    rows: list[dict[str, Any]] = []
    for items in read_release(folder, parameters.split):
        found = evaluate_each(potential.evaluate, [i.atoms for i in items])
        batch = [force_bins.item_errors(i.reference, f) for i, f in zip(items, found, strict=True)]
        rows += [_error_row(i.frame_id, i.formula, e) for i, e in zip(items, batch, strict=True)]
        errors += batch
        if progress:
            progress(len(errors))
    if not errors:
        raise InputError(
            f"The split {parameters.split!r} of {release_id} has no labels; choose another split, or make "
            "a larger release."
        )
    document = _document(
        "force_bins", key, model, dataset=f"{release_id} {parameters.split}", n_items=len(rows), release_id=release_id
    )
    document.metrics = force_bins.aggregate(errors, parameters.edges_ev_per_a) | {
        "parameters": parameters.model_dump(mode="json")
    }
    _finish(database, document, rows, ("label_id", "formula"), start)
    return document


def _document(benchmark: Benchmark, key: str, model: ResolvedModel, dataset: str, **fields: Any) -> BenchmarkDocument:
    return BenchmarkDocument(
        key=key,
        benchmark_id=f"benchmark-{key}",
        benchmark=benchmark,
        model=model.name,
        model_id=model.model_id,
        model_hash=model.sha256,
        dataset=dataset,
        status="completed",
        n_failed=0,
        metrics={},
        **fields,
    )


def _finish(
    database: Database, document: BenchmarkDocument, rows: list[dict[str, Any]], identity: Sequence[str], start: float
) -> None:
    """Store the rows, fill in failures and time, and write the document."""
    failed = [r for r in rows if r["failure_reason"] is not None]
    document.n_failed = len(failed)
    document.failures = [
        {**{k: r[k] for k in identity}, "reason": r["failure_reason"], "message": r["failure_message"]}
        for r in failed[:MAX_LISTED_FAILURES]
    ]
    document.details = _put_rows(database, rows, SCHEMAS[document.benchmark])
    document.seconds = round(time.perf_counter() - start, 3)
    database.upsert("benchmarks", [document])


def _put_rows(database: Database, rows: list[dict[str, Any]], schema: pa.Schema) -> ArtifactRef:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return database.artifacts.put_bytes(sink.getvalue(), "parquet")


def _reason(failure: Failure | None) -> dict[str, str | None]:
    return {
        "failure_reason": failure.reason if failure else None,
        "failure_message": failure.message if failure else None,
    }


def _scan_row(candidate: dict[str, Any], scan: ev_scan.EVScan) -> dict[str, Any]:
    return {
        "candidate_id": candidate["candidate_id"],
        "name": candidate["name"],
        "formula": candidate["formula"],
        "n_atoms": scan.n_atoms,
        "volumes": scan.volumes.tolist(),
        "energies": scan.energies.tolist(),
        **{f"spearman_{name}": scan.spearman[name] for name in ev_scan.MEASURES},
        "flips": scan.flips,
        "tortuosity": scan.tortuosity,
        **_reason(scan.failure),
    }


def _error_row(frame_id: str, formula: str, errors: force_bins.ItemErrors) -> dict[str, Any]:
    return {
        "label_id": errors.item_id,
        "frame_id": frame_id,
        "formula": formula,
        "n_atoms": errors.n_atoms,
        "max_force": errors.max_force,
        "energy_error": errors.energy_error,
        "force_mae": errors.force_mae,
        "stress_mae": errors.stress_mae,
        **_reason(errors.failure),
    }


def _failed(
    database: Database, benchmark: Benchmark, model: str, key: str, error: Exception, release_id: str | None
) -> BenchmarkDocument:
    """Write the document of a benchmark that could not run at all."""
    document = _document(
        benchmark,
        key,
        ResolvedModel(model, model, "", model if model.startswith("model-") else None),
        dataset=release_id or "candidates",
        n_items=0,
        release_id=release_id,
    )
    document.status = "failed"
    document.failure = Failure(reason="cannot_run", message=str(error))
    database.upsert("benchmarks", [document])
    return document


@dataclass
class EVScanMaker:
    """Make a job that scans energy against volume for accepted candidates.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        :class:`~aqvolt_flows.schemas.parameters.EVScanParameters` as a mapping.
    """

    name: str = "E-V scan"
    parameters: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, model: str, candidate_ids: list[str], key: str) -> dict[str, Any]:
        """Return the benchmark's document; a model that cannot be loaded gives a failed one.

        Parameters
        ----------
        model
            Model string or ``model_id``.
        candidate_ids
            What to scan.
        key
            :func:`ev_scan_key`.
        """
        database = Database.connect()
        try:
            resolved = resolve_model(database, model)
            document = compute_ev_scan(database, resolved, EVScanParameters(**self.parameters), candidate_ids, key)
        except (InputError, ResourceError) as error:
            document = _failed(database, "ev_scan", model, key, error, None)
        return document.model_dump(mode="json")


@dataclass
class ForceBinsMaker:
    """Make a job that compares a model with the labels of a release, binned by force.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        :class:`~aqvolt_flows.schemas.parameters.ForceBinParameters` as a mapping.
    """

    name: str = "force bins"
    parameters: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, model: str, release_id: str, key: str) -> dict[str, Any]:
        """Return the benchmark's document; an empty split or a model that cannot be loaded gives a failed one.

        Parameters
        ----------
        model
            Model string or ``model_id``.
        release_id
            Release whose labels are the reference.
        key
            :func:`force_bins_key`.
        """
        database = Database.connect()
        try:
            resolved = resolve_model(database, model)
            document = compute_force_bins(database, resolved, ForceBinParameters(**self.parameters), release_id, key)
        except (InputError, ResourceError) as error:
            document = _failed(database, "force_bins", model, key, error, release_id)
        return document.model_dump(mode="json")
