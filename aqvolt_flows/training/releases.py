"""The releases that a training reads: which they are, whether their labels are of one theory level, whose atoms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aqvolt_flows.chemistry import atomic_energies
from aqvolt_flows.errors import InputError
from aqvolt_flows.labelers import reference_functional
from aqvolt_flows.releases import latest_release
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.stores import Database


def mixed_releases(database: Database, parameters: TrainingParameters) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the documents of a mixture's releases in order, and sentences about those that are not there.

    A name means its newest release: the campaign's own, else that of any campaign.
    """
    found, missing = [], []
    for part in parameters.mixture:
        if "@" in part.release:
            document = database["releases"].find_one({"release_id": part.release}, {"_id": 0})
        else:
            document = latest_release(database, part.release) or database["releases"].find_one(
                {"name": part.release}, {"_id": 0}, sort=[("last_updated", -1)]
            )
        if document is None:
            missing.append(
                f"training.mixture names the release {part.release!r}, which the database does not hold; import its "
                f"labels and run 'aqvolt release create {part.release.partition('@')[0]}'"
            )
        else:
            found.append(document)
    return found, missing


def sources_of(documents: Iterable[Mapping[str, Any]], parameters: TrainingParameters) -> list[dict[str, Any]]:
    """Return a mixture as jobs and documents carry it: ``release_id``, ``content_hash``, ``name``, ``weight``.

    Raises
    ------
    InputError
        If two parts are one release.
    """
    sources = [
        {
            "release_id": document["release_id"],
            "content_hash": document["content_hash"],
            "name": document["name"],
            "weight": part.weight,
        }
        for document, part in zip(documents, parameters.mixture, strict=True)
    ]
    names = [s["name"] for s in sources]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"training.mixture names {twice[0]!r} twice; give it once, with the sum of the weights.")
    return sources


def check_protocols(documents: Sequence[Mapping[str, Any]], allow_mixed: bool) -> None:
    """Refuse releases of several theory levels together; what one release mixes was decided when it was made.

    Raises
    ------
    InputError
        Naming the theory levels and the releases that hold them.
    """
    if len(documents) < 2:
        return
    held: dict[str, list[str]] = {}
    for document in documents:
        for protocol in document.get("protocols") or {}:
            held.setdefault(protocol, []).append(str(document["release_id"]))
    if len(held) > 1 and not allow_mixed:
        said = "; ".join(f"{name} in {', '.join(where)}" for name, where in sorted(held.items()))
        raise InputError(
            f"The training would mix {len(held)} theory levels ({said}); leave all but one out, or set "
            "training.allow_mixed_protocols: true if their energies can be learned together ('aqvolt labels align' "
            "measures by how much they differ)."
        )


def isolated_atoms(documents: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the energies of isolated atoms, eV by symbol, that belong to the releases' protocols; empty: none do.

    Raises
    ------
    InputError
        If the protocols count from different atoms.
    """
    tables = set()
    for document in documents:
        for name, said in (document.get("manifest", {}).get("protocols") or {}).items():
            known = {k: v for k, v in said.items() if k in Protocol.model_fields}
            try:
                tables.add(reference_functional(Protocol(**known)))
            except ValidationError:
                raise InputError(f"The manifest of {document['release_id']} does not describe {name}.") from None
    if len(tables) > 1:
        raise InputError(
            "The releases' protocols count energies from different isolated atoms; give "
            "training.isolated_atom_energies, or set training.references: least_squares."
        )
    table = next(iter(tables), None)
    return dict(atomic_energies(table)) if table else {}


def folder_here(path: Path) -> bool:
    """Return whether a release's ASE-LMDB export is on this machine; planning fetches nothing."""
    return (path / "exports" / "aselmdb" / "train" / "metadata.npz").is_file()
