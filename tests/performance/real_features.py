"""Real features for the comparison of selections: a short CHGNet MD run of chlorides, encoded with CHGNet r2SCAN.

Salts and one ternary are heated from 300 to 1500 K under Langevin dynamics at three volumes; every step that is kept
is a frame. ``python tests/performance/real_features.py OUT.npz --frames 1500`` writes ``structures`` (n, 64),
``atoms`` (sum n_atoms, 64), ``n_atoms`` (n,) and ``system`` (n,), and says how long MD and encoding took; with
``--compare`` it also prints gaps of our selection, of maml's, and of random ones of our size (mean of 20 draws).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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
    from aqvolt_flows.sampling.encoders.registry import load_encoder

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


def select_maml(rows: np.ndarray, threshold: float, folder: str) -> np.ndarray:
    """Return the rows that maml's DIRECT selects, one of each cluster."""
    import logging

    logging.disable(logging.INFO)
    sys.path.insert(0, folder)
    from maml.sampling.clustering import BirchClustering
    from maml.sampling.pca import PrincipalComponentAnalysis
    from maml.sampling.stratified_sampling import SelectKFromClusters
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(rows)
    points = PrincipalComponentAnalysis().fit(scaled).transform(scaled)
    clustered = BirchClustering(n=None, threshold_init=threshold).transform(points)
    return np.sort(SelectKFromClusters(k=1).transform(clustered)["selected_indexes"])


def compare(what: str, rows: np.ndarray, threshold: float, maml: str | None, draws: int = 20) -> None:
    """Print one line each for ours, maml and random selections of our size, over the same rows and space."""
    from aqvolt_flows.sampling import direct_select
    from aqvolt_flows.sampling.direct.coverage import coverage
    from aqvolt_flows.sampling.direct.space import Moments, Space

    space = Space.fit(Moments.of(rows))
    ours = direct_select(rows, threshold)
    rng = np.random.default_rng(0)
    sets = {"ours": [ours]}
    if maml:
        sets["maml"] = [select_maml(rows, threshold, maml)]
    sets["random"] = [rng.choice(len(rows), len(ours), replace=False) for _ in range(draws)]
    found = {
        name: np.mean([[len(s), c.mean, c.p99, c.max, 100 * c.fraction] for s in chosen
                       for c in [coverage(rows, rows[np.sort(s)], space, threshold)]], axis=0)
        for name, chosen in sets.items()
    }  # fmt: skip
    for name, (size, *values) in found.items():
        ratios = " / ".join(f"{v / o:.3f}" if o else "–" for v, o in zip(values[:2], found["ours"][1:3], strict=True))
        cells = [f"{what}, {len(rows):,} x {rows.shape[1]}", f"{threshold:g}", name, f"{size:,.0f}"]
        print(" | ".join([*cells, *(f"{v:.5f}" for v in values[:3]), f"{values[3]:.1f}", ratios]))


def main() -> None:
    """Make the features, and compare if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="an .npz; read if it is there")
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="ours, maml and random selections of the same size")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.1, 0.05, 0.02])
    parser.add_argument("--maml", help="a folder that maml 2025.4.3 is installed in; else it is installed for the run")
    parser.add_argument("--without-maml", action="store_true")
    given = parser.parse_args()
    structures, atoms, _ = real_features(given.frames, given.seed, given.out)
    if not given.compare:
        return
    with tempfile.TemporaryDirectory() as folder:
        maml = None
        if not given.without_maml:
            from sampling import install_maml  # the benchmark beside this script

            maml = given.maml or install_maml(Path(folder))
        print("rows | threshold | selection | chosen | mean gap | p99 gap | max gap | covered % | mean / p99 to ours")
        for threshold in given.thresholds:
            compare("structures", structures, threshold, maml)
            compare("atoms", atoms, threshold, maml)


if __name__ == "__main__":
    main()
