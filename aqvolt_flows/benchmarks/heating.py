"""The heating ramp: up to which temperature do structures survive molecular dynamics (section 2.4, Figure 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.benchmarks.base import Progress, Row
from aqvolt_flows.benchmarks.items import Item
from aqvolt_flows.benchmarks.paired import column
from aqvolt_flows.benchmarks.parts import PartedBenchmark, failed_row, row_of
from aqvolt_flows.benchmarks.survival import survival_table
from aqvolt_flows.benchmarks.transport_plots import survival_figure
from aqvolt_flows.identity import content_hash, structure_hash
from aqvolt_flows.potentials import Potential
from aqvolt_flows.schemas.transport import HeatingParameters
from aqvolt_flows.structures import supercell_factors, to_atoms

#: Temperatures at which survival is listed, besides both ends of the ramp, K.
_LISTED_K = 100.0
#: Times at which a run's volume is kept, per run.
_VOLUME_POINTS = 100


def ramp_seed(seed: int, structure: Any, number: int) -> int:
    """Return the seed of one run: 63 bits of a hash, so that runs are independent and reproducible."""
    return int(content_hash(["heating", seed, structure_hash(structure), number])[:16], 16) >> 1


class Heating(PartedBenchmark):
    """NpT from 300 to 2,100 K in 50 ps, three runs of every structure.

    A run fails where the volume has changed by more than half, an atom is lost, or the trajectory has left physics
    (:mod:`aqvolt_flows.dynamics.stability`). Melting alone is no failure. A run that the machine or the time ended is
    censored: it is at risk up to there.
    """

    name = "heating"
    title = "Heating ramp"
    job_name = "heating ramp"
    version = "heating/1"
    parameters = HeatingParameters
    columns = pa.schema(
        [
            ("run", pa.int64()),
            ("n_cell_atoms", pa.int64()),
            ("outcome", pa.string()),
            ("end_reason", pa.string()),
            ("end_message", pa.string()),
            ("end_temperature_k", pa.float64()),
            ("end_ps", pa.float64()),
            ("last_volume_ratio", pa.float64()),
            ("volume_ratios", pa.list_(pa.float32())),
        ]
    )
    headline = "restricted_mean_k"
    headline_interval = "restricted_mean_interval_k"
    compared = {"end of the ramp (K)": column("end_temperature_k")}  # noqa: RUF012 - a class variable of the base
    table = (
        "model",
        "dataset",
        "n_structures",
        "n_runs",
        "n_failed_runs",
        "n_interrupted_runs",
        "survival_1200k",
        "survival_2100k",
        "restricted_mean_k",
    )

    def compute_part(
        self,
        potential: Potential,
        parameters: HeatingParameters,
        items: Sequence[Item],
        workdir: Path,
        progress: Progress | None,
    ) -> list[Row]:
        """Heat all structures in one batch; one row per run."""
        from aqvolt_flows.dynamics.kept import run_kept
        from aqvolt_flows.dynamics.systems import System

        p = parameters
        systems, owners = [], []
        for index, item in enumerate(items):
            assert item.structure is not None
            atoms = to_atoms(item.structure) * supercell_factors(item.structure, p.min_length_a)
            for run in range(p.seeds):
                seed = ramp_seed(p.seed, item.structure, run)
                name = f"{index:05d}-{run:02d}"
                systems.append(System(name, atoms, p.first_temperature_k, seed, p.last_temperature_k))
                owners.append((item, run))
        stride = max(1, p.n_steps // 500)
        limits = p.dynamics(
            [p.first_temperature_k],
            p.n_steps,
            stride,
            max_volume_change=p.max_volume_change,
            max_volume_ratio=0.0,
            min_packing=0.0,
            lost_atom_cutoff_a=p.lost_atom_cutoff_a,
        )
        said = progress and (lambda ended: progress(ended // p.seeds))
        found = run_kept(potential, systems, limits, workdir, p.max_seconds, said)
        return [
            _row(item, run, system, found[system.trajectory_id], p)
            for (item, run), system in zip(owners, systems, strict=True)
        ]

    def aggregate(self, rows: Sequence[Row], parameters: HeatingParameters) -> dict[str, Any]:
        """Return survival against temperature with its intervals, and how runs ended."""
        return heating_metrics(rows, parameters)

    def figure(self, documents: Sequence[Mapping[str, Any]]) -> str:
        """Return the survival curves as an SVG."""
        return survival_figure(documents)


def _row(item: Item, run: int, system: Any, kept: Any, parameters: HeatingParameters) -> Row:
    if kept.status == "refused":
        return failed_row(item, kept.failure) | {"run": run, "outcome": "not_run"}
    ratios: np.ndarray = np.empty(0)
    if kept.path is not None:
        ratios = pq.read_table(kept.path, columns=["volume"]).column("volume").to_numpy() / system.atoms.get_volume()
    thin = ratios[:: max(1, len(ratios) // _VOLUME_POINTS)]
    return row_of(
        item,
        run=run,
        n_cell_atoms=len(system.atoms),
        atom_steps=len(system.atoms) * kept.steps_done,
        outcome={"completed": "survived"}.get(kept.status, kept.status),
        end_reason=kept.failure.reason if kept.failure else None,
        end_message=kept.failure.message if kept.failure else None,
        end_temperature_k=parameters.temperature_at(kept.steps_done),
        end_ps=kept.steps_done * parameters.timestep_fs / 1000,
        last_volume_ratio=float(ratios[-1]) if len(ratios) else None,
        volume_ratios=[round(float(r), 4) for r in thin],
        failure=None,
    )


def heating_metrics(rows: Sequence[Row], parameters: HeatingParameters) -> dict[str, Any]:
    """Return survival against temperature and how runs ended.

    Parameters
    ----------
    rows
        Of the benchmark; those that were not run have a failure's reason and count in no denominator here.
    parameters
        The ramp.
    """
    p = parameters
    ran = [r for r in rows if r["failure_reason"] is None]
    counts: dict[str, Any] = {
        "n_structures_run": len({r["item_id"] for r in ran}),
        "n_runs": len(ran),
        "n_survived_runs": sum(r["outcome"] == "survived" for r in ran),
        "n_failed_runs": sum(r["outcome"] == "failed" for r in ran),
        "n_interrupted_runs": sum(r["outcome"] == "interrupted" for r in ran),
        "n_not_run": len(rows) - len(ran),
        "ends_by_reason": dict(sorted(Counter(r["end_reason"] for r in ran if r["end_reason"]).items())),
    }
    if not ran:
        return counts
    first, last = p.first_temperature_k, p.last_temperature_k
    asked = [first, *np.arange(_LISTED_K * (first // _LISTED_K + 1), last, _LISTED_K).tolist(), last]
    found = survival_table(
        np.array([r["end_temperature_k"] for r in ran]),
        np.array([r["outcome"] == "failed" for r in ran]),
        [r["item_id"] for r in ran],
        asked,
        (first, last),
        p.resamples,
        p.seed,
    )
    curve = {
        "temperatures_k": asked,
        "share": found.share.tolist(),
        "low": found.low.tolist(),
        "high": found.high.tolist(),
    }
    shares = {f"survival_{t:.0f}k": float(s) for t, s in zip(asked, found.share, strict=True) if t in (1200.0, last)}
    return (
        counts
        | shares
        | {
            "survival": curve,
            "restricted_mean_k": found.restricted_mean,
            "restricted_mean_interval_k": [found.restricted_mean_low, found.restricted_mean_high],
            "mean_failure_temperature_k": found.mean_failure,
            "mean_failure_interval_k": None
            if found.mean_failure is None
            else [found.mean_failure_low, found.mean_failure_high],
            "interval": "95 %, percentiles of resampled structures",
        }
    )
