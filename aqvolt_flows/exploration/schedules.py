"""Which runs a campaign wants: one per candidate and temperature, grouped into batches of one Firework."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pymatgen.core import Structure

from aqvolt_flows.dynamics.averages import small_cell_warning
from aqvolt_flows.identity import content_hash, content_key
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.structures import supercell_factors


@dataclass(frozen=True)
class Run:
    """One NpT run to make.

    Attributes
    ----------
    trajectory_id, key
        Identity of the run.
    candidate_id
        Which structure.
    temperature_k
        Target temperature.
    seed
        Seed of its initial momenta, derived from the campaign's seed, the candidate and the temperature.
    n_atoms
        Atoms of the supercell.
    small
        Whether fluctuations swamp the physics of so small a cell
        (:func:`aqvolt_flows.dynamics.averages.small_cell_warning`).
    """

    trajectory_id: str
    key: str
    candidate_id: str
    temperature_k: float
    seed: int
    n_atoms: int
    small: bool = False


#: Parameters that do not decide a trajectory.
_NOT_PHYSICS = {
    "temperatures_k",
    "max_batch_atoms",
    "max_job_atoms",
    "checkpoint_steps",
    "seed",
    "compressibility_per_gpa",
    "min_distance_factor",
    "deterministic",
    "equilibration_ps",
}
#: Parameters added later: at these values the keys of earlier runs stand.
_ADDED = {
    "lost_atom_cutoff_a": 6.0,
    "max_volume_ratio": 0.0,
    "min_packing": 0.0,
    "max_force_sigma_ev_per_a": None,
    "uncertain_steps": 10,
}


def batch_key(trajectory_ids: Sequence[str]) -> str:
    """Return the identity of a batch, whoever launches it: what its checkpoints are filed under."""
    return content_key("explore-checkpoint/1", trajectories=sorted(trajectory_ids))


def run_seed(seed: int, candidate_id: str, temperature_k: float) -> int:
    """Return the seed of one run: 63 bits of a hash, so that runs are independent and reproducible."""
    return int(content_hash([seed, candidate_id, temperature_k])[:16], 16) >> 1


def plan_runs(
    candidates: Sequence[tuple[str, Structure]], parameters: ExplorationParameters, model_hash: str
) -> list[Run]:
    """Return one run per candidate and temperature.

    Parameters
    ----------
    candidates
        (candidate_id, structure) pairs.
    parameters
        The campaign's exploration parameters; all that decide a trajectory enter its key, the batch size
        does not.
    model_hash
        Hash of the potential's weights.
    """
    physics = parameters.model_dump(mode="json", exclude=_NOT_PHYSICS | _ADDED.keys())
    if parameters.equilibration_steps:
        physics |= {"equilibration_steps": parameters.equilibration_steps}
    if parameters.ensemble != "npt_nose_hoover_isotropic" or parameters.equilibration_steps:
        physics |= {"compressibility_per_gpa": parameters.compressibility_per_gpa, "noise": "philox/1"}
    physics |= {name: v for name, default in _ADDED.items() if (v := getattr(parameters, name)) != default}
    runs = []
    for candidate_id, structure in candidates:
        factors = supercell_factors(structure, parameters.min_length_a)
        for temperature in parameters.temperatures_k:
            seed = run_seed(parameters.seed, candidate_id, temperature)
            key = content_key(
                "explore/1",
                candidate_id=candidate_id,
                temperature_k=temperature,
                seed=seed,
                model=model_hash,
                physics=physics,
            )
            n_cells = math.prod(factors)
            n_atoms, volume = len(structure) * n_cells, structure.volume * n_cells
            small = small_cell_warning(n_atoms, volume, temperature) is not None
            runs.append(Run(f"trajectory-{key}", key, candidate_id, temperature, seed, n_atoms, small))
    return runs


def group_runs(runs: Sequence[Run], max_atoms: int) -> list[list[Run]]:
    """Return consecutive groups of at most ``max_atoms`` atoms (one run at least), largest cells first."""
    groups: list[list[Run]] = []
    atoms = 0
    for run in sorted(runs, key=lambda r: (-r.n_atoms, r.trajectory_id)):
        if not groups or atoms + run.n_atoms > max_atoms:
            groups.append([])
            atoms = 0
        groups[-1].append(run)
        atoms += run.n_atoms
    return groups
