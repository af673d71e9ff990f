"""Measure SevenNet's fine-tuning: atoms per second, memory, waiting for data, beside sevenn's own loop.

``python tests/performance/fine_tuning.py --device cuda --max-atoms 512 2048 --steps 60``: rattled rock salts of LiCl
and LiF with Lennard-Jones labels, no network. sevenn's loop is its ``Trainer.run_one_epoch`` over the same batches,
without our records, gradient norm and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from aqvolt_flows.schemas.trainings import SevenNetParameters
from aqvolt_flows.training.records import read_records

#: Steps that are not measured: kernels are chosen and memory is reserved.
WARM = 5


def write(folder: Path, frames: list[Any]) -> None:
    """Write frames as one split of ASE-LMDB."""
    import ase.db
    import ase_db_backends  # noqa: F401

    folder.mkdir(parents=True)
    with ase.db.connect(str(folder / "data.aselmdb"), type="aselmdb") as database:
        for atoms in frames:
            database.write(atoms)
    np.savez_compressed(folder / "metadata.npz", natoms=np.array([len(a) for a in frames]))


def labeled(seed: int) -> Any:
    """Return a rattled rock salt of 64 atoms with Lennard-Jones labels."""
    formula, a = (("LiCl", 5.13), ("LiF", 4.03))[seed % 2]
    atoms: Any = bulk(formula, "rocksalt", a=a, cubic=True).repeat(2)
    atoms.rattle(0.08, seed=seed)
    atoms.calc = LennardJones(sigma=a / 2.25, epsilon=0.1, rc=6.0, smooth=True)
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def measure(release: Path, device: str, max_atoms: int, steps: int) -> dict[str, Any]:
    """Return the rates of our run and of sevenn's loop over the same batches."""
    import os

    import torch

    from aqvolt_flows.training.sevennet_process import _Run

    parameters = SevenNetParameters(steps=steps, max_atoms=max_atoms, evaluations=1, fit_references=False)
    given = {
        "checkpoint": "7net-mf-0", "start": "7net-mf-0/R2SCAN", "modality": "R2SCAN", "device": device,
        "train": str(release / "train"), "val": str(release / "val"), "parameters": parameters.model_dump(mode="json"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run = _Run(given)
        run.run()
        records = [r for r in read_records(Path("progress.jsonl")) if r["event"] == "train"][WARM:]
    ours = median(r["atoms_per_s"] for r in records)
    plain = _Run(given)
    batches = [plain._batch("train", indices) for indices in plain._batches(1)]
    atoms = [sum(plain.sizes["train"][i] for i in indices) for indices in plain._batches(1)]
    times = []
    for step in range(steps):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        begun = time.perf_counter()
        plain.trainer.run_one_epoch([batches[step % len(batches)]], is_train=True)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(atoms[step % len(batches)] / (time.perf_counter() - begun))
    return {
        "max_atoms": max_atoms,
        "atoms_per_s": round(ours, 1),
        "sevenn_atoms_per_s": round(median(times[WARM:]), 1),
        "data_wait_share": round(median(r["data_wait_share"] for r in records), 4),
        "memory_gib": records[-1]["memory_gib"],
    }


def main() -> None:
    """Measure and print one JSON line a batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-atoms", type=int, nargs="+", default=[128])
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder)
        largest = max(chosen.max_atoms)
        write(release / "train", [labeled(seed) for seed in range(max(4, 4 * largest // 64))])
        write(release / "val", [labeled(seed) for seed in range(1000, 1002)])
        for max_atoms in chosen.max_atoms:
            print(json.dumps(measure(release, chosen.device, max_atoms, chosen.steps)), flush=True)


if __name__ == "__main__":
    main()
