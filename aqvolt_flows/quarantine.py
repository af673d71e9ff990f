"""Documents that do not fit their schema are set aside with the reason, so that one of them stops nothing else.

Nothing is checked while all goes well. When a command or a job stumbles (a missing key, a value of the wrong kind),
the collections are read through their schemas; what does not fit moves, whole, to the collection ``quarantine``, and
the work is done again without it. ``aqvolt doctor`` lists what is there; ``aqvolt db quarantine --restore`` puts back
what fits, after it was mended or with a version of this package that knows it.

Fields that a schema does not know are no fault: a newer version may have written them.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pymongo.errors import DuplicateKeyError

from aqvolt_flows.errors import SYMPTOMS
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.stores import IDENTITIES, Database

logger = logging.getLogger(__name__)

COLLECTION = "quarantine"
_SCHEMAS = {
    "candidates": "candidate:CandidateDocument",
    "trajectories": "trajectory:TrajectoryDocument",
    "features": "feature:FeatureDocument",
    "samples": "sample:SampleDocument",
    "frames": "frame:FrameDocument",
    "labels": "label:LabelDocument",
    "releases": "release:ReleaseDocument",
    "models": "model:ModelDocument",
    "benchmarks": "benchmark:BenchmarkDocument",
    "benchmark_parts": "benchmark:BenchmarkPartDocument",
    "costs": "cost:CostDocument",
    "holds": "hold:HoldDocument",
    "builds": "build:BuildDocument",
    "loops": "loop:LoopDocument",
}


def fault(name: str, document: Mapping[str, Any]) -> str:
    """Return what is wrong with a document of a collection, or nothing.

    Parameters
    ----------
    name
        Collection.
    document
        As the database holds it.
    """
    if name == "outputs":
        return _fault_of_output(document)
    module, _, kind = _SCHEMAS[name].partition(":")
    schema: type[BaseModel] = getattr(importlib.import_module(f"aqvolt_flows.schemas.{module}"), kind)
    try:
        schema(**{str(k): v for k, v in document.items() if k != "_id"})
    except ValidationError as error:
        wrong = [e for e in error.errors() if e["type"] != "extra_forbidden"]
        if wrong:
            where = ".".join(str(part) for part in wrong[0]["loc"]) or "it"
            return f"{where}: {wrong[0]['msg']}"
    accepted = name == "candidates" and document["status"] == "accepted"
    return _fault_of_structure(document) if accepted else ""


def _fault_of_structure(document: Mapping[str, Any]) -> str:
    from pymatgen.core import Structure

    try:
        found = Structure.from_dict(document["structure"])
    except Exception as error:  # noqa: BLE001 - whatever pymatgen raises, it is no structure
        return f"structure: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "" if len(found) else "structure: it has no atoms"


def _fault_of_output(document: Mapping[str, Any]) -> str:
    """Return what is wrong with an output; of others' jobs only what JobStores ask for, of ours the mark, too."""
    if not isinstance(document.get("uuid"), str) or not document["uuid"]:
        return "uuid: missing, or no text"
    index = document.get("index", 1)
    if not isinstance(index, int) or isinstance(index, bool):
        return f"index: {type(index).__name__}, expected a whole number"
    metadata = document.get("metadata")
    if metadata is None:
        return ""
    if not isinstance(metadata, Mapping):
        return f"metadata: {type(metadata).__name__}, expected a mapping"
    mark = metadata.get("aqvolt")
    if mark is None:
        return ""
    if not isinstance(mark, Mapping):
        return f"metadata.aqvolt: {type(mark).__name__}, expected a mapping"
    lacking = [field for field in ("stage", "key") if not isinstance(mark.get(field), str) or not mark[field]]
    if lacking:
        return f"metadata.aqvolt.{lacking[0]}: missing, or no text"
    campaigns = mark.get("campaigns")
    wrong = campaigns is not None and not (isinstance(campaigns, list) and all(isinstance(c, str) for c in campaigns))
    return "metadata.aqvolt.campaigns: expected names" if wrong else ""


def sweep(database: Database) -> list[dict[str, Any]]:
    """Move every document that does not fit its schema to the quarantine, and return what was moved, without content.

    A document is written to the quarantine before it is taken from its collection; a sweep that is killed in between is
    completed by the next.
    """
    moved = []
    for name in (*IDENTITIES, "outputs"):
        for document in database[name].find():
            reason = fault(name, document)
            if reason:
                moved.append(_move(database, name, document, reason))
    for entry in moved:
        logger.warning("%s %s does not fit its schema and is set aside: %s", *_said(entry))
    return moved


def _said(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return entry["collection"], entry["what"], entry["reason"]


def _move(database: Database, name: str, document: dict[str, Any], reason: str) -> dict[str, Any]:
    identity = document.get(IDENTITIES.get(name, "uuid"))
    what = str(identity if isinstance(identity, str) and identity else document["_id"])
    entry = {"collection": name, "what": what, "reason": reason, "since": utc_now()}
    place = {"_id": f"{name}:{document['_id']}"}
    database.mongo[COLLECTION].update_one(place, {"$set": {**entry, "document": document}}, upsert=True)
    database[name].delete_one({"_id": document["_id"]})
    return entry


def listed(database: Database) -> list[dict[str, Any]]:
    """Return what is in the quarantine, oldest first: ``collection``, ``what``, ``reason``, ``since``."""
    fields = {"_id": 0, "collection": 1, "what": 1, "reason": 1, "since": 1}
    return list(database.mongo[COLLECTION].find({}, fields).sort("since", 1))


def restore(database: Database) -> dict[str, int]:
    """Put back what fits its schema by now; return how many were ``restored`` and how many are ``left``.

    One whose identity or key has been made again meanwhile stays.
    """
    restored = left = 0
    for entry in list(database.mongo[COLLECTION].find()):
        name, document = entry["collection"], entry["document"]
        if name not in {*IDENTITIES, "outputs"} or fault(name, document):
            left += 1
            continue
        try:
            database[name].insert_one(document)
        except DuplicateKeyError:
            if not database[name].find_one({"_id": document["_id"]}, {"_id": 1}):
                left += 1
                continue
        database.mongo[COLLECTION].delete_one({"_id": entry["_id"]})
        restored += 1
    return {"restored": restored, "left": left}


def guarded[Result](action: Callable[[], Result], database: Callable[[], Database]) -> Result:
    """Return what an action returns; where a bad document stops it, set such documents aside and do it again.

    Parameters
    ----------
    action
        Can be done twice: what it had written is found again.
    database
        Gives the database that it reads.

    Raises
    ------
    Exception
        What the action raises, if all documents fit their schemas.
    """
    try:
        return action()
    except SYMPTOMS:
        if not sweep(database()):
            raise
    return action()
