"""What a structure is compared with, and its errors: sums from which those of any group of structures follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.potentials import Evaluation
from aqvolt_flows.schemas.provenance import Failure

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a structure is compared with: energy (eV, total), forces (n_atoms, 3; eV/Å), stress (6; eV/Å³) or None."""

    item_id: str
    energy: float
    forces: Array
    stress: Array | None = None

    @property
    def max_force(self) -> float:
        """Largest |F| of any atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())


#: What a row holds of one structure's errors; see :class:`ItemErrors`.
SUMS = ("energy_error", "force_mae", "force_sse", "force_dot", "force_ref_sq", "stress_mae", "stress_sse")


@dataclass(frozen=True)
class ItemErrors:
    """Errors of one structure; sums from which errors of any group of structures follow.

    Attributes
    ----------
    max_force
        Largest |F| of the reference, eV/Å; it decides the bin.
    energy_error
        Signed, prediction minus reference, eV/atom.
    force_mae
        Mean over 3·n_atoms components, eV/Å.
    force_sse, force_dot, force_ref_sq
        Σ(F − F_ref)², ΣF·F_ref and ΣF_ref² over the components, (eV/Å)².
    stress_mae, stress_sse
        Mean of |Δσ| over 6 components, eV/Å³, and Σ Δσ²; None if the reference has no stress.
    failure
        Why there are no errors, or None.
    source, subset, group, formula
        Where the structure comes from, of which candidate it is a frame, and its reduced formula.
    """

    item_id: str
    n_atoms: int
    max_force: float
    energy_error: float | None = None
    force_mae: float | None = None
    stress_mae: float | None = None
    failure: Failure | None = None
    force_sse: float | None = None
    force_dot: float | None = None
    force_ref_sq: float | None = None
    stress_sse: float | None = None
    source: str = ""
    subset: str = ""
    group: str = ""
    formula: str = ""


def item_errors(reference: Reference, found: Evaluation | Failure) -> ItemErrors:
    """Return the errors of one structure, or its failure."""
    n_atoms, max_force = len(reference.forces), reference.max_force
    if isinstance(found, Failure):
        return ItemErrors(reference.item_id, n_atoms, max_force, failure=found)
    difference = found.forces - reference.forces
    stress = None if reference.stress is None else found.stress - reference.stress
    return ItemErrors(
        item_id=reference.item_id,
        n_atoms=n_atoms,
        max_force=max_force,
        energy_error=(found.energy - reference.energy) / n_atoms,
        force_mae=float(np.abs(difference).mean()),
        force_sse=float((difference**2).sum()),
        force_dot=float((found.forces * reference.forces).sum()),
        force_ref_sq=float((reference.forces**2).sum()),
        stress_mae=None if stress is None else float(np.abs(stress).mean()),
        stress_sse=None if stress is None else float((stress**2).sum()),
    )


def of_row(row: Mapping[str, Any]) -> ItemErrors:
    """Return the errors that a row of the details' table holds."""
    reason = row["failure_reason"]
    return ItemErrors(
        item_id=row["item_id"],
        n_atoms=row["n_atoms"] or 0,
        max_force=row["max_force"] if row["max_force"] is not None else float("nan"),
        failure=Failure(reason=reason, message=row["failure_message"] or "") if reason else None,
        **{name: row[name] for name in SUMS},
        source=row["source"] or "",
        subset=row["subset"] or "",
        group=row["group"] or "",
        formula=row["formula"] or "",
    )
