"""What benchmarks cost beside plain ASE loops, and all six of them for given models on one small set of halides.

``python tests/performance/benchmarks.py [--model chgnet/r2scan] [-n 100] [--reference 20] [--device cuda]`` measures
the E–V scan and the relaxation of ``-n`` generated halides, and in the same run what ASE takes point by point and step
by step for the first ``--reference`` of them; the largest difference of the energies stands beside the ratio.

``--all --models MODEL MODEL … --out DIR [--minutes 25]`` runs every benchmark of the registry for every model on twelve
halides and writes one JSON file each; what does not fit into the minutes is named. Force bins compare with labels that
the first model makes: they say how far models are apart, not how good they are. Heating and conductivity are shortened
by ``--heating-ps`` and ``--conductivity-ps``; the numbers then say that the benchmark runs, not what the material does.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

#: Name → (space group, a in Å, species, fractional coordinates); experimental lattice constants near 300 K (Wyckoff,
#: Crystal Structures, 1963, and for the antiperovskite Zhao and Daemen, DOI 10.1021/ja305709z).
PROTOTYPES: dict[str, tuple[str, float, list[str], list[list[float]]]] = {
    "LiF": ("Fm-3m", 4.03, ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "LiCl": ("Fm-3m", 5.13, ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "LiBr": ("Fm-3m", 5.50, ["Li", "Br"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "LiI": ("Fm-3m", 6.00, ["Li", "I"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "NaCl": ("Fm-3m", 5.64, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "KCl": ("Fm-3m", 6.29, ["K", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "MgO": ("Fm-3m", 4.21, ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "CsCl": ("Pm-3m", 4.12, ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "CaF2": ("Fm-3m", 5.46, ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "SrCl2": ("Fm-3m", 6.98, ["Sr", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "KMgF3": ("Pm-3m", 3.99, ["K", "Mg", "F"], [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0]]),
    "Li3OCl": ("Pm-3m", 3.91, ["O", "Cl", "Li"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]]),
}


def prototype(name: str) -> Structure:
    """Return the primitive cell of one of them."""
    group, a, species, places = PROTOTYPES[name]
    return Structure.from_spacegroup(group, Lattice.cubic(a), species, places).get_primitive_structure()


def halides(n: int, seed: int = 0, big: bool = False) -> list[tuple[str, Structure]]:
    """Return n crystals of 2 to 40 atoms, strained by up to 3 % and moved by 0.03 Å; the first of 300 if ``big``."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(n):
        name = list(PROTOTYPES)[index % len(PROTOTYPES)]
        cell = prototype(name)
        repeat = [3, 5, 10] if big and index == 0 else rng.integers(1, 3, size=3).tolist()
        made = cell.make_supercell(np.diag(repeat), in_place=False)
        made = Structure(
            made.lattice.scale(made.volume * rng.uniform(0.91, 1.09)),
            made.species,
            made.frac_coords + rng.normal(0, 0.03, (len(made), 3)) / np.array(made.lattice.abc),
        )
        found.append((f"{name} {index}", made))
    return found


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Return the seconds that something takes, the GPU's queue emptied, and what it returned."""
    import torch

    started = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def memory(device: str) -> dict[str, float]:
    """Return the peak memory of the process and of the GPU, GB."""
    import torch

    peak = {"rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}
    if device.startswith("cuda"):
        peak["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peak


def measure_scan(potential: Any, named: Sequence[tuple[str, Structure]], n_reference: int, device: str) -> dict:
    """Measure the E–V scan: ours for all, ASE point by point for the first."""
    from aqvolt_flows.benchmarks import ev_scan
    from aqvolt_flows.structures import to_atoms

    atoms = [to_atoms(s) for _, s in named]
    ours, scans = timed(lambda: ev_scan.scan_structures(potential.evaluate, atoms), device)

    def point_by_point() -> list[list[float]]:
        calculator = potential.ase_calculator()
        energies = []
        for one in atoms[:n_reference]:
            row = []
            for copy in ev_scan.strained(one, ev_scan.linear_strains()):
                copy.calc = calculator
                row.append(float(copy.get_potential_energy()))
            energies.append(row)
        return energies

    theirs, energies = timed(point_by_point, device)
    gaps = [
        float(np.abs(scan.energies - row).max() / scan.n_atoms)
        for scan, row in zip(scans[:n_reference], energies, strict=True)
    ]
    return line("ev_scan", named, n_reference, ours, theirs, 21, max(gaps))


def measure_relaxation(potential: Any, named: Sequence[tuple[str, Structure]], n_reference: int, device: str) -> dict:
    """Measure the relaxation: ours for all, ASE's FIRE with its Fréchet filter for the first."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    from aqvolt_flows.dynamics.relax_maker import relax_structures
    from aqvolt_flows.schemas.generation import RelaxationParameters
    from aqvolt_flows.structures import to_atoms

    structures = [s for _, s in named]
    ours, relaxed = timed(lambda: relax_structures(potential, structures, RelaxationParameters()), device)

    def one_by_one() -> list[float]:
        calculator = potential.ase_calculator()
        energies = []
        for structure in structures[:n_reference]:
            atoms = to_atoms(structure)
            atoms.calc = calculator
            FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=500)
            energies.append(float(atoms.get_potential_energy()) / len(atoms))
        return energies

    theirs, energies = timed(one_by_one, device)
    gaps = [abs(r.energy_per_atom - e) for r, e in zip(relaxed, energies, strict=False) if r.converged]
    row = line("relaxation", named, n_reference, ours, theirs, None, max(gaps, default=float("nan")))
    return row | {"converged": sum(r.converged for r in relaxed)}


def line(
    what: str, named: Sequence[Any], n_reference: int, ours: float, theirs: float, points: int | None, gap: float
) -> dict[str, Any]:
    """Return one line of the table; seconds are per atom of the structures that each side computed."""
    atoms = [len(s) for _, s in named]
    per_atom = ours / sum(atoms), theirs / sum(atoms[:n_reference])
    return {
        "benchmark": what,
        "structures": len(named),
        "atoms": sum(atoms),
        "ours_s": round(ours, 2),
        "ase_structures": n_reference,
        "ase_s": round(theirs, 2),
        "ratio_per_atom": round(per_atom[1] / per_atom[0], 2),
        "atom_points_per_s": None if points is None else round(points * sum(atoms) / ours),
        "max_energy_difference_mev_per_atom": round(1e3 * gap, 4),
    }


def compare(options: argparse.Namespace) -> None:
    """Print the lines of the comparison."""
    from aqvolt_flows.potentials import load_potential

    potential = load_potential(options.model, options.device)
    named = halides(options.n, big=options.big)
    from aqvolt_flows.structures import to_atoms

    potential.evaluate([to_atoms(s) for _, s in named[-3:]])  # warm: kernels, neighbor lists
    for measure in (measure_scan, measure_relaxation):
        row = measure(potential, named, min(options.reference, options.n), options.device)
        print(json.dumps({"model": options.model, "device": options.device} | row | memory(options.device)), flush=True)


def everything(options: argparse.Namespace) -> None:
    """Run all benchmarks for all models within the minutes; write one document each."""
    from aqvolt_flows.benchmark_registry import BENCHMARKS

    order = ["ev_scan", "force_bins", "relaxation", "bulk_modulus", "heating", "conductivity"]
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    for name in [n for n in order if n in BENCHMARKS]:
        for model in options.models:
            if time.monotonic() > end:
                print(json.dumps({"benchmark": name, "model": model, "skipped": "no time left"}), flush=True)
                continue
            try:
                print(json.dumps(one(name, model, options)), flush=True)
            except Exception as error:  # noqa: BLE001 - one benchmark of one model must not end the others
                said = f"{type(error).__name__}: {error}"
                print(json.dumps({"benchmark": name, "model": model, "failed": said}), flush=True)


def one(name: str, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one benchmark of one model; write its document with rows, return its line."""
    from aqvolt_flows.benchmark_registry import benchmark_named
    from aqvolt_flows.benchmarks.items import GivenItems, items_of
    from aqvolt_flows.benchmarks.summary import summary_row
    from aqvolt_flows.models import ResolvedModel
    from aqvolt_flows.potentials import load_potential, model_hash
    from aqvolt_launch.cli.benchmark_runs import write

    benchmark = benchmark_named(name)
    named = [(n, prototype(n)) for n in PROTOTYPES]
    items = labels(options) if benchmark.needs_reference else items_of(named)
    if name in {"heating", "conductivity"}:
        items = [i for i in items if "Li" in i.name][: options.moving]
    shorter: dict[str, Any] = {
        "heating": {"duration_ps": options.heating_ps},
        "conductivity": {"duration_ps": options.conductivity_ps, "dropped_ps": options.conductivity_ps / 10},
        "force_bins": {"split": "all"},
    }.get(name, {})
    potential = load_potential(model, options.device)
    resolved = ResolvedModel(model, model, model_hash(model))
    document, rows = benchmark.measure(
        potential,
        resolved,
        benchmark.parameters(**shorter),
        GivenItems(items, "twelve halides"),
        options.out / "work" / f"{name}-{document_name(model)}",
    )
    write(options.out / f"{name}-{document_name(model)}.json", model, [model], document, rows)
    return summary_row(benchmark, document.model_dump()) | memory(options.device)


def document_name(model: str) -> str:
    """Return a model string as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-." else "-" for c in model)[-60:]


def labels(options: argparse.Namespace) -> list[Any]:
    """Return distorted halides labeled by the first model: four frames of each, with up to about 10 eV/Å."""
    from aqvolt_flows.benchmarks.item_errors import Reference
    from aqvolt_flows.benchmarks.items import Item
    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.structures import to_atoms

    teacher = load_potential(options.models[0], options.device)
    frames = []
    for number, name in enumerate(PROTOTYPES):
        for step, width in enumerate((0.02, 0.1, 0.25, 0.4)):
            structure = prototype(name).make_supercell([2, 2, 2], in_place=False)
            rng = np.random.default_rng([number, step])
            moved = structure.cart_coords + rng.normal(0, width, (len(structure), 3))
            frames.append((name, Structure(structure.lattice, structure.species, moved, coords_are_cartesian=True)))
    found = teacher.evaluate([to_atoms(s) for _, s in frames])
    return [
        Item(name, f"{name}-{i}", s, Reference(f"{name}-{i}", e.energy, e.forces, e.stress), "halides", "", name)
        for i, ((name, s), e) in enumerate(zip(frames, found, strict=True))
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chgnet/r2scan")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-n", type=int, default=100, help="Structures that we compute.")
    parser.add_argument("--reference", type=int, default=20, help="Of these, that ASE computes too.")
    parser.add_argument("--big", action="store_true", help="The first has 300 atoms: is memory bounded?")
    parser.add_argument("--all", action="store_true", help="Run all benchmarks instead of comparing.")
    parser.add_argument("--models", nargs="+", default=["7net-mf-0/R2SCAN", "chgnet/r2scan"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks-out"))
    parser.add_argument("--minutes", type=float, default=25.0, help="After these no other benchmark is begun.")
    parser.add_argument("--moving", type=int, default=5, help="Structures of heating and conductivity.")
    parser.add_argument("--heating-ps", type=float, default=50.0)
    parser.add_argument("--conductivity-ps", type=float, default=110.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.all:
        everything(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
