"""The campaign's labeling job: one static of one frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Maker

from aqvolt_flows.jobs import campaign_job
from aqvolt_flows.labeling.static_maker import StaticMaker, label_one
from aqvolt_flows.labeling.surrogate import SurrogateStaticMaker
from aqvolt_flows.stores import Database


@dataclass
class LabelFrameMaker(Maker):
    """Label a selected frame.

    Parameters
    ----------
    name
        Job name.
    static_maker
        Computes the static; ``update_maker_kwargs`` reaches it.
    """

    name: str = "label frame"
    static_maker: StaticMaker = field(default_factory=SurrogateStaticMaker)

    @campaign_job()
    def make(self, database: Database, frame_id: str, key: str) -> Any:
        """Return a :class:`~aqvolt_flows.schemas.label.LabelOutcome` as JSON types for one frame.

        Parameters
        ----------
        database
            Given by the decorator.
        frame_id
            Identity of the frame in ``frames``.
        key
            :func:`aqvolt_flows.labeling.protocols.label_key` of the frame and the maker's protocol.
        """
        return label_one(database, self.static_maker, frame_id, key)
