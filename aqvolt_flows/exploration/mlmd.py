"""The maker of batched NpT ML molecular dynamics."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Maker, Response
from pymatgen.core import Structure

from aqvolt_flows.chemistry import describe
from aqvolt_flows.dynamics.averages import small_cell_warning
from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.schedules import batch_key
from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.potentials import check_physics, load_potential, model_hash
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.structures import supercell_factors

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
        Of the campaign; a dict of their values is read.
    """

    name: str = "NpT ML-MD"
    parameters: ExplorationParameters = field(default_factory=ExplorationParameters)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, ExplorationParameters)

    @campaign_job()
    def make(self, database: Database, runs: list[dict[str, Any]]) -> Any:
        """Write ``trajectories`` and their frames; return how many completed, ended early and failed.

        Where the walltime ends before the batch does, the next segment is queued and what has ended is counted.

        Parameters
        ----------
        runs
            ``aqvolt_flows.exploration.schedules.Run`` as plain values: candidate, temperature, seed, identity.
            Those that are already finished are skipped, so that a rerun only does what is missing.

        Raises
        ------
        InputError
            If ``runs`` is empty, names a trajectory twice, or holds structures.
        """
        from aqvolt_flows.dynamics.systems import check_ids

        parameters = self.parameters
        if not all(isinstance(r, Mapping) and "trajectory_id" in r for r in runs):
            raise InputError("MLMDMaker takes the runs that a campaign planned; for structures use NpTMDMaker.")
        wanted = [r["trajectory_id"] for r in runs]
        check_ids(wanted)
        query = {"trajectory_id": {"$in": wanted}, "status": {"$ne": "running"}}
        finished = {d["trajectory_id"] for d in database["trajectories"].find(query, {"trajectory_id": 1})}
        database.adopt("trajectories", sorted(finished))
        todo = [r for r in runs if r["trajectory_id"] not in finished]
        counts = {"completed": 0, "ended_early": 0, "failed": 0, "already_done": len(finished), "frames": 0, "left": 0}
        folder = database.settings.path(database.settings.checkpoint_dir) / batch_key(wanted)
        if not todo:  # a kill between the last document and the end left it
            shutil.rmtree(folder, ignore_errors=True)
        else:
            for document in run_batch(database, todo, parameters, folder):
                counts["left" if document.status == "running" else document.status] += 1
                counts["frames"] += document.n_frames
        if not counts["left"]:
            return counts
        return Response(output=counts, addition=MLMDMaker(self.name, self.parameters).make(runs))


def run_batch(
    database: Database,
    runs: Sequence[dict[str, Any]],
    parameters: ExplorationParameters,
    folder: Path | None = None,
) -> list[TrajectoryDocument]:
    """Run one segment of a batch, store documents and frames as they end, and return the documents.

    Parameters
    ----------
    database
        Where candidates are and trajectories go.
    runs
        See :meth:`MLMDMaker.make`.
    parameters
        Of the campaign.
    folder
        For checkpoints and part files; by default below the settings' ``checkpoint_dir``.

    Returns
    -------
    list
        One document a run; those that the walltime cut short have the status ``running``.
    """
    from aqvolt_flows.dynamics.memory import MemoryRecord
    from aqvolt_flows.dynamics.segments import deadline
    from aqvolt_flows.dynamics.together import run_together

    started = time.time()
    settings = database.settings
    checkpoints = settings.path(settings.checkpoint_dir)
    potential = load_potential(parameters.potential, settings.resolve_device())
    if not parameters.potential.startswith("committee:"):  # of models that are still learning; the guard knows it
        check_physics(potential)
    systems, blanks = _systems(database, runs, parameters)
    writer = _Writer(database, blanks, parameters)
    run_together(
        potential,
        systems,
        parameters,
        folder or checkpoints / batch_key([s.trajectory_id for s in systems]),
        writer,
        lambda device: MemoryRecord(checkpoints / "memory", model_hash(parameters.potential), device),
        deadline(settings.walltime_s, started),
    )
    return list(writer.documents.values())


