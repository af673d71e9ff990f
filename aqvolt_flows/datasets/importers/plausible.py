"""Numbers that are no label although each of them is a number: a net force, an atom alone, atoms on top of each other.

The limits are choices of this project, wide enough for what is published: codes with plane waves leave net forces
below 0.01 eV/Å per atom, the shortest bond there is (H2) has 0.74 Å, and no element's atoms are 7 Å apart in a crystal.
They find what was misread or miscopied; they do not judge the quality of a calculation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.datasets.energies import EnergyShift, fit_shift
from aqvolt_flows.schemas.label import LabelDocument
from aqvolt_flows.schemas.provenance import Failure

Array = NDArray[np.float64]

#: eV/Å, |Σ F|/N.
MAX_NET_FORCE = 0.2
#: Å, between two atoms or an atom and its own image.
MIN_DISTANCE = 0.4
#: Å³ per atom; hydrogen has 1 Å³ above 1 TPa.
MIN_VOLUME = 0.5
#: Å, from the only atom of a cell to its nearest image.
ALONE = 7.0
#: eV/atom below and above what the composition leads to expect. No element's atoms gain more than 9 eV when they bind,
#: so that crystals and atoms torn apart lie within; formation energies of salts against their elements reach -4 eV.
FAR_BELOW, FAR_ABOVE = 5.0, 10.0
#: Å, how the limit above grows with the largest force: the decay length of a repulsion is near 0.3 Å.
REPULSION_A = 0.2
#: The same in robust standard deviations of the labels, where these scatter more.
FAR_SIGMA = 10.0
#: Labels of an element, and of a composition, that the expectation rests on; and labels in all.
_PER_ELEMENT, _PER_COMPOSITION, _SAMPLE = 200, 5, 20_000


def find_implausible(label: LabelDocument) -> Failure | None:
    """Return why a label of finite numbers of the right shapes cannot be true, or None."""
    assert label.forces is not None
    net = float(np.linalg.norm(np.asarray(label.forces, dtype=float).sum(axis=0))) / label.n_atoms
    if net > MAX_NET_FORCE:
        return Failure(
            reason="net_force",
            message=f"The forces add up to {net * label.n_atoms:.3g} eV/Å, {net:.3g} per atom; expected at most "
            f"{MAX_NET_FORCE:g} per atom, since forces of a whole cell add up to zero.",
        )
    cell, positions = np.asarray(label.cell, dtype=float), np.asarray(label.positions, dtype=float)
    volume = abs(float(np.linalg.det(cell))) / label.n_atoms
    if volume < MIN_VOLUME:
        return Failure(
            reason="overlapping_atoms",
            message=f"The cell has {volume:.3g} Å³ per atom; expected at least {MIN_VOLUME:g} Å³.",
        )
    cell = _compact(cell)
    if (nearest := _nearest(positions, cell, MIN_DISTANCE)) is not None:
        return Failure(
            reason="overlapping_atoms",
            message=f"Two atoms are {nearest:.3g} Å apart; expected at least {MIN_DISTANCE:g} Å.",
        )
    if label.n_atoms == 1 and _nearest(positions, cell, ALONE) is None:
        return Failure(
            reason="isolated_atom",
            message=f"It is one atom alone in a box, its nearest image beyond {ALONE:g} Å; an energy of an isolated "
            "atom is a reference, not a label of a crystal.",
        )
    return None


def _compact(cell: Array) -> Array:
    """Return a cell of the same lattice; a very oblique one is reduced, since a search visits its images."""
    volume = abs(float(np.linalg.det(cell)))
    areas = np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    if volume / areas.max() >= MIN_DISTANCE:
        return cell
    from ase.geometry import minkowski_reduce

    return np.asarray(minkowski_reduce(cell)[0], dtype=float)


def _nearest(positions: Array, cell: Array, within: float) -> float | None:
    """Return the smallest distance (Å) between two atoms, periodic images included, if it is below a limit."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    points = np.ascontiguousarray(positions, dtype=float)
    pbc = np.ones(3, dtype=np.int64)
    first, second, _, distances = find_points_in_spheres(
        points, points, r=within, pbc=pbc, lattice=np.ascontiguousarray(cell, dtype=float), tol=1e-8
    )
    own = (first == second) & (distances < 1e-8)
    return float(distances[~own].min()) if (~own).any() else None


@dataclass
class CompositionEnergies:
    """What energies per atom a dataset leads to expect of a composition, one number per element, for each protocol.

    Learns from a bounded sample of the labels as they come, so that memory is flat; an element that fewer than five
    labels hold is not judged. The fit is that of energy jumps (:mod:`aqvolt_flows.datasets.energies`).
    """

    _protocols: dict[str, _Sample] = field(default_factory=dict)

    def learn(self, labels: Sequence[LabelDocument]) -> None:
        """Take labels into the sample, and fit again if it has grown enough."""
        for label in labels:
            self._protocols.setdefault(label.protocol_id, _Sample()).add(label)
        for sample in self._protocols.values():
            sample.fit()

    def far(self, label: LabelDocument) -> Failure | None:
        """Return why the energy is not that of the composition, or None."""
        sample = self._protocols.get(label.protocol_id)
        return sample.far(label) if sample is not None else None


@dataclass
class _Sample:
    energies: list[float] = field(default_factory=list)
    compositions: list[Mapping[str, int]] = field(default_factory=list)
    elements: Counter[str] = field(default_factory=Counter)
    formulas: Counter[str] = field(default_factory=Counter)
    shift: EnergyShift = field(default_factory=EnergyShift)
    sigma: float = 0.0
    fitted: int = 0

    def add(self, label: LabelDocument) -> None:
        new = any(self.elements[e] < _PER_ELEMENT for e in label.elements)
        if len(self.energies) >= _SAMPLE or not (new or self.formulas[label.formula] < _PER_COMPOSITION):
            return
        assert label.energy_per_atom is not None
        self.energies.append(label.energy_per_atom)
        self.compositions.append(Counter(symbols_of(label.atomic_numbers)))
        self.elements.update(label.elements)
        self.formulas[label.formula] += 1

    def fit(self) -> None:
        if len(self.energies) < 1.25 * self.fitted or len(self.energies) == self.fitted:
            return
        self.fitted = len(self.energies)
        self.shift = fit_shift(self.energies, self.compositions)
        rest = [
            energy - sum(n * self.shift.elements[e] for e, n in of.items()) / sum(of.values())
            for energy, of in zip(self.energies, self.compositions, strict=True)
        ]
        self.sigma = 1.4826 * float(np.median(np.abs(rest)))

    def far(self, label: LabelDocument) -> Failure | None:
        symbols = symbols_of(label.atomic_numbers)
        expected = self.shift.of(symbols)
        if expected is None:
            return None
        assert label.energy_per_atom is not None
        assert label.max_force is not None
        off = label.energy_per_atom - expected / label.n_atoms
        wide = FAR_SIGMA * self.sigma
        above = max(FAR_ABOVE, wide) + REPULSION_A * label.max_force
        below = max(FAR_BELOW, wide)
        if -below <= off <= above:
            return None
        return Failure(
            reason="far_energy",
            message=f"The energy is {off:+.3g} eV/atom from what the other labels of its elements lead to expect for "
            f"{label.formula}; expected between {-below:.3g} and {above:+.3g}.",
        )
