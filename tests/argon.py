"""Lennard-Jones argon, the physics of these tests: ε = 0.0104 eV, σ = 3.4 Å (Rahman, DOI 10.1103/PhysRev.136.A405)."""

from __future__ import annotations

from ase.build import bulk

from aqvolt_flows.schemas.parameters import ExplorationParameters

EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 8.0


def model():
    import torch
    from torch_sim.models.lennard_jones import LennardJonesModel

    return LennardJonesModel(
        sigma=SIGMA,
        epsilon=EPSILON,
        cutoff=CUTOFF,
        device=torch.device("cpu"),
        dtype=torch.float64,
        compute_forces=True,
        compute_stress=True,
    )


def smooth_model():
    """The same with a factor (1 − r²/r_c²)³: no jump at the cutoff, so that what should be conserved is."""
    import torch
    from torch_sim.models.pair_potential import PairPotentialModel

    def pair(dr, zi, zj):
        idr6 = (SIGMA / dr).pow(6)
        return 4 * EPSILON * (idr6 * idr6 - idr6) * (1 - (dr / CUTOFF) ** 2).clamp(min=0) ** 3

    return PairPotentialModel(
        pair_fn=pair,
        cutoff=CUTOFF,
        device=torch.device("cpu"),
        dtype=torch.float64,
        compute_forces=True,
        compute_stress=True,
    )


def crystal(a: float = 5.3, n: int = 2):
    return bulk("Ar", "fcc", a=a, cubic=True) * (n, n, n)


def parameters(**changes) -> ExplorationParameters:
    values = {
        "temperatures_k": [40.0],
        "n_steps": 60,
        "stride": 10,
        "timestep_fs": 5.0,
        "thermostat_tau_fs": 100.0,
        "barostat_tau_fs": 1000.0,
    }
    return ExplorationParameters(**(values | changes))


def system(seed: int = 1, temperature: float = 40.0, name: str = "t", atoms=None):
    from aqvolt_flows.dynamics.systems import System

    return System(name, crystal() if atoms is None else atoms, temperature, seed)
