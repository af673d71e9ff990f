"""r2SCAN NpT ab-initio MD (AQVolt26, section 2.2): every converged ionic step is a configuration with its label.

The electronic settings are those of the statics (:mod:`aqvolt_flows.vasp.settings`), so that labels of both
are of one protocol. atomate2's own ``MDSetGenerator`` is not used: its NpT is PBEsol at 520 eV.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Maker, job
from pymatgen.core import Element, Structure

from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import AqvoltError, DatabaseError, InputError
from aqvolt_flows.frames import Frame, write_frames
from aqvolt_flows.identity import content_hash, content_key
from aqvolt_flows.schemas.parameters import AIMDParameters
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.units import EV_PER_A3_IN_GPA, EV_PER_A3_IN_KBAR
from aqvolt_flows.vasp.outputs import Calculation, read_calculation, read_text
from aqvolt_flows.vasp.settings import r2scan_protocol

if TYPE_CHECKING:
    from atomate2.vasp.jobs.md import MDMaker

ENSEMBLE = "npt_langevin_parrinello_rahman"
#: VASP takes seeds up to this (VASP wiki, RANDOM_SEED).
MAX_SEED = 900_000_000


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
        physics=parameters.model_dump(mode="json", exclude={"temperatures_k"}),
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


def md_maker(incar: Mapping[str, Any], command: str, max_errors: int, polling_s: float) -> MDMaker:
    """Return atomate2's ``MDMaker`` with our input set and without handlers that change the theory level."""
    from atomate2.vasp.jobs.md import MDMaker
    from custodian.vasp.handlers import (
        FrozenJobErrorHandler,
        MeshSymmetryErrorHandler,
        PositiveEnergyErrorHandler,
        StdErrHandler,
        VaspErrorHandler,
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
    return MDMaker(
        name="r2SCAN AIMD",
        input_set_generator=matpes_static_set(incar),
        run_vasp_kwargs=custodian_settings(command, max_errors, polling_s, handlers=handlers),
        task_document_kwargs={"parse_dos": False, "parse_bandstructure": False, "store_volumetric_data": ()},
        stop_children_kwargs={"handle_unsuccessful": False},
    )


def frames_of(found: Calculation, trajectory_id: str, order: list[int]) -> list[Frame]:
    """Return the converged ionic steps of a run as frames, in the candidate's atom order.

    VASP folds atoms back into the cell; here they are unfolded along the run, so that displacements can be
    read from positions. Where OSZICAR does not give a step's temperature it is NaN.
    """
    rank = np.argsort(order)
    numbers = np.array([Element(s).Z for s in found.symbols], dtype=np.int16)[rank]
    frames = []
    unfolded = None
    for index, step in enumerate(found.steps):
        fractional = step.fractional[rank]
        unfolded = fractional if unfolded is None else fractional - np.round(fractional - unfolded)
        if step.scf_steps >= found.nelm:
            continue
        frames.append(
            Frame(
                trajectory_id=trajectory_id,
                step=index + 1,
                temperature=found.temperatures[index] if index < len(found.temperatures) else float("nan"),
                energy=step.energy,
                atomic_numbers=numbers,
                positions=(unfolded @ step.cell).astype(np.float32),
                cell=step.cell.astype(np.float32),
                forces=step.forces[rank].astype(np.float32),
                stress=step.stress.astype(np.float32),
            )
        )
    return frames


def ending_of(found: Calculation, folder: Path, n_steps: int, n_frames: int) -> Failure | None:
    """Return why a run is not complete, or None; what it did up to there stays."""
    if found.steps and "MDALGO" in found.incar and not _langevin_npt(read_text(folder, "OUTCAR")):
        return Failure(
            reason="no_tbdyn", message="VASP ignored MDALGO = 3; use a VASP that was built with -Dtbdyn for NpT."
        )
    if found.failure is not None:
        return found.failure
    if len(found.steps) < n_steps:
        return Failure(reason="interrupted", message=f"VASP made {len(found.steps)} of {n_steps} steps.")
    if n_frames == 0:
        return Failure(reason="electronic", message="No ionic step reached self-consistency.")
    return None


def _langevin_npt(outcar: str) -> bool:
    """Whether OUTCAR's list of parameters says MDALGO = 3; a VASP without tbdyn does not print it as 3."""
    after = outcar.partition("INCAR:")[2].partition("POTCAR:")[2]
    return re.search(r"^\s*MDALGO\s*=\s*3\b", after, re.MULTILINE) is not None


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
    def make(self, candidate_id: str, temperature_k: float, key: str) -> dict[str, object]:
        """Run, write the trajectory's document and frames, and return their identity and counts.

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
        database.upsert("trajectories", [blank])
        try:
            document = self.run(database, blank, structure, parameters)
        except DatabaseError:
            raise
        except AqvoltError as error:
            failure = Failure(reason="missing_resource", message=str(error))
            document = blank.model_copy(update={"status": "failed", "failure": failure})
        database.upsert("trajectories", [document])
        return {
            "trajectory_id": document.trajectory_id,
            "status": document.status,
            "reason": document.failure.reason if document.failure else None,
            "steps_done": document.steps_done,
            "n_frames": document.n_frames,
        }

    def run(
        self, database: Database, blank: TrajectoryDocument, structure: Structure, parameters: AIMDParameters
    ) -> TrajectoryDocument:
        """Return the finished document of a run in a fresh folder below the working directory."""
        from aqvolt_flows.vasp.inputs import potcar_hashes, sorted_with_order, vasp_command
        from aqvolt_flows.vasp.run import check_machine_updates, fresh_folder, run_maker

        command = vasp_command(self.vasp_cmd)
        check_machine_updates()
        ordered, order = sorted_with_order(structure)
        potcar_hashes(blank.elements)
        incar = {**self.incar_updates, **aimd_incar(blank.elements, blank.temperature_k, parameters, blank.seed)}
        with fresh_folder(f"aimd-{blank.key[:12]}") as folder:
            ended = run_maker(md_maker(incar, command, self.max_errors, self.polling_s), ordered)
            found = read_calculation(folder, eigenvalues=False, partial=True)
            frames = frames_of(found, blank.trajectory_id, order)
            failure = ending_of(found, folder, parameters.n_steps, len(frames))
        if failure is not None and not found.steps and ended.error:
            failure = Failure(reason=failure.reason, message=f"{failure.message} ({ended.error})"[:1000])
        return _finished(database, blank, frames, failure, len(found.steps), ended.seconds)


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


def _finished(
    database: Database,
    blank: TrajectoryDocument,
    frames: list[Frame],
    failure: Failure | None,
    steps: int,
    seconds: float,
) -> TrajectoryDocument:
    """Return the document of an ended run, its frames stored."""
    facts: dict[str, Any] = {}
    if frames:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frames.parquet"
            write_frames(path, frames)
            facts["frames"] = database.artifacts.put_file(path, "parquet")
        temperatures = [f.temperature for f in frames if np.isfinite(f.temperature)]
        facts["mean_temperature_k"] = float(np.mean(temperatures)) if temperatures else None
        facts["mean_volume_per_atom"] = float(np.mean([f.volume / f.n_atoms for f in frames]))
        facts["max_force"] = max(f.max_force for f in frames)
    return blank.model_copy(
        update=facts
        | {
            "status": "failed" if failure else "completed",
            "failure": failure,
            "steps_done": steps,
            "n_frames": len(frames),
            "seconds": seconds,
        }
    )
