"""Jobs that version 0.1 stored still run: their modules, classes, fields and arguments are a schema.

``tests/data/jobs_of_8f05404.json`` holds the Fireworks of one small campaign as that commit wrote them into MongoDB,
every kind of job that it could submit. They run here in their order in a new database. A release's name and content
hash depend on the last digits of a potential's forces and are filled in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_vasp.fixtures import VASP_WARNINGS, stand_in
from fireworks import Firework, Workflow

from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import ensure_launchpad
from aqvolt_launch.workers import work

__all__ = ["stand_in"]
pytestmark = [*VASP_WARNINGS, pytest.mark.slow]
STORED = json.loads((Path(__file__).parents[1] / "data" / "jobs_of_8f05404.json").read_text())
#: What the jobs of a stage gave when they were stored, by the function that each names.
KINDS = {
    "aqvolt_builders.jobs.BuildMaker.make",
    "aqvolt_flows.benchmarks.jobs.EVScanMaker.make",
    "aqvolt_flows.benchmarks.jobs.ForceBinsMaker.make",
    "aqvolt_flows.candidates.jobs.SelectMaker.make",
    "aqvolt_flows.candidates.jobs_lithiate.LithiateMaker.make",
    "aqvolt_flows.candidates.jobs_substitute.SubstituteMaker.make",
    "aqvolt_flows.datasets.jobs.ReleaseMaker.make",
    "aqvolt_flows.exploration.aimd.AIMDMaker.make",
    "aqvolt_flows.exploration.mlmd.MLMDMaker.make",
    "aqvolt_flows.figures.jobs.ReportMaker.make",
    "aqvolt_flows.labeling.gpaw.GpawStaticMaker.make",
    "aqvolt_flows.labeling.surrogate.SurrogateStaticMaker.make",
    "aqvolt_flows.labeling.vasp.R2scanStaticMaker.make",
    "aqvolt_flows.sampling.jobs.ChooseMaker.make",
    "aqvolt_flows.sampling.jobs.CoverMaker.make",
    "aqvolt_flows.sampling.jobs.EncodeMaker.make",
    "aqvolt_flows.training.jobs.TrainStageMaker.make",
}


def stored_workflow(stored: dict[str, Any], text_of: dict[str, str]) -> Workflow:
    """Return a stored workflow as FireWorks reads it from MongoDB, with negative numbers, as new ones have."""
    text = json.dumps(stored)
    for mark, value in text_of.items():
        text = text.replace(mark, value)
    plain = json.loads(text)
    new = {f["fw_id"]: -index for index, f in enumerate(plain["fireworks"], 1)}
    fireworks = [Firework.from_dict(f | {"fw_id": new[f["fw_id"]]}) for f in plain["fireworks"]]
    links = {new[int(parent)]: [new[c] for c in children] for parent, children in plain["links"].items()}
    return Workflow(fireworks, links, name=plain["name"], metadata=plain["metadata"])


def kind_of(firework: dict[str, Any]) -> str:
    function = firework["spec"]["_tasks"][0]["job"]["function"]
    return f"{function['@module']}.{function['@callable']}"


def test_every_kind_of_job_was_stored() -> None:
    assert {kind_of(f) for w in STORED["workflows"] for f in w["fireworks"]} == KINDS


def test_stored_jobs_run_and_write_what_they_wrote(
    database: Database, settings: Any, project: Path, stand_in: Any
) -> None:
    (project / "entries.json").write_text(STORED["entries"])
    entries = database.artifacts.put_file(project / "entries.json", "json")
    assert any(entries.sha256 in json.dumps(w) for w in STORED["workflows"]), "the file that the job names"
    launchpad = ensure_launchpad(settings)
    host_is_there = False
    for stored in STORED["workflows"]:
        if stored["stage"] in {"lithiate", "substitute"} and not host_is_there:
            database.upsert("candidates", [CandidateDocument.model_validate(STORED["host"])])
            host_is_there = True
        release = database["releases"].find_one() or {"release_id": "none", "content_hash": "none"}
        marks = {f"@{name}@": release[name] for name in ("release_id", "content_hash")}
        launchpad.add_wf(stored_workflow(stored, marks))
        report = work(settings, until_empty=True)
        assert report.fizzled == 0, (stored["name"], report)
        for firework in stored["fireworks"]:
            job = firework["spec"]["_tasks"][0]["job"]
            output = database["outputs"].find_one({"uuid": job["uuid"]})
            assert output is not None, kind_of(firework)
            assert output["metadata"]["aqvolt"]["key"] == stored["metadata"]["aqvolt"]["key"]
    check_documents(database)


def check_documents(database: Database) -> None:
    """The counts are those that 8f05404 gave for the same jobs, less two VASP statics and one AIMD run."""
    outcomes = [d["output"] for d in database["outputs"].find({"metadata.aqvolt.stage": "label"})]
    by_code = {(o["protocol"]["code"], o["status"]) for o in outcomes}
    assert {("surrogate", "converged"), ("vasp", "converged")} <= by_code
    assert ("gpaw", "failed") in by_code or ("gpaw", "converged") in by_code
    assert database["trajectories"].count_documents({"engine": "mlmd", "status": "completed"}) == 2
    assert database["trajectories"].count_documents({"engine": "aimd", "status": "completed", "segments": 2}) == 1
    assert database["models"].count_documents({"status": "trained"}) == 1
    assert database["benchmarks"].count_documents({"status": "completed"}) == 4
    assert database["candidates"].count_documents({"source": {"$in": ["stuffed", "substituted"]}}) >= 2
    assert {d["source"] for d in database["labels"].find({"status": "valid"})} == {"sampled", "aimd"}
