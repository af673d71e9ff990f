"""Whatever is given to ``aqvolt query`` as a filter, the answer is documents or one sentence."""

from __future__ import annotations

import json

import label_factory
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aqvolt_flows.errors import InputError
from aqvolt_flows.stores import Database
from aqvolt_launch.cli.query import _stream, parse_filter

# ruff: noqa: PT017 - most filters are right, and no error is right, too

BAD = [
    '{"n_atoms": ' + "9" * 30 + "}",
    '{"n_atoms": {"$numberDecimal": "x"}}',
    '{"n_atoms": {"$numberLong": "x"}}',
    '{"n_atoms": {"$numberInt": []}}',
    '{"n_atoms": {"$date": "never"}}',
    '{"n_atoms": {"$date": {"$numberLong": "99999999999999999999"}}}',
    '{"n_atoms": {"$oid": 3}}',
    '{"n_atoms": {"$binary": 1}}',
    '{"n_atoms": {"$uuid": 1}}',
    '{"n_atoms": {"$regularExpression": 1}}',
    '{"a\\u0000b": 1}',
    '{"": {"$x": 1}}',
    '{"a": "\\ud800"}',
    '{"$expr": {"$divide": [1, 0]}}',
    '{"$expr": {"$nothing": 1}}',
    '{"$where": "1"}',
    '{"$or": 1}',
    '{"$or": []}',
    '{"a": {"$regex": "("}}',
    '{"a": {"$in": 1}}',
    '{"a":' * 3000 + "1" + "}" * 3000,
    "[1]",
    "nonsense",
    "",
]


@pytest.fixture
def filled(database: Database) -> Database:
    database["frames"].insert_many([label_factory.frame(n).model_dump(mode="python") for n in range(2)])
    return database


def ask(database: Database, text: str) -> list[dict[str, object]]:
    criteria = parse_filter(text)
    return list(_stream(database["frames"], criteria, {"_id": 0, "n_atoms": 1}, "frame_id", 0))


@pytest.mark.parametrize("text", BAD)
def test_a_bad_filter_is_a_sentence_or_finds_nothing(filled: Database, text: str) -> None:
    try:
        assert ask(filled, text) == []
    except InputError as error:
        assert str(error).startswith(("The filter", "The database refused the filter"))
        assert len(str(error)) < 700


NAMES = st.sampled_from(
    ["n_atoms", "$expr", "$or", "$in", "$gt", "$date", "$numberDecimal", "$oid", "$regex", "a.b", "\0", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(NAMES, VALUES, max_size=3))
def test_no_filter_is_a_traceback(filled: Database, value: dict[str, object]) -> None:
    try:
        ask(filled, json.dumps(value))
    except InputError as error:
        assert str(error).startswith(("The filter", "The database refused the filter"))
