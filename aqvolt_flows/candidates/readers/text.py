"""Bytes to text: compression, byte-order marks, encodings, and pages that are no data."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from aqvolt_flows.candidates.refusals import RecordError

#: One structure of text; a file of more is no crystal.
MAX_BYTES = 64 << 20
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressing gzip, bzip2 and xz by their first bytes."""
    with path.open("rb") as probe:
        magic = probe.read(6)
    opener: Any = open
    if magic.startswith(b"\x1f\x8b"):
        opener = gzip.open
    elif magic.startswith(b"BZh"):
        opener = bz2.open
    elif magic == b"\xfd7zXZ\x00":
        opener = lzma.open
    with opener(path, "rb") as opened:
        yield opened


def read_text(path: Path) -> tuple[str, list[str]]:
    """Return the text of a file and remarks on how it was decoded.

    Raises
    ------
    RecordError
        If a compressed file is damaged, or it is a web page, larger than 64 MB, or no text.
    """
    with open_bytes(path) as handle:
        try:
            data = handle.read(MAX_BYTES + 1)
        except _DAMAGE as error:
            raise RecordError(
                f"the compressed file is damaged or cut off ({error}); fetch it again", "cut_off"
            ) from None
    if len(data) > MAX_BYTES:
        raise RecordError(f"it holds more than {MAX_BYTES >> 20} MB; expected one file of text", "too_large")
    encoding, remarks = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        if encoding == "utf-16":
            raise RecordError("it begins as UTF-16 and is not; save it as UTF-8", "syntax") from None
        text = data.decode("latin-1")
    start = text[:4096]
    if sum(c < " " and c not in "\t\n\r\f" for c in start) > 0.05 * len(start):
        raise RecordError("it is binary; expected text", "unknown_format")
    refuse_html(text)
    return text.replace("\r\n", "\n").replace("\r", "\n"), remarks


def encoding_of(data: bytes) -> tuple[str, list[str]]:
    """Return the encoding that the first bytes tell, and a remark where it is not plain UTF-8."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            name = "UTF-8 with a byte-order mark" if encoding == "utf-8-sig" else "UTF-16"
            return encoding, [f"the file is {name}"]
    return "utf-8", []


def refuse_html(text: str) -> None:
    """Refuse a web page, which is what a link to a page, a login or an error gives."""
    start = text[:2048].lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html")) or (start.startswith("<") and "<head" in start):
        raise RecordError("it is a web page (HTML); download the file that the page links to", "html")


def head(path: Path, size: int = 4096) -> str:
    """Return the beginning of a file as text, decompressed; an empty string if that fails."""
    with open_bytes(path) as handle:
        try:
            data = handle.read(size)
        except _DAMAGE:
            return ""
    return data.decode(encoding_of(data)[0], errors="replace")


def text_lines(handle: IO[bytes]) -> Iterator[str]:
    """Yield the lines of an opened file without their ends.

    Raises
    ------
    RecordError
        Where a compressed file is damaged, after the lines before the damage.
    """
    buffered = io.BufferedReader(cast("io.RawIOBase", handle)) if not hasattr(handle, "peek") else handle
    start = cast("io.BufferedReader", buffered).peek(4)[:4]
    text = io.TextIOWrapper(buffered, encoding=encoding_of(start)[0], errors="replace")
    try:
        while True:
            try:
                line = text.readline()
            except _DAMAGE as error:
                raise RecordError(
                    f"the compressed file is damaged or cut off here ({error}); fetch it again", "cut_off"
                ) from None
            if not line:
                return
            yield line.rstrip("\r\n")
    finally:
        text.detach()
