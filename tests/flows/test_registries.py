"""Registries: names, plug-ins of other packages, and those that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import plugins
import pytest

from aqvolt_flows import registries
from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.errors import InputError
from aqvolt_flows.labelers import LABELERS, known_code, reference_functional
from aqvolt_flows.registries import Registry
from aqvolt_flows.schemas.provenance import Protocol


@dataclass(frozen=True)
class Thing:
    name: str


def test_an_unknown_name_is_refused_with_the_known_ones_and_the_nearest() -> None:
    things = Registry("thing", Thing, [Thing("alpha"), Thing("beta")])
    assert list(things) == ["alpha", "beta"]
    assert things["beta"] == Thing("beta")
    with pytest.raises(InputError, match="There is no thing 'alhpa'; known are alpha, beta: did you mean 'alpha'"):
        things["alhpa"]
    with pytest.raises(InputError, match="check the spelling"):
        things[["no", "name"]]


def test_plug_ins_that_cannot_be_used_are_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("good", "test_registries_module:GOOD", "aqvolt.things"),
        EntryPoint("absent", "no_such_module_anywhere:X", "aqvolt.things"),
        EntryPoint("wrong", "sys:path", "aqvolt.things"),
        EntryPoint("twin", "test_registries_module:GOOD", "aqvolt.things"),
        EntryPoint("ours", "test_registries_module:ALPHA", "aqvolt.things"),
    ]
    import sys
    import types

    module = types.ModuleType("test_registries_module")
    module.GOOD, module.ALPHA = Thing("good"), Thing("alpha")
    monkeypatch.setitem(sys.modules, "test_registries_module", module)
    monkeypatch.setattr(registries, "entry_points", lambda group: points)
    things = Registry("thing", Thing, [Thing("alpha")], group="aqvolt.things")
    assert list(things) == ["alpha", "good"]
    assert things["alpha"] is not module.ALPHA, "what is there is not replaced"
    said = "\n".join(things.problems)
    assert "no_such_module_anywhere" in said
    assert "it is a list; expected a Thing" in said
    assert "there is a thing 'good' already" in said
    assert "there is a thing 'alpha' already" in said
    with pytest.raises(InputError, match="Not loaded: The thing 'absent'"):
        things["absent"]


def test_no_code_gets_vasps_atoms_because_nothing_else_was_known() -> None:
    """FHI-aims' energies are all-electron: about −7.4 Hartree for Li, where VASP's pseudo-atom has −0.8 eV."""
    aims = Protocol(code="fhi-aims", version="", functional="r2SCAN")
    assert not known_code("fhi-aims")
    assert reference_functional(aims) is None
    assert reference_functional(Protocol(code="external", version="", functional="r2SCAN")) == "r2SCAN"
    with pytest.raises(InputError, match="There is no labeler 'cp2k'"):
        LABELERS["cp2k"]
    with pytest.raises(InputError, match=r"There is no labeler 'surogate'.*did you mean 'surrogate'"):
        LABELERS["surogate"]


def test_benchmarks_have_hyphens_or_underscores() -> None:
    assert benchmark_named("force-bins").name == benchmark_named("force_bins").name == "force_bins"
    with pytest.raises(InputError, match=r"There is no benchmark 'ev_scann'; .*did you mean 'ev_scan'"):
        benchmark_named("ev-scann")


@pytest.mark.slow
def test_a_broken_labeler_of_another_package_does_not_stop_ours(tmp_path) -> None:
    plugins.install(
        tmp_path, "broken_labeler", "raise RuntimeError('half installed')\n", "aqvolt.labelers", {"broken": "X"}
    )
    code = (
        "from aqvolt_flows.labelers import LABELERS\n"
        "from aqvolt_flows.campaign import parse_campaign\n"
        "print(list(LABELERS), len(LABELERS.problems), 'half installed' in LABELERS.problems[0])\n"
        "try: parse_campaign('{name: x, labeling: {labeler: broken}}')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    first, second = plugins.run(tmp_path, code).strip().splitlines()
    assert first == "['vasp', 'gpaw', 'surrogate'] 1 True"
    assert second.startswith("ConfigError campaign: labeling.labeler: There is no labeler 'broken'")
    assert "RuntimeError: half installed" in second
