"""Hosts whose lithiation is tried with real potentials: cells as published, rounded; what they are known for.

Structures: FeF3, VF3 of M. Leblanc et al., J. Solid State Chem. 47, 53 (1983); the others of R. W. G. Wyckoff, Crystal
Structures 1-3 (1963-1965), TiCl3 and FeCl3 with layers as in BiI3; λ-MnO2 of J. C. Hunter, J. Solid State Chem. 39, 142
(1981); NbF3 as the idealized ReO3 type; WF6 as molecules on a body-centered lattice.
"""

from __future__ import annotations

from pymatgen.core import Lattice, Structure


def _made(group: str, lattice: Lattice, species: list[str], sites: list[list[float]]) -> Structure:
    return Structure.from_spacegroup(group, lattice, species, sites).get_primitive_structure()


def trial_hosts() -> dict[str, Structure]:
    """Return name → primitive cell."""
    third = [1 / 3, 2 / 3]
    return {
        "FeF3": _made("R-3c", Lattice.hexagonal(5.196, 13.331), ["Fe", "F"], [[0, 0, 0], [0.412, 0, 0.25]]),
        "VF3": _made("R-3c", Lattice.hexagonal(5.170, 13.402), ["V", "F"], [[0, 0, 0], [0.395, 0, 0.25]]),
        "TiCl3": _made("R-3", Lattice.hexagonal(6.12, 17.5), ["Ti", "Cl"], [[0, 0, 1 / 3], [0.336, 0.002, 0.0785]]),
        "FeCl3": _made("R-3", Lattice.hexagonal(6.065, 17.44), ["Fe", "Cl"], [[0, 0, 1 / 3], [0.332, 0.0, 0.077]]),
        "NbF3": _made("Pm-3m", Lattice.cubic(3.9), ["Nb", "F"], [[0, 0, 0], [0.5, 0, 0]]),
        "CuCl2": _made("C2/m", Lattice.monoclinic(6.9, 3.3, 6.82, 122.2), ["Cu", "Cl"], [[0, 0, 0], [0.506, 0, 0.242]]),
        "K2TiF6": _made(
            "P-3m1",
            Lattice.hexagonal(5.727, 4.662),
            ["Ti", "K", "F"],
            [[0, 0, 0], [*third, 0.70], [0.158, 0.842, 0.22]],
        ),
        "BiF5": _made(
            "I4/m", Lattice.tetragonal(6.581, 4.229), ["Bi", "F", "F"], [[0, 0, 0], [0, 0, 0.5], [0.283, 0.109, 0]]
        ),
        "WF6": _made("Im-3m", Lattice.cubic(6.28), ["W", "F"], [[0, 0, 0], [0.292, 0, 0]]),
        "MnO2 (spinel)": _made("Fd-3m", Lattice.cubic(8.03), ["Mn", "O"], [[0.625] * 3, [0.388] * 3]),
    }


#: Host → (Li tried at most, published V against Li, what it is of, source).
KNOWN = {
    "FeF3": (2, 3.0, "mean of the discharge; open circuit 3.4 V", "Arai et al., J. Power Sources 68, 716 (1997)"),
    "VF3": (2, 2.2, "mean of the discharge", "Arai et al., J. Power Sources 68, 716 (1997)"),
    "FeCl3": (2, 3.65, "two plateaus between 3.5 and 3.8 V", "Liu et al., Nat. Sustain. 7, 1492 (2024)"),
    "MnO2 (spinel)": (2, 4.05, "plateaus at 4.0 and 4.1 V", "Ohzuku et al., J. Electrochem. Soc. 137, 769 (1990)"),
}
