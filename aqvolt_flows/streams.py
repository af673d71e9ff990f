"""JSON files larger than memory, read document by document; one broken document does not end the rest.

A streaming parser such as ijson stops for good at the first syntax error, and at the ``NaN`` that
Python's own ``json`` writes. Here the C scanner of the standard library reads one document at a time
from a sliding window, and after a broken one the reader resumes where the next one begins.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from aqvolt_flows.errors import InputError

_CHUNK = 1 << 20
#: No structure document comes near; a longer one means that its end was lost.
MAX_DOCUMENT_CHARS = 64 << 20
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[\s,]*")
_BLANK = re.compile(r"[\ufeff\s]*")
_KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*')


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a file.

    Attributes
    ----------
    record, line
        Its number and the line where it begins, from 1.
    value
        The parsed document; None if it is broken.
    error
        What is wrong with it.
    fatal
        Nothing after it can be read.
    """

    record: int
    line: int
    value: Any = None
    error: str = ""
    fatal: bool = False


class _Text:
    """Decompressed text in chunks; a damaged archive ends it and is remembered."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"There is no file {path}; give the path of a file to import.")
        with path.open("rb") as probe:
            magic = probe.read(2)
        zipped = magic == b"\x1f\x8b"
        self._raw = cast("IO[bytes]", gzip.open(path, "rb") if zipped else path.open("rb"))  # noqa: SIM115 - close() below
        encoding = "utf-16" if magic in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self.damage = ""

    def close(self) -> None:
        self._raw.close()

    def read(self) -> str:
        """Return the next text, or an empty string at the end (or at the damage)."""
        if self.damage:
            return ""
        try:
            # read1 hands out what was decompressed before a damaged block; read would lose it
            chunk = self._raw.read1(_CHUNK)  # type: ignore[attr-defined]
        except (EOFError, OSError, zlib.error) as error:
            self.damage = f"the compressed file is damaged or cut off here ({error})"
            return ""
        text = self._decoder.decode(chunk, final=not chunk)
        return text or (self.read() if chunk else "")


def first_character(path: Path) -> str:
    """Return the first character of a (gzipped) text that is not white space, or an empty string."""
    with closing(_Text(path)) as text:
        while chunk := text.read():
            if stripped := chunk.lstrip("\ufeff \t\r\n"):
                return stripped[0]
    return ""


def stream_lines(path: Path) -> Iterator[Item]:
    """Yield one document per line of a JSON-lines file, gzipped or not.

    Raises
    ------
    InputError
        If there is no such file.
    """
    with closing(_Text(path)) as text:
        rest, line, record = "", 0, 0
        while True:
            chunk = text.read()
            *whole, rest = (rest + chunk).split("\n")
            if not chunk:
                whole, rest = [*whole, rest], ""
            for position, content in enumerate(whole):
                line += 1
                if not content.strip("\ufeff \t\r"):
                    continue
                record += 1
                last = not chunk and position == len(whole) - 1
                try:
                    value = json.loads(content.lstrip("\ufeff"))
                except (ValueError, RecursionError) as error:
                    if last and text.damage:  # told below, as one
                        record, line = record - 1, line - 1
                    else:
                        yield Item(record, line, error=f"not JSON ({error})")
                    continue
                yield Item(record, line, value)
            if not chunk:
                break
            if len(rest) > MAX_DOCUMENT_CHARS:
                yield Item(record + 1, line + 1, error=f"line {line + 1} is endless; expected JSON lines", fatal=True)
                return
        if text.damage:
            yield Item(record + 1, line + 1, error=text.damage, fatal=True)


class _Window:
    """A sliding window over the text that knows its line."""

    def __init__(self, text: _Text) -> None:
        self.text, self.buffer, self.at, self.line, self.ended = text, "", 0, 1, False

    def more(self) -> bool:
        """Read on; False at the end."""
        chunk = self.text.read()
        if not chunk:
            self.ended = True
            return False
        self.buffer, self.at = self.buffer[self.at :] + chunk, 0
        return True

    def move(self, to: int) -> None:
        self.line += self.buffer.count("\n", self.at, to)
        self.at = to

    def is_last(self) -> bool:
        """Return whether only white space follows the character at the position."""
        while not self.buffer[self.at + 1 :].strip():
            if not self.more():
                return True
        return False

    def skip(self, pattern: re.Pattern[str]) -> str:
        """Skip what the pattern matches and return the character after it, or an empty string at the end."""
        while True:
            found = pattern.match(self.buffer, self.at)
            self.move(found.end() if found else self.at)
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""


def stream_documents(path: Path) -> Iterator[Item]:
    """Yield the documents of one JSON list, or the values of one JSON mapping, gzipped or not.

    Memory holds one document and one chunk, whatever the size of the file.

    Raises
    ------
    InputError
        If there is no such file, or it begins with neither ``[`` nor ``{``.
    """
    with closing(_Text(path)) as text:
        window = _Window(text)
        opening = window.skip(re.compile(r"[\ufeff\s]*"))
        if opening not in {"[", "{"}:
            seen = text.damage or (f"it begins with {opening!r}" if opening else "it is empty")
            raise InputError(f"{path} is not a JSON list or mapping of documents: {seen}.")
        window.move(window.at + 1)
        yield from _documents(window, keyed=opening == "{")


def stream_values(path: Path) -> Iterator[Item]:
    """Yield JSON documents that follow each other, over any number of lines each; one alone is the usual case.

    Raises
    ------
    InputError
        If there is no such file.
    """
    following = re.compile(r"(?<=\n)\{")
    with closing(_Text(path)) as text:
        window, record = _Window(text), 0
        while window.skip(_BLANK):
            record += 1
            item, resume = _document(window, record, keyed=False, signature=following)
            yield item
            if item.fatal:
                return
            window.move(resume)
        if text.damage:
            yield Item(record + 1, window.line, error=text.damage, fatal=True)


def _documents(window: _Window, keyed: bool) -> Iterator[Item]:
    closing_bracket = "}" if keyed else "]"
    record, signature = 0, None
    while True:
        character = window.skip(_SPACE)
        if character == closing_bracket and window.is_last():  # else one inside a broken document: it goes on
            return
        record += 1
        if not character:
            said = window.text.damage or f"the file ends without its closing {closing_bracket!r}"
            yield Item(record, window.line, error=said, fatal=True)
            return
        if signature is None:
            signature = _signature(window, keyed)
        item, resume = _document(window, record, keyed, signature)
        yield item
        if item.fatal:
            return
        window.move(resume)


def _signature(window: _Window, keyed: bool) -> re.Pattern[str]:
    """Return how a document begins in this file: its bracket and first key, as the serialiser wrote them."""
    head = re.compile((_KEY.pattern if keyed else "") + r'(\{\s*"(?:[^"\\]|\\.)*"\s*:)')
    while (found := head.match(window.buffer, window.at)) is None and len(window.buffer) - window.at < 4096:
        if not window.more():
            break
    # without its colon, which a broken document may lack: two of them side by side are two
    start = re.escape(found.groups()[-1].rstrip(": \t\r\n")) if found else r"\{"
    return re.compile(r"(?<=,)\s*" + (_KEY.pattern if keyed else "") + start)


def _has_swallowed(value: Any, text: str, start: int, end: int, signature: re.Pattern[str]) -> bool:
    """Return whether a stray quote or bracket made one value of what are later documents, which are objects."""
    if not isinstance(value, str | list) or signature.pattern.endswith(r"\{"):
        return False
    following = signature.search(text, start + 1)
    return following is not None and following.start() < end


def _document(window: _Window, record: int, keyed: bool, signature: re.Pattern[str]) -> tuple[Item, int]:
    """Return the document at the window's position, and where to go on."""
    size = 0
    while True:
        start, problem = window.at, ""
        try:
            key = _KEY.match(window.buffer, start) if keyed else None
            if keyed and key is None:
                problem = "a key and a colon are missing"
            else:
                value, end = _DECODER.raw_decode(window.buffer, key.end() if key else start)
                if _has_swallowed(value, window.buffer, start, end, signature):
                    problem = "a string or list is not closed"
                elif end < len(window.buffer) or window.ended:
                    return Item(record, window.line, (json.loads(key[1]), value) if key else value), end
        except RecursionError:
            problem = "nested too deeply"
        except json.JSONDecodeError as error:
            problem = f"not JSON: {error.msg} at its character {error.pos - start + 1}"
        if problem and (following := signature.search(window.buffer, start + 1)):
            return Item(record, window.line, error=problem), following.start()
        more = size <= MAX_DOCUMENT_CHARS and window.more()
        if not more and (problem or not window.ended):
            said = window.text.damage or (problem + "; no later document could be found").lstrip("; ")
            return Item(record, window.line, error=said, fatal=True), window.at
        size = len(window.buffer)
