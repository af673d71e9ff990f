"""How many frames 2DIRECT keeps, and what they cover, for every way in which its two stages may be joined.

The papers leave open how the structural and the atomic stage meet. This script makes frames as a campaign does: cells
of lithium halides on an anion lattice of rock salt, 14 cations by 4 halogens, heated at five temperatures in one batch
by MLMDMaker's engine (NpT, 1 atm), every ``--stride``-th step encoded with CHGNet r2SCAN. Then it selects in every way
at several thresholds and prints, for each: how many structures are kept, the distance of all frames to the nearest kept
one in the structural space, that of all atoms to the nearest atom of a kept frame in one atomic space, and how many
times larger these gaps are with as many frames drawn at random.

Example: python tests/performance/funnel.py OUT.npz --device cuda --steps 2000 --workers 6
On two cores: python tests/performance/funnel.py OUT.npz --steps 60 --stride 6 --cations Y Mg --halogens Cl
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

#: Charges of the cations that take the place of lithium.
CATIONS = {"Na": 1, "K": 1, "Mg": 2, "Ca": 2, "Zn": 2, "Al": 3, "Sc": 3, "In": 3, "Y": 3, "Er": 3, "La": 3}
CATIONS |= {"Zr": 4, "Hf": 4, "Ta": 5}
#: Lattice constants of rock-salt LiX, Å (Wyckoff 1963).
LATTICES = {"F": 4.0173, "Cl": 5.1295, "Br": 5.5013, "I": 6.0}
TEMPERATURES = (300.0, 600.0, 900.0, 1200.0, 1500.0)
WAYS = tuple(product(("partition", "selection"), ("per_cluster", "global")))


def cell(cation: str, halogen: str, seed: int) -> Atoms:
    """Return 8 halide ions with lithium, one or two cations and vacancies that balance the charge."""
    atoms = bulk("Li" + halogen, "rocksalt", a=LATTICES[halogen] * 1.03, cubic=True) * (2, 1, 1)
    lithium = np.random.default_rng(seed).permutation(np.flatnonzero(atoms.numbers == 3))
    charge = CATIONS[cation]
    count = 2 if charge < 3 else 1
    for i in lithium[:count]:
        atoms.symbols[i] = cation
    del atoms[lithium[count : count * charge].tolist()]
    atoms.rattle(0.02, seed=seed)
    return atoms


def explore(given: argparse.Namespace, folder: Path) -> list[Path]:
    """Run all cells at all temperatures in one batch and return the files of those that left frames."""
    from aqvolt_flows.dynamics.segments import explore_to_folder
    from aqvolt_flows.dynamics.systems import System
    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.schemas.parameters import ExplorationParameters

    systems = [
        System(f"{cation}{halogen}-{temperature:.0f}", cell(cation, halogen, seed), temperature, seed)
        for seed, (cation, halogen) in enumerate(product(given.cations, given.halogens))
        for temperature in TEMPERATURES
    ]
    total = sum(len(s.atoms) for s in systems)
    parameters = ExplorationParameters(
        n_steps=given.steps,
        stride=given.stride,
        timestep_fs=2.0,
        max_batch_atoms=max(4096, total),
        checkpoint_steps=500,
    )
    model = load_potential(given.potential, given.device).torchsim_model()
    started = time.monotonic()
    ended = explore_to_folder(model, systems, parameters, folder)
    seconds = time.monotonic() - started
    done = sum(e.outcome.steps_done * len(e.outcome.system.atoms) for e in ended.values())
    failed = sum(e.outcome.failure is not None for e in ended.values())
    print(
        f"{len(systems)} runs of {total} atoms, {given.steps} steps: {seconds:.0f} s, {done / seconds:,.0f} "
        f"atom-steps/s, {failed} ended by the guard"
    )
    return [e.path for e in ended.values()]


def encode_files(task: tuple[list[Path], str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Return features of the frames of files, the file of each, and how many were left out."""
    import torch

    from aqvolt_flows.frames import read_frames
    from aqvolt_flows.sampling.encoders.registry import load_encoder

    warnings.simplefilter("ignore")
    paths, device = task
    torch.set_num_threads(1)
    encoder = load_encoder("chgnet/r2scan", device)
    frames, of = [], []
    for number, path in enumerate(paths):
        found = [f.to_atoms() for f in read_frames(path)]
        frames += found
        of += [number] * len(found)
    features = encoder.encode(frames)
    kept = [o for i, o in enumerate(of) if i not in features.failures]
    return features.structures, features.atoms, features.n_atoms, np.array(kept), len(features.failures)


