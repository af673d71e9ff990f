"""What a model is compared with in a script: labeled structures, or a release folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymatgen.core import Structure

from aqvolt_flows.benchmarks.item_errors import Reference
from aqvolt_flows.benchmarks.release_data import read_release
from aqvolt_flows.errors import InputError
from aqvolt_flows.labeled import release_path, to_labeled
from aqvolt_flows.structures import to_structure


@dataclass(frozen=True, eq=False)
class Referenced:
    """A structure and what a model is compared with."""

    structure: Structure
    reference: Reference


def read_references(given: Any, split: str = "all", sample: bool = False) -> list[Referenced]:
    """Return references, checked, in order.

    Parameters
    ----------
    given
        Labeled structures (:mod:`aqvolt_flows.labeled`) or the path of a release folder.
    split
        Of a release.
    sample
        Look at the first few only.

    Raises
    ------
    InputError
        If there is none, or for anything else.
    """
    folder = release_path(given)
    if folder is None:
        found = to_labeled(given, sample)
        return [Referenced(x.structure, Reference(x.name, x.energy, x.forces, x.stress)) for x in found]
    rows = [] if sample else [item for batch in read_release(folder, split) for item in batch]
    if not rows and not sample:
        raise InputError(f"The split {split!r} of {given} has no labels; choose another split.")
    return [Referenced(to_structure(item.atoms), item.reference) for item in rows]
