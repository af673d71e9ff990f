"""Bulk moduli as a benchmark: the accepted candidates of a project, or given structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aqvolt_flows.benchmarks import bulk_modulus
from aqvolt_flows.benchmarks.base import Progress, Row
from aqvolt_flows.benchmarks.bootstrap import mean_interval
from aqvolt_flows.benchmarks.items import Item
from aqvolt_flows.benchmarks.paired import column, failed_percent
from aqvolt_flows.benchmarks.parts import PartedBenchmark, row_of
from aqvolt_flows.benchmarks.relaxation_benchmark import fire_of
from aqvolt_flows.dynamics.relax import Relaxed
from aqvolt_flows.dynamics.relax_maker import relax_structures
from aqvolt_flows.potentials import Potential
from aqvolt_flows.schemas.parameters import BulkModulusParameters
from aqvolt_flows.schemas.provenance import Failure

_NUMBERS = ("bulk_modulus_gpa", "bulk_modulus_derivative", "v0_per_atom", "e0_per_atom", "residual")
#: Structures whose volumes are relaxed together.
_AT_ONCE = 8


class BulkModulus(PartedBenchmark):
    """Bulk modulus of relaxed structures."""

    name = "bulk_modulus"
    title = "Bulk modulus"
    job_name = "bulk modulus"
    parameters = BulkModulusParameters
    part_size = 50
    columns = pa.schema(
        [
            *((name, pa.float64()) for name in _NUMBERS),
            ("n_volumes", pa.int64()),
            ("volumes", pa.list_(pa.float64())),
            ("energies", pa.list_(pa.float64())),
        ]
    )
    headline = "mean_bulk_modulus_gpa_computed"
    headline_interval = "mean_bulk_modulus_interval_gpa"
    compared = {  # noqa: RUF012 - a class variable of the base
        "failed (%)": failed_percent,
        "bulk modulus (GPa)": column("bulk_modulus_gpa"),
    }
    drawn = {"bulk_modulus_gpa": "bulk modulus (GPa)"}  # noqa: RUF012 - a class variable of the base
    table = (
        "model",
        "dataset",
        "n_items",
        "coverage_percent",
        "failed_percent",
        "failed_by_reason",
        "median_bulk_modulus_gpa",
        "mean_bulk_modulus_gpa_computed",
    )

    def compute_part(
        self,
        potential: Potential,
        parameters: BulkModulusParameters,
        items: Sequence[Item],
        workdir: Path,  # noqa: ARG002 - a part is short, and is run again as a whole
        progress: Progress | None,
    ) -> list[Row]:
        """Relax, relax at fixed volumes, fit."""
        fire = fire_of(parameters)
        factors = bulk_modulus.volume_factors(parameters.n_points, parameters.max_volume_strain)
        rows: list[Row] = []
        for first in range(0, len(items), _AT_ONCE):
            some = items[first : first + _AT_ONCE]
            relaxed = relax_structures(potential, [i.structure for i in some if i.structure is not None], fire)
            points = [s for r in relaxed if r.converged for s in bulk_modulus.at_volumes(r.structure, factors)]
            found = iter(relax_structures(potential, points, fire, fixed_cell=True) if points else [])
            for item, start in zip(some, relaxed, strict=True):
                if start.failure is not None:
                    rows.append(row_of(item, atom_steps=start.atom_steps, failure=start.failure))
                else:
                    volumes = [next(found) for _ in factors]
                    counted = [r.atom_steps for r in (start, *volumes) if r.atom_steps is not None]
                    steps = sum(counted) if counted else None
                    rows.append(_row(item, volumes, parameters.max_residual) | {"atom_steps": steps})
            if progress:
                progress(len(rows))
        return rows

    def aggregate(self, rows: Sequence[Row], _parameters: BulkModulusParameters) -> dict[str, Any]:
        """Return mean and median of the moduli; ``n_computed`` says of how many."""
        moduli = [r["bulk_modulus_gpa"] for r in rows if r["bulk_modulus_gpa"] is not None]
        return {
            "mean_bulk_modulus_gpa_computed": float(np.mean(moduli)) if moduli else None,
            "mean_bulk_modulus_interval_gpa": mean_interval(rows, "bulk_modulus_gpa"),
            "median_bulk_modulus_gpa": float(np.median(moduli)) if moduli else None,
        }


def _row(item: Item, points: Sequence[Relaxed], max_residual: float) -> Row:
    """Return the row of one structure; a volume at which the atoms did not come to rest has no energy."""
    volumes = [p.structure.volume for p in points]
    energies = [p.energy if p.converged else float("nan") for p in points]
    fit = bulk_modulus.fit_birch_murnaghan(volumes, energies, max_residual)
    curve = {"volumes": volumes, "energies": energies, "n_volumes": sum(p.converged for p in points)}
    if isinstance(fit, Failure):
        reasons = [p.failure.message for p in points if p.failure is not None]
        more = f" First: {reasons[0]}" if reasons else ""
        return row_of(item, **curve, failure=Failure(reason=fit.reason, message=f"{fit.message}{more}"))
    n_atoms = len(points[0].structure)
    return row_of(
        item,
        **curve,
        bulk_modulus_gpa=fit.b0_gpa,
        bulk_modulus_derivative=fit.b1,
        v0_per_atom=fit.v0 / n_atoms,
        e0_per_atom=fit.e0 / n_atoms,
        residual=fit.residual,
    )
