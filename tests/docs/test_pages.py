"""What the pages promise: links that lead somewhere, whole tables, one spelling, and examples that run."""

from __future__ import annotations

import re
from pathlib import Path

import plugins
import pytest

HOUSE = Path(__file__).parents[2]
PAGES = [HOUSE / "README.md", *sorted((HOUSE / "docs").rglob("*.md"))]
#: British spellings, most of which the docs once had; and a word that nobody knows.
BRITISH = re.compile(
    r"\b(?:(?:re)?label(?:led|ling)|model(?:led|ling)|cancell(?:ed|ing)|neighbour\w*|centres?|behaviours?|colours?|favour\w*"
    r"|licences?|analys(?:e[ds]?|ing)|catalogues?|grey"
    r"|(?:initial|normal|optim|organ|parallel|recogn|serial|standard|summar)is(?:e[ds]?|ing|ations?)|so-manieth)\b",
    re.IGNORECASE,
)


def prose(page: Path) -> str:
    """Return a page without code blocks and code words."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower().replace("`", "")).replace(" ", "-") for h in headings}


def broken_tables(text: str) -> list[str]:
    """Return the lines that a Markdown renderer would not show as the table that they were meant to be."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    broken = []
    for block in re.findall(r"^\|.*(?:\n.+)*", text, re.MULTILINE):
        head, *rows = block.splitlines()
        cells = len(re.findall(r"(?<!\\)\|", head))
        if not rows or re.fullmatch(rf"(?:\| *:?-+:? *){{{cells - 1}}}\|", rows[0]) is None:
            broken.append(head)
            continue
        broken += [r for r in rows if not re.match(r"\|.*\|$", r) or len(re.findall(r"(?<!\\)\|", r)) != cells]
    return broken


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
    assert BRITISH.findall(prose(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_tables_are_whole(page: Path) -> None:
    assert broken_tables(page.read_text()) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("| a | b |\n| --- | ---: |\n| 1 | `x\\|y` |\n", []),
        ("| a | b |\n| --- | --- |\n| 1 |\n", ["| 1 |"]),
        (
            "| a | b |\n| --- | --- |\n| 1 | a sentence that was\nwrapped |\n",
            ["| 1 | a sentence that was", "wrapped |"],
        ),
        ("| a | b |\n| 1 | 2 |\n", ["| a | b |"]),
        ("| a |\n| --- |\n| 1 |\ntext without an empty line before it\n", ["text without an empty line before it"]),
        ("```\n| a shell | pipe\n```\n", []),
    ],
    ids=["whole", "cell missing", "wrapped", "no separator", "no empty line after", "code"],
)
def test_broken_tables_are_found(text: str, broken: list[str]) -> None:
    assert broken_tables(text) == broken


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number", "says"),
    [("docs/makers.md", 0, r"Li(F|Cl) converged -\d+\.\d+"), ("README.md", -1, r"-\d+\.\d+ \[")],
)
def test_an_example_runs_as_it_stands(page: str, number: int, says: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (HOUSE / page).read_text(), re.MULTILINE | re.DOTALL)
    assert re.search(says, plugins.run(tmp_path, blocks[number]))
