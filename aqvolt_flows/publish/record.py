"""Writing where something was published into its document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqvolt_flows.publish.content import Content
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.schemas.publication import Publication
from aqvolt_flows.stores import Database


def write_publication(database: Database, collection: str, content: Content, publication: Publication) -> bool:
    """Add a publication to the documents of a content, in place of an earlier push to the same target.

    Parameters
    ----------
    database, collection
        ``releases``, or ``models``.
    content
        What was pushed.
    publication
        Where it is now.

    Returns
    -------
    bool
        Whether the database knows the content.
    """
    found = database[collection]
    known = list(found.find(_identity(content.manifest, collection), {"publications": 1}))
    for document in known:
        others = [p for p in document.get("publications") or [] if p["target"] != publication.target]
        value = [*others, publication.model_dump(mode="python")]
        found.update_one({"_id": document["_id"]}, {"$set": {"publications": value, "last_updated": utc_now()}})
    return bool(known)


def _identity(manifest: Mapping[str, Any], collection: str) -> dict[str, Any]:
    name = {"releases": "release_id", "models": "model_id"}[collection]
    return {name: manifest.get(name, "")}
