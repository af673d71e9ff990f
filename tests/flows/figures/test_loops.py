"""The report's section on loops."""

from __future__ import annotations

from aqvolt_flows.figures.loops import loops
from aqvolt_flows.figures.report import collect, inline_svg, render_report
from aqvolt_flows.schemas.loop import STEPS, LoopDocument, RoundStep

CURVE = [[0.01, 0.02, 40], [0.1, 0.3, 40]]


def rounds(number: int, error: float | None, **values) -> LoopDocument:
    held = (
        {}
        if error is None
        else {"force_mae_ev_per_a": error, "force_mae_interval_ev_per_a": [error - 0.01, error + 0.01]}
    )
    held["calibration"] = {"scale": 2.5, "rank_correlation": 0.7, "curve": CURVE} if error else {}
    facts = {
        "select": {"chosen": ["a", "b"], "offered": 9, "doubtful_fraction": 0.5},
        "label": {"core_hours": 3.25},
        "build": {"valid": 10},
        "evaluate": {"hold_out": held},
    }
    about = {"key": f"k{number}", "round_id": f"l-r{number}", "loop": "l", "round": number, "campaign": "aqvolt26"}
    about |= {"status": "done", "parameters": {}, "potential": "x", "potential_sha256": "ab"}
    steps = [RoundStep(name=s, facts=facts.get(s, {})) for s in STEPS]
    about |= {"steps": steps, "decision": {"stop": False, "sentence": "no rule holds"}}
    return LoopDocument(**about | values)


def test_rounds_are_shown_with_errors_doubts_and_decisions(database):
    database["loops"].insert_many([d.model_dump(mode="python") for d in (rounds(0, 0.2), rounds(1, 0.15))])
    drawn: list[str] = []

    def inline(svg: bytes, name: str, alt: str) -> str:
        drawn.append(svg.decode())
        return inline_svg(svg, name, alt)

    [found] = loops(database, inline)
    assert [r["labels"] for r in found["rows"]] == [10, 10]
    assert [r["chosen"] for r in found["rows"]] == [2, 2]
    assert len(found["figures"]) == 2
    assert "labels of all rounds" in drawn[0]
    assert "round 1" in drawn[1]
    page = render_report(collect(database))
    assert 'id="loops"' in page
    assert "0.15" in page
    assert "no rule holds" in page


def test_a_loop_that_has_just_begun_has_a_table_and_no_figure(database):
    begun = rounds(0, None, status="running", steps=[], decision={})
    database["loops"].insert_one(begun.model_dump(mode="python"))
    [found] = loops(database, inline_svg)
    assert found["figures"] == []
    assert found["rows"][0]["step"] == "explore"
    assert 'id="loops"' in render_report(collect(database))


def test_without_loops_and_of_other_campaigns_there_is_no_section(database):
    database["loops"].insert_one(rounds(0, 0.2, campaign="other").model_dump(mode="python"))
    assert loops(database, inline_svg) == []
    assert len(loops(database.in_all_campaigns(), inline_svg)) == 1
    assert 'id="loops"' not in render_report(collect(database))
