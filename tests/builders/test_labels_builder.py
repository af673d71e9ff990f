"""The label builder on a live database: incremental, idempotent, by several processes, and through ``mrun``."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import label_factory
import pytest

from aqvolt_builders.jobs import BuildMaker
from aqvolt_builders.labels import LabelBuilder
from aqvolt_builders.registry import BUILDERS, run_builder
from aqvolt_flows.datasets.labels import BUILDER_VERSION
from aqvolt_flows.errors import InputError
from aqvolt_flows.vasp.settings import r2scan_protocol, static_incar

MRUN_FILES = Path(__file__).parents[2] / "builders"


def mrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run maggma's own command as users do."""
    command = [str(Path(sys.executable).with_name("mrun")), *map(str, arguments), "--no_bars"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def snapshot(database):
    return {d["label_id"]: d for d in database["labels"].find({})}


def test_outcomes_become_labels_and_a_second_run_touches_nothing(database):
    label_factory.fill(database, 7)
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(7, status="killed"), "uuid-7"))
    assert run_builder("labels") == {"processed": 8, "valid": 7, "rejected": 1}
    before = snapshot(database)
    assert run_builder("labels") == {"processed": 0}
    assert snapshot(database) == before
    valid = database["labels"].find_one({"frame_id": "frame-0003"})
    assert (valid["trajectory_id"], valid["source_uuid"], valid["status"]) == ("trajectory-3", "uuid-3", "valid")
    assert valid["energy"] == label_factory.outcome(3).energy
    assert database["labels"].find_one({"status": "rejected"})["failure"]["reason"] == "killed"


def test_only_what_is_new_is_taken_up(database):
    label_factory.fill(database, 4)
    run_builder("labels")
    before = snapshot(database)
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(9), "uuid-9"))
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(8), "uuid-8", stage="explore"))
    assert run_builder("labels") == {"processed": 1, "valid": 1}
    assert {k: v for k, v in snapshot(database).items() if k in before} == before


def test_a_rerun_job_is_built_again(database):
    label_factory.fill(database, 2)
    run_builder("labels")
    database["outputs"].replace_one(
        {"uuid": "uuid-1"},
        label_factory.output(label_factory.outcome(1, energy=-77.0), "uuid-1", at=datetime.now().isoformat()),
    )
    assert run_builder("labels")["processed"] == 1
    assert database["labels"].find_one({"frame_id": "frame-0001"})["energy"] == -77.0
    assert run_builder("labels") == {"processed": 0}


def test_dates_and_counts_decide_nothing(database):
    """An old job is replaced by another old one: number and newest date of outputs and labels stay what they were."""
    label_factory.fill(database, 3)
    run_builder("labels")
    again = label_factory.output(label_factory.outcome(1, energy=-77.0), "uuid-1", at="2026-01-02T00:00:00")
    database["outputs"].replace_one({"uuid": "uuid-1"}, again)
    assert run_builder("labels")["processed"] == 1
    assert database["labels"].find_one({"frame_id": "frame-0001"})["energy"] == -77.0
    database["outputs"].delete_one({"uuid": "uuid-2"})
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(9), "uuid-9", at="2020-01-01T00:00:00"))
    assert run_builder("labels")["processed"] == 1, "of a machine whose clock is years behind"
    database["labels"].delete_one({"frame_id": "frame-0001"})
    database["labels"].insert_one({"label_id": "imported", "key": "imported", "frame_id": "x", "builder_version": "-"})
    assert run_builder("labels")["processed"] == 1, "a label that was removed is made again, also when another came"
    assert run_builder("labels") == {"processed": 0}


def test_jobs_with_dates_of_any_clock_are_built_once(database):
    """Clocks of workers two days off in both directions, and zones; nothing is missed and nothing built twice."""
    database.upsert("frames", [label_factory.frame(i) for i in range(8)])
    dates = ["1970-01-01T00:00:00", "2026-01-01T00:00:00", "2999-01-01T00:00:00+14:00", "", "2026-11-25T00:00:00Z"]
    for number, at in enumerate(dates):
        database["outputs"].insert_one(label_factory.output(label_factory.outcome(number), f"uuid-{number}", at=at))
        assert run_builder("labels")["processed"] == 1, at
        assert run_builder("labels") == {"processed": 0}


