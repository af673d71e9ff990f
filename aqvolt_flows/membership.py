"""Which campaign a document belongs to: beside its identity, never part of it.

What is equal is computed once and may belong to several campaigns: ``campaigns: [names]``. The field is in no key, in
no content hash, and not in the comparison that decides whether a document changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pymongo.collection import Collection

from aqvolt_flows.settings import AqvoltSettings

#: Collections whose documents belong to campaigns, and the field that says to which.
FIELDS = {
    "candidates": "campaigns",
    "trajectories": "campaigns",
    "features": "campaigns",
    "samples": "campaigns",
    "frames": "campaigns",
    "labels": "campaigns",
    "releases": "campaigns",
    "models": "campaigns",
    "benchmarks": "campaigns",
    "outputs": "metadata.aqvolt.campaigns",
}
#: Collection of the campaigns that a database has seen.
REGISTER = "campaigns"
_NAME = re.compile(r"[^a-z0-9._-]+")


def campaign_of(settings: AqvoltSettings) -> str:
    """Return the name of the campaign of the settings: the ``name`` in its file, else the file's own name."""
    local = settings.path(settings.campaign)
    shipped = resources.files("aqvolt_flows").joinpath(f"campaigns/{settings.campaign}.yaml")
    if local.is_file():
        return _name_in(str(local), local.stat().st_mtime_ns)
    if shipped.is_file():
        return _name_in(str(shipped), 0)
    return _fallback(settings.campaign)


@cache
def _name_in(path: str, _changed_at: int) -> str:
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError):
        return _fallback(path)  # the command that reads the whole file says what is wrong with it
    name = values.get("name") if isinstance(values, dict) else None
    return name if isinstance(name, str) else _fallback(path)


def _fallback(path: str) -> str:
    return _NAME.sub("-", Path(path).stem.lower()).strip("-._") or "campaign"


def job_campaigns() -> tuple[str, ...]:
    """Return the campaigns of the job that runs in this process; none outside of jobs and for jobs of version 0.1."""
    from jobflow import CURRENT_JOB

    metadata = getattr(CURRENT_JOB.job, "metadata", None) or {}
    about = metadata.get("aqvolt")
    return tuple(about.get("campaigns") or ()) if isinstance(about, Mapping) else ()


class Members:
    """The documents of a collection that belong to a campaign, with the reading methods of a collection.

    Parameters
    ----------
    collection
        All documents.
    query
        Which of them belong; empty: all.
    """

    def __init__(self, collection: Collection[dict[str, Any]], query: Mapping[str, Any]) -> None:
        self.collection = collection
        self.query = dict(query)

    def among(self, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a query restricted to the members."""
        asked = dict(query or {})
        if not self.query or not asked:
            return asked or dict(self.query)
        # what was asked first: the embedded server takes the index of the field that a query names first
        return asked | self.query if not asked.keys() & self.query.keys() else {"$and": [asked, self.query]}

    def find(self, query: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor over members, as ``Collection.find`` does."""
        return self.collection.find(self.among(query), *args, **kwargs)

    def find_one(self, query: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Return one member or None."""
        return self.collection.find_one(self.among(query), *args, **kwargs)

    def count_documents(self, query: Mapping[str, Any] | None = None, **kwargs: Any) -> int:
        """Return the number of members that match a query."""
        return int(self.collection.count_documents(self.among(query), **kwargs))

    def estimated_document_count(self) -> int:
        """Return the number of members; read from the collection's metadata where all documents are members."""
        return int(self.collection.estimated_document_count()) if not self.query else self.count_documents()

    def distinct(self, field: str, query: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the values of a field of members."""
        return self.collection.distinct(field, self.among(query))

    def aggregate(self, pipeline: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Return the result of a pipeline over members."""
        first: list[Mapping[str, Any]] = [{"$match": self.query}] if self.query else []
        return self.collection.aggregate([*first, *pipeline])
