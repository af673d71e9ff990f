"""Every reason that the code can give is known, with its status, and stands in the docs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

import aqvolt_flows
from aqvolt_flows.labeling.reasons import REASONS, restarted_here, worth_rerunning
from aqvolt_flows.schemas.provenance import LabelReason

PACKAGE = Path(aqvolt_flows.__file__).parent


def test_the_table_has_the_words_that_the_type_checker_lets_through():
    """``failed_because``, ``LabelError`` and ``refused`` take a LabelReason; ``make lint`` refuses other words."""
    assert set(get_args(LabelReason)) == set(REASONS)


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
