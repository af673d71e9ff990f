"""Where a trained model is: by its identity, its name, or the folder that ``aqvolt model export`` wrote.

Documents name a model by identity or name, never by a path: weights are in the artifact store, and every machine asks
its own settings where that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aqvolt_flows.errors import DatabaseError, InputError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.schemas.model import ModelDocument, model_name_of
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.settings import find_config, load_settings
from aqvolt_flows.stores import Database

#: The file that makes a folder a model's folder.
MODEL_FILE = "aqvolt_model.json"
#: How trained models are named, for messages.
FORMS = ("model-…", "a trained model's name or folder")
_PREFIX = "model-"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")


def located(model: str) -> str | None:
    """Return the model string that loads a trained model on this machine; None where the string names none.

    Parameters
    ----------
    model
        ``model-…``, a name such as ``demo-sevennet``, or the path of an exported folder.

    Raises
    ------
    InputError
        If there is no such model, its training failed, or its weights are not those of its document.
    ResourceError
        If its weights are not in the artifact store.
    DatabaseError
        If it is an identity and no database answers.
    """
    if is_folder(model):
        return folder_string(Path(model))
    if not _NAME.match(model):
        return None
    if model.startswith(_PREFIX):
        database = Database.connect()
        return document_string(database, find_document(database, model))
    try:
        if find_config() is None and load_settings().mongo_uri is None:
            return None
        database = Database.connect()
        document = named(database, model)
    except DatabaseError:
        return None
    return document_string(database, document) if document else None


def is_folder(model: str) -> bool:
    """Return whether a string is the path of an exported model's folder."""
    return bool(model) and (Path(model) / MODEL_FILE).is_file()


def find_document(database: Database, model: str) -> Mapping[str, Any]:
    """Return the document of ``models`` that an identity or a name means; of one name, the newest trained.

    Raises
    ------
    InputError
        If there is none, or its training failed.
    """
    document: Mapping[str, Any] | None
    if model.startswith(_PREFIX):
        document = database["models"].find_one({"model_id": model}, {"_id": 0})
    else:
        document = named(database, model)
    if document is None:
        raise InputError(f"There is no model {model!r} in the collection models; see 'aqvolt model list'.")
    if document["status"] != "trained":
        reason = (document.get("failure") or {}).get("reason", "no reason was recorded")
        raise InputError(f"The training of {model} failed ({reason}); there is nothing to load.")
    return document


def named(database: Database, name: str) -> Mapping[str, Any] | None:
    """Return the newest trained model of a name, or None."""
    found = database["models"].find({"status": "trained"}, {"_id": 0}).sort([("last_updated", -1), ("model_id", -1)])
    return next((d for d in found if model_name_of(d) == name), None)


def document_string(database: Database, document: Mapping[str, Any]) -> str:
    """Return the model string that loads a document's weights from the artifact store of this machine."""
    read = ModelDocument.model_construct(**document)
    reference = ArtifactRef(**document["checkpoint"])
    path = database.artifacts.local_path(reference)
    return string_of(read.family, path, read.channel, reference.sha256)


def folder_string(folder: Path) -> str:
    """Return the model string that loads an exported folder.

    The folder's word is not enough to load it: its weights must be those of ``models``, or trusted by the user.

    Raises
    ------
    InputError
        If its description cannot be read, or its weights are not the ones that it describes.
    """
    about = describe_folder(folder)
    weights, expected = folder / about["weights"], about["sha256"]
    seen = file_sha256(weights)
    if seen != expected:
        raise InputError(
            f"The weights {weights} hash to {seen[:12]}…, {MODEL_FILE} says {expected[:12]}…; export the model again."
        )
    return string_of(about["family"], weights, about.get("channel"), None)


def describe_folder(folder: Path) -> dict[str, Any]:
    """Return what an exported folder says of its model.

    Raises
    ------
    InputError
        If it cannot be read, or its weights are not there.
    """
    file = folder / MODEL_FILE
    try:
        about: dict[str, Any] = json.loads(file.read_text())
        wrong = [name for name in ("family", "weights", "sha256") if not isinstance(about[name], str)]
        if wrong or Path(about["weights"]).name != about["weights"] or not (folder / about["weights"]).is_file():
            raise ValueError(f"there are no weights {about['weights']!r} beside it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} does not describe a model ({type(error).__name__}: {error}); export it again with "
            "'aqvolt model export NAME DIR'."
        ) from None
    return about


def string_of(family: str, path: Path, channel: str | None, sha256: str | None) -> str:
    """Return ``FAMILY:PATH[#CHANNEL][@sha256:HASH]``; without a pin, the hash must be known otherwise."""
    pin = f"@sha256:{sha256}" if sha256 else ""
    return f"{family}:{path}{f'#{channel}' if channel else ''}{pin}"
