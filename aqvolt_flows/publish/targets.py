"""What every place to publish to must be able to do, and what a push would do there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aqvolt_flows.errors import InputError
from aqvolt_flows.publish.content import Content, PublishedFile
from aqvolt_flows.schemas.publication import Publication

#: Called with a sentence when something was done.
Tell = Callable[[str], None]
_HUB = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Plan:
    """What a push would do.

    Attributes
    ----------
    target
        As it was named.
    upload, keep
        Files that go, and those that are there with the same content.
    remove
        Names of files that are there and do not belong to what is pushed.
    notes
        Sentences about what else happens.
    """

    target: str
    upload: tuple[PublishedFile, ...]
    keep: tuple[PublishedFile, ...]
    remove: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """How much goes."""
        return sum(f.bytes for f in self.upload)


class Target(Protocol):
    """A place to publish to."""

    def plan(self, content: Content) -> Plan:
        """Return what a push would do; changes nothing."""
        ...

    def push(self, content: Content, tell: Tell) -> Publication:
        """Publish what is not there yet, compare what arrived by hashes, and return where it is."""
        ...

    def pull(self, folder: Path, tell: Tell) -> None:
        """Fetch all files into a folder, going on where an earlier call was killed."""
        ...


def hub_reference(text: str) -> tuple[str, str | None]:
    """Return repository and revision of ``hf:ORG/NAME[@REVISION]``.

    Raises
    ------
    InputError
        If the text is another.
    """
    found = _HUB.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} is not a place on the Hub; write hf:ORG/NAME, or hf:ORG/NAME@REVISION.")
    return found["repo"], found["revision"]
