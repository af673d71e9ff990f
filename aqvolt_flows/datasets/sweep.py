"""What a filter would keep and drop at each of several thresholds: the ablation that the paper leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aqvolt_flows.datasets.duplicates import Configuration, DuplicateFinder
from aqvolt_flows.datasets.filters import CohesiveEnergy, Duplicate, Filter, MaxForce, parameter_of
from aqvolt_flows.datasets.rows import Row, row_from_label
from aqvolt_flows.errors import InputError
from aqvolt_flows.stores import Database

_READ = 1000


def sweep_labels(
    database: Database, filters: Sequence[Filter], query: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return one row per filter: its threshold, how many valid labels it keeps and drops, and the share dropped.

    Each filter is counted alone, on the same labels, in one pass over the fields that it needs.

    Parameters
    ----------
    database
        Holds ``labels``.
    filters
        Of one kind, as :func:`aqvolt_flows.datasets.filters.make_filters` returns them.
    query
        Only valid labels that match it.
    """
    wanted = {"$and": [{"status": "valid"}, dict(query)]} if query else {"status": "valid"}
    kind = filters[0]
    if isinstance(kind, MaxForce | CohesiveEnergy):
        name = "max_force" if isinstance(kind, MaxForce) else "cohesive_energy_per_atom"
        cursor = database.own("labels").find(wanted, {name: 1, "_id": 0}, batch_size=_READ)
        dropped, total = scalar_sweep((label.get(name) for label in cursor), filters)
    else:
        dropped, total = _array_sweep(database, filters, wanted)
    return [
        {
            "filter": filter.name,
            "value": parameter_of(filter),
            "kept": total - n,
            "dropped": n,
            "share_dropped": n / total if total else 0.0,
        }
        for filter, n in zip(filters, dropped, strict=True)
    ]


def scalar_sweep(values: Iterator[float | None], filters: Sequence[Filter]) -> tuple[list[int], int]:
    """Return how many of a stream of numbers each filter excludes, and how many there are."""
    dropped, total = [0] * len(filters), 0
    for value in values:
        total += 1
        for index, filter in enumerate(filters):
            if isinstance(filter, MaxForce):
                dropped[index] += value is None or filter.excludes(value)
            elif isinstance(filter, CohesiveEnergy):
                dropped[index] += filter.excludes(value)
    return dropped, total


def _array_sweep(database: Database, filters: Sequence[Filter], query: Mapping[str, Any]) -> tuple[list[int], int]:
    tolerances = [f.tolerance_a for f in filters if isinstance(f, Duplicate)]
    finders = [DuplicateFinder(tolerance) for tolerance in tolerances]
    broken = total = 0
    for label in database.own("labels").find(query, {"_id": 0, "other_sources": 0}, batch_size=_READ):
        total += 1
        try:
            row = row_from_label(label)
        except InputError:
            broken += 1
            continue
        for finder in finders:
            finder.add(row.label_id, row.atomic_numbers, row.positions, row.cell, kind=label["protocol_id"])

    def load(ids: Sequence[str]) -> dict[str, Configuration]:
        rows: list[Row] = [row_from_label(label) for label in database.find_by_ids("labels", ids)]
        return {row.label_id: (row.atomic_numbers, row.positions, row.cell) for row in rows}

    return ([len(finder.repeats(load)) for finder in finders] if finders else [broken]), total
