"""Relaxation of many structures in one torch-sim batch: FIRE on positions and, unless fixed, the cell."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.potentials import Potential
from aqvolt_flows.potentials.registry import batches
from aqvolt_flows.schemas.generation import RelaxationParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.units import ev_per_a3_to_gpa


@dataclass(frozen=True, eq=False)
class Relaxed:
    """How one relaxation ended.

    Attributes
    ----------
    structure
        The last geometry; the given one where the relaxation failed.
    energy
        Total energy in eV; NaN where it failed.
    max_force
        Largest force on an atom, eV/Å.
    max_stress
        Largest component of the stress, GPa.
    failure
        None if it converged. Reasons: ``unconverged`` (the structure and energy are those of the last step),
        ``exploded`` (the volume left its limits, or an energy was not finite), ``relaxation_error``.
    atom_steps
        Atoms times evaluations: its share, by atoms, of those of the batch; None where the model does not count.
    """

    structure: Structure
    energy: float
    max_force: float
    max_stress: float
    failure: Failure | None = None
    atom_steps: int | None = None

    @property
    def converged(self) -> bool:
        """Whether forces and stress are below the limits."""
        return self.failure is None

    @property
    def energy_per_atom(self) -> float:
        """The energy in eV/atom."""
        return self.energy / len(self.structure)


#: Structures in, one outcome each out, in order. Stages take this instead of a potential, so that any engine fits.
Relaxer = Callable[[Sequence[Structure]], list[Relaxed]]


def torchsim_relaxer(potential: Potential, parameters: RelaxationParameters, fixed_cell: bool = False) -> Relaxer:
    """Return a relaxer that runs all it is given in batches of at most ``max_batch_atoms`` atoms.

    Parameters
    ----------
    potential
        One with a torch-sim model that computes stress.
    parameters
        Force tolerance, steps, limits.
    fixed_cell
        Relax positions only; convergence then asks for forces alone.
    """
    model = potential.torchsim_model()

    def relax(structures: Sequence[Structure]) -> list[Relaxed]:
        found: list[Relaxed] = []
        for group in batches([len(s) for s in structures], parameters.max_batch_atoms):
            found += relax_batch(model, [structures[i] for i in group], parameters, fixed_cell)
        return found

    return relax


def relax_batch(
    model: Any, structures: Sequence[Structure], parameters: RelaxationParameters, fixed_cell: bool = False
) -> list[Relaxed]:
    """Relax structures together with torch-sim's FIRE and, unless the cell is fixed, its Fréchet cell filter.

    A structure that cannot be evaluated (for torch raises on the whole batch) is found by halving the batch, and
    becomes a failure; the others are not lost. A batch that is too large for the device is halved the same way.
    """
    try:
        with _counted(model) as evaluated:
            found = _optimize(model, structures, parameters, fixed_cell)
        total = sum(len(s) for s in structures)
        share = evaluated[0] / total if evaluated[0] else None
        return [replace(r, atom_steps=None if share is None else round(share * len(r.structure))) for r in found]
    except (RuntimeError, ValueError, IndexError) as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if len(structures) == 1:  # outside of the handler, which holds the failed batch's tensors
        nan = float("nan")
        return [Relaxed(structures[0], nan, nan, nan, Failure(reason="relaxation_error", message=message))]
    half = len(structures) // 2
    halves = structures[:half], structures[half:]
    return [r for part in halves for r in relax_batch(model, part, parameters, fixed_cell)]


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """Yield the number of atoms that a torch module was called with so far, in a list of one."""
    seen = [0]

    def count(_module: Any, arguments: tuple[Any, ...]) -> None:
        seen[0] += len(arguments[0].positions) if arguments else 0

    hook = model.register_forward_pre_hook(count) if hasattr(model, "register_forward_pre_hook") else None
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


def _optimize(model: Any, structures: Sequence[Structure], p: RelaxationParameters, fixed_cell: bool) -> list[Relaxed]:
    import torch
    import torch_sim as ts
    from pymatgen.io.ase import AseAtomsAdaptor

    def volume_ratio(state: Any) -> torch.Tensor:
        if fixed_cell:
            return torch.ones_like(state.energy)
        return torch.linalg.det(state.cell).abs() / torch.linalg.det(state.reference_cell).abs()

    def exploded(state: Any) -> torch.Tensor:
        ratio = volume_ratio(state)
        sound = torch.isfinite(state.energy) & (ratio > 1 / p.max_volume_ratio) & (ratio < p.max_volume_ratio)
        return ~sound

    at_rest = ts.runners.generate_force_convergence_fn(p.force_tolerance_ev_per_a, include_cell_forces=not fixed_cell)

    def finished(state: Any, _last_energy: torch.Tensor | None = None) -> torch.Tensor:
        return at_rest(state) | exploded(state)

    atoms = [AseAtomsAdaptor.get_atoms(s.copy(site_properties={}), msonable=False) for s in structures]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All systems have reached the maximum number of steps")
        state = ts.optimize(
            ts.io.atoms_to_state(atoms, device=model.device, dtype=model.dtype),
            model,
            optimizer=ts.Optimizer.fire,
            convergence_fn=finished,
            max_steps=p.max_steps,
            init_kwargs={} if fixed_cell else {"cell_filter": ts.CellFilter.frechet},
        )
    rest, broken = at_rest(state).cpu().numpy(), exploded(state).cpu().numpy()
    ratios = volume_ratio(state).detach().cpu().numpy()
    energies = state.energy.detach().to(torch.float64).cpu().numpy()
    forces = ts.system_wise_max_force(state).detach().to(torch.float64).cpu().numpy()
    stresses = state.stress.detach().to(torch.float64).abs().amax(dim=(1, 2)).cpu().numpy()
    results = []
    for index, final in enumerate(ts.io.state_to_structures(state)):
        numbers = (float(energies[index]), float(forces[index]), ev_per_a3_to_gpa(float(stresses[index])))
        if broken[index] or not np.isfinite(numbers).all():
            message = f"volume went to {ratios[index]:.3g} times the start, limit {p.max_volume_ratio:g}"
            failure = Failure(reason="exploded", message=message)
            results.append(Relaxed(structures[index], float("nan"), float("nan"), float("nan"), failure))
            continue
        failure_or_none = None
        if not rest[index]:
            message = (
                f"largest force {numbers[1]:.3f} eV/Å and stress {numbers[2]:.2f} GPa after {p.max_steps} steps; "
                f"forces on atoms and cell must be below {p.force_tolerance_ev_per_a:g} eV/Å"
            )
            failure_or_none = Failure(reason="unconverged", message=message)
        results.append(Relaxed(_like(structures[index], final), *numbers, failure_or_none))
    return results


def _like(given: Structure, final: Structure) -> Structure:
    """Return the final geometry with the given sites' order and species."""
    return Structure(final.lattice, [s.specie.symbol for s in given], final.frac_coords)
