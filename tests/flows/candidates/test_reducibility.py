"""Reducibility: the paper's metals, the table with its sources, and pymatgen as an independent count."""

from __future__ import annotations

import pytest
from pymatgen.apps.battery.analyzer import BatteryAnalyzer
from pymatgen.core import Composition, Element, Lattice, Structure

from aqvolt_flows.candidates.reducibility import (
    REDOX_METALS,
    Reduction,
    assess_reducibility,
    lowest_state,
    oxidation_state_table,
)
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure


def cell(formula: str) -> Structure:
    """One formula unit on a line of points: the rule looks at the composition, not at the geometry."""
    symbols = [e for e, n in Composition(formula).get_el_amt_dict().items() for _ in range(int(n))]
    return Structure(
        Lattice.cubic(12.0), symbols, [[i / len(symbols), i / len(symbols), 0] for i in range(len(symbols))]
    )


# Expected Li per formula unit: charge of the metal in the neutral halide minus its lowest halide or oxide state
# (Greenwood & Earnshaw: TiCl2, VF2, FeF2, CuCl, NbO, W6Cl12, RuCl2, Re3Cl9 exist; no lower Mn, Ni halide does).
@pytest.mark.parametrize(
    ("formula", "li"),
    [("TiCl3", 1), ("VF3", 1), ("FeF3", 1), ("CuCl2", 1), ("NbCl5", 3), ("WF6", 4), ("RuF3", 1), ("ReF6", 3)],
)
def test_reducible_hosts(formula, li):
    found = assess_reducibility(cell(formula))
    assert isinstance(found, Reduction)
    assert found.max_li == li


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ("MnF2", "not_reducible"),
        ("NiF2", "not_reducible"),
        ("BiF3", "not_reducible"),
        ("AlF3", "no_redox_metal"),
        ("CuTi", "no_oxidation_state"),  # an intermetallic has no charge-balanced guess
    ],
)
def test_hosts_that_are_left_out_say_why(formula, reason):
    found = assess_reducibility(cell(formula))
    assert isinstance(found, Failure)
    assert found.reason == reason
    assert Composition(formula).reduced_formula in found.message


@pytest.mark.parametrize(
    "formula",
    [
        "TiCl3",
        "TiCl4",
        "VF3",
        "VF5",
        "CrF3",
        "MnF2",
        "MnF3",
        "FeF3",
        "CoF3",
        "NiF2",
        "CuCl2",
        "NbCl5",
        "MoCl5",
        "WF6",
        "SbF5",
        "BiF3",
    ],
)
def test_counts_agree_with_pymatgens_battery_analyzer_where_it_knows_the_metal(formula):
    structure = cell(formula)
    guess = structure.composition.oxi_state_guesses()[0]
    expected = BatteryAnalyzer(structure.add_oxidation_state_by_element(guess), "Li").max_ion_insertion
    found = assess_reducibility(cell(formula))
    assert (found.max_li if isinstance(found, Reduction) else 0) == expected


def test_the_count_is_extensive_and_a_mixed_valence_pays_what_is_left():
    assert assess_reducibility(cell("Fe2F6")).max_li == 2
    assert assess_reducibility(cell("Fe3F8")).max_li == 2  # Fe2+ 2 Fe3+: two of the three can be reduced
    ternary = assess_reducibility(cell("CsFeCl4"))
    assert ternary.oxidation_states == {"Cs": 1.0, "Fe": 3.0, "Cl": -1.0}
    assert ternary.electrons == {"Fe": 1.0}


def test_the_table_covers_the_papers_metals_with_a_source_each():
    table = oxidation_state_table()
    assert tuple(table) == REDOX_METALS
    for metal, states in table.items():
        assert all(s.source.startswith("G&E ch. ") and metal in Composition(s.compound) for s in states)
        values = [s.state for s in states]
        assert values == sorted(set(values))
        # cross-checks: pymatgen's common positive states are all here, and none is here that pymatgen has never seen
        assert {s for s in Element(metal).common_oxidation_states if s > 0} <= set(values)
        assert set(values) <= set(Element(metal).oxidation_states) | set(Element(metal).icsd_oxidation_states)


@pytest.mark.parametrize("metal", REDOX_METALS)
def test_a_compound_of_the_table_has_the_state_it_stands_for(metal):
    for entry in oxidation_state_table()[metal]:
        composition = Composition(entry.compound)
        charges = {"F": -1, "Cl": -1, "O": -2, "K": 1}
        rest = sum(charges[str(e)] * n for e, n in composition.items() if str(e) != metal)
        assert -rest / composition[metal] == pytest.approx(entry.state, abs=0.34)  # Nb3Cl8 counts as +3


def test_a_metal_that_is_not_in_the_table_is_named():
    with pytest.raises(InputError, match="Zr is not a redox metal"):
        lowest_state("Zr")
