"""Filters that are read, and documents that are printed, for commands that look at collections or releases."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from aqvolt_launch.cli import output

#: How much of a filter a message shows.
_SHOWN = 200


def parse_filter(text: str) -> dict[str, Any]:
    """Return the MongoDB query that a JSON text describes (extended JSON, so that ``$date`` works).

    Raises
    ------
    InputError
        If it is not JSON, or not an object.
    """
    import bson
    from bson import json_util
    from bson.errors import BSONError

    from aqvolt_flows.errors import InputError

    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    try:
        found = json_util.loads(text)
        bson.encode({"filter": found})
    except json.JSONDecodeError as error:
        raise InputError(
            f"The filter is not JSON at character {error.pos + 1} ({error.msg}): {shown!r}; write it like "
            '\'{"formula": "LiCl"}\', in single quotes for the shell.'
        ) from None
    except (BSONError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        said = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        raise InputError(f"The filter holds a value that MongoDB does not know ({said}); correct {shown!r}.") from None
    if not isinstance(found, dict):
        raise InputError(
            f'The filter is a JSON {type(found).__name__}; expected an object like \'{{"formula": "LiCl"}}\'.'
        )
    return found


def dig(document: dict[str, Any], path: str) -> Any:
    """Return the value at a dotted path, or ``None``."""
    value: Any = document
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def print_json(documents: Iterable[Any]) -> None:
    """Print a JSON list document by document, so that any number of them needs the memory of one."""
    first = True
    for document in documents:
        text = json.dumps(output.plain(document), indent=2, ensure_ascii=False).replace("\n", "\n  ")
        sys.stdout.write(("[\n  " if first else ",\n  ") + text)
        first = False
    sys.stdout.write("[]\n" if first else "\n]\n")


def print_csv(names: list[str], documents: Any, value: Callable[[dict[str, Any], str], Any] = dig) -> None:
    """Print a header and a line a document; lists and groups as JSON."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for document in documents:
        values = [output.plain(value(document, name)) for name in names]
        writer.writerow([json.dumps(v) if isinstance(v, dict | list) else v for v in values])
