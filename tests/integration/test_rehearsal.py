"""The rehearsal of the issue at a small size; ``python -m tests.rehearsal --frames 200`` is the full one."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path

import pytest
from fake_vasp.fixtures import VASP_WARNINGS
from pymongo import MongoClient
from rehearsal.script import CURED, FAILING, assigned
from rehearsal.stage import Rehearsal

from aqvolt_flows.stores import Database
from aqvolt_launch.workers import exported, work

pytestmark = [*VASP_WARNINGS]


def test_the_full_script_fails_one_frame_in_five_and_every_kind():
    """The paper's 186,627 statics: 79 % converged (section 2.2)."""
    kinds = Counter(kind.name for kind in assigned(200, 0.21, seed=26))
    failing = {kind.name: kinds[kind.name] for kind in FAILING}
    assert sum(failing.values()) == 42
    assert failing == {kind.name: kind.weight for kind in FAILING}
    assert all(kinds[kind.name] == 1 for kind in CURED)
    assert Counter(k.name for k in assigned(16, 0.7, 1)) == Counter(k.name for k in assigned(16, 0.7, 2))


@pytest.mark.slow
def test_every_frame_ends_once_and_as_in_an_undisturbed_rehearsal(tmp_path: Path, mongo_uri: str, monkeypatch):
    """Two rlaunch processes, one killed at work, every kind of failure once; then the same by one worker here."""
    names = [f"test_{word}_{uuid.uuid4().hex[:8]}" for word in ("disturbed", "plain")]
    try:
        disturbed = Rehearsal(tmp_path / "a", mongo_uri, names[0], n_frames=14, share=0.79, seed=26)
        assert disturbed.submit() == 14
        assert disturbed.submit() == 0
        seen = disturbed.run(workers=2, kills=1)
        assert seen.repeated == []
        assert seen.unexpected() == {}
        assert seen.kills == 1
        assert seen.recovered >= 1
        assert seen.ghosts == 0
        assert seen.fireworks == {"COMPLETED": 14}
        assert sum(row["seen"] for row in seen.table()) == 14
        assert sum(seen.statuses().values()) == 14
        assert {row["kind"] for row in seen.table()} >= {kind.name for kind in FAILING}

        plain = Rehearsal(tmp_path / "b", mongo_uri, names[1], n_frames=14, share=0.79, seed=26)
        plain.submit()
        undisturbed(plain, monkeypatch)
        assert plain.result().unexpected() == {}
        assert plain.result().labels == seen.labels
    finally:
        with MongoClient(mongo_uri) as client:
            for name in names:
                client.drop_database(name)


def undisturbed(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything in this process, one frame after the other."""
    from pymatgen.core import SETTINGS

    for name, value in rehearsal.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", rehearsal.environment["PMG_VASP_PSP_DIR"])
    Database.connect(rehearsal.settings)
    with exported(rehearsal.settings):
        report = work(rehearsal.settings, category="vasp", until_empty=True)
    assert (report.completed, report.fizzled) == (14, 0)
