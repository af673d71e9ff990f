"""Substitution: Shannon's radii, balance of the pool, framework checks, and hulls worked out by hand."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from aqvolt_flows.candidates.hull import (
    R2SCAN,
    AboveHull,
    Phase,
    Reference,
    energy_above_hull,
    potential_level,
    read_phases,
    reference_from_potential,
)
from aqvolt_flows.candidates.jobs_substitute import substituted_documents, substitution_key
from aqvolt_flows.candidates.substitute import (
    Substitution,
    choose_substitutions,
    framework_change,
    halogen_counts,
    ionic_radius,
    linear_scale,
    substitute,
)
from aqvolt_flows.dynamics.relax import Relaxed
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.potentials import model_hash
from aqvolt_flows.schemas.generation import MinimumParameters, SubstitutionParameters
from aqvolt_flows.schemas.provenance import Failure


def rock_salt(anion: str, a: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


#: Wyckoff, Crystal Structures 1 (1963): Å.
WYCKOFF = {"F": 4.0173, "Cl": 5.12954, "Br": 5.5013, "I": 6.0}
LIF = rock_salt("F", WYCKOFF["F"])


@pytest.mark.parametrize(
    ("element", "state", "radius"),
    [("Li", 1, 0.76), ("F", -1, 1.33), ("Cl", -1, 1.81), ("Br", -1, 1.96), ("I", -1, 2.20), ("Fe", 3, 0.645)],
)
def test_radii_are_shannons_for_six_neighbors(element, state, radius):
    assert ionic_radius(element, state) == radius  # Shannon 1976, table 1


@pytest.mark.parametrize("new", ["Cl", "Br", "I"])
def test_the_rescaled_rock_salt_is_near_the_measured_one(new):
    made = substitute(LIF, "F", new)
    radii = {"Cl": 1.81, "Br": 1.96, "I": 2.20}
    assert made.lattice.a == pytest.approx(WYCKOFF["F"] * (0.76 + radii[new]) / (0.76 + 1.33))
    assert made.lattice.a == pytest.approx(WYCKOFF[new], rel=0.055)
    assert made.composition == Composition(f"Li4{new}4")
    assert LIF.composition == Composition("Li4F4")  # the parent is as it was


def test_a_mixed_anion_is_scaled_by_the_mean():
    # Li2FCl: mean anion before (1.33 + 1.81)/2, after (1.96 + 1.81)/2
    expected = (0.76 + 1.885) / (0.76 + 1.57)
    assert linear_scale(Composition("Li2FCl"), "F", "Br") == pytest.approx(expected)


def test_what_cannot_be_substituted_is_said():
    with pytest.raises(InputError, match="no Cl"):
        substitute(rock_salt("Cl", 5.1), "Cl", "Cl")
    with pytest.raises(InputError, match="O is no halogen"):
        substitute(LIF, "F", "O")


def test_by_default_f_goes_to_all_three():
    chosen = choose_substitutions([("a", ["F", "Li"]), ("b", ["Cl", "Li"])], {}, SubstitutionParameters())
    assert [(s.parent_id, s.old, s.new) for s in chosen] == [("a", "F", "Cl"), ("a", "F", "Br"), ("a", "F", "I")]


def test_one_per_parent_fills_the_least_represented_first():
    p = SubstitutionParameters(per_parent=1, from_halogens=["F", "Cl"], to_halogens=["F", "Cl", "Br", "I"])
    pool = halogen_counts([["F", "Li"]] * 5 + [["Cl", "Li"]] * 2 + [["Br", "Li"]] + [["F", "Br"]])
    assert pool == {"F": 6, "Cl": 2, "Br": 2, "I": 0}
    chosen = choose_substitutions([(str(i), ["F", "Li"]) for i in range(6)], pool, p)
    # I up to 2, then a tie of Cl, Br and I goes by the order given, until all have 3 and it starts again
    assert [s.new for s in chosen] == ["I", "I", "Cl", "Br", "I", "Cl"]


def test_per_parent_is_per_parent_whichever_halogen_goes():
    """A parent with two source halogens got as many for each of them."""
    p = SubstitutionParameters(per_parent=1, from_halogens=["F", "Cl"], to_halogens=["Br", "I"])
    both = ["Cl", "F", "Li"]
    assert len(choose_substitutions([("a", both)], {}, p)) == 1
    two = p.model_copy(update={"per_parent": 2})
    assert [(s.old, s.new) for s in choose_substitutions([("a", both)], {}, two)] == [("F", "Br"), ("F", "I")]
    four = p.model_copy(update={"per_parent": 9})
    assert len({(s.old, s.new) for s in choose_substitutions([("a", both)], {}, four)}) == 4


def test_what_is_made_or_queued_counts_among_a_parents_share():
    p = SubstitutionParameters(per_parent=2)
    made = {"a": {("F", "Cl")}, "b": {("F", "Cl"), ("F", "I")}}
    chosen = choose_substitutions([(i, ["F", "Li"]) for i in "abc"], {"Br": 5}, p, made)
    assert [(s.parent_id, s.new) for s in chosen] == [("a", "I"), ("c", "Cl"), ("c", "I")]


def test_lif_to_licl_keeps_its_framework_whatever_the_volume():
    made = substitute(LIF, "F", "Cl")
    found = framework_change(made, rock_salt("Cl", WYCKOFF["Cl"]))
    assert found.kept
    assert found.rms_a == pytest.approx(0, abs=1e-6)
    assert found.volume_change == pytest.approx((WYCKOFF["Cl"] / made.lattice.a) ** 3 - 1)


def test_a_collapsed_structure_is_not_the_framework_it_was():
    made = substitute(LIF, "F", "Cl")
    collapsed = made.copy()  # all Cl drawn to the Li, a fifth of the cell along [111]: no site of rock salt
    for i, site in enumerate(made):
        if site.specie.symbol == "Cl":
            collapsed.replace(i, "Cl", [x + 0.2 for x in site.frac_coords])
    assert framework_change(made, made).kept
    assert not framework_change(made, collapsed).kept
    zinc_blende = Structure.from_spacegroup("F-43m", Lattice.cubic(5.5), ["Li", "Cl"], [[0, 0, 0], [0.25] * 3])
    assert not framework_change(made, zinc_blende).kept  # another structure type


def phases(level: str, **extra: float) -> Reference:
    """Li −2, Cl −1.5 eV/atom, LiCl −7 eV: a formation energy of −3.5 eV per formula unit."""
    energies = {"Li": -2.0, "Cl": -1.5, "LiCl": -7.0} | extra
    return Reference(level, [Phase(f, Composition(f), e) for f, e in energies.items()])


@pytest.mark.parametrize(
    ("formula", "energy", "above"),
    [
        ("LiCl", -7.0, 0.0),
        ("Li2Cl2", -13.8, 0.05),  # 0.2 eV above −14 in four atoms
        ("LiCl", -7.2, -0.1),  # below the hull: −0.2 eV in two atoms
        ("Li2Cl", -8.7, 0.1),  # LiCl + Li is −9: 0.3 eV in three atoms
    ],
)
def test_energies_above_the_hull_by_hand(formula, energy, above):
    found = energy_above_hull(Composition(formula), energy, R2SCAN, phases(R2SCAN))
    assert isinstance(found, AboveHull)
    assert found.e_above_hull == pytest.approx(above)
    assert sum(found.decomposition.values()) == pytest.approx(1)


def test_far_below_the_hull_is_flagged_with_what_the_entries_lack():
    """Without TiCl2, TiCl3 and TiCl4, any compound of Ti and Cl looks as stable as if the elements were its rivals."""
    reference = phases(R2SCAN, Ti=-7.0)
    found = energy_above_hull(Composition("Li2TiCl6"), 6 * -3.5 - 7.0 - 4.0, R2SCAN, reference)
    # Li2TiCl6 would decompose into 2 LiCl, Ti and 4 Cl: −14 − 7 − 6 = −27 eV, and −32 eV is 5 eV below, of nine atoms
    assert found.e_above_hull == pytest.approx(-5 / 9)
    assert found.gaps == ["Cl-Ti"]
    [flag] = found.as_decisions()["flags"]
    assert flag == "-0.556 eV/atom against the hull; its reference seems to lack phases: no compound of Cl-Ti"
    assert "flags" not in energy_above_hull(Composition("LiCl"), -7.1, R2SCAN, reference).as_decisions()


def test_phases_that_did_not_relax_count_against_the_verdict():
    """LiCl is lost and nothing of its formula is left; of two Li, the one that the entries call more stable relaxed."""

    def phase(name, symbols, energy):
        cell = Structure(Lattice.cubic(4.0), symbols, [[0, 0, 0], [0.5] * 3][: len(symbols)])
        return Phase(name, cell.composition, energy, cell)

    given = [
        phase("salt", ["Li", "Cl"], -7.0),
        phase("Li good", ["Li"], -2.0),
        phase("Li bad", ["Li", "Li"], -3.8),
        phase("Cl", ["Cl"], -1.5),
    ]

    def relax(structures):
        stuck = Failure(reason="unconverged", message="")
        return [Relaxed(s, -2.0 * len(s), 0, 0, stuck if len(s) == 2 else None) for s in structures]

    reference = reference_from_potential(given, relax, "potential:x")
    assert sorted(reference.failed) == ["Li bad", "salt"]
    assert [p.entry_id for p in reference.lost] == ["salt"]
    found = energy_above_hull(Composition("Li2Cl2"), -8.0, "potential:x", reference)
    assert found.lost == ["salt (LiCl)"]
    assert found.as_decisions()["hull_lost_phases"] == ["salt (LiCl)"]
    alone = energy_above_hull(Composition("Li"), -2.0, "potential:x", reference)
    assert alone.lost == []


def test_levels_are_never_mixed():
    potential = potential_level("7net-mf-0/R2SCAN", "8179133" + "0" * 57)
    with pytest.raises(InputError, match=r"An energy of potential:7net.* hull of r2SCAN"):
        energy_above_hull(Composition("LiCl"), -7.0, potential, phases(R2SCAN))


def test_a_missing_element_is_a_reason():
    found = energy_above_hull(Composition("LiBr"), -6.0, R2SCAN, phases(R2SCAN))
    assert isinstance(found, Failure)
    assert (found.reason, "element Br" in found.message) == ("no_reference", True)


def entries(run_type: str) -> bytes:
    found = [
        ComputedStructureEntry(rock_salt("Cl", 5.13), -28.0, correction=-9.0, parameters={"run_type": run_type}),
        ComputedStructureEntry(
            Structure(Lattice.cubic(3.4), ["Li"] * 2, [[0, 0, 0], [0.5] * 3]), -4.0, parameters={"run_type": "R2SCAN"}
        ),
    ]
    return json.dumps([e.as_dict() for e in found]).encode()


def test_entries_are_read_uncorrected_and_of_one_functional():
    found = read_phases(gzip.compress(entries("R2SCAN")), "e.json.gz", require_r2scan=True)
    assert [p.energy for p in found] == [-28.0, -4.0]
    with pytest.raises(InputError, match="run type GGA"):
        read_phases(entries("GGA"), "e.json", require_r2scan=True)
    with pytest.raises(InputError, match="not a list of computed entries"):
        read_phases(b"{]", "e.json")


def test_a_potentials_hull_leaves_out_and_names_what_did_not_relax():
    def relax(structures):
        stuck = Failure(reason="unconverged", message="")
        return [Relaxed(s, -3.0 * len(s), 0, 0, stuck if len(s) == 2 else None) for s in structures]

    given = [*read_phases(entries("GGA"), "e.json"), Phase("bare", Composition("Cl2"), -3.0)]
    found = reference_from_potential(given, relax, "potential:x")
    assert [p.energy for p in found.phases] == [-24.0]
    assert sorted(found.failed.values()) == ["no structure", "unconverged"]


PARENT = {"candidate_id": "candidate-1", "name": "LiF", "source": "user", "structure": LIF.as_dict()}
WANTED = {"parent_id": "candidate-1", "old": "F", "new": "Cl", "key": "k"}


def falling(depth: float):
    """A symmetric crystal rests; a displaced one falls by ``depth`` eV/atom and its Cl gather in a line."""

    def relax(structures):
        ends = []
        for s in structures:
            if len(s) == 1 or np.allclose(np.mod(4 * s.frac_coords + 1e-6, 1), 0, atol=1e-4):
                ends.append(Relaxed(s, -5.0 * len(s), 0, 0))
                continue
            frac = [[0.1 * i, 0.05, 0.05] if x.specie.symbol == "Cl" else x.frac_coords for i, x in enumerate(s)]
            ends.append(Relaxed(Structure(s.lattice, s.species, frac), -(5.0 + depth) * len(s), 0, 0))
        return ends

    return relax


@pytest.mark.parametrize(("depth", "status"), [(0.263, "rejected"), (0.0015, "accepted")])
def test_a_framework_that_only_symmetry_holds_is_refused(depth, status):
    """The issue's LiBeF3 to LiBeCl3: kept at rms 0, but 263 meV/atom lower and another one once it is displaced."""
    parameters = SubstitutionParameters(parents=["user"])
    known = [Phase(e, Composition(e), -1.0, Structure(Lattice.cubic(3), [e], [[0, 0, 0]])) for e in ("Li", "Cl")]
    (made,) = substituted_documents([WANTED], [PARENT], parameters, known, [], falling(depth))
    assert made.status == status
    assert made.decisions["spread_mev_per_atom"] == pytest.approx(1000 * depth)
    assert made.decisions["framework_kept"] is (status == "accepted")
    if status == "rejected":
        assert made.rejection.reason == "framework_changed"
        assert made.decisions["gain_mev_per_atom"] == pytest.approx(263)
    off = parameters.model_copy(update={"minima": MinimumParameters(n_rattles=0, max_checks=0)})
    (plain,) = substituted_documents([WANTED], [PARENT], off, known, [], falling(depth))
    assert plain.status == "accepted"
    assert "spread_mev_per_atom" not in plain.decisions


def test_keys_change_only_where_something_is_displaced():
    one = Substitution("candidate-1", "F", "Cl")
    off = SubstitutionParameters(minima=MinimumParameters(n_rattles=0, max_checks=0))
    earlier = content_key(  # as it was before there were displacements
        "substitute/1",
        parent="candidate-1",
        old="F",
        new="Cl",
        parameters={"max_e_above_hull_ev": 0.05, "reference": "potential"},
        relaxation=off.relaxation.model_dump(mode="json", exclude={"max_batch_atoms"}),
        weights=model_hash("7net-mf-0/R2SCAN"),
        entries=None,
        energies=None,
    )
    assert substitution_key(one, off, None, None) == earlier
    assert substitution_key(one, SubstitutionParameters(), None, None) != earlier
