"""Two models on the structures that both can compute: means of the same structures, and their difference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aqvolt_flows.benchmarks.bootstrap import ratio_intervals

Row = dict[str, Any]
#: From a row of the details' table to the number that is compared; None: not computed.
Value = Callable[[Mapping[str, Any]], float | None]
DRAWS = 1000


def paired(tables: Mapping[str, Sequence[Row]], columns: Mapping[str, Value]) -> list[Row]:
    """Return the comparison of every two models in every quantity.

    Parameters
    ----------
    tables
        Model → rows of its details' table, all of one set.
    columns
        What is compared → how it follows from a row. The mean over the rows of a structure counts.

    Returns
    -------
    list
        ``a``, ``b``, ``quantity``, ``n_both``, ``n_only_a``, ``n_only_b``, ``mean_a``, ``mean_b`` and ``difference``
        (b − a) over the structures that both computed, with its 95 % bootstrap ``interval`` over candidates.
    """
    found = []
    for quantity, value in columns.items():
        by_model = {model: _values(rows, value) for model, rows in tables.items()}
        for a, b in itertools.combinations(sorted(by_model), 2):
            found.append({"a": a, "b": b, "quantity": quantity} | _compare(by_model[a], by_model[b]))
    return found


def _values(rows: Sequence[Row], value: Value) -> dict[str, tuple[float, str]]:
    """Return item → (mean over its rows, the candidate it belongs to)."""
    several: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        number = value(row)
        if number is not None and np.isfinite(number):
            several.setdefault(row["item_id"], []).append(number)
            groups[row["item_id"]] = row.get("group") or row["item_id"]
    return {item: (float(np.mean(numbers)), groups[item]) for item, numbers in several.items()}


def _compare(a: Mapping[str, tuple[float, str]], b: Mapping[str, tuple[float, str]]) -> Row:
    both = sorted(a.keys() & b.keys())
    sums: dict[str, list[float]] = {}
    for item in both:
        row = sums.setdefault(a[item][1], [0.0, 0.0])
        row[0] += b[item][0] - a[item][0]
        row[1] += 1.0
    table = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2)
    (interval,) = ratio_intervals(table[:, :1], table[:, 1:], DRAWS)
    return {
        "n_both": len(both),
        "n_only_a": len(a) - len(both),
        "n_only_b": len(b) - len(both),
        "mean_a": float(np.mean([a[i][0] for i in both])) if both else None,
        "mean_b": float(np.mean([b[i][0] for i in both])) if both else None,
        "difference": float(table[:, 0].sum() / len(both)) if both else None,
        "interval": None if interval is None else list(interval),
    }


def column(name: str) -> Value:
    """Return what reads a column."""
    return lambda row: row.get(name)


def magnitude(name: str) -> Value:
    """Return what reads the absolute value of a column."""
    return lambda row: None if row.get(name) is None else abs(float(row[name]))


def failed_percent(row: Mapping[str, Any]) -> float:
    """Return 100 for a failed row, else 0; rows that were not measured are left out before."""
    return 0.0 if row["failure_reason"] is None else 100.0
