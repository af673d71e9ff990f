"""``progress.jsonl``: the records that every trainer writes, and the pieces that processes of ours share.

One JSON object a line: ``start``, ``train``, ``eval``, ``skipped``, ``end``, each with ``time`` (seconds since 1970)
and ``step`` (optimizer steps). Energies are in eV/atom, forces in eV/Å, stresses in eV/Å³.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Packages whose versions a model's document names.
PACKAGES = ("aqvolt-flows", "torch", "numpy", "ase", "fairchem-core", "sevenn", "e3nn")


class Recorder:
    """Appends records to a file.

    Parameters
    ----------
    path
        ``progress.jsonl`` of a run folder.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one record, on a line of its own also after a line that a killed process cut short."""
        record = {"event": event, "time": time.time(), "step": step, **values}
        path = self._path
        cut_short = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
        with path.open("a") as handle:
            handle.write(("\n" if cut_short else "") + json.dumps(record) + "\n")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, 2)
        return handle.read(1) == b"\n"


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file in order; lines that are cut short, or no records, are passed over.

    Where steps were computed twice, because a run was killed and resumed before them, the records of the first
    time are left out.
    """
    records: list[dict[str, Any]] = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or not {"event", "time", "step"} <= record.keys():
            continue
        if record["event"] == "start":
            records = [r for r in records if r["event"] not in {"train", "eval"} or r["step"] <= record["step"]]
        records.append(record)
    return records


def batches_of(sizes: Sequence[int], max_atoms: int, seed: int, epoch: int, shuffle: bool = True) -> list[list[int]]:
    """Return batches of indices, at most ``max_atoms`` atoms each (one structure at least), in a seeded order.

    Parameters
    ----------
    sizes
        Atoms of each structure.
    max_atoms
        Limit of a batch.
    seed, epoch
        Both decide the order, so that a resumed run sees what an undisturbed one does.
    shuffle
        Without it structures come in their own order.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(sizes)) if shuffle else np.arange(len(sizes))
    batches: list[list[int]] = []
    atoms = 0
    for index in order.tolist():
        if not batches or atoms + sizes[index] > max_atoms:
            batches.append([])
            atoms = 0
        batches[-1].append(index)
        atoms += sizes[index]
    return batches


def fit_shifts(numbers: Sequence[NDArray[np.int64]], residuals: Sequence[float]) -> dict[int, float]:
    """Return per element the energy that explains residuals best: ``min Σ (r_i - Σ_Z n_iZ s_Z)²``, least norm.

    Parameters
    ----------
    numbers
        Atomic numbers of each structure.
    residuals
        Energy of the label minus that of the model, eV.
    """
    elements = sorted({int(z) for each in numbers for z in np.unique(each)})
    counts = np.array([[int((each == z).sum()) for z in elements] for each in numbers], dtype=float)
    solution = np.linalg.lstsq(counts, np.asarray(residuals, dtype=float), rcond=None)[0]
    return {z: float(s) for z, s in zip(elements, solution, strict=True)}


#: How often each of ASE's six stress components is in the 3 × 3 tensor.
_TIMES = np.array([1, 1, 1, 2, 2, 2])


class Errors:
    """Mean absolute errors, summed up structure by structure.

    That of the stress is over the nine components of the tensor, as fairchem and mace report it: for errors of the
    pressure alone it is two thirds of the mean over six.
    """

    def __init__(self) -> None:
        self.n = 0
        self._sums = np.zeros(3)
        self._counts = np.zeros(3)

    def add(self, energy: float, forces: Any, stress: Any, reference: Any) -> None:
        """Add one structure.

        Parameters
        ----------
        energy, forces, stress
            Predicted: eV; (n_atoms, 3) eV/Å; (6,) eV/Å³.
        reference
            ASE Atoms with a calculator that holds the labels; without a stress, that error is left out.
        """
        there = reference.calc.results
        self.n += 1
        self._sums[0] += abs(energy - there["energy"]) / len(reference)
        self._counts[0] += 1
        difference = np.abs(np.asarray(forces) - there["forces"])
        self._sums[1] += difference.sum()
        self._counts[1] += difference.size
        if there.get("stress") is not None:
            self._sums[2] += (np.abs(np.asarray(stress) - reference.get_stress()) * _TIMES).sum()
            self._counts[2] += 9

    def metrics(self) -> dict[str, float]:
        """Return ``energy_per_atom_mae`` (eV/atom), ``forces_mae`` (eV/Å) and ``stress_mae`` (eV/Å³)."""
        names = ("energy_per_atom_mae", "forces_mae", "stress_mae")
        found = zip(names, self._sums, self._counts, strict=True)
        return {name: float(total / count) for name, total, count in found if count}


def versions_of(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the installed versions of packages; those that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
