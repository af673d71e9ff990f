"""The dataset card: ``README.md`` with front matter for the Hub; its numbers come from the data or the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from aqvolt_flows.datasets.leakage import ANCESTORS, WITHIN
from aqvolt_flows.datasets.licenses import OTHER
from aqvolt_flows.datasets.stats import QUANTILES, UNITS

_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
_PICTURES = {
    "distributions.png": "Cohesive energies, forces on atoms and pressures by source (the paper's Figure 3). What lies "
    "outside the binned range counts in the outer bins.",
    "elements.png": "In how many configurations and compositions each element is (Figure S3).",
    "structures.png": "Configurations by number of elements and of sites (Figure S4).",
}


def render(manifest: Mapping[str, Any], stats: Mapping[str, Any]) -> str:
    """Return the text of ``README.md``: front matter for the Hub, then the card."""
    parts = [_front_matter(manifest), _headline(manifest, stats), _splits(manifest, stats), _leakage(stats)]
    parts += [_protocols(manifest), _sources(stats), _distributions(stats), _pictures(manifest), _contents()]
    parts += [_filters(manifest), _use(manifest), _citation(manifest)]
    return "\n".join(parts)


def _front_matter(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    size = next((label for limit, label in _SIZES if counts["total"] < limit), "n>10M")
    files = [{"split": s, "path": f"data/{s}.parquet"} for s, n in counts["by_split"].items() if n]
    values = {
        "license": manifest["license"],
        **({"license_name": "by-source"} if manifest["license"] == OTHER else {}),
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
        f"compositions, {len(stats['elements'])} elements. Release `{manifest['release_id']}`"
        + (f", of the labels of {', '.join(manifest['campaigns'])}." if manifest.get("campaigns") else "."),
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
            f"{splits['fractions'][s]:g}" if s in splits["fractions"] else "held out",
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
    for name, rule in splits["hold_out"].items():
        text += f"\n`{name}` is held out, in none of the three: labels that match `{rule}`.\n"
    if manifest.get("is_hold_out"):
        text += "\nThis release is a hold-out: no training of its project may contain a structure of it.\n"
    return "## Splits\n\n" + _table(["split", "frames", "atoms", "groups", "share asked for"], rows) + "\n" + text


def _leakage(stats: Mapping[str, Any]) -> str:
    """Return what other sets share with train; empty where there is no other set, or no train."""
    if not stats["leakage"]:
        return ""
    names = [ancestor.removesuffix("_id") for ancestor in ANCESTORS]
    rows, near = [], []
    for name, found in stats["leakage"].items():
        frames = found["neighbours"]["frames"]
        rows.append([name, f"{frames:,}", *(f"{found['shared'][a]['frames']:,}" for a in ANCESTORS)])
        own = found["neighbours"]
        if own["compared"]:
            within = [f"{n:,}" for n in own["within_a"].values()]
            near.append([name, f"{own['compared']:,}", *within, f"{own['distance_a']['median']:.4g}"])
    text = (
        "## Leakage\n\nFrames of a set whose ancestor is in train, too:\n\n"
        + _table(["split", "frames", *(f"same {n}" for n in names)], rows)
        + "\n"
    )
    if near:
        header = ["split", "frames compared", *(f"within {limit:g} Å" for limit in WITHIN), "median (Å)"]
        text += (
            "Frames of a set whose nearest training frame of the same formula lies within a distance: the largest "
            "difference of the elements' average minimum distances to 12 neighbors (doi:10.46793/match.87-3.529W), "
            "which is at most 2 ε when every atom is moved by at most ε.\n\n" + _table(header, near)
        )
    return text


def _sources(stats: Mapping[str, Any]) -> str:
    """Return the paper's Table S2: mean and standard deviation by source."""

    def cell(part: Mapping[str, Any], name: str) -> str:
        return f"{part[name]['mean']:.2f} ± {part[name]['std']:.2f}" if name in part else "not known"

    rows = [
        [
            source,
            f"{part['frames']:,}",
            f"{part['formulas']:,}",
            *(cell(part, n) for n in ("cohesive_energy_per_atom", "force", "pressure_gpa")),
        ]
        for source, part in [*stats["by_source"].items(), ("all", stats["all"])]
    ]
    header = [
        "source",
        "frames",
        "compositions",
        "cohesive energy (eV/atom)",
        "force on an atom (eV/Å)",
        "pressure (GPa)",
    ]
    return "## Sources\n\nMean ± standard deviation, as in the paper's Table S2.\n\n" + _table(header, rows)


