"""NpT ML-MD three ways, in one run and one table: ASE one at a time, plain ``torch_sim.integrate``, MLMDMaker's engine.

Systems are LiCl cells of 32 atoms, rattled differently, at 300 to 1500 K, 1 atm, 1 fs. The engine writes frames (every
sixth step) and checkpoints to a folder and joins them at the end, as a Firework does; the other two keep nothing.
*plain* uses the potential package's own torch-sim model, where it has one, with that package's defaults; *plain, our
model* shows what the model alone gives. The forces of every model are compared with those of the package's ASE
calculator on the first system before it is timed. Atom-steps per second count steps after the warm-up; memory is what
the process held at most (``--device cpu``) or what torch had allocated at most (``--device cuda``).

Examples
--------
CPU, two minutes:   python tests/performance/exploration.py --systems 1,16 --steps 6
One GPU, the table: python tests/performance/exploration.py --device cuda --systems 1,16,64,256,1024 --steps 50
Experiments:        python tests/performance/exploration.py --device cuda --systems 256 --steps 50 --experiments
One step's profile: python tests/performance/exploration.py --systems 16 --profile
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import platform
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
import torch_sim as ts
from ase import Atoms, units
from ase.build import bulk

from aqvolt_flows.potentials import load_potential
from aqvolt_flows.potentials.neighbors import NeighborOptions, available
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.units import ATM_IN_GPA, gpa_to_ev_per_a3

TEMPERATURES = (300.0, 600.0, 900.0, 1200.0, 1500.0)
MIB = 2**20
#: The engine with frames and checkpoints: torch's operations, our kernels, and these recorded as CUDA graphs. On a CPU
#: the three are one.
ENGINE = (
    ("MLMDMaker, plain operations", False, False),
    ("MLMDMaker, fused kernels", True, False),
    ("MLMDMaker, fused, CUDA graphs", True, True),
)
#: What seconds are measured with; ``--clock cpu`` counts this process's CPU time, for machines that others use, too.
CLOCK: list[Callable[[], float]] = [time.perf_counter]


@dataclass
class Measured:
    """One row of the table."""

    variant: str
    systems: int
    atoms: int
    steps: int
    seconds: float
    peak_mib: float
    force_error: float | None
    said: str = ""

    @property
    def rate(self) -> float:
        return self.atoms * self.steps / self.seconds if self.seconds else float("nan")


def cells(n: int) -> list[Atoms]:
    """Return n rattled LiCl cells of 32 atoms."""
    systems = []
    for seed in range(n):
        atoms = bulk("LiCl", "rocksalt", a=5.13, cubic=True).repeat((2, 2, 1))
        atoms.rattle(0.05, seed=seed)
        systems.append(atoms)
    return systems


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[dict[str, float]]:
    """Fill in ``mib`` when the block ends."""
    found: dict[str, float] = {}
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found["mib"] = torch.cuda.max_memory_allocated() / MIB
        return
    process, done, highest = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.02):
            highest[0] = max(highest[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found["mib"] = max(highest[0], process.memory_info().rss) / MIB


def package_model(name: str, device: str) -> Any | None:
    """Return the torch-sim model that the potential's own package brings, or None."""
    if name.startswith("7net"):
        from sevenn.torchsim import SevenNetModel

        checkpoint, modal = name.split("/")
        return SevenNetModel(checkpoint, modal=modal, device=device)
    if name.startswith(("fairchem:", "mace:")):
        return load_potential(name, device).torchsim_model()
    return None


class Reference:
    """Forces of the package's ASE calculator on the first system."""

    def __init__(self, name: str, device: str) -> None:
        self.calculator = load_potential(name, device).ase_calculator()
        (self.atoms,) = cells(1)
        self.atoms.calc = self.calculator
        self.forces = self.atoms.get_forces()

    def error(self, model: Any) -> float:
        """Return the largest difference of a model's forces, eV/Å."""
        state = ts.io.atoms_to_state([self.atoms], device=model.device, dtype=model.dtype)
        return float(np.abs(model(state)["forces"].detach().cpu().numpy() - self.forces).max())


def run_ase(reference: Reference, steps: int) -> float:
    """Return the seconds of so many steps of one system with ASE's Martyna–Tobias–Klein NpT."""
    from ase.md.nose_hoover_chain import IsotropicMTKNPT
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    atoms = reference.atoms.copy()
    atoms.calc = reference.calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=300.0, rng=np.random.default_rng(0))
    pressure = gpa_to_ev_per_a3(ATM_IN_GPA)
    md = IsotropicMTKNPT(
        atoms, units.fs, temperature_K=300.0, pressure_au=pressure, tdamp=100 * units.fs, pdamp=1000 * units.fs
    )
    md.run(2)
    started = CLOCK[0]()
    md.run(steps)
    return CLOCK[0]() - started


