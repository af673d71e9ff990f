"""The page about things of one's own, executed as it stands: module, entry point, usage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import plugins
import pytest
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.select import candidate_document
from aqvolt_flows.schemas.parameters import CandidateParameters

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


def blocks(heading: str) -> list[str]:
    """Return the text of each code block of a section: module, entry point, and usage where there is one."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"there is no section {heading!r}"
    return re.findall(r"^```\w+\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)


def install(folder: Path, module: str, toml: str) -> None:
    """Install the module of a section as its entry point says, and hold the page to its promise of few lines."""
    name = re.match(r"# (\w+)\.py", module)[1]
    group, entry, target, thing = re.search(r'entry-points\."([\w.]+)"\]\n(\w+) = "(\w+):(\w+)"', toml).groups()
    assert target == name
    code = [line for line in module.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 20, f"{name} has {len(code)} lines"
    plugins.install(folder, name, module, group, {entry: thing})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "says"),
    [
        # R₀ = 1.09 σ (Kittel, Introduction to Solid State Physics, ch. 3): a³/4 = 36.0 Å³; a smoothed cutoff adds some
        ("A potential of your own", r"True 3[67]\.\d+"),
        # −8.6 ε an atom is the fcc lattice sum (Ashcroft and Mermin, ch. 20): −0.0895 eV; ASE's cutoff of 3 σ and its
        # shift leave some of it out
        ("A labeler of your own", r"converged True -0\.0[5-9]\d*"),
        ("An encoder of your own", r"5 [1-4]$"),
    ],
)
def test_a_section_works_as_it_stands(heading, says, tmp_path):
    module, toml, usage = blocks(heading)
    install(tmp_path, module, toml)
    last = plugins.run(tmp_path, usage).strip().splitlines()[-1]
    assert re.search(says, last), last


@pytest.mark.slow
def test_a_benchmark_runs_from_the_command_line_and_in_a_campaign(database, settings, project, tmp_path):
    cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.13), ["Li", "Cl"], [[0, 0, 0], [0.5] * 3])
    licl = candidate_document(cubic.get_primitive_structure(), CandidateParameters(), "LiCl", "user", ["Wyckoff 1963"])
    database.upsert("candidates", [licl])
    folder = tmp_path / "site"
    folder.mkdir()
    module, toml = blocks("A benchmark of your own")
    install(folder, module, toml)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "aqvolt_launch",
        "benchmark",
        "run",
        "rest",
        "--model",
        "chgnet/r2scan",
    ]
    done = subprocess.run(
        [*command, "--json"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["benchmark"], row["n_items"], row["n_failed"]) == ("rest", 1, 0)
    assert row["mean_max_force"] < 1e-3  # every atom of rock salt is a center of inversion
    code = (
        "from aqvolt_flows.campaign import parse_campaign\n"
        "from aqvolt_flows.stages import plan_stage\n"
        "from aqvolt_flows.stores import Database\n"
        "campaign = parse_campaign('{name: mine, exploration: {potential: chgnet/r2scan}, benchmarks: {rest: {}}}')\n"
        "print(sorted(i.name for i in plan_stage('benchmark', campaign, Database.connect()).items))"
    )
    assert plugins.run(folder, code).strip() == "['ev_scan chgnet/r2scan', 'rest chgnet/r2scan']"


PROGRAM = """
import json, sys
from aqvolt_flows.training.records import Recorder

given = json.load(open(sys.argv[1]))
record = Recorder("progress.jsonl")
record.write("start", 0, n_parameters=1)
for step in range(1, given["epochs"] + 1):
    record.write("train", step, loss=1 / step)
open("inference_ckpt.pt", "w").write("weights of " + given["data"])
record.write("end", given["epochs"])
"""
CAMPAIGN = """
from pathlib import Path
from aqvolt_flows.campaign import parse_campaign
from aqvolt_flows.trainers import TrainingTask, trainings_of
campaign = parse_campaign("name: x\\ntrainings: {first: {trainer: mine, epochs: 3}}")
(one,) = trainings_of(campaign.trainings, campaign.training)
task = TrainingTask(one.parameters, Path("release"), Path("run").resolve(), "cpu")
found = [one.trainer.train(task) for _ in range(2)]
print(found[0] == found[1], found[0].weights.read_text(), found[0].progress.read_text().count("launch"))
"""


def test_a_trainer_runs_from_a_campaign_and_is_recognized(tmp_path):
    module, toml = blocks("A trainer of your own")
    install(tmp_path, module, toml)
    (tmp_path / "my_program.py").write_text(PROGRAM)
    said = plugins.run(tmp_path, CAMPAIGN).strip().splitlines()[-1]
    assert said == "True weights of release/exports/aselmdb 1"
