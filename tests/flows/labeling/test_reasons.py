"""Every reason that the code can give is known, with its status, and stands in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import aqvolt_flows
from aqvolt_flows.labeling.reasons import REASONS, restarted_here, worth_rerunning

PACKAGE = Path(aqvolt_flows.__file__).parent
SOURCES = [*PACKAGE.glob("labeling/*.py"), *PACKAGE.glob("vasp/*.py")]


def test_every_reason_in_the_source_is_in_the_table_and_the_other_way_round():
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "reasons.py")
    given = set(re.findall(r'(?:reason=|LabelError\(\s*)"(\w+)"', text))
    given |= set(re.findall(r'refused\("\w+", "(\w+)"', text)) | set(
        re.findall(r'^    \("(\w+)", r"', text, re.MULTILINE)
    )
    given |= set(re.findall(r'"(no_space_left|vasp_not_started)"', text))
    assert given == set(REASONS)


@pytest.mark.parametrize("word", sorted(REASONS))
def test_the_docs_name_it(word: str):
    docs = PACKAGE.parent / "docs" / "labeling.md"
    assert f"`{word}`" in docs.read_text()


def test_who_is_tried_again():
    assert restarted_here("signal")
    assert restarted_here("truncated_vasprun")
    assert not restarted_here("wall_time")
    assert worth_rerunning("wall_time")
    assert not worth_rerunning("electronic")
    assert not worth_rerunning("a word that nobody uses")
