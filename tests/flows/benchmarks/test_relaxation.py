"""Displacement, fingerprints and relaxations: against springs that know their way back, and plain ASE loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Lattice, Structure

from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.benchmarks import relaxation
from aqvolt_flows.benchmarks.items import GivenItems, items_of
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.potentials.given import as_potential
from aqvolt_flows.schemas.parameters import RelaxationBenchmarkParameters

MODEL = ResolvedModel("test", "test", "0" * 64)


def rock_salt(a: float = 5.1, x: str = "Cl") -> Structure:
    cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", x], [[0] * 3, [0.5] * 3])
    return cubic.get_primitive_structure()


class Springs(Calculator):
    """Pairs of a reference crystal joined by harmonic springs of their lengths there: 1 eV/Å²."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - ASE's name

    def __init__(self, reference: Atoms, cutoff: float) -> None:
        super().__init__()
        self.i, self.j, self.shift, self.length = neighbor_list("ijSd", reference, cutoff)

    calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        vectors = atoms.positions[self.j] - atoms.positions[self.i] + self.shift @ atoms.cell.array
        lengths = np.linalg.norm(vectors, axis=1)
        stretch = lengths - self.length
        pull = (stretch / lengths)[:, None] * vectors  # half of each pair twice
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, self.i, pull)
        stress = np.einsum("pa,pb->ab", pull, vectors) / 2 / atoms.get_volume()
        self.results = {
            "energy": float((stretch**2).sum() / 4),
            "forces": forces,
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


def test_every_site_moves_by_exactly_the_length_whatever_else_is_in_the_set() -> None:
    crystal = rock_salt().make_supercell([2, 2, 2], in_place=False)
    moved = relaxation.displaced(crystal, 0.1, 0, "a")
    lengths = np.linalg.norm(moved.cart_coords - crystal.cart_coords, axis=1)
    np.testing.assert_allclose(lengths, 0.1, rtol=1e-9)
    np.testing.assert_array_equal(moved.frac_coords, relaxation.displaced(crystal, 0.1, 0, "a").frac_coords)
    assert not np.allclose(moved.frac_coords, relaxation.displaced(crystal, 0.1, 0, "b").frac_coords)
    assert not np.allclose(moved.frac_coords, relaxation.displaced(crystal, 0.1, 1, "a").frac_coords)
    # directions on the sphere: their mean is 0 ± 1/√(3N), their second moments 1/3
    many = rock_salt().make_supercell([8, 8, 8], in_place=False)
    directions = 10 * (relaxation.displaced(many, 0.1, 0, "x").cart_coords - many.cart_coords)
    np.testing.assert_allclose(directions.mean(0), 0, atol=4 / np.sqrt(3 * len(many)))
    np.testing.assert_allclose((directions**2).mean(0), 1 / 3, atol=0.04)


def test_a_harmonic_crystal_comes_back(tmp_path: Path) -> None:
    crystal = rock_salt()
    springs = Springs(crystal.to_ase_atoms(msonable=False), 5.2)
    parameters = RelaxationBenchmarkParameters(force_tolerance_ev_per_a=1e-5, max_steps=3000, formation_energies=False)
    document, (row,) = benchmark_named("relaxation").measure(
        as_potential(springs), MODEL, parameters, GivenItems(items_of([("LiCl", crystal)]), "one"), tmp_path
    )
    # 0.32 in trials with matcalc's displacement of this cell; it depends on the directions
    assert 0.1 < row["distance_displaced"] < 0.6
    assert row["distance"] == pytest.approx(0, abs=2e-3)
    assert row["distance_as_given"] == pytest.approx(0.1732, abs=2e-3)  # the jump at an ideal octahedron, 0.1 · √3
    assert row["volume_ratio"] == pytest.approx(1, abs=1e-4)
    assert row["energy_per_atom"] == pytest.approx(0, abs=1e-8)
    assert document.metrics["mean_distance_computed"] == row["distance"]
    assert document.atom_steps == row["atom_steps"]
    # ASE does not call its calculator again for positions that it has just computed
    assert row["atom_steps"] == pytest.approx(2 * springs.calls, abs=6)


@pytest.mark.parametrize("model", ["chgnet/r2scan", "7net-mf-0/R2SCAN"])
def test_a_relaxation_ends_where_a_plain_ase_loop_does(model: str, tmp_path: Path) -> None:
    crystal = rock_salt()
    parameters = RelaxationBenchmarkParameters(force_tolerance_ev_per_a=0.01, formation_energies=False)
    items = items_of([("LiCl", crystal)])
    potential = load_potential(model)
    _, (row,) = benchmark_named("relaxation").measure(potential, MODEL, parameters, GivenItems(items, "one"), tmp_path)
    atoms = relaxation.displaced(crystal, 0.1, 0, items[0].identity).to_ase_atoms(msonable=False)
    atoms.calc = potential.ase_calculator()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=500)
    assert row["failure_reason"] is None
    assert row["energy_per_atom"] == pytest.approx(atoms.get_potential_energy() / 2, abs=1e-3)
    assert row["distance"] < 0.15 < row["distance_displaced"]


