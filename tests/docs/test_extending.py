"""The pages about potentials and encoders of one's own, executed as they stand: module, entry point, usage."""

from __future__ import annotations

import re
from pathlib import Path

import plugins
import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of each code block of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "says"),
    [
        # R₀ = 1.09 σ (Kittel, Introduction to Solid State Physics, ch. 3): a³/4 = 36.0 Å³; a smoothed cutoff adds some
        ("extending_potential.md", r"True 3[67]\.\d+"),
        ("extending_encoder.md", r"5 [1-4]$"),
    ],
)
def test_a_page_works_as_it_stands(page, says, tmp_path):
    (_, module), (_, toml), (_, usage) = blocks(page)
    name = re.match(r"# (\w+)\.py", module)[1]
    group, entry, target, thing = re.search(
        r'entry-points\."([\w.]+)"\]\n(\w+) = "(\w+):(\w+)"', toml
    ).groups()  # fmt: skip
    assert target == name
    code = [line for line in module.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 20, f"{page} promises twenty lines, it has {len(code)}"
    plugins.install(tmp_path, name, module, group, {entry: thing})
    last = plugins.run(tmp_path, usage).strip().splitlines()[-1]
    assert re.search(says, last), last
