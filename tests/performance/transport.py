"""Heating and conductivity against ASE one structure at a time, and OBELiX's halides for as long as there is time.

Structures of the timings are rattled LiCl supercells of 32 to 128 atoms. Ours is the benchmark's own code, with frames,
checkpoints and analysis; ASE's is NPTBerendsen with the potential package's calculator, a few steps of some of the
structures, scaled to all of them by atoms. The last row of a timing has one cell of 300 atoms among small ones: its
memory shows that the batch is bounded by atoms, not by the largest times the number of cells.

Examples
--------
CPU, minutes:      python tests/performance/transport.py --structures 3 --seeds 2 --steps 40 --materials 2
One GPU:           python tests/performance/transport.py --device cuda --steps 300
OBELiX, one GPU:   python tests/performance/transport.py --device cuda --obelix FOLDER --minutes 9
                   (again with the same --workdir: it goes on where it was)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.nptberendsen import NPTBerendsen
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from exploration import peak_memory
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.benchmarks.conductivity import LiConductivity
from aqvolt_flows.benchmarks.heating import Heating
from aqvolt_flows.benchmarks.items import GivenItems, items_of
from aqvolt_flows.benchmarks.obelix import LICENSE, obelix_items
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.potentials import load_potential, model_hash
from aqvolt_flows.schemas.transport import ConductivityParameters, HeatingParameters

#: Cells of the timings, as multiples of the conventional cell of 8 atoms.
SHAPES = ((2, 2, 1), (2, 2, 2), (3, 2, 2), (4, 2, 2))


def cells(n: int, large: bool = False) -> list[Atoms]:
    """Return n rattled LiCl supercells; with a large one, the first has 304 atoms and the others 32."""
    shapes = [(19, 2, 1), *[(2, 2, 1)] * (n - 1)] if large else [SHAPES[k % len(SHAPES)] for k in range(n)]
    found = []
    for seed, shape in enumerate(shapes):
        atoms = bulk("LiCl", "rocksalt", a=5.13, cubic=True).repeat(shape)
        atoms.rattle(0.05, seed=seed)
        found.append(atoms)
    return found


def items(atoms: list[Atoms]) -> GivenItems:
    named = [(f"cell {k}", AseAtomsAdaptor.get_structure(a)) for k, a in enumerate(atoms)]
    return GivenItems(items_of(named), f"{len(named)} cells of LiCl")


def ase_rate(calculator: Any, atoms: list[Atoms], temperature: float, steps: int, repeats: int) -> float:
    """Return ASE's atom-steps per second over a few of the structures."""
    done, seconds = 0, 0.0
    for one in atoms[:repeats]:
        moving = one.copy()
        moving.calc = calculator
        MaxwellBoltzmannDistribution(moving, temperature_K=temperature, rng=None)
        dynamics = NPTBerendsen(
            moving, units.fs, temperature_K=temperature, pressure_au=units.bar, taut=100 * units.fs,
            taup=1000 * units.fs, compressibility_au=0.2 / units.GPa,
        )  # fmt: skip
        dynamics.run(2)
        started = time.perf_counter()
        dynamics.run(steps)
        seconds += time.perf_counter() - started
        done += steps * len(moving)
    return done / seconds


