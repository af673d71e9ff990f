"""Stuffing: sites against known voids, steps against symmetry and charge, relaxation against Lennard-Jones."""

from __future__ import annotations

import numpy as np
import pytest
from hosts_in_cells import CELLS, HOSTS, in_cell
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.apps.battery.insertion_battery import InsertionElectrode
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from aqvolt_flows.candidates.density import promolecular_density
from aqvolt_flows.candidates.framework import primitive_cell
from aqvolt_flows.candidates.limits import ANIONS
from aqvolt_flows.candidates.lithiate import kept_steps, lithiate
from aqvolt_flows.candidates.sites import complete_under_symmetry, find_sites
from aqvolt_flows.dynamics.relax import Relaxed, relax_batch
from aqvolt_flows.schemas.generation import LithiationParameters, MinimumParameters, RelaxationParameters
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


NO_DISPLACEMENTS = {"minima": MinimumParameters(n_rattles=0, max_checks=0)}
VOID = complete_under_symmetry(REO3, [(0.01, np.array([0.5, 0.5, 0.5]))], 0.5)


def test_the_host_is_relaxed_and_volumes_refer_to_it():
    """The issue's NbF3: the given cell is too small; relaxed it is 21 % larger, and Li adds 3 %."""

    def swell(structures):
        lengths = {0: 1.1 ** (2 / 3), 1: 1.1 ** (2 / 3) * 1.01}
        grown = [Structure(Lattice.cubic(3.86 * lengths[n_li(s)]), s.species, s.frac_coords) for s in structures]
        return [Relaxed(s, -float(n_li(s)), 0.0, 0.0) for s in grown]

    found = lithiate(REO3, VOID, 1, swell, P)
    assert found.host_change.volume_change == pytest.approx(1.1**2 - 1)
    change = found.steps[0].best.insertion.change
    assert change.volume_change == pytest.approx(1.01**3 - 1)
    assert found.failure is None


def test_a_host_that_relaxes_to_another_framework_is_no_host():
    def shear(structures):
        matrix = np.array([[1, 0, 0], [0.3, 1, 0], [0, 0, 1]])
        return [Relaxed(Structure(Lattice(s.lattice.matrix @ matrix), s.species, s.frac_coords), -1, 0, 0) for s in structures]  # fmt: skip  # noqa: E501

    found = lithiate(REO3, VOID, 1, shear, P)
    assert found.failure.reason == "host_changed"
    assert "an angle of the primitive cell" in found.failure.message
    assert found.steps == []


def energies_by_content(*energies: float):
    return still(lambda s: energies[n_li(s)])


def test_voltages_are_differences_against_li_metal():
    """V = −(E(n) − E(m) − (n − m) E_Li)/(n − m); E_Li = −2 eV."""
    sites = complete_under_symmetry(FLUORITE, [(0.02, np.array([0.5, 0.5, 0.5]))], 0.5)
    found = lithiate(FLUORITE, sites, 3, energies_by_content(-10, -15, -19, -21.5), P, li_energy=-2.0)
    assert [s.voltage_v for s in found.steps] == pytest.approx([3.0, 2.0, 0.5])
    assert [s.average_voltage_v for s in found.steps] == pytest.approx([3.0, 2.5, 5.5 / 3])
    assert [s.kept for s in found.steps] == [True] * 3
    strict = P.model_copy(update={"min_voltage_v": 1.0})
    found = lithiate(FLUORITE, sites, 3, energies_by_content(-10, -15, -19, -21.5), strict, li_energy=-2.0)
    assert [s.kept for s in found.steps] == [True, True, False]
    assert found.stopped == "low_voltage"
    assert [s.n_li for s in kept_steps(found, "fullest")] == [2]
    assert "1 Li go in at 0.500 V" in found.steps[2].as_decisions()["limit"]


