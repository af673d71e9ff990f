"""Potentials by name: those of this package, those of others, and what is refused."""

from __future__ import annotations

from importlib.metadata import version

import plugins
import pytest

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_hash
from aqvolt_flows.potentials.registry import FAMILIES, Family, check_model, model_hash, model_version

CODE = """
from aqvolt_flows.potentials.registry import Family

def family(name, **more):
    return Family(name=name, pattern=f"{name}/1", module="nowhere", package="ase", **more)

GOOD, TWICE, NONE = family("mine", built_in={"mine/1": "ab" * 32}), family("mace"), dict(name="x")
"""
LOOK = """
import sys
from aqvolt_flows.potentials.registry import FAMILIES, check_model, model_hash
print(list(FAMILIES), model_hash("mine/1"), check_model("mine/1"))
try:
    model_hash("yours/1")
except Exception as error:
    print(type(error).__name__, error)
print("torch" in sys.modules)
"""


def test_other_packages_add_families_and_broken_ones_are_named(tmp_path):
    entries = {"mine": "GOOD", "second": "TWICE", "third": "NONE", "fourth": "ABSENT"}
    plugins.install(tmp_path, "good_potentials", CODE, "aqvolt.potentials", entries)
    plugins.install(tmp_path, "bad_potentials", "1 / 0", "aqvolt.potentials", {"broken": "FAMILY"})
    found, refused, torch = plugins.run(tmp_path, LOOK).splitlines()
    ours = ["sevennet", "chgnet", "fairchem", "mace", "matgl", "sevennet-checkpoint", "committee"]
    assert found == f"{[*ours, 'mine']} {'ab' * 32} None"
    assert refused.startswith("InputError There is no potential 'yours/1'; known are 7net-mf-0/R2SCAN, chgnet/r2scan")
    for said in (
        "'broken' of bad-potentials (bad_potentials:FAMILY) was left out: ZeroDivisionError: division by zero",
        "(good_potentials:TWICE) was left out: there is a family of potentials 'mace' already",
        "(good_potentials:NONE) was left out: it is a dict; expected a Family",
        "(good_potentials:ABSENT) was left out: AttributeError",
    ):
        assert said in refused
    assert torch == "False"


def test_a_family_owns_its_strings():
    family = Family("a", "a:PATH", "m", "ase", known={"a/known": ("w", "0" * 64)}, built_in={"a/1": content_hash(1)})
    assert all(family.owns(m) for m in ("a:x", "a/known", "a/1"))
    assert not any(family.owns(m) for m in ("a:", "a", "b:x", "a/2", ""))


@pytest.mark.parametrize("name", ["", "mace:", "7net", "chgnet", "emt"])
def test_an_unknown_potential_is_refused_everywhere(name):
    for ask in (model_hash, check_model):
        with pytest.raises(InputError, match=f"There is no potential '{name}'"):
            ask(name)
    with pytest.raises(InputError, match="There is no family of potentials 'orb'"):
        FAMILIES["orb"]


def test_a_model_has_the_version_of_its_package():
    installed = {name: family.installed for name, family in FAMILIES.items()}
    assert installed["chgnet"] == model_version("chgnet/r2scan") == version("chgnet")
    assert installed["fairchem"] == version("fairchem-core")
    assert model_version("mace:x.model") == installed["mace"]
    absent = Family("a", "a:PATH", "m", "not_there")
    assert absent.installed == ""
