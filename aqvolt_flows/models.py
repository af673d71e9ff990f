"""From what people name a model by to a potential that loads: model strings and ``models`` documents."""

from __future__ import annotations

from dataclasses import dataclass

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import check_model, model_hash
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


def resolve_model(database: Database, model: str) -> ResolvedModel:
    """Return the potential that a model string or a ``model_id`` names.

    Parameters
    ----------
    database
        Where ``models`` and the artifact store are.
    model
        ``7net-mf-0/R2SCAN``, ``fairchem:PATH`` …, or a ``model_id`` such as ``model-0f3a…``.

    Raises
    ------
    InputError
        If neither a family nor a document knows it, or the training failed.
    """
    if not model.startswith("model-"):
        check_model(model)
        return ResolvedModel(model, model, model_hash(model))
    document = database["models"].find_one({"model_id": model})
    if document is None:
        raise InputError(f"There is no model {model!r} in the collection models; see 'aqvolt query models'.")
    if document["status"] != "trained":
        raise InputError(f"The training of {model} failed ({document['failure']['reason']}); there is nothing to load.")
    reference = ArtifactRef(**document["checkpoint"])
    load = f"fairchem:{database.artifacts.local_path(reference)}@sha256:{reference.sha256}"
    return ResolvedModel(model, load, reference.sha256, model)