def run_plain(model: Any, n: int, steps: int) -> float:
    """Return the seconds of so many steps of a batch with ``torch_sim.integrate``, nothing written."""
    temperature = torch.tensor([TEMPERATURES[i % 5] for i in range(n)], device=model.device, dtype=model.dtype)

    def go(count: int) -> float:
        started = CLOCK[0]()
        ts.integrate(
            system=cells(n),
            model=model,
            integrator=ts.Integrator.npt_nose_hoover_isotropic,
            n_steps=count,
            temperature=temperature,
            timestep=0.001,
            external_pressure=torch.tensor(gpa_to_ev_per_a3(ATM_IN_GPA), device=model.device, dtype=model.dtype),
        )
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return CLOCK[0]() - started

    go(1)  # warms up
    start_up = go(1)
    return go(steps + 1) - start_up


def run_engine(model: Any, n: int, steps: int) -> float:
    """Return the seconds of so many steps of MLMDMaker's engine, frames and checkpoints written and joined."""
    from aqvolt_flows.dynamics.segments import explore_to_folder
    from aqvolt_flows.dynamics.systems import System

    def go(count: int) -> float:
        systems = [System(f"t{i}", a, TEMPERATURES[i % 5], i) for i, a in enumerate(cells(n))]
        parameters = ExplorationParameters(n_steps=count, max_batch_atoms=max(4096, 40 * n), checkpoint_steps=50)
        with tempfile.TemporaryDirectory() as folder:
            started = CLOCK[0]()
            ended = explore_to_folder(model, systems, parameters, folder)
            seconds = CLOCK[0]() - started
        if len(ended) != n:
            raise RuntimeError(f"{len(ended)} of {n} runs ended")
        return seconds

    go(1)  # warms up
    start_up = go(1)
    return go(steps + 1) - start_up


def measured(variant: str, n: int, steps: int, device: str, error: float | None, run: Callable[[], float]) -> Measured:
    """Return a row; running out of memory is one, too."""
    seconds, said = 0.0, ""
    with peak_memory(device) as memory:
        try:
            seconds = run()
        except torch.OutOfMemoryError:
            said = "out of memory"
        except RuntimeError as failed:
            if "out of memory" not in str(failed).lower():
                raise
            said = "out of memory"
    if seconds <= 0 and not said:
        said = "too few steps to time"
    row = Measured(variant, n, 32 * n, steps, seconds, memory["mib"], error, said)
    print(f"# {variant}, {n} systems: {said or f'{row.rate:.0f} atom-steps/s'}", file=sys.stderr, flush=True)
    return row


def table(rows: list[Measured]) -> str:
    """Return the rows with their ratios to ASE and to plain torch-sim at the same number of systems."""
    ase = next((r.rate for r in rows if r.variant == "ASE one at a time"), float("nan"))
    plain = {r.systems: r.rate for r in rows if r.variant == "plain torch_sim.integrate" and not r.said}
    head = f"{'variant':34s} {'systems':>7s} {'s/step':>9s} {'atom-steps/s':>12s} {'x ASE':>7s} {'x plain':>7s} "
    lines = [head + f"{'peak MiB':>9s} {'|dF| eV/A':>9s}"]
    for r in rows:
        error = "" if r.force_error is None else f"{r.force_error:9.1e}"
        if r.said:
            lines.append(f"{r.variant:34s} {r.systems:7d} {r.said:>38s} {r.peak_mib:9.0f} {error}")
            continue
        ratio = r.rate / plain[r.systems] if r.systems in plain else float("nan")
        lines.append(
            f"{r.variant:34s} {r.systems:7d} {r.seconds / r.steps:9.4f} {r.rate:12.0f} {r.rate / ase:7.2f} "
            f"{ratio:7.2f} {r.peak_mib:9.0f} {error}"
        )
    return "\n".join(lines)


def main_rows(a: argparse.Namespace, reference: Reference) -> list[Measured]:
    """Return the table of the three ways."""
    ase_steps = a.ase_steps or a.steps
    rows = [measured("ASE one at a time", 1, ase_steps, a.device, 0.0, lambda: run_ase(reference, ase_steps))]
    theirs = package_model(a.model, a.device)
    ours = load_potential(a.model, a.device).torchsim_model(NeighborOptions(a.neighbors, a.skin), a.max_atoms_per_call)
    for n in a.systems:
        if theirs is not None:
            error = reference.error(theirs)
            rows.append(
                measured(
                    "plain torch_sim.integrate", n, a.steps, a.device, error, lambda n=n: run_plain(theirs, n, a.steps)
                )
            )
        error = reference.error(ours)
        rows.append(measured("plain, our model", n, a.steps, a.device, error, lambda n=n: run_plain(ours, n, a.steps)))
        for variant, accelerated_, replayed in ENGINE:
            ours.accelerated = accelerated_
            ours._replay._usable = replayed
            error, steps = reference.error(ours), a.engine_steps or a.steps
            rows.append(measured(variant, n, steps, a.device, error, lambda n=n, k=steps: run_engine(ours, n, k)))
    return rows


