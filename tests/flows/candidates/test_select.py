"""Selection: published crystals, the paper's exclusions, and identities."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.candidates.files import read_structures
from aqvolt_flows.candidates.select import build_structure, candidate_document, judge
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import CandidateParameters, Prototype, Site

RULES = CandidateParameters()


def crystal(*elements: str, a: float = 6.0) -> Structure:
    positions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(a), list(elements), positions[: len(elements)])


@pytest.mark.parametrize(
    ("name", "n_atoms", "density"),
    [  # densities in g/cm³: CRC Handbook of Chemistry and Physics, physical constants of inorganic compounds
        ("LiF (rock salt)", 8, 2.640),
        ("LiCl (rock salt)", 8, 2.07),
        ("LiBr (rock salt)", 8, 3.464),
        ("LiI (rock salt)", 8, 4.06),
    ],
)
def test_the_demos_rock_salts_have_their_measured_density(name, n_atoms, density):
    prototypes = {p.name: p for p in load_campaign("demo").candidates.prototypes}
    structure = build_structure(prototypes[name])
    assert len(structure) == n_atoms
    assert structure.density == pytest.approx(density, rel=0.02)


def test_the_demo_has_five_halides_a_ternary_and_one_refused():
    campaign = load_campaign("demo")
    documents = [
        candidate_document(build_structure(p), campaign.candidates, p.name, "user", p.references)
        for p in campaign.candidates.prototypes
    ]
    accepted = [d for d in documents if d.status == "accepted"]
    assert [d.formula for d in accepted] == ["LiF", "LiCl", "LiBr", "LiI", "LiAlCl4"]
    assert [(d.formula, d.rejection.reason) for d in documents if d.rejection] == [("Li3BrO", "excluded_element")]
    assert all(d.references for d in documents)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (("Na", "Cl"), "missing_element"),
        (("Li", "S"), "no_halogen"),
        (("Li", "Cl", "O"), "excluded_element"),
        (("Li", "Cl", "U"), "radioactive"),
        (("Li", "F", "Tc"), "radioactive"),
        (("Li", "F", "Kr"), "noble_gas"),
        (("Li", "Cl"), None),
    ],
)
def test_the_papers_exclusions(elements, reason):
    failure, _ = judge(crystal(*elements), RULES)
    assert (failure.reason if failure else None) == reason


def test_overlap_and_disorder_are_refused_with_the_number():
    close = Structure(Lattice.cubic(5), ["Li", "Cl"], [[0, 0, 0], [0.05, 0, 0]])
    failure, decisions = judge(close, RULES)
    assert failure.reason == "overlap"
    assert decisions["min_distance_a"] == pytest.approx(0.25)
    disordered = Structure(Lattice.cubic(5), [{"Li": 0.5, "Na": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert candidate_document(disordered, RULES, "x", "user", ["r"]).rejection.reason == "disordered"


def test_identity_is_the_structure_not_the_name():
    one = candidate_document(crystal("Li", "Cl"), RULES, "a", "user", ["r"])
    two = candidate_document(crystal("Li", "Cl"), RULES, "b", "user", ["s"])
    other = candidate_document(crystal("Li", "Cl", a=6.01), RULES, "a", "user", ["r"])
    assert one.candidate_id == two.candidate_id != other.candidate_id


def test_a_wrong_prototype_is_named():
    site = Site(element="Li", xyz=(0, 0, 0))
    prototype = Prototype(name="salt", spacegroup="Xm-3m", a=5.0, sites=[site], references=["r"])
    with pytest.raises(InputError, match=r"salt.*space group"):
        build_structure(prototype)
    with pytest.raises(ValidationError, match="symbol of an element"):
        Site(element="Lx", xyz=(0, 0, 0))


def test_files_are_read_and_broken_ones_named(tmp_path):
    structure = crystal("Li", "Cl")
    structure.to(tmp_path / "POSCAR")
    structure.to(tmp_path / "a.cif")
    structure.to_ase_atoms().write(tmp_path / "a.extxyz")
    for name in ("POSCAR", "a.cif", "a.extxyz"):
        [(_, back)] = read_structures(tmp_path / name)
        assert back.composition == structure.composition
        assert back.volume == pytest.approx(structure.volume, rel=1e-5)
    (tmp_path / "broken.cif").write_text("data_x\nloop_\n")
    (tmp_path / "molecule.xyz").write_text("1\n\nLi 0 0 0\n")
    for name, said in [("broken.cif", "cannot be read"), ("molecule.xyz", "no periodic cell"), ("none.cif", "no file")]:
        with pytest.raises(InputError, match=said):
            read_structures(tmp_path / name)
