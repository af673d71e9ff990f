"""The theory level as one object."""

from __future__ import annotations

import json

import pytest
from pymatgen.io.vasp.sets import MatPESStaticSet

from aqvolt_flows.errors import ConfigError
from aqvolt_flows.vasp.level import TheoryLevel
from aqvolt_flows.vasp.settings import r2scan_protocol


def test_it_fixes_everything_and_says_so_in_json():
    """Values as MatPES published them (arXiv:2503.04070), and no PBE step before (AQVolt26, section 2.2)."""
    said = json.loads(json.dumps(TheoryLevel().as_dict()))
    assert (said["code"], said["functional"], said["kspacing"]) == ("vasp", "r2SCAN", 0.22)
    assert (said["potcar_release"], said["potcars"]["Li"], said["moments"]["Mn"]) == ("PBE_64", "Li_sv", 5.0)
    assert said["pre_step"] is None
    assert said["protocol"] == r2scan_protocol().name


def test_enaug_is_an_option_and_another_level():
    old = TheoryLevel({"ENAUG": 1360})
    assert old.incar["ENAUG"] == 1360
    assert old.protocol().protocol_id != TheoryLevel().protocol().protocol_id
    assert TheoryLevel().changes(old.incar) == {"ENAUG": (None, 1360.0)}


def test_incar_changes_that_leave_the_surface_are_named_and_others_are_not():
    incar = TheoryLevel().incar
    assert TheoryLevel().changes(incar | {"ALGO": "Normal", "NCORE": 8}) == {}
    assert TheoryLevel().changes(incar | {"ISMEAR": -5}) == {"ISMEAR": (0.0, -5.0)}


def test_a_changed_default_is_seen_without_a_restart(monkeypatch: pytest.MonkeyPatch):
    TheoryLevel().check_installed()
    changed = {**MatPESStaticSet.CONFIG, "INCAR": {**MatPESStaticSet.CONFIG["INCAR"], "KSPACING": 0.3}}
    monkeypatch.setattr(MatPESStaticSet, "CONFIG", changed)
    with pytest.raises(ConfigError, match=r"KSPACING: 0\.22 is now 0\.3"):
        TheoryLevel().check_installed()