def timed(
    benchmark: Any, potential: Any, model: ResolvedModel, p: Any, given: GivenItems, device: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, peak_memory(device) as memory:
        started = time.perf_counter()
        _, rows = benchmark.measure(potential, model, p, given, Path(folder))
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    steps = sum(r["atom_steps"] or 0 for r in rows)
    return {"seconds": seconds, "rate": steps / seconds, "atom_steps": steps, "mib": memory["mib"], "rows": len(rows)}


def timings(args: argparse.Namespace, model: ResolvedModel) -> None:
    potential = load_potential(args.model, args.device)
    calculator = potential.ase_calculator()
    ramp = HeatingParameters(
        duration_ps=args.steps / 1000, seeds=args.seeds, min_length_a=0.0, resamples=100, checkpoint_steps=args.steps
    )
    frame_ps = max(0.001, args.steps / 1000 / 40)
    runs = ConductivityParameters(
        duration_ps=args.steps / 1000, dropped_ps=0.0, frame_ps=frame_ps, checkpoint_steps=args.steps
    )
    table = [
        ("heating", Heating(), ramp, cells(args.structures), 1200.0, args.seeds),
        ("conductivity", LiConductivity(), runs, cells(args.materials), 500.0, len(runs.temperatures_k)),
        ("heating, one of 304 atoms", Heating(), ramp, cells(args.structures, large=True), 1200.0, args.seeds),
    ]
    print(f"{'benchmark':28} {'runs':>5} {'atoms':>7} {'ours':>10} {'ASE':>10} {'times':>6} {'MiB':>8}   atom-steps/s")
    for name, benchmark, p, atoms, temperature, per in table:
        theirs = ase_rate(calculator, atoms, temperature, args.ase_steps, args.ase_structures)
        found = timed(benchmark, potential, model, p, items(atoms), args.device)
        total = per * sum(len(a) for a in atoms)
        print(
            f"{name:28} {per * len(atoms):5} {total:7} {found['rate']:10,.0f} {theirs:10,.0f} "
            f"{found['rate'] / theirs:6.1f} {found['mib']:8,.0f}",
            flush=True,
        )


def obelix(args: argparse.Namespace, model: ResolvedModel) -> None:
    """Run the paper's materials until the time is over, and print what is resolved by then."""
    print(LICENSE)
    given = obelix_items(args.obelix, [args.entries])
    p = ConductivityParameters(
        temperatures_k=[float(t) for t in args.temperatures.split(",")],
        timestep_fs=args.timestep,
        duration_ps=args.duration,
        dropped_ps=args.dropped,
        orderings=args.orderings,
        max_cell_atoms=args.max_cell_atoms,
        max_batch_atoms=args.max_batch_atoms,
        checkpoint_steps=500,
        max_seconds=60 * args.minutes,
    )
    potential = load_potential(args.model, args.device)
    document, rows = LiConductivity().measure(potential, model, p, given, Path(args.workdir))
    print(f"\n{args.model} on {args.device}, {document.seconds:.0f} s, {document.atom_steps or 0:,} atom-steps")
    print(f"\n{'material':26} {'T (K)':>6} {'atoms':>5} {'Li':>4} {'ps':>6} {'state':8} {'hops':>8} {'D (cm²/s)':>10} "
          f"{'limit':>9} {'σ (mS/cm)':>10}")  # fmt: skip
    for r in rows:
        if r["temperature_k"] is None or r["d_cm2_s"] is None:
            print(f"{r['name']:26} {r['temperature_k'] or 0:6.0f}  {r['failure_reason']}: {r['failure_message']}")
            continue
        sigma = f"{r['ms_cm']:10.3g}" if r["resolved"] else f"{'-':>10}"
        print(
            f"{r['name']:26} {r['temperature_k']:6.0f} {r['n_cell_atoms']:5} {r['n_li']:4} {r['time_ps']:6.1f} "
            f"{r['state']:8} {r['hops']:8.2f} {r['d_cm2_s']:10.2e} {r['limit_cm2_s']:9.1e} {sigma}"
        )
    print(f"\n{'material':26} {'σ(300 K), mS/cm':>18} {'interval':>22} {'Ea (eV)':>8} {'OBELiX':>10}  note")
    for m in document.metrics["materials"]:
        interval = "" if not m["interval_ms_cm"] else "{:.2g} … {:.2g}".format(*m["interval_ms_cm"])
        energy = "" if m["activation_ev"] is None else f"{m['activation_ev']:.2f}"
        bound = "<" if m["experiment_is_bound"] else ""
        known = "" if m["experiment_ms_cm"] is None else f"{bound}{m['experiment_ms_cm']:.2g}"
        print(f"{m['name']:26} {m['stated']:>18} {interval:>22} {energy:>8} {known:>10}  {m['note']}")
    scores = {k: v for k, v in document.metrics.items() if k not in {"materials", "parameters"}}
    print(json.dumps(scores, indent=1, ensure_ascii=False))
    if args.out:
        Path(args.out).write_text(json.dumps({"metrics": document.metrics, "rows": rows}, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="7net-mf-0/R2SCAN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--structures", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--materials", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="of every run")
    parser.add_argument("--ase-steps", type=int, default=20)
    parser.add_argument("--ase-structures", type=int, default=4, help="that ASE runs of each set")
    parser.add_argument("--obelix", help="folder of OBELiX")
    parser.add_argument("--entries", default="paper-S3")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--temperatures", default="300,400,500,600,700")
    parser.add_argument("--timestep", type=float, default=2.0)
    parser.add_argument("--duration", type=float, default=110.0, help="ps")
    parser.add_argument("--dropped", type=float, default=10.0, help="ps")
    parser.add_argument("--orderings", type=int, default=1)
    parser.add_argument("--max-cell-atoms", type=int, default=400)
    parser.add_argument("--max-batch-atoms", type=int, default=16_384)
    parser.add_argument("--workdir", default="build/obelix")
    parser.add_argument("--out", help="metrics and rows as JSON")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model = ResolvedModel(args.model, args.model, model_hash(args.model))
    (obelix if args.obelix else timings)(args, model)


if __name__ == "__main__":
    main()
