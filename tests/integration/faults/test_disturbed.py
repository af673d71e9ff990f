"""A campaign over all stages, disturbed at seeded moments, ends as an undisturbed one does.

Two seeds; ``AQVOLT_TEST_FAULT_SEEDS=20`` runs the long mode with twenty, six workers and two of FireWorks' rlaunch.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.jobs import NAMES, expected, units_of
from faults.scene import KINDS, Scene, hash_of, strikes

_LONG = int(os.environ.get("AQVOLT_TEST_FAULT_SEEDS") or 0)
PER_STAGE = 3 if _LONG else 1


def test_strikes_fall_into_all_parts_of_a_campaign_and_are_of_every_kind() -> None:
    for seed in range(50):
        planned = strikes(seed, 2 * len(KINDS))
        assert [p.at for p in planned] == sorted(p.at for p in planned)
        parts = [int(p.at / 0.97 * len(planned)) for p in planned]
        assert parts == list(range(len(planned)))
        assert {p.kind for p in planned} == set(KINDS)


def test_the_hash_of_a_campaign_depends_on_every_unit() -> None:
    right = expected(2)
    assert len(right) == sum(len(units_of(stage, 2)) for stage in NAMES)
    assert len(set(right.values())) == len(right)
    assert hash_of(right) != hash_of(right | {"label-1-a": "0"})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 1 + (_LONG or 2)))
def test_a_disturbed_campaign_ends_as_an_undisturbed_one(seed: int, tmp_path: Path) -> None:
    sizes = {"workers": 6, "rlaunches": 2} if _LONG else {"workers": 2, "rlaunches": 1}
    scene = Scene(tmp_path / "project", seed, PER_STAGE, **sizes)
    found = scene.run(strikes(seed, len(KINDS) * (2 if _LONG else 1)), deadline_s=500)
    assert found.wrong(PER_STAGE) == {}, found.said
    assert found.content_hash() == hash_of(expected(PER_STAGE))
    assert set(found.fireworks) == {"COMPLETED"}, found.said
    assert sum(found.struck.values()) >= len(KINDS)