def encode(paths: list[Path], device: str, workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the features of all files, in ``workers`` processes that share the device."""
    started = time.monotonic()
    parts = [paths[i::workers] for i in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        found = pool.map(encode_files, [(p, device) for p in parts], chunksize=1)
    seconds = time.monotonic() - started
    structures, atoms, n_atoms = (np.concatenate([f[i] for f in found]) for i in range(3))
    print(
        f"{len(structures)} frames, {len(atoms)} atoms encoded in {seconds:.0f} s by {workers} processes, start "
        f"included: {len(structures) / seconds:.0f} frames/s; {sum(f[4] for f in found)} left out"
    )
    return structures, atoms, n_atoms


def measured(chosen: np.ndarray, sets: tuple[np.ndarray, ...], spaces: tuple, engine: object) -> list[float]:
    """Return mean and 99th percentile of the gaps of structures, then of atoms."""
    from aqvolt_flows.sampling.direct.coverage import coverage

    structures, atoms, n_atoms = sets
    mask = np.zeros(len(structures), bool)
    mask[chosen] = True
    near = coverage(structures, structures[mask], spaces[0], 0.1, engine)
    far = coverage(atoms, atoms[np.repeat(mask, n_atoms)], spaces[1], 0.1, engine)
    return [near.mean, near.p99, far.mean, far.p99]


def compare(sets: tuple[np.ndarray, np.ndarray, np.ndarray], thresholds: list[float]) -> None:
    """Print one line for each way and pair of thresholds."""
    from aqvolt_flows.sampling import TwoStageDirect
    from aqvolt_flows.sampling.direct.engines import load_engine
    from aqvolt_flows.sampling.direct.space import Moments, Space

    engine = load_engine("cpu", search="exact")
    spaces = tuple(Space.fit(Moments.of(rows)) for rows in sets[:2])
    n, rng = len(sets[0]), np.random.default_rng(0)
    print(f"{n} structures in {len(spaces[0].weights)} components, {len(sets[1])} atoms in {len(spaces[1].weights)}")
    print(
        "stage1 | stage2 | thresholds | structural clusters | atomic clusters | kept | % | "
        "gaps of structures: mean, p99 | gaps of atoms: mean, p99 | random to ours"
    )
    for (stage1, stage2), near, far in product(WAYS, thresholds, thresholds):
        found = TwoStageDirect(near, far, stage1=stage1, stage2=stage2, search="exact").select(*sets)
        ours = measured(found.indices, sets, spaces, engine)
        drawn = np.mean(
            [measured(rng.choice(n, len(found.indices), replace=False), sets, spaces, engine) for _ in range(3)], axis=0
        )
        ratios = ", ".join(f"{d / o:.2f}" if o else "–" for d, o in zip(drawn, ours, strict=True))
        cells = [stage1, stage2, f"{near:g}, {far:g}", f"{found.coverage['structure_clusters']:,.0f}"]
        cells += [
            f"{found.coverage['atom_clusters']:,.0f}",
            f"{len(found.indices):,}",
            f"{100 * len(found.indices) / n:.1f}",
        ]
        gaps = [", ".join(f"{v:.4f}" for v in ours[i : i + 2]) for i in (0, 2)]
        print(" | ".join([*cells, *gaps, ratios]), flush=True)


def main() -> None:
    """Make the features unless they are there, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="an .npz of features; read if it is there")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--potential", default="7net-mf-0/R2SCAN")
    parser.add_argument("--cations", nargs="+", choices=CATIONS, default=list(CATIONS))
    parser.add_argument("--halogens", nargs="+", choices=LATTICES, default=list(LATTICES))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--stride", type=int, default=36, help="72 fs")
    parser.add_argument("--workers", type=int, default=1, help="of the encoder")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.05, 0.1, 0.2, 0.4])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if not given.out.is_file():
        with tempfile.TemporaryDirectory() as folder:
            structures, atoms, n_atoms = encode(explore(given, Path(folder)), given.device, given.workers)
        np.savez(given.out, structures=structures, atoms=atoms, n_atoms=n_atoms)
    with np.load(given.out) as stored:
        compare((stored["structures"], stored["atoms"], stored["n_atoms"]), given.thresholds)


if __name__ == "__main__":
    main()
