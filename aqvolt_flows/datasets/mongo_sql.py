"""The filter language of ``aqvolt query``, MongoDB's, as the condition of an SQL query with parameters.

What is translated means the same as on the database: a comparison is false where a value is missing or of another kind,
``$ne`` and ``$nin`` are the negation of ``$eq`` and ``$in``, a condition on an array holds if it holds for any element,
and ``null`` matches a missing value. What cannot mean the same is refused by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aqvolt_flows.errors import InputError

#: Comparisons and how SQL writes them.
_COMPARED = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = (*_COMPARED, "$ne", "$in", "$nin", "$not", "$regex", "$all", "$size", "$elemMatch", "$and", "$or", "$nor")
_FLAGS = {"i", "m", "s", ""}


@dataclass(frozen=True)
class Place:
    """Where a field is found in SQL.

    Attributes
    ----------
    sql
        Expression of the column, or of an element of it.
    kind
        ``number``, ``text`` or ``json``.
    depth
        Of the array: 0 for a single value, 2 for positions.
    path
        Inside a JSON column.
    """

    sql: str
    kind: str
    depth: int = 0
    path: str = ""


@dataclass
class Translation:
    """A condition under construction: the values that ``?`` stand for, in order."""

    fields: Mapping[str, Place]
    values: list[Any] = field(default_factory=list)

    def condition(self, query: Mapping[str, Any]) -> str:
        """Return the SQL condition of a query; its values are appended to :attr:`values`.

        Raises
        ------
        InputError
            If a field or an operator has no meaning here.
        """
        parts = []
        for name, value in query.items():
            if name in {"$and", "$or", "$nor"}:
                parts.append(self._joined(name, value))
            elif name.startswith("$"):
                raise InputError(_no_operator(name))
            else:
                parts.append(self._of_field(self.place(name), name, value))
        return _all(parts)

    def _joined(self, name: str, queries: Any) -> str:
        if not isinstance(queries, list) or not queries or not all(isinstance(q, Mapping) for q in queries):
            raise InputError(f"{name} holds {queries!r}; expected a list of filters.")
        parts = [self.condition(q) for q in queries]
        if name == "$and":
            return _all(parts)
        return _any(parts) if name == "$or" else f"NOT {_any(parts)}"

    def place(self, name: str) -> Place:
        """Return where a field is.

        Raises
        ------
        InputError
            If a release has none of this name.
        """
        first, *rest = name.split(".")
        found = self.fields.get(first)
        if found is None:
            close = difflib.get_close_matches(first, list(self.fields), n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.fields)}."
            raise InputError(f"A release has no field {first!r}; {hint}")
        if found.kind == "json":
            if not rest or not all(re.fullmatch(r"[\w-]+", part) for part in rest):
                raise InputError(f"{name!r} must name a field inside {first}, as in '{first}.record_id'.")
            return Place(found.sql, "json", 0, "$" + "".join(f'."{part}"' for part in rest))
        for part in rest:
            if not found.depth or not part.isdigit():
                raise InputError(f"{name!r} leads nowhere in a release; {first} is {_what(self.fields[first])}.")
            found = Place(f"({found.sql})[{int(part) + 1}]", found.kind, found.depth - 1)
        return found

    def _of_field(self, place: Place, name: str, value: Any) -> str:
        if isinstance(value, Mapping) and any(str(k).startswith("$") for k in value):
            flags = str(value.get("$options", ""))
            parts = [self._operator(place, name, str(k), v, flags) for k, v in value.items() if k not in {"$options"}]
            return _all(parts)
        return self._operator(place, name, "$eq", value)

    def _operator(self, place: Place, name: str, operator: str, value: Any, flags: str = "") -> str:
        negated = {"$ne": "$eq", "$nin": "$in"}.get(operator)
        if negated:
            return f"NOT {self._operator(place, name, negated, value)}"
        if operator == "$not":
            return f"NOT {self._negatable(place, name, value)}"
        if operator == "$in":
            if not isinstance(value, list):
                raise InputError(f"{name}: $in and $nin need a list, not {value!r}.")
            return _any([self._operator(place, name, "$eq", v) for v in value])
        if operator in {"$all", "$size", "$elemMatch"}:
            return self._of_array(place, name, operator, value)
        pattern = _pattern(name, operator, value, flags)
        if pattern is not None:
            return self._matches(place, name, *pattern)
        if operator not in _COMPARED:
            raise InputError(f"{name}: {_no_operator(operator)}")
        return self._compare(place, name, operator, value)

    def _negatable(self, place: Place, name: str, value: Any) -> str:
        if isinstance(value, Mapping):
            return self._of_field(place, name, value)
        if _pattern(name, "$eq", value, "") is None:
            raise InputError(f"{name}: $not needs an operator, as in {{'$not': {{'$gt': 1}}}}.")
        return self._operator(place, name, "$eq", value)

    def _compare(self, place: Place, name: str, operator: str, value: Any) -> str:
        if value is None:
            return self._is_null(place) if operator in {"$eq", "$gte", "$lte"} else "FALSE"
        if isinstance(value, list):
            return self._equals_array(place, name, operator, value)
        if isinstance(value, Mapping) or not isinstance(value, str | int | float | bool):
            raise InputError(
                f"{name}: a release cannot be asked for {value!r}, a {type(value).__name__}; give a number or text."
            )
        if place.kind == "json":
            return self._compare_json(place, operator, value)
        if isinstance(value, bool) or isinstance(value, str) != (place.kind == "text"):
            return "FALSE"  # MongoDB compares values of one kind only
        if place.depth > 1:
            return "FALSE"  # elements of a matrix are rows
        return self._element(place, lambda e: self._bound(f"{e} {_COMPARED[operator]} ?", value))

    def _compare_json(self, place: Place, operator: str, value: Any) -> str:
        sign = _COMPARED[operator]
        kind = f"json_type({place.sql}, '{place.path}')"
        text = f"json_extract_string({place.sql}, '{place.path}')"
        if isinstance(value, bool):
            return (
                _true(self._bound(f"{kind} = 'BOOLEAN' AND {text} = ?", str(value).lower())) if sign == "=" else "FALSE"
            )
        if isinstance(value, str):
            return _true(self._bound(f"{kind} = 'VARCHAR' AND {text} {sign} ?", value))
        number = f"{kind} IN ('UBIGINT', 'BIGINT', 'DOUBLE') AND TRY_CAST({text} AS DOUBLE)"
        return _true(self._bound(f"{number} {sign} ?", float(value)))

    def _is_null(self, place: Place) -> str:
        if place.kind == "json":
            return f"coalesce(json_type({place.sql}, '{place.path}') = 'NULL', TRUE)"
        return f"({place.sql} IS NULL)"

    def _equals_array(self, place: Place, name: str, operator: str, value: list[Any]) -> str:
        if operator != "$eq" or place.kind == "json" or place.depth != 1:
            raise InputError(
                f"{name}: a release compares whole arrays only with $eq, and only those of numbers or text."
            )
        if not all(isinstance(v, str if place.kind == "text" else int | float) for v in value):
            return "FALSE"
        if not value:
            return _true(f"len({place.sql}) = 0")
        self.values += value
        return _true(f"{place.sql} = [{', '.join('?' * len(value))}]")

    def _of_array(self, place: Place, name: str, operator: str, value: Any) -> str:
        if place.kind == "json":
            raise InputError(f"{name}: {operator} does not work inside provenance in a release; use single values.")
        if operator == "$size":
            if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
                raise InputError(f"{name}: $size needs a whole number, not {value!r}.")
            return _true(self._bound(f"len({place.sql}) = ?", int(value))) if place.depth else "FALSE"
        if operator == "$all":
            if not isinstance(value, list):
                raise InputError(f"{name}: $all needs a list, not {value!r}.")
            return _all([self._compare(place, name, "$eq", v) for v in value]) if value else "FALSE"
        if not isinstance(value, Mapping) or not value or not all(str(k).startswith("$") for k in value):
            raise InputError(f"{name}: $elemMatch needs operators, as in {{'$elemMatch': {{'$gt': 1, '$lt': 3}}}}.")
        if place.depth != 1:
            return "FALSE"
        inner = Place("e", place.kind)
        condition = self._of_field(inner, name, value)
        return _true(f"len(list_filter({place.sql}, lambda e: {condition})) > 0")

    def _matches(self, place: Place, name: str, pattern: str, flags: str) -> str:
        if set(flags) - _FLAGS:
            raise InputError(f"{name}: a release knows the $options i, m and s, not {flags!r}.")
        self._check_pattern(name, pattern)
        options = "".join(sorted(flags)) or "c"
        if place.kind == "json":
            kind = f"json_type({place.sql}, '{place.path}') = 'VARCHAR'"
            text = f"json_extract_string({place.sql}, '{place.path}')"
            return _true(self._bound(f"{kind} AND regexp_matches({text}, ?, '{options}')", pattern))
        if place.kind != "text":
            return "FALSE"
        return self._element(place, lambda e: self._bound(f"regexp_matches({e}, ?, '{options}')", pattern))

    def _check_pattern(self, name: str, pattern: str) -> None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{name}: {pattern!r} is not a regular expression ({error}).") from None
        if re.search(r"\(\?(?:[=!]|<[=!])|\\[1-9]", pattern):
            raise InputError(
                f"{name}: {pattern!r} looks around or back, which regular expressions of a release cannot."
            )

    def _element(self, place: Place, test: Callable[[str], str]) -> str:
        """Return a test of a single value, or of any element of an array."""
        if place.depth == 0:
            return _true(test(place.sql))
        return _true(f"len(list_filter({place.sql}, lambda e: {test('e')})) > 0")

    def _bound(self, sql: str, value: Any) -> str:
        self.values.append(value)
        return sql


def _pattern(name: str, operator: str, value: Any, flags: str) -> tuple[str, str] | None:
    """Return pattern and options of ``{$regex: …}``, of BSON's and of Python's regular expressions; else None."""
    if operator == "$regex" and isinstance(value, str):
        return value, flags
    pattern = getattr(value, "pattern", None)
    if operator in {"$regex", "$eq"} and isinstance(pattern, str):
        number = int(getattr(value, "flags", 0))
        given = "".join(c for c, bit in (("i", re.I), ("m", re.M), ("s", re.S), ("x", re.X)) if number & bit)
        return pattern, flags + given
    if operator == "$regex":
        raise InputError(f"{name}: $regex needs text, not {value!r}.")
    return None


def _true(sql: str) -> str:
    """Return a condition that is false, not unknown, where a value is missing; so that negation is MongoDB's."""
    return f"coalesce({sql}, FALSE)"


def _all(parts: list[str]) -> str:
    return f"({' AND '.join(parts)})" if parts else "TRUE"


def _any(parts: list[str]) -> str:
    return f"({' OR '.join(parts)})" if parts else "FALSE"


def _what(place: Place) -> str:
    return ("a single value", "an array", "an array of rows")[place.depth]


def _no_operator(name: str) -> str:
    return f"{name} has no meaning in a release; known are {', '.join(OPERATORS)}. Or write the query as --sql."
