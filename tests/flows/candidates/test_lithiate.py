"""Stuffing: sites against known voids, steps against symmetry and charge, relaxation against Lennard-Jones."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.density import promolecular_density
from aqvolt_flows.candidates.lithiate import kept_steps, lithiate
from aqvolt_flows.candidates.sites import complete_under_symmetry, find_sites
from aqvolt_flows.dynamics.relax import Relaxed, relax_batch
from aqvolt_flows.schemas.generation import LithiationParameters, RelaxationParameters
from aqvolt_flows.schemas.provenance import Failure

P = LithiationParameters(promolecular_spacing_a=0.3)
#: Fluorite MnCl2, made up: CaF2's structure type.
FLUORITE = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.8), ["Mn", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]])
#: FeF3, R-3c: M. Leblanc et al., J. Solid State Chem. 47, 53 (1983), rounded; its primitive cell has two Fe.
FEF3 = Structure.from_spacegroup(
    "R-3c", Lattice.hexagonal(5.196, 13.331), ["Fe", "F"], [[0, 0, 0], [0.412, 0, 0.25]]
).get_primitive_structure()
#: ReO3 type: the corner-sharing octahedra leave the cube's center empty.
REO3 = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.86), ["Fe", "F"], [[0, 0, 0], [0.5, 0, 0]])


def still(energy):
    """A relaxer that moves nothing; energy(structure) decides."""
    return lambda structures: [Relaxed(s, energy(s), 0.0, 0.0) for s in structures]


def n_li(structure: Structure) -> int:
    return int(structure.composition["Li"])


@pytest.mark.parametrize(
    ("host", "void", "multiplicity"),
    [  # Wyckoff positions of International Tables A: 4b of Fm-3m, 1b of Pm-3m, 6a of R-3c (2 in the primitive cell)
        (FLUORITE, (0.5, 0.5, 0.5), 4),
        (REO3, (0.5, 0.5, 0.5), 1),
        (FEF3, (0.25, 0.25, 0.25), 2),
    ],
)
def test_the_analyzer_finds_the_octahedral_or_central_voids(host, void, multiplicity):
    sites = find_sites(promolecular_density(host, 0.2), P)
    nearest = host.lattice.get_all_distances([void], sites.frac).min()
    assert nearest < 0.25  # the grid's diagonal is 0.35 Å
    assert len(sites) == multiplicity
    assert np.ptp(sites.charges) == 0


def test_minima_above_the_largest_charge_are_no_sites():
    dense = Structure(Lattice.cubic(1.4), ["Fe"], [[0, 0, 0]])  # closer than any iron
    assert len(find_sites(promolecular_density(dense, 0.3), P)) == 0


def test_a_lost_equivalent_is_put_back_and_distinct_sites_follow_the_occupied_ones():
    sites = complete_under_symmetry(FLUORITE, [(0.02, np.array([0.5, 0.5, 0.5]))], 0.5)
    assert len(sites) == 4
    # the four octahedra form an fcc lattice: all equal when empty, the other three equal around one Li
    assert sites.distinct((), range(4)) == [0]
    assert len(sites.distinct((0,), [1, 2, 3])) == 1
    two_kinds = complete_under_symmetry(
        FLUORITE, [(0.02, np.array([0.5, 0.5, 0.5])), (0.1, np.array([0.25, 0.25, 0.5]))], 0.5
    )
    assert len(two_kinds.distinct((), range(len(two_kinds)))) == 2


def test_li_goes_in_one_by_one_up_to_what_the_metals_pay():
    sites = complete_under_symmetry(FLUORITE, [(0.02, np.array([0.5, 0.5, 0.5]))], 0.5)
    found = lithiate(FLUORITE, sites, 3, still(lambda s: -float(n_li(s))), P)
    assert [s.n_li for s in found.steps] == [1, 2, 3]
    assert [len(s.configurations) for s in found.steps] == [1, 1, 1]  # by the symmetry of the test above
    assert found.stopped == "paid"
    assert [n_li(s.best.relaxed.structure) for s in kept_steps(found, "fullest")] == [3]
    assert len(kept_steps(found, "every_step")) == 3
    capped = lithiate(FLUORITE, sites, 3, still(lambda s: 0.0), P.model_copy(update={"max_li": 1}))
    assert len(capped.steps) == 1


def test_the_lowest_energy_of_a_step_goes_on():
    kinds = [(0.02, np.array([0.5, 0.5, 0.5])), (0.1, np.array([0.25, 0.25, 0.5]))]
    sites = complete_under_symmetry(FLUORITE, kinds, 0.5)

    def edge(structure):  # the second kind of site, all of whose images have one coordinate 0 or 1/2 and two of 1/4
        li = next((x.frac_coords for x in structure if x.specie.symbol == "Li"), None)
        return -1.0 if li is not None and np.isclose(np.mod(li, 0.5), 0.25).sum() == 2 else 0.0

    step = lithiate(FLUORITE, sites, 1, still(edge), P).steps[0]
    assert len(step.configurations) == 2
    assert step.best.relaxed.energy == -1
    assert step.best.site_charge == 0.1


def test_full_hosts_stop_for_want_of_sites():
    sites = complete_under_symmetry(REO3, [(0.01, np.array([0.5, 0.5, 0.5]))], 0.5)
    found = lithiate(REO3, sites, 3, still(lambda s: 0.0), P)
    assert ([s.n_li for s in found.steps], found.stopped, found.failure) == ([1], "no_site", None)
    none = lithiate(REO3, complete_under_symmetry(REO3, [], 0.5), 3, still(lambda s: 0.0), P)
    assert none.failure.reason == "no_site"


def test_a_host_that_falls_apart_is_not_topotactic():
    def shear(structures):
        """Li turns the octahedra's F into a layer: no mapping within 0.3 (V/N)^(1/3) can undo that."""
        out = []
        for s in structures:
            moved = s.copy()
            if n_li(s):
                for i, site in enumerate(s):
                    if site.specie.symbol == "F":
                        moved.replace(i, "F", [site.frac_coords[0], site.frac_coords[1] + 0.3 * (i - 2), 0.5])
            out.append(Relaxed(moved, -1.0, 0.0, 0.0))
        return out

    sites = complete_under_symmetry(REO3, [(0.01, np.array([0.5, 0.5, 0.5]))], 0.5)
    found = lithiate(REO3, sites, 1, shear, P)
    assert found.failure.reason == "not_topotactic"
    assert kept_steps(found, "fullest") == []
    assert found.steps[0].as_decisions()["configurations"][0]["topotactic"] is False


