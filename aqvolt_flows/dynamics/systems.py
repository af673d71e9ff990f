"""Systems to run: their initial state, and which of them are refused before a model evaluates them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list

from aqvolt_flows.dynamics.batch import DTYPE, Batch
from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import Frame
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.units import KB_EV_PER_K


@dataclass(frozen=True, eq=False)
class System:
    """One system to run.

    Attributes
    ----------
    trajectory_id
        Goes into its frames.
    atoms
        Periodic starting configuration.
    temperature_k, seed
        Target temperature and the seed of its initial momenta and noise.
    final_temperature_k
        The target goes there linearly from the first to the last step; None: it stays.
    """

    trajectory_id: str
    atoms: Atoms
    temperature_k: float
    seed: int
    final_temperature_k: float | None = None


@dataclass(eq=False)
class Outcome:
    """The state of one system's run, or how it ended.

    Attributes
    ----------
    frames
        Every ``stride``-th step from step 0 on, up to the failure if there was one; empty where a sink took them.
    steps_done
        Steps made; fewer than asked for when ``failure`` is set.
    seconds
        Its share, by atoms, of the time the batches took that it was part of.
    """

    system: System
    frames: list[Frame] = field(default_factory=list)
    steps_done: int = 0
    failure: Failure | None = None
    seconds: float = 0.0
    ended: bool = False


def check_ids(trajectory_ids: Sequence[str]) -> None:
    """Raise unless there is at least one run, and every one once.

    Raises
    ------
    InputError
        If the list is empty or contains an id twice.
    """
    if not trajectory_ids:
        raise InputError("No system was given to explore; select candidates first.")
    twice = [i for i, n in Counter(trajectory_ids).items() if n > 1]
    if twice:
        raise InputError(f"Trajectory {twice[0]} was given twice; give every trajectory once.")


def refusal(atoms: Atoms, elements: Iterable[int] | None, model: str, min_distance_factor: float) -> Failure | None:
    """Return why a structure is not run, or None if it is.

    Parameters
    ----------
    atoms
        The starting configuration.
    elements
        Atomic numbers that the model knows; None: any.
    model
        Its name, for the message.
    min_distance_factor
        A pair closer than this times the sum of its covalent radii (Cordero et al., DOI 10.1039/b801115j, as in ASE)
        overlaps; periodic images count; 0: not looked for.
    """
    if len(atoms) < 2:
        message = "a single atom cannot move against its center of mass; set min_length_a for a supercell"
        return Failure(reason="single_atom", message=message)
    if elements is not None:
        unknown = sorted(set(atoms.numbers.tolist()) - set(elements))
        if unknown:
            names = ", ".join(chemical_symbols[z] for z in unknown)
            return Failure(reason="unsupported_element", message=f"{model} has no parameters for {names}")
    if min_distance_factor > 0:
        cutoffs = min_distance_factor * covalent_radii[atoms.numbers]
        i, j, d = neighbor_list("ijd", atoms, np.asarray(cutoffs, dtype=float).tolist())
        if len(d):
            k = int(np.argmin(d))
            pair = f"{atoms.symbols[i[k]]}{i[k]} and {atoms.symbols[j[k]]}{j[k]}"
            limit = cutoffs[i[k]] + cutoffs[j[k]]
            return Failure(
                reason="overlapping_atoms", message=f"{pair} are {d[k]:.3f} Å apart; expected at least {limit:.3f} Å"
            )
    return None


def maxwell_boltzmann(atoms: Atoms, temperature_k: float, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Return momenta (n_atoms, 3) in √(u·eV), drawn from the system's own generator.

    The center of mass is at rest and the kinetic energy is scaled to (3N − 3)/2 kT, so that small cells
    start at their temperature exactly. Drawing per system keeps a run independent of its batch-mates.
    """
    if len(atoms) == 1:
        return torch.zeros((1, 3), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    masses = torch.tensor(atoms.get_masses(), dtype=torch.float64)[:, None]
    kt = KB_EV_PER_K * temperature_k
    momenta = torch.randn((len(atoms), 3), generator=generator, dtype=torch.float64) * torch.sqrt(masses * kt)
    momenta -= masses * momenta.sum(0) / masses.sum()
    kinetic = float((momenta**2 / (2 * masses)).sum())
    wanted = (3 * len(atoms) - 3) / 2 * kt
    return (momenta * (wanted / kinetic) ** 0.5).to(dtype)


def initial_batch(systems: Sequence[System], device: torch.device, ramps: bool = False) -> Batch:
    """Return systems at step 0 with their momenta; energies, forces and stresses are zero until a model is asked.

    Parameters
    ----------
    systems
        At least one.
    device
        Where the tensors are.
    ramps
        Whether the target temperature of any system of the run changes; all then have both ends of it.
    """

    def double(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=DTYPE, device=device)

    n = len(systems)
    momenta = torch.cat([maxwell_boltzmann(s.atoms, s.temperature_k, s.seed, DTYPE) for s in systems]).to(device)
    numbers = np.concatenate([s.atoms.numbers for s in systems])
    batch = Batch(
        [s.trajectory_id for s in systems],
        np.array([len(s.atoms) for s in systems], dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        [s.seed for s in systems],
        {
            "positions": double(np.concatenate([s.atoms.positions for s in systems])),
            "momenta": momenta,
            "masses": double(np.concatenate([s.atoms.get_masses() for s in systems])),
            "numbers": torch.as_tensor(numbers, dtype=torch.long, device=device),
            "forces": torch.zeros_like(momenta),
        },
        {
            "cell": double(np.stack([s.atoms.cell[:] for s in systems])),
            "energy": double(np.zeros(n)),
            "stress": double(np.zeros((n, 3, 3))),
            "kt": double([KB_EV_PER_K * s.temperature_k for s in systems]),
            "step": torch.zeros(n, dtype=torch.long, device=device),
        },
    )
    found = {"kinetic": batch.kinetic_energy(momenta)}
    if ramps:
        last = [s.temperature_k if s.final_temperature_k is None else s.final_temperature_k for s in systems]
        found |= {"kt_first": batch.systems["kt"].clone(), "kt_last": double([KB_EV_PER_K * t for t in last])}
    return batch.updated({}, found)


def heated(batch: Batch, n_steps: int) -> Batch:
    """Return the batch with the target temperature that each system's next step has.

    It is T₀ + (T₁ − T₀) s / ``n_steps`` after s steps: a function of the step alone, so that a run that is continued
    from a checkpoint is not heated otherwise.
    """
    s = batch.systems
    progress = (s["step"].to(DTYPE) / n_steps).clamp(max=1.0)
    return batch.updated({}, {"kt": s["kt_first"] + (s["kt_last"] - s["kt_first"]) * progress})


def model_state(batch: Batch, dtype: torch.dtype) -> Any:
    """Return the torch-sim state that a model is given; positions and cell are exchanged at every step."""
    return ts.SimState(
        positions=batch.atoms["positions"].to(dtype),
        masses=batch.atoms["masses"].to(dtype),
        cell=batch.systems["cell"].transpose(-2, -1).to(dtype).contiguous(),
        pbc=True,
        atomic_numbers=batch.atoms["numbers"],
        system_idx=batch.index,
    )