def _pictures(manifest: Mapping[str, Any]) -> str:
    shown = [name for name in _PICTURES if f"plots/{name}" in manifest.get("plots", [])]
    return "\n".join(f"![{_PICTURES[name]}](plots/{name})\n\n{_PICTURES[name]}\n" for name in shown)


def _protocols(manifest: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", p["code"], p["version"], p["functional"], f"{p['labels']:,}"]
        for name, p in manifest["protocols"].items()
    ]
    return "## Protocols\n\n" + _table(["protocol", "code", "version", "functional", "labels"], rows)


def _distributions(stats: Mapping[str, Any]) -> str:
    whole = stats["all"]
    header = ["quantity", "unit", "mean", *QUANTILES]
    rows = [
        [name.replace("_", " "), unit, *(f"{whole[name][k]:.4g}" for k in ("mean", *QUANTILES))]
        for name, unit in UNITS.items()
        if name in whole
    ]
    return "## Distributions\n\n" + _table(header, rows)


def _contents() -> str:
    return (
        "## Columns\n\nOne row a configuration; Å, eV, eV/Å, K. `stress` has 6 numbers in eV/Å³, tension positive, "
        "order xx yy zz yz xz xy; `pressure_gpa` is compression positive; `cohesive_energy_per_atom` is "
        "(E − Σ E_atom)/N in eV/atom, negative means bound. `frame_id` and `label_id` lead back to "
        "trajectory, candidate and calculation; all columns are described in `croissant.json`.\n"
    )


def _filters(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    rows = [[name, manifest["filters_explained"][name], f"{n:,}"] for name, n in counts["dropped"].items()]
    rows += [[name, "refused when labels were built", f"{n:,}"] for name, n in counts["rejected"].items()]
    asked = "" if manifest["query"] == "{}" else f"Only labels that match `{manifest['query']}` were looked at.\n\n"
    text = (
        "## Left out\n\n"
        + asked
        + (_table(["filter", "meaning", "labels"], rows) if rows else "Nothing was left out.\n")
    )
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

`aqvolt release verify PATH` rehashes every file; the SHA-256 of `frames.tsv` is the content hash.
`aqvolt release export PATH --format aselmdb --out DIR` writes what fairchem trains on, `--format extxyz` what ASE
reads, `--format matpes-json` MatPES documents.
"""


def _license_text(manifest: Mapping[str, Any]) -> str:
    """Return the sentence about the license, or the table of licenses where the sources have several."""
    licenses = manifest.get("licenses", {})
    if manifest["license"] != OTHER:
        return f"License: {manifest['license']}."
    counts = manifest["counts"]["by_source"]
    rows = [[source, f"{counts.get(source, 0):,}", name] for source, name in licenses.items()]
    said = "The labels come from sources with different licenses; each keeps its own" if len(rows) > 1 else "License"
    return f"**{said}:**\n\n{_table(['source', 'labels', 'license'], rows)}\nAsk the source where it is unknown."


def _citation(manifest: Mapping[str, Any]) -> str:
    return f"""## License and citation

{_license_text(manifest)} Cite the release by its content hash, and the AQVolt26 paper for the method:

```bibtex
@misc{{{manifest["name"].replace(".", "-")}-{manifest["content_hash"][:12]},
  title = {{{manifest["name"]}: labelled configurations for machine-learning interatomic potentials}},
  note = {{Release {manifest["release_id"]}, content hash {manifest["content_hash"]}, made with aqvolt-flows}}
}}
```
"""
