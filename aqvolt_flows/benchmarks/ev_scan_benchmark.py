"""The E–V scan as a benchmark of a project: the accepted candidates."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pymatgen.core import Structure

from aqvolt_flows.benchmarks import ev_scan
from aqvolt_flows.benchmarks.base import (
    FAILURE_COLUMNS,
    Benchmark,
    Measured,
    Progress,
    Row,
    Subject,
    Wanted,
    reason_columns,
)
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Potential
from aqvolt_flows.schemas.parameters import EVScanParameters
from aqvolt_flows.stores import Database


def scan_row(scan: ev_scan.EVScan) -> Row:
    """Return what every row of a scan holds: volumes (Å³), energies (eV), measures, failure."""
    return {
        "n_atoms": scan.n_atoms,
        "volumes": scan.volumes.tolist(),
        "energies": scan.energies.tolist(),
        **{f"spearman_{name}": scan.spearman[name] for name in ev_scan.MEASURES},
        "flips": scan.flips,
        "tortuosity": scan.tortuosity,
        **reason_columns(scan.failure),
    }


class EVScan(Benchmark):
    """Energy against volume over the accepted candidates."""

    name = "ev_scan"
    title = "E–V scan"
    job_name = "E-V scan"
    parameters = EVScanParameters
    columns = pa.schema(
        [
            ("candidate_id", pa.string()),
            ("name", pa.string()),
            ("formula", pa.string()),
            ("n_atoms", pa.int64()),
            ("volumes", pa.list_(pa.float64())),
            ("energies", pa.list_(pa.float64())),
            *((f"spearman_{measure}", pa.float64()) for measure in ev_scan.MEASURES),
            ("flips", pa.int64()),
            ("tortuosity", pa.float64()),
            *FAILURE_COLUMNS,
        ]
    )
    identity = ("candidate_id", "formula")
    table = (
        "source",
        "model",
        "dataset",
        "n_items",
        "failed_percent",
        "spearman_compression_energy",
        "spearman_compression_derivative",
        "spearman_tension_energy",
        "spearman_tension_derivative",
    )

    def subject(self, wanted: Wanted) -> Subject | None:
        """Return the accepted candidates; their order does not matter."""
        ids = sorted(set(wanted.candidate_ids))
        return Subject(ids, {"candidate_ids": ids}, len(ids)) if ids else None

    def nothing(self) -> str:
        """Return what to do where there is no candidate."""
        return "There are no accepted candidates to scan; add some with 'aqvolt candidates'."

    def check(self, _parameters: Any, argument: Any) -> None:
        """Raise unless there is a candidate."""
        if not argument:
            raise InputError("An E–V scan needs at least one accepted candidate; add some with 'aqvolt candidates'.")

    def compute(
        self,
        database: Database,
        potential: Potential,
        parameters: EVScanParameters,
        argument: Any,
        progress: Progress | None,
    ) -> Measured:
        """Scan the candidates with these identities."""
        ids = sorted(set(argument))
        candidates = database.find_by_ids("candidates", ids)
        structures = [Structure.from_dict(c["structure"]).to_ase_atoms(msonable=False) for c in candidates]
        scans = ev_scan.scan_structures(
            potential.evaluate, structures, parameters.n_points, parameters.max_linear_strain, progress
        )
        rows = [
            {k: c[k] for k in ("candidate_id", "name", "formula")} | scan_row(s)
            for c, s in zip(candidates, scans, strict=True)
        ]
        return Measured(rows, ev_scan.aggregate(scans), f"{len(ids)} candidates")
