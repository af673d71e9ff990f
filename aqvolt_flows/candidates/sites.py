"""Where Li can go in a host: minima of the charge density, complete under the host's symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.candidates.framework import primitive_cell
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.generation import LithiationParameters

if TYPE_CHECKING:
    from pymatgen.core.operations import SymmOp
    from pymatgen.io.vasp import Chgcar

#: Å; how far atoms may be from where the symmetry puts them: published coordinates have three or four digits.
SYMPREC = 0.05


@dataclass(frozen=True, eq=False)
class Sites:
    """Insertion sites of one host.

    Attributes
    ----------
    frac
        Fractional coordinates, (n_sites, 3), those at the lowest charge first.
    charges
        Average charge density around each, electrons/Å³; equal on equivalent sites.
    permutations
        One row per symmetry operation of the host, (n_operations, n_sites): where it takes each site.
    """

    frac: NDArray[np.float64]
    charges: NDArray[np.float64]
    permutations: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frac)

    def distinct(self, occupied: Sequence[int], allowed: Sequence[int]) -> list[int]:
        """Return one site of each class of allowed sites that are equivalent with the occupied ones in place.

        Equivalent are sites that an operation of the host maps onto each other while it maps the occupied set
        onto itself.
        """
        taken = set(occupied)
        stabilizer = [row for row in self.permutations if {int(row[i]) for i in taken} == taken]
        chosen: list[int] = []
        seen: set[int] = set()
        for site in allowed:
            if site not in seen:
                chosen.append(site)
                seen |= {int(row[site]) for row in stabilizer}
        return chosen


def find_sites(density: Chgcar, parameters: LithiationParameters) -> Sites:
    """Return the insertion sites of the density's structure.

    Minima come from ``ChargeInsertionAnalyzer`` of pymatgen-analysis-defects (J.-X. Shen et al., npj Comput. Mater.
    6, 161 (2020), DOI 10.1038/s41524-020-00422-3). Where the grid lost an equivalent of a minimum, the host's
    symmetry puts it back.

    Raises
    ------
    ResourceError
        If pymatgen-analysis-defects is not installed.
    """
    try:
        from pymatgen.analysis.defects.utils import ChargeInsertionAnalyzer
    except ImportError:
        raise ResourceError(
            "Insertion sites need pymatgen-analysis-defects; install it with pip install 'aqvolt-flows[lithiation]'."
        ) from None
    p = parameters
    analyzer = ChargeInsertionAnalyzer(
        density, "Li", p.clustering_tol_a, p.ltol, p.stol, p.angle_tol, min_dist=p.min_distance_a
    )
    groups = analyzer.filter_and_group(p.average_radius_a, p.max_average_charge) if len(_minima(density)) else []
    minima = [(float(charge), np.mod(np.asarray(frac, dtype=float), 1.0)) for charge, group in groups for frac in group]
    host = Structure.from_sites(list(density.structure))
    return complete_under_symmetry(host, minima, p.clustering_tol_a)


def sites_of_primitive(host: Structure, sites: Sites, tolerance_a: float) -> tuple[Structure, Sites]:
    """Return the primitive cell of a host, and its sites folded into it.

    Parameters
    ----------
    host
        The structure that the sites are of.
    sites
        Of that cell.
    tolerance_a
        Å; folded sites closer than this are one.
    """
    cell = primitive_cell(host)
    if len(cell) == len(host):
        return host, sites
    cart = sites.frac @ host.lattice.matrix
    folded = np.mod(cart @ np.linalg.inv(cell.lattice.matrix), 1.0)
    minima = [(float(charge), frac) for charge, frac in zip(sites.charges, folded, strict=True)]
    return cell, complete_under_symmetry(cell, minima, tolerance_a)


def _minima(density: Chgcar) -> NDArray[np.float64]:
    """Return the raw minima; a density without one makes the analyzer fail on empty arrays."""
    from pymatgen.analysis.defects.utils import get_local_extrema

    found: NDArray[np.float64] = get_local_extrema(density, find_min=True)
    return found


def complete_under_symmetry(
    host: Structure, minima: Sequence[tuple[float, NDArray[np.float64]]], tolerance_a: float
) -> Sites:
    """Return all images of the minima under the host's space group, images closer than the tolerance being one.

    Parameters
    ----------
    host
        The structure whose symmetry counts.
    minima
        (charge, fractional coordinates), lowest charge first.
    tolerance_a
        Å.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    operations = SpacegroupAnalyzer(host, symprec=SYMPREC).get_symmetry_operations()
    frac: list[NDArray[np.float64]] = []
    charges: list[float] = []
    for charge, minimum in minima:
        if frac and _nearest(host, frac, minimum)[1] < tolerance_a:
            continue
        orbit: list[NDArray[np.float64]] = []
        for operation in operations:
            image = np.mod(operation.operate(minimum), 1.0)
            if not orbit or _nearest(host, orbit, image)[1] >= tolerance_a:
                orbit.append(image)
        frac += orbit
        charges += [charge] * len(orbit)
    permutations = [_images(host, frac, operation) for operation in operations] if frac else []
    unique = np.unique(np.array(permutations, dtype=np.int64).reshape(len(operations), len(frac)), axis=0)
    bijective = [row for row in unique if len(set(row.tolist())) == len(row)]
    return Sites(np.array(frac).reshape(-1, 3), np.array(charges), np.array(bijective, dtype=np.int64))


def _images(host: Structure, frac: Sequence[NDArray[np.float64]], operation: SymmOp) -> NDArray[np.int64]:
    """Return the index of the site that an operation takes each site to."""
    moved = operation.operate_multi(np.array(frac))
    return np.asarray(host.lattice.get_all_distances(moved, list(frac)).argmin(axis=1), dtype=np.int64)


def _nearest(host: Structure, frac: Sequence[NDArray[np.float64]], point: NDArray[np.float64]) -> tuple[int, float]:
    distances = host.lattice.get_all_distances([point], list(frac))[0]
    index = int(distances.argmin())
    return index, float(distances[index])
