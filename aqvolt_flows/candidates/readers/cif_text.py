"""The grammar of CIF: blocks, tags and loops (Hall, Allen and Brown, Acta Cryst. A47, 655, 1991)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from aqvolt_flows.candidates.refusals import RecordError

_BLOCK = re.compile(r"^\s*data_(\S*)(.*)$", re.IGNORECASE)
_INSIDE = re.compile(r"^\s*(_|loop_|save_|data_|#|$)", re.IGNORECASE)
_TOKEN = re.compile(r"""\s*(?:(\#.*)|'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(\S+))""")
_WORDS = ("loop_", "save_", "global_", "stop_", "data_")
_UNCERTAINTY = re.compile(r"\([^)]*\)?$")
#: What CIF writes for "does not apply" and "unknown".
UNKNOWN = (".", "?", "")


@dataclass
class Block:
    """One data block.

    Attributes
    ----------
    name
        What follows ``data_``.
    line
        Where it begins, from 1.
    items
        Value of each tag, the tag in lower case with ``.`` as ``_``.
    columns
        Values of each tag of a loop.
    broken
        Tags of loops whose number of values does not fit.
    repeated
        Tags that come twice with different values, which CIF forbids: two blocks of which one lost its ``data_`` line.
    """

    name: str
    line: int
    items: dict[str, str] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    repeated: set[str] = field(default_factory=set)

    def put(self, tag: str, value: str) -> None:
        """Keep the value of a tag; the first if it comes again."""
        if tag in self.columns or self.items.setdefault(tag, value) != value:
            self.repeated.add(tag)

    def put_column(self, tag: str, values: list[str]) -> None:
        """Keep the values of a tag of a loop; the first if it comes again."""
        if tag in self.items or self.columns.setdefault(tag, values) != values:
            self.repeated.add(tag)

    def first(self, *tags: str) -> str | None:
        """Return the first known value of some tags, of a loop its first row."""
        for tag in tags:
            found = self.items.get(tag) or next(iter(self.columns.get(tag, ())), None)
            if found is not None and found.strip() not in UNKNOWN:
                return found.strip()
        return None

    def column(self, tag: str) -> list[str] | None:
        """Return the values of a tag of a loop, a single value as one row; None if it is absent.

        Raises
        ------
        RecordError
            If the loop has a wrong number of values.
        """
        if tag in self.broken:
            raise RecordError(f"the loop of {tag} has a number of values that its columns do not divide", "syntax")
        if tag in self.columns:
            return self.columns[tag]
        return [self.items[tag]] if tag in self.items else None


def number(text: str) -> float:
    """Return a CIF number without its standard uncertainty, 5.13 of ``5.13(2)``; raise ValueError if it is none."""
    return float(_UNCERTAINTY.sub("", text.strip()))


def split_blocks(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (name, first line from 1, lines) of the data blocks.

    A line ``data_…`` begins a block, also inside a text field that was never closed, if what follows it looks like the
    beginning of one; else it is text.
    """
    lines = text.split("\n")
    found: tuple[str, int, list[str]] | None = None
    in_field = False
    for index, line in enumerate(lines):
        opened = _BLOCK.match(line)
        if opened and (not in_field or (not opened[2].strip() and _begins(lines, index + 1))):
            if found is not None:
                yield found
            found, in_field = (opened[1], index + 1, [opened[2]]), False
            continue
        if line.startswith(";"):
            in_field = not in_field
        if found is not None:
            found[2].append(line)
    if found is not None:
        yield found


def _begins(lines: list[str], index: int) -> bool:
    following = next((line for line in lines[index : index + 20] if line.strip()), "")
    return bool(_INSIDE.match(following))


def parse_block(name: str, line: int, lines: list[str]) -> Block:
    """Return the tags and loops of a block."""
    block = Block(name, line)
    tokens = list(_tokens(lines))
    at = 0
    while at < len(tokens):
        bare, value = tokens[at]
        at += 1
        if not bare:
            continue
        word = value.lower()
        if word.startswith("_"):
            if at < len(tokens) and not _is_key(tokens[at]):
                block.put(_tag(value), tokens[at][1])
                at += 1
            else:
                block.put(_tag(value), "")
        elif word == "loop_":
            at = _read_loop(tokens, at, block)
    return block


def _read_loop(tokens: list[tuple[bool, str]], at: int, block: Block) -> int:
    tags = []
    while at < len(tokens) and tokens[at][0] and tokens[at][1].startswith("_"):
        tags.append(_tag(tokens[at][1]))
        at += 1
    values = []
    while at < len(tokens) and not _is_key(tokens[at]):
        values.append(tokens[at][1])
        at += 1
    if tags and len(values) % len(tags) == 0:
        for i, tag in enumerate(tags):
            block.put_column(tag, values[i :: len(tags)])
    else:
        block.broken.update(tags)
    return at


def _is_key(token: tuple[bool, str]) -> bool:
    return token[0] and (token[1].startswith("_") or token[1].lower().startswith(_WORDS))


def _tag(text: str) -> str:
    return text.lower().replace(".", "_").rstrip("_")


def _tokens(lines: list[str]) -> Iterator[tuple[bool, str]]:
    """Yield (unquoted, value); a text field is one quoted value."""
    inside: list[str] | None = None
    for line in lines:
        rest = line
        if line.startswith(";"):
            rest = line[1:]
            if inside is None:
                inside = [rest]
                continue
            yield False, "\n".join(inside).strip()
            inside = None
        if inside is not None:
            inside.append(line)
            continue
        for comment, single, double, bare in _TOKEN.findall(rest):
            if comment:
                break
            yield (True, bare) if bare else (False, single or double)
    if inside is not None:
        yield False, "\n".join(inside).strip()
