"""r2SCAN NpT ab-initio MD (AQVolt26, section 2.2): every converged ionic step is a configuration with its label.

The electronic settings are those of the statics (:mod:`aqvolt_flows.vasp.settings`), so that labels of both
are of one protocol. atomate2's own ``MDSetGenerator`` is not used: its NpT is PBEsol at 520 eV.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jobflow import Job, Maker, Response, job
from pymatgen.core import Structure

from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import AqvoltError, DatabaseError, InputError
from aqvolt_flows.identity import content_hash, content_key
from aqvolt_flows.schemas.parameters import AIMDParameters
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.units import EV_PER_A3_IN_GPA, EV_PER_A3_IN_KBAR
from aqvolt_flows.vasp.settings import r2scan_protocol, static_incar

if TYPE_CHECKING:
    from atomate2.vasp.jobs.md import MDMaker

ENSEMBLE = "npt_langevin_parrinello_rahman"
#: VASP takes seeds up to this (VASP wiki, RANDOM_SEED).
MAX_SEED = 900_000_000
#: Set by Slurm (22.05 and later): when the allocation ends, seconds since the epoch.
SLURM_END = "SLURM_JOB_END_TIME"
#: VASP is told to stop this long before the walltime, or three ionic steps before it where they take longer.
WALLTIME_BUFFER_S = 300.0


def timestep_fs(elements: Iterable[str], parameters: AIMDParameters) -> float:
    """Return the time step in fs: the short one where there is hydrogen."""
    return parameters.timestep_with_hydrogen_fs if "H" in set(elements) else parameters.timestep_fs


def aimd_key(
    candidate_id: str, temperature_k: float, parameters: AIMDParameters, incar_updates: Mapping[str, Any] | None = None
) -> str:
    """Return the key of one ab-initio run; ``trajectory_id`` is ``trajectory-<key>``."""
    return content_key(
        "aimd/1",
        candidate_id=candidate_id,
        temperature_k=temperature_k,
        protocol_id=r2scan_protocol(incar_updates).protocol_id,
        physics=parameters.model_dump(mode="json", exclude={"temperatures_k", "segment_steps", "max_segments"}),
    )


def aimd_seed(key: str) -> int:
    """Return VASP's random seed for a run, from its key."""
    return int(content_hash(["aimd seed", key])[:16], 16) % MAX_SEED


def aimd_incar(elements: Iterable[str], temperature_k: float, parameters: AIMDParameters, seed: int) -> dict[str, Any]:
    """Return the tags that make a MatPES static an NpT Langevin run.

    Parrinello-Rahman dynamics with a Langevin thermostat (MDALGO 3, ISIF 3; VASP wiki) needs a VASP built
    with ``-Dtbdyn``. Frictions and lattice mass are not in the paper.

    Parameters
    ----------
    elements
        Species of the cell; each gets a friction.
    temperature_k
        Start and end temperature, K.
    parameters
        Steps, time steps (fs), frictions (1/ps), lattice mass (amu), pressure (GPa).
    seed
        Seeds velocities and thermostat.
    """
    species = sorted(set(elements))
    return {
        "IBRION": 0,
        "NSW": parameters.n_steps,
        "POTIM": timestep_fs(species, parameters),
        "TEBEG": temperature_k,
        "TEEND": temperature_k,
        "MDALGO": 3,
        "ISIF": 3,
        "LANGEVIN_GAMMA": [parameters.friction_per_ps] * len(species),
        "LANGEVIN_GAMMA_L": parameters.lattice_friction_per_ps,
        "PMASS": parameters.lattice_mass,
        "PSTRESS": parameters.pressure_gpa * EV_PER_A3_IN_KBAR / EV_PER_A3_IN_GPA,
        "RANDOM_SEED": [seed, 0, 0],
        "ISYM": 0,
        "NELMIN": 4,
        "MAXMIX": 20,
        "LAECHG": False,
        "LCHARG": False,
        "LWAVE": False,
    }


