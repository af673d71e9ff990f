"""The maker of NpT molecular dynamics on structures, for any script: no project, no database, no settings."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.chemistry import reduced_formula
from aqvolt_flows.dynamics.averages import small_cell_warning
from aqvolt_flows.dynamics.potential_maker import PotentialMaker
from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.schedules import run_seed
from aqvolt_flows.identity import file_sha256, structure_hash
from aqvolt_flows.jobs import LATER, science_job, typed
from aqvolt_flows.potentials.given import (
    Model,
    check_model_given,
    given_hash,
    model_name,
)
from aqvolt_flows.schemas.dynamics import (
    INLINE_NUMBERS,
    INLINE_SITES,
    FrameColumns,
    NpTMDDocument,
    NpTTrajectory,
    TrajectoryFrames,
)
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.structures import supercell_factors, to_structures

if TYPE_CHECKING:
    from aqvolt_flows.dynamics.npt import NpTRun
    from aqvolt_flows.dynamics.segments import Ended
    from aqvolt_flows.dynamics.systems import Outcome, System

#: Numbers of a frame besides positions and forces: cell, stress and scalars.
_OTHER_NUMBERS = 20


def _check(maker: NpTMDMaker, structures: Any, temperatures_k: Any = None) -> None:
    check_model_given(maker.model)
    if structures is not LATER:
        to_structures(structures)
    if temperatures_k is not LATER:
        maker.temperatures(temperatures_k)


@dataclass
class NpTMDMaker(PotentialMaker):
    """Run NpT molecular dynamics of structures with a machine-learning potential, many of them in one batch.

    Parameters
    ----------
    name
        Name of the job.
    potential
        Model string, ASE calculator, :class:`~aqvolt_flows.potentials.given.CalculatorRecipe` or torch-sim model;
        None: that of the parameters. Energy, forces and stress are needed.
    parameters
        Integrator, steps, stride, limits; a dict of their values is read.
    device
        torch device for model strings; ``auto``: a GPU where there is one.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.lj import LennardJones
    >>> maker = NpTMDMaker(LennardJones(sigma=3.4, epsilon=0.0104), parameters={"n_steps": 100})
    >>> job = maker.make([bulk("Ar", cubic=True)], temperatures_k=[40.0])
    """

    kind = ExplorationParameters
    name: str = field(default="NpT MD of structures", kw_only=True)
    parameters: ExplorationParameters = field(default_factory=ExplorationParameters)

    def temperatures(self, given: Any = None) -> list[float]:
        """Return target temperatures in K, checked; those of the parameters where none are given.

        Raises
        ------
        InputError
            If they are not numbers above 0 and up to 10,000 K, none, or one twice.
        """
        if given is None:
            return list(self.parameters.temperatures_k)
        listed = [given] if isinstance(given, int | float) else given
        if not isinstance(listed, Sequence | np.ndarray) or isinstance(listed, str):
            raise InputError(f"temperatures_k is a {type(given).__name__}; expected numbers in K, e.g. [600.0, 900.0].")
        values = [v.item() if isinstance(v, np.generic) else v for v in listed]
        changed = self.parameters.model_dump() | {"temperatures_k": values}
        found = list(typed(changed, ExplorationParameters).temperatures_k)
        twice = [t for t, n in Counter(found).items() if n > 1]
        if twice:
            raise InputError(f"The temperature {twice[0]:g} K was given twice; give every temperature once.")
        return found

    @science_job(NpTMDDocument, check=_check)
    def make(self, structures: Any, temperatures_k: Any = None) -> NpTMDDocument:
        """Run one trajectory per structure and temperature.

        A structure that cannot be run (an element that the model does not know, overlapping atoms, one atom) is a
        trajectory with a failure; so is a run that left physics, with its frames up to there. The others go on.
        Frames are written to Parquet files in the job's folder, and kept in the document too where all of them
        together have at most :data:`~aqvolt_flows.schemas.dynamics.INLINE_NUMBERS` numbers. Seeds follow from the
        parameters' seed, the structure and the temperature; copies of one structure have seeds of their own. A job
        that is killed starts again from step 0; a campaign's runs continue from checkpoints.

        Parameters
        ----------
        structures
            pymatgen Structures or ASE Atoms, one or a list, or references to them.
        temperatures_k
            Target temperatures, K; default: those of the parameters.

        Raises
        ------
        InputError, ResourceError
            If an argument is none of these, or the model cannot be loaded.
        """
        potential = self.load()
        return run_structures(
            potential, to_structures(structures), self.temperatures(temperatures_k), self.parameters, self.model
        )


def run_structures(
    potential: Any,
    structures: Sequence[Structure],
    temperatures_k: Sequence[float],
    parameters: ExplorationParameters,
    model: Model,
    folder: Path | None = None,
) -> NpTMDDocument:
    """Run NpT trajectories of structures and return their document.

    Parameters
    ----------
    potential
        Loaded.
    structures, temperatures_k
        One trajectory each.
    parameters
        Integrator, limits, sizes.
    model
        What the potential was made from, for the document.
    folder
        Where a folder with the Parquet files is made; default: the working folder.
    """
    from aqvolt_flows.dynamics.together import run_together

    target = (folder or Path.cwd()).resolve() / f"npt-md-{uuid4().hex[:12]}"  # jobs may share a folder
    target.mkdir(parents=True)
    systems, blanks = _systems(structures, temperatures_k, parameters)
    writer = _FolderWriter(target, blanks, parameters)
    run_together(potential, systems, parameters, target / "checkpoints", writer)
    return NpTMDDocument(
        model=model_name(model),
        model_hash=given_hash(model),
        ensemble=parameters.ensemble,
        timestep_fs=parameters.timestep_fs,
        pressure_gpa=parameters.pressure_gpa,
        n_steps=parameters.n_steps,
        stride=parameters.stride,
        trajectories=_inlined(list(writer.documents.values())),
    )


def _systems(
    structures: Sequence[Structure], temperatures_k: Sequence[float], parameters: ExplorationParameters
) -> tuple[list[System], dict[str, NpTTrajectory]]:
    from pymatgen.io.ase import AseAtomsAdaptor

    from aqvolt_flows.dynamics.systems import System

    systems, documents = [], {}
    copies: Counter[str] = Counter()
    for index, structure in enumerate(structures):
        identity = structure_hash(structure)
        copies[identity] += 1
        own = identity if copies[identity] == 1 else f"{identity}#{copies[identity]}"
        plain = structure.copy(site_properties={})
        cell = plain.make_supercell(supercell_factors(plain, parameters.min_length_a), in_place=False)
        for temperature in temperatures_k:
            name, seed = f"structure-{index}-{temperature:.10g}K", run_seed(parameters.seed, own, temperature)
            systems.append(System(name, AseAtomsAdaptor.get_atoms(cell, msonable=False), temperature, seed))
            documents[name] = NpTTrajectory(
                trajectory_id=name,
                structure_index=index,
                formula=reduced_formula(cell.composition),
                n_atoms=len(cell),
                temperature_k=temperature,
                seed=seed,
                warnings=[w] if (w := small_cell_warning(len(cell), cell.volume, temperature)) else [],
                status="failed",
                failure=Failure(reason="not_run", message="the batch ended before it"),
            )
    return systems, documents


class _FolderWriter:
    """Keeps the frames of each trajectory in a file of its own."""

    def __init__(self, folder: Path, blanks: dict[str, NpTTrajectory], parameters: ExplorationParameters) -> None:
        self._folder, self.documents, self._parameters = folder, blanks, parameters

    def refused(self, system: System, why: Failure) -> None:
        self._update(system.trajectory_id, failure=why)

    def started(self, outcomes: Mapping[str, Outcome], segment: int) -> None:
        """Nothing is written before a trajectory ends."""

    def progressed(self, run: NpTRun) -> None:
        """Nothing is written before a trajectory ends."""

    def ended(self, ended: Ended) -> None:
        from aqvolt_flows.dynamics.production import production_means
        from aqvolt_flows.dynamics.stability import status_of

        outcome, seen = ended.outcome, ended.statistics
        name, some = outcome.system.trajectory_id, ended.statistics.n_frames > 0
        means = production_means(ended, self._parameters)
        frames = None
        if some:
            path = self._folder / f"{name}.parquet"
            shutil.copyfile(ended.path, path)
            frames = TrajectoryFrames(path=str(path), sha256=file_sha256(path), bytes=path.stat().st_size)
        self._update(
            name,
            status=status_of(outcome.failure, outcome.steps_done),
            failure=outcome.failure,
            steps_done=outcome.steps_done,
            n_frames=seen.n_frames,
            n_equilibration_frames=seen.n_equilibration_frames,
            mean_temperature_k=means.temperature,
            mean_temperature_error_k=means.temperature_error,
            mean_pressure_gpa=means.pressure,
            mean_pressure_error_gpa=means.pressure_error,
            mean_volume_a3=means.volume,
            mean_volume_error_a3=means.volume_error,
            max_force=seen.max_force if some else None,
            seconds=outcome.seconds,
            frames=frames,
        )

    def _update(self, name: str, **values: Any) -> None:
        self.documents[name] = self.documents[name].model_copy(update=values)


def _inlined(trajectories: list[NpTTrajectory]) -> list[NpTTrajectory]:
    """Return trajectories with their last structures, and their frames as columns, where these are few."""
    numbers = sum(t.n_frames * (6 * t.n_atoms + _OTHER_NUMBERS) for t in trajectories)
    sites = sum(t.n_atoms for t in trajectories if t.frames is not None)
    return list(_filled(trajectories, numbers <= INLINE_NUMBERS, sites <= INLINE_SITES))


def _filled(trajectories: list[NpTTrajectory], columns: bool, structures: bool) -> Iterator[NpTTrajectory]:
    from aqvolt_flows.frames import read_frame, read_frames, to_columns

    for t in trajectories:
        values: dict[str, Any] = {}
        if t.frames is not None and structures:
            values["final_structure"] = read_frame(t.frames.path, t.n_frames - 1).to_structure()
        if t.frames is not None and columns:
            inline = FrameColumns(**to_columns(list(read_frames(t.frames.path))))
            values["frames"] = t.frames.model_copy(update={"columns": inline})
        yield t.model_copy(update=values)
