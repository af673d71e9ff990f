"""Limits of what may become of a host: each with the number that was seen, against distances counted by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.limits import Host, bond_stretch, judge_insertion, li_distance
from aqvolt_flows.schemas.generation import LithiationParameters

#: ReO3 type: six F at a/2 = 1.95 Å around Fe, the center of the cube empty.
REO3 = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.9), ["Fe", "F"], [[0, 0, 0], [0.5, 0, 0]])
P = LithiationParameters()


def with_li(host: Structure, *sites: list[float]) -> Structure:
    made = host.copy()
    for frac in sites or ([0.5, 0.5, 0.5],):
        made.append("Li", frac)
    return made


def scaled(factor: float) -> Structure:
    return Structure(Lattice.cubic(3.9 * factor), REO3.species, REO3.frac_coords)


def test_a_host_that_only_took_up_li_is_kept():
    found = judge_insertion(Host(REO3, REO3), with_li(REO3), P)
    assert found.kept
    assert found.li_distance_a == pytest.approx(3.9)  # its own image
    assert found.bond_stretch == pytest.approx(0, abs=1e-9)
    assert found.change.volume_change == 0


@pytest.mark.parametrize(
    ("lithiated", "reason", "said"),
    [
        (with_li(scaled(1.1)), "volume_change", r"\+33.1 % of the relaxed host's; at most 30 %"),
        (with_li(scaled(0.88)), "volume_change", r"-31.9 %"),
        (with_li(REO3, [0.5, 0.5, 0.5], [0.5, 0.5, 0.0]), "li_distance", r"two Li are 1.95 Å apart; at least 2.5 Å"),
    ],
)
def test_each_limit_is_a_reason_with_its_number(lithiated, reason, said):
    failure = judge_insertion(Host(REO3, REO3), lithiated, P).failure
    assert failure is not None
    assert failure.reason == reason
    assert re.search(said, failure.message)


def test_softer_and_stricter_limits():
    soft = P.model_copy(update={"max_volume_change": None})
    assert judge_insertion(Host(REO3, REO3), with_li(scaled(1.1)), soft).kept
    moved = with_li(REO3)
    moved.translate_sites([1], [0.06, 0, 0])  # F by 0.06 × 3.9 Å, less the mean of four atoms
    strict = P.model_copy(update={"max_displacement_a": 0.15})
    assert judge_insertion(Host(REO3, REO3), moved, P).kept
    failure = judge_insertion(Host(REO3, REO3), moved, strict).failure
    assert (failure.reason, failure.message) == (
        "displacement",
        f"an atom of the host moved by {0.06 * 3.9 * 0.75:.2f} Å; at most 0.15 Å",
    )


def test_a_molecule_that_is_taken_apart_is_broken_within_the_framework_tolerances():
    """WF6 on a body-centered lattice: one F drifts by 0.9 Å, which 0.4 (V/n)^(1/3) = 1.04 Å allows."""
    host = Structure.from_spacegroup("Im-3m", Lattice.cubic(6.28), ["W", "F"], [[0, 0, 0], [0.292, 0, 0]])
    host = host.get_primitive_structure()
    loose = P.model_copy(update={"max_bond_stretch": None, "stol": 0.4})
    apart = host.copy()
    metal = next(site for site in host if site.specie.symbol == "W")
    bond = next(n for n in host.get_neighbors(metal, 2.0))
    direction = (bond.coords - metal.coords) / 1.834
    frac = host.lattice.get_fractional_coords(host[bond.index].coords + 0.9 * direction)
    apart.replace(bond.index, "F", frac)
    broken = judge_insertion(Host(host, host), with_li(apart, [0.5, 0.5, 0.5]), P.model_copy(update={"stol": 0.4}))
    assert broken.failure is not None
    assert broken.failure.reason == "bond_broken"
    assert broken.bond_stretch == pytest.approx(0.9 / 1.834, rel=0.01)  # W to F is 0.292 a
    assert judge_insertion(Host(host, host), with_li(apart, [0.5, 0.5, 0.5]), loose).kept


def test_bonds_are_followed_across_cells_and_in_any_setting():
    big = REO3 * (2, 2, 2)
    rng = np.random.default_rng(0)
    moved = Structure(
        Lattice(big.lattice.matrix @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3)))),
        big.species,
        big.frac_coords + rng.integers(-2, 3, size=(len(big), 3)) + 0.005 * rng.normal(size=(len(big), 3)),
    )
    stretches = []
    for i, site in enumerate(big):  # by hand: the six F of every Fe, and where they are now
        if site.specie.symbol != "Fe":
            continue
        for n in big.get_neighbors(site, 2.1):
            apart = n.frac_coords - site.frac_coords
            now = moved.frac_coords[n.index] - moved.frac_coords[i]
            now += np.round(apart - now)
            stretches.append(np.linalg.norm(now @ moved.lattice.matrix) / n.nn_distance - 1)
    assert len(stretches) == 48
    assert bond_stretch(big, moved) == pytest.approx(max(stretches), abs=1e-9)
    assert bond_stretch(Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]]), REO3) == -1


def test_the_distance_of_li_is_that_of_pymatgen_and_counts_images():
    two = with_li(REO3 * (2, 1, 1), [0.25, 0.5, 0.5], [0.9, 0.5, 0.5])
    assert li_distance(two) == pytest.approx(two.get_distance(8, 9))
    sheared = Structure(Lattice([[3, 0, 0], [2.9, 1, 0], [0, 0, 9]]), ["Li"], [[0, 0, 0]])
    assert li_distance(sheared) == pytest.approx(np.hypot(0.1, 1))  # b − a
    assert li_distance(REO3) == np.inf
