"""Packages of other people: a module and the metadata of an installed distribution, in a folder for ``sys.path``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[1]


def install(folder: Path, module: str, code: str, group: str, entries: dict[str, str]) -> None:
    """Write a module and a dist-info folder whose entry points are ``entries``: name → object in the module."""
    (folder / f"{module}.py").write_text(code)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    lines = [f"{name} = {module}:{thing}" for name, thing in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


def run(folder: Path, code: str) -> str:
    """Return what a new Python prints that finds the packages of ``folder``; it runs there, outside any project."""
    path = os.pathsep.join([str(folder), str(HOUSE), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout
