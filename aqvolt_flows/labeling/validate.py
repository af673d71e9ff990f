"""Check frames before a calculation and results after it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.labeling.configuration import Configuration
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Failure, Protocol, failed_because

Array = NDArray[np.float64]

#: Largest mean force (eV/Å per atom) of a sound calculation. In an exact one the sum of forces is zero; what
#: VASP leaves on its grids is below 0.01 per cell. A choice of this project, the paper names none.
MAX_DRIFT_EV_PER_A = 0.05
#: The same relative to the largest force, so that frames with forces of hundreds of eV/Å are not refused for the
#: rounding of single-precision models (2⁻²⁴ ≈ 6·10⁻⁸ per operation, thousands of operations).
MAX_RELATIVE_DRIFT = 1e-3
#: Å. The shortest bond there is, in H₂, is 0.74 Å; atoms at half of it lie on each other. Sampling has dropped frames
#: long before (sampling.min_distance_factor); this catches frames that came another way.
MIN_DISTANCE_A = 0.37
#: Å³ per atom. Solid Cs, the most dilute metal, has 115; a cell above this is vacuum with an atom in it, and plane
#: waves fill vacuum too. Choices of this project, the paper names none.
MAX_VOLUME_PER_ATOM_A3 = 500.0


def structure_fault(frame: Configuration) -> Failure | None:
    """Return why a frame is not worth a calculation, or None; the same for every code.

    VASP stops at coincident atoms and left-handed cells, and computes vacuum for hours.
    """
    message = _cell_fault(frame) or _distance_fault(frame)
    return failed_because("bad_structure", message) if message else None


def _cell_fault(frame: Configuration) -> str | None:
    cell, positions = frame.cell.astype(float), frame.positions.astype(float)
    if not frame.n_atoms or positions.shape != (frame.n_atoms, 3):
        return (
            f"Positions have shape {positions.shape} for {frame.n_atoms} atoms; expected at least one and three each."
        )
    if not (np.isfinite(cell).all() and np.isfinite(positions).all()):
        return "Positions or cell hold numbers that are not finite."
    volume = float(np.linalg.det(cell))
    if abs(volume) < 1e-3:
        return f"The cell's volume is {abs(volume):.2g} Å³; expected three independent vectors."
    if volume < 0:
        return "The cell is left-handed, which VASP refuses; exchange two of its vectors and sample again."
    if volume / frame.n_atoms > MAX_VOLUME_PER_ATOM_A3:
        return (
            f"There are {volume / frame.n_atoms:.0f} Å³ per atom, mostly vacuum; expected at most "
            f"{MAX_VOLUME_PER_ATOM_A3:.0f}."
        )
    return None


def _distance_fault(frame: Configuration) -> str | None:
    from ase.neighborlist import neighbor_list

    first, second, distance = neighbor_list("ijd", frame.to_atoms(), MIN_DISTANCE_A)
    if not len(distance):
        return None
    k = int(np.argmin(distance))
    return (
        f"Atoms {int(first[k])} and {int(second[k])} are {float(distance[k]):.2f} Å apart; expected at least "
        f"{MIN_DISTANCE_A} Å, half of the shortest bond there is."
    )


def drift(forces: Array) -> float:
    """Return the length of the mean force, eV/Å per atom."""
    return float(np.linalg.norm(np.asarray(forces, dtype=float).mean(axis=0)))


def check_result(energy: float, forces: Array, stress: Array, n_atoms: int) -> Failure | None:
    """Return why a result is no label, or None.

    Parameters
    ----------
    energy
        Total energy, eV.
    forces
        (n_atoms, 3), eV/Å.
    stress
        (6,), eV/Å³.
    n_atoms
        Atoms of the frame.
    """
    forces, stress = np.asarray(forces, dtype=float), np.asarray(stress, dtype=float)
    if forces.shape != (n_atoms, 3) or stress.shape != (6,):
        return failed_because(
            "wrong_shape",
            f"Forces have shape {forces.shape} and stress {stress.shape}; expected ({n_atoms}, 3) and (6,).",
        )
    for name, value in (("energy", energy), ("forces", forces), ("stress", stress)):
        if not np.all(np.isfinite(value)):
            return failed_because("not_finite", f"The {name} of the result holds numbers that are not finite.")
    limit = max(MAX_DRIFT_EV_PER_A, MAX_RELATIVE_DRIFT * float(np.linalg.norm(forces, axis=1).max()))
    seen = drift(forces)
    if seen > limit:
        return failed_because(
            "force_drift",
            f"The mean force is {seen:.3g} eV/Å; expected at most {limit:.3g}, the sum of forces must vanish.",
        )
    return None


def computed(
    *,
    frame_id: str,
    key: str,
    protocol: Protocol,
    atomic_numbers: Array,
    positions: Array,
    cell: Array,
    energy: float,
    forces: Array,
    stress: Array,
    **facts: object,
) -> LabelOutcome:
    """Return the outcome of a finished evaluation: converged, or bad output if :func:`check_result` objects.

    Parameters
    ----------
    atomic_numbers, positions, cell
        (n_atoms), (n_atoms, 3) and (3, 3), Å: what was computed.
    **facts
        Further fields of :class:`LabelOutcome`.
    """
    failure = check_result(energy, forces, stress, len(atomic_numbers))
    frame = {
        "frame_id": frame_id,
        "key": key,
        "protocol": protocol,
        "atomic_numbers": [int(z) for z in atomic_numbers],
        "positions": np.asarray(positions, dtype=float).tolist(),
        "cell": np.asarray(cell, dtype=float).tolist(),
    }
    if failure is not None:
        return LabelOutcome.model_validate(frame | {"status": "bad_output", "failure": failure} | facts)
    result = {
        "status": "converged",
        "energy": float(energy),
        "forces": np.asarray(forces, dtype=float).tolist(),
        "stress": np.asarray(stress, dtype=float).tolist(),
    }
    details = {"force_drift": drift(forces), **_mapping(facts.pop("details", None))}
    return LabelOutcome.model_validate(frame | result | {"details": details} | facts)


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}
