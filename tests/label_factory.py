"""Frames and labeling outcomes of a world that can be checked by hand: rock-salt LiCl and LiF with harmonic labels.

The energy is N × −3 eV/atom above isolated r2SCAN atoms plus Σ ½ k |u|² with k = 2 eV/Å², so that forces are −k u, the
cohesive energy follows from the displacements, and the stress is a chosen pressure. Nothing here uses the package's own
science except its table of isolated atoms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.build import bulk

from aqvolt_flows.chemistry import atomic_energies
from aqvolt_flows.schemas.frame import FrameDocument
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import ArtifactRef, Protocol

SPRING = 2.0
SURROGATE = Protocol(code="surrogate", version="1", functional="chgnet/r2scan", settings_hash="ab" * 32)
VASP = Protocol(code="vasp", version="6.4.3", functional="r2SCAN", settings_hash="cd" * 32)
LATTICE = {"LiCl": 5.13, "LiF": 4.03}


def frame(number: int, formula: str = "LiCl") -> FrameDocument:
    """Return frame ``number``; its trajectory and candidate are those of every fourth frame and of its formula."""
    elements = sorted({"LiCl": ["Li", "Cl"], "LiF": ["Li", "F"]}[formula])
    return FrameDocument(
        key=f"frame-key-{number}",
        frame_id=f"frame-{number:04d}",
        trajectory_id=f"trajectory-{number % 4}",
        candidate_id=f"candidate-{formula}",
        sample_key="sample-1",
        step=number * 10,
        formula=formula,
        chemsys="-".join(elements),
        elements=elements,
        n_atoms=8,
        temperature_k=300.0,
        artifact=ArtifactRef(sha256="0" * 64, format="parquet", bytes=1),
        row=number,
        surrogate_energy=-1.0,
        surrogate_max_force=1.0,
        structure_cluster=0,
        structure_distance=0.0,
        atom_clusters=[],
    )


def outcome(
    number: int, formula: str = "LiCl", protocol: Protocol = SURROGATE, seed: int | None = None, **changes: Any
) -> LabelOutcome:
    """Return what a labeler would have returned for frame ``number``."""
    rng = np.random.default_rng(number if seed is None else seed)
    atoms = bulk(formula, "rocksalt", a=LATTICE[formula], cubic=True)
    shift = rng.normal(scale=0.1, size=(8, 3))
    table = atomic_energies("r2SCAN")
    energy = sum(table[s] - 3.0 for s in atoms.symbols) + 0.5 * SPRING * float((shift**2).sum())
    pressure = rng.normal(scale=0.01)
    values: dict[str, Any] = {
        "frame_id": f"frame-{number:04d}",
        "key": f"label-job-{number}-{protocol.code}",
        "status": "converged",
        "protocol": protocol,
        "atomic_numbers": atoms.numbers.tolist(),
        "positions": (atoms.positions + shift).tolist(),
        "cell": atoms.cell.array.tolist(),
        "energy": energy,
        "forces": (-SPRING * shift).tolist(),
        "stress": [-pressure, -pressure, -pressure, 0.001, 0.002, 0.003],
        "cost_core_hours": 0.5,
    }
    return LabelOutcome(**(values | changes))


def output(
    result: LabelOutcome | dict[str, Any],
    uuid: str,
    at: str = "2026-01-01T00:00:00",
    stage: str = "label",
    index: int = 1,
) -> dict[str, Any]:
    """Return the document that the JobStore holds of a labeling job."""
    plain = result.model_dump(mode="json") if isinstance(result, LabelOutcome) else result
    key = plain.get("key", "") if isinstance(plain, dict) else ""
    return {
        "uuid": uuid,
        "index": index,
        "output": plain,
        "completed_at": at,
        "name": "static",
        "metadata": {"aqvolt": {"stage": stage, "key": key}},
    }


def fill(database: Any, number: int, formula: str = "LiCl", **changes: Any) -> None:
    """Put ``number`` frames with their finished labeling jobs into a database."""
    database.upsert("frames", [frame(i, formula) for i in range(number)])
    database["outputs"].insert_many([output(outcome(i, formula, **changes), f"uuid-{i}") for i in range(number)])
