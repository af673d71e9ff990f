"""One decision about the functional; what each source says, and what contradicts."""

from __future__ import annotations

from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.vasp.functional import FunctionalError, functional_of, version_fault

PBE_TITLES = ["PAW_PBE Li_sv 10Sep2004", "PAW_PBE Cl 06Sep2000"]
LDA_TITLES = ["PAW Li_sv 10Sep2004", "PAW Cl 06Sep2000"]


class RunType(Enum):
    R2SCAN = "r2SCAN"


@pytest.mark.parametrize(
    ("incar", "used", "titles", "said", "expected"),
    [
        # INCAR alone; VASP wiki, METAGGA and GGA
        ({"METAGGA": "R2scan"}, {}, PBE_TITLES, None, "r2SCAN"),
        ({"METAGGA": "Scan", "GGA": "PS"}, {}, PBE_TITLES, None, "SCAN"),
        ({"GGA": "Ps"}, {"GGA": "PS"}, PBE_TITLES, None, "PBEsol"),
        ({"GGA": "Pe        ! pbesol exchange-correlation"}, {"GGA": "PE"}, PBE_TITLES, None, "PBE"),
        # nothing asked: the POTCARs decide
        ({}, {"GGA": "--"}, PBE_TITLES, None, "PBE"),
        ({"METAGGA": "None", "GGA": "--"}, {}, LDA_TITLES, None, "LDA"),
        ({"METAGGA": None}, {}, [], "GGA", "GGA"),
        # corrections
        ({"METAGGA": "R2SCAN", "LDAU": True, "LDAUU": [0, 5.0]}, {}, PBE_TITLES, None, "r2SCAN+U"),
        ({"LDAU": ".TRUE.", "LDAUU": "0 0", "LDAUJ": "0 0"}, {}, PBE_TITLES, None, "PBE"),
        ({"LDAU": True}, {}, PBE_TITLES, "GGA_U", "PBE+U"),
        ({"IVDW": 12}, {}, PBE_TITLES, None, "PBE+D3(BJ)"),
        ({"METAGGA": "SCAN", "LUSE_VDW": True}, {}, PBE_TITLES, None, "SCAN+rVV10"),
        ({"LHFCALC": True, "HFSCREEN": 0.2, "AEXX": 0.25}, {}, PBE_TITLES, "HSE06", "HSE06"),
        ({"LHFCALC": "T"}, {"AEXX": 0.25, "HFSCREEN": 0.0}, PBE_TITLES, None, "PBE0"),
        # what records say: words, enums, and the dicts that monty makes of enums
        ({"METAGGA": "R2SCAN"}, {}, PBE_TITLES, "R2SCAN", "r2SCAN"),
        ({"METAGGA": "R2SCAN"}, {}, PBE_TITLES, RunType.R2SCAN, "r2SCAN"),
        (
            {"METAGGA": "R2SCAN"},
            {},
            PBE_TITLES,
            {"@module": "emmet.core.vasp.calc_types.enums", "@class": "RunType", "value": "r2SCAN"},
            "r2SCAN",
        ),
        ({"GGA": "PS"}, {}, PBE_TITLES, "GGA", "PBEsol"),
        ({"GGA": "PS"}, {}, PBE_TITLES, "PBESol", "PBEsol"),
        ({}, {}, PBE_TITLES, "None", "PBE"),
        ({}, {}, [], "RunType.PBE", "PBE"),
        ({}, {}, [], "r2scan", "r2SCAN"),
    ],
)
def test_what_says_which_functional(incar, used, titles, said, expected):
    assert functional_of(incar, used, titles, said) == expected


@pytest.mark.parametrize(
    ("incar", "used", "titles", "said", "names"),
    [
        ({"METAGGA": "R2SCAN"}, {}, LDA_TITLES, None, ("r2SCAN", "LDA")),
        ({"GGA": "PE"}, {}, LDA_TITLES, None, ("PBE", "LDA")),
        ({}, {}, [PBE_TITLES[0], LDA_TITLES[1]], None, ("LDA and PBE", "PAW Cl")),
        ({"METAGGA": "R2SCAN"}, {"METAGGA": "SCAN"}, PBE_TITLES, None, ("R2SCAN", "SCAN")),
        ({"GGA": "PE"}, {"GGA": "PS"}, PBE_TITLES, None, ("PE", "PS")),
        ({}, {}, PBE_TITLES, "r2SCAN", ("run_type says r2SCAN", "say PBE")),
        ({"METAGGA": "R2SCAN"}, {}, PBE_TITLES, "GGA", ("run_type says GGA", "say r2SCAN")),
        ({"METAGGA": "R2SCAN", "LDAU": True}, {}, PBE_TITLES, "r2SCAN", ("run_type says r2SCAN", "r2SCAN+U")),
        ({}, {}, [], None, ("neither INCAR nor POTCAR titles nor run_type",)),
        ({}, {}, [], "None", ("neither INCAR nor POTCAR titles nor run_type",)),
    ],
)
def test_what_contradicts_is_named(incar, used, titles, said, names):
    with pytest.raises(FunctionalError) as raised:
        functional_of(incar, used, titles, said)
    for name in names:
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("6.4.1", True),
        ("6.2.0", True),
        ("6.2", True),
        ("6.1.2", False),
        ("5.4.4.18apr17-6-g9f103f2a35", False),
        ("", True),
    ],
)
def test_versions_that_know_r2scan(version, known):
    """VASP wiki, METAGGA: R2SCAN as of 6.2.0; earlier ones were patched by hand."""
    assert (version_fault("r2SCAN", version) is None) is known
    assert (version_fault("r2SCAN+U", version) is None) is known
    assert version_fault("PBE", version) is None


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.lists(st.floats(), max_size=2)
)


@given(
    st.dictionaries(
        st.sampled_from(["METAGGA", "GGA", "LDAU", "LDAUU", "LHFCALC", "AEXX", "HFSCREEN", "IVDW"]), VALUES
    ),
    st.lists(st.text(max_size=12), max_size=3),
    VALUES,
)
def test_nothing_but_a_name_or_a_sentence_comes_of_anything(incar, titles, said):
    try:
        found = functional_of(incar, incar, titles, said)
    except FunctionalError as error:
        found = str(error)
    assert found
