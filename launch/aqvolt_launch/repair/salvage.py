"""What a lost run has finished before it was lost: its output, or VASP's files in its launch folder.

Finished DFT is never repeated. Only labels are looked at: one job each, which starts no other.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.labelers import LABELERS
from aqvolt_flows.labeling.plan import RERUN
from aqvolt_flows.labeling.spec import label_spec
from aqvolt_flows.stores import Database, check_size

if TYPE_CHECKING:
    from fireworks import LaunchPad


def settle(launchpad: LaunchPad, database: Database, fw_id: int, launch_id: int | None = None) -> str:
    """Complete a lost label whose result is there.

    Parameters
    ----------
    launchpad, database
        Where it is noted.
    fw_id
        The Firework.
    launch_id
        Its lost launch, still RUNNING there; None for a Firework that is COMPLETED and only lacks its output.

    Returns
    -------
    str
        ``stored`` (the output was written before the worker died), ``salvaged`` (the output was made from VASP's
        files), or empty: nothing usable is there, run it again.
    """
    fields = {"spec.aqvolt": 1, "spec._tasks": 1, "launches": 1, "state": 1}
    firework = launchpad.fireworks.find_one({"fw_id": fw_id}, fields)
    if firework is None or firework["spec"].get("aqvolt", {}).get("stage") != "label":
        return ""
    if launch_id is not None and firework["launches"][-1:] != [launch_id]:
        return ""
    job = firework["spec"]["_tasks"][0].get("job", {})
    own = {"uuid": job.get("uuid"), "index": job.get("index", 1), RERUN: {"$ne": True}}
    if database["outputs"].find_one(own, {"_id": 1}):
        found = "stored"
    else:
        launches = launchpad.launches.find({"launch_id": {"$in": firework["launches"]}}, {"launch_dir": 1})
        folders = [Path(launch["launch_dir"]) for launch in launches if launch.get("launch_dir")]
        output = next((o for folder in folders if (o := _from_files(database, firework["spec"], folder))), None)
        if output is None:
            return ""
        _store(database, job, output, fw_id)
        found = "salvaged"
    if launch_id is not None:
        from fireworks import FWAction

        launchpad.complete_launch(launch_id, FWAction(), "COMPLETED")
    return found


def _from_files(database: Database, spec: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Return the outcome that the files of a converged run in a launch folder stand for, or None."""
    about = label_spec(spec)
    if about is None or about.labeler not in LABELERS:
        return None
    job = spec["_tasks"][0].get("job", {})
    outcome = LABELERS[about.labeler].salvage(database, job, about.frame_id, about.key, folder)
    return None if outcome is None else outcome.model_dump(mode="json")


def _store(database: Database, job: dict[str, Any], output: dict[str, Any], fw_id: int) -> None:
    """Write the output as jobflow's ``Job.run`` would have."""
    document = {
        "uuid": job["uuid"],
        "index": job.get("index", 1),
        "output": output,
        "completed_at": datetime.now().isoformat(),
        "metadata": job.get("metadata", {}) | {"fw_id": fw_id},
        "hosts": job.get("hosts", []),
        "name": job.get("name", ""),
        "@module": "jobflow.core.schemas",
        "@class": "JobStoreDocument",
        "@version": None,
    }
    check_size(document, f"output of Firework {fw_id}")
    same = {"uuid": document["uuid"], "index": document["index"]}
    database["outputs"].update_one(same, {"$set": document}, upsert=True)
