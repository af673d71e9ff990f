"""Rows of labels: what is refused, and the hash as the docs describe it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest_release import make_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets.rows import content_lines, release_hash, row_from_label
from aqvolt_flows.errors import InputError

LABEL = make_labels([1])[0].model_dump()
FIELDS = ("positions", "cell", "forces", "stress", "energy", "max_force", "pressure_gpa")


@given(st.sampled_from(FIELDS), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 23))
@settings(max_examples=60, deadline=None)
def test_a_number_that_is_not_finite_is_refused_wherever_it_is(field, value, place):
    array = np.array(LABEL[field], dtype=float)
    array.reshape(-1)[place % array.size] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        row_from_label(LABEL | {field: array.tolist()})


def test_two_infinities_that_cancel_are_refused():
    stress = [math.inf, -math.inf, *LABEL["stress"][2:]]
    with pytest.raises(InputError, match="NaN or infinity"):
        row_from_label(LABEL | {"stress": stress})


@pytest.mark.parametrize(
    ("field", "value"),
    [("stress", [0.0] * 9), ("forces", [[0.0] * 3] * 7), ("cell", [[1.0] * 3] * 2), ("magmoms", [0.0] * 3)],
)
def test_another_shape_is_refused_and_named(field, value):
    with pytest.raises(InputError, match=f"has {field} of shape"):
        row_from_label(LABEL | {field: value})


def test_a_missing_number_is_refused():
    with pytest.raises(InputError, match="is incomplete"):
        row_from_label(LABEL | {"energy": None})


def test_provenance_and_moments_do_not_enter_the_hash():
    plain = row_from_label(LABEL)
    told = row_from_label(LABEL | {"magmoms": [1.0] * 8, "bandgap": 2.0, "provenance": {"record_id": "m-1", "b": 1}})
    assert told.digest() == plain.digest()
    assert (told.record_id, told.provenance) == ("m-1", '{"b":1,"record_id":"m-1"}')
    assert plain.provenance is plain.magmoms is None


@given(st.permutations([("f1", "l1", "train", "aa"), ("f1", "l2", "test", "bb"), ("f0", "l3", "val", "cc")]))
def test_the_content_hash_does_not_depend_on_the_order(rows):
    lines = list(content_lines(rows))
    assert lines[0] == b"aqvolt-release/1\n"
    assert lines[1:] == [b"f0\tl3\tval\tcc\n", b"f1\tl1\ttrain\taa\n", b"f1\tl2\ttest\tbb\n"]
    assert release_hash(rows) == release_hash(sorted(rows))
