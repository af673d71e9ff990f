"""The campaign's job of trainers that need one job, with the stand-in of mace's interpreter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from stand_in_mace import STAND_IN

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.models import resolve_model
from aqvolt_flows.potentials.registry import model_hash
from aqvolt_flows.potentials.trained import MODEL_FILE, located
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.trainers import trainings_of
from aqvolt_flows.training.export import export_model
from aqvolt_flows.training.live import live_rows
from aqvolt_flows.training.plan import plan_train
from aqvolt_flows.training.trainer_job import TrainerMaker

HASH = "ab" * 32
Released = tuple[Database, dict[str, Any]]


@pytest.fixture
def released(database: Database, release: Path, tmp_path: Path) -> Released:
    """The database with the toy release, and the stand-in as a training of a campaign."""
    (release / "exports/aselmdb/test").symlink_to(release / "exports/aselmdb/val")
    document = ReleaseDocument(
        key="k", release_id="toy@1", name="toy", content_hash=HASH, counts={"total": 28, "by_split": {"train": 24}},
        protocols={"surrogate:lj@00": 28}, path=release.name, manifest={},
    )  # fmt: skip
    database.upsert("releases", [document])
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    return database, {"trainer": "mace", "python": str(python), "epochs": 2}


def campaign(choice: dict[str, Any]) -> Campaign:
    return Campaign(name="toy", release={"name": "toy"}, trainings={"mine": choice})


def run(database: Database, choice: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    (named,) = trainings_of({"mine": choice}, Campaign(name="a").training)
    maker = TrainerMaker("train mine", "mace", named.parameters, "toy-mine")
    found: dict[str, Any] = TrainerMaker.make.original(maker, "toy@1", HASH, key or named.key(HASH))
    return found


def test_a_model_is_stored_without_a_path_and_exported_with_everything(released: Released, tmp_path: Path):
    database, choice = released
    output = run(database, choice)
    document = database["models"].find_one({}, {"_id": 0})
    assert output["status"] == document["status"] == "trained"
    assert (document["name"], document["trainer"], document["family"]) == ("toy-mine", "mace", "mace")
    assert document["model"] == document["model_id"] == output["model_id"]
    plain = json.dumps({k: v for k, v in document.items() if k not in {"last_updated", "parameters"}})
    assert str(tmp_path) not in plain
    assert document["held_out"]["trained"]["forces_mae"] == pytest.approx(0.25)
    (stage,) = document["stages"]
    curve = pq.read_table(database.artifacts.local_path(ArtifactRef(**stage["curve"])))
    assert curve.column("event").to_pylist().count("train") == stage["steps"] == 4
    sha256 = document["checkpoint"]["sha256"]
    assert resolve_model(database, "toy-mine").load.endswith(f".model@sha256:{sha256}")
    assert not live_rows(database.settings), "the run folder is gone"
    again = run(database, choice | {"python": "/no/longer/there"})
    assert again["checkpoint"] == output["checkpoint"]
    its_folder_travels(database, tmp_path, sha256)


def its_folder_travels(database: Database, tmp_path: Path, sha256: str) -> None:
    folder = export_model(database, "toy-mine", tmp_path / "out" / "mine")
    names = {"mace.model", MODEL_FILE, "README.md", "curves.csv", "SHA256SUMS"}
    assert {p.name for p in folder.iterdir()} == names
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert file_sha256(folder / name) == digest
    about = json.loads((folder / MODEL_FILE).read_text())
    assert about["sha256"] == sha256
    assert set(about["references_ev"]) == {"Li", "F", "Cl"}
    assert about["versions"]["mace-torch"] == "0.3.16"
    card = (folder / "README.md").read_text()
    for said in (
        "# toy-mine",
        "Trained on the release toy@1",
        "The labels come from a machine-learning potential, not from DFT",
        "| test split (4 frames), this model | 500 | 250 | 20 |",
        'MACECalculator(model_paths="mace.model"',
    ):
        assert said in card
    assert located(str(folder)) == f"mace:{folder / 'mace.model'}"
    assert model_hash(str(folder)) == sha256
    with pytest.raises(InputError, match="is there already and not empty; give a new folder"):
        export_model(database, "toy-mine", folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot be written to"):
        export_model(database, "toy-mine", tmp_path / "file" / "below")


def test_a_training_that_fails_is_a_document_with_a_reason(released: Released, monkeypatch: pytest.MonkeyPatch):
    database, choice = released
    monkeypatch.setenv("KILLED", "1")
    output = run(database, choice)
    document = database["models"].find_one({}, {"_id": 0})
    assert output["status"] == document["status"] == "failed"
    assert document["failure"]["reason"] == "trainer_failed"
    assert "code -9" in document["failure"]["message"]
    (row,) = live_rows(database.settings)
    assert row["model_id"] == document["model_id"]
    assert row["stage"] == "train"
    assert run(database, choice)["status"] == "trained", "it goes on where it was"


def test_what_this_machine_lacks_is_no_document(released: Released):
    database, choice = released
    with pytest.raises(ResourceError, match="does not run"):
        run(database, choice | {"python": "/nowhere"})
    with pytest.raises(InputError, match="planned with other weights"):
        run(database, choice, key="another")
    assert database["models"].count_documents({}) == 0


def test_a_campaign_plans_every_training_once(released: Released):
    database, choice = released
    several = Campaign(
        name="toy",
        release={"name": "toy"},
        trainings={"esen": {"trainer": "esen"}, "seed1": {"trainer": "esen", "seed": 1}, "mine": choice},
    )
    plan = plan_train(several, database)
    assert len({item.key for item in plan.items}) == 3
    assert [item.name for item in plan.items] == ["eSEN-L4 on toy@1", "eSEN-L4 on toy@1", "MACE on toy@1"]
    run(database, choice)
    assert [item.done for item in plan_train(several, database).items] == [False, False, True]
    flow = next(iter(plan_train(campaign({"trainer": "esen"}), database).items)).make()
    assert [job.maker.model_name for job in flow.jobs] == ["toy-mine", "toy-mine"]
