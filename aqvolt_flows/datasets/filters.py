"""Which labels enter a release, and why the others do not: filters are small objects with a name and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, ValidationError

from aqvolt_flows.datasets.rows import Row
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.parameters import ReleaseParameters

#: What each reason means, as cards print it.
REASONS = {
    "other_protocol": "another protocol than the one asked for",
    "incomplete": "energy, forces, stress or cell missing, of another shape, or not finite",
    "max_force": "largest force above {max_force_ev_per_a:g} eV/Å",
    "cohesive_energy": "cohesive energy above {max_cohesive_energy_ev:g} eV/atom",
    "duplicate": "repeats another configuration within {duplicate_tolerance_a:g} Å",
    "contradiction": "one configuration within {duplicate_tolerance_a:g} Å with several energies; none is believed",
}


class MaxForce(Parameters):
    """Excludes labels with a force above a limit (AQVolt26, section 2.3: 800 eV/Å)."""

    name: Literal["max_force"] = "max_force"
    limit_ev_per_a: float = Field(default=800.0, gt=0, allow_inf_nan=False)

    def excludes(self, max_force: float) -> bool:
        """Return whether a label's largest |F| (eV/Å) is above the limit."""
        return max_force > self.limit_ev_per_a


class CohesiveEnergy(Parameters):
    """Excludes labels that are not bound (AQVolt26, section 2.3: positive cohesive energies).

    A cohesive energy that is unknown (no isolated-atom reference) excludes nothing; the manifest counts such labels.
    """

    name: Literal["cohesive_energy"] = "cohesive_energy"
    limit_ev_per_atom: float = Field(default=0.0, allow_inf_nan=False)

    def excludes(self, cohesive_energy: float | None) -> bool:
        """Return whether a label's cohesive energy (eV/atom) is known and above the limit."""
        return cohesive_energy is not None and cohesive_energy > self.limit_ev_per_atom


class Duplicate(Parameters):
    """Excludes labels that repeat another of the same protocol: same composition, cell and positions.

    Positions are compared at their nearest images and in any order of like atoms
    (:class:`aqvolt_flows.datasets.duplicates.DuplicateFinder`); of two, the one with the smaller identity stays.
    """

    name: Literal["duplicate"] = "duplicate"
    tolerance_a: float = Field(default=1e-3, gt=0, le=1)


class Incomplete(Parameters):
    """Excludes labels without energy, forces, stress or cell, or with numbers that are not finite."""

    name: Literal["incomplete"] = "incomplete"


Filter = MaxForce | CohesiveEnergy | Duplicate | Incomplete
_PARAMETERS: dict[str, tuple[type[Filter], str | None]] = {
    "max_force": (MaxForce, "limit_ev_per_a"),
    "cohesive_energy": (CohesiveEnergy, "limit_ev_per_atom"),
    "duplicate": (Duplicate, "tolerance_a"),
    "incomplete": (Incomplete, None),
}


def parameter_of(filter: Filter) -> float | None:
    """Return the threshold of a filter; None for one that has none."""
    name = _PARAMETERS[filter.name][1]
    return None if name is None else float(getattr(filter, name))


def make_filters(name: str, values: Sequence[float]) -> list[Filter]:
    """Return one filter of a kind per threshold.

    Raises
    ------
    InputError
        If there is no such filter, or a threshold is not one.
    """
    if name not in _PARAMETERS:
        raise InputError(f"There is no filter {name!r}; known are {', '.join(_PARAMETERS)}.")
    kind, parameter = _PARAMETERS[name]
    if parameter is None:
        return [kind()]
    try:
        return [kind.model_validate({parameter: value}) for value in values or [kind.model_fields[parameter].default]]
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{name} cannot be {first['input']!r}: {first['msg']}; give another threshold.") from None


@lru_cache(maxsize=16)
def _own_filters(max_force: float, cohesive_energy: float) -> tuple[MaxForce, CohesiveEnergy]:
    return MaxForce(limit_ev_per_a=max_force), CohesiveEnergy(limit_ev_per_atom=cohesive_energy)


def describe_reason(reason: str, parameters: ReleaseParameters) -> str:
    """Return what a filter's name means with these parameters."""
    return REASONS[reason].format(**parameters.model_dump())


def is_other_protocol(label: Mapping[str, Any], parameters: ReleaseParameters) -> bool:
    """Return whether a protocol was asked for and this label has another."""
    wanted = parameters.protocol
    return wanted is not None and wanted not in (label["protocol_id"], label["protocol_name"])


def reason_to_drop(row: Row, parameters: ReleaseParameters) -> str | None:
    """Return the name of the first filter on a row's own numbers that excludes it, or ``None``."""
    for filter in _own_filters(parameters.max_force_ev_per_a, parameters.max_cohesive_energy_ev):
        if isinstance(filter, MaxForce) and filter.excludes(row.max_force):
            return filter.name
        if isinstance(filter, CohesiveEnergy) and filter.excludes(row.cohesive_energy_per_atom):
            return filter.name
    return None
