"""Which structures are empty hosts: the sentence of the paper's section 2.1, rule by rule.

"3,783 non-lithiated, non-radioactive, and noble-gas-free systems with energy above hull values below
0.05 eV/atom, at least one halide anion, and a redox-active metal (Ti, V, Cr, Mn, Fe, Co, Ni, Cu, Nb,
Mo, Ru, Ag, W, Re, Sb, Bi)". Every expected reason below is one clause of it.
"""

from __future__ import annotations

from typing import Any

import pytest
from pymatgen.core import Element, Lattice, Structure

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.candidates.hosts import host_document, judge_host
from aqvolt_flows.candidates.select import candidate_document
from aqvolt_flows.schemas.parameters import CandidateParameters, HostParameters

RULES = HostParameters()
SIXTEEN = ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Nb", "Mo", "Ru", "Ag", "W", "Re", "Sb", "Bi")
PLACES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def crystal(*elements: str) -> Structure:
    return Structure(Lattice.cubic(6.0), list(elements), PLACES[: len(elements)])


def reason(structure: Structure, hull: float | None = 0.0, **provenance: Any) -> str | None:
    failure, _ = judge_host(structure, RULES, {"e_above_hull_ev_per_atom": hull, **provenance})
    return failure.reason if failure else None


def test_the_metals_and_the_limit_are_the_papers_in_defaults_and_preset() -> None:
    for rules in (RULES, load_campaign("aqvolt26").candidates.hosts):
        assert tuple(rules.redox_metals) == SIXTEEN
        assert rules.require_any_of == ["F", "Cl", "Br", "I"]
        assert rules.max_e_above_hull_ev == 0.05
        assert rules.exclude_elements == ["Li"]


def test_of_all_metals_exactly_the_sixteen_make_a_host() -> None:
    stable = [e for e in Element if e.is_metal or e.is_metalloid]
    accepted = {e.symbol for e in stable if reason(crystal(e.symbol, "Cl")) is None}
    assert accepted == set(SIXTEEN)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        (("Fe", "F"), None),
        (("Fe", "I", "Na"), None),  # a host may hold other cations, as it is only "non-lithiated"
        (("Fe", "Cl", "O"), None),  # the oxygen rule is of the MatPES halides, not of the hosts
        (("Fe", "Cl", "Li"), "excluded_element"),
        (("Fe", "O"), "no_halogen"),
        (("Fe", "S"), "no_halogen"),
        (("Al", "Cl"), "no_redox_metal"),
        (("Sn", "Cl"), "no_redox_metal"),  # BatteryAnalyzer has Sn, the paper has not
        (("Fe", "Cl", "Tc"), "radioactive"),
        (("Fe", "Cl", "U"), "radioactive"),
        (("Fe", "At"), "no_halogen"),
        (("Fe", "F", "Xe"), "noble_gas"),
    ],
)
def test_each_clause_has_its_reason(elements: tuple[str, ...], expected: str | None) -> None:
    assert reason(crystal(*elements)) == expected


@pytest.mark.parametrize(
    ("hull", "expected"),
    [(-0.01, None), (0.0, None), (0.0499, None), (0.05, "above_hull"), (0.3, "above_hull"), (None, "unknown_hull")],
)
def test_the_energy_above_the_hull_is_below_the_limit_or_unknown(hull: float | None, expected: str | None) -> None:
    assert reason(crystal("Fe", "Cl"), hull) == expected


@pytest.mark.parametrize(
    ("species", "expected"),
    [
        (["Fe3+", "Cl-"], None),
        (["Fe2+", "Cl5+", "O2-"], "no_halide_anion"),  # a chlorate
        (["Ag+", "Cl7+", "O2-"], "no_halide_anion"),  # a perchlorate
        (["Fe3+", "Cl7+", "F-", "O2-"], None),  # one halide is enough
        (["Cu+", "I0+"], "no_halide_anion"),
        (["Fe2.5+", "Cl1-"], None),
        ([], None),  # not guessed: presence decides
    ],
)
def test_the_halogen_is_an_anion_where_its_oxidation_state_is_known(species: list[str], expected: str | None) -> None:
    elements = {s.rstrip("+-0123456789.") for s in species} or {"Fe", "Cl"}
    metal = sorted(elements & set(SIXTEEN))
    structure = crystal(*metal, *sorted(elements - set(metal)))
    failure, decisions = judge_host(structure, RULES, {"e_above_hull_ev_per_atom": 0.0, "possible_species": species})
    assert (failure.reason if failure else None) == expected
    assert decisions["halide_anion_by"] == ("possible_species" if species else "presence")


def test_a_rule_that_is_off_does_not_reject() -> None:
    rules = HostParameters(exclude_radioactive=False, exclude_noble_gases=False)
    failure, _ = judge_host(crystal("Fe", "Cl", "U", "Xe"), rules, {"e_above_hull_ev_per_atom": 0.0})
    assert failure is None


def test_geometry_is_checked_last_with_its_number() -> None:
    close = Structure(Lattice.cubic(5), ["Fe", "Cl"], [[0, 0, 0], [0.05, 0, 0]])
    failure, decisions = judge_host(close, RULES, {"e_above_hull_ev_per_atom": 0.0})
    assert failure is not None
    assert failure.reason == "overlap"
    assert decisions["min_distance_a"] == pytest.approx(0.05 * 5)
    half = Structure(Lattice.cubic(5), [{"Fe": 0.5, "Al": 0.5}, "Cl"], PLACES[:2])
    assert reason(half) == "disordered"


def test_the_document_of_a_host_says_why_with_every_number() -> None:
    origin = {"e_above_hull_ev_per_atom": 0.0712, "record_id": "mp-1", "possible_species": ["Fe2+", "Cl-"]}
    document = host_document(crystal("Fe", "Cl"), RULES, "mp-1 FeCl", "user", ["mp-1"], origin)
    assert (document.role, document.status, document.formula) == ("host", "rejected", "FeCl")
    assert document.rejection is not None
    assert document.rejection.reason == "above_hull"
    assert "0.0712 eV/atom" in document.rejection.message
    assert "0.05 eV/atom" in document.rejection.message
    assert document.decisions["e_above_hull_ev_per_atom"] == 0.0712
    assert document.decisions["max_e_above_hull_ev_per_atom"] == 0.05
    assert document.decisions["redox_metals"] == ["Fe"]
    assert document.provenance == origin


def test_a_host_is_identified_by_its_structure_and_is_never_the_candidate_of_it() -> None:
    structure, rules = crystal("Fe", "Cl"), CandidateParameters()
    hull = {"e_above_hull_ev_per_atom": 0.0}
    one = host_document(structure, RULES, "a", "user", ["r"], hull)
    two = host_document(structure, RULES, "b", "user", ["s"], {"e_above_hull_ev_per_atom": 0.2})
    as_candidate = candidate_document(structure, rules, "a", "user", ["r"])
    assert one.candidate_id == two.candidate_id  # another hull changes the judgement, not what it is
    assert one.candidate_id != as_candidate.candidate_id
