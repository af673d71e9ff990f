"""The E–V scan as a benchmark: the accepted candidates of a project, or given structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from aqvolt_flows.benchmarks import ev_scan
from aqvolt_flows.benchmarks.base import Progress, Row
from aqvolt_flows.benchmarks.items import Item
from aqvolt_flows.benchmarks.paired import column, failed_percent
from aqvolt_flows.benchmarks.parts import PartedBenchmark, row_of
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Potential
from aqvolt_flows.schemas.parameters import EVScanParameters
from aqvolt_flows.structures import to_atoms


class EVScan(PartedBenchmark):
    """Energy against volume."""

    name = "ev_scan"
    title = "E–V scan"
    job_name = "E-V scan"
    version = "benchmark/2"  # 1 counted elements that a model does not know as failures
    parameters = EVScanParameters
    part_size = 200
    columns = pa.schema(
        [
            ("volumes", pa.list_(pa.float64())),
            ("energies", pa.list_(pa.float64())),
            *((f"spearman_{measure}", pa.float64()) for measure in ev_scan.MEASURES),
            ("flips", pa.int64()),
            ("tortuosity", pa.float64()),
        ]
    )
    compared = {  # noqa: RUF012 - a class variable of the base
        "failed (%)": failed_percent,
        "ρ(E), compression": column("spearman_compression_energy"),
        "ρ(∂E/∂V), compression": column("spearman_compression_derivative"),
    }
    table = (
        "source",
        "model",
        "n_items",
        "failed_percent",
        "coverage_percent",
        "spearman_compression_energy_computed",
        "spearman_compression_derivative_computed",
        "spearman_compression_energy",
        "spearman_compression_derivative",
        "spearman_tension_energy",
        "spearman_tension_derivative",
        "dataset",
    )

    def check(self, _parameters: Any, argument: Any) -> None:
        """Raise unless there is a structure."""
        if not argument:
            raise InputError("An E–V scan needs at least one accepted candidate; add some with 'aqvolt candidates'.")

    def compute_part(
        self,
        potential: Potential,
        parameters: EVScanParameters,
        items: Sequence[Item],
        workdir: Path,  # noqa: ARG002 - single points need no checkpoint
        progress: Progress | None,
    ) -> list[Row]:
        """Scan structures as they are."""
        atoms = [to_atoms(i.structure) for i in items]
        scans = ev_scan.scan_structures(
            potential.evaluate, atoms, parameters.n_points, parameters.max_linear_strain, progress
        )
        return [
            row_of(
                item,
                volumes=scan.volumes.tolist(),
                energies=scan.energies.tolist(),
                **{f"spearman_{name}": scan.spearman[name] for name in ev_scan.MEASURES},
                flips=scan.flips,
                tortuosity=scan.tortuosity,
                atom_steps=scan.n_atoms * len(scan.volumes),
                failure=scan.failure,
            )
            for item, scan in zip(items, scans, strict=True)
        ]

    def aggregate(self, rows: Sequence[Row], _parameters: EVScanParameters) -> dict[str, Any]:
        """Return the means; every covered structure is in every denominator."""
        names = [*((m, f"spearman_{m}") for m in ev_scan.MEASURES), ("flips", "flips"), ("tortuosity", "tortuosity")]
        values = [{short: row.get(column) for short, column in names} for row in rows]
        found = ev_scan.means(values, [row["failure_reason"] for row in rows])
        return {k: v for k, v in found.items() if k not in {"n_covered", "coverage_percent"}}  # the base has counted
