"""The conductivity of lithium by molecular dynamics (2.4, Tables S3 and S4), with what could not be resolved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from aqvolt_flows.benchmarks.base import Progress, Row
from aqvolt_flows.benchmarks.conductivity_rows import ROW_COLUMNS, Runs, about, materials_of, row_of_temperature
from aqvolt_flows.benchmarks.conductivity_scores import Known, Pair, compare
from aqvolt_flows.benchmarks.items import CandidateItems, Item, ItemSet
from aqvolt_flows.benchmarks.occupancy import Ordered, ordered_supercells
from aqvolt_flows.benchmarks.parts import PartedBenchmark, failed_row
from aqvolt_flows.benchmarks.rdf import Distribution
from aqvolt_flows.benchmarks.transport_plots import parity_figure
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_hash, structure_hash
from aqvolt_flows.potentials import Potential
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.schemas.transport import ConductivityParameters
from aqvolt_flows.stores import Database

HALOGENS = frozenset({"F", "Cl", "Br", "I"})


@dataclass(frozen=True, eq=False)
class TransportReference:
    """What a material's conductivity is compared with.

    Attributes
    ----------
    experiment
        At the target temperature; None where there is none.
    aimd
        Temperature (K) → element → distribution around lithium, of ab-initio MD.
    """

    experiment: Known | None = None
    aimd: Mapping[float, Mapping[str, Distribution]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """One material's runs: by temperature, the ids of its trajectories."""

    item: Item
    ordered: Ordered
    runs: dict[float, list[str]]


def log_diffusion(row: Mapping[str, Any]) -> float | None:
    """Return log10 D of a resolved temperature; of no other."""
    return math.log10(row["d_cm2_s"]) if row.get("resolved") else None


