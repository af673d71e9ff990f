"""Rows of the conductivity benchmark: one material at one temperature, over all of its runs there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.benchmarks.arrhenius import Point, conductivity_at
from aqvolt_flows.benchmarks.base import Row
from aqvolt_flows.benchmarks.items import Item
from aqvolt_flows.benchmarks.occupancy import Ordered
from aqvolt_flows.benchmarks.parts import failed_row, row_of
from aqvolt_flows.benchmarks.rdf import around_lithium, differences
from aqvolt_flows.benchmarks.transport import (
    Diffusion,
    Framework,
    Track,
    analyzer_of,
    diffusion_of,
    framework_of,
)
from aqvolt_flows.dynamics.kept_status import KeptRun
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.schemas.transport import ConductivityParameters

#: Draws of D that are kept in a row, for the interval of the extrapolation.
_KEPT_DRAWS = 200
#: AIMD within so many K of a run is compared with it.
_SAME_TEMPERATURE_K = 1.0
_RDF = pa.struct(
    [("element", pa.string()), ("bin_a", pa.float64()), ("g", pa.list_(pa.float32())), ("difference", pa.float64())]
)
_MOVED = pa.struct([("element", pa.string()), ("rms_a", pa.float64()), ("hops", pa.float64())])
ROW_COLUMNS = [
    ("temperature_k", pa.float64()),
    ("state", pa.string()),
    ("resolved", pa.bool_()),
    ("d_cm2_s", pa.float64()),
    ("d_low_cm2_s", pa.float64()),
    ("d_high_cm2_s", pa.float64()),
    ("ms_cm", pa.float64()),
    ("hops", pa.float64()),
    ("limit_cm2_s", pa.float64()),
    ("limit_ms_cm", pa.float64()),
    ("upper_cm2_s", pa.float64()),
    ("each_cm2_s", pa.list_(pa.float64())),
    ("draws_cm2_s", pa.list_(pa.float64())),
    ("n_floored", pa.int64()),
    ("n_runs", pa.int64()),
    ("n_runs_used", pa.int64()),
    ("n_orderings", pa.int64()),
    ("composition_error", pa.float64()),
    ("n_cell_atoms", pa.int64()),
    ("n_li", pa.int64()),
    ("volume_a3", pa.float64()),
    ("time_ps", pa.float64()),
    ("framework", pa.list_(_MOVED)),
    ("framework_largest_a", pa.float64()),
    ("distributions", pa.list_(_RDF)),
    ("experiment_ms_cm", pa.float64()),
    ("experiment_is_bound", pa.bool_()),
    ("elements", pa.list_(pa.string())),
]


@dataclass(frozen=True)
class Runs:
    """All runs of a material at one temperature."""

    item: Item
    ordered: Ordered
    temperature_k: float
    kept: Sequence[KeptRun]


def read_track(path: Path, dropped_fs: float, timestep_fs: float) -> Track | None:
    """Return the frames of a file from a time on; None where there are fewer than two.

    Parameters
    ----------
    path
        Parquet, :mod:`aqvolt_flows.frames`.
    dropped_fs
        Frames before this time are left out.
    timestep_fs
        Of a step.
    """
    table = pq.read_table(path, columns=["step", "atomic_numbers", "positions", "cell"])
    steps = table.column("step").to_numpy()
    table = table.filter(pa.array(steps * timestep_fs >= dropped_fs - 1e-6))
    if table.num_rows < 2:
        return None
    steps = table.column("step").to_numpy()

    def values(name: str) -> Any:
        return table.column(name).combine_chunks().flatten().to_numpy().astype(float)

    numbers = np.asarray(table.column("atomic_numbers")[0].as_py(), dtype=np.int64)
    return Track(
        numbers,
        values("positions").reshape(table.num_rows, len(numbers), 3),
        values("cell").reshape(table.num_rows, 3, 3),
        float(steps[1] - steps[0]) * timestep_fs,
    )


def row_of_temperature(runs: Runs, parameters: ConductivityParameters) -> Row:
    """Return the row of a material at one temperature.

    A run that left physics, or was too short, is left out and counted. Where any run's framework has melted or broken
    there is no number: the temperature is beyond the material.
    """
    p = parameters
    known = _about(runs)
    tracks, analyzers, whys = _analyzed(runs, p)
    if not tracks:
        return failed_row(runs.item, whys[0]) | known | {"state": "not_run"}
    frameworks = [
        framework_of(t, a, p.molten_rms_a, p.broken_rms_a, p.hop_length_a, p.least_hops)
        for t, a in zip(tracks, analyzers, strict=True)
    ]
    worst = max(frameworks, key=lambda f: (("solid", "broken", "molten").index(f.state), max(f.rms_a.values())))
    known |= {
        "n_runs_used": len(tracks),
        "state": worst.state,
        "framework": [{"element": x, "rms_a": r, "hops": worst.hops[x]} for x, r in worst.rms_a.items()],
        "framework_largest_a": max(f.largest_a for f in frameworks),
        "distributions": _distributions(runs, tracks),
        "n_li": int(tracks[0].mobile.sum()),
    }
    if worst.state != "solid":
        return failed_row(runs.item, _no_framework(worst)) | known
    found = diffusion_of(tracks, runs.temperature_k, p.hop_length_a, p.least_hops, p.seed, analyzers)
    return row_of(runs.item, **(known | _numbers(found, runs.temperature_k)), failure=None)


def about(item: Item) -> dict[str, Any]:
    """Return the columns that every row of a material has, whatever became of it."""
    experiment = getattr(item.reference, "experiment", None)
    elements = item.structure.composition.elements if item.structure is not None else []
    return {
        "elements": sorted({e.symbol for e in elements}),
        "experiment_ms_cm": experiment.ms_cm if experiment else None,
        "experiment_is_bound": experiment.bound if experiment else None,
    }


def _about(runs: Runs) -> dict[str, Any]:
    atoms = len(runs.ordered.structures[0])
    return about(runs.item) | {
        "temperature_k": runs.temperature_k,
        "n_runs": len(runs.kept),
        "n_runs_used": 0,
        "n_orderings": len(runs.ordered.structures),
        "composition_error": runs.ordered.largest_error,
        "n_cell_atoms": atoms,
        "atom_steps": atoms * sum(k.steps_done for k in runs.kept),
    }


def _analyzed(runs: Runs, p: ConductivityParameters) -> tuple[list[Track], list[Any], list[Failure]]:
    """Return the runs that can be analyzed, and why the others cannot.

    One that the time ended is analyzed up to there; one that left physics is not.
    """
    tracks, analyzers, whys = [], [], []
    for kept in runs.kept:
        if kept.status in ("failed", "refused") or kept.path is None:
            whys.append(kept.failure or Failure(reason="no_frames", message="no frame was written"))
            continue
        try:
            track = read_track(kept.path, 1000 * p.dropped_ps, p.timestep_fs)
            if track is None:
                raise InputError(f"{kept.steps_done} steps end before the {p.dropped_ps:g} ps that are dropped.")
            analyzers.append(analyzer_of(track, runs.temperature_k))
            tracks.append(track)
        except InputError as error:
            whys.append(Failure(reason="too_short", message=str(error)))
    return tracks, analyzers, whys


def _no_framework(framework: Framework) -> Failure:
    moved = ", ".join(f"{x} {r:.1f} Å" for x, r in framework.rms_a.items())
    what = "Every element has left its sites" if framework.state == "molten" else "Part of the framework diffuses"
    return Failure(reason=framework.state, message=f"{what} (RMS displacement: {moved}); Li has no crystal to move in.")


def _distributions(runs: Runs, tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Return g(r) around lithium of the first run, with the difference from AIMD at the same temperature."""
    ours = around_lithium(tracks[0].numbers, tracks[0].positions, tracks[0].cells)
    aimd: Mapping[float, Any] = getattr(runs.item.reference, "aimd", {})
    near = [t for t in aimd if abs(t - runs.temperature_k) <= _SAME_TEMPERATURE_K]
    apart = differences(ours, aimd[near[0]]) if near else {}
    return [
        {
            "element": x,
            "bin_a": float(d.r_a[1] - d.r_a[0]),
            "g": [round(float(v), 4) for v in d.g],
            "difference": apart.get(x),
        }
        for x, d in ours.items()
    ]


