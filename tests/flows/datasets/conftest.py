"""A database with labels, and a release of them."""

from __future__ import annotations

import pytest
from conftest_release import make_labels

from aqvolt_flows.schemas.parameters import ReleaseParameters

PARAMETERS = ReleaseParameters(name="halides", train_fraction=0.6, val_fraction=0.2, test_fraction=0.2)


@pytest.fixture
def parameters():
    return PARAMETERS


@pytest.fixture
def labelled(database):
    """The database with 30 valid labels of LiCl and LiF, and one that was rejected."""
    labels = make_labels(range(20)) + make_labels(range(20, 30), "LiF") + make_labels([30], status="unconverged")
    database.upsert("labels", labels)
    return database


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures have tests of their own (test_card.py) and take most of the time of a small release."""
    monkeypatch.setattr("aqvolt_flows.datasets.plots.available", lambda: False)