def experiments(a: argparse.Namespace, reference: Reference) -> list[Measured]:
    """Return one row per variant of our model, at the first number of systems; what cannot run here says so."""
    potential, n = load_potential(a.model, a.device), a.systems[0]
    rows: list[Measured] = []

    def try_one(variant: str, make: Callable[[], Any]) -> None:
        try:
            model = make()
            error = reference.error(model)
            rows.append(measured(variant, n, a.steps, a.device, error, lambda: run_plain(model, n, a.steps)))
        except Exception as failed:  # noqa: BLE001 - an experiment that fails is a row that says why
            rows.append(
                Measured(variant, n, 32 * n, a.steps, 0.0, 0.0, None, f"{type(failed).__name__}: {failed}"[:60])
            )

    if (theirs := package_model(a.model, a.device)) is not None:
        try_one("plain torch_sim.integrate", lambda: theirs)
    for algorithm in ("nvalchemi", "n2", "cells", "vesin"):
        for skin in (0.0, a.skin):
            if available(algorithm):
                options = NeighborOptions(algorithm, skin)
                try_one(f"list {algorithm}, skin {skin:g}", lambda o=options: potential.torchsim_model(o))
    portions = (1024, 2048, 4096) if a.device.startswith("cuda") else (32, 256, 2048)
    for atoms in portions:
        if atoms < 32 * n:
            try_one(f"at most {atoms} atoms a call", lambda k=atoms: potential.torchsim_model(NeighborOptions(), k))
    for precision in ("high", "medium"):
        with matmul_precision(precision):
            try_one(f"float32 products: {precision}", lambda: potential.torchsim_model(NeighborOptions()))
    try_one("autocast bfloat16", lambda: autocast(potential.torchsim_model(NeighborOptions()), a.device))
    if a.compile:
        for mode in ("default", "reduce-overhead"):
            try_one(f"torch.compile {mode}", lambda m=mode: compiled(potential.torchsim_model(NeighborOptions()), m))
    if a.model.startswith("7net"):
        for name in ("cueq", "flash", "oeq"):
            try_one(f"sevenn's model with {name}", lambda k=name: accelerated(a.model, a.device, k))
    return rows


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set torch's precision of float32 products (TF32 on NVIDIA GPUs) for a block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(model: Any, device: str) -> Any:
    """Return the model with its energies under autocast."""
    plain = model.energies

    def energies(*arguments: Any) -> torch.Tensor:
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            return plain(*arguments).float()

    model.energies = energies
    return model


def compiled(model: Any, mode: str) -> Any:
    """Return the model with its energies compiled for shapes that change."""
    model.energies = torch.compile(model.energies, dynamic=True, mode=None if mode == "default" else mode)
    return model


def accelerated(name: str, device: str, kernels: str) -> Any:
    """Return sevenn's own model with a package of fused tensor products; raises where it is not installed."""
    import importlib

    from sevenn.torchsim import SevenNetModel

    needed = {"cueq": "cuequivariance_torch", "flash": "flashTP_e3nn", "oeq": "openequivariance"}[kernels]
    importlib.import_module(needed)
    checkpoint, modal = name.split("/")
    return SevenNetModel(checkpoint, modal=modal, device=device, **{f"enable_{kernels}": True})


def profile(a: argparse.Namespace) -> None:
    """Print where the time of one evaluation goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    cuda = a.device.startswith("cuda")
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    theirs, ours = package_model(a.model, a.device), load_potential(a.model, a.device).torchsim_model()
    for name, model in (("package", theirs), ("ours", ours)):
        if model is None:
            continue
        state = ts.io.atoms_to_state(cells(a.systems[0]), device=model.device, dtype=model.dtype)
        for _ in range(3):
            model(state)
        with profiler(activities=activities) as seen:
            model(state)
        order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        print(f"{name}, {a.systems[0]} systems")
        print(seen.key_averages().table(sort_by=order, row_limit=14, max_name_column_width=46))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="7net-mf-0/R2SCAN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--systems", default="1,16", type=lambda s: [int(x) for x in s.split(",")])
    parser.add_argument("--steps", default=6, type=int)
    parser.add_argument("--ase-steps", default=None, type=int, help="steps of ASE; by default --steps")
    parser.add_argument("--engine-steps", default=None, type=int, help="of MLMDMaker's engine; by default --steps")
    parser.add_argument("--neighbors", default="auto", choices=["auto", "nvalchemi", "n2", "cells", "vesin"])
    parser.add_argument("--skin", default=0.5, type=float, help="Å")
    parser.add_argument("--max-atoms-per-call", default=None, type=int)
    parser.add_argument("--experiments", action="store_true", help="variants of our model instead of the three ways")
    parser.add_argument("--compile", action="store_true", help="with --experiments: torch.compile, too (minutes)")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a busy machine without a GPU")
    parser.add_argument("--profile", action="store_true")
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    CLOCK[0] = time.process_time if a.clock == "cpu" else time.perf_counter
    if a.profile:
        profile(a)
        return
    name = torch.cuda.get_device_name() if a.device.startswith("cuda") else f"{platform.machine()} CPU"
    print(
        f"# {a.model} on {name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, {a.steps} steps, "
        f"{a.clock} clock"
    )
    reference = Reference(a.model, a.device)
    rows = experiments(a, reference) if a.experiments else main_rows(a, reference)
    print(table(rows))


if __name__ == "__main__":
    main()
