"""A bad document stops nothing: it is set aside with its reason, and the good ones beside it are used."""

from __future__ import annotations

import label_factory
import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from aqvolt_builders.registry import run_builder
from aqvolt_flows.jobs import campaign_job
from aqvolt_flows.quarantine import fault, guarded, listed, restore, sweep
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.frame import FrameDocument
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import IDENTITIES
from aqvolt_launch import chain
from aqvolt_launch.cli import commands
from aqvolt_launch.cli.app import app
from aqvolt_launch.project.doctor import examine
from aqvolt_launch.repair.reconcile import reconcile

commands.register(app)


def put_frame(database, number: int) -> dict:
    document = label_factory.frame(number).model_dump(mode="python")
    reference: ArtifactRef = database.artifacts.put_bytes(b"frames", "parquet")
    document |= {"artifact": reference.model_dump()}
    database["frames"].insert_one(document)
    return document


def outputs(database) -> None:
    database["outputs"].insert_many(label_factory.output(label_factory.outcome(n), f"uuid-{n}") for n in range(3))
    for n in range(3):
        put_frame(database, n)


@pytest.fixture
def configured() -> dict[str, str]:
    return {"campaign": "demo"}


@pytest.fixture
def candidate() -> CandidateDocument:
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.13), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    said = {"chemsys": "Cl-Li", "formula": "LiCl", "elements": ["Cl", "Li"], "n_atoms": 8, "source": "user"}
    return CandidateDocument(
        key="a", candidate_id="a", name="a", status="accepted", structure=structure.as_dict(), **said
    )


def break_output(database, field: str) -> None:
    database["outputs"].update_one({"uuid": "uuid-1"}, {"$unset": {field: ""}})


def test_an_output_without_its_key_does_not_end_plan_label(database, settings):
    outputs(database)
    break_output(database, "metadata.aqvolt.key")
    done = CliRunner().invoke(app, ["plan", "label", "--json"])
    assert done.exit_code == 0, done.output
    assert "metadata.aqvolt.key: missing, or no text" in done.output
    (entry,) = listed(database)
    assert (entry["collection"], entry["what"]) == ("outputs", "uuid-1")
    assert database["outputs"].count_documents({}) == 2
    rows = {c.check: c for c in examine(settings, "demo")}
    assert rows["quarantine"].status == "warn"
    assert "outputs uuid-1: metadata.aqvolt.key: missing" in rows["quarantine"].detail


@pytest.mark.parametrize("field", ["uuid", "metadata.aqvolt.key", "metadata.aqvolt.stage"])
def test_an_output_without_uuid_does_not_end_build_labels(database, field):
    outputs(database)
    break_output(database, field)
    counts = run_builder("labels")
    assert counts["valid"] >= 2
    assert database["labels"].count_documents({"status": "valid"}) >= 2


def test_a_frame_without_artifact_does_not_end_reconcile(database, settings):
    outputs(database)
    database["frames"].update_one({"frame_id": "frame-0001"}, {"$unset": {"artifact": ""}})
    report = reconcile(settings)
    assert report.frames_without_file == []
    assert [(e["what"], e["reason"]) for e in listed(database)] == [("frame-0001", "artifact: Field required")]


@pytest.mark.parametrize("structure", [None, {}, {"@class": "Structure"}, {"lattice": 3, "sites": []}, "text", 7])
def test_a_candidate_without_structure_does_not_end_plan_explore(database, settings, candidate, structure):
    good = candidate.model_dump(mode="python")
    database["candidates"].insert_one(good)
    database["candidates"].insert_one(
        {**good, "_id": "bad", "candidate_id": "bad", "key": "bad", "structure": structure}
    )
    campaign = chain.campaign_for(settings, "demo")
    found = chain.plan("explore", campaign, settings)
    assert found.facts["runs"] > 0
    assert [e["what"] for e in listed(database)] == ["bad"]


def test_every_collection_has_a_schema():
    for name in IDENTITIES:
        assert fault(name, {}), name


def test_every_required_field_of_a_frame_is_looked_at(database):
    for number, (name, field) in enumerate(FrameDocument.model_fields.items()):
        document = put_frame(database, number)
        broken = {k: v for k, v in document.items() if k != name}
        assert bool(fault("frames", broken)) == field.is_required(), name
        assert fault("frames", document | {"of_a_newer_version": 1}) == "", "unknown fields are no fault"
        assert fault("frames", document | {name: object()})


def test_what_is_mended_comes_back_and_what_was_made_again_stays(database):
    outputs(database)
    break_output(database, "metadata.aqvolt.key")
    assert len(sweep(database)) == 1
    assert sweep(database) == []
    assert restore(database) == {"restored": 0, "left": 1}
    place = {"collection": "outputs"}
    database.mongo["quarantine"].update_one(place, {"$set": {"document.metadata.aqvolt.key": "key-1"}})
    assert restore(database) == {"restored": 1, "left": 0}
    assert database["outputs"].count_documents({}) == 3
    assert listed(database) == []


def test_a_defect_of_ours_is_raised_and_moves_nothing(database):
    outputs(database)

    def defect() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        guarded(defect, lambda: database)
    assert listed(database) == []


class Reading:
    name = "reading"

    @campaign_job()
    def make(self, database):
        return sorted(d["artifact"]["sha256"] for d in database["frames"].find())


def test_a_job_of_a_campaign_goes_on_without_it(database):
    outputs(database)
    database["frames"].update_one({"frame_id": "frame-0001"}, {"$unset": {"artifact": ""}})
    assert len(Reading.make.original(Reading())) == 2
