"""The package: what the wheel holds, that it works outside the checkout, and that the base needs no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "sevenn", "chgnet", "fairchem", "torch_sim", "matplotlib", "gpaw", "secantus", "mp_api")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy to build from, as a checkout may lie on a read-only disk and build folders leak between builds."""
    source = tmp_path_factory.mktemp("source") / "project"
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory) -> Path:
    """The wheel."""
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
def test_the_source_distribution_holds_tests_and_docs(source, tmp_path):
    script = f"import setuptools.build_meta as b; print(b.build_sdist({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / done.stdout.splitlines()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wanted = {name for name in tracked if name.startswith(("tests/", "docs/", "docs_build/", "notebooks/"))}
    wanted |= {name for name in tracked if name.startswith(("aqvolt_flows/", "builders/", "launch/"))}
    assert len(wanted) > 400
    assert wanted - names == set()
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "Makefile",
        "mkdocs.yml",
        "requirements.lock",
    } <= names


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


def test_the_package_describes_itself():
    """Citation, version, extras and typed packages agree with each other."""
    import tomllib

    import aqvolt_flows

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == aqvolt_flows.__version__ == citation["version"]
    assert citation["license"] == project["license"]
    extras = project["optional-dependencies"]

    def named(extra: str) -> set[str]:
        inner = {e for text in extras[extra] for m in re.findall(r"aqvolt-flows\[(.*)\]", text) for e in m.split(",")}
        return inner | {deep for e in inner for deep in named(e)}

    assert named("all") == set(extras) - {"all", "gpaw"}, "everything but what compiles C"
    assert {"mlip", "train", "embedded", "report"} <= named("campaign")
    for folder in ("aqvolt_flows", "builders/aqvolt_builders", "launch/aqvolt_launch"):
        assert (ROOT / folder / "py.typed").is_file()
    for template in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(template.read_text())
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "nothing is downloaded"


def test_every_upper_bound_has_its_reason():
    """Each package with an upper bound is in the table of docs/dependencies.md."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text()
    wanted = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9_-]+", requirement)[0]
        if "<" in requirement or "==" in requirement:
            assert re.search(rf"^\|[^|]*\b{re.escape(name)}\b", page, re.MULTILINE), name
