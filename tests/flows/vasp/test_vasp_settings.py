from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.io.vasp.sets import MatPESStaticSet

from aqvolt_flows.errors import ConfigError, InputError
from aqvolt_flows.vasp import settings
from aqvolt_flows.vasp.drift import check_installed, diff_with_installed
from aqvolt_flows.vasp.settings import changes, frozen_incar, potcar_symbol, r2scan_protocol, static_incar, theory


def test_frozen_copy_is_what_the_installed_pymatgen_writes():
    assert diff_with_installed() == {}
    check_installed()


def test_frozen_copy_has_the_published_matpes_settings():
    """MatPES (arXiv:2503.04070): r2SCAN, 680 eV, 0.22/Å, EDIFF 1e-5, PBE_64 with Li_sv."""
    incar = frozen_incar()
    assert (incar["METAGGA"].upper(), incar["ENCUT"], incar["KSPACING"], incar["EDIFF"]) == ("R2SCAN", 680, 0.22, 1e-5)
    assert (settings.potcar_functional(), potcar_symbol("Li"), potcar_symbol("Cl")) == ("PBE_64", "Li_sv", "Cl")


def test_a_changed_default_stops_with_the_difference(monkeypatch: pytest.MonkeyPatch):
    config = {**MatPESStaticSet.CONFIG, "INCAR": {**MatPESStaticSet.CONFIG["INCAR"], "ENCUT": 520, "ENAUG": 1360}}
    config["POTCAR"] = {**config["POTCAR"], "Li": "Li"}
    monkeypatch.setattr(MatPESStaticSet, "CONFIG", config)
    expected = r"ENAUG: None is now 1360\.0; ENCUT: 680\.0 is now 520\.0; POTCAR Li: 'Li_sv' is now 'Li'"
    with pytest.raises(ConfigError, match=expected):
        check_installed()


def test_protocol_ignores_what_does_not_move_the_energy_surface():
    plain = r2scan_protocol().protocol_id
    assert r2scan_protocol({"NCORE": 8, "ALGO": "Normal", "LWAVE": True}).protocol_id == plain
    assert r2scan_protocol({"ENCUT": 680}).protocol_id == plain
    assert r2scan_protocol({"ENAUG": 1360}).protocol_id != plain
    assert r2scan_protocol({"SIGMA": 0.1}).protocol_id != plain
    assert r2scan_protocol(version="6.4.1", potcar_hashes={"Li": "0"}).protocol_id == plain


@pytest.mark.parametrize("update", [{"MAGMOM": 1}, {"GGA": "PE"}, {"METAGGA": "SCAN"}, {"nsw": 3}, {"LDAU": True}])
def test_updates_that_leave_the_protocol_are_refused(update):
    with pytest.raises(ConfigError, match=r"labeling\.incar_updates"):
        static_incar(update)


def test_element_without_potcar():
    with pytest.raises(InputError, match="no POTCAR for Og"):
        potcar_symbol("Og")


TAGS = st.dictionaries(
    st.sampled_from(["ENCUT", "SIGMA", "LREAL", "PREC", "NCORE", "ALGO"]),
    st.one_of(st.booleans(), st.integers(-10, 2000), st.text("ABCdef", min_size=1, max_size=4)),
)


@given(TAGS)
def test_changes_of_a_mapping_to_itself_are_none_whatever_the_spelling(tags):
    respelled = {k.lower(): v.swapcase() if isinstance(v, str) else v for k, v in tags.items()}
    assert changes(tags, respelled) == {}
    assert set(theory(tags)) == set(tags) - {"NCORE", "ALGO"}


@given(TAGS, TAGS)
def test_changes_are_symmetric(left, right):
    forward, back = changes(left, right), changes(right, left)
    assert forward == {k: (b, a) for k, (a, b) in back.items()}
