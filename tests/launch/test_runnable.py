"""What a worker takes from a LaunchPad that somebody else could write to, and what it leaves there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import trivial_jobs
from fireworks import Firework, FWorker, PyTask, ScriptTask, Workflow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aqvolt_flows.potentials.given import CalculatorRecipe
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database, job_store
from aqvolt_flows.work import WorkItem
from aqvolt_launch.launchpad import ensure_launchpad
from aqvolt_launch.project.folder import render
from aqvolt_launch.runnable import refusal
from aqvolt_launch.submission.blueprint import workflow_of
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.watched import WatchedLaunchPad
from aqvolt_launch.workers import work

DATA = Path(__file__).parents[1] / "data" / "jobs_of_8f05404.json"
SETTINGS = AqvoltSettings(root=Path("/nowhere"), job_packages="trivial_jobs")
HARM = {"@module": "os", "@callable": "system", "@bound": None}


def stored(item: WorkItem | None = None) -> dict[str, Any]:
    """One Firework as the database holds it."""
    workflow = workflow_of(item or trivial_jobs.add_item(1), job_store())
    return json.loads(json.dumps(workflow.fws[0].to_db_dict(), default=str))


def changed(path: str, value: Any) -> dict[str, Any]:
    document = stored()
    *above, last = path.split("/")
    part: Any = document
    for name in above:
        part = part[int(name)] if isinstance(part, list) else part.setdefault(name, {})
    part[last] = value
    return document


def test_every_kind_of_job_that_was_ever_submitted_may_run() -> None:
    jobs = json.loads(DATA.read_text())
    specs = find(jobs, "_tasks")
    assert len(specs) >= 10
    for spec in specs:
        assert refusal({"spec": spec}, SETTINGS) is None


def find(value: Any, key: str) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        here = [value] if key in value else []
        return here + [found for part in value.values() for found in find(part, key)]
    return [found for part in value for found in find(part, key)] if isinstance(value, list) else []


def test_a_package_that_is_not_named_does_not_run() -> None:
    assert refusal(stored(), SETTINGS) is None
    why = refusal(stored(), AqvoltSettings(root=Path("/nowhere")))
    assert why is not None
    assert why.kind == "not_allowed"
    assert "names the function trivial_jobs.add; if it is yours, name its package in job_packages" in why.message


JOB = "spec/_tasks/0/job"
ATTACKS = [
    (f"{JOB}/function", HARM),
    (f"{JOB}/function", {"@module": "subprocess", "@callable": "run", "@bound": None}),
    (f"{JOB}/function", {"@module": "aqvolt_launch.workers", "@callable": "os.system", "@bound": None}),
    (f"{JOB}/function", {"@module": "aqvolt_flows.artifacts", "@callable": "shutil.rmtree", "@bound": None}),
    (f"{JOB}/function", {"@module": "atomate2.vasp.run", "@callable": "run_vasp", "@bound": None}),
    (f"{JOB}/function", {"@module": "trivial_jobs", "@callable": "add.__globals__", "@bound": None}),
    (f"{JOB}/function", {"@module": "trivial_jobs", "@callable": "Path.unlink", "@bound": None}),
    (f"{JOB}/function", {"@module": "trivial_jobs", "@callable": "x.y", "@bound": {"@module": "os", "@class": "x"}}),
    (f"{JOB}/function", None),
    (f"{JOB}/function_args", [HARM]),
    (f"{JOB}/function_args", [{"deep": [{"@module": "webbrowser", "@class": "GenericBrowser", "name": "x"}]}]),
    (f"{JOB}/function_kwargs", {"a": {"_fw_name": "ScriptTask", "script": "true"}}),
    (f"{JOB}/function_kwargs", {"a": {"_fw_name": "{{os.system}}"}}),
    (f"{JOB}/function_kwargs", {"model": CalculatorRecipe("os:system", {"command": "true"}).as_dict()}),
    (f"{JOB}/function_kwargs", {"model": CalculatorRecipe("ase.calculators.lj:os.system", {}).as_dict()}),
    (f"{JOB}/function_kwargs", {"model": CalculatorRecipe("ase.calculators.vasp:Vasp", {"command": "x"}).as_dict()}),
    ("spec/_tasks/0/store", {"@module": "maggma.stores.mongolike", "@class": "JSONStore", "paths": ["/etc/x"]}),
    ("spec/_tasks/0/_fw_name", "ScriptTask"),
    ("spec/_tasks/0/_fw_name", "{{fireworks.user_objects.firetasks.script_task.PyTask}}"),
    ("spec/_tasks/0/_fw_name", None),
    ("spec/_tasks", []),
    ("spec/_tasks", "PyTask"),
    ("spec/_background_tasks", [{"_fw_name": "ScriptTask"}]),
    ("spec/_dupefinder", {"_fw_name": "DupeFinderExact"}),
    ("spec/_launch_dir", "/root"),
    ("spec/_launch_dir", "/nowhere/.aqvolt/launches/../../../root"),
    ("spec/x", {"@module": "..", "@class": "X"}),
    ("spec/x", {"@module": "os.path\0", "@class": "X"}),
]


@pytest.mark.parametrize(("path", "value"), ATTACKS)
def test_what_would_run_code_is_refused(path: str, value: Any) -> None:
    why = refusal(changed(path, value), SETTINGS)
    assert why is not None
    assert why.kind == "not_allowed", why.message


def test_a_recipe_of_an_ase_calculator_may_run() -> None:
    recipe = CalculatorRecipe("ase.calculators.lj:LennardJones", {"sigma": 3.4}).as_dict()
    assert refusal(changed(f"{JOB}/function_kwargs", {"model": recipe}), SETTINGS) is None


def test_what_this_machine_cannot_import_or_is_too_old_for_is_left_to_others() -> None:
    gone = {"@module": "aqvolt_flows.of_tomorrow", "@callable": "add", "@bound": None}
    why = refusal(changed(f"{JOB}/function", gone), SETTINGS)
    assert why is not None
    assert why.kind == "cannot_import"
    assert "No module named 'aqvolt_flows.of_tomorrow'" in why.message
    why = refusal(changed("spec/aqvolt/version", "9.1.0"), SETTINGS)
    assert why is not None
    assert why.kind == "newer_version"
    assert "9.1.0 submitted it and this worker is" in why.message
    for older in ("0.0.9", "", "unknown"):
        assert refusal(changed("spec/aqvolt/version", older), SETTINGS) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["@module", "@class", "@callable", "@bound", "_fw_name", "a"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(part=JSON, path=st.sampled_from([f"{JOB}/function", f"{JOB}/function_args", "spec/_tasks", "spec/y", "spec"]))
def test_no_document_is_a_traceback(part: Any, path: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    *above, last = path.split("/")
    target: Any = document
    for name in above:
        target = target[int(name)] if isinstance(target, list) else target[name]
    target[last] = part
    why = refusal(document, SETTINGS)
    assert why is None or why.message


DOCUMENT = stored()


def test_a_worker_leaves_what_it_must_not_run_and_runs_the_rest(database: Database, settings: AqvoltSettings) -> None:
    """Refused Fireworks have the highest priority and come first."""
    launchpad = ensure_launchpad(settings)
    marker = Path.cwd() / "harm-done"
    tasks = [ScriptTask.from_str(f"touch {marker}"), PyTask(func="os.mkdir", args=[str(marker)])]
    for task in tasks:
        launchpad.add_wf(Workflow([Firework([task], spec={"_priority": 9, "_category": "cpu"})]))
    submit([trivial_jobs.add_item(n) for n in range(3)], settings)
    report = work(settings, until_empty=True)
    assert (report.completed, report.fizzled, report.refused) == (3, 0, 2)
    assert not marker.exists()
    states = [f["state"] for f in launchpad.fireworks.find({"spec._priority": 9})]
    assert states == ["READY", "READY"], "they stay where they are"


def test_a_worker_that_cannot_import_leaves_the_queue_to_others(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit([trivial_jobs.add_item(n) for n in range(5)], settings)
    launchpad = ensure_launchpad(settings)
    with monkeypatch.context() as without:
        without.delattr(trivial_jobs, "add")
        report = work(settings, until_empty=True)
    assert (report.completed, report.fizzled, report.refused) == (0, 0, 5)
    assert launchpad.fireworks.count_documents({"state": "READY"}) == 5
    assert work(settings, until_empty=True).completed == 5


def test_what_is_changed_while_it_is_taken_does_not_run(database: Database, settings: AqvoltSettings) -> None:
    submit([trivial_jobs.add_item(1)], settings)
    launchpad = ensure_launchpad(settings)
    watched = WatchedLaunchPad(launchpad, settings)
    look = watched._next

    def swap(query: Any) -> int | None:
        found = look(query)
        launchpad.fireworks.update_one({"fw_id": found}, {"$set": {"spec._tasks.0.job.function": HARM}})
        return found

    watched._next = swap  # type: ignore[method-assign]
    assert watched.checkout_fw(FWorker(name="x"), str(Path.cwd())) == (None, None)
    assert launchpad.fireworks.find_one({})["state"] == "READY"
    assert watched.refused[1].kind == "not_allowed"
    assert launchpad.launches.count_documents({}) == 0


@pytest.mark.parametrize("category", ["cpu", "gpu", "vasp"])
def test_rlaunch_with_our_template_takes_jobs_only(
    database: Database, settings: AqvoltSettings, tmp_path: Path, category: str
) -> None:
    launchpad = ensure_launchpad(settings)
    path = tmp_path / "worker.yaml"
    path.write_text(render(f"my_fworker_{category}.yaml", settings))
    worker = FWorker.from_file(str(path))
    spec = {"_category": category}
    bad = [Firework([ScriptTask.from_str("true")], spec=spec), Firework([PyTask(func="os.getcwd")], spec=spec)]
    for firework in bad:
        launchpad.add_wf(Workflow([firework]))
    assert not launchpad.run_exists(worker)
    submit([trivial_jobs.add_item(1, category=category)], settings)
    assert launchpad.run_exists(worker)
    launchpad.fireworks.update_many({}, {"$set": {"spec._tasks.0.job.function": HARM}})
    assert not launchpad.run_exists(worker)
    assert load_settings().job_packages == ("trivial_jobs",)
