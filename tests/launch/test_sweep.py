"""A release, a training and a benchmark for each force limit; every call goes as far as what is finished allows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from conftest_release import make_labels
from in_process import command_of

from aqvolt_flows.campaign import Campaign, load_campaign, parse_campaign
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.training.jobs import model_id_of, train_key
from aqvolt_launch.cli import sweep as command
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.sweep import advance, variants

STAGE = (
    "{steps: 60, max_atoms: 400, max_neighbors: 30, learning_rate: 0.001, bf16: false, energy_coefficient: 1,"
    " force_coefficient: 1, stress_coefficient: 1}"
)


def campaign_of(database: Database) -> Campaign:
    return parse_campaign(
        f"name: {database.campaign}\n"
        "release: {name: toy, train_fraction: 0.6, val_fraction: 0.2, test_fraction: 0.2}\n"
        f"training: {{ema_decay: 0.9, direct: {STAGE}, conservative: {STAGE}}}"
    )


def submitted(settings: AqvoltSettings) -> Counter[str]:
    found = get_launchpad(settings).workflows.find({}, {"metadata.aqvolt.stage": 1})
    return Counter(w["metadata"]["aqvolt"]["stage"] for w in found)


def trained(database: Database, campaign: Campaign, release: Any) -> str:
    """Store a model of a release, as its training would."""
    checkpoint = database.settings.path(f"{release.name}.pt")
    checkpoint.write_text(f"weights of {release.name}")
    reference = database.artifacts.put_file(checkpoint, "pt")
    key = train_key(campaign.training, release.content_hash)
    document = ModelDocument(
        key=key,
        model_id=model_id_of(key),
        status="trained",
        release_id=release.release_id,
        content_hash=release.content_hash,
        architecture="toy",
        checkpoint=reference,
        model=f"fairchem:{database.artifacts.local_path(reference)}",
    )
    database.upsert("models", [document])
    return document.model_id


def test_each_call_submits_what_can_be_submitted_and_nothing_twice(database: Database, settings: AqvoltSettings):
    database.upsert("labels", make_labels(range(30)))
    campaign, limits = campaign_of(database), [0.05, 800.0]
    forces = [label["max_force"] for label in database["labels"].find({}, {"max_force": 1})]
    limits[0] = float(sorted(forces)[15])  # half of the labels are above

    rows = advance(settings, campaign, limits)
    assert [row["release"] for row in rows] == [None, None]
    assert submitted(settings) == {"release": 2}

    root = settings.path(settings.release_root)
    releases = [create_release(database, v.release, root) for v in variants(campaign, limits).values()]
    database.upsert("releases", releases)
    rows = advance(settings, campaign, limits)
    assert [row["release"] for row in rows] == [r.release_id for r in releases]
    assert rows[0]["train"] < rows[1]["train"]
    assert submitted(settings) == {"release": 2, "train": 2}

    models = [trained(database, campaign, release) for release in releases]
    for _ in range(2):
        rows = advance(settings, campaign, limits)
    assert [row["model"] for row in rows] == models
    assert submitted(settings) == {"release": 2, "train": 2, "benchmark": 2}
    specs = get_launchpad(settings).fireworks.find({"spec.aqvolt.stage": "benchmark"})
    tested = {str(fw["spec"]["_tasks"][0]["job"]["function_args"]) for fw in specs}
    assert all(releases[1].release_id in said for said in tested), "both are tested on the release of the highest limit"


def test_no_limit_trains_on_what_the_common_set_tests(database: Database, settings: AqvoltSettings):
    """Independent of the sweep's code: identities in the releases' own Parquet files."""
    import pyarrow.parquet as pq

    database.upsert("labels", make_labels(range(60)))
    forces = sorted(label["max_force"] for label in database["labels"].find({}, {"max_force": 1}))
    root = settings.path(settings.release_root)
    limits = [forces[20], forces[40], 800.0]
    releases = [create_release(database, v.release, root) for v in variants(campaign_of(database), limits).values()]

    def frames(release: Any, split: str) -> set[str]:
        path = root / release.path / "data" / f"{split}.parquet"
        return set(pq.read_table(path, columns=["frame_id"])["frame_id"].to_pylist())

    tested = frames(releases[-1], "test")
    assert len(tested) > 3
    for release in releases:
        assert not frames(release, "train") & tested


@pytest.mark.parametrize(
    ("limits", "said"), [([800.0], "at least two"), ([0.0, 5.0], "above 0"), ([5.0, 5.0], "at least two")]
)
def test_limits_that_are_none_are_refused(limits: list[float], said: str):
    with pytest.raises(InputError, match=said):
        variants(load_campaign("demo"), limits)


def test_a_mixture_is_not_swept():
    with pytest.raises(InputError, match="trains on a mixture"):
        variants(load_campaign("matpes-mpaloe"), [10.0, 800.0])


def test_the_command_says_how_to_go_on(database: Database, settings: AqvoltSettings):
    database.upsert("labels", make_labels(range(12)))
    path = settings.path("toy.yaml")
    path.write_text(f"name: {database.campaign}\nrelease: {{name: toy}}\n")
    said = command_of(command)("sweep", "max-force", "10", "800", "--campaign", path)
    assert "run 'aqvolt work', then this command again" in said
    assert submitted(settings) == {"release": 2}
