"""Displaced structures relaxed again, as a benchmark: the accepted candidates of a project, or given structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pymatgen.core import Structure

from aqvolt_flows.benchmarks import relaxation
from aqvolt_flows.benchmarks.base import Progress, Row
from aqvolt_flows.benchmarks.items import Item
from aqvolt_flows.benchmarks.paired import column, failed_percent
from aqvolt_flows.benchmarks.parts import PartedBenchmark, row_of
from aqvolt_flows.dynamics.relax import Relaxed
from aqvolt_flows.dynamics.relax_maker import relax_structures
from aqvolt_flows.potentials import Potential
from aqvolt_flows.schemas.generation import RelaxationParameters
from aqvolt_flows.schemas.parameters import BulkModulusParameters, RelaxationBenchmarkParameters
from aqvolt_flows.schemas.provenance import Failure

_NUMBERS = (
    "distance",
    "distance_as_given",
    "distance_displaced",
    "energy_per_atom",
    "max_force",
    "volume_ratio",
    "formation_energy_per_atom",
    "formation_energy_error",
)


class Relaxation(PartedBenchmark):
    """Displaced by 0.1 Å, relaxed, compared with the structure as given."""

    name = "relaxation"
    title = "Relaxation of displaced structures"
    job_name = "relaxation benchmark"
    parameters = RelaxationBenchmarkParameters
    part_size = 100
    columns = pa.schema([(name, pa.float64()) for name in _NUMBERS])
    headline = "mean_distance_computed"
    headline_interval = "mean_distance_interval"
    compared = {  # noqa: RUF012 - a class variable of the base
        "failed (%)": failed_percent,
        "fingerprint distance": column("distance"),
        "formation energy (eV/atom)": column("formation_energy_per_atom"),
    }
    drawn = {  # noqa: RUF012 - a class variable of the base
        "distance": "fingerprint distance",
        "formation_energy_per_atom": "formation energy (eV/atom)",
    }
    table = (
        "model",
        "dataset",
        "n_items",
        "coverage_percent",
        "failed_percent",
        "failed_by_reason",
        "mean_distance_displaced",
        "mean_distance_computed",
        "mean_distance_interval",
        "mean_distance_as_given_computed",
        "median_distance",
        "formation_energy_mae_mev_per_atom",
    )

    def compute_part(
        self,
        potential: Potential,
        parameters: RelaxationBenchmarkParameters,
        items: Sequence[Item],
        workdir: Path,  # noqa: ARG002 - a part is short, and is run again as a whole
        progress: Progress | None,
    ) -> list[Row]:
        """Displace, relax in batches, compare."""
        p = parameters
        references = [reference_structure(i) for i in items]
        moved = [
            relaxation.displaced(s, p.displacement_a, p.seed, i.identity)
            for i, s in zip(items, references, strict=True)
        ]
        relaxed = relax_structures(potential, moved, fire_of(p))
        elements = element_energies(potential, references, p) if p.formation_energies else {}
        rows = []
        for item, reference, start, end in zip(items, references, moved, relaxed, strict=True):
            rows.append(_row(item, reference, start, end, elements))
            if progress:
                progress(len(rows))
        return rows

    def aggregate(self, rows: Sequence[Row], _parameters: RelaxationBenchmarkParameters) -> dict[str, Any]:
        """Return means and medians of distances and formation energies."""
        return relaxation.summarize(rows)


def fire_of(p: RelaxationBenchmarkParameters | BulkModulusParameters) -> RelaxationParameters:
    """Return how structures are relaxed for a benchmark."""
    return RelaxationParameters(
        force_tolerance_ev_per_a=p.force_tolerance_ev_per_a,
        max_steps=p.max_steps,
        max_volume_ratio=p.max_volume_ratio,
    )


def reference_structure(item: Item) -> Structure:
    """Return what a relaxed structure is compared with: ``structure`` of the reference, else the item's own."""
    given = item.reference.get("structure") if isinstance(item.reference, Mapping) else None
    found: Structure | None = given or item.structure
    if found is None:
        raise ValueError(f"{item.name} has no structure")  # refused before it comes here
    return found


def element_energies(
    potential: Potential, structures: Sequence[Structure], parameters: RelaxationBenchmarkParameters
) -> dict[str, float]:
    """Return the energies (eV/atom) of the elements in some structures, relaxed by the potential.

    An element without a ground state here, that the potential does not know, or whose relaxation does not end, is left
    out.
    """
    known = relaxation.element_structures()
    wanted = sorted({e.symbol for s in structures for e in s.composition.elements} & known.keys())
    if not wanted:
        return {}
    relaxed = relax_structures(potential, [known[x] for x in wanted], fire_of(parameters))
    return {x: r.energy_per_atom for x, r in zip(wanted, relaxed, strict=True) if r.converged}


def _row(item: Item, reference: Structure, start: Structure, end: Relaxed, elements: dict[str, float]) -> Row:
    """Return the row of one structure; one whose relaxation did not end has no number but how far it was displaced."""
    exact = relaxation.fingerprint(reference)
    target = relaxation.fingerprint(relaxation.displaced(reference, relaxation.NUDGE_A, 0, item.identity))
    displaced = relaxation.distance(relaxation.fingerprint(start), target)
    values: dict[str, Any] = dict.fromkeys(_NUMBERS)
    values["distance_displaced"] = None if isinstance(displaced, Failure) else displaced
    values["atom_steps"] = end.atom_steps
    if not end.converged:
        return row_of(item, **values, failure=end.failure)
    final = relaxation.fingerprint(end.structure)
    back, as_given = relaxation.distance(final, target), relaxation.distance(final, exact)
    formed = relaxation.formation_energy(end.structure, end.energy, elements)
    given = item.reference.get("formation_energy_per_atom") if isinstance(item.reference, Mapping) else None
    values |= {
        "energy_per_atom": end.energy_per_atom,
        "max_force": end.max_force,
        "volume_ratio": end.structure.volume / reference.volume,
        "formation_energy_per_atom": formed,
        "formation_energy_error": None if formed is None or given is None else formed - float(given),
    }
    if isinstance(back, Failure):
        return row_of(item, **values, failure=back)
    literal = None if isinstance(as_given, Failure) else as_given
    return row_of(item, **values | {"distance": back, "distance_as_given": literal})
