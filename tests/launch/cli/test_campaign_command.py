"""``aqvolt campaign`` and ``aqvolt init --campaign`` as people call them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from in_process import command_of

from aqvolt_flows.campaign import shipped_campaigns
from aqvolt_flows.errors import ConfigError, InputError
from aqvolt_launch.cli import campaign
from aqvolt_launch.cli import project as project_commands

aqvolt = command_of(campaign, project_commands)


def test_a_key_is_explained(project: Path) -> None:
    said = aqvolt("campaign", "show", "timestep_with_hydrogen_fs")
    assert said.splitlines()[0] == "aimd.timestep_with_hydrogen_fs  (fs)"
    assert "0.5" in said
    assert "source       paper, section 2.2" in said.replace("  source ", "source ")
    assert "the paper does not say" in aqvolt("campaign", "show", "exploration.barostat_tau_fs")
    with pytest.raises(InputError, match=r"did you mean exploration\.stride"):
        aqvolt("campaign", "show", "strid")


def test_values_are_those_of_the_campaign_of_the_project(project: Path) -> None:
    aqvolt("init", "s", "--campaign", "sulfide")
    copy = project / "s" / "sulfide.yaml"
    copy.write_text(copy.read_text().replace("n_steps: 50000", "n_steps: 4242"))
    (project / "aqvolt.yaml").write_text("campaign: s/sulfide.yaml\n")
    found = json.loads(aqvolt("campaign", "show", "exploration.n_steps", "--json"))
    assert found["campaign"] == "sulfide"
    [row] = found["parameters"]
    assert (row["value"], row["default"], row["source"]) == (4242, 50_000, "2.1: 50 ps")
    other = json.loads(aqvolt("campaign", "show", "exploration.n_steps", "--campaign", "demo", "--json"))
    assert other["parameters"][0]["value"] == 200


def test_list_and_check(project: Path) -> None:
    assert {row["name"] for row in json.loads(aqvolt("campaign", "list", "--json"))} == set(shipped_campaigns())
    assert "sulfide is right" in aqvolt("campaign", "check", "sulfide")
    (project / "mine.yaml").write_text("name: mine\nexploration: {timestep_ps: 1}\n")
    with pytest.raises(ConfigError, match="did you mean timestep_fs"):
        aqvolt("campaign", "check", "mine.yaml")


def test_init_says_where_the_copy_is_and_when_it_is_not_used(project: Path) -> None:
    said = aqvolt("init", "s", "--campaign", "sulfide", "--template", "laptop")
    assert "Edit s/sulfide.yaml" in said
    assert "'cd s', 'aqvolt db start'" in said
    again = aqvolt("init", "s", "--campaign", "aqvolt26")
    assert "write 'campaign: aqvolt26.yaml' there" in again
