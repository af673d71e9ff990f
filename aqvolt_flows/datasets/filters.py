"""Which labels enter a release, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqvolt_flows.datasets.records import Row
from aqvolt_flows.schemas.parameters import ReleaseParameters

#: What each reason means, as cards print it.
REASONS = {
    "other_protocol": "another protocol than the one asked for",
    "incomplete": "energy, forces, stress or cell missing, of another shape, or not finite",
    "max_force": "largest force above {max_force_ev_per_a:g} eV/Å",
    "cohesive_energy": "cohesive energy above {max_cohesive_energy_ev:g} eV/atom",
    "duplicate": "repeats another configuration within {duplicate_tolerance_a:g} Å",
}


def describe_reason(reason: str, parameters: ReleaseParameters) -> str:
    """Return what a filter's name means with these parameters."""
    return REASONS[reason].format(**parameters.model_dump())


def is_other_protocol(label: Mapping[str, Any], parameters: ReleaseParameters) -> bool:
    """Return whether a protocol was asked for and this label has another."""
    wanted = parameters.protocol
    return wanted is not None and wanted not in (label["protocol_id"], label["protocol_name"])


def reason_to_drop(row: Row, parameters: ReleaseParameters) -> str | None:
    """Return the name of the first filter that excludes a row, or ``None``.

    Source: AQVolt26 section 2.3, maximum |F| above 800 eV/Å and positive cohesive energies are excluded. A cohesive
    energy that is unknown (no isolated-atom reference) excludes nothing; the manifest counts such rows.
    """
    if row.max_force > parameters.max_force_ev_per_a:
        return "max_force"
    cohesive = row.cohesive_energy_per_atom
    if cohesive is not None and cohesive > parameters.max_cohesive_energy_ev:
        return "cohesive_energy"
    return None
