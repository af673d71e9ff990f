"""The maker of batched NpT ML molecular dynamics."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jobflow import Job, Maker, job
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.chemistry import describe
from aqvolt_flows.exploration.schedules import supercell_factors
from aqvolt_flows.frames import write_frames
from aqvolt_flows.potentials import load_potential, model_hash
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.stores import Database

#: How often the progress of a running batch is written to its documents, seconds.
HEARTBEAT_S = 2.0


@dataclass
class MLMDMaker(Maker):
    """Run a batch of NpT trajectories in one Firework.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        ``ExplorationParameters`` as plain values.
    """

    name: str = "NpT ML-MD"
    parameters: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, runs: list[dict[str, Any]]) -> Job:
        """Write ``trajectories`` and their frames; return how many completed and failed.

        Parameters
        ----------
        runs
            ``aqvolt_flows.exploration.schedules.Run`` as plain values: candidate, temperature, seed, identity.
            Those that are already finished are skipped, so that a rerun only does what is missing.
        """
        parameters = ExplorationParameters(**self.parameters)
        database = Database.connect()
        wanted = [r["trajectory_id"] for r in runs]
        finished = {
            d["trajectory_id"]
            for d in database["trajectories"].find(
                {"trajectory_id": {"$in": wanted}, "status": {"$ne": "running"}}, {"trajectory_id": 1}
            )
        }
        todo = [r for r in runs if r["trajectory_id"] not in finished]
        counts = {"completed": 0, "failed": 0, "already_done": len(finished), "frames": 0}
        if todo:
            for document in run_batch(database, todo, parameters):
                counts[document.status] += 1
                counts["frames"] += document.n_frames
        return counts


def run_batch(
    database: Database, runs: Sequence[dict[str, Any]], parameters: ExplorationParameters
) -> list[TrajectoryDocument]:
    """Run one batch, store frames and documents, and return the documents."""
    from aqvolt_flows.exploration.npt import NpTRun, System

    started = time.monotonic()
    ids = [r["candidate_id"] for r in runs]
    structures = {
        d["candidate_id"]: Structure.from_dict(d["structure"])
        for d in database.find_by_ids("candidates", sorted(set(ids)))
    }
    systems = []
    for r in runs:
        structure = structures[r["candidate_id"]]
        supercell = structure.make_supercell(supercell_factors(structure, parameters.min_length_a), in_place=False)
        atoms = AseAtomsAdaptor.get_atoms(supercell)
        systems.append(System(r["trajectory_id"], atoms, r["temperature_k"], r["seed"]))
    blanks = [_document(r, s.atoms, parameters) for r, s in zip(runs, systems, strict=True)]
    database.upsert("trajectories", blanks)
    potential = load_potential(parameters.potential, database.settings.resolve_device())
    outcomes = NpTRun(potential.torchsim_model(), systems, parameters).run(
        _Heartbeat(database, [b.trajectory_id for b in blanks])
    )
    seconds = time.monotonic() - started
    total_atoms = sum(len(s.atoms) for s in systems)
    documents = []
    with tempfile.TemporaryDirectory() as folder:
        for blank, outcome in zip(blanks, outcomes, strict=True):
            path = Path(folder) / f"{blank.trajectory_id}.parquet"
            write_frames(path, outcome.frames)
            frames = outcome.frames
            documents.append(
                blank.model_copy(
                    update={
                        "status": "failed" if outcome.failure else "completed",
                        "failure": outcome.failure,
                        "steps_done": outcome.steps_done,
                        "n_frames": len(frames),
                        "frames": database.artifacts.put_file(path, "parquet"),
                        "mean_temperature_k": float(np.mean([f.temperature for f in frames])) if frames else None,
                        "mean_volume_per_atom": float(np.mean([f.volume / f.n_atoms for f in frames]))
                        if frames
                        else None,
                        "max_force": max(f.max_force for f in frames) if frames else None,
                        "seconds": seconds * blank.n_atoms / total_atoms,
                    }
                )
            )
    database.upsert("trajectories", documents)
    return documents


def _document(run: dict[str, Any], atoms: Any, parameters: ExplorationParameters) -> TrajectoryDocument:
    return TrajectoryDocument(
        trajectory_id=run["trajectory_id"],
        key=run["key"],
        candidate_id=run["candidate_id"],
        engine="mlmd",
        model=parameters.potential,
        model_hash=model_hash(parameters.potential),
        ensemble=parameters.ensemble,
        temperature_k=run["temperature_k"],
        pressure_gpa=parameters.pressure_gpa,
        timestep_fs=parameters.timestep_fs,
        seed=run["seed"],
        n_steps=parameters.n_steps,
        steps_done=0,
        stride=parameters.stride,
        n_frames=0,
        status="running",
        **describe(atoms.get_chemical_symbols()),  # type: ignore[arg-type]
    )


class _Heartbeat:
    """Writes the step counter of running documents every few seconds; ``aqvolt status`` reads it."""

    def __init__(self, database: Database, trajectory_ids: list[str]) -> None:
        self._collection, self._ids, self._last = database["trajectories"], trajectory_ids, time.monotonic()

    def __call__(self, step: int, _active: int) -> None:
        now = time.monotonic()
        if now - self._last >= HEARTBEAT_S:
            self._last = now
            self._collection.update_many(
                {"trajectory_id": {"$in": self._ids}, "status": "running"},
                {"$set": {"steps_done": step, "last_updated": utc_now()}},
            )
