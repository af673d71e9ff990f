"""A trained model as a folder that travels: weights, configuration, references, curves, hashes, versions and a card."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.potentials.trained import MODEL_FILE, find_document
from aqvolt_flows.schemas.model import ModelDocument, model_name_of
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database
from aqvolt_flows.training.curves import write_csv
from aqvolt_flows.training.model_card import render

CARD, CURVES, HASHES = "README.md", "curves.csv", "SHA256SUMS"
#: What the weights' file is called, by the suffix that the artifact store keeps.
_WEIGHTS = {"pt": "inference_ckpt.pt", "pth": "checkpoint.pth", "model": "mace.model"}


def export_model(database: Database, model: str, target: str | Path) -> Path:
    """Write a trained model into a new folder and return it.

    Parameters
    ----------
    database
        Where ``models`` and the artifact store are.
    model
        Identity or name.
    target
        Folder that does not exist yet, or is empty. It appears when it is complete.

    Returns
    -------
    Path
        The folder: the weights (for fairchem ``inference_ckpt.pt``), ``aqvolt_model.json`` (what loads them, their
        hash, parameters, references in eV, versions), ``curves.csv``, ``README.md`` and ``SHA256SUMS``.

    Raises
    ------
    InputError
        If there is no such model, its weights were changed, or the folder is in use.
    ResourceError
        If the folder cannot be written.
    """
    document = find_document(database, model)
    folder = Path(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty; give a new folder.")
    reference = ArtifactRef(**document["checkpoint"])
    database.artifacts.verify(reference)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        aside.mkdir(parents=True)
        _write(database, document, reference, aside)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise ResourceError(f"The model cannot be written to {folder} ({error}); give another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _write(database: Database, document: Mapping[str, Any], reference: ArtifactRef, folder: Path) -> None:
    weights = _WEIGHTS.get(reference.format, f"weights.{reference.format}")
    shutil.copyfile(database.artifacts.local_path(reference), folder / weights)
    about = describe(document, weights, reference.sha256)
    (folder / MODEL_FILE).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    pointers = [stage["curve"] for stage in document.get("stages") or [] if stage.get("curve")]
    tables = [pq.read_table(database.artifacts.local_path(ArtifactRef(**pointer))) for pointer in pointers]
    if tables:
        write_csv(tables, folder / CURVES)
    (folder / CARD).write_text(card_of(database, document, weights))
    names = sorted(p.name for p in folder.iterdir())
    (folder / HASHES).write_text("".join(f"{file_sha256(folder / name)}  {name}\n" for name in names))


def card_of(database: Database, document: Mapping[str, Any], weights: str | None = None) -> str:
    """Return the card of a model with its release and benchmarks, as far as the database knows them."""
    if weights is None:
        suffix = (document.get("checkpoint") or {}).get("format", "")
        weights = _WEIGHTS.get(suffix, f"weights.{suffix}")
    release = database["releases"].find_one({"release_id": document["release_id"]}, {"manifest": 0})
    query = {"model_id": document["model_id"], "status": "completed"}
    benchmarks = list(database["benchmarks"].find(query, {"_id": 0}).sort("benchmark_id", 1))
    return render(document, weights, release, benchmarks)


def describe(document: Mapping[str, Any], weights: str, sha256: str) -> dict[str, Any]:
    """Return what ``aqvolt_model.json`` says: plain values, no path and no address of a machine."""
    model = ModelDocument.model_construct(**document)
    return {
        "format": 1,
        "name": model_name_of(document),
        "model_id": model.model_id,
        "family": model.family,
        "channel": model.channel,
        "weights": weights,
        "sha256": sha256,
        "trainer": model.trainer,
        "architecture": model.architecture,
        "n_parameters": model.n_parameters,
        "start": model.start,
        "release_id": model.release_id,
        "content_hash": model.content_hash,
        "parameters": model.parameters,
        "references_ev": model.references,
        "force_rms_ev_per_a": model.force_rms,
        "held_out": model.held_out,
        "versions": model.versions,
    }
