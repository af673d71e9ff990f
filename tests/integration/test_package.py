"""The package: what the wheel holds, that it works outside the checkout, and that the base needs no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "sevenn", "chgnet", "fairchem", "torch_sim", "matplotlib", "gpaw", "secantus", "mp_api")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build from a copy, as a checkout may lie on a read-only disk and build folders leak between builds."""
    source = tmp_path_factory.mktemp("source") / "project"
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [built] = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_three_packages_and_their_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if not n.split("/")[0].endswith(".dist-info")} == {
        "aqvolt_flows",
        "aqvolt_builders",
        "aqvolt_launch",
    }
    for needed in (
        "aqvolt_flows/campaigns/aqvolt26.yaml",
        "aqvolt_flows/campaigns/demo.yaml",
        "aqvolt_flows/data/atomic_energies.csv",
        "aqvolt_flows/figures/report.html.j2",
        "aqvolt_flows/py.typed",
        "aqvolt_builders/py.typed",
        "aqvolt_launch/py.typed",
        "aqvolt_flows/campaigns/sulfide.yaml",
        "aqvolt_builders/mrun/labels.json",
    ):
        assert needed in names
    in_checkout = {p.name for p in (ROOT / "launch" / "templates").iterdir() if p.suffix == ".yaml"}
    assert in_checkout == {
        n.rsplit("/", 1)[1] for n in names if n.startswith("aqvolt_launch/templates/") and n.endswith(".yaml")
    }
    every = {str(p.relative_to(ROOT)) for p in (ROOT / "aqvolt_flows").rglob("*.py")}
    assert every <= set(names)


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        "import aqvolt_flows, aqvolt_builders.labels, aqvolt_launch.chain, aqvolt_flows.campaign as c;"
        "from aqvolt_launch.project.folder import init_project; from pathlib import Path;"
        f"assert aqvolt_flows.__file__.startswith({str(site)!r}), aqvolt_flows.__file__;"
        f"assert aqvolt_launch.__file__.startswith({str(site)!r});"
        "init_project(Path('project'), campaign='demo');"
        "print(c.load_campaign('demo').name, len(list(Path('project').iterdir())))"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    name, files = done.stdout.split()
    assert name == "demo"
    assert int(files) >= 7


def test_the_base_imports_without_what_the_extras_bring():
    """A submit node plans, submits and builds without torch; importing one of the extras' packages raises here."""
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError("the base imported " + name)
sys.meta_path.insert(0, Refuse())
import aqvolt_launch.chain, aqvolt_launch.workers, aqvolt_launch.project.folder, aqvolt_launch.project.status
import aqvolt_launch.repair.reconcile
import aqvolt_builders.jobs, aqvolt_builders.registry
from aqvolt_launch.cli import commands
from aqvolt_launch.cli.app import app
commands.register(app)
print(sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_help_imports_nothing_heavy():
    script = """
import sys
sys.argv = ["aqvolt", "--help"]
import aqvolt_launch.cli
try:
    aqvolt_launch.cli.main()
except SystemExit:
    pass
heavy = {"torch", "pymatgen", "jobflow", "fireworks", "ase", "numpy", "pandas"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("HEAVY []"), done.stdout + done.stderr
