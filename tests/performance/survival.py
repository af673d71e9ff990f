"""How many NpT runs last, and what they average to, for every way to start and to thermostat them.

``start``: 140 rock-salt cells of LiF, LiCl, LiBr and LiI with 2, 8, 16 and 64 atoms (two seeds, of 64 atoms one) at 300
to 1500 K, 1 atm, 1 fs. Counts of runs that a guard ended, by size and temperature, and how far V/V₀ and the temperature
went.

``long``: the four rock salts and twenty ternary halides (anion lattice of rock salt, one or two cations, vacancies that
balance the charge; see ``funnel.py``) at five temperatures: survival, mean T over target, mean P and V/V₀ of the
production, and in how many runs the mean temperature lies within two standard errors of the target.

``melt``: density of molten LiCl at 1200 K with 64 and 512 atoms.

All ways use one potential on one card in one process.

Examples
--------
One GPU:    python tests/performance/survival.py start --device cuda --ps 3
One GPU:    python tests/performance/survival.py long melt --device cuda --ps 10 --timestep 2
Two cores:  python tests/performance/survival.py start --ps 0.05 --sizes 2 8
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from funnel import CATIONS, LATTICES, TEMPERATURES, cell

from aqvolt_flows.dynamics.averages import mean_and_error
from aqvolt_flows.dynamics.npt import NpTRun
from aqvolt_flows.dynamics.systems import System
from aqvolt_flows.frames import from_table
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.units import ev_per_a3_to_gpa

OLD_GUARD = {"max_volume_ratio": 0.0, "min_packing": 0.0, "max_volume_change": 0.5}
WAYS: dict[str, dict[str, Any]] = {
    "Nosé–Hoover, cold, guard at 50 % (8f05404)": {"equilibration_ps": 0.0, **OLD_GUARD},
    "Nosé–Hoover, cold": {"equilibration_ps": 0.0},
    "Nosé–Hoover after C-rescale": {"equilibration_ps": 1.0},
    "C-rescale": {"ensemble": "npt_crescale_isotropic", "equilibration_ps": 1.0},
    "C-rescale, guard at 50 %": {"ensemble": "npt_crescale_isotropic", "equilibration_ps": 1.0, **OLD_GUARD},
}


@dataclass
class Series:
    """Steps, temperatures (K), volumes (Å³) and pressures (eV/Å³) of one run, without its arrays."""

    rows: list[np.ndarray] = field(default_factory=list)

    def columns(self) -> np.ndarray:
        return np.concatenate(self.rows) if self.rows else np.empty((0, 4))


class Sink:
    """Keeps the numbers of frames."""

    def __init__(self) -> None:
        self.of: dict[str, Series] = {}
        self.last: dict[str, Atoms] = {}

    def add(self, trajectory_id: str, table: Any) -> None:
        names = ("step", "temperature", "volume", "pressure")
        rows = np.stack([table.column(n).to_numpy().astype(float) for n in names], axis=1)
        self.of.setdefault(trajectory_id, Series()).rows.append(rows)
        self.last[trajectory_id] = next(from_table(table.slice(table.num_rows - 1).combine_chunks())).to_atoms()


def rock_salt(halogen: str, n_atoms: int) -> Atoms:
    """Return LiX with 2, 8, 16, 64 or 512 atoms."""
    if n_atoms == 2:
        return bulk("Li" + halogen, "rocksalt", a=LATTICES[halogen])
    repeats = {8: (1, 1, 1), 16: (2, 1, 1), 64: (2, 2, 2), 512: (4, 4, 4)}[n_atoms]
    return bulk("Li" + halogen, "rocksalt", a=LATTICES[halogen], cubic=True) * repeats


def start_systems(sizes: list[int]) -> list[System]:
    """Return the cells of the first table; names are formula-size-temperature-seed."""
    return [
        System(f"Li{x}-{n}-{t:.0f}-{seed}", rock_salt(x, n), t, 100 * seed + n)
        for x in LATTICES
        for n in sizes
        for t in TEMPERATURES
        for seed in range(1 if n == 64 else 2)
    ]


def long_systems() -> list[System]:
    """Return the cells of the second table."""
    salts = [(f"Li{x}", rock_salt(x, 64)) for x in LATTICES]
    pairs = [(c, list(LATTICES)[i % 4]) for i, c in enumerate([*CATIONS, *list(CATIONS)[:6]])]
    ternary = [(f"Li-{c}-{x}", cell(c, x, i) * (1, 2, 2)) for i, (c, x) in enumerate(pairs)]
    return [
        System(f"{name}-{len(atoms)}-{t:.0f}-0", atoms, t, i)
        for i, (name, atoms) in enumerate([*salts, *ternary])
        for t in TEMPERATURES
    ]


def run(model: Any, systems: list[System], given: argparse.Namespace, changes: dict[str, Any]) -> dict[str, Any]:
    """Run one way and return outcomes, series and seconds."""
    n_steps = round(1000 * given.ps / given.timestep)
    if changes.get("equilibration_ps", 0.0) >= given.ps:
        changes = changes | {"equilibration_ps": given.ps / 5}
    parameters = ExplorationParameters(
        n_steps=n_steps,
        stride=given.stride,
        timestep_fs=given.timestep,
        max_batch_atoms=sum(len(s.atoms) for s in systems),
        **changes,
    )
    sink = Sink()
    started = time.monotonic()
    outcomes = NpTRun(model, systems, parameters, sink).run()
    return {
        "outcomes": outcomes,
        "series": sink.of,
        "last": sink.last,
        "seconds": time.monotonic() - started,
        "parameters": parameters,
    }


def about(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a run: how it ended, and its production's means with their errors."""
    rows = []
    for outcome in found["outcomes"]:
        s = outcome.system
        columns = found["series"][s.trajectory_id].columns() if s.trajectory_id in found["series"] else np.empty((0, 4))
        late = columns[columns[:, 0] >= found["parameters"].equilibration_steps]
        temperature, temperature_error = mean_and_error(late[:, 1])
        volume, pressure = (mean_and_error(late[:, k])[0] for k in (2, 3))
        v0 = s.atoms.get_volume()
        rows.append(
            {
                "id": s.trajectory_id,
                "target": s.temperature_k,
                "atoms": len(s.atoms),
                "reason": outcome.failure.reason if outcome.failure else "",
                "ps": outcome.steps_done * found["parameters"].timestep_fs / 1000,
                "mean_t": temperature,
                "error_t": temperature_error,
                "mean_v": None if volume is None else volume / v0,
                "mean_p": None if pressure is None else ev_per_a3_to_gpa(pressure),
                "max_v": float(columns[:, 2].max() / v0) if len(columns) else None,
                "max_t": float(columns[:, 1].max() / s.temperature_k) if len(columns) else None,
            }
        )
    return rows


def ended_table(rows: list[dict[str, Any]]) -> str:
    """Return how many runs ended early, by size and temperature."""
    sizes = sorted({r["atoms"] for r in rows})
    lines = ["| atoms | " + " | ".join(f"{t:.0f} K" for t in TEMPERATURES) + " | largest V/V₀ | largest T/target |"]
    lines.append("| --- " * (len(TEMPERATURES) + 3) + "|")
    for n in sizes:
        of = [r for r in rows if r["atoms"] == n]
        counts = [
            f"{sum(bool(r['reason']) for r in of if r['target'] == t)} of {sum(r['target'] == t for r in of)}"
            for t in TEMPERATURES
        ]
        lines.append(
            f"| {n} | "
            + " | ".join(counts)
            + f" | {max(r['max_v'] for r in of):.2f} | {max(r['max_t'] for r in of):.1f} |"
        )
    return "\n".join(lines)


def means_table(rows: list[dict[str, Any]]) -> str:
    """Return survival and means by temperature."""
    lines = ["| target, K | runs | ended early | mean T / target | within 2 errors | mean V/V₀ | mean P, GPa |"]
    lines.append("| --- " * 7 + "|")
    for t in TEMPERATURES:
        of = [r for r in rows if r["target"] == t]
        lasted = [r for r in of if not r["reason"] and r["error_t"]]
        if not lasted:
            lines.append(f"| {t:.0f} | {len(of)} | {sum(bool(r['reason']) for r in of)} | | | | |")
            continue
        near = sum(abs(r["mean_t"] - t) <= 2 * r["error_t"] for r in lasted)
        ratio, volume, pressure = (np.array([r[k] for r in lasted]) for k in ("mean_t", "mean_v", "mean_p"))
        lines.append(
            f"| {t:.0f} | {len(of)} | {len(of) - len(lasted)} | {ratio.mean() / t:.3f} ± {ratio.std() / t:.3f} | "
            f"{near} of {len(lasted)} | "
            f"{volume.mean():.3f} ({volume.min():.2f} to {volume.max():.2f}) | {pressure.mean():+.3f} |"
        )
    return "\n".join(lines)


def melt(model: Any, given: argparse.Namespace) -> None:
    """Print the density of LiCl at 1200 K from a crystal that is melted at 2000 K first."""
    for way, changes in (("Nosé–Hoover after C-rescale", {}), ("C-rescale", {"ensemble": "npt_crescale_isotropic"})):
        systems = [System(f"LiCl-{n}", rock_salt("Cl", n), 2000.0, n) for n in (64, 512)]
        molten = run(model, systems, argparse.Namespace(**vars(given) | {"ps": given.melt_ps / 2}), changes)
        again = [
            System(o.system.trajectory_id, molten["last"][o.system.trajectory_id], 1200.0, 7 + i)
            for i, o in enumerate(molten["outcomes"])
        ]
        found = run(model, again, argparse.Namespace(**vars(given) | {"ps": given.melt_ps}), changes)
        for outcome in found["outcomes"]:
            columns = found["series"][outcome.system.trajectory_id].columns()
            late = columns[columns[:, 0] >= found["parameters"].n_steps / 4]
            volume, error = mean_and_error(late[:, 2])
            mass = outcome.system.atoms.get_masses().sum() * 1.66053907
            assert volume is not None
            print(
                f"{way}, {len(outcome.system.atoms)} atoms, {given.melt_ps:g} ps at 1200 K: {mass / volume:.3f} ± "
                f"{mass / volume**2 * (error or 0):.3f} g/cm³, mean T {late[:, 1].mean():.0f} K"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["start", "long", "melt"])
    parser.add_argument("--potential", default="7net-mf-0/R2SCAN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ps", type=float, default=3.0)
    parser.add_argument("--melt-ps", type=float, default=10.0)
    parser.add_argument("--timestep", type=float, default=1.0)
    parser.add_argument("--stride", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 8, 16, 64])
    parser.add_argument("--ways", nargs="+", help="names of the ways to run; default: all")
    parser.add_argument("--out", help="JSON file for every run's row")
    given = parser.parse_args()
    model = load_potential(given.potential, given.device).torchsim_model()
    kept: dict[str, Any] = {}
    for what in given.what:
        if what == "melt":
            melt(model, given)
            continue
        systems = start_systems(given.sizes) if what == "start" else long_systems()
        ways = WAYS if what == "start" else {k: WAYS[k] for k in ("Nosé–Hoover after C-rescale", "C-rescale")}
        for way, changes in ways.items():
            if given.ways and way not in given.ways:
                continue
            found = run(model, systems, given, changes)
            rows = kept[f"{what}: {way}"] = about(found)
            reasons = Counter(r["reason"] for r in rows if r["reason"])
            said = ", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "none ended early"
            print(f"\n{what}, {way}: {len(rows)} runs of {given.ps:g} ps in {found['seconds']:.0f} s; {said}\n")
            print(ended_table(rows) if what == "start" else means_table(rows), flush=True)
    if given.out:
        Path(given.out).write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
