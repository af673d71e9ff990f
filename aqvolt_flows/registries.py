"""Registries: one place where each kind of thing is named, open to other packages by entry points.

A registry maps a name to an entry. Entries of this package are given; those of other packages are found through an
entry-point group (``aqvolt.potentials``, ``aqvolt.labelers``, ``aqvolt.benchmarks``, ``aqvolt.encoders``) when a
registry is first asked. A plug-in that does not load is named in :attr:`Registry.problems` and the others are used; of
two with one name the first stays, and the second is named as a problem.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from aqvolt_flows.errors import InputError

logger = logging.getLogger(__name__)


class Registry[Entry](Mapping[str, Entry]):
    """Entries by name, in the order in which they were added.

    Parameters
    ----------
    noun
        What an entry is, for messages: ``labeler``.
    kind
        Class that every entry must be an instance of.
    entries
        Those of this package.
    group
        Entry-point group through which other packages add entries; none: closed.
    name_of
        Gives an entry's name; by default its attribute ``name``.
    """

    def __init__(
        self,
        noun: str,
        kind: type[Any],
        entries: Iterable[Entry] = (),
        group: str | None = None,
        name_of: Callable[[Entry], str] = lambda entry: str(getattr(entry, "name", "")),
    ) -> None:
        self.noun, self._kind, self._group, self._name_of = noun, kind, group, name_of
        self._entries: dict[str, Entry] = {}
        self._problems: list[str] = []
        self._searched = group is None
        for entry in entries:
            self._add(entry)

    def __getitem__(self, name: str) -> Entry:
        """Return the entry of a name.

        Raises
        ------
        InputError
            If there is none; the message names the known ones and the closest.
        """
        self._search()
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise InputError(self._unknown(name)) from None

    def __contains__(self, name: object) -> bool:
        self._search()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._search()
        return iter(self._entries)

    def __len__(self) -> int:
        self._search()
        return len(self._entries)

    @property
    def problems(self) -> list[str]:
        """One sentence for each plug-in that could not be used."""
        self._search()
        return list(self._problems)

    def _unknown(self, name: object) -> str:
        close = difflib.get_close_matches(str(name), list(self._entries), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "check the spelling."
        said = f"There is no {self.noun} {name!r}; known are {', '.join(self._entries)}: {hint}"
        return said + (f" Not loaded: {' '.join(self._problems)}" if self._problems else "")

    def _add(self, entry: Entry) -> None:
        if not isinstance(entry, self._kind):
            raise InputError(f"it is a {type(entry).__name__}; expected a {self._kind.__name__}")
        name = self._name_of(entry)
        if not name:
            raise InputError("it has no name")
        if name in self._entries:
            raise InputError(f"there is a {self.noun} {name!r} already")
        self._entries[name] = entry

    def _search(self) -> None:
        """Add the entries of other packages, once."""
        if self._searched:
            return
        self._searched = True
        assert self._group is not None
        for point in sorted(entry_points(group=self._group), key=lambda p: (p.name, p.value)):
            try:
                self._add(point.load())
            except Exception as error:  # noqa: BLE001 - a foreign package may fail in any way; it is named
                self._problem(point, error)

    def _problem(self, point: EntryPoint, error: Exception) -> None:
        source = f"{point.dist.name} " if point.dist is not None else ""
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        sentence = f"The {self.noun} {point.name!r} of {source}({point.value}) was left out: {why}."
        logger.warning(sentence)
        self._problems.append(sentence)
