"""The code blocks of Markdown pages, and running them as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HOUSE = Path(__file__).parents[1]


def fenced(text: str) -> list[tuple[str, str]]:
    """Return language and text of every fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def blocks(heading: str, language: str, page: str = "README.md") -> list[str]:
    """Return the code blocks of one language in the section of a heading."""
    text = (HOUSE / page).read_text()
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{page} has no section {heading!r}"
    return [code for name, code in fenced(section[1]) if name == language]


def shell(code: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Return what a block prints; the first command that fails ends it."""
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", code],
        cwd=folder, env={**environment, "PATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def python(code: str, folder: Path, environment: Mapping[str, str], *arguments: str) -> str:
    """Return what a block prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def commands(code: str) -> list[list[str]]:
    """Return the words of every ``aqvolt`` command of a block; what is inside quotes stays one word."""
    found: list[list[str]] = []
    for line in re.sub(r"\\\n", " ", code).splitlines():
        words = shlex.shlex(line.split("  #")[0], posix=True, punctuation_chars="|&;>")
        words.whitespace_split, words.commenters = True, ""
        command: list[str] = []
        for word in [*words, ";"]:
            if not set(word) <= set("|&;>"):
                command.append(word)
                continue
            if command[:1] == ["aqvolt"]:
                found.append(command[1:])
            command = [""] if ">" in word else []  # what follows > is a file
    return found
