"""The page on candidates lists every kind of reason that the code gives, with its meaning."""

from __future__ import annotations

import re
from pathlib import Path

from aqvolt_flows.candidates.refusals import REFUSALS

PAGE = Path(__file__).parents[3] / "docs" / "candidates.md"
SOURCES = Path(__file__).parents[3] / "aqvolt_flows" / "candidates"


def test_the_page_lists_every_kind_of_reason_and_no_other() -> None:
    section = PAGE.read_text().split("### Records that are not read")[1].split("### ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))
    assert rows.keys() == REFUSALS.keys()
    without_numbers = {code: text if text == REFUSALS[code] else text.rsplit(" (", 1)[0] for code, text in rows.items()}
    assert without_numbers == REFUSALS


def test_the_page_lists_the_reasons_of_the_rules() -> None:
    text = (SOURCES / "select.py").read_text() + (SOURCES / "pool.py").read_text()
    reasons = set(re.findall(r'reason="([a-z_]+)"', text))
    section = PAGE.read_text().split("### Structures that are rejected")[1].split("## ")[0]
    assert reasons <= set(re.findall(r"`([a-z_]+)`", section))
