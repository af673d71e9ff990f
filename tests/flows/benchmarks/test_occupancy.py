"""Orderings of partial occupancy: the composition is kept, vectors are long enough, atoms are apart."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from aqvolt_flows.benchmarks.occupancy import CLOSE, ordered_supercells, shares
from aqvolt_flows.errors import InputError


def rock_salt(li: object, x: object = "Cl", a: float = 5.13) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [li, x], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_an_ordered_crystal_has_one_supercell_with_long_vectors():
    found = ordered_supercells(rock_salt("Li"), 8.0, 400, 5)
    assert (len(found.structures), found.factors, found.largest_error) == (1, (2, 2, 2), 0.0)
    assert min(found.structures[0].lattice.abc) >= 8.0


def test_vacancies_are_kept_to_the_number():
    found = ordered_supercells(rock_salt({"Li": 0.75}), 8.0, 400, 3)
    assert [s.composition.formula for s in found.structures] == ["Li24 Cl32"] * 3
    assert all(s.is_ordered for s in found.structures)
    assert len({str(s.frac_coords.round(4).tolist()) for s in found.structures}) == 3


def test_a_mixed_site_and_vacancies_keep_every_element():
    """Li0.5 Na0.25 on a site of which a quarter is empty: 32 sites hold 16 Li and 8 Na."""
    found = ordered_supercells(rock_salt({"Li": 0.5, "Na": 0.25}), 8.0, 400, 2)
    assert [s.composition for s in found.structures] == [Composition("Li16 Na8 Cl32")] * 2


def test_the_cell_grows_until_the_amounts_are_whole():
    """A fifth of four sites is no whole number; of 20 times as many it is, and 8 × 4 × 0.2 = 6.4 is not."""
    found = ordered_supercells(rock_salt({"Li": 0.8}), 8.0, 600, 1)
    (structure,) = found.structures
    assert found.largest_error < 1e-9
    assert structure.composition.reduced_formula == "Li4Cl5"
    assert len(structure) <= 600


def test_where_no_cell_is_large_enough_the_nearest_is_taken_and_said():
    """0.97 of 32 Li is 31.04, an error of 0.1 % in 64 atoms at most."""
    found = ordered_supercells(rock_salt({"Li": 0.97}), 8.0, 64, 1)
    assert found.structures[0].composition["Li"] == 31
    assert found.largest_error == pytest.approx(0.04 / 31.04)


def test_a_dopant_that_no_cell_can_hold_is_refused():
    with pytest.raises(InputError, match=r"0\.32 Na .* no whole number within 5 %"):
        ordered_supercells(rock_salt({"Li": 0.99, "Na": 0.01}), 8.0, 64, 1)


def test_split_sites_are_not_occupied_together():
    """Pairs of half-full sites 1.0 Å apart: one of each pair, whatever the draw."""
    lattice = Lattice.cubic(8.5)
    split = Structure(
        lattice,
        [{"Li": 0.5}] * 4 + ["Cl"] * 2,
        [[0, 0, 0], [1 / 8.5, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5 + 1 / 8.5], [0, 0.5, 0], [0.5, 0, 0]],
    )
    found = ordered_supercells(split, 8.0, 400, 4)
    for structure in found.structures:
        assert structure.composition.formula == "Li2 Cl2"
        radii = covalent_radii[[s.specie.Z for s in structure]]
        apart = structure.distance_matrix + 99 * np.eye(len(structure))
        assert (apart > CLOSE[-1] * (radii[:, None] + radii[None])).all()


def test_lower_electrostatic_energy_is_taken_first():
    """The one kept of eight draws is below the median of random orderings in pymatgen's Ewald energy."""
    from pymatgen.analysis.ewald import EwaldSummation

    def energy(structure: Structure) -> float:
        charged = structure.copy()
        charged.add_oxidation_state_by_element({"Li": 1, "Mg": 2, "Cl": -1})
        return EwaldSummation(charged).total_energy

    (kept,) = ordered_supercells(rock_salt({"Li": 0.5, "Mg": 0.25}), 8.0, 64, 1).structures
    rng = np.random.default_rng(0)
    random = []
    for _ in range(15):
        full = rock_salt("Li") * (2, 2, 2)
        sites = rng.permutation([k for k, s in enumerate(full) if s.specie.symbol == "Li"])
        for k in sites[:8]:
            full.replace(int(k), "Mg")
        full.remove_sites([int(k) for k in sites[8:16]])
        random.append(energy(full))
    assert kept.composition.formula == "Li16 Mg8 Cl32"
    assert energy(kept) < np.median(random)


def test_the_seed_decides():
    crystal = rock_salt({"Li": 0.75})
    first, again, other = (ordered_supercells(crystal, 8.0, 64, 2, seed=s) for s in (0, 0, 1))
    assert first.structures == again.structures
    assert first.structures != other.structures


def test_a_site_with_too_much_and_sites_that_cannot_be_apart_are_refused():
    with pytest.raises(InputError, match="expected at most one"):
        ordered_supercells(_overfull(), 8.0, 64, 1)
    crowded = Structure(Lattice.cubic(9.0), [{"Li": 0.9}] * 2 + ["Cl"], [[0, 0, 0], [0.02, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(InputError, match="No ordering of"):
        ordered_supercells(crowded, 8.0, 64, 1)


def _overfull() -> Structure:

    found = rock_salt({"Li": 0.75})
    for site in list(found)[:4]:
        site._species = Composition({"Li": 0.9, "Na": 0.3})
    return found


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.tuples(st.floats(0.05, 0.6), st.floats(0.0, 0.4), st.integers(1, 40)), min_size=1, max_size=5)
)
def test_shares_add_up_and_fit(groups):
    kinds = [({"Li": a, "Na": b}, n) for a, b, n in groups]
    exact = {x: sum(k[x] * n for k, n in kinds) for x in ("Li", "Na")}
    counts = {x: int(v + 0.5) for x, v in exact.items()}
    if sum(counts.values()) > sum(n for _, n in kinds):
        return
    found = shares(kinds, counts)
    for x, total in counts.items():
        assert sum(f.get(x, 0) for f in found) == max(total, sum(int(k[x] * n + 1e-6) for k, n in kinds))
    assert all(sum(f.values()) <= n for f, (_, n) in zip(found, kinds, strict=True))
