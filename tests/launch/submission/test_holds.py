"""Failure budgets: a chemical system that fails too often is paused, and goes on when it is lifted."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trivial_jobs

from aqvolt_flows.errors import InputError
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Stream
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.open_project import Project
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.submission import holds
from aqvolt_launch.submission import window as queue
from aqvolt_launch.submission.holds import FailureBudget
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


def outcomes(database: Database, system: str, converged: int, failed: int, code: str = "vasp") -> None:
    for status in ["converged"] * converged + ["unconverged"] * failed:
        output = {"status": status, "protocol": {"code": code}}
        mark = {"aqvolt": {"stage": "label", "key": "k", "chemsys": system}}
        database["outputs"].insert_one({"index": 1, "output": output, "metadata": mark})


def of_two_systems(n: int) -> Stream:
    def read(by_priority: bool):
        for i in range(n):
            yield trivial_jobs.bulk_item(i, priority=10 * i, tags={"chemsys": "Cl-Li" if i % 2 else "F-Li"})

    return Stream(n, read)


def counts(settings: AqvoltSettings) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for firework in get_launchpad(settings).fireworks.find({}):
        place = firework["spec"]["aqvolt"]["chemsys"], firework["state"]
        found[place] = found.get(place, 0) + 1
    return found


@pytest.mark.parametrize("window", [0, 4])
def test_system_over_its_budget_is_paused_and_goes_on_when_lifted(
    database: Database, settings: AqvoltSettings, window: int
) -> None:
    submit(of_two_systems(12), settings, window=window)
    holds.set_budget(Project(settings), FailureBudget(10, 0.5, "vasp"))
    outcomes(database, "Cl-Li", 4, 5)
    outcomes(database, "F-Li", 20, 10)
    outcomes(database, "F-Li", 0, 50, code="surrogate")
    assert holds.enforce(Project(settings)) == [], "nine outcomes are too few, and ten of thirty failures not too many"
    outcomes(database, "Cl-Li", 0, 1)
    assert holds.enforce(Project(settings)) == ["Cl-Li"]
    assert holds.enforce(Project(settings)) == [], "it is paused already"
    assert all(state == "PAUSED" for system, state in counts(settings) if system == "Cl-Li")
    (held,) = collect_status(settings)["held"]
    assert held["message"] == "6 of 10 labels of Cl-Li failed, more than 50%."
    assert work(settings, until_empty=True).completed == 6, "the other system runs, and the worker ends"
    assert counts(settings) == {("F-Li", "COMPLETED"): 6, ("Cl-Li", "PAUSED"): 6}
    assert holds.lift(Project(settings), "Cl-Li") == 6
    assert holds.enforce(Project(settings)) == [], "failures until then are forgiven"
    assert work(settings, until_empty=True).completed == 6
    outcomes(database, "Cl-Li", 4, 6)
    assert holds.enforce(Project(settings)) == ["Cl-Li"], "but not those that follow"
    with pytest.raises(InputError, match="Nothing named 'F-Li' is held"):
        holds.lift(Project(settings), "F-Li")


def test_one_process_a_minute_looks(database: Database, settings: AqvoltSettings) -> None:
    assert holds.enforce(Project(settings)) == [], "no budget was set"
    holds.set_budget(Project(settings), FailureBudget(1, 0.5, "vasp"))
    submit(of_two_systems(1), settings)
    assert holds.enforce(Project(settings), at_most_every=timedelta(minutes=1)) == []
    outcomes(database, "Cl-Li", 0, 1)
    assert holds.enforce(Project(settings), at_most_every=timedelta(minutes=1)) == []
    queue.end_lease(get_launchpad(settings), "failure-budget")
    assert holds.enforce(Project(settings), at_most_every=timedelta(minutes=1)) == ["Cl-Li"]
