"""A release folder asked through DuckDB: the filter language of ``aqvolt query``, or SQL; no server, no database.

The tables are ``labels`` (all sets, with the column ``split``) and one for each set: ``train``, ``val``, ``test`` and
the hold-outs. Nothing can be written through them, and nothing is fetched.
"""
# Marked nosec B608: values are bound as parameters, names are columns of the release's schema, and the tables belong to
# whoever asks.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.datasets.columns import COLUMNS, SCHEMA
from aqvolt_flows.datasets.folder import read_manifest, split_paths
from aqvolt_flows.datasets.formats import rows_of
from aqvolt_flows.datasets.mongo_sql import Place, Translation
from aqvolt_flows.datasets.rows import Row
from aqvolt_flows.errors import InputError, ResourceError

if TYPE_CHECKING:
    import duckdb

#: Fields that labels have in the database and a release says otherwise.
DERIVED = {
    "split": Place("split", "text"),
    "energy_per_atom": Place("energy_per_atom", "number"),
    "status": Place("status", "text"),
    "protocol_name": Place("protocol_name", "text"),
    "elements": Place("elements", "text", 1),
}
_EXPRESSIONS = {
    "energy_per_atom": "energy / n_atoms",
    "status": "'valid'",
    "protocol_name": "protocol",
    "elements": "string_split(chemsys, '-')",
}
#: What a table shows when nothing else is asked for.
SHOWN = ("label_id", "formula", "energy_per_atom", "max_force", "pressure_gpa", "split", "protocol")


class ReleaseTables:
    """The labels of a release, open for reading.

    Parameters
    ----------
    release
        Folder of a release.

    Raises
    ------
    InputError
        If the folder is no release, or a file is not Parquet.
    ResourceError
        If DuckDB is not installed.
    """

    def __init__(self, release: str | Path) -> None:
        read_manifest(release)
        paths = split_paths(release)
        if not paths:
            raise InputError(f"{release} has no Parquet files below data/; fetch the whole release.")
        self._fields = {c.name: _place(c.name, c.type) for c in COLUMNS} | DERIVED
        self._duck = _connection(paths.values())
        try:
            self._make_views(paths)
        except BaseException:
            self._duck.close()
            raise

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; a ``with`` statement does it by itself."""
        self._duck.close()

    def count(self, query: Mapping[str, Any]) -> int:
        """Return how many labels a filter matches."""
        where = Translation(self._fields)
        sql = f"SELECT count(*) FROM labels WHERE {where.condition(query)}"  # nosec B608
        found = self._run(sql, where.values).fetchone()
        return int(found[0]) if found else 0

    def find(self, query: Mapping[str, Any], names: Sequence[str] = SHOWN, limit: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the fields ``names`` of the labels that match, in the order of their identities.

        Parameters
        ----------
        query
            In MongoDB's filter language.
        names
            Fields, dots for indices of arrays and for what is inside ``provenance``; empty: all.
        limit
            At most so many; 0: all.

        Raises
        ------
        InputError
            If a field or an operator of the query has no meaning in a release.
        """
        where = Translation(self._fields)
        condition = where.condition(query)
        chosen = ", ".join(f'{self._selected(n)} AS "{n}"' for n in names) or "*"
        sql = f"SELECT {chosen} FROM labels WHERE {condition} ORDER BY label_id"  # nosec B608
        yield from self._dictionaries(self._run(sql + (f" LIMIT {limit:d}" if limit else ""), where.values))

    def rows(self, query: Mapping[str, Any], limit: int = 0) -> Iterator[Row]:
        """Yield the labels that match as rows with :meth:`~aqvolt_flows.datasets.rows.Row.to_atoms`."""
        where = Translation(self._fields)
        columns = ", ".join(SCHEMA.names)
        sql = f"SELECT {columns} FROM labels WHERE {where.condition(query)} ORDER BY label_id"  # nosec B608
        cursor = self._run(sql + (f" LIMIT {limit:d}" if limit else ""), where.values)
        for batch in cursor.to_arrow_reader(1024):
            columns_as_written = [c.cast(kind) for c, kind in zip(batch.columns, SCHEMA.types, strict=True)]
            yield from rows_of(pa.RecordBatch.from_arrays(columns_as_written, schema=SCHEMA))

    def sql(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of an SQL query over ``labels`` and the sets.

        Raises
        ------
        InputError
            If it is not one SELECT, or DuckDB refuses it; the message is DuckDB's.
        """
        import duckdb

        try:
            statements = self._duck.extract_statements(text)
        except duckdb.Error as error:
            raise InputError(f"The query was refused: {_first_lines(error)}") from None
        reading = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
        if len(statements) != 1 or statements[0].type not in reading:
            raise InputError("A release is only read: give one SELECT (or DESCRIBE, SUMMARIZE, EXPLAIN) to --sql.")
        yield from self._dictionaries(self._run(text, []))

    def _selected(self, name: str) -> str:
        place = self._fields[name] if name == "provenance" else Translation(self._fields).place(name)
        return f"json_extract_string({place.sql}, '{place.path}')" if place.path else place.sql

    def _make_views(self, paths: Mapping[str, Path]) -> None:
        for split, path in paths.items():
            try:
                held = set(pq.read_schema(path).names)
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{path} is not a readable Parquet file ({error}); restore it from a copy.") from None
            columns = [
                name if name in held else f"CAST(NULL AS {_sql_type(kind)}) AS {name}"
                for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)
            ]
            columns += [f"{expression} AS {name}" for name, expression in _EXPRESSIONS.items()]
            selected = f"SELECT {', '.join(columns)}, '{split}' AS split FROM read_parquet({_quoted(path)})"  # nosec B608
            self._run(f'CREATE VIEW "{split}" AS {selected}', [])
        union = " UNION ALL ".join(f'SELECT * FROM "{split}"' for split in paths)  # nosec B608
        self._run(f"CREATE VIEW labels AS {union}", [])

    def _run(self, sql: str, values: Sequence[Any]) -> duckdb.DuckDBPyConnection:
        import duckdb

        try:
            return self._duck.execute(sql, list(values))
        except duckdb.Error as error:
            raise InputError(f"The query was refused: {_first_lines(error)}") from None

    def _dictionaries(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
        import duckdb

        names = [column[0] for column in cursor.description or []]
        try:
            while batch := cursor.fetchmany(1000):
                yield from (dict(zip(names, values, strict=True)) for values in batch)
        except duckdb.Error as error:
            raise InputError(f"The query ended with an error: {_first_lines(error)}") from None


def _connection(files: Iterable[Path]) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB that reads these files, and nothing else: no other files, no network, no extensions."""
    try:
        import duckdb
    except ImportError:
        raise ResourceError(
            "DuckDB is not installed, and --release needs it; pip install 'aqvolt-flows[query]'."
        ) from None
    made = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    made.execute(f"SET allowed_paths = [{', '.join(_quoted(path) for path in files)}]")
    made.execute("SET enable_external_access = false")
    made.execute("SET lock_configuration = true")
    return made


def _quoted(path: Path) -> str:
    return "'" + str(path.resolve()).replace("'", "''") + "'"


def _place(name: str, kind: pa.DataType) -> Place:
    if name == "provenance":
        return Place(name, "json")
    depth = 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return Place(name, "text" if pa.types.is_string(kind) else "number", depth)


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    return "VARCHAR" if pa.types.is_string(kind) else "DOUBLE"


def _first_lines(error: Exception) -> str:
    """Return what DuckDB says, without the drawing of where in the text it is."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("LINE ", "^"))]
    return " ".join(kept)[:500]
