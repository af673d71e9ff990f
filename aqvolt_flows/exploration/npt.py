"""NpT molecular dynamics of a batch of systems with torch-sim, one step counter, frames as they come.

We own the loop: torch-sim's runner re-initialises the integrator on restart and cannot drop a system
whose run has failed. What is integrated is torch-sim's (Martyna–Tobias–Klein Nosé–Hoover chains,
DOI 10.1080/00268979600100761; stochastic cell rescaling, DOI 10.1063/5.0020514).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from numpy.typing import NDArray
from torch_sim.integrators import INTEGRATOR_REGISTRY, Integrator
from torch_sim.integrators.md import NoseHooverChain
from torch_sim.units import MetalUnits

from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.stability import Limits, check_batch
from aqvolt_flows.frames import Frame
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.units import KB_EV_PER_K, PS_PER_FS, gpa_to_ev_per_a3, matrix_to_voigt


@dataclass(frozen=True, eq=False)
class System:
    """One system of a batch.

    Attributes
    ----------
    trajectory_id
        Goes into its frames.
    atoms
        Periodic starting configuration.
    temperature_k, seed
        Target temperature and the seed of the initial momenta.
    """

    trajectory_id: str
    atoms: Atoms
    temperature_k: float
    seed: int


@dataclass(eq=False)
class Outcome:
    """How one system's run ended.

    Attributes
    ----------
    frames
        Every ``stride``-th step from step 0 on, up to the failure if there was one.
    steps_done
        Steps made; fewer than asked for when ``failure`` is set.
    """

    system: System
    frames: list[Frame] = field(default_factory=list)
    steps_done: int = 0
    failure: Failure | None = None


def maxwell_boltzmann(atoms: Atoms, temperature_k: float, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Return momenta (n_atoms, 3) in torch-sim's metal units, drawn from the system's own generator.

    The centre of mass is at rest and the kinetic energy is scaled to (3N − 3)/2 kT, so that small cells
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


def select_systems(state: Any, keep: Sequence[int]) -> Any:
    """Return the state of the kept systems, thermostat and barostat chains included.

    torch-sim slices per-atom and per-system tensors but copies Nosé–Hoover chains whole; their tensors
    are (n_systems, …) and are sliced here.
    """
    index = torch.as_tensor(list(keep), device=state.device)
    chosen = state[index]
    for name in ("thermostat", "barostat"):
        chain = getattr(state, name, None)
        if isinstance(chain, NoseHooverChain):
            setattr(chosen, name, _select_chain(chain, index, state.n_systems))
    return chosen


def _select_chain(chain: NoseHooverChain, index: torch.Tensor, n_systems: int) -> NoseHooverChain:
    sliced = {
        f.name: value[index]
        for f in dataclasses.fields(chain)
        if isinstance(value := getattr(chain, f.name), torch.Tensor)
        and value.ndim
        and value.shape[0] == n_systems
        and f.name != "system_idx"
    }
    return dataclasses.replace(chain, **sliced, system_idx=None)


class NpTRun:
    """One batch in flight.

    Parameters
    ----------
    model
        A torch-sim model that computes stress.
    systems
        What to run; at least one.
    parameters
        Integrator, timestep, pressure, limits.

    Raises
    ------
    InputError
        If there is no system.
    """

    def __init__(self, model: Any, systems: Sequence[System], parameters: ExplorationParameters) -> None:
        if not systems:
            raise InputError("No system was given to explore; select candidates first.")
        self.model, self.parameters = model, parameters
        self.outcomes = [Outcome(s) for s in systems]
        self.active = list(range(len(systems)))
        self.step = 0
        self._dt = torch.tensor(
            parameters.timestep_fs * PS_PER_FS * MetalUnits.time, dtype=model.dtype, device=model.device
        )
        self._state = self._initial_state(systems)
        volumes = np.array([s.atoms.get_volume() for s in systems])
        self._limits = Limits.of(parameters, volumes, np.array([s.temperature_k for s in systems]))

    def _initial_state(self, systems: Sequence[System]) -> Any:
        p = self.parameters
        state = ts.io.atoms_to_state([s.atoms for s in systems], device=self.model.device, dtype=self.model.dtype)
        momenta = [maxwell_boltzmann(s.atoms, s.temperature_k, s.seed, self.model.dtype) for s in systems]
        state.rng = int(systems[0].seed % 2**31)
        init, self._step_function = INTEGRATOR_REGISTRY[Integrator(p.ensemble)]
        tau = p.thermostat_tau_fs * PS_PER_FS * MetalUnits.time
        tau_p = p.barostat_tau_fs * PS_PER_FS * MetalUnits.time
        kt = self._kt(range(len(systems)), systems)
        if p.ensemble == "npt_nose_hoover_isotropic":
            self._step_kwargs: dict[str, Any] = {}
            return init(
                state=state,
                model=self.model,
                kT=kt,
                dt=self._dt,
                t_tau=tau,
                b_tau=tau_p,
                momenta=torch.cat(momenta).to(state.device),
            )
        self._step_kwargs = {"tau": torch.tensor(tau, dtype=self.model.dtype, device=self.model.device)}
        started = init(state=state, model=self.model, kT=kt, dt=self._dt, tau_p=tau_p)
        started.momenta = torch.cat(momenta).to(started.device)
        return started

    def _kt(self, indices: Sequence[int], systems: Sequence[System] | None = None) -> torch.Tensor:
        chosen = systems or [o.system for o in self.outcomes]
        kt = [KB_EV_PER_K * chosen[i].temperature_k for i in indices]
        return torch.tensor(kt, dtype=self.model.dtype, device=self.model.device)

    def _observe(self) -> dict[str, NDArray[np.float64]]:
        """Return the per-system numbers that the guard and the frames need."""
        state = self._state
        force = torch.linalg.vector_norm(state.forces, dim=1)
        largest = torch.zeros(state.n_systems, dtype=force.dtype, device=force.device).scatter_reduce(
            0, state.system_idx, force, reduce="amax"
        )
        kinetic = ts.calc_kinetic_energy(masses=state.masses, momenta=state.momenta, system_idx=state.system_idx)
        counts = torch.bincount(state.system_idx)
        temperature = 2 * kinetic / (KB_EV_PER_K * (3 * counts - 3).clamp(min=1))
        values = {
            "energy": state.energy,
            "volume": torch.linalg.det(state.cell).abs(),
            "temperature": temperature,
            "max_force": torch.where(torch.isfinite(largest), largest, torch.nan),
        }
        return {name: value.detach().to(torch.float64).cpu().numpy() for name, value in values.items()}

    def _record(self, observed: dict[str, NDArray[np.float64]]) -> None:
        state = self._state
        positions = state.positions.detach().to(torch.float32).cpu().numpy()
        forces = state.forces.detach().to(torch.float32).cpu().numpy()
        cells = state.row_vector_cell.detach().to(torch.float32).cpu().numpy()
        stress = matrix_to_voigt(state.stress.detach().to(torch.float64).cpu().numpy()).astype(np.float32)
        first = 0
        for local, index in enumerate(self.active):
            outcome = self.outcomes[index]
            numbers = outcome.system.atoms.numbers
            last = first + len(numbers)
            outcome.frames.append(
                Frame(
                    trajectory_id=outcome.system.trajectory_id,
                    step=self.step,
                    temperature=float(observed["temperature"][local]),
                    energy=float(observed["energy"][local]),
                    atomic_numbers=numbers.astype(np.int16),
                    positions=positions[first:last],
                    cell=cells[local],
                    forces=forces[first:last],
                    stress=stress[local],
                )
            )
            first = last

    def _drop_failed(self, observed: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Take failed systems out of the batch; the others go on. Returns what was observed of those left."""
        indices = np.array(self.active)
        limits = dataclasses.replace(
            self._limits,
            initial_volume=self._limits.initial_volume[indices],
            temperature_k=self._limits.temperature_k[indices],
        )
        failures = check_batch(limits, **observed)
        if not failures:
            return observed
        for local, failure in failures.items():
            outcome = self.outcomes[self.active[local]]
            outcome.failure = Failure(reason=failure.reason, message=f"step {self.step}: {failure.message}")
            outcome.steps_done = self.step
        keep = [i for i in range(len(self.active)) if i not in failures]
        self.active = [self.active[i] for i in keep]
        if keep:
            self._state = select_systems(self._state, keep)
        return {name: values[keep] for name, values in observed.items()}

    def run(self, on_progress: Callable[[int, int], None] | None = None) -> list[Outcome]:
        """Run to the end and return every system's outcome, in the order given.

        Parameters
        ----------
        on_progress
            Called after every step with (steps done, systems still running).
        """
        p = self.parameters
        pressure = torch.tensor(gpa_to_ev_per_a3(p.pressure_gpa), dtype=self.model.dtype, device=self.model.device)
        self._record_if_alive(self._drop_failed(self._observe()))
        while self.step < p.n_steps and self.active:
            self._state = self._step_function(
                state=self._state,
                model=self.model,
                dt=self._dt,
                kT=self._kt(self.active),
                external_pressure=pressure,
                **self._step_kwargs,
            )
            self.step += 1
            observed = self._drop_failed(self._observe())
            if self.step % p.stride == 0:
                self._record_if_alive(observed)
            if on_progress:
                on_progress(self.step, len(self.active))
        for index in self.active:
            self.outcomes[index].steps_done = self.step
        return self.outcomes

    def _record_if_alive(self, observed: dict[str, NDArray[np.float64]]) -> None:
        if self.active:
            self._record(observed)