def test_voltages_are_those_of_pymatgens_insertion_electrode():
    sites = complete_under_symmetry(FLUORITE, [(0.02, np.array([0.5, 0.5, 0.5]))], 0.5)
    energies = (-10, -15, -19, -21.5)
    found = lithiate(FLUORITE, sites, 3, energies_by_content(*energies), P, li_energy=-2.0)
    structures = [found.host.relaxed.structure, *(s.best.relaxed.structure for s in found.steps)]
    entries = [
        ComputedStructureEntry(s, e, entry_id=str(n)) for n, (s, e) in enumerate(zip(structures, energies, strict=True))
    ]
    metal = ComputedEntry("Li", -2.0)
    electrode = InsertionElectrode.from_entries(entries, metal, strip_structures=False)
    assert electrode.get_average_voltage() == pytest.approx(found.steps[-1].average_voltage_v)
    steps = sorted((v.voltage for v in electrode.voltage_pairs), reverse=True)
    assert steps == pytest.approx([s.voltage_v for s in found.steps])


def test_a_content_that_is_passed_over_does_not_end_the_lithiation():
    """The second Li goes in at −1 V, the third at 3 V: two and three together at 1 V, so that three Li are kept."""
    sites = complete_under_symmetry(FLUORITE, [(0.02, np.array([0.5, 0.5, 0.5]))], 0.5)
    found = lithiate(FLUORITE, sites, 3, energies_by_content(-10, -15, -16, -21), P, li_energy=-2.0)
    assert [s.voltage_v for s in found.steps] == pytest.approx([3.0, -1.0, 3.0])
    assert [s.kept for s in found.steps] == [True, False, True]
    assert found.steps[2].since_kept_v == pytest.approx(1.0)
    assert [s.n_li for s in kept_steps(found, "every_step")] == [1, 3]


def test_no_li_goes_in_below_the_metal():
    found = lithiate(REO3, VOID, 1, energies_by_content(-10, -11.9), P, li_energy=-2.0)
    assert found.failure.reason == "low_voltage"
    assert "-0.100 V against Li metal on average; at least 0 V" in found.failure.message
    assert lithiate(REO3, VOID, 1, energies_by_content(-10, -12), P, li_energy=-2.0).failure is None, "0 V is enough"
    any_voltage = P.model_copy(update={"min_voltage_v": None})
    assert lithiate(REO3, VOID, 1, energies_by_content(-10, -11), any_voltage, li_energy=-2.0).failure is None


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_is_lithiated_alike_in_four_cells(name):
    """Primitive, conventional, 2 × 1 × 1 and Niggli cells; energies are electrostatic, so that they do not know cells.

    Ions of charge +1 for Li and whatever balances them on the host's anions and cations: the numbers mean nothing, but
    pymatgen's Ewald sum depends on the crystal alone.
    """
    found = []
    for cell in CELLS:
        given = in_cell(name, cell)
        host = primitive_cell(given)
        sites = find_sites(promolecular_density(host, 0.3), P)
        outcome = lithiate(host, sites, 2, still(ewald), P.model_copy(update=NO_DISPLACEMENTS), li_energy=0.0)
        steps = [(s.n_li, len(s.configurations), s.best and round(s.average_voltage_v, 3)) for s in outcome.steps]
        found.append((len(host), len(sites), outcome.failure and outcome.failure.reason, outcome.stopped, steps))
    assert len(found[0][-1]) >= 1
    for other in found[1:]:
        assert other == found[0]


def ewald(structure: Structure) -> float:
    """eV; the anions are −1, the cations share what balances them, Li is +1 and taken from the cations."""
    n_anions = sum(s.specie.symbol in ANIONS for s in structure)
    shared = (n_anions - n_li(structure)) / (len(structure) - n_anions - n_li(structure))
    charges = [-1 if s.specie.symbol in ANIONS else 1 if s.specie.symbol == "Li" else shared for s in structure]
    charged = structure.copy()
    charged.add_oxidation_state_by_site(charges)
    return float(EwaldSummation(charged).total_energy)


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