def test_unconverged_configurations_and_hosts_are_said_so():
    stuck = Failure(reason="unconverged", message="")
    sites = complete_under_symmetry(REO3, [(0.01, np.array([0.5, 0.5, 0.5]))], 0.5)
    never = lambda structures: [Relaxed(s, 0.0, 1.0, 1.0, stuck if n_li(s) else None) for s in structures]  # noqa: E731
    assert lithiate(REO3, sites, 1, never, P).failure.reason == "unconverged"
    nothing = lambda structures: [Relaxed(s, 0.0, 1.0, 1.0, stuck) for s in structures]  # noqa: E731
    assert lithiate(REO3, sites, 1, nothing, P).failure.reason == "host_unrelaxed"


@pytest.fixture(scope="module")
def argon():
    import torch
    from torch_sim.models.lennard_jones import LennardJonesModel

    # σ and ε of argon (Rahman 1964), cut off far out
    return LennardJonesModel(sigma=3.405, epsilon=0.0104, cutoff=14.0, compute_stress=True, dtype=torch.float64)


def test_a_batch_relaxes_to_the_lennard_jones_crystal(argon):
    """Fcc Lennard-Jones at rest: a = 1.5424 σ, E = −8.6102 ε (lattice sums A12 = 12.13188, A6 = 14.45392).

    What the cutoff misses is the integral over a uniform density: 8/3 π ρσ³ (σ/rc)³ ε = 0.1313 ε, ρσ³ = 4/1.5424³.
    """
    starts = [Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Ar"], [[0, 0, 0]]) for a in (5.0, 5.6)]
    parameters = RelaxationParameters(force_tolerance_ev_per_a=1e-4, max_steps=300)
    for relaxed in relax_batch(argon, starts, parameters):
        assert relaxed.converged
        assert relaxed.structure.lattice.a == pytest.approx(1.5424 * 3.405, rel=5e-3)
        assert relaxed.energy_per_atom == pytest.approx((-8.6102 + 0.1313) * 0.0104, rel=1e-3)
        assert relaxed.max_stress < 0.01


def test_limits_of_a_relaxation_end_in_reasons(argon):
    start = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.0), ["Ar"], [[0, 0, 0]])
    short = relax_batch(argon, [start], RelaxationParameters(force_tolerance_ev_per_a=1e-6, max_steps=5))[0]
    assert short.failure.reason == "unconverged"
    tight = relax_batch(argon, [start], RelaxationParameters(force_tolerance_ev_per_a=1e-6, max_volume_ratio=1.01))[0]
    assert tight.failure.reason == "exploded"
    assert np.isnan(tight.energy)
    assert tight.structure == start
