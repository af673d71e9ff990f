"""The numbers of a release, all computed from its own Parquet files, in one pass and the leakage report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.datasets.leakage import leakage

Array = NDArray[np.float64]

#: Quantity → unit; ``force`` is the magnitude of every atom's force, the others are one number a frame.
UNITS = {
    "energy_per_atom": "eV/atom",
    "cohesive_energy_per_atom": "eV/atom",
    "force": "eV/Å",
    "max_force": "eV/Å",
    "pressure_gpa": "GPa",
    "volume_per_atom": "Å³/atom",
    "n_atoms": "",
}
QUANTILES = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
#: Bins of the histograms of Figure 3: low, high, number; what lies outside counts in the outer bins. Forces are binned
#: by their decimal logarithm.
BINS = {"cohesive_energy_per_atom": (-8.0, 1.0, 90), "force": (-3.0, 3.0, 90), "pressure_gpa": (-100.0, 100.0, 100)}
_COLUMNS = (
    "energy",
    "n_atoms",
    "cohesive_energy_per_atom",
    "max_force",
    "pressure_gpa",
    "cell",
    "forces",
    "chemsys",
    "formula",
    "temperature_k",
    "source",
)
_ATOMIC_NUMBERS = {symbol: z for z, symbol in enumerate(symbols_of(range(1, 119)))}


def statistics(paths: Mapping[str, Path]) -> dict[str, Any]:
    """Return the numbers of a release.

    Parameters
    ----------
    paths
        Set (train, val, test, hold-outs) → Parquet file.

    Returns
    -------
    dict
        ``splits``, ``by_source`` and ``all``: frames, atoms, formulas, and mean, population standard deviation and
        quantiles of :data:`UNITS`; ``elements`` and ``elements_formulas``: symbol → frames and formulas that hold it;
        ``n_elements``, ``n_sites``, ``formulas`` and ``temperatures_k`` → frames; ``histograms`` in :data:`BINS`;
        ``leakage`` as :func:`~aqvolt_flows.datasets.leakage.leakage` gives it.
    """
    columns: dict[tuple[str, str], dict[str, list[Array]]] = defaultdict(lambda: defaultdict(list))
    formulas: dict[tuple[str, str], set[str]] = defaultdict(set)
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    systems: dict[str, str] = {}
    for split, path in paths.items():
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=16384, columns=list(_COLUMNS)):
                texts = {n: batch.column(n).to_pylist() for n in ("chemsys", "formula", "source")}
                _collect(batch, split, texts["source"], columns)
                for source, formula, system in zip(texts["source"], texts["formula"], texts["chemsys"], strict=True):
                    formulas[split, source].add(formula)
                    systems[formula] = system
                tallies["formulas"].update(texts["formula"])
                tallies["n_sites"].update(map(str, batch.column("n_atoms").to_pylist()))
                tallies["temperatures_k"].update(
                    f"{t:g}" for t in batch.column("temperature_k").to_pylist() if t is not None
                )
    for formula, number in tallies["formulas"].items():
        elements = systems[formula].split("-")
        tallies["n_elements"][str(len(elements))] += number
        tallies["elements"].update(dict.fromkeys(elements, number))
        tallies["elements_formulas"].update(elements)

    def part(chosen: list[tuple[str, str]]) -> dict[str, Any]:
        joined = {n: np.concatenate([a for key in chosen for a in columns[key][n]]) for n in UNITS} if chosen else {}
        return _summary(joined) | {"formulas": len(set().union(*(formulas[key] for key in chosen)))}

    keys = sorted(columns)
    return {
        "splits": {s: part([k for k in keys if k[0] == s]) for s in paths},
        "by_source": {s: part([k for k in keys if k[1] == s]) for s in sorted({k[1] for k in keys})},
        "all": part(keys),
        "elements": _sorted(tallies["elements"], _ATOMIC_NUMBERS.__getitem__),
        "elements_formulas": _sorted(tallies["elements_formulas"], _ATOMIC_NUMBERS.__getitem__),
        "n_elements": _sorted(tallies["n_elements"], int),
        "n_sites": _sorted(tallies["n_sites"], int),
        "formulas": _sorted(tallies["formulas"], str),
        "temperatures_k": _sorted(tallies["temperatures_k"], float),
        "histograms": {name: _histograms(columns, name) for name in BINS},
        "leakage": leakage(paths),
    }


def _sorted(tally: Counter[str], key: Any) -> dict[str, int]:
    return dict(sorted(tally.items(), key=lambda item: key(item[0])))


def _collect(
    batch: pa.RecordBatch, split: str, sources: list[str], columns: dict[tuple[str, str], dict[str, list[Array]]]
) -> None:
    def numbers(name: str) -> Array:
        column = batch.column(name)
        while pa.types.is_list(column.type):
            column = column.flatten()
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=float)

    n_atoms = numbers("n_atoms")
    values = {
        "energy_per_atom": numbers("energy") / n_atoms,
        "cohesive_energy_per_atom": numbers("cohesive_energy_per_atom"),
        "max_force": numbers("max_force"),
        "pressure_gpa": numbers("pressure_gpa"),
        "volume_per_atom": np.abs(np.linalg.det(numbers("cell").reshape(-1, 3, 3))) / n_atoms,
        "n_atoms": n_atoms,
    }
    force = np.linalg.norm(numbers("forces").reshape(-1, 3), axis=1)
    of_frame = np.array(sources, dtype=object)
    of_atom = np.repeat(of_frame, n_atoms.astype(int))
    for source in sorted(set(sources)):
        own = columns[split, source]
        for name, array in values.items():
            own[name].append(array[of_frame == source])
        own["force"].append(force[of_atom == source])


def _summary(columns: Mapping[str, Array]) -> dict[str, Any]:
    if not columns:
        return {"frames": 0, "atoms": 0}
    result: dict[str, Any] = {"frames": len(columns["n_atoms"]), "atoms": int(columns["n_atoms"].sum())}
    for name in UNITS:
        values = columns[name][np.isfinite(columns[name])]
        if len(values):
            cuts = np.quantile(values, list(QUANTILES.values()))
            result[name] = {"n": len(values), "mean": float(values.mean()), "std": float(values.std())}
            result[name] |= dict(zip(QUANTILES, map(float, cuts), strict=True))
    return result


def _histograms(columns: Mapping[tuple[str, str], Mapping[str, list[Array]]], name: str) -> dict[str, Any]:
    """Return the counts by source in :data:`BINS`; the same bins in every release, so that releases can be compared."""
    low, high, number = BINS[name]
    counts: dict[str, NDArray[np.int64]] = {}
    for (_, source), own in columns.items():
        values = np.concatenate(own[name])
        values = values[np.isfinite(values)]
        if name == "force":
            values = np.log10(np.maximum(values, 10.0**low))
        found = np.histogram(np.clip(values, low, high), bins=number, range=(low, high))[0]
        counts[source] = counts[source] + found if source in counts else found
    return {
        "low": low,
        "high": high,
        "bins": number,
        "scale": "log10" if name == "force" else "linear",
        "counts": {source: found.tolist() for source, found in sorted(counts.items())},
    }
