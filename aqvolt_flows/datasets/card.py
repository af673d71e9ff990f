"""The dataset card and the numbers on it, all computed from the release's own Parquet files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from aqvolt_flows.chemistry import symbols_of

_SCALARS = ("energy_per_atom", "cohesive_energy_per_atom", "max_force", "pressure_gpa", "n_atoms")
_UNITS = {
    "energy_per_atom": "eV/atom",
    "cohesive_energy_per_atom": "eV/atom",
    "max_force": "eV/Å",
    "pressure_gpa": "GPa",
    "n_atoms": "",
}
_QUANTILES = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))


def statistics(paths: Mapping[str, Path]) -> dict[str, Any]:
    """Return the numbers of a release.

    Parameters
    ----------
    paths
        Split → Parquet file; files that do not exist are empty splits.

    Returns
    -------
    dict
        For every split and ``all``: frames, atoms, quantiles of energies (eV/atom), largest forces (eV/Å), pressures
        (GPa) and atoms; ``elements``: symbol → frames that hold it; ``n_elements``, ``formulas`` and
        ``temperatures_k`` → frames.
    """
    columns: dict[str, dict[str, list[np.ndarray]]] = {}
    elements: Counter[str] = Counter()
    tallies: dict[str, Counter[str]] = {"n_elements": Counter(), "formulas": Counter(), "temperatures_k": Counter()}
    names = [
        "energy",
        "n_atoms",
        "cohesive_energy_per_atom",
        "max_force",
        "pressure_gpa",
        "chemsys",
        "formula",
        "temperature_k",
    ]
    for split, path in paths.items():
        if not path.exists():
            continue
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=65536, columns=names):
                column = {n: batch.column(n).to_numpy(zero_copy_only=False) for n in names[:5]}
                column["energy_per_atom"] = column.pop("energy") / column["n_atoms"]
                for name, values in column.items():
                    columns.setdefault(split, {}).setdefault(name, []).append(np.asarray(values, dtype=float))
                systems = [str(c).split("-") for c in batch.column("chemsys").to_pylist()]
                elements.update(symbol for system in systems for symbol in system)
                tallies["n_elements"].update(str(len(system)) for system in systems)
                tallies["formulas"].update(batch.column("formula").to_pylist())
                tallies["temperatures_k"].update(
                    f"{t:g}" for t in batch.column("temperature_k").to_pylist() if t is not None
                )
    joined = {s: {n: np.concatenate(v) for n, v in c.items()} for s, c in columns.items()}
    whole = {n: np.concatenate([c[n] for c in joined.values()]) for n in _SCALARS} if joined else {}
    order = {symbol: z for z, symbol in enumerate(symbols_of(range(1, 119)))}
    return {
        "splits": {s: _summary(c) for s, c in joined.items()},
        "all": _summary(whole),
        "elements": dict(sorted(elements.items(), key=lambda item: order[item[0]])),
        "n_elements": dict(sorted(tallies["n_elements"].items(), key=lambda item: int(item[0]))),
        "formulas": dict(sorted(tallies["formulas"].items())),
        "temperatures_k": dict(sorted(tallies["temperatures_k"].items(), key=lambda item: float(item[0]))),
    }


def _summary(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if not columns:
        return {"frames": 0, "atoms": 0}
    result: dict[str, Any] = {"frames": len(columns["n_atoms"]), "atoms": int(columns["n_atoms"].sum())}
    for name in _SCALARS:
        values = columns[name][np.isfinite(columns[name])]
        if len(values):
            cuts = {k: float(np.quantile(values, q)) for k, q in _QUANTILES.items()}
            result[name] = {"n": len(values), "mean": float(values.mean()), "std": float(values.std()), **cuts}
    return result


def render(manifest: Mapping[str, Any], stats: Mapping[str, Any]) -> str:
    """Return the text of ``README.md``: front matter for the Hub, then the card."""
    parts = [_front_matter(manifest), _headline(manifest, stats), _splits(manifest, stats), _protocols(manifest)]
    parts += [_distributions(stats), _contents(manifest), _filters(manifest), _use(manifest), _citation(manifest)]
    return "\n".join(parts)


def _front_matter(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    size = next((label for limit, label in _SIZES if counts["total"] < limit), "n>10M")
    files = [{"split": s, "path": f"data/{s}.parquet"} for s, n in counts["by_split"].items() if n]
    values = {
        "license": manifest["license"],
        "pretty_name": manifest["name"],
        "tags": [
            "chemistry",
            "materials-science",
            "interatomic-potentials",
            "molecular-dynamics",
            "solid-electrolytes",
        ],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def _headline(manifest: Mapping[str, Any], stats: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    lines = [
        f"# {manifest['name']}",
        "",
        f"{counts['total']:,} labelled configurations with {counts['atoms']:,} atoms, {len(stats['formulas']):,} "
        f"compositions, {len(stats['elements'])} elements. Release `{manifest['release_id']}`.",
        "",
    ]
    if manifest["surrogate"]:
        number = sum(p["labels"] for p in manifest["protocols"].values() if p["code"] == "surrogate")
        lines += [
            "> **SURROGATE LABELS. Do not use as reference data.**",
            f"> {number:,} of {counts['total']:,} labels were predicted by a machine-learning potential, not computed "
            "with density functional theory. A model trained on them learns that potential.",
            "",
        ]
    if len(manifest["protocols"]) > 1:
        lines += ["> **Mixed theory levels.** The labels come from several protocols, see below.", ""]
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---" for _ in header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _splits(manifest: Mapping[str, Any], stats: Mapping[str, Any]) -> str:
    splits = manifest["splits"]
    rows = [
        [
            s,
            f"{n:,}",
            f"{stats['splits'].get(s, {}).get('atoms', 0):,}",
            f"{splits['groups'][s]:,}",
            f"{splits['fractions'][s]:g}",
        ]
        for s, n in manifest["counts"]["by_split"].items()
    ]
    text = (
        f"Groups by {splits['group_by']} are assigned by a hash of their name and the salt `{splits['salt']}`: later "
        "releases keep them where they are.\n"
    )
    if splits["borrowed"]:
        moves = ", ".join(f"{g} (from {b['hash_says']} to {b['is_in']})" for g, b in splits["borrowed"].items())
        text += f"\nThe set is so small that a split would be empty; borrowed for it: {moves}.\n"
    return "## Splits\n\n" + _table(["split", "frames", "atoms", "groups", "share asked for"], rows) + "\n" + text


def _protocols(manifest: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", p["code"], p["version"], p["functional"], f"{p['labels']:,}"]
        for name, p in manifest["protocols"].items()
    ]
    return "## Protocols\n\n" + _table(["protocol", "code", "version", "functional", "labels"], rows)


def _distributions(stats: Mapping[str, Any]) -> str:
    whole = stats["all"]
    header = ["quantity", "unit", "mean", *_QUANTILES]
    rows = [
        [name.replace("_", " "), _UNITS[name], *(f"{whole[name][k]:.4g}" for k in ("mean", *_QUANTILES))]
        for name in _SCALARS
        if name in whole
    ]
    return "## Distributions\n\n" + _table(header, rows)


def _contents(manifest: Mapping[str, Any]) -> str:
    return (
        "## Columns\n\nOne row a configuration; Å, eV, eV/Å, K. `stress` has 6 numbers in eV/Å³, tension positive, "
        "order xx yy zz yz xz xy; `pressure_gpa` is compression positive; `cohesive_energy_per_atom` is "
        "(E − Σ E_atom)/N in eV/atom, negative means bound. `frame_id` and `label_id` lead back to "
        "trajectory, candidate and calculation.\n\n"
        + _table(["source", "frames"], [[s, f"{n:,}"] for s, n in manifest["counts"]["by_source"].items()])
    )


def _filters(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    rows = [[name, manifest["filters_explained"][name], f"{n:,}"] for name, n in counts["dropped"].items()]
    rows += [[name, "refused when labels were built", f"{n:,}"] for name, n in counts["rejected"].items()]
    text = "## Left out\n\n" + (_table(["filter", "meaning", "labels"], rows) if rows else "Nothing was left out.\n")
    if counts["cohesive_energy_unknown"]:
        text += (
            f"\nThe cohesive energy of {counts['cohesive_energy_unknown']:,} frames is unknown (no isolated-atom "
            "reference for their protocol or elements), so that filter did not look at them.\n"
        )
    return text


def _use(manifest: Mapping[str, Any]) -> str:
    first = next(s for s, n in manifest["counts"]["by_split"].items() if n)
    return f"""## Use

```python
import datasets
frames = datasets.load_dataset("parquet", data_files={{"{first}": "data/{first}.parquet"}})["{first}"]
```

`aqvolt release verify PATH` rehashes every file; `aqvolt release export PATH --format aselmdb --out DIR` writes what
fairchem trains on, `--format extxyz` what ASE reads.
"""


def _citation(manifest: Mapping[str, Any]) -> str:
    return f"""## Licence and citation

Licence: {manifest["license"]}. Cite the release by its content hash, and the AQVolt26 paper for the method:

```bibtex
@misc{{{manifest["name"].replace(".", "-")}-{manifest["content_hash"][:12]},
  title = {{{manifest["name"]}: labelled configurations for machine-learning interatomic potentials}},
  note = {{Release {manifest["release_id"]}, content hash {manifest["content_hash"]}, made with aqvolt-flows}}
}}
```
"""
