"""Queued and finished units that another campaign submitted: they are not computed again but belong to both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import batched
from typing import Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import KEY_FIELD, get_launchpad

#: Where workflows, Fireworks and the jobs inside them name their campaigns.
WORKFLOW_FIELD = "metadata.aqvolt.campaigns"
FIREWORK_FIELD = "spec.aqvolt.campaigns"
JOB_FIELD = "spec._tasks.0.job.metadata.aqvolt.campaigns"
#: The same for the jobs that a job adds when it runs.
ADDED_FIELD = "spec._tasks.0.job.metadata_updates.0.update.aqvolt.campaigns"
_ADDED = "spec._tasks.0.job.metadata_updates.0"
_AT_ONCE = 50
UNFINISHED = {"state": {"$nin": ["COMPLETED", "FIZZLED", "DEFUSED", "ARCHIVED"]}}


class Adopter:
    """Adds a campaign to units of work that are in the database already.

    Parameters
    ----------
    settings
        Which database.
    campaign
        The campaign that wants the units.
    """

    def __init__(self, settings: AqvoltSettings, campaign: str) -> None:
        self.database = Database.connect(settings).in_campaign(campaign)
        self.database.register_campaigns()
        self.launchpad = get_launchpad(settings)
        self.alone = self.database.is_alone()

    def adopt(self, keys: Iterable[str]) -> int:
        """Let the units with these keys belong to the campaign; return how many workflows did not yet."""
        if self.alone:
            return 0
        grown = 0
        for portion in batched(keys, _AT_ONCE):
            others = self._of_others(portion)
            if others:
                # by their Fireworks: the embedded server does not use the partial index on the key
                grown += self._add(self.launchpad.workflows, {"nodes": {"$in": others}}, WORKFLOW_FIELD)
                self._add_to_fireworks({"fw_id": {"$in": others}})
            self.database.adopt("outputs", portion, KEY_FIELD)
        return grown

    def _of_others(self, keys: Iterable[str]) -> list[int]:
        """Return the Fireworks of these units that are not the campaign's yet."""
        own = {"$exists": True} if self.database.campaign == self.database.default_campaign else {}
        query = {"spec.aqvolt.key": {"$in": list(keys)}, FIREWORK_FIELD: {"$ne": self.database.campaign} | own}
        return [f["fw_id"] for f in self.launchpad.fireworks.find(query, {"fw_id": 1})]

    def adopt_units(self, units: Iterable[str]) -> int:
        """Let the unfinished workflows that hold these units belong to the campaign, too."""
        wanted = frozenset(units)
        if self.alone or not wanted:
            return 0
        query = {"metadata.aqvolt.units": {"$exists": True}} | UNFINISHED
        found = self.launchpad.workflows.find(query, {KEY_FIELD: 1, "metadata.aqvolt.units": 1})
        about = [workflow["metadata"]["aqvolt"] for workflow in found]
        return self.adopt([a["key"] for a in about if wanted & set(a["units"])])

    def _add_to_fireworks(self, query: Mapping[str, Any]) -> None:
        """Change what FireWorks shows, and the jobs inside, so that what they write belongs to all campaigns."""
        fireworks = self.launchpad.fireworks
        self._add(fireworks, query, FIREWORK_FIELD)
        self._add(fireworks, {**query, "spec._tasks.0.job.metadata.aqvolt": {"$exists": True}}, JOB_FIELD)
        self._add(fireworks, {**query, f"{_ADDED}.update.aqvolt": {"$exists": True}}, ADDED_FIELD)

    def _add(self, collection: Any, query: Mapping[str, Any], field: str) -> int:
        default, campaign = self.database.default_campaign, self.database.campaign
        if campaign != default:
            collection.update_many({**query, field: {"$exists": False}}, {"$set": {field: [default]}})
        others = {**query, field: {"$exists": True, "$ne": campaign}}
        return int(collection.update_many(others, {"$addToSet": {field: campaign}}).modified_count)
