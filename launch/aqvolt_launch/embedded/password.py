"""The embedded database's password: made once, kept in a file that only its owner can read.

The server checks it (SCRAM-SHA-256; the password itself never crosses the wire), but can be given its first user only
while it asks nobody for one. That happens once, on a port that nothing else is told; afterwards, with the password
asked for, any other user that was made meanwhile is removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from aqvolt_flows.errors import DatabaseError, ResourceError
from aqvolt_flows.settings import EMBEDDED_USER, AqvoltSettings

_WAIT_MS = 10_000
_BYTES = 32


def is_set(settings: AqvoltSettings) -> bool:
    """Return whether the data in this folder has a user with a password."""
    return settings.password_file.is_file()


def make_private(folder: Path) -> None:
    """Let only this user enter the database's folder, and read the password in it.

    Raises
    ------
    ResourceError
        If the folder belongs to somebody else.
    """
    try:
        folder.chmod(0o700)
        password = folder / "password"
        if password.is_file():
            password.chmod(0o600)
    except OSError as error:
        raise ResourceError(
            f"{folder} cannot be made private to you ({error.strerror}); the embedded database is for one user: choose "
            "another folder with database_dir in aqvolt.yaml."
        ) from None


def provision(settings: AqvoltSettings, unprotected: Callable[[], Iterator[str]]) -> None:
    """Give the data of this folder its user.

    Parameters
    ----------
    settings
        Whose ``password_file`` is written.
    unprotected
        A generator that yields the URI of a server on the data that asks for no password, and ends it.

    Raises
    ------
    DatabaseError
        If the server refuses.
    """
    value = secrets.token_urlsafe(_BYTES)
    aside = settings.password_file.with_name(".password.part")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(value + "\n")
    try:
        with contextlib.contextmanager(unprotected)() as uri, _connected(uri) as client:
            with contextlib.suppress(OperationFailure):  # of a start that was killed before it kept the password
                client.admin.command("dropUser", EMBEDDED_USER)
            client.admin.command("createUser", EMBEDDED_USER, pwd=value, roles=["root"])
    except PyMongoError as error:
        aside.unlink(missing_ok=True)
        raise DatabaseError(
            f"The embedded database could not be given a password ({type(error).__name__}); look at its log and run "
            "'aqvolt db start' again."
        ) from None
    aside.replace(settings.password_file)


def remove_strangers(uri: str) -> list[str]:
    """Remove every user but ours, and return their names.

    Parameters
    ----------
    uri
        With user and password.
    """
    with _connected(uri) as client:
        found = list(client.admin["system.users"].find({}, {"user": 1, "db": 1}))  # those of every database
        strangers = [u for u in found if (u["user"], u["db"]) != (EMBEDDED_USER, "admin")]
        for user in strangers:
            client[user["db"]].command("dropUser", user["user"])
    return [f"{u['db']}.{u['user']}" for u in strangers]


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](
        uri, serverSelectionTimeoutMS=_WAIT_MS, connectTimeoutMS=_WAIT_MS, socketTimeoutMS=_WAIT_MS
    ) as client:
        yield client