def _systems(
    database: Database, runs: Sequence[dict[str, Any]], parameters: ExplorationParameters
) -> tuple[list[Any], dict[str, TrajectoryDocument]]:
    """Return the systems of runs, supercells made, and their documents as they stand before the first step."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from aqvolt_flows.dynamics.systems import System

    found = database.find_by_ids("candidates", sorted({r["candidate_id"] for r in runs}))
    structures = {d["candidate_id"]: Structure.from_dict(d["structure"]) for d in found}
    systems, documents = [], {}
    for r in runs:
        structure = structures[r["candidate_id"]]
        supercell = structure.make_supercell(supercell_factors(structure, parameters.min_length_a), in_place=False)
        atoms = AseAtomsAdaptor.get_atoms(supercell)
        systems.append(System(r["trajectory_id"], atoms, r["temperature_k"], r["seed"]))
        documents[r["trajectory_id"]] = _document(r, atoms, parameters)
    return systems, documents


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
        warnings=[w] if (w := small_cell_warning(len(atoms), atoms.get_volume(), run["temperature_k"])) else [],
        **describe(atoms.get_chemical_symbols()),  # type: ignore[arg-type]
    )


class _Writer:
    """Writes the documents of a batch: refusals, progress, and ends."""

    def __init__(
        self, database: Database, blanks: dict[str, TrajectoryDocument], parameters: ExplorationParameters
    ) -> None:
        self._parameters = parameters
        self._database, self.documents = database, blanks
        self._last = time.monotonic()
        self.segment = 1

    def refused(self, system: Any, why: Failure) -> None:
        """Write the failed document of a structure that cannot be run."""
        document = self.documents[system.trajectory_id]
        said = f"{document.formula} ({document.candidate_id}): {why.message}"
        self._write(document, status="failed", failure=Failure(reason=why.reason, message=said))

    def started(self, outcomes: Any, segment: int) -> None:
        """Write the documents of what is about to run; a continued batch's step counters stay."""
        self.segment = segment
        going = [i for i, o in outcomes.items() if not o.ended]
        known = set(self._database["trajectories"].distinct("trajectory_id", {"trajectory_id": {"$in": going}}))
        self._database.upsert("trajectories", [self.documents[i] for i in going if i not in known])

    def progressed(self, run: Any) -> None:
        """Write the step counters of what runs every few seconds; ``aqvolt status`` reads them."""
        now = time.monotonic()
        if now - self._last < HEARTBEAT_S:
            return
        self._last = now
        by_step: dict[int, list[str]] = defaultdict(list)
        for trajectory_id, step in run.running.items():
            by_step[step].append(trajectory_id)
        for step, ids in by_step.items():
            self._database["trajectories"].update_many(
                {"trajectory_id": {"$in": ids}, "status": "running"},
                {"$set": {"steps_done": step, "last_updated": utc_now()}},
            )

    def ended(self, ended: Any) -> None:
        """Store the frames and the document of a trajectory that has ended."""
        from aqvolt_flows.dynamics.production import production_means
        from aqvolt_flows.dynamics.stability import status_of

        outcome, seen = ended.outcome, ended.statistics
        document = self.documents[outcome.system.trajectory_id]
        means = production_means(ended, self._parameters)
        volume = [None if v is None else v / document.n_atoms for v in (means.volume, means.volume_error)]
        self._write(
            document,
            status=status_of(outcome.failure, outcome.steps_done),
            failure=outcome.failure,
            steps_done=outcome.steps_done,
            n_frames=seen.n_frames,
            frames=self._database.artifacts.put_file(ended.path, "parquet"),
            n_equilibration_frames=seen.n_equilibration_frames,
            mean_temperature_k=means.temperature,
            mean_temperature_error_k=means.temperature_error,
            mean_volume_per_atom=volume[0],
            mean_volume_per_atom_error=volume[1],
            mean_pressure_gpa=means.pressure,
            mean_pressure_error_gpa=means.pressure_error,
            max_force=seen.max_force if seen.n_frames else None,
            seconds=outcome.seconds,
            segments=self.segment,
        )

    def _write(self, document: TrajectoryDocument, **values: Any) -> None:
        written = document.model_copy(update=values)
        self.documents[document.trajectory_id] = written
        self._database.upsert("trajectories", [written])