def test_a_job_that_ran_again_makes_a_new_unit_of_building(database, settings, monkeypatch):
    """Planned by a process of another folder, as the demo's is: the database that is given counts."""
    from aqvolt_builders.plan import plan_build
    from aqvolt_launch.chain import campaign_for

    campaign = campaign_for(settings, "demo")
    database = database.in_campaign(settings.campaign)
    label_factory.fill(database, 3)
    (first,) = plan_build(campaign, database).items
    assert not first.done
    run_builder("labels")
    about = {"aqvolt": {"stage": "build", "key": first.key}}
    database["outputs"].insert_one({"uuid": "build", "index": 1, "output": {}, "metadata": about})
    with monkeypatch.context() as elsewhere:
        elsewhere.delenv("AQVOLT_CONFIG_FILE")
        elsewhere.chdir("/")
        assert plan_build(campaign, database).items[0].done
    again = label_factory.output(label_factory.outcome(1, energy=-77.0), "uuid-1", at="2026-01-01T00:00:01")
    database["outputs"].replace_one({"uuid": "uuid-1"}, again)
    (second,) = plan_build(campaign, database).items
    assert not second.done
    assert second.key != first.key
    run_builder("labels")
    assert plan_build(campaign, database).items[0].done


def test_the_last_index_of_a_job_counts(database):
    database["outputs"].insert_many(
        [label_factory.output(label_factory.outcome(1, energy=e), "uuid-1", index=i) for i, e in ((1, -1.0), (2, -2.0))]
    )
    assert run_builder("labels")["processed"] == 1
    assert database["labels"].find_one({})["energy"] == -2.0


def test_two_jobs_for_one_label_leave_the_better_and_are_both_remembered(database):
    good = label_factory.output(label_factory.outcome(1), "uuid-good")
    bad = label_factory.output(label_factory.outcome(1, status="unconverged"), "uuid-bad", at="2026-02-01T00:00:00")
    database["outputs"].insert_one(good)
    run_builder("labels")
    database["outputs"].insert_one(bad)
    assert run_builder("labels")["processed"] == 1
    stored = database["labels"].find_one({})
    assert (stored["status"], stored["source_uuid"], list(stored["other_sources"])) == (
        "valid",
        "uuid-good",
        ["uuid-bad"],
    )
    assert run_builder("labels") == {"processed": 0}
    database["labels"].delete_many({})
    assert run_builder("labels")["processed"] == 1, "both in one batch make one label"
    again = database["labels"].find_one({})
    assert {k: again[k] for k in ("status", "source_uuid", "other_sources")} == {
        k: stored[k] for k in ("status", "source_uuid", "other_sources")
    }
    assert run_builder("labels") == {"processed": 0}


def test_other_rules_build_everything_again_but_write_only_what_differs(database):
    label_factory.fill(database, 3)
    run_builder("labels")
    database["labels"].update_many({}, {"$set": {"builder_version": "labels/0"}})
    assert run_builder("labels") == {"processed": 3, "valid": 3}
    assert database["labels"].distinct("builder_version") == [BUILDER_VERSION]


def test_what_is_no_outcome_is_a_rejected_document(database):
    for number, output in enumerate((None, "text", {"frame_id": 3}, {"energy": 1})):
        database["outputs"].insert_one(label_factory.output({}, f"uuid-{number}") | {"output": output})
    assert run_builder("labels") == {"processed": 4, "rejected": 4}
    assert run_builder("labels") == {"processed": 0}
    assert database["labels"].distinct("failure.reason") == ["bad_outcome"]


def test_builder_files_name_no_address(database):
    for name in BUILDERS:
        text = (MRUN_FILES / f"{name}.json").read_text()
        assert "mongodb" not in text
        assert "://" not in text
        json.loads(text)
    again = pickle.loads(pickle.dumps(LabelBuilder(chunk_size=7)))
    assert (again.chunk_size, again.outputs.collection_name, again.labels.key) == (7, "outputs", "label_id")
    assert "mongodb" not in json.dumps(LabelBuilder().as_dict())