def md_maker(
    incar: Mapping[str, Any], command: str, max_errors: int, polling_s: float, seconds_left: float | None = None
) -> MDMaker:
    """Return atomate2's ``MDMaker`` with our input set and without handlers that change the theory level.

    Parameters
    ----------
    incar
        Tags of the run.
    command
        Starts VASP.
    max_errors, polling_s
        See :class:`AIMDMaker`.
    seconds_left
        VASP is told to stop after the ionic step that is running this long after now, less a tenth; None: never.
    """
    from atomate2.vasp.jobs.md import MDMaker
    from custodian.vasp.handlers import (
        FrozenJobErrorHandler,
        MeshSymmetryErrorHandler,
        PositiveEnergyErrorHandler,
        StdErrHandler,
        VaspErrorHandler,
        WalltimeHandler,
    )

    from aqvolt_flows.vasp.inputs import matpes_static_set
    from aqvolt_flows.vasp.run import custodian_settings

    handlers = [
        VaspErrorHandler(),
        MeshSymmetryErrorHandler(),
        PositiveEnergyErrorHandler(),
        FrozenJobErrorHandler(),
        StdErrHandler(),
    ]
    if seconds_left is not None:
        os.environ.pop("CUSTODIAN_WALLTIME_START", None)  # of an earlier job in this process
        buffer = min(WALLTIME_BUFFER_S, 0.1 * seconds_left)
        handlers.append(WalltimeHandler(wall_time=max(1, seconds_left), buffer_time=buffer))
    return MDMaker(
        name="r2SCAN AIMD",
        input_set_generator=matpes_static_set(incar),
        run_vasp_kwargs=custodian_settings(command, max_errors, polling_s, handlers=handlers),
        task_document_kwargs={"parse_dos": False, "parse_bandstructure": False, "store_volumetric_data": ()},
        stop_children_kwargs={"handle_unsuccessful": False},
    )


@dataclass
class AIMDMaker(Maker):
    """NpT ab-initio MD of one candidate at one temperature.

    Parameters
    ----------
    name
        Job name.
    parameters
        :class:`AIMDParameters` as a mapping.
    incar_updates
        The campaign's ``labeling.incar_updates``, so that AIMD and statics stay one protocol.
    vasp_cmd
        Command that starts VASP; by default that of ``VASP_CMD`` where the job runs.
    max_errors
        Corrections that custodian may try.
    polling_s
        Seconds between custodian's looks whether VASP has ended.
    """

    name: str = "r2SCAN AIMD"
    parameters: dict[str, Any] = field(default_factory=dict)
    incar_updates: dict[str, Any] = field(default_factory=dict)
    vasp_cmd: str | None = None
    max_errors: int = 5
    polling_s: float = 0.1

    @job
    def make(self, candidate_id: str, temperature_k: float, key: str) -> Job:
        """Run one segment, write the trajectory's document and frames, and return their identity and counts.

        Where the run is not at its end, a job for the next segment is added. A run that has ended is not repeated.

        Parameters
        ----------
        candidate_id
            Identity in ``candidates``.
        temperature_k
            Target temperature, K.
        key
            :func:`aimd_key` of the run.
        """
        parameters = AIMDParameters(**self.parameters)
        if key != aimd_key(candidate_id, temperature_k, parameters, self.incar_updates):
            raise InputError(
                f"The job's key {key} is not that of {candidate_id} at {temperature_k:g} K; plan and submit again."
            )
        database = Database.connect()
        (candidate,) = database.find_by_ids("candidates", [candidate_id])
        structure = Structure.from_dict(candidate["structure"])
        blank = _blank(candidate_id, structure, temperature_k, key, parameters, r2scan_protocol(self.incar_updates))
        document = _started(database, blank)
        if document.status != "running":
            database.adopt("trajectories", [document.trajectory_id])
            return _summary(document)  # type: ignore[return-value]
        database.upsert("trajectories", [document])
        try:
            document = self.run(database, document, structure, parameters)
        except DatabaseError:
            raise
        except AqvoltError as error:
            failure = Failure(reason="missing_resource", message=str(error))
            document = document.model_copy(update={"status": "failed", "failure": failure})
            database.upsert("trajectories", [document])
        if document.status != "running":
            return _summary(document)  # type: ignore[return-value]
        return Response(output=_summary(document), addition=replace(self).make(candidate_id, temperature_k, key))

    def run(
        self, database: Database, document: TrajectoryDocument, structure: Structure, parameters: AIMDParameters
    ) -> TrajectoryDocument:
        """Return the run's document with one more segment.

        The segment has a folder of its own, which survives this process. One that is there already was left by a
        worker that died: it is read, and VASP is not started for the same steps again.
        """
        from aqvolt_flows.exploration.aimd_segments import harvest, remove, restart_of
        from aqvolt_flows.vasp.inputs import potcar_hashes, sorted_with_order, vasp_command
        from aqvolt_flows.vasp.run import check_machine_updates, fresh_folder, run_maker

        command = vasp_command(self.vasp_cmd)
        check_machine_updates()
        ordered, order = sorted_with_order(structure)
        potcar_hashes(document.elements)
        state = restart_of(database, document)
        left = document.n_steps - document.steps_done
        tags = aimd_incar(document.elements, document.temperature_k, parameters, document.seed)
        tags |= {"NSW": min(left, parameters.segment_steps or left)}
        if state is not None:
            tags["RANDOM_SEED"] = list(state.random_seed)
        incar = {**self.incar_updates, **tags}
        settings = database.settings
        name = settings.path(settings.checkpoint_dir) / "aimd" / f"{document.key}-{document.segments}"
        seconds, said = 0.0, ""
        if not (name / "OUTCAR").is_file() and not (name / "OUTCAR.gz").is_file():
            name.parent.mkdir(parents=True, exist_ok=True)
            maker = md_maker(incar, command, self.max_errors, self.polling_s, seconds_left(settings.walltime_s))
            with fresh_folder(str(name)):
                ended = run_maker(maker, state.structure() if state else ordered)
            seconds, said = ended.seconds, ended.error
        expected = static_incar(self.incar_updates)
        result = harvest(database, document, name, order, expected, parameters.max_segments, seconds, said)
        database.upsert("trajectories", [result])
        remove(name)
        return result


