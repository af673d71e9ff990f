"""What the report shows of a campaign's loops: rounds in a table, learning curve, calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aqvolt_flows.figures import loop_plots
from aqvolt_flows.schemas.loop import LoopDocument
from aqvolt_flows.stores import Database


def loops(database: Database, inline: Callable[[bytes, str, str], str]) -> list[dict[str, Any]]:
    """Return one entry per loop: name, rows of its rounds, figures.

    Parameters
    ----------
    database
        Of the campaign; of all campaigns, the loops of all.
    inline
        Makes an element of the page of a figure: bytes, name, text alternative.
    """
    query = {} if database.all_campaigns else {"campaign": database.campaign}
    found: dict[str, list[LoopDocument]] = {}
    for document in database["loops"].find(query, {"_id": 0}).sort([("loop", 1), ("round", 1)]):
        found.setdefault(document["loop"], []).append(LoopDocument(**document))
    return [_loop(number, name, rounds, inline) for number, (name, rounds) in enumerate(found.items())]


def _loop(
    number: int, name: str, rounds: list[LoopDocument], inline: Callable[[bytes, str, str], str]
) -> dict[str, Any]:
    rows = [d.row() for d in rounds]
    labels, points = 0, []
    for row in rows:
        labels += row["labels"] or 0
        if row["force_mae_ev_per_a"] is not None:
            interval = row["interval"]
            ends = {"low": interval[0], "high": interval[1]} if interval else {}
            points.append({"labels": labels, "error": row["force_mae_ev_per_a"], **ends})
    curves = {}
    for document in rounds:
        held = document.facts_of("evaluate").get("hold_out") or {}
        if curve := (held.get("calibration") or {}).get("curve"):
            curves[f"round {document.round}"] = curve
    figures = []
    if points:
        figures.append(inline(loop_plots.learning(points), f"loop{number}", f"Error of the loop {name} by labels"))
    if curves:
        figures.append(
            inline(loop_plots.calibration(curves), f"calibration{number}", f"Calibration of the loop {name}")
        )
    return {"name": name, "rows": rows, "figures": figures}
