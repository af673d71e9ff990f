"""What a run of r2SCAN ab-initio MD is made of: identity, seed, time step, INCAR, atomate2's maker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.identity import content_hash, content_key
from aqvolt_flows.schemas.parameters import AIMDParameters
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.units import EV_PER_A3_IN_GPA, EV_PER_A3_IN_KBAR
from aqvolt_flows.vasp.settings import r2scan_protocol

if TYPE_CHECKING:
    from atomate2.vasp.jobs.md import MDMaker

    from aqvolt_flows.vasp.outputs import Mesh


#: What decides which runs are made, and in how many launches: no part of a run's identity.
_NOT_IN_KEY = {
    "temperatures_k",
    "temperatures_per_system",
    "systems",
    "max_systems",
    "segment_steps",
    "max_segments",
    "keep_orbitals",
}
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
    return aimd_keys(parameters, incar_updates)(candidate_id, temperature_k)


def aimd_keys(
    parameters: AIMDParameters, incar_updates: Mapping[str, Any] | None = None
) -> Callable[[str, float], str]:
    """Return what makes the keys of many runs (candidate_id, temperature in K) with the same parameters."""
    protocol_id = r2scan_protocol(incar_updates).protocol_id
    physics = parameters.model_dump(mode="json", exclude=_NOT_IN_KEY)

    def key(candidate_id: str, temperature_k: float) -> str:
        return content_key(
            "aimd/1",
            candidate_id=candidate_id,
            temperature_k=temperature_k,
            protocol_id=protocol_id,
            physics=physics,
        )

    return key


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
    incar: Mapping[str, Any],
    command: str,
    max_errors: int,
    polling_s: float,
    seconds_left: float | None = None,
    kpoints: Mesh | None = None,
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
    kpoints
        The mesh of the run's first launch, in the place of KSPACING; None: this is the first.
    """
    from atomate2.vasp.jobs.md import MDMaker
    from custodian.vasp.handlers import (
        MeshSymmetryErrorHandler,
        PositiveEnergyErrorHandler,
        StdErrHandler,
        WalltimeHandler,
    )

    from aqvolt_flows.exploration.aimd_handlers import MDErrorHandler, MDFrozenHandler
    from aqvolt_flows.vasp.inputs import matpes_static_set
    from aqvolt_flows.vasp.run import custodian_settings

    handlers = [
        MDErrorHandler(),
        MeshSymmetryErrorHandler(),
        PositiveEnergyErrorHandler(),
        MDFrozenHandler(),
        StdErrHandler(),
    ]
    if seconds_left is not None:
        os.environ.pop("CUSTODIAN_WALLTIME_START", None)  # of an earlier job in this process
        buffer = min(WALLTIME_BUFFER_S, 0.1 * seconds_left)
        handlers.append(WalltimeHandler(wall_time=max(1, seconds_left), buffer_time=buffer))
    return MDMaker(
        name="r2SCAN AIMD",
        input_set_generator=matpes_static_set(incar, kpoints),
        run_vasp_kwargs=custodian_settings(command, max_errors, polling_s, handlers=handlers),
        task_document_kwargs={"parse_dos": False, "parse_bandstructure": False, "store_volumetric_data": ()},
        stop_children_kwargs={"handle_unsuccessful": False},
    )


def seconds_left(walltime_s: float | None) -> float | None:
    """Return how long a launch may take: the setting ``walltime_s``, or what Slurm leaves; None: no limit."""
    ends = [] if walltime_s is None else [walltime_s]
    slurm = os.environ.get(SLURM_END, "")
    if slurm.isdigit():
        ends.append(float(slurm) - time.time())
    return min(ends, default=None)


def blank_trajectory(
    candidate_id: str,
    structure: Structure,
    temperature_k: float,
    key: str,
    parameters: AIMDParameters,
    protocol: Protocol,
) -> TrajectoryDocument:
    """Return the document of a run before its first step."""
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
