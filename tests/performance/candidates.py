"""Lithiation of many hosts in one batch beside ASE's FIRE one structure after another, with the same potential.

``--hosts N`` lithiates N hosts (those of ``trial_hosts``, strained and in turn) with all configurations and displaced
copies in batches, then relaxes ``--sample`` of the very structures that were asked for with ASE's FIRE and Fréchet
filter, one by one, and compares energies and geometries of those that end in the same minimum. Printed are hosts per
hour (ASE's from the seconds per structure of the sample), and the peak of the memory.

``--pool`` lithiates the trial hosts, prints what became of each with voltages, then displaces every accepted structure
by 0.05 Å with new seeds, relaxes it again, and prints how far it falls; more than 5 meV/atom is a failure.

Examples: python tests/performance/candidates.py --device cuda --hosts 256 --sample 24
          python tests/performance/candidates.py --pool --names FeF3,TiCl3
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
from pymatgen.core import Structure
from trial_hosts import KNOWN, trial_hosts

from aqvolt_flows.candidates.density import promolecular_density
from aqvolt_flows.candidates.lithiate import Lithiation, kept_steps, lithiation, lithium_metal
from aqvolt_flows.candidates.minima import alone, displaced, search_lowest, together
from aqvolt_flows.candidates.reducibility import assess_reducibility
from aqvolt_flows.candidates.sites import find_sites
from aqvolt_flows.candidates.substitute import framework_change, substitute
from aqvolt_flows.dynamics.relax import Relaxed, torchsim_relaxer
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.schemas.generation import LithiationParameters, RelaxationParameters
from aqvolt_flows.schemas.provenance import Failure


class Recorder:
    """A relaxer that remembers what it was asked for and what came out."""

    def __init__(self, relax: Any) -> None:
        self._relax, self.pairs, self.rounds = relax, [], 0  # type: ignore[var-annotated]

    def __call__(self, structures: Sequence[Structure]) -> list[Relaxed]:
        """Relax and remember."""
        found: list[Relaxed] = self._relax(structures)
        self.pairs += list(zip(structures, found, strict=True))
        self.rounds += 1
        return found


def lithiate_all(
    hosts: dict[str, Structure], p: LithiationParameters, relax: Any
) -> tuple[dict[str, Lithiation], float]:
    """Lithiate hosts in step; a host that cannot be reduced is left out. Return also the seconds of the relaxations."""
    started = time.perf_counter()
    (metal,) = relax([lithium_metal()])
    print(f"Li metal: {metal.energy_per_atom:.4f} eV/atom, a = {metal.structure.lattice.a:.4f} Å", flush=True)
    names, searches, sought = [], [], time.perf_counter()
    for name, host in hosts.items():
        reduction = assess_reducibility(host)
        if isinstance(reduction, Failure):
            print(f"{name}: {reduction.message}")
            continue
        sites = find_sites(promolecular_density(host, p.promolecular_spacing_a), p)
        most = KNOWN.get(name, (reduction.max_li,))[0]
        names.append(name)
        searches.append(lithiation(host, sites, min(most, reduction.max_li), p, metal.energy_per_atom))
    sought = time.perf_counter() - sought
    print(f"densities and sites of {len(searches)} hosts: {sought:.1f} s, not counted below", flush=True)
    found = {}
    for index, outcome in together(searches, relax):
        found[names[index]] = outcome
        describe(names[index], outcome, hosts[names[index]])
    return found, time.perf_counter() - started - sought


def describe(name: str, outcome: Lithiation, given: Structure) -> None:
    """Print one host, with the published voltage where there is one."""
    empty = outcome.host.relaxed.structure
    why = f"{outcome.failure.reason}: {outcome.failure.message}" if outcome.failure else "accepted"
    print(f"{name} ({len(given)} atoms, empty cell {empty.volume / given.volume - 1:+.1%}): {why}; {outcome.stopped}")
    print(f"    host {outcome.host.as_decisions()}")
    if name in KNOWN:
        _, volts, of, source = KNOWN[name]
        print(f"    published: {volts} V ({of}), {source}")
    for step in outcome.steps:
        best = step.best
        row = f"    {step.n_li} Li, {len(step.configurations)} configurations"
        if best is not None and best.insertion is not None:
            volts = [f"{v:.2f}" if v is not None else "-" for v in (step.voltage_v, step.average_voltage_v)]
            change = best.insertion.change
            row += f", {volts[0]} V, mean {volts[1]} V, volume {change.volume_change:+.1%}, moved "
            row += f"{change.max_displacement_a or 0:.2f} Å, bond {best.insertion.bond_stretch:+.0%}, Li-Li "
            row += (
                f"{best.insertion.li_distance_a:.2f} Å, {best.minimum.as_decisions()} {neighbors_of_li(best.relaxed)}"
            )
        else:
            row += f", {[(c.failure.reason, c.failure.message) if c.failure else '' for c in step.configurations]}"
        print(row + (f" [{step.failure.message}]" if step.failure else ""), flush=True)


def neighbors_of_li(relaxed: Relaxed) -> str:
    """Return the number of anions within 2.7 Å (3.1 for Cl) of each Li, and their mean distance."""
    s = relaxed.structure
    told = []
    for i, site in enumerate(s):
        if site.specie.symbol != "Li":
            continue
        reach = 3.1 if "Cl" in s.symbol_set else 2.7
        near = [n.nn_distance for n in s.get_neighbors(s[i], reach) if n.specie.symbol in ("F", "Cl", "O")]
        told.append(f"{len(near)} at {np.mean(near) if near else 0:.2f} Å")
    return f"Li: {'; '.join(told)}"


def pool(options: argparse.Namespace, p: LithiationParameters) -> None:
    """Print verdicts, and what becomes of accepted structures when they are displaced."""
    hosts = trial_hosts()
    if options.names:
        hosts = {name: hosts[name] for name in options.names.split(",")}
    potential = load_potential(options.potential, options.device)
    relax = torchsim_relaxer(potential, p.relaxation)
    found, seconds = lithiate_all(hosts, p, relax)
    print(f"{len(found)} hosts in {seconds:.0f} s", flush=True)
    accepted = {name: kept_steps(o, "fullest")[-1].best for name, o in found.items() if kept_steps(o, "fullest")}
    if "FeF3" in accepted:
        substituted(accepted["FeF3"].relaxed.structure, p, relax)
    worst = 0.0
    for name, best in accepted.items():
        assert best is not None
        here = best.relaxed
        ends = relax([displaced(here.structure, 0.05, 1234, k) for k in range(4)])
        falls = [1000 * (here.energy_per_atom - e.energy_per_atom) for e in ends if np.isfinite(e.energy)]
        worst = max(worst, *falls)
        print(f"{name}: falls by {', '.join(f'{f:.2f}' for f in falls)} meV/atom when displaced by 0.05 Å", flush=True)
    print(f"largest fall {worst:.2f} meV/atom of {len(accepted)} accepted structures")
    assert worst <= 5


def substituted(lithiated: Structure, p: LithiationParameters, relax: Any) -> None:
    """Print what becomes of the lithiated fluoride as chloride, bromide and iodide."""
    for new in ("Cl", "Br", "I"):
        start = substitute(lithiated, "F", new)
        (found,), best = alone(search_lowest([start], lambda _, r: kept(start, r), p.minima), relax)  # noqa: B023
        change = framework_change(start, found.relaxed.structure)
        said = "kept" if best is not None else f"{found.failure or change.limit}"
        print(f"F to {new}: {said}; {change.as_decisions()}; {found.as_decisions()}", flush=True)


def kept(start: Structure, relaxed: Relaxed) -> bool:
    """Return whether a substituted structure kept its framework."""
    return framework_change(start, relaxed.structure).kept


def speed(options: argparse.Namespace, p: LithiationParameters) -> None:
    """Print hosts per hour of both ways."""
    names = options.names.split(",") if options.names else ["FeF3", "VF3", "TiCl3", "FeCl3", "CuCl2"]
    pool, rng, hosts = trial_hosts(), np.random.default_rng(0), {}
    for i in range(options.hosts):
        base = pool[names[i % len(names)]]
        strain = np.eye(3) + np.diag(rng.uniform(-0.01, 0.01, 3))
        hosts[f"{names[i % len(names)]} {i}"] = Structure(base.lattice.matrix @ strain, base.species, base.frac_coords)
    potential = load_potential(options.potential, options.device)
    relax = Recorder(torchsim_relaxer(potential, p.relaxation))
    relax([lithium_metal()])  # kernels are compiled once
    relax.pairs.clear()
    found, seconds = lithiate_all(hosts, p, relax)
    asked, atoms = len(relax.pairs), sum(len(s) for s, _ in relax.pairs)
    rate = 3600 * len(found) / seconds
    print(f"ours: {len(found)} hosts, {asked} relaxations of {atoms} atoms in {relax.rounds} rounds, {seconds:.1f} s")
    print(f"ours: {rate:.1f} hosts per hour; {peak(options.device)}")
    chosen = random.Random(0).sample(relax.pairs, min(options.sample, asked))
    theirs = sum(one_by_one(start, end, potential, p.relaxation) for start, end in chosen) / len(chosen)
    slow = 3600 * len(found) / (theirs * asked)
    print(f"ASE FIRE one by one: {theirs:.2f} s per structure of {len(chosen)}, {slow:.1f} hosts per hour")
    print(f"ours is {rate / slow:.1f} times as fast")


def peak(device: str) -> str:
    """Return the peak of the device's memory, and the process's memory."""
    import torch

    host = f"{psutil.Process().memory_info().rss / 1e6:.0f} MB of the process"
    return f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB of the GPU, {host}" if device.startswith("cuda") else host


def one_by_one(start: Structure, end: Relaxed, potential: Any, p: RelaxationParameters) -> float:
    """Relax one structure with ASE, compare with what the batch gave, and return the seconds."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = AseAtomsAdaptor.get_atoms(start, msonable=False)
    atoms.calc = potential.ase_calculator()
    atoms.get_potential_energy()  # compiled before it is timed, as ours is
    started = time.perf_counter()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=p.force_tolerance_ev_per_a, steps=p.max_steps)
    seconds = time.perf_counter() - started
    apart = 1000 * (end.energy - atoms.get_potential_energy()) / len(start)
    moved = np.asarray(end.structure.frac_coords) - atoms.get_scaled_positions(wrap=False)
    moved -= np.round(moved)
    moved -= moved.mean(axis=0)
    far = np.linalg.norm(moved @ end.structure.lattice.matrix, axis=1).max()
    name = start.composition.reduced_formula
    print(f"    {name}, {len(start)} atoms: {seconds:.1f} s, ours {apart:+.2f} meV/atom, atoms apart {far:.3f} Å")
    return seconds


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", default="7net-mf-0/R2SCAN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pool", action="store_true")
    parser.add_argument("--names", default="", help="Trial hosts, separated by commas.")
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--sample", type=int, default=12)
    parser.add_argument("--max-li", type=int, default=None)
    parser.add_argument("--angle-tol", type=float, default=5.0, help="degrees; above 5 softer than the paper.")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/Å.")
    parser.add_argument("--max-batch-atoms", type=int, default=4096)
    options = parser.parse_args()
    relaxation = RelaxationParameters(
        potential=options.potential,
        force_tolerance_ev_per_a=options.fmax,
        max_batch_atoms=options.max_batch_atoms,
    )
    p = LithiationParameters(
        densities=["promolecular"], max_li=options.max_li, angle_tol=options.angle_tol, relaxation=relaxation
    )
    (pool if options.pool else speed)(options, p)


if __name__ == "__main__":
    main()
