"""Checkpoints by path: their hash, and what loading them would run.

Most checkpoints are pickles, and unpickling can run code. Weights inside packages load by known hash. A file that is
named by path loads only if its hash is known (:mod:`aqvolt_flows.potentials.trust`). A fairchem checkpoint must besides
name nothing but what its family's checkpoints consist of: its pickle is read without unpickling it, its configuration
without resolving it. A checkpoint that holds several levels of
theory names one behind ``#``: ``fairchem:PATH#omat``, ``sevennet:PATH#R2SCAN``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256

_PIN = re.compile(r"^(?P<path>.+)@sha256:(?P<sha256>[0-9a-f]{64})$")
_ANY_PIN = re.compile(r"@sha256:")


@dataclass(frozen=True)
class CheckpointName:
    """What the part of a model string after its scheme says.

    Attributes
    ----------
    path
        Of the file or folder.
    channel
        Level of theory inside the checkpoint (fairchem's task, SevenNet's modality); None where none is named.
    sha256
        The pinned hash, or None.
    """

    path: Path
    channel: str | None = None
    sha256: str | None = None


def parse_name(text: str) -> CheckpointName:
    """Return what ``PATH``, ``PATH#CHANNEL``, ``PATH@sha256:HASH`` or ``PATH#CHANNEL@sha256:HASH`` say.

    A file whose own name contains ``#`` is taken as it is.

    Raises
    ------
    InputError
        If what follows ``@sha256:`` is no hash.
    """
    found = _PIN.match(text)
    if found is None and _ANY_PIN.search(text):
        raise InputError(
            f"{text} does not end in 64 hexadecimal digits; write PATH@sha256:HASH as 'sha256sum' gives it."
        )
    place, pinned = (found["path"], found["sha256"]) if found else (text, None)
    path, mark, channel = place.rpartition("#")
    no_file = Path(path).name != path.rpartition("/")[2] or not path
    if not mark or no_file or not channel or "/" in channel or Path(place).exists():
        return CheckpointName(Path(place), None, pinned)
    return CheckpointName(Path(path), channel, pinned)


def split_pin(text: str) -> tuple[Path, str | None]:
    """Return path and hash of ``PATH[#CHANNEL][@sha256:HASH]``; see :func:`parse_name`."""
    name = parse_name(text)
    return name.path, name.sha256


def channel_hash(sha256: str, channel: str | None) -> str:
    """Return what identifies one level of theory of a checkpoint; that of the file where none is named."""
    return hashlib.sha256(f"{sha256}#{channel}".encode()).hexdigest() if channel else sha256


def checkpoint_sha256(path: Path, members: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of a file, or of a folder's ``members`` (names and contents)."""
    files = [path / name for name in members] if members else [path]
    return _cached(tuple((str(f.resolve()), f.stat().st_mtime_ns, f.stat().st_size) for f in files), bool(members))


@cache
def _cached(files: tuple[tuple[str, int, int], ...], folder: bool) -> str:
    hashes = [(Path(name).name, file_sha256(name)) for name, *_ in files]
    if not folder:
        return hashes[0][1]
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in hashes).encode()).hexdigest()


def check_there(model: str, path: Path, members: tuple[str, ...], advice: str) -> None:
    """Raise :class:`ResourceError` with advice unless the file, or the folder's members, are there."""
    if members:
        missing = [name for name in members if not (path / name).is_file()]
        if missing:
            raise ResourceError(f"Potential {model!r}: {path} holds no {', '.join(missing)}; {advice}")
    elif not path.is_file():
        raise ResourceError(f"Potential {model!r}: there is no checkpoint {path}; {advice}")


def check_pin(model: str, pinned: str, seen: str) -> None:
    """Raise :class:`InputError` if a checkpoint is not the one that was pinned."""
    if pinned != seen:
        raise InputError(
            f"Potential {model.partition('@sha256:')[0]!r} hashes to {seen[:12]}…, but {pinned[:12]}… was pinned; give "
            "the file that was meant, or its hash as 'sha256sum' prints it."
        )


def unpickled_names(path: Path) -> set[str]:
    """Return the classes and functions beyond torch's own that unpickling a file would import, e.g. ``posix.system``.

    Nothing is unpickled: torch reads the names from the pickle's opcodes.

    Raises
    ------
    InputError
        If the file is no torch checkpoint.
    """
    import pickle
    import zipfile

    import torch

    try:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise InputError(f"{path} is not a checkpoint that torch wrote ({why}); give the path of one.") from None


def check_names(path: Path, allowed: Iterable[str], scheme: str) -> None:
    """Raise :class:`InputError` if unpickling the file would import anything that is not in ``allowed``.

    Parameters
    ----------
    path
        A file that ``torch.save`` wrote.
    allowed
        Full names of classes.
    scheme
        The family's prefix, for the message.
    """
    strange = sorted(unpickled_names(path) - set(allowed))
    if strange:
        raise InputError(
            f"Loading {path} would import {', '.join(strange[:4])}, which a {scheme} checkpoint does not consist of; "
            "do not load this file."
        )


def check_config(path: Path, config: Any, callable_names: Collection[str], named: Collection[str] = ()) -> None:
    """Raise :class:`InputError` if a configuration could make hydra or a registry call what is not allowed.

    It is judged as it is written. An interpolation (``${…}``) is refused wherever it stands, because OmegaConf
    resolves it when hydra reads it, into anything. A text that names something importable (``package.module.name``) is
    refused unless it is allowed, under whatever key it stands: fairchem imports what ``model``, ``module`` or
    ``head_cls`` name.

    Parameters
    ----------
    path
        Where the configuration comes from.
    config
        Mappings, sequences, texts, numbers.
    callable_names
        What ``_target_`` may be.
    named
        What other texts may name besides.
    """
    for name, value in _leaves(config, ""):
        if not isinstance(value, str):
            if value is None or isinstance(value, bool | int | float):
                continue
            raise InputError(
                f"The configuration inside {path} holds a {type(value).__name__} as {name}; expected texts and "
                "numbers: do not load this file."
            )
        if "${" in value:
            raise InputError(
                f"The configuration inside {path} holds the interpolation {value[:60]!r} as {name}; expected plain "
                "values: do not load this file."
            )
        allowed = value in callable_names or (name.rpartition(".")[2] != "_target_" and value in named)
        if not allowed and (name.rpartition(".")[2] == "_target_" or _is_importable(value)):
            raise InputError(
                f"The configuration inside {path} would call {value[:100]} as {name}; expected one of the classes that "
                "such a checkpoint consists of: do not load this file."
            )


def _is_importable(text: str) -> bool:
    """Return whether a text is a dotted name below a package that is installed; nothing is imported."""
    words = text.replace(":", ".").split(".")
    if len(words) < 2 or not all(word.isidentifier() for word in words):
        return False
    try:
        return words[0] in sys.builtin_module_names or importlib.util.find_spec(words[0]) is not None
    except (ImportError, ValueError):
        return True


def _leaves(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    """Yield every key and every value of a configuration with its dotted name."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{name}.(key)", key
            yield from _leaves(part, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{name}[{index}]")
    else:
        yield name, value
