"""``aqvolt query --release``: the labels of a release folder, through DuckDB."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from aqvolt_launch.cli import output
from aqvolt_launch.cli.documents import parse_filter, print_csv, print_json

#: Rows of a table if nothing else is asked for.
_ROWS = 20


def query_release(
    release: str | None,
    sql: str | None,
    collection: str,
    text: str,
    fields: list[str] | None,
    limit: int,
    wanted: str,
) -> None:
    """Print labels of a release.

    Parameters
    ----------
    release
        Folder, release_id or name.
    sql
        A SELECT, instead of a filter.
    collection, text
        The arguments of the command; a filter may be given alone.
    fields
        To print; none: the usual ones.
    limit
        Rows at most; 0: 20 in a table, else all.
    wanted
        table, json, csv or extxyz.

    Raises
    ------
    InputError
        If the arguments do not fit together, or the query is refused.
    """
    from aqvolt_flows.datasets.release_tables import SHOWN, ReleaseTables
    from aqvolt_flows.errors import InputError
    from aqvolt_launch.cli.release import find_release

    if release is None:
        raise InputError("--sql asks a release; name it with --release.")
    if collection.lstrip().startswith("{"):
        collection, text = "labels", collection
    if collection != "labels":
        raise InputError(f"A release holds labels, not {collection}; leave --release out to ask the database.")
    if sql is not None and (wanted == "extxyz" or text != "{}"):
        raise InputError("--sql takes neither a filter nor --format extxyz; write the condition in its WHERE.")
    criteria = parse_filter(text)
    size = limit or (_ROWS if wanted == "table" else 0)
    with ReleaseTables(find_release(release)) as tables:
        if wanted == "extxyz":
            _print_extxyz(tables.rows(criteria, size))
        elif sql is not None:
            _print(islice(tables.sql(sql), size or None), fields, wanted)
        else:
            found = tables.find(criteria, fields or SHOWN, size)
            shown = _print(found, fields, wanted)
            if wanted == "table" and (total := tables.count(criteria)) > shown:
                output.say(f"{shown} of {total}; --limit shows more")


def _print(rows: Iterable[dict[str, Any]], fields: list[str] | None, wanted: str) -> int:
    """Print rows and return how many, for a table."""
    if wanted == "json":
        print_json(rows)
        return 0
    stream = iter(rows)
    first = next(stream, None)
    names = fields or list(first or ())
    everything = chain([] if first is None else [first], stream)
    if wanted == "csv":
        print_csv(names, everything, lambda row, name: row.get(name))
        return 0
    listed = list(everything)
    output.table(listed, title="labels", columns=names)
    return len(listed)


def _print_extxyz(rows: Iterable[Any]) -> None:
    import ase.io

    for row in rows:
        ase.io.write(sys.stdout, row.to_atoms(), format="extxyz")
