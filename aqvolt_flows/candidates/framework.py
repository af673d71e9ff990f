"""Whether a crystal is still the same after a relaxation, whatever cell it is written in.

pymatgen's ``StructureMatcher`` reduces each of two structures to its own primitive cell. One that lost its translations
by a distortion keeps the large cell, and the two are called different for their numbers of atoms. Here the atoms are
followed by their order, which a relaxation keeps; lengths and angles are those of the primitive cell of the structure
before, carried along by the deformation, so that they do not depend on the cell that was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

#: Å; tolerance of spglib when the primitive cell of the structure before is looked for.
SYMPREC_A = 0.01
#: Å; atoms that a primitive translation brings closer than this are one.
_FOLDED_A = 0.1
#: Relative length and degrees within which two bases of one lattice are equivalent.
_SAME_BASIS = (0.01, 1.0)


@dataclass(frozen=True)
class Tolerances:
    """What ``StructureMatcher`` allows by default, which is what the paper uses.

    Attributes
    ----------
    ltol
        Largest relative change of a length of the primitive cell, at equal volume.
    stol
        Largest displacement of an atom in units of (V/n)^(1/3).
    angle_tol
        Largest change of an angle of the primitive cell, degrees.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0


@dataclass(frozen=True)
class Change:
    """What became of a crystal.

    Attributes
    ----------
    kept
        Within the tolerances, or matched by ``StructureMatcher`` with another assignment of atoms.
    rms_a, max_displacement_a
        Root mean square and largest displacement at equal volume, Å; None where the atoms could not be followed and no
        match was found.
    volume_change
        V/V₀ − 1.
    length_change, angle_change
        Largest relative change of a length, and of an angle (degrees), of the primitive cell at equal volume; None
        where the atoms could not be followed.
    limit
        Which tolerance was exceeded, with both numbers; empty if none was.
    """

    kept: bool
    rms_a: float | None
    max_displacement_a: float | None
    volume_change: float
    length_change: float | None = None
    angle_change: float | None = None
    limit: str = ""


def compare(before: Structure, after: Structure, tolerances: Tolerances, crystal: Structure | None = None) -> Change:
    """Compare a structure with what a relaxation made of it.

    Parameters
    ----------
    before, after
        Ordered structures; the same atoms in the same order, in cells of the same shape but for the relaxation.
    tolerances
        Limits.
    crystal
        The structure whose primitive cell counts, in the same cell as ``before``: where ``before`` is relaxed itself,
        the one it was relaxed from, for a relaxation may hide its translations. Default: ``before``.
    """
    volume = after.volume / before.volume - 1
    if [s.specie.symbol for s in before] != [s.specie.symbol for s in after]:
        return _matched(before, after, tolerances, volume, "the atoms are not those of before")
    lengths, angles = lattice_change(before, after, tolerances, crystal)
    rms, largest = displacements(before, after)
    unit = (before.volume * after.volume) ** (1 / 6) / len(before) ** (1 / 3)
    limits = [
        f"{name} by {seen:.3g}{sign}; at most {most:g}{sign}"
        for name, seen, most, sign in (
            ("a length of the primitive cell changed", 100 * lengths, 100 * tolerances.ltol, " %"),
            ("an angle of the primitive cell changed", angles, tolerances.angle_tol, "°"),
            ("an atom moved", largest, tolerances.stol * unit, " Å"),
        )
        if seen > most
    ]
    if limits:
        return _matched(before, after, tolerances, volume, "; ".join(limits), lengths, angles)
    return Change(True, rms, largest, volume, lengths, angles)


def _matched(
    before: Structure,
    after: Structure,
    t: Tolerances,
    volume: float,
    limit: str,
    lengths: float | None = None,
    angles: float | None = None,
) -> Change:
    """Return what ``StructureMatcher`` finds where the atoms cannot be followed: layers that glide may map again."""
    from pymatgen.core.structure_matcher import StructureMatcher

    unit = (before.volume * after.volume) ** (1 / 6) / len(before) ** (1 / 3)
    for primitive in (True, False):
        matcher = StructureMatcher(ltol=t.ltol, stol=t.stol, angle_tol=t.angle_tol, primitive_cell=primitive)
        found = matcher.get_rms_dist(before, after)
        if found is not None:
            return Change(True, float(found[0]) * unit, float(found[1]) * unit, volume, lengths, angles)
    return Change(False, None, None, volume, lengths, angles, limit)