def _numbers(found: Diffusion, temperature_k: float) -> dict[str, Any]:
    low, high = found.interval_cm2_s or (None, None)
    step = max(1, len(found.draws_cm2_s) // _KEPT_DRAWS)
    return {
        "resolved": found.resolved,
        "d_cm2_s": found.d_cm2_s,
        "d_low_cm2_s": low,
        "d_high_cm2_s": high,
        "ms_cm": found.conductivity(found.d_cm2_s, temperature_k) if found.resolved else None,
        "hops": found.hops,
        "limit_cm2_s": found.limit_cm2_s,
        "limit_ms_cm": found.conductivity(found.limit_cm2_s, temperature_k),
        "upper_cm2_s": found.upper_cm2_s,
        "each_cm2_s": list(found.each_cm2_s),
        "draws_cm2_s": list(found.draws_cm2_s[::step][:_KEPT_DRAWS]),
        "n_floored": found.floored,
        "volume_a3": found.volume_a3,
        "n_li": found.n_li,
        "time_ps": found.time_ps,
    }


def materials_of(rows: Sequence[Row], parameters: ConductivityParameters) -> list[dict[str, Any]]:
    """Return one entry per material: its conductivity at the target temperature, from the rows of its temperatures."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["item_id"], []).append(row)
    return [_material(members, parameters) for members in grouped.values()]


def _material(rows: Sequence[Row], p: ConductivityParameters) -> dict[str, Any]:
    points = [Point(r["temperature_k"], _diffusion(r)) for r in rows if r["temperature_k"] is not None]
    found = conductivity_at(points, p.target_temperature_k, p.least_temperatures)
    first = rows[0]
    reasons = Counter(r["failure_reason"] for r in rows if r["failure_reason"])
    return {
        "item_id": first["item_id"],
        "name": first["name"],
        "formula": first["formula"],
        "elements": first["elements"] or [],
        "kind": found.kind,
        "stated": str(found),
        "ms_cm": found.ms_cm,
        "interval_ms_cm": list(found.interval_ms_cm) if found.interval_ms_cm else None,
        "activation_ev": found.activation_ev,
        "activation_error_ev": found.activation_error_ev,
        "temperatures_used_k": list(found.temperatures_k),
        "n_temperatures": len(points),
        "n_temperatures_resolved": sum(bool(r["resolved"]) for r in rows),
        "limit_ms_cm": min((r["limit_ms_cm"] for r in rows if r["limit_ms_cm"]), default=None),
        "note": found.note,
        "failed_by_reason": dict(sorted(reasons.items())),
        "experiment_ms_cm": first["experiment_ms_cm"],
        "experiment_is_bound": first["experiment_is_bound"],
    }


def _diffusion(row: Row) -> Diffusion | None:
    """Return what a row holds of a temperature's diffusion; None where there is no number."""
    if row["failure_reason"] is not None or row["resolved"] is None:
        return None
    interval = None if row["d_low_cm2_s"] is None else (row["d_low_cm2_s"], row["d_high_cm2_s"])
    return Diffusion(
        d_cm2_s=row["d_cm2_s"],
        interval_cm2_s=interval,
        draws_cm2_s=tuple(row["draws_cm2_s"]),
        each_cm2_s=tuple(row["each_cm2_s"]),
        floored=row["n_floored"],
        hops=row["hops"],
        limit_cm2_s=row["limit_cm2_s"],
        upper_cm2_s=row["upper_cm2_s"],
        resolved=row["resolved"],
        volume_a3=row["volume_a3"],
        n_li=row["n_li"],
        time_ps=row["time_ps"],
    )
