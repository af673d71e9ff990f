"""Which place to publish to a text names."""

from __future__ import annotations

import re
from pathlib import Path

from aqvolt_flows.errors import InputError
from aqvolt_flows.publish.folder import FolderTarget
from aqvolt_flows.publish.hub import HubTarget
from aqvolt_flows.publish.targets import Target, hub_reference
from aqvolt_flows.publish.zenodo import ZenodoTarget


def target_named(text: str, repo_type: str = "dataset", public: bool = False, license: str | None = None) -> Target:
    """Return the place that a text names.

    Parameters
    ----------
    text
        ``hf:ORG/NAME[@REVISION]``, ``zenodo``, ``zenodo:ID``, ``zenodo-sandbox[:ID]``, or a folder.
    repo_type
        On the Hub: ``dataset`` or ``model``.
    public
        Whether others may see it: a new repository on the Hub is public, a deposit on Zenodo is published with its DOI.
    license
        For Zenodo, where the manifest names none.

    Raises
    ------
    InputError
        If it names no place.
    """
    scheme = text.split(":", 1)[0]
    if scheme == "hf":
        repo, revision = hub_reference(text)
        return HubTarget(repo, revision, repo_type, public)
    if scheme in {"zenodo", "zenodo-sandbox"}:
        record = text.split(":", 1)[1] if ":" in text else None
        if record is not None and not record.isdigit():
            raise InputError(f"{text!r} does not name a record; write {scheme}, or {scheme}:ID with the number of one.")
        return ZenodoTarget(record, scheme == "zenodo-sandbox", public, repo_type, license)
    if re.match(r"\w{2,}:", text):
        raise InputError(f"{text!r} is no place to publish; expected hf:ORG/NAME, zenodo, zenodo:ID or a folder.")
    return FolderTarget(Path(text))
