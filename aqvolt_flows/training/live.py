"""Trainings that run, or were cut short, on this machine: what their ``progress.jsonl`` says now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.training.records import read_records

FOLDER = Path(".aqvolt/training")
#: Where a run folder has its records: in itself, or one folder a stage.
_PLACES = ("progress.jsonl", "*/progress.jsonl")


def live_rows(settings: AqvoltSettings) -> list[dict[str, Any]]:
    """Return one row per stage that has begun and not ended, in the project's run folders on this machine.

    Returns
    -------
    list
        ``model_id``, ``stage``, ``step``, ``loss``, ``E meV/atom`` and ``F meV/Å`` of the last evaluation, and
        ``last``, the time of the last record in seconds since 1970.
    """
    rows = []
    for folder in sorted(p for p in settings.path(FOLDER).glob("*") if p.is_dir()):
        for file in sorted(f for place in _PLACES for f in folder.glob(place)):
            row = _row(folder.name, file)
            if row is not None:
                rows.append(row)
    return rows


def _row(key: str, file: Path) -> dict[str, Any] | None:
    records = read_records(file)
    events = [r["event"] for r in records]
    if not records or ("end" in events and "launch" not in events[events.index("end") :]):
        return None
    trains = [r for r in records if r["event"] == "train"]
    evaluations = [r.get("metrics") or {} for r in records if r["event"] == "eval"]
    metrics = evaluations[-1] if evaluations else {}
    energy, forces = metrics.get("energy_per_atom_mae"), metrics.get("forces_mae")
    return {
        "model_id": f"model-{key}",
        "stage": "train" if file.parent.name == key else file.parent.name,
        "step": max(int(r["step"]) for r in records),
        "loss": trains[-1].get("loss") if trains else None,
        "E meV/atom": None if energy is None else 1e3 * float(energy),
        "F meV/Å": None if forces is None else 1e3 * float(forces),
        "last": float(records[-1]["time"]),
    }