def seconds_left(walltime_s: float | None) -> float | None:
    """Return how long a launch may take: the setting ``walltime_s``, or what Slurm leaves; None: no limit."""
    ends = [] if walltime_s is None else [walltime_s]
    slurm = os.environ.get(SLURM_END, "")
    if slurm.isdigit():
        ends.append(float(slurm) - time.time())
    return min(ends, default=None)


def _summary(document: TrajectoryDocument) -> dict[str, object]:
    return {
        "trajectory_id": document.trajectory_id,
        "status": document.status,
        "reason": document.failure.reason if document.failure else None,
        "steps_done": document.steps_done,
        "n_frames": document.n_frames,
        "segments": document.segments,
    }


def _started(database: Database, blank: TrajectoryDocument) -> TrajectoryDocument:
    """Return the run as it stands: as it was left, or blank where there is none or a resource was missing."""
    stored = database["trajectories"].find_one({"trajectory_id": blank.trajectory_id}, {"_id": 0})
    if stored is None:
        return blank
    document = TrajectoryDocument.model_validate({k: v for k, v in stored.items() if k != "campaigns"})
    if document.failure is None or document.failure.reason != "missing_resource":
        return document
    return document.model_copy(update={"status": "running", "failure": None})


def _blank(
    candidate_id: str,
    structure: Structure,
    temperature_k: float,
    key: str,
    parameters: AIMDParameters,
    protocol: Protocol,
) -> TrajectoryDocument:
    description = describe_structure(structure)
    return TrajectoryDocument.model_validate(
        {
            "trajectory_id": f"trajectory-{key}",
            "key": key,
            "candidate_id": candidate_id,
            "engine": "aimd",
            "model": protocol.name,
            "model_hash": protocol.settings_hash,
            "protocol": protocol,
            "protocol_id": protocol.protocol_id,
            "ensemble": ENSEMBLE,
            "temperature_k": temperature_k,
            "pressure_gpa": parameters.pressure_gpa,
            "timestep_fs": timestep_fs(structure.symbol_set, parameters),
            "seed": aimd_seed(key),
            "n_steps": parameters.n_steps,
            "steps_done": 0,
            "stride": 1,
            "n_frames": 0,
            "status": "running",
            **description,
        }
    )
