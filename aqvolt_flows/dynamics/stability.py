"""The physics guard: when a run has left physics, and why.

Flags are set where the batch is, at every step, and looked at from the host every few steps only: a GPU that is asked
after each step waits for the answer. The step at which a run failed is kept with the flag, so that frames written
meanwhile are dropped, and from then on the model is given the run's starting configuration: no NaN reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase.data import covalent_radii
from torch_sim.neighbors import torch_nl_linked_cell

from aqvolt_flows.dynamics.batch import Batch, volume_of
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.units import KB_EV_PER_K

#: A run hotter than this many times its target, plus 1000 K, has exploded; fluctuations of small cells are far below.
MAX_TEMPERATURE_RATIO = 10.0
TEMPERATURE_MARGIN_K = 1000.0
#: Steps between looks at the flags: on the CPU they cost nothing.
GUARD_STEPS = {"cpu": 1}
GUARD_STEPS_GPU = 10
#: Steps between searches for lost atoms; each is a neighbor list.
LOST_ATOM_STEPS = 100

REASONS = (
    "",
    "not_finite",
    "force_limit",
    "volume_change",
    "temperature_limit",
    "lost_atoms",
    "vaporized",
    "collapsed",
    "uncertain",
)
_NOT_FINITE, _FORCE, _VOLUME, _TEMPERATURE, _LOST, _VAPORIZED, _COLLAPSED, _UNCERTAIN = range(1, 9)
#: Where the physics of a run ended, not the run: what came before is as good as any.
ENDS_OF_EXPLORATION = frozenset(REASONS[1:]) - {"not_finite"}


def status_of(failure: Failure | None, steps_done: int) -> Literal["completed", "ended_early", "failed"]:
    """Return the status of a run that has ended: ``ended_early`` if it left what is explored after its first step."""
    if failure is None:
        return "completed"
    return "ended_early" if failure.reason in ENDS_OF_EXPLORATION and steps_done > 0 else "failed"


def guard_steps(device: torch.device) -> int:
    """Return after how many steps the flags are looked at on this device."""
    return GUARD_STEPS.get(device.type, GUARD_STEPS_GPU)


@dataclass(frozen=True)
class Guard:
    """The limits of a campaign.

    Attributes
    ----------
    max_volume_ratio
        V/V₀, and its inverse; 0: not looked at.
    min_packing
        Share of the volume in spheres of covalent radius (Cordero et al., DOI 10.1039/b801115j, as in ASE); 0: not
        looked at.
    max_volume_change
        |ΔV|/V₀, the stability benchmark's; None: not looked at.
    max_force
        eV/Å.
    lost_atom_cutoff
        An atom with no other atom or image within this, Å, is lost; 0: not looked for.
    max_force_sigma
        σ_F of an atom, eV/Å, that a committee gives; None: not looked at.
    uncertain_steps
        Steps in a row above it that end a run.
    """

    max_volume_ratio: float
    min_packing: float
    max_volume_change: float | None
    max_force: float
    lost_atom_cutoff: float
    max_force_sigma: float | None = None
    uncertain_steps: int = 10

    @classmethod
    def of(cls, parameters: ExplorationParameters) -> Guard:
        """Return the limits that a campaign sets."""
        p = parameters
        limits = (p.max_volume_ratio, p.min_packing, p.max_volume_change, p.max_force_ev_per_a, p.lost_atom_cutoff_a)
        return cls(*limits, p.max_force_sigma_ev_per_a, p.uncertain_steps)

    def start(self, batch: Batch) -> Batch:
        """Return the batch with its flags down, and with what the guard compares with."""
        n, device = len(batch), batch.device
        spheres = 4 / 3 * np.pi * covalent_radii[batch.atoms["numbers"].cpu().numpy()] ** 3
        filled = torch.zeros(n, dtype=torch.float64, device=device)
        return batch.updated(
            {"safe_positions": batch.atoms["positions"].clone()},
            {
                "safe_cell": batch.systems["cell"].clone(),
                "initial_volume": batch.volume(),
                "filled_volume": filled.index_add(0, batch.index, torch.as_tensor(spheres, device=device)),
                "fail_code": torch.zeros(n, dtype=torch.long, device=device),
                "fail_step": torch.full((n,), -1, dtype=torch.long, device=device),
                "fail_value": torch.zeros(n, dtype=torch.float64, device=device),
            }
            | self._uncertain_from_zero(n, device),
        )

    def _uncertain_from_zero(self, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        if self.max_force_sigma is None:  # what is not looked at takes no place in checkpoints
            return {}
        sigma = torch.zeros(n, dtype=torch.float64, device=device)
        return {"force_sigma": sigma, "uncertain_for": torch.zeros(n, dtype=torch.long, device=device)}

    def doubted(self, batch: Batch, sigma: torch.Tensor | None) -> Batch:
        """Return the batch with the largest σ_F of each system, and for how many steps in a row it was above the limit.

        Parameters
        ----------
        batch
            After a step.
        sigma
            (n_atoms,), of the step's forces, eV/Å; None from a model that has none.

        Raises
        ------
        InputError
            If a limit is set and the model has no σ_F.
        """
        if self.max_force_sigma is None:
            return batch
        if sigma is None:
            raise InputError(
                "max_force_sigma_ev_per_a is set, but the potential gives no spread of forces; explore with a "
                "committee (committee:PATH), or leave it out."
            )
        s = batch.systems
        largest = torch.zeros_like(s["force_sigma"])
        largest = largest.scatter_reduce(0, batch.index, sigma.to(largest.dtype), reduce="amax")
        longer = torch.where(largest > self.max_force_sigma, s["uncertain_for"] + 1, 0)
        return batch.updated({}, {"force_sigma": largest, "uncertain_for": longer})

    def safe(self, batch: Batch, positions: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return positions and cells fit for the model: those of failed or failing systems are the starting ones."""
        bad = torch.stack([passed for _, passed, _ in self._of_volume(batch, volume_of(cell))])
        finite = torch.zeros(len(batch), dtype=positions.dtype, device=positions.device)
        finite = torch.isfinite(finite.index_add(0, batch.index, positions.sum(1)))
        good = finite & torch.isfinite(cell).all(-1).all(-1) & ~bad.any(0) & (batch.systems["fail_code"] == 0)
        return (
            torch.where(good[batch.index, None], positions, batch.atoms["safe_positions"]),
            torch.where(good[:, None, None], cell, batch.systems["safe_cell"]),
        )

    def watch(self, batch: Batch) -> Batch:
        """Return the batch with flags raised where a limit was passed."""
        s = batch.systems
        force = torch.linalg.vector_norm(batch.atoms["forces"], dim=1)
        largest = torch.zeros_like(s["energy"]).scatter_reduce(0, batch.index, force, reduce="amax")
        temperature = batch.temperature()
        volume = batch.volume()
        summed = torch.zeros_like(s["energy"]).index_add(0, batch.index, batch.atoms["positions"].sum(1) + force)
        finite = torch.isfinite(s["energy"] + summed + temperature + volume)
        hot = MAX_TEMPERATURE_RATIO * s["kt"] / KB_EV_PER_K + TEMPERATURE_MARGIN_K
        code = torch.zeros_like(s["fail_code"])
        value = torch.zeros_like(s["fail_value"])
        for number, passed, seen in (
            (_TEMPERATURE, temperature > hot, temperature),
            *self._of_doubt(batch),
            *self._of_volume(batch, volume),
            (_FORCE, largest > self.max_force, largest),
            (_NOT_FINITE, ~finite, torch.zeros_like(value)),
        ):
            code = torch.where(passed, number, code)
            value = torch.where(passed, seen, value)
        return self._raised(batch, code, value)

    def _of_doubt(self, batch: Batch) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """Return the limit of σ_F: code, where it was passed for too long (n_systems,), and the number seen."""
        if self.max_force_sigma is None:
            return []
        s = batch.systems
        return [(_UNCERTAIN, s["uncertain_for"] >= self.uncertain_steps, s["force_sigma"])]

    def _of_volume(self, batch: Batch, volume: torch.Tensor) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """Return the limits of the volume: code, where it is passed (n_systems,), and the number seen."""
        s = batch.systems
        ratio = volume / s["initial_volume"]
        largest = torch.full_like(ratio, torch.inf)
        if self.max_volume_ratio:
            largest = torch.full_like(ratio, self.max_volume_ratio)
        if self.min_packing:
            largest = torch.minimum(largest, s["filled_volume"] / (self.min_packing * s["initial_volume"]))
        smallest = 1 / self.max_volume_ratio if self.max_volume_ratio else 0.0
        found = [(_VAPORIZED, ratio > largest, ratio), (_COLLAPSED, ratio < smallest, ratio)]
        if self.max_volume_change is not None:
            change = torch.abs(ratio - 1)
            found.append((_VOLUME, change > self.max_volume_change, change))
        return found

    def search_lost(self, batch: Batch) -> Batch:
        """Return the batch with flags raised for systems in which an atom is alone."""
        if self.lost_atom_cutoff <= 0:
            return batch
        positions, cell = self.safe(batch, batch.atoms["positions"], batch.systems["cell"])
        pbc = torch.ones(3, dtype=torch.bool, device=batch.device)
        cutoff = torch.tensor(self.lost_atom_cutoff, dtype=positions.dtype, device=batch.device)
        pairs, _, _ = torch_nl_linked_cell(positions, cell, pbc, cutoff, batch.index)
        alone = torch.bincount(pairs[0], minlength=batch.n_atoms) == 0
        count = torch.zeros_like(batch.systems["fail_value"]).index_add(0, batch.index, alone.to(torch.float64))
        return self._raised(batch, torch.where(count > 0, _LOST, 0), count)

    @staticmethod
    def _raised(batch: Batch, code: torch.Tensor, value: torch.Tensor) -> Batch:
        s = batch.systems
        new = (s["fail_code"] == 0) & (code > 0)
        return batch.updated(
            {},
            {
                "fail_code": torch.where(new, code, s["fail_code"]),
                "fail_step": torch.where(new, s["step"], s["fail_step"]),
                "fail_value": torch.where(new, value, s["fail_value"]),
            },
        )

    def failures(self, batch: Batch) -> dict[int, tuple[int, Failure]]:
        """Return the failed systems of a batch: position → (step, reason); this is where the host waits."""
        codes = batch.systems["fail_code"].cpu().numpy()
        if not codes.any():
            return {}
        steps, values = batch.systems["fail_step"].cpu().numpy(), batch.systems["fail_value"].cpu().numpy()
        targets = (batch.systems["kt"] / KB_EV_PER_K).cpu().numpy()
        found = {}
        for i in codes.nonzero()[0]:
            said = self._sentence(int(codes[i]), float(values[i]), float(targets[i]))
            failure = Failure(reason=REASONS[codes[i]], message=f"step {steps[i]}: {said}")
            found[int(i)] = (int(steps[i]), failure)
        return found

    def _sentence(self, code: int, value: float, target: float) -> str:
        return {
            _NOT_FINITE: "energy, forces, positions, volume or temperature became NaN or infinite",
            _FORCE: f"|F| reached {value:.3g} eV/Å; limit {self.max_force:g} eV/Å",
            _VOLUME: f"|ΔV|/V₀ reached {value:.2f}; limit {self.max_volume_change}",
            _VAPORIZED: f"V/V₀ reached {value:.2f}; limits are V/V₀ {self.max_volume_ratio:g} and a packing of "
            f"{self.min_packing:g}: it vaporized, or its pressure could not be balanced",
            _COLLAPSED: f"V/V₀ reached {value:.2f}; limit 1/{self.max_volume_ratio:g}: it collapsed, or its pressure "
            "could not be balanced",
            _TEMPERATURE: f"{value:.0f} K at a target of {target:.0f} K",
            _UNCERTAIN: f"σ_F was above {self.max_force_sigma} eV/Å for {self.uncertain_steps} steps, last "
            f"{value:.3g}: the committee does not know these configurations",
            _LOST: f"{value:.0f} atoms have no other within {self.lost_atom_cutoff:g} Å",
        }[code]
