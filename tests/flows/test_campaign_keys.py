"""Every parameter is explained: what the models, the comments and the campaigns say of one key agree."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.campaign import Campaign, load_campaign, shipped_campaigns
from aqvolt_flows.campaign_keys import comments, parameters, parameters_below, value_at
from aqvolt_flows.errors import InputError

BY_KEY = {p.key: p for p in parameters()}


def leaves(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict) and value and f"{prefix}{name}" in BY_KEY and BY_KEY[f"{prefix}{name}"].group:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_the_list_is_whole_and_its_defaults_are_those_of_the_models():
    empty = Campaign(name="x")
    own = {p.key for p in parameters() if not p.group and "[]" not in p.key} | {"candidates.prototypes"}
    # documents may leave out what has its default; nothing that they hold is missing here
    assert {key for key, _ in leaves(empty.model_dump(mode="json"))} <= own
    assert len(own) > 150
    for key in own - {"name"}:
        assert value_at(empty, key) == BY_KEY[key].default, key
    assert BY_KEY["name"].required


@pytest.mark.parametrize(
    ("key", "unit", "type", "limits"),
    [
        ("exploration.temperatures_k", "K", "list of number", "at least 1, > 0, ≤ 10000"),
        ("exploration.compressibility_per_gpa", "1/GPa", "number", "> 0"),
        ("exploration.max_force_ev_per_a", "eV/Å", "number", "> 0"),
        ("candidates.hosts.max_e_above_hull_ev", "eV/atom", "number", "≥ 0"),
        ("aimd.lattice_mass", "amu", "number", "> 0"),
        ("labeling.gpaw_kspacing", "1/Å", "number", "> 0"),
        ("exploration.n_steps", "", "integer", "> 0"),
        ("sampling.stage1", "", "partition or selection", ""),
        ("candidates.prototypes[].sites[].xyz", "", "3 × number", ""),
    ],
)
def test_unit_type_and_limits(key, unit, type, limits):
    found = BY_KEY[key]
    assert (found.unit, found.type) == (unit, type)
    assert set(found.limits.split(", ")) == set(limits.split(", "))


def test_sources_are_the_comments_of_the_papers_campaign():
    assert BY_KEY["exploration.temperatures_k"].source == "2.1: 300-1500 K by 300 K"
    assert BY_KEY["candidates.hosts.redox_metals"].source == "2.1"
    assert BY_KEY["training.n_layers"].source == "2.3 and SI Table S1", "of its group"
    assert BY_KEY["training.conservative.max_atoms"].source.startswith("a rank; 48,000 atoms")
    assert BY_KEY["exploration.min_packing"].source == "silent", "the model says that the value is ours"


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda k: not isinstance(yaml.safe_load(k), bool | None)),
        st.tuples(
            st.one_of(st.integers(), st.booleans(), st.text("ab#: '\"", max_size=6), st.lists(st.integers())),
            st.one_of(st.none(), st.from_regex(r"[a-z0-9][a-z0-9 .:#]{0,20}[a-z0-9]", fullmatch=True)),
        ),
        max_size=5,
    )
)
def test_comments_survive_whatever_values_stand_before_them(entries):
    lines = ["group:"]
    for name, (value, comment) in entries.items():
        written = yaml.safe_dump(value, default_flow_style=True, width=1000).replace("\n...", "").strip()
        lines.append(f"  {name}: {written}" + (f"   # {comment}" if comment else ""))
    expected = {f"group.{name}": c for name, (_, c) in entries.items() if c}
    assert comments("\n".join(lines)) == expected


def test_a_key_is_found_by_its_end_and_a_group_with_what_it_holds():
    assert [p.key for p in parameters_below("stride")] == ["exploration.stride"]
    hosts = [p.key for p in parameters_below("candidates.hosts")]
    assert hosts[0] == "candidates.hosts"
    assert "candidates.hosts.redox_metals" in hosts
    assert not any(k.startswith("candidates.hosts.") for k in (p.key for p in parameters_below("lithiation")))
    assert len(parameters_below()) == len(parameters())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("temperatures_k", r"exploration.temperatures_k, aimd.temperatures_k; give the whole key"),
        ("exploration.strides", r"did you mean .*exploration.stride"),
        ("aimd.n_step", r"aimd.n_steps"),
        ("zzz", r"'aqvolt campaign show' lists all"),
    ],
)
def test_a_key_that_is_none_is_explained(key, message):
    with pytest.raises(InputError, match=message):
        parameters_below(key)


def test_values_of_campaigns():
    sulfide = load_campaign("sulfide")
    assert value_at(sulfide, "release.head") is False
    assert value_at(sulfide, "candidates.prototypes[].sites[].element")[0] == ["Li", "S"]
    assert value_at(sulfide, "candidates.require_any_of") == ["S"]
    assert "Li2S (antifluorite)" in value_at(sulfide, "candidates.prototypes[].name")
    for name in shipped_campaigns():
        campaign = load_campaign(name)
        assert value_at(campaign, "exploration.temperatures_k") == campaign.exploration.temperatures_k


def test_the_sulfides_are_crystals_that_the_campaign_accepts():
    from aqvolt_flows.candidates.select import build_structure, candidate_document

    campaign = load_campaign("sulfide")
    formulas = {}
    for prototype in campaign.candidates.prototypes:
        structure = build_structure(prototype)
        document = candidate_document(structure, campaign.candidates, prototype.name, "user", prototype.references)
        assert document.status == "accepted", document.rejection
        formulas[document.formula] = len(structure)
    # atoms of the cells: antifluorite and those of the cited entries (LiPS3 as its primitive cell)
    assert formulas == {"Li2S": 12, "Li2PS3": 12, "LiPS3": 10, "LiZnPS4": 14, "Li5AlS4": 20, "Li3SbS4": 16}