@pytest.mark.parametrize("processes", [1, 2])
def test_mrun_runs_the_file_we_ship(database, processes):
    label_factory.fill(database, 5)
    done = mrun(MRUN_FILES / "labels.json", "-n", processes)
    assert done.returncode == 0, done.stderr
    assert database["labels"].count_documents({"status": "valid"}) == 5
    before = snapshot(database)
    again = mrun(MRUN_FILES / "labels.json", MRUN_FILES / "benchmarks.json", MRUN_FILES / "costs.json", "-n", processes)
    assert again.returncode == 0, again.stderr
    assert snapshot(database) == before
    assert database["costs"].find_one({"stage": "label"})["core_hours"] == pytest.approx(2.5)


def test_several_processes_at_once_make_each_label_once(database):
    label_factory.fill(database, 60)
    command = [sys.executable, "-c", "from aqvolt_builders.registry import run_builder; run_builder('labels')"]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert database["labels"].count_documents({}) == 60
    assert run_builder("labels") == {"processed": 0}


def test_the_job_returns_counts(database):
    label_factory.fill(database, 2)
    maker = BuildMaker()
    assert BuildMaker.make.original(maker, "key") == {"builder": "labels", "processed": 2, "valid": 2, "rejected": 0}
    assert BuildMaker.make.original(maker, "key") == {"builder": "labels", "processed": 0, "valid": 0, "rejected": 0}


def test_an_unknown_builder_is_named(database):
    with pytest.raises(InputError, match="known are labels, benchmarks, costs"):
        run_builder("tables")


def test_one_energy_that_jumps_is_refused_among_many_that_do_not(database):
    label_factory.fill(database, 30)
    wrong = label_factory.outcome(30)
    database.upsert("frames", [label_factory.frame(30)])
    wrong = wrong.model_copy(update={"energy": wrong.energy + 8 * 5.0})
    database["outputs"].insert_one(label_factory.output(wrong, "uuid-30"))
    assert run_builder("labels") == {"processed": 31, "valid": 30, "rejected": 1}
    assert database["labels"].find_one({"status": "rejected"})["failure"]["reason"] == "energy_jump"
    late = label_factory.outcome(31)
    database.upsert("frames", [label_factory.frame(31)])
    late = late.model_copy(update={"energy": late.energy - 8 * 5.0})
    database["outputs"].insert_one(label_factory.output(late, "uuid-31"))
    assert run_builder("labels") == {"processed": 1, "rejected": 1}, "one new label is judged by the old ones"
    assert run_builder("labels", max_energy_jump_ev=0.0)["valid"] == 32


def test_a_static_of_another_theory_level_is_refused_beside_good_ones(database):
    protocol = r2scan_protocol()
    good = static_incar()
    for number, incar in enumerate((good, {k: v for k, v in good.items() if k != "METAGGA"}, good | {"ENCUT": 520})):
        made = label_factory.outcome(number, protocol=protocol, details={"incar": incar})
        database["outputs"].insert_one(label_factory.output(made, f"uuid-{number}"))
    assert run_builder("labels") == {"processed": 3, "valid": 1, "rejected": 2}
    found = {d["source_uuid"]: d["failure"]["reason"] for d in database["labels"].find({"status": "rejected"})}
    assert found == {"uuid-1": "wrong_functional", "uuid-2": "low_cutoff"}


def test_a_label_belongs_to_the_campaigns_of_its_frame_also_when_they_grow(database):
    alpha, beta = database.in_campaign("alpha"), database.in_campaign("beta")
    label_factory.fill(alpha, 3)
    assert run_builder("labels", campaign="beta") == {"processed": 0}
    assert run_builder("labels") == {"processed": 3, "valid": 3}  # outcomes without a campaign are the settings' one's
    assert {tuple(d["campaigns"]) for d in database["labels"].find()} == {("alpha",)}
    before = snapshot(database)
    assert run_builder("labels", campaign="alpha") == {"processed": 0}
    assert snapshot(database) == before
    assert beta.adopt("frames", ["frame-0001"]) == 1
    assert run_builder("labels", campaign="alpha") == {"processed": 0}
    grown = [d for d in database["labels"].find() if "beta" in d["campaigns"]]
    assert [d["frame_id"] for d in grown] == ["frame-0001"]
    assert grown[0]["last_updated"] >= before[grown[0]["label_id"]]["last_updated"]
    after = snapshot(database)
    assert run_builder("labels", campaign="beta")["processed"] == 0
    assert snapshot(database) == after
