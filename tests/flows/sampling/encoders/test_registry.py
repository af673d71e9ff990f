"""Encoders by name: those of this package, those of others, and what is refused."""

from __future__ import annotations

import plugins
import pytest

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling.encoders import registry
from aqvolt_flows.sampling.encoders.registry import ENCODERS, EncoderEntry, check_encoder, encoder_entry, path_schemes

CODE = """
from aqvolt_flows.sampling.encoders.registry import EncoderEntry

def entry(name):
    return EncoderEntry(name, f"{name}:PATH", load="nowhere:load", sha256=len, layer="x", package="ase")

GOOD, TWICE = entry("mine"), entry("chgnet")
"""
LOOK = """
from aqvolt_flows.sampling.encoders.registry import *
from aqvolt_flows.sampling.encoders.registry import ENCODERS
import sys
print(list(ENCODERS), encoder_hash("mine:x"), path_schemes())
try:
    encoder_hash("yours:x")
except Exception as error:
    print(type(error).__name__, error)
print("torch" in sys.modules)
"""


def test_the_families_and_their_schemes():
    assert list(ENCODERS)[:3] == ["chgnet", "m3gnet", "fairchem"]
    assert path_schemes()[:2] == ["m3gnet:", "fairchem:"]
    assert encoder_entry("fairchem:a/b.pt").name == "fairchem"
    for name in ("", "chgnet", "chgnet/r2scan2", "fairchem:", "m3gnet", "CHGNet/r2scan", "uma"):
        with pytest.raises(InputError, match=f"There is no encoder '{name}'; known are chgnet/r2scan, m3gnet:PATH"):
            encoder_entry(name)


def test_a_missing_package_is_named(monkeypatch):
    entry = EncoderEntry("x", "x/1", load="a:b", sha256=str, layer="", package="not_there", install="pip install x")
    monkeypatch.setattr(registry, "encoder_entry", lambda name: entry)
    with pytest.raises(ResourceError, match=r"Encoder 'x/1' needs not_there; pip install x\."):
        check_encoder("x/1")


def test_other_packages_add_encoders_and_broken_ones_are_named(tmp_path):
    plugins.install(tmp_path, "good_encoders", CODE, "aqvolt.encoders", {"mine": "GOOD", "second": "TWICE"})
    plugins.install(tmp_path, "bad_encoders", "import not_there", "aqvolt.encoders", {"broken": "ENCODER"})
    found, refused, torch = plugins.run(tmp_path, LOOK).splitlines()
    assert found == "['chgnet', 'm3gnet', 'fairchem', 'mine'] 6 ['m3gnet:', 'fairchem:', 'mine:']"
    assert refused.startswith(
        "InputError There is no encoder 'yours:x'; known are chgnet/r2scan, m3gnet:PATH, fairchem"
    )
    assert "'broken' of bad-encoders (bad_encoders:ENCODER) was left out: ModuleNotFoundError" in refused
    assert (
        "'second' of good-encoders (good_encoders:TWICE) was left out: there is a family of encoders 'chgnet'"
        in refused
    )
    assert torch == "False"