class LiConductivity(PartedBenchmark):
    """NpT at several temperatures; mean squared displacement, Nernst–Einstein, Arrhenius."""

    name = "conductivity"
    title = "Li conductivity"
    job_name = "conductivity"
    version = "conductivity/1"
    takes_disorder = True
    parameters = ConductivityParameters
    columns = pa.schema(ROW_COLUMNS)
    headline = "mae_ms_cm"
    headline_interval = "mae_interval_ms_cm"
    compared = {"log10 D (cm²/s)": log_diffusion}  # noqa: RUF012 - a class variable of the base
    table = (
        "model",
        "dataset",
        "n_materials",
        "n_resolved",
        "n_below",
        "n_not_resolved",
        "mae_ms_cm",
        "median_log10_error_at_least",
        "kendall_tau",
    )

    def item_set(self, database: Database, parameters: Any, argument: Any) -> ItemSet:  # noqa: ARG002 - of the contract
        """Return candidates with the distributions of their ab-initio MD, where there is some."""
        return _WithAIMD(CandidateItems(database, sorted(set(argument))), database)

    def compute_part(
        self,
        potential: Potential,
        parameters: ConductivityParameters,
        items: Sequence[Item],
        workdir: Path,
        progress: Progress | None,
    ) -> list[Row]:
        """Run every material, ordering, replica and temperature in one batch; one row per material and temperature."""
        from aqvolt_flows.dynamics.kept import run_kept

        p = parameters
        plans, systems, rows = [], [], []
        for index, item in enumerate(items):
            planned = _planned(index, item, p)
            if isinstance(planned, Failure):
                rows.append(failed_row(item, planned) | about(item))
                continue
            plan, own = planned
            plans.append(plan)
            systems += own
        if not systems:
            return rows
        limits = p.dynamics(list(p.temperatures_k), p.n_steps, p.stride)
        per_item = max(1, len(systems) // max(1, len(plans)))
        said = progress and (lambda ended: progress(ended // per_item))
        found = run_kept(potential, systems, limits, workdir, p.max_seconds, said)
        for plan in plans:
            for temperature, names in plan.runs.items():
                runs = Runs(plan.item, plan.ordered, temperature, [found[n] for n in names])
                rows.append(row_of_temperature(runs, p))
        return rows

    def aggregate(self, rows: Sequence[Row], parameters: ConductivityParameters) -> dict[str, Any]:
        """Return every material's conductivity, and how they compare with experiment."""
        return conductivity_metrics(rows, parameters)

    def figure(self, documents: Sequence[Mapping[str, Any]]) -> str:
        """Return predicted against measured conductivities as an SVG."""
        return parity_figure(documents)


def conductivity_metrics(rows: Sequence[Row], parameters: ConductivityParameters) -> dict[str, Any]:
    """Return what rows of materials and temperatures say together.

    Returns
    -------
    dict
        ``materials``: one entry each, with the conductivity at the target temperature; the scores of
        :func:`aqvolt_flows.benchmarks.conductivity_scores.compare` over those with an experiment, in all and
        with or without a halogen; counts of temperatures by state.
    """
    materials = materials_of(rows, parameters)
    pairs = {m["item_id"]: _pair(m) for m in materials if m["experiment_ms_cm"] is not None}
    halides = [p for i, p in pairs.items() if _has_halogen(i, materials)]
    others = [p for i, p in pairs.items() if not _has_halogen(i, materials)]
    kinds = Counter(m["kind"] for m in materials)
    counts = {
        "n_materials": len(materials),
        "n_resolved": kinds["resolved"],
        "n_below": kinds["below"],
        "n_not_resolved": kinds["not_resolved"],
        "n_temperatures_resolved": sum(bool(r["resolved"]) for r in rows),
        "n_temperatures_bound": sum(r["resolved"] is False for r in rows),
        "temperatures_by_state": dict(sorted(Counter(r["state"] for r in rows if r["state"]).items())),
    }
    scores = compare(list(pairs.values())) if pairs else {}
    return {
        **{k: v for k, v in scores.items() if k not in counts and not k.startswith("n_materials")},
        **counts,
        "n_with_experiment": len(pairs),
        "with_halogens": compare(halides) if halides else None,
        "without_halogens": compare(others) if others else None,
        "materials": materials,
    }


def _has_halogen(item_id: str, materials: Sequence[Mapping[str, Any]]) -> bool:
    found = next(m for m in materials if m["item_id"] == item_id)
    return bool(HALOGENS & set(found["elements"]))


def _pair(material: Mapping[str, Any]) -> Pair:
    predicted = None
    if material["ms_cm"] is not None:
        predicted = Known(max(material["ms_cm"], 1e-300), material["kind"] == "below")
    return Pair(material["name"], predicted, Known(material["experiment_ms_cm"], material["experiment_is_bound"]))


def _planned(index: int, item: Item, p: ConductivityParameters) -> tuple[_Plan, list[Any]] | Failure:
    """Return a material's runs, or why it has none."""
    from aqvolt_flows.dynamics.systems import System
    from aqvolt_flows.structures import to_atoms

    assert item.structure is not None
    elements = {e.symbol for e in item.structure.composition.elements}
    if "Li" not in elements:
        return Failure(reason="no_lithium", message="It has no Li, so it has no conductivity of Li.")
    if elements == {"Li"}:
        return Failure(reason="lithium_only", message="It is lithium alone: there is no framework that Li moves in.")
    try:
        ordered = ordered_supercells(item.structure, p.min_length_a, p.max_cell_atoms, p.orderings, p.seed)
    except InputError as error:
        return Failure(reason="no_ordering", message=str(error))
    runs: dict[float, list[str]] = {t: [] for t in p.temperatures_k}
    systems = []
    for o, structure in enumerate(ordered.structures):
        atoms, key = to_atoms(structure), structure_hash(structure)
        for replica in range(p.replicas):
            for t in p.temperatures_k:
                seed = int(content_hash(["conductivity", p.seed, key, replica, t])[:16], 16) >> 1
                name = f"{index:05d}-{o:02d}-{replica:02d}-{t:g}K"
                runs[t].append(name)
                systems.append(System(name, atoms, t, seed))
    return _Plan(item, ordered, runs), systems


@dataclass(frozen=True)
class _WithAIMD:
    """Candidates with distributions around lithium from their completed ab-initio MD as the reference."""

    items: CandidateItems
    database: Database

    @property
    def dataset(self) -> str:
        """What tables call them."""
        return self.items.dataset

    @property
    def release_id(self) -> str | None:
        """They are no release."""
        return None

    def __len__(self) -> int:
        return len(self.items)

    def part(self, first: int, size: int) -> list[Item]:
        """Read some of them."""
        from dataclasses import replace

        found = self.items.part(first, size)
        wanted = {"engine": "aimd", "candidate_id": {"$in": [i.identity for i in found]}, "n_frames": {"$gt": 0}}
        runs: dict[str, dict[float, Mapping[str, Distribution]]] = {}
        for document in self.database["trajectories"].find(wanted, {"_id": 0}).sort("trajectory_id", 1):
            path = self.database.artifacts.local_path(ArtifactRef(**document["frames"]))
            runs.setdefault(document["candidate_id"], {})[document["temperature_k"]] = distributions_of(path)
        return [replace(i, reference=TransportReference(aimd=runs.get(i.identity, {}))) for i in found]


def distributions_of(path: Path) -> Mapping[str, Distribution]:
    """Return the distributions around lithium of a file of frames; none without lithium or anything else."""
    from aqvolt_flows.benchmarks.conductivity_rows import read_track
    from aqvolt_flows.benchmarks.rdf import around_lithium

    track = read_track(path, 0.0, 1.0)
    if track is None or not track.mobile.any() or track.mobile.all():
        return {}
    return around_lithium(track.numbers, track.positions, track.cells)
