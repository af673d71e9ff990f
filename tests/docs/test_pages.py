"""What the pages promise: links that lead somewhere, one spelling, and the makers' example as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import plugins
import pytest

HOUSE = Path(__file__).parents[2]
PAGES = [HOUSE / "README.md", *sorted((HOUSE / "docs").rglob("*.md"))]
#: British spellings that stood in the docs once.
BRITISH = (
    r"\b(labell(?:ed|ing)|neighbours?|centres?|behaviours?|(?:normal|serial|recogn|standard)ise[ds]?|so-manieth)\b"
)


def prose(page: Path) -> str:
    """Return a page without code blocks and code words."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower().replace("`", "")).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_spelling_is_american(page: Path) -> None:
    assert re.findall(BRITISH, prose(page), re.IGNORECASE) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number", "says"),
    [("docs/makers.md", 0, r"Li(F|Cl) converged -\d+\.\d+"), ("README.md", -1, r"-\d+\.\d+ \[")],
)
def test_an_example_runs_as_it_stands(page: str, number: int, says: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (HOUSE / page).read_text(), re.MULTILINE | re.DOTALL)
    assert re.search(says, plugins.run(tmp_path, blocks[number]))
