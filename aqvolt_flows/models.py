"""From what people name a model by to a potential that loads: model strings and ``models`` documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aqvolt_flows.potentials import check_model, model_hash
from aqvolt_flows.potentials.registry import family_of, located
from aqvolt_flows.potentials.trained import (
    describe_folder,
    document_string,
    find_document,
    is_folder,
    named,
)
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database


@dataclass(frozen=True)
class ResolvedModel:
    """A model ready to load.

    Attributes
    ----------
    name
        What documents and tables say: the model string, or the ``model_id``.
    load
        The model string to give to :func:`aqvolt_flows.potentials.load_potential` on this machine.
    sha256
        Hash of the weights.
    model_id
        Identity in ``models``, for models trained here.
    """

    name: str
    load: str
    sha256: str
    model_id: str | None = None


def identity_of(database: Database, model: str) -> str:
    """Return what a job stores for a model that was named: the identity of a trained one, else the string as it is.

    A name means the newest model, which may be another one when the job runs; a relative folder means another place.
    """
    if model.startswith("model-") or family_of(model):
        return model
    if is_folder(model):
        about = describe_folder(Path(model))
        known = database["models"].find_one({"model_id": about.get("model_id"), "status": "trained"}, {"model_id": 1})
        return str(known["model_id"]) if known else str(Path(model).resolve())
    document = named(database, model)
    return str(document["model_id"]) if document else model


def resolve_model(database: Database, model: str) -> ResolvedModel:
    """Return the potential that a model string, a ``model_id``, a model's name or its folder names.

    Parameters
    ----------
    database
        Where ``models`` and the artifact store are.
    model
        ``7net-mf-0/R2SCAN``, ``fairchem:PATH`` …, a ``model_id`` such as ``model-0f3a…``, a name such as
        ``demo-sevennet`` (the newest model of that name), or a folder written by ``aqvolt model export``.

    Raises
    ------
    InputError
        If neither a family nor a document knows it, or the training failed.
    """
    if not model.startswith("model-") and (family_of(model) or is_folder(model) or named(database, model) is None):
        check_model(model)
        return ResolvedModel(model, located(model), model_hash(model))
    document = find_document(database, model)
    reference = ArtifactRef(**document["checkpoint"])
    identity = str(document["model_id"])
    return ResolvedModel(identity, document_string(database, document), reference.sha256, identity)
