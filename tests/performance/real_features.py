"""Real features for the comparison of selections: a short CHGNet MD run of chlorides, encoded with CHGNet r2SCAN.

Salts and one ternary are heated from 300 to 1500 K under Langevin dynamics at three volumes; every step that is kept
is a frame. ``python tests/performance/real_features.py OUT.npz --frames 1500`` writes ``structures`` (n, 64),
``atoms`` (sum n_atoms, 64), ``n_atoms`` (n,) and ``system`` (n,), and says how long MD and encoding took.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

#: Lattice constants, Å (Wyckoff 1963).
SALTS = {"LiF": 4.0173, "LiCl": 5.1295, "LiBr": 5.5013, "NaCl": 5.6402}
#: Linear strain of the three cells of each system.
STRAINS = (-0.02, 0.0, 0.03)


def systems() -> dict[str, Atoms]:
    """Return the cells: rock salts, and a lithium yttrium chloride with vacancies on the anion lattice of LiCl."""
    found = {name: bulk(name, "rocksalt", a=a, cubic=True) for name, a in SALTS.items()}
    chloride = bulk("LiCl", "rocksalt", a=5.13, cubic=True) * (3, 1, 1)
    metals = [i for i, s in enumerate(chloride.get_chemical_symbols()) if s == "Li"]
    for i in metals[::6]:
        chloride.symbols[i] = "Y"  # two Y³⁺ in place of six Li⁺: the other four leave
    gone = [i for n, i in enumerate(metals) if n % 6 in (2, 4)]
    del chloride[gone]
    return found | {chloride.get_chemical_formula(): chloride}


def md_frames(n_frames: int, seed: int = 0, every: int = 1) -> tuple[list[Atoms], list[str]]:
    """Return frames of short heating runs, about ``n_frames`` in all, and the system of each."""
    from aqvolt_flows.potentials import load_potential

    warnings.filterwarnings("ignore")
    calculator = load_potential("chgnet/r2scan").calculator()
    cells = systems()
    share = -(-n_frames // (len(cells) * len(STRAINS)))
    frames: list[Atoms] = []
    names: list[str] = []
    rng = np.random.default_rng(seed)
    for name, cell in cells.items():
        for strain in STRAINS:
            atoms = cell.copy()
            atoms.set_cell(atoms.cell[:] * (1 + strain), scale_atoms=True)
            atoms.rattle(0.02, rng=rng)
            atoms.calc = calculator
            MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
            dynamics = Langevin(atoms, 2 * units.fs, temperature_K=300, friction=0.02 / units.fs, rng=rng)
            for i in range(share):
                dynamics.set_temperature(temperature_K=300 + 1200 * i / share)
                dynamics.run(every)
                copy = atoms.copy()
                copy.calc = None
                frames.append(copy)
                names.append(name)
    return frames, names


def real_features(
    n_frames: int = 1500, seed: int = 0, cache: Path | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return structure features (n, 64), atom features (sum n_atoms, 64) and n_atoms (n,) of an MD run.

    Parameters
    ----------
    n_frames
        About how many; 1,500 take two to three minutes on one quiet core.
    seed
        Of velocities, thermostat and rattling.
    cache
        An ``.npz`` that is read if it is there, and written if not.
    """
    if cache is not None and cache.is_file():
        with np.load(cache) as stored:
            return stored["structures"], stored["atoms"], stored["n_atoms"]
    from aqvolt_flows.sampling.encoders import load_encoder

    started = time.monotonic()
    frames, names = md_frames(n_frames, seed)
    simulated = time.monotonic()
    features = load_encoder("chgnet/r2scan").encode(frames)
    ended = time.monotonic()
    print(
        f"{len(frames)} frames, {sum(map(len, frames))} atoms: MD {simulated - started:.0f} s, encoding "
        f"{ended - simulated:.0f} s ({len(frames) / (ended - simulated):.0f} frames/s), "
        f"left out {features.failures or 'none'}"
    )
    if cache is not None:
        kept = [n for i, n in enumerate(names) if i not in features.failures]
        np.savez(
            cache, structures=features.structures, atoms=features.atoms, n_atoms=features.n_atoms, system=np.array(kept)
        )
    return features.structures, features.atoms, features.n_atoms


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    real_features(given.frames, given.seed, given.out)
