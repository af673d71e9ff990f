"""What a step costs apart from the model: our integrators, guard and noise against torch-sim's integrators alone.

Run ``python tests/performance/integrators.py [--device cuda] [--systems 16,256,1024] [--steps 30]``. The model returns
zeros at once, so that all time is the integrator's; ours integrates in double precision, torch-sim's in single.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch_sim as ts
from ase.build import bulk
from torch_sim.integrators import INTEGRATOR_REGISTRY, Integrator

from aqvolt_flows.dynamics.npt import NpTRun
from aqvolt_flows.dynamics.systems import System
from aqvolt_flows.schemas.parameters import ExplorationParameters

ENSEMBLES = ("npt_nose_hoover_isotropic", "npt_crescale_isotropic")


class Free:
    """A model that costs nothing."""

    dtype = torch.float32

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def __call__(self, state: ts.SimState) -> dict[str, torch.Tensor]:
        """Return zeros."""
        n = state.cell.shape[0]
        zeros = torch.zeros((n, 3, 3), device=self.device)
        return {"energy": zeros[:, 0, 0], "forces": torch.zeros_like(state.positions), "stress": zeros}


def seconds(step: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the time of one step, after two to warm up."""
    for _ in range(2):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--systems", default="16,256", help="Numbers of 32-atom systems.")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    model, atoms = Free(options.device), bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    print("| systems | ensemble | ours, ms | torch-sim, ms | ratio |\n| --- | --- | --- | --- | --- |")
    for n in map(int, options.systems.split(",")):
        for ensemble in ENSEMBLES:
            p = ExplorationParameters(n_steps=10**6, stride=10**6, ensemble=ensemble, max_batch_atoms=32 * n)
            run = NpTRun(model, [System(str(i), atoms, 300.0, i) for i in range(n)], p)
            ours = seconds(run.advance, options.steps, model.device)
            init, step = INTEGRATOR_REGISTRY[Integrator(ensemble)]
            state = ts.io.atoms_to_state([atoms] * n, device=model.device, dtype=model.dtype)
            state.rng = 1
            kt = torch.full((n,), 0.0259, device=model.device)
            dt = torch.tensor(0.0982, device=model.device)
            tau = {"tau": torch.tensor(9.82, device=model.device)} if "crescale" in ensemble else {}
            held = [init(state=state, model=model, kT=kt, dt=dt)]

            def advance(held: list = held, step: Callable = step, kt: torch.Tensor = kt, tau: dict = tau) -> None:
                held[0] = step(state=held[0], model=model, dt=0.0982, kT=kt, external_pressure=6e-7, **tau)

            theirs = seconds(advance, max(3, options.steps // 6), model.device)
            print(f"| {n} | {ensemble} | {ours * 1e3:.1f} | {theirs * 1e3:.1f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
