"""Energies above the hull from a table: formats, names, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.hosts import judge_host
from aqvolt_flows.candidates.hull_table import HullTable, read_hull_table
from aqvolt_flows.candidates.records import Quarantined, Record
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import HostParameters

CRYSTAL = Structure(Lattice.cubic(5.0), ["Fe", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def record(**provenance) -> Record:
    return Record("FeF3 from somewhere", CRYSTAL, provenance)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,e_above_hull_ev_per_atom\nFeF3,0.01\nVF3,0\n", {"FeF3": 0.01, "VF3": 0.0}),
        ("# of 2025\nmaterial_id; energy_above_hull ; note\nmp-1; 0.02; stable\n", {"mp-1": 0.02}),
        ("\ufefffile\te_above_hull\nFeF3.cif\t-0.003\n", {"FeF3.cif": -0.003}),
        ('{"FeF3": 0.01, "VF3": 0}', {"FeF3": 0.01, "VF3": 0.0}),
        ("name,e_above_hull\nFeF3,0.01\nFeF3,0.01\n", {"FeF3": 0.01}),
    ],
)
def test_tables_that_are_read(tmp_path, text, expected):
    path = tmp_path / "hull.txt"
    path.write_text(text)
    assert read_hull_table(path).energies == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,e_above_hull\nFeF3,high\n", "row 1: 'FeF3' has the energy 'high'"),
        ("name,e_above_hull\nFeF3\n", "row 1: 'FeF3' has the energy None"),
        ("name,e_above_hull\nFeF3,nan\n", "expected eV/atom above the hull"),
        ("name,e_above_hull\nFeF3,0.1\nFeF3,0.2\n", "has 0.1 and 0.2 eV/atom; leave one"),
        ("formula,energy\nFeF3,0.1\n", "has the columns formula, energy; expected one of name"),
        ("", "has the columns none"),
        ("name,e_above_hull\n", "has no row"),
        ("[1, 2]", "is a JSON list"),
        ('{"FeF3": 0.1', "is not JSON"),
        ('{"FeF3": {"e": 1}}', "key 'FeF3'"),
    ],
)
def test_tables_that_are_refused_say_what_was_expected(tmp_path, text, said):
    path = tmp_path / "hull.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_hull_table(path)
    assert said in str(caught.value)


def test_a_table_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        read_hull_table(tmp_path / "no.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_hull_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "provenance", "found"),
    [
        ("mp-1", {"record_id": "mp-1", "file": "a.cif"}, True),
        ("FeF3 from somewhere", {}, True),
        ("a.cif", {"file": "a.cif", "record": 1}, True),
        ("a", {"file": "a.cif.gz", "record": 1}, True),
        ("a", {"file": "a.cif", "record": 2}, False),  # another crystal of the file
        ("b", {"file": "a.cif"}, False),
    ],
)
def test_records_are_found_by_identifier_name_and_file(name, provenance, found):
    table = HullTable("hull.csv", {name: 0.02, "other": 0.3})
    (made,) = table.applied([record(**provenance)])
    assert made.provenance.get("e_above_hull_ev_per_atom") == (0.02 if found else None)
    assert made.provenance.get("e_above_hull_reference") == ("hull.csv" if found else None)
    assert table.unused == (["other"] if found else sorted([name, "other"]))
    broken = Quarantined("a.cif", 1, None, "no cell")
    assert list(table.applied([broken])) == [broken]


@given(st.dictionaries(st.text("abcXYZ019-_ .", min_size=1).map(str.strip).filter(bool), st.floats(-5, 5), min_size=1))
def test_json_tables_come_back(tmp_path_factory, energies):
    path = tmp_path_factory.mktemp("hull") / "hull.json"
    path.write_text(json.dumps(energies))
    assert read_hull_table(path).energies == energies


def test_an_unknown_hull_is_refused_with_both_ways_out_or_accepted_where_asked_for():
    failure, _ = judge_host(CRYSTAL, HostParameters(), {})
    assert failure is not None
    assert failure.reason == "unknown_hull"
    assert "--hull-energies" in failure.message
    assert "unknown_hull to accept" in failure.message
    accepting = HostParameters(unknown_hull="accept")
    assert judge_host(CRYSTAL, accepting, {})[0] is None
    high, _ = judge_host(CRYSTAL, accepting, {"e_above_hull_ev_per_atom": 0.2})
    assert high is not None
    assert high.reason == "above_hull"