def test_the_fingerprint_of_an_ideal_octahedron_jumps_and_a_nudge_takes_that_out() -> None:
    crystal = rock_salt()
    exact = relaxation.fingerprint(crystal)
    nudged = relaxation.fingerprint(relaxation.displaced(crystal, relaxation.NUDGE_A, 0, "x"))
    for length in (1e-8, 1e-4):
        other = relaxation.fingerprint(relaxation.displaced(crystal, length, 1, "y"))
        assert relaxation.distance(other, exact) == pytest.approx(0.1 * 3**0.5, abs=1e-3)  # mean, minimum, maximum
        assert relaxation.distance(other, nudged) < 1e-3
    # by hand in trials: LiCl displaced by 0.1 Å, about 0.3; it depends on the directions
    far = [
        relaxation.distance(relaxation.fingerprint(relaxation.displaced(crystal, 0.1, s, "x")), nudged)
        for s in range(8)
    ]
    assert 0.15 < np.mean(far) < 0.45


def test_what_does_not_end_has_a_reason_and_no_distance(tmp_path: Path) -> None:
    crystal = rock_salt()
    springs = as_potential(Springs(crystal.to_ase_atoms(msonable=False), 5.2))
    short = RelaxationBenchmarkParameters(force_tolerance_ev_per_a=1e-6, max_steps=5, formation_energies=False)
    items = GivenItems(items_of([("LiCl", crystal)]), "one")
    document, (row,) = benchmark_named("relaxation").measure(springs, MODEL, short, items, tmp_path)
    assert (row["failure_reason"], row["distance"], row["energy_per_atom"]) == ("unconverged", None, None)
    assert document.metrics["failed_by_reason"] == {"unconverged": 1}
    assert document.metrics["median_distance"] is None


def test_without_a_fingerprint_a_relaxation_has_an_energy_and_a_reason(tmp_path: Path, monkeypatch) -> None:
    class NoNeighbors:
        """What CrystalNN raises for sites whose Voronoi cell is open."""

        def featurize(self, _structure):
            raise ValueError("No Voronoi neighbors found for site - try increasing cutoff")

    monkeypatch.setattr(relaxation, "_featurizer", NoNeighbors)
    crystal = rock_salt()
    springs = as_potential(Springs(crystal.to_ase_atoms(msonable=False), 5.2))
    items = GivenItems(items_of([("LiCl", crystal)]), "one")
    parameters = RelaxationBenchmarkParameters(formation_energies=False)
    document, (row,) = benchmark_named("relaxation").measure(springs, MODEL, parameters, items, tmp_path)
    assert row["failure_reason"] == "no_fingerprint"
    assert "No Voronoi neighbors" in row["failure_message"]
    assert row["distance"] is None
    assert row["energy_per_atom"] is not None
    assert document.metrics["failed_by_reason"] == {"no_fingerprint": 1}


def test_failures_are_above_every_distance_in_the_median() -> None:
    blank = {
        "distance_as_given": None,
        "distance_displaced": 0.3,
        "formation_energy_per_atom": None,
        "formation_energy_error": None,
    }
    rows = [{"item_id": str(i), "distance": d, **blank} for i, d in enumerate([0.1, 0.2, 0.3, None])]
    found = relaxation.summarize(rows)
    assert (found["n_distances"], found["mean_distance_computed"]) == (3, pytest.approx(0.2))
    assert found["median_distance"] == pytest.approx(0.25)  # of 0.1, 0.2, 0.3, ∞
    assert relaxation.summarize(rows[2:])["median_distance"] is None


def test_formation_energies_are_pymatgen_s() -> None:
    structure = rock_salt()
    elements = {"Li": -1.9, "Cl": -1.7}
    entries = [PDEntry(Composition(x), e) for x, e in elements.items()]
    expected = PhaseDiagram(entries).get_form_energy_per_atom(PDEntry(structure.composition, -7.5))
    assert relaxation.formation_energy(structure, -7.5, elements) == pytest.approx(expected)
    assert relaxation.formation_energy(structure, -7.5, {"Li": -1.9}) is None


def test_elements_come_from_matcalc_s_table() -> None:
    found = relaxation.element_structures()
    assert {"Li", "F", "Cl", "Y", "O"} <= found.keys()
    assert all(s.composition.elements[0].symbol == x and len(s.composition.elements) == 1 for x, s in found.items())
