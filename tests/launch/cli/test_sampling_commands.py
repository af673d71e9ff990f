"""``aqvolt coverage`` and ``aqvolt query samples``: what people type about sampling, without an encoder's weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from in_process import command_of

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.method import TwoStageDirect
from aqvolt_flows.sampling.encoders.base import Features
from aqvolt_flows.sampling.encoders.registry import encoder_hash
from aqvolt_flows.sampling.features.shards import EncodedFrames, write_shard
from aqvolt_flows.sampling.rounds import offer_key, space_key
from aqvolt_flows.schemas.feature import FeatureDocument
from aqvolt_flows.schemas.sample import SampleDocument
from aqvolt_launch.cli import coverage, query


class Encoder:
    name, sha256, layer = "chgnet/r2scan", "ab" * 32, "l"


@pytest.fixture
def aqvolt(database):
    return command_of(coverage, query)


@pytest.fixture
def sampled(database, tmp_path):
    """A round of the demo over 40 random vectors, as the jobs leave it."""
    database = database.in_campaign("demo")
    parameters = load_campaign("demo").sampling
    rng = np.random.default_rng(0)
    features = Features(
        rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(80, 6)).astype(np.float32), np.full(40, 2)
    )
    write_shard(tmp_path / "s", EncodedFrames(["t"] * 40, np.arange(40), np.arange(40), features), Encoder())
    selection = TwoStageDirect(0.1, 0.1).select(features.structures, features.atoms, features.n_atoms)
    selection.state.save(tmp_path / "state")
    sha256 = encoder_hash(parameters.encoder)
    database.upsert(
        "features",
        [
            FeatureDocument(
                key="f", shard_id="shard-1", encoder="chgnet/r2scan", encoder_sha256=sha256, layer="l", pieces=[],
                stride=1, counts={}, artifact=database.artifacts.put_file(tmp_path / "s", "arrow"), n_frames=40,
                n_atoms=80, d_structure=6, d_atom=6,
            )
        ],
    )  # fmt: skip
    database.upsert(
        "samples",
        [
            SampleDocument(
                key="s", sample_id="sample-1", encoder="chgnet/r2scan", encoder_sha256=sha256, layer="l",
                space_key=space_key(sha256, parameters), offer_key=offer_key(parameters), parameters={},
                trajectory_ids=["t"], shards=["shard-1"], funnel={"generated": 40, "encoded": 40, "selected": 7},
                new_frames=7, coverage=selection.coverage,
                state=database.artifacts.put_file(tmp_path / "state", "npz"),
            )
        ],
    )  # fmt: skip
    return selection


def test_coverage_is_that_of_the_selection(aqvolt, sampled):
    found = json.loads(aqvolt("coverage", "encoded", "--campaign", "demo", "--json"))
    assert (found["n_rows"], found["n_reference"]) == (40, len(sampled.indices))
    assert found["mean"] == pytest.approx(sampled.coverage["mean"], abs=1e-6)
    itself = json.loads(aqvolt("coverage", "encoded", "encoded", "--campaign", "demo", "--json"))
    assert (itself["fraction"], itself["n_reference"]) == (1.0, 40)
    assert "fraction" in aqvolt("coverage", "encoded", "--campaign", "demo")


def test_rounds_and_shards_are_listed(aqvolt, sampled):
    asked = ("--campaign", "demo", "--format", "json", "--fields", "sample_id,funnel.selected")
    [row] = json.loads(aqvolt("query", "samples", *asked))
    assert row == {"sample_id": "sample-1", "funnel.selected": 7}
    assert "shard-1" in aqvolt("query", "features", "--all-campaigns")


def test_what_is_not_there_is_one_sentence(aqvolt, database):
    with pytest.raises(InputError, match=r"No round of sampling.*aqvolt submit sample"):
        aqvolt("coverage", "encoded", "--campaign", "demo")
