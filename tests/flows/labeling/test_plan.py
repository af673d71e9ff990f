"""The plan of labels: streamed, keyed as the labels are, most informative first, held ones marked."""

from __future__ import annotations

import label_factory
import pytest

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.labeling.labelers import protocol_for
from aqvolt_flows.labeling.plan import cost_model, electrons_of, informativeness, plan_label
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.schemas.hold import HoldDocument
from aqvolt_flows.stores import Database


def test_informativeness_puts_environments_first_then_distortion() -> None:
    def of(clusters: int, force: float) -> int:
        return informativeness({"atom_clusters": list(range(clusters)), "surrogate_max_force": force})

    assert [of(0, f) for f in (0.0, 0.1, 1.0, 10.0, 800.0, 1e9)] == [0, 7, 26, 50, 98, 99]
    assert of(1, 0.0) > of(0, 1e9)
    assert (of(3, 0.1), of(9, 0.0), of(400, 1e9)) == (307, 900, 999)
    assert informativeness({}) == 0


def test_electrons_of_a_frame() -> None:
    """By hand: Li₃YCl₆ has 3·1 + 3 + 6·7 = 48 valence electrons on 10 atoms."""
    assert electrons_of("Li3YCl6", 40) == 4 * 48
    assert electrons_of("LiCl", 8) == 32


def test_stream(database: Database) -> None:
    campaign = load_campaign("demo")
    assert "no selected frame" in plan_label(campaign, database).missing[0]
    frames = [label_factory.frame(n, "LiF" if n % 2 else "LiCl") for n in range(6)]
    frames[4] = frames[4].model_copy(update={"atom_clusters": [1, 2, 3], "surrogate_max_force": 2.0})
    database.upsert("frames", frames)
    key = label_key("frame-0003", protocol_for(campaign.labeling))
    database["outputs"].insert_one({"uuid": "u", "index": 1, "metadata": {"aqvolt": {"stage": "label", "key": key}}})
    holds = [
        HoldDocument.of("chemsys", "Cl-Li", "failure_budget", ""),
        HoldDocument.of("frame", "frame-0001", "gone", ""),
    ]
    database.upsert("holds", holds)
    plan = plan_label(campaign, database)
    assert len(plan.items) == 6
    items = {item.arguments[0]: item for item in plan.items}
    assert {name for name, item in items.items() if item.done} == {"frame-0003"}
    assert {n: i.held for n, i in items.items() if i.held} == {
        "frame-0000": "failure_budget",
        "frame-0002": "failure_budget",
        "frame-0004": "failure_budget",
        "frame-0001": "gone",
    }
    item = items["frame-0005"]
    assert (item.key, item.tags) == (
        label_key("frame-0005", protocol_for(campaign.labeling)),
        {"chemsys": "F-Li", "atoms": 8, "electrons": 32, "frame_id": "frame-0005", "labeler": "surrogate"},
    )
    job = item.make()
    assert job.function_args == item.template(*item.arguments).function_args == ("frame-0005", item.key)
    ordered = [i.arguments[0] for i in plan.items.by_priority()]
    assert ordered[0] == "frame-0004"
    assert sorted(ordered) == sorted(items)
    assert len(plan.todo) == 5


def test_forecast_is_of_the_campaigns_own_labeler(database: Database) -> None:
    """Expected: hours of two sizes that follow electrons² exactly, 32 and 64 valence electrons."""
    campaign = load_campaign("demo")
    with pytest.raises(InputError, match="No surrogate run has finished yet"):
        cost_model(campaign, database)
    for number, copies in enumerate([1, 2, 1, 2, 4]):
        output = {
            "protocol": {"code": "surrogate" if number < 4 else "vasp"},
            "cost_core_hours": 0.5 * copies**2,
            "atomic_numbers": [3, 17] * 4 * copies,
        }
        document = {"uuid": str(number), "index": 1, "output": output, "metadata": {"aqvolt": {"stage": "label"}}}
        database["outputs"].insert_one(document | {"key": str(number)})
    model = cost_model(campaign, database)
    assert model.runs == 4
    assert model.predict(32, 128) == pytest.approx(8.0)
