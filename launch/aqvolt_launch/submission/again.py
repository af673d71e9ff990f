"""Labels that failed for a reason that another run may cure (no time, no memory, no POTCAR): running them again.

Their Fireworks are COMPLETED, since a failure is an outcome like any other. The outcome stays until the next one
replaces it, marked so that neither a plan nor the recovery of a killed worker takes it for the result of the new run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aqvolt_flows.labeling.plan import RERUN
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem
from aqvolt_launch.launchpad import KEY_FIELD, rerun, workflows_by_key

if TYPE_CHECKING:
    from fireworks import LaunchPad


def run_again(launchpad: LaunchPad, settings: AqvoltSettings, items: Sequence[WorkItem]) -> tuple[int, list[WorkItem]]:
    """Make the COMPLETED Fireworks of ended units READY again.

    Returns
    -------
    (int, list of WorkItem)
        How many run again, and those without a workflow here, as units to be submitted anew.
    """
    outputs = Database.connect(settings)["outputs"]
    wanted = {item.key: item for item in items}
    known = workflows_by_key(launchpad, list(wanted))
    found = outputs.find({KEY_FIELD: {"$in": list(wanted)}}, {KEY_FIELD: 1, "completed_at": 1})
    ended = {document["metadata"]["aqvolt"]["key"]: document for document in found}
    count = 0
    for key, workflow in known.items():
        reran = [rerun(launchpad, int(fw_id), states=("COMPLETED",)) for fw_id in workflow["nodes"]]
        if any(reran) and key in ended:
            same = {"_id": ended[key]["_id"], "completed_at": ended[key].get("completed_at")}
            outputs.update_one(same, {"$set": {RERUN: True}})  # unless the new run has ended meanwhile
        count += any(reran)
    return count, [replace(item, done=False, again="") for key, item in wanted.items() if key not in known]
