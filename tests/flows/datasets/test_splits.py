"""Splits: what must hold for any set of groups."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.datasets.splits import SPLITS, assign, intervals, unit_hash

PAPER = {"train": 0.9, "val": 0.05, "test": 0.05}
groups = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=60, unique=True)
fractions = st.tuples(st.floats(0.05, 1), st.floats(0, 1), st.floats(0, 1)).map(
    lambda p: dict(zip(SPLITS, (x / sum(p) for x in p), strict=True))
)


@given(groups, fractions, st.text(max_size=5))
def test_every_group_has_one_split_and_order_does_not_matter(names, shares, salt):
    made = assign(names, shares, salt)
    assert set(made.splits) == set(names)
    assert assign(reversed(names + names), shares, salt) == made
    assert all(shares[split] > 0 for split in made.splits.values())


@given(groups, groups, fractions)
def test_new_data_move_no_old_group_that_was_not_borrowed(old, new, shares):
    before, after = assign(old, shares, "salt"), assign(old + new, shares, "salt")
    for group in old:
        if group not in before.borrowed and group not in after.borrowed:
            assert before.splits[group] == after.splits[group]


@given(groups, fractions)
def test_three_groups_fill_every_split_that_has_a_share(names, shares):
    made = assign(names, shares, "salt")
    if len(names) >= 3:
        assert set(made.splits.values()) == {s for s in SPLITS if shares[s] > 0}
    else:
        assert not made.borrowed


@given(groups, fractions)
def test_borrowing_is_recorded_and_says_where_the_hash_pointed(names, shares):
    made = assign(names, shares, "salt")
    bounds = intervals(shares)
    for group, split in made.splits.items():
        low, high = bounds[made.borrowed.get(group, split)]
        assert low <= unit_hash(group, "salt") < high
        assert made.borrowed.get(group) != split


def test_the_nearest_group_is_borrowed():
    names = [f"g{i}" for i in range(5)]
    made = assign(names, PAPER, "b")
    places = {g: unit_hash(g, "b") for g in names}
    assert max(places.values()) < 0.9, "the example must need borrowing"
    closest = sorted(names, key=lambda g: -places[g])
    assert made.splits == dict.fromkeys(names, "train") | {closest[0]: "val", closest[1]: "test"}
    assert made.borrowed == {closest[0]: "train", closest[1]: "train"}


def test_the_hash_is_the_documented_one():
    digest = hashlib.sha256(b"aqvolt26\0LiCl").digest()
    assert unit_hash("LiCl", "aqvolt26") == int.from_bytes(digest[:7]) // 16 / 2**52


def test_shares_are_met_by_many_groups():
    # Binomial: with 20 000 groups the standard deviation of a 5 % share is 0.15 %; 5 σ are allowed.
    made = assign((f"frame-{i}" for i in range(20_000)), PAPER, "aqvolt26")
    for split, share in PAPER.items():
        assert list(made.splits.values()).count(split) / 20_000 == pytest.approx(
            share, abs=5 * (share * (1 - share) / 20_000) ** 0.5
        )
    assert not made.borrowed
