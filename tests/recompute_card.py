"""The numbers of a release's card computed from its Parquet files alone, with pandas, ASE and nothing of the package.

Run as a script it compares a release folder: python tests/recompute_card.py PATH
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.neighborlist import neighbor_list

ORDER = ("train", "val", "test")
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
GPA = 160.21766208  # 1 eV/Å³, CODATA 2014; 2018's differs in the ninth digit


def read(path: Path) -> pd.DataFrame:
    """Return all rows of a release with their split."""
    names = sorted((p.stem for p in (path / "data").glob("*.parquet")), key=lambda n: (*ORDER, n).index(n))
    parts = [pd.read_parquet(path / "data" / f"{name}.parquet").assign(split=name) for name in names]
    return pd.concat(parts, ignore_index=True)


def tables(path: Path) -> dict[str, list[list[list[str]]]]:
    """Return section → tables → rows → cells of README.md."""
    found: dict[str, list[list[list[str]]]] = {}
    section, open_table = "", False
    for line in (path / "README.md").read_text().split("---\n", 2)[2].splitlines():
        if line.startswith("## "):
            section = line[3:]
            found[section] = []
        if not line.startswith("|"):
            open_table = False
            continue
        if not open_table:
            found[section].append([])
            open_table = True
        if not re.fullmatch(r"[|-]+", line):
            found[section][-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def forces(frame: pd.DataFrame) -> np.ndarray:
    """Return |F| of every atom, eV/Å."""
    return np.concatenate([np.linalg.norm(np.stack(f), axis=1) for f in frame["forces"]])


def minimum_distances(row: Any) -> np.ndarray:
    """Return the elements' mean distances to their 12 nearest atoms, by ASE's neighbor list, Å."""
    atoms = Atoms(numbers=row.atomic_numbers, positions=np.stack(row.positions), cell=np.stack(row.cell), pbc=True)
    cutoff = 4.0
    while True:
        i, d = neighbor_list("id", atoms, cutoff)
        if np.bincount(i, minlength=len(atoms)).min() >= 12:
            break
        cutoff *= 1.3
    near = np.array([np.sort(d[i == n])[:12] for n in range(len(atoms))])
    return np.concatenate([near[atoms.numbers == z].mean(axis=0) for z in sorted(set(atoms.numbers))])


def expected(path: Path) -> dict[str, list[list[list[str]]]]:
    """Return the tables Splits (frames and atoms), Leakage, Sources and Distributions as the data say."""
    data = read(path)
    splits = [[s, f"{len(d):,}", f"{d.n_atoms.sum():,}"] for s, d in data.groupby("split", sort=False)]
    return {
        "Splits": [splits],
        "Leakage": leakage(data),
        "Sources": [sources(data)],
        "Distributions": [distributions(data)],
    }


def leakage(data: pd.DataFrame) -> list[list[list[str]]]:
    """Return the two tables of shared ancestors and near copies."""
    train = data[data.split == "train"]
    ancestors, near = [], []
    described = {i: minimum_distances(row) for i, row in zip(data.index, data.itertuples(), strict=True)}
    for name, part in data[data.split != "train"].groupby("split", sort=False):
        same = [
            part[c].isin(set(train[c].dropna())).sum() for c in ("candidate_id", "trajectory_id", "formula", "chemsys")
        ]
        ancestors.append([name, f"{len(part):,}", *(f"{n:,}" for n in same)])
        nearest = []
        for i, row in zip(part.index, part.itertuples(), strict=True):
            rivals = [described[j] for j in train.index[train.formula == row.formula]]
            if rivals:
                nearest.append(min(np.abs(described[i] - other).max() for other in rivals))
        if nearest:
            within = [f"{sum(d <= limit for d in nearest):,}" for limit in (0.01, 0.03, 0.1, 0.3)]
            near.append([name, f"{len(nearest):,}", *within, f"{np.median(nearest):.4g}"])
    return [ancestors, near] if near else [ancestors]


def sources(data: pd.DataFrame) -> list[list[str]]:
    """Return mean ± standard deviation by source (Table S2)."""
    rows = []
    for name, part in [*data.groupby("source"), ("all", data)]:
        pressure = [-np.mean(s[:3]) * GPA for s in part.stress]
        cells = [
            f"{np.mean(v):.2f} ± {np.std(v):.2f}"
            for v in (part.cohesive_energy_per_atom.dropna(), forces(part), pressure)
        ]
        rows.append([name, f"{len(part):,}", f"{part.formula.nunique():,}", *cells])
    return rows


def distributions(data: pd.DataFrame) -> list[list[str]]:
    """Return mean and quantiles of every quantity."""
    values = {
        "energy per atom": data.energy / data.n_atoms,
        "cohesive energy per atom": data.cohesive_energy_per_atom.dropna(),
        "force": forces(data),
        "max force": [np.linalg.norm(np.stack(f), axis=1).max() for f in data.forces],
        "pressure gpa": [-np.mean(s[:3]) * GPA for s in data.stress],
        "volume per atom": [abs(np.linalg.det(np.stack(c))) / n for c, n in zip(data.cell, data.n_atoms, strict=True)],
        "n atoms": data.n_atoms,
    }
    rows = []
    for name, v in values.items():
        if len(v):
            rows.append(
                [name, f"{np.mean(v):.4g}", *(f"{q:.4g}" for q in np.quantile(np.asarray(v, float), QUANTILES))]
            )
    return rows


def printed(path: Path) -> dict[str, list[list[list[str]]]]:
    """Return the same tables as the card prints them, without headers, units and what the data do not say."""
    found = tables(path)
    return {
        "Splits": [[row[:3] for row in found["Splits"][0][1:]]],
        "Leakage": [table[1:] for table in found.get("Leakage", [])],
        "Sources": [table[1:] for table in found["Sources"]],
        "Distributions": [[[row[0], *row[2:]] for row in found["Distributions"][0][1:]]],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    differing = [name for name, told in expected(folder).items() if told != printed(folder)[name]]
    print("differing:", ", ".join(differing) or "nothing")
    sys.exit(bool(differing))
