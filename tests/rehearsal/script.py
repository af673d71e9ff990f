"""Who fails, and how: frames, the stand-in's plan, and the outcome that each must have."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from fake_vasp.fixtures import rock_salt

from aqvolt_flows.frames import Frame
from aqvolt_flows.vasp.inputs import matpes_static_set, sorted_with_order


@dataclass(frozen=True)
class Kind:
    """One way for a frame to end: how often among failures, what the stand-in is told, the outcome it must have."""

    name: str
    weight: int
    status: str
    reason: str | None
    rule: dict | None = None


#: The weights make 42 of 200 frames fail, 21 %, mostly in the SCF, as in the paper (section 2.2).
FAILING = (
    Kind("SCF never converges", 14, "unconverged", "electronic", {"mode": "scf"}),
    Kind("scheduler's wall time", 4, "killed", "wall_time", {"mode": "wall_time"}),
    Kind("out of memory", 4, "killed", "out_of_memory", {"mode": "out_of_memory"}),
    Kind("killed while writing", 4, "killed", "interrupted", {"mode": "killed"}),
    Kind("segmentation fault", 3, "killed", "signal", {"mode": "signal"}),
    Kind("no space left", 3, "killed", "no_space_left", {"mode": "no_space"}),
    Kind("vasprun.xml cut short", 4, "bad_output", "truncated_vasprun", {"mode": "truncated"}),
    Kind("ZBRENT", 3, "failed", "vasp_error", {"mode": "zbrent"}),
    Kind("overlapping atoms", 1, "failed", "bad_structure"),
    Kind("element without POTCAR", 1, "failed", "missing_potcar"),
    Kind("artifact lost", 1, "failed", "missing_artifact"),
)
#: These go wrong once and right after: custodian cures the first, a fresh start the second.
CURED = (
    Kind("SCF cured by custodian", 1, "converged", None, {"mode": "scf", "attempts": 1}),
    Kind("killed once, started again", 1, "converged", None, {"mode": "killed", "attempts": 1, "across": True}),
)
FINE = Kind("converges", 0, "converged", None)
SALTS = (("Li", "Cl", 5.13), ("Li", "F", 4.03), ("Na", "Cl", 5.64), ("Li", "Br", 5.50), ("Na", "F", 4.62))
NUMBERS = {"Li": 3, "F": 9, "Na": 11, "Cl": 17, "K": 19, "Br": 35}
#: Potassium has none, so that a frame with it cannot run.
POTCARS = ["Li", "F", "Na", "Cl", "Br"]


def assigned(n_frames: int, share: float, seed: int) -> list[Kind]:
    """Return how each frame is to end: ``round(share × n)`` fail, two are cured, in an order that the seed shuffles.

    Each kind of failure is there at least once where the number allows it, the rest follows the weights.
    """
    n_failing = round(share * n_frames)
    kinds = list(FAILING[:n_failing])
    owed = {kind.name: kind.weight * n_failing / sum(k.weight for k in FAILING) - 1 for kind in FAILING}
    while len(kinds) < n_failing:
        most = max(FAILING, key=lambda kind: owed[kind.name])
        owed[most.name] -= 1
        kinds.append(most)
    kinds += CURED[: max(0, n_frames - len(kinds))]
    kinds += [FINE] * (n_frames - len(kinds))
    random.Random(seed).shuffle(kinds)
    return kinds


def frame_for(index: int, kind: Kind) -> Frame:
    """Return a rattled rock salt of 2 or 8 atoms, another for each index."""
    cation, anion, a = SALTS[index % len(SALTS)]
    if kind.reason == "missing_potcar":
        cation, anion, a = "K", "Cl", 6.29
    frame = rock_salt(a, rattle=0.05, seed=index, cubic=index % 3 == 0)
    numbers = np.where(frame.atomic_numbers == NUMBERS["Li"], NUMBERS[cation], NUMBERS[anion]).astype(np.int16)
    positions = frame.positions.copy()
    if kind.reason == "bad_structure":
        positions[1] = positions[0] + 0.1
    return replace(frame, step=index, atomic_numbers=numbers, positions=positions.astype(np.float32))


def poscar_hash(frame: Frame) -> str:
    """Return the SHA-256 of the POSCAR that VASP gets for a frame, by which the stand-in recognises it."""
    structure, _ = sorted_with_order(frame.to_structure())
    written = matpes_static_set().get_input_set(structure, potcar_spec=True)
    return hashlib.sha256(str(written["POSCAR"]).encode()).hexdigest()


def stand_in_plan(frames: Sequence[Frame], kinds: Sequence[Kind]) -> dict:
    """Return what ``FAKE_VASP_PLAN`` must hold."""
    rules = {poscar_hash(frame): kind.rule for frame, kind in zip(frames, kinds, strict=True) if kind.rule}
    return {"seed": 0, "rules": [], "frames": rules}
