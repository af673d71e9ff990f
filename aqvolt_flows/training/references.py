"""What energies are shifted by and all targets scaled by: element references and the RMS force of a training set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from scipy.linalg import qr

from aqvolt_flows.errors import InputError

#: Length of the element embedding and of the list of element references, indexed by Z.
MAX_ELEMENTS = 100


@dataclass(frozen=True, eq=False)
class Labelled:
    """What the references need of one labeled configuration.

    Attributes
    ----------
    atomic_numbers
        (n_atoms,).
    energy
        Total energy, eV.
    forces
        (n_atoms, 3), eV/Å.
    """

    atomic_numbers: NDArray[np.int64]
    energy: float
    forces: NDArray[np.float64]


@dataclass(frozen=True)
class References:
    """What targets are shifted and scaled by.

    Attributes
    ----------
    element_energies
        ``MAX_ELEMENTS`` numbers, eV, indexed by Z; 0 for elements that the data do not have.
    force_rms
        Root mean square of all force components, eV/Å; it scales energies, forces and stresses alike, so
        that predicted forces stay the gradient of the predicted energy.
    """

    element_energies: tuple[float, ...]
    force_rms: float


@dataclass(frozen=True, eq=False)
class Composition:
    """What is kept of one frame while a training set is read.

    Attributes
    ----------
    counts
        Atoms of each element, by Z.
    energy
        eV.
    squares, components
        Sum of squared force components (eV/Å)², and how many they are.
    """

    counts: NDArray[np.int16]
    energy: float
    squares: float
    components: int

    @classmethod
    def of(
        cls, numbers: NDArray[np.int64], energy: float | None, forces: NDArray[np.float64] | None
    ) -> Composition | None:
        """Return that of a frame, or None where it has no energy or forces."""
        if energy is None or forces is None:
            return None
        counts = np.bincount(numbers, minlength=MAX_ELEMENTS).astype(np.int16)
        return cls(counts, energy, float(np.square(forces).sum()), forces.size)


@dataclass
class Compositions:
    """Collects compositions, energies and forces of a training set, frame by frame."""

    _counts: list[NDArray[np.int16]] = field(default_factory=list)
    _energies: list[float] = field(default_factory=list)
    _squares: float = 0.0
    _components: int = 0

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._energies)

    def add(self, frame: Composition) -> None:
        """Take one frame."""
        self._counts.append(frame.counts)
        self._energies.append(frame.energy)
        self._squares += frame.squares
        self._components += frame.components

    def _checked(self) -> NDArray[np.int16]:
        if not self._energies:
            raise InputError(
                "The training split holds no frame; expected at least one, make a release with more labels."
            )
        if self._squares == 0.0:
            raise InputError("All forces of the training split are zero; expected off-equilibrium frames to scale by.")
        return np.asarray(self._counts)

    def least_squares(self) -> References:
        """Return ``min Σ (E_i - Σ_Z n_iZ e_Z)²``; of least norm where compositions do not determine every element."""
        counts = self._checked()
        present = counts.any(axis=0)
        solution = np.zeros(MAX_ELEMENTS)
        matrix = counts[:, present].astype(float)
        solution[present] = np.linalg.lstsq(matrix, np.asarray(self._energies), rcond=None)[0]
        return References(tuple(float(e) for e in solution), self.force_rms)

    @property
    def force_rms(self) -> float:
        """Root mean square of all force components, eV/Å."""
        return float(np.sqrt(self._squares / max(self._components, 1)))

    def isolated_atoms(self, energies: Mapping[str, float]) -> References:
        """Return energies of isolated atoms, eV by symbol, for the elements that the set has.

        Raises
        ------
        InputError
            If an element has none.
        """
        counts = self._checked()
        solution = [0.0] * MAX_ELEMENTS
        present = [int(z) for z in np.flatnonzero(counts.any(axis=0))]
        missing = [chemical_symbols[z] for z in present if chemical_symbols[z] not in energies]
        if missing:
            raise InputError(
                f"training.references is isolated_atoms, and there is no energy of the isolated atom of "
                f"{', '.join(missing)}; give training.isolated_atom_energies, or set references: least_squares."
            )
        for z in present:
            solution[z] = float(energies[chemical_symbols[z]])
        return References(tuple(solution), self.force_rms)

    def undetermined(self) -> list[str]:
        """Return which combinations of element energies the compositions leave open, such as ``"Li - F - Cl"``.

        Adding any multiple of such a combination to the references changes no total energy of the set; the fit takes
        the solution of least norm. Empty: every element is determined.
        """
        counts = np.unique(self._checked(), axis=0).astype(int)
        present = [int(z) for z in np.flatnonzero(counts.any(axis=0))]
        return [_said(vector, present) for vector in null_space(counts[:, present])]


def null_space(matrix: NDArray[Any]) -> list[list[Fraction]]:
    """Return a basis of the null space of a small matrix of integers, exact, one vector per free column."""
    columns = matrix.shape[1]
    upper, pivots = qr(matrix.T.astype(float), mode="r", pivoting=True)
    diagonal = np.abs(np.diagonal(upper))
    rank = int((diagonal > diagonal[0] * 1e-9).sum())
    if rank == columns:
        return []
    rows = [[Fraction(int(v)) for v in matrix[i]] for i in pivots[:rank]]
    leading: list[int] = []
    for column in range(columns):
        place = len(leading)
        found = next((i for i in range(place, rank) if rows[i][column]), None)
        if found is None:
            continue
        rows[place], rows[found] = rows[found], rows[place]
        scale = rows[place][column]
        rows[place] = [v / scale for v in rows[place]]
        for i in range(rank):
            factor = rows[i][column]
            if i != place and factor:
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[place], strict=True)]
        leading.append(column)
    free = [c for c in range(columns) if c not in leading]
    basis = []
    for column in free:
        vector = [Fraction(0)] * columns
        vector[column] = Fraction(1)
        for place, pivot in enumerate(leading):
            vector[pivot] = -rows[place][column]
        basis.append(vector)
    return basis


def _said(vector: list[Fraction], numbers: list[int]) -> str:
    terms = [(chemical_symbols[z], v) for z, v in zip(numbers, vector, strict=True) if v]
    sign = 1 if terms[0][1] > 0 else -1
    said = ""
    for symbol, value in terms:
        amount = abs(value)
        term = symbol if amount == 1 else f"{amount} {symbol}"
        minus = value * sign < 0
        said += (" - " if minus else " + ") + term if said else term
    return said


def reference_energies(frames: Iterable[Labelled]) -> References:
    """Return least-squares linear element references and the RMS force of labeled frames.

    Parameters
    ----------
    frames
        Training configurations, at least one; read once.

    Raises
    ------
    InputError
        If there are none, an energy or force is not finite, an element is beyond Z = 99, or all forces
        are zero.
    """
    found = Compositions()
    for index, frame in enumerate(frames):
        forces = np.asarray(frame.forces, dtype=float)
        if not (np.isfinite(frame.energy) and np.isfinite(forces).all()):
            raise InputError(f"Training frame {index} has an energy or force that is not finite; verify the release.")
        if max(frame.atomic_numbers) >= MAX_ELEMENTS:
            raise InputError(f"Training frame {index} has Z = {max(frame.atomic_numbers)}; the model knows Z up to 99.")
        composition = Composition.of(np.asarray(frame.atomic_numbers), frame.energy, forces)
        if composition is not None:
            found.add(composition)
    return found.least_squares()


def symbols_of(references: References) -> dict[str, float]:
    """Return the non-zero element references by symbol, eV: a form for documents."""
    return {chemical_symbols[z]: e for z, e in enumerate(references.element_energies) if e}


def references_of(symbols: Mapping[str, float], force_rms: float) -> References:
    """Return the references that :func:`symbols_of` and ``force_rms`` describe."""
    energies = [0.0] * MAX_ELEMENTS
    for symbol, energy in symbols.items():
        energies[atomic_numbers[symbol]] = float(energy)
    return References(tuple(energies), force_rms)
