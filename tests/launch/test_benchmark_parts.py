"""A benchmark of several parts through the LaunchPad: one Firework a part, one document, in its campaign."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure

from aqvolt_flows.benchmarks.ev_scan_benchmark import EVScan
from aqvolt_flows.campaign import parse_campaign
from aqvolt_flows.candidates.select import candidate_document
from aqvolt_flows.schemas.parameters import CandidateParameters
from aqvolt_flows.stages import plan_stage
from aqvolt_launch.launchpad import ensure_launchpad
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work

CAMPAIGN = "{name: small, exploration: {potential: chgnet/r2scan}, benchmarks: {ev_scan: {n_points: 5}}}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Some jobs are not connected")  # jobflow, of parts that do not wait for each other
def test_parts_are_fireworks_and_the_last_writes_the_document(
    database, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EVScan, "part_size", 1)
    database = database.in_campaign("small")
    for name, a in (("F", 4.0), ("Cl", 5.1)):
        cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", name], [[0] * 3, [0.5] * 3])
        salt = candidate_document(cubic.get_primitive_structure(), CandidateParameters(), f"Li{name}", "user", ["x"])
        database.upsert("candidates", [salt])
    launchpad = ensure_launchpad(settings)
    items = plan_stage("benchmark", parse_campaign(CAMPAIGN), database).items
    assert [i.name for i in items] == ["ev_scan chgnet/r2scan"]
    submit(items, settings, campaign="small")
    report = work(settings, until_empty=True)
    assert (report.completed, report.fizzled) == (3, 0)
    fireworks = list(launchpad.fireworks.find({}, {"spec._category": 1, "spec.aqvolt": 1, "name": 1}))
    assert {f["spec"]["_category"] for f in fireworks} == {"gpu"}
    assert sorted(f["name"] for f in fireworks) == ["E-V scan", "E-V scan: part", "E-V scan: part"]
    (document,) = database["benchmarks"].find({})
    assert (document["status"], document["n_items"], document["campaigns"]) == ("completed", 2, ["small"])
    assert database["benchmark_parts"].count_documents({"benchmark_key": document["key"]}) == 2
    assert plan_stage("benchmark", parse_campaign(CAMPAIGN), database).todo == []
