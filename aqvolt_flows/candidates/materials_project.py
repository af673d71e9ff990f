"""The Materials Project, live through mp-api (extra ``mp``); the key comes from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from aqvolt_flows.candidates.records import Quarantined, Record
from aqvolt_flows.candidates.refusals import RecordError
from aqvolt_flows.candidates.sources import mp_record
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.parameters import CandidateParameters

KEY_VARIABLE = "MP_API_KEY"
SERVICE = "Materials Project"
#: Fields of a summary document that candidates need; a snapshot holds the same.
FIELDS = (
    "material_id",
    "structure",
    "elements",
    "chemsys",
    "nsites",
    "energy_above_hull",
    "theoretical",
    "possible_species",
    "task_ids",
    "builder_meta",
)


def queries(parameters: CandidateParameters, role: Literal["candidate", "host"]) -> list[dict[str, Any]]:
    """Return the arguments of ``materials.summary.search``, one set per halogen.

    The service filters coarsely (it refuses long lists of elements); every document is judged again by
    the same rules as one from a file.

    Parameters
    ----------
    parameters
        The campaign's rules.
    role
        ``host``: empty hosts below the campaign's energy above the hull; ``candidate``: Li halides.
    """
    rules = parameters.hosts if role == "host" else parameters
    excluded = list(rules.exclude_elements)
    if rules.exclude_noble_gases:
        excluded += ["He", "Ne", "Ar", "Kr", "Xe"]
    common: dict[str, Any] = {"exclude_elements": excluded, "fields": list(FIELDS)}
    if role == "host":
        common["energy_above_hull"] = (0.0, parameters.hosts.max_e_above_hull_ev)
    required = [] if role == "host" else list(parameters.require_elements)
    return [{"elements": [*required, halogen], **common} for halogen in rules.require_any_of]


def stream_live(
    parameters: CandidateParameters, role: Literal["candidate", "host"], api_key: str | None = None
) -> Iterator[Record | Quarantined]:
    """Yield the records of the Materials Project that a campaign may want.

    Parameters
    ----------
    parameters, role
        As in :func:`queries`.
    api_key
        By default the variable MP_API_KEY.

    Raises
    ------
    ResourceError
        If mp-api is not installed, there is no key, or the service does not answer.
    """
    key = api_key or os.environ.get(KEY_VARIABLE)
    if not key:
        raise ResourceError(
            f"The Materials Project needs a key: set {KEY_VARIABLE} (see materialsproject.org/api), or import a saved "
            "snapshot with 'aqvolt candidates import FILE --format mp'."
        )
    return _search(queries(parameters, role), key)


def _search(searches: list[dict[str, Any]], key: str) -> Iterator[Record | Quarantined]:
    try:
        from mp_api.client import MPRester
        from mp_api.client.core.exceptions import MPRestError
    except ImportError:
        raise ResourceError(
            "mp-api is not installed; install the extra with 'pip install aqvolt-flows[mp]', or import a saved "
            "snapshot."
        ) from None
    import requests

    seen: set[str] = set()
    number = 0
    try:
        with MPRester(key, use_document_model=False, mute_progress_bars=True) as service:
            version = service.get_database_version()
            for search in searches:
                for document in service.materials.summary.search(**search):
                    number += 1
                    entry = _entry(document, version, number)
                    identity = entry.provenance.get("record_id") if isinstance(entry, Record) else entry.record_id
                    if identity not in seen:
                        seen.add(str(identity))
                        yield entry
    except (MPRestError, requests.RequestException, ValueError) as error:
        raise ResourceError(
            f"The Materials Project did not answer as expected ({' '.join(str(error).split())[:300]}); check "
            f"{KEY_VARIABLE} and the network. What came before is in; running again adds the rest."
        ) from None


def _entry(document: Any, version: str, number: int) -> Record | Quarantined:
    plain = document if isinstance(document, Mapping) else document.model_dump(mode="json")
    structure: Any = plain.get("structure")
    if hasattr(structure, "as_dict"):
        structure = structure.as_dict()
    species = [str(s) for s in plain.get("possible_species") or []]
    tasks = [str(t) for t in plain.get("task_ids") or []]
    whole = {**plain, "structure": structure, "possible_species": species, "task_ids": tasks}
    whole["material_id"] = str(plain.get("material_id") or "") or None
    whole["builder_meta"] = {"database_version": version}
    try:
        return mp_record(whole, {"file": SERVICE, "record": number})
    except RecordError as error:
        return Quarantined(SERVICE, number, None, str(error), record_id=whole["material_id"], code=error.code)