def displacements(before: Structure, after: Structure) -> tuple[float, float]:
    """Return the root mean square and the largest displacement of atoms in the same order, Å, at equal volume.

    The crystal's shift as a whole is taken out. Distances are measured with the mean of both metric tensors, scaled to
    the geometric mean of the volumes; no other cell of the same crystals gives another number.
    """
    moved = np.asarray(after.frac_coords) - np.asarray(before.frac_coords)
    metric = _mean_metric(before, after)
    best: tuple[float, float] | None = None
    for reference in moved[: min(len(moved), 8)]:  # a mean of wrapped differences is wrong near half a cell
        difference = moved - reference
        difference -= np.round(difference)
        difference -= difference.mean(axis=0)
        squares = np.einsum("ni,ij,nj->n", difference, metric, difference)
        found = float(np.sqrt(squares.mean())), float(np.sqrt(squares.max()))
        best = found if best is None else min(best, found)
    assert best is not None
    return best


def _mean_metric(before: Structure, after: Structure) -> NDArray[np.float64]:
    volume = (before.volume * after.volume) ** 0.5
    metrics = [s.lattice.matrix @ s.lattice.matrix.T * (volume / s.volume) ** (2 / 3) for s in (before, after)]
    return np.asarray((metrics[0] + metrics[1]) / 2)


def lattice_change(
    before: Structure, after: Structure, tolerances: Tolerances, crystal: Structure | None = None
) -> tuple[float, float]:
    """Return the largest relative change of a length and of an angle (degrees) of the primitive cell, at equal volume.

    Symmetry leaves several bases of the primitive lattice that are equally good; the one in which the change is the
    smallest share of the tolerances counts, so that none is preferred.
    """
    scale = (before.volume / after.volume) ** (1 / 3)
    crystal = before if crystal is None else crystal
    primitive = primitive_basis(crystal)
    steps = crystal.lattice.matrix @ np.linalg.inv(primitive)  # the given vectors in those of the primitive lattice
    ours = np.linalg.solve(steps, np.asarray(before.lattice.matrix))
    carried = np.linalg.solve(steps, np.asarray(after.lattice.matrix)) * scale
    found: list[tuple[float, float, float]] = []
    for turn in _equivalent(primitive):
        old, new = Lattice(turn @ ours), Lattice(turn @ carried)
        length = float(np.abs(np.array(new.lengths) / np.array(old.lengths) - 1).max())
        angle = float(np.abs(np.array(new.angles) - np.array(old.angles)).max())
        found.append((max(length / tolerances.ltol, angle / tolerances.angle_tol), length, angle))
    _, length, angle = min(found)
    return length, angle


def primitive_basis(structure: Structure) -> NDArray[np.float64]:
    """Return the Niggli-reduced vectors of a structure's primitive lattice, rows, Å, not turned.

    Where spglib finds none of which the given vectors are whole combinations, those of the given lattice.
    """
    import spglib

    given = np.asarray(structure.lattice.matrix)
    cell: Any = (given, structure.frac_coords, [s.specie.Z for s in structure])
    standard = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMPREC_A)
    lattice = given if standard is None else np.asarray(standard[0])
    steps = given @ np.linalg.inv(lattice)
    if np.abs(steps - np.round(steps)).max() > 1e-3:
        lattice = given
    reduced = spglib.niggli_reduce(lattice)
    return np.asarray(lattice if reduced is None else reduced, dtype=float)


def primitive_cell(structure: Structure) -> Structure:
    """Return the crystal in the Niggli-reduced primitive cell of :func:`primitive_basis`, neither turned nor shifted.

    The structure itself is returned where its atoms do not fold onto each other.
    """
    basis = primitive_basis(structure)
    lattice = Lattice(basis)
    frac = np.mod(np.asarray(structure.cart_coords) @ np.linalg.inv(basis), 1.0)
    kept: list[int] = []
    for i, site in enumerate(structure):
        same = [k for k in kept if structure[k].specie.symbol == site.specie.symbol]
        if not same or lattice.get_all_distances([frac[i]], frac[same]).min() > _FOLDED_A:
            kept.append(i)
    if len(kept) != round(len(structure) * lattice.volume / structure.volume):
        return structure
    return Structure(lattice, [structure[k].specie.symbol for k in kept], frac[kept])


def _equivalent(primitive: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return whole-number changes of basis after which the vectors have the same lengths and angles."""
    lattice = Lattice(primitive)
    ltol, atol = _SAME_BASIS
    turns = [np.asarray(scale, dtype=float) for _, _, scale in lattice.find_all_mappings(lattice, ltol, atol)]
    return turns or [np.eye(3)]
