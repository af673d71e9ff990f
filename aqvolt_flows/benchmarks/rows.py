"""Rows of benchmarks in parts: what every row names, and which reasons are no failures of the model."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from aqvolt_flows.benchmarks.base import Row, reason_columns
from aqvolt_flows.benchmarks.items import Item
from aqvolt_flows.chemistry import reduced_formula
from aqvolt_flows.schemas.provenance import Failure

#: Reason of a row whose structure has an element that the model does not know: coverage, not failure.
NOT_COVERED = "not_covered"
#: Reasons of rows that say nothing of the model: the entry is unreadable, no ordered crystal, or has no reference.
REFUSED = frozenset({"unreadable", "bad_structure", "no_reference", "no_experiment", "no_lithium", "lithium_only"})
#: Columns of every row, before those of the benchmark and the failure's. ``atom_steps`` is the number of atoms times
#: the number of evaluations, where the benchmark counts them.
ITEM_COLUMNS = [
    ("item_id", pa.string()),
    ("name", pa.string()),
    ("formula", pa.string()),
    ("n_atoms", pa.int64()),
    ("source", pa.string()),
    ("subset", pa.string()),
    ("group", pa.string()),
    ("atom_steps", pa.int64()),
]


def row_of(item: Item, **values: Any) -> Row:
    """Return a row of an item: what names it, the benchmark's values, no failure.

    Where ``failure`` (a :class:`~aqvolt_flows.schemas.provenance.Failure` or None) is given it fills the failure's
    columns.
    """
    failure = values.pop("failure", None)
    structure = item.structure
    about = {
        "item_id": item.identity,
        "name": item.name,
        "formula": reduced_formula(structure.composition) if structure is not None else None,
        "n_atoms": len(structure) if structure is not None else None,
        "source": item.source,
        "subset": item.subset,
        "group": item.group or item.identity,
        "atom_steps": None,
    }
    return about | values | reason_columns(failure)


def failed_row(item: Item, failure: Failure) -> Row:
    """Return the row of an item without numbers."""
    return row_of(item, failure=failure)
