"""MLIP Arena's energy–volume scan (the paper's Table 1), which asks for smooth curves with one minimum.

Definition, from MLIP Arena's ``wbm_ev`` benchmark (Chiang et al., arXiv:2509.20630) as the paper uses it
in section 3.2.3: 21 single points at linear strains −20 % … +20 % of all lattice parameters around the
structure as given. Points are sorted by volume and split at the fixed middle index (10), not at the
minimum. Then, with Spearman's ρ and ΔE between neighbors at their mean volume V_mid:

==========================  ==========================  =====
name                        definition                  ideal
==========================  ==========================  =====
compression, energy         ρ(V, E) over points [:10]   −1
compression, derivative     ρ(V_mid, ΔE) over [:10]     +1
tension, energy             ρ(V, E) over points [10:]   +1
tension, derivative         ρ(V_mid, ΔE) over [10:]     —
==========================  ==========================  =====

The paper's column ∂E/∂V agrees with Arena's compression derivative, although its text says tensile;
both are reported. Beyond the inflection of a bond ∂E/∂V falls again, so the tension derivative has no
ideal value. *Flips* are sign changes of ΔE after dropping zeros. A structure fails if an energy is
missing or not finite, or if its curve has not exactly one minimum ("systems must exhibit a single
global minimum", section 3.2.3): flips ≠ 1, or one flip that is a maximum. A structure with an element that the
potential was not trained on is *not covered*: it is counted apart and in no denominator.

Arena drops zero ΔE from its list without dropping their volumes, which shifts its derivative ρ for curves
with a flat step; here volumes and differences stay aligned. For curves without flat steps both agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from aqvolt_flows.benchmarks.evaluate import evaluate_each, evaluator
from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Evaluation
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.structures import to_atoms, to_structures

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

#: The measures that are averaged, in the order of Table 1 and then the rest.
MEASURES = ("compression_energy", "compression_derivative", "tension_energy", "tension_derivative")
#: Reason of a structure with an element that the potential does not know: coverage, not failure.
NOT_COVERED = "not_covered"
#: Structures whose strained copies are handed to the potential together.
STRUCTURES_PER_CALL = 8


@dataclass(frozen=True, eq=False)
class EVScan:
    """The scan of one structure.

    Attributes
    ----------
    n_atoms
        Atoms in the cell.
    volumes, energies
        (n_points,), Å³ and eV of the whole cell, sorted by volume; NaN where an energy is missing.
    spearman
        One value per name of :data:`MEASURES`; None where it is not defined (an energy is missing, or
        all values are equal).
    flips
        Sign changes of ΔE, or None with a missing energy.
    tortuosity
        Σ|ΔE| / (|E_first − E_mid| + |E_last − E_mid|), 1 for an ideal curve whose minimum is in the middle.
    failure
        Why it counts as failed, or None.
    """

    n_atoms: int
    volumes: Array
    energies: Array
    spearman: dict[str, float | None]
    flips: int | None
    tortuosity: float | None
    failure: Failure | None


def linear_strains(n_points: int = 21, max_linear_strain: float = 0.20) -> Array:
    """Return the strains −max … +max, (n_points,); an odd number puts the structure as given in the middle.

    Raises
    ------
    InputError
        If there are fewer than five points, or the largest strain is not between 0 and 1.
    """
    if n_points < 5 or not 0 < max_linear_strain < 1:
        raise InputError(
            f"An E–V scan of {n_points} points to strain {max_linear_strain:g} has no shape; use at least 5 points and "
            "a strain between 0 and 1."
        )
    return np.linspace(-max_linear_strain, max_linear_strain, n_points)


def strained(atoms: Atoms, strains: Sequence[float] | Array) -> list[Atoms]:
    """Return copies with all lattice parameters times (1 + strain), fractional coordinates kept."""
    copies = []
    for strain in strains:
        copy = atoms.copy()  # type: ignore[no-untyped-call]
        copy.set_cell(atoms.cell.array * (1.0 + float(strain)), scale_atoms=True)
        copies.append(copy)
    return copies


def _spearman(x: Array, y: Array) -> float | None:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)


def analyze_curve(volumes: Sequence[float] | Array, energies: Sequence[float] | Array, n_atoms: int = 1) -> EVScan:
    """Return the measures of one curve (see the module's docstring).

    Parameters
    ----------
    volumes
        (n_points,), Å³, in any order.
    energies
        (n_points,), eV; NaN or infinite means missing.
    n_atoms
        Atoms in the cell; only carried along.
    """
    order = np.argsort(np.asarray(volumes, dtype=float), kind="stable")
    v = np.asarray(volumes, dtype=float)[order]
    e = np.asarray(energies, dtype=float)[order]
    missing = int((~np.isfinite(e)).sum())
    if missing:
        failure = Failure(reason="missing_energy", message=f"{missing} of {len(e)} energies are missing or not finite.")
        return EVScan(n_atoms, v, np.where(np.isfinite(e), e, np.nan), dict.fromkeys(MEASURES), None, None, failure)
    middle = len(v) // 2
    v_mid, delta = (v[1:] + v[:-1]) / 2, np.diff(e)
    signs = np.sign(delta[delta != 0])
    flips = int((np.diff(signs) != 0).sum())
    span = abs(e[0] - e[middle]) + abs(e[-1] - e[middle])
    return EVScan(
        n_atoms=n_atoms,
        volumes=v,
        energies=e,
        spearman={
            "compression_energy": _spearman(v[:middle], e[:middle]),
            "compression_derivative": _spearman(v_mid[:middle], delta[:middle]),
            "tension_energy": _spearman(v[middle:], e[middle:]),
            "tension_derivative": _spearman(v_mid[middle:], delta[middle:]),
        },
        flips=flips,
        tortuosity=float(np.abs(delta).sum() / span) if span > 0 else None,
        failure=_verdict(flips, signs),
    )


def _verdict(flips: int, signs: Array) -> Failure | None:
    if flips != 1:
        return Failure(reason="flips", message=f"The slope changes sign {flips} times; one minimum means once.")
    if signs[0] > 0:
        return Failure(reason="no_minimum", message="The curve's one turning point is a maximum.")
    return None


def scan_structures(
    evaluate: Any,
    structures: Sequence[Atoms] | Atoms,
    n_points: int = 21,
    max_linear_strain: float = 0.20,
    progress: Callable[[int], None] | None = None,
    elements: Collection[int] | None = None,
) -> list[EVScan]:
    """Return the scan of each structure, in order.

    Parameters
    ----------
    evaluate
        A model string, an ASE calculator, a torch-sim model, or ``Potential.evaluate``. A structure for which it
        raises, or gives numbers that are not finite, has missing energies and fails.
    structures
        ASE Atoms or pymatgen Structures as given, one or several; they are not relaxed.
    n_points, max_linear_strain
        See :func:`linear_strains`.
    progress
        Called with the number of structures finished.
    elements
        Atomic numbers that the potential knows; a structure with another one is not covered. None: not looked at.
    """
    strains = linear_strains(n_points, max_linear_strain)
    compute = evaluator(evaluate)
    given = [to_atoms(s, f"structure {i}") for i, s in enumerate(to_structures(structures))]
    scans: list[EVScan] = []
    for first in range(0, len(given), STRUCTURES_PER_CALL):
        group = given[first : first + STRUCTURES_PER_CALL]
        strange = [_strange(atoms, elements) for atoms in group]
        systems = [strained(atoms, strains) for atoms in group]
        known = [s for copies, names in zip(systems, strange, strict=True) if not names for s in copies]
        found = iter(evaluate_each(compute, known))
        for atoms, copies, names in zip(group, systems, strange, strict=True):
            if names:
                scans.append(not_covered(copies, names))
            else:
                scans.append(_scan(copies, [next(found) for _ in copies], len(atoms)))
        if progress:
            progress(len(scans))
    return scans


def _strange(atoms: Atoms, elements: Collection[int] | None) -> list[str]:
    """Return the symbols of a structure's elements that are not among ``elements``."""
    return [] if elements is None else symbols_of(sorted({int(z) for z in atoms.numbers} - set(elements)))


def not_covered(systems: Sequence[Atoms], names: Sequence[str]) -> EVScan:
    """Return the scan of a structure with elements that the potential was not trained on: volumes, no energy."""
    volumes = np.sort([float(s.cell.volume) for s in systems])
    failure = Failure(reason=NOT_COVERED, message=f"The potential was not trained on {', '.join(names)}.")
    energies = np.full(len(volumes), np.nan)
    return EVScan(len(systems[0]), volumes, energies, dict.fromkeys(MEASURES), None, None, failure)


def _scan(systems: Sequence[Atoms], found: Sequence[Evaluation | Failure], n_atoms: int) -> EVScan:
    """Return the measures of one structure's evaluations, the model's own reason kept beside a failure."""
    energies = [np.nan if isinstance(f, Failure) else f.energy for f in found]
    scan = analyze_curve([float(s.cell.volume) for s in systems], energies, n_atoms)
    reasons = [f.message for f in found if isinstance(f, Failure)]
    if scan.failure is None or not reasons:
        return scan
    message = f"{scan.failure.message} First: {reasons[0]}"
    return replace(scan, failure=Failure(reason=scan.failure.reason, message=message))


def aggregate(scans: Sequence[EVScan]) -> dict[str, Any]:
    """Return the means over a set; see :func:`means`. Every covered structure is in every denominator."""
    return means(
        [s.spearman | {"flips": s.flips, "tortuosity": s.tortuosity} for s in scans],
        [s.failure.reason if s.failure else None for s in scans],
    )


def means(values: Sequence[Mapping[str, float | None]], reasons: Sequence[str | None]) -> dict[str, Any]:
    """Return the means over a set of structures.

    A structure without a value has shown no order and counts as ρ = 0, in ``spearman_<measure>``.
    ``spearman_<measure>_computed`` is the mean over the structures that have one (``n_computed`` have all energies), as
    MLIP Arena prints it. Structures that are not covered are in neither. Names without a value are None (an empty set).

    Parameters
    ----------
    values
        Per structure the :data:`MEASURES`, ``flips`` and ``tortuosity``; None where there is no value.
    reasons
        Per structure why it failed, or None.
    """
    covered = [(v, r) for v, r in zip(values, reasons, strict=True) if r != NOT_COVERED]
    n = len(covered)
    complete = [v for v, _ in covered if v["flips"] is not None]
    failed = Counter(r for _, r in covered if r is not None)
    metrics: dict[str, Any] = {
        "n_covered": n,
        "n_computed": len(complete),
        "coverage_percent": 100.0 * n / len(values) if values else None,
        "failed_percent": 100.0 * failed.total() / n if n else None,
        "failed_by_reason": dict(sorted(failed.items())),
    }
    for name in MEASURES:
        known = [x for v, _ in covered if (x := v[name]) is not None]
        metrics[f"spearman_{name}"] = sum(known) / n if n else None
        metrics[f"spearman_{name}_computed"] = sum(known) / len(known) if known else None
    for name in ("flips", "tortuosity"):
        known = [x for v in complete if (x := v[name]) is not None]
        metrics[f"mean_{name}_computed"] = float(np.mean(known)) if known else None
    return metrics
