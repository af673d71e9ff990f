"""README: what it promises of commands, targets and stages is so; the demo's blocks run in test_chain.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import readme
import typer
from typer.testing import CliRunner

from aqvolt_flows.stages import STAGES
from aqvolt_launch.cli import commands

PAGES = [readme.HOUSE / "README.md", *sorted((readme.HOUSE / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    commands.register(made)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(readme.HOUSE).as_posix())
def test_every_command_of_every_page_exists_with_its_options(app: typer.Typer, page: Path) -> None:
    """--help is answered only after all words were read; unknown commands and options are errors."""
    blocks = [code for language, code in readme.fenced(page.read_text()) if language in {"", "sh", "bash"}]
    for words in [w for block in blocks for w in readme.commands(block)]:
        done = CliRunner().invoke(app, [*words, "--help"])
        assert done.exit_code == 0, f"aqvolt {' '.join(words)}: {done.output[-400:]}"


def test_readme_starts_with_two_commands_that_make_knows() -> None:
    text = readme.HOUSE.joinpath("README.md").read_text()
    first = re.search(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert first
    targets = [line.split("#")[0].split() for line in first[1].splitlines()]
    assert targets == [["make", "demo"], ["make", "test"]]
    assert text[: first.start()].count("\n") < 20, "on the first screen"
    for target in targets:
        done = subprocess.run([*target, "--dry-run"], cwd=readme.HOUSE, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not re.search(r"[0-9a-f]{12}", re.sub(r"^```\ncandidates.*?^```", "", text, flags=re.M | re.S)), (
        "a hash of a release is another for everyone"
    )


def test_readme_shows_the_stages_of_the_demo() -> None:
    text = readme.HOUSE.joinpath("README.md").read_text()
    shown = re.findall(r"^(\w+) +\d+/\d+ finished", text, re.MULTILINE)
    assert shown == [stage.name for stage in STAGES if stage.in_demo]


@pytest.mark.slow
def test_the_block_of_a_campaign_of_ones_own_runs_up_to_the_first_long_stage(tmp_path: Path) -> None:
    """Everything that needs neither hours nor a network, line by line."""
    from ase.build import bulk

    [block] = readme.blocks("A campaign of your own", "sh")
    long = ("pip ", "aqvolt submit", "aqvolt labels import", "aqvolt build", "aqvolt release", "aqvolt report")
    lines = [line for line in block.splitlines() if not line.startswith(long)]
    assert len(lines) == 8
    structures = tmp_path / "mycampaign" / "structures"
    structures.mkdir(parents=True)
    bulk("LiCl", "rocksalt", a=5.13, cubic=True).write(structures / "licl.cif")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AQVOLT_")} | {"PYTHONWARNINGS": "ignore"}
    environment |= {"MP_API_KEY": ""}
    code = "\n".join(f"{line.split('   #')[0]} || [ $? -eq 1 ]" if "doctor" in line else line for line in lines)
    try:
        said = readme.shell(code, tmp_path, environment)
    finally:
        stop = [sys.executable, "-m", "aqvolt_launch", "db", "stop"]
        subprocess.run(stop, cwd=tmp_path / "mycampaign", env=environment, capture_output=True, check=False)
    assert "aqvolt26.yaml is right: aqvolt26" in said
    assert re.search(r"Plan: explore", said)
    assert re.search(r"to submit +│ +1 ", said), "one structure, all temperatures, one batch"


@pytest.mark.slow
def test_the_page_about_ones_own_chemistry_runs_as_it_stands(tmp_path: Path) -> None:
    page = (readme.HOUSE / "docs" / "tutorials" / "chemistry.md").read_text()
    code = "\n".join(code for language, code in readme.fenced(page) if language == "sh")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AQVOLT_")} | {"PYTHONWARNINGS": "ignore"}
    try:
        said = readme.shell(code, tmp_path, environment)
    finally:
        stop = [sys.executable, "-m", "aqvolt_launch", "db", "stop"]
        subprocess.run(stop, cwd=tmp_path / "sulfides", env=environment, capture_output=True, check=False)
    for formula in ("Li2S", "Li2PS3", "LiPS3", "LiZnPS4", "Li5AlS4", "Li3SbS4"):
        assert re.search(rf"\b{formula}\b", said), formula
    assert "Missing: " in said, "no frame to label yet"
