"""What each stage has taken so far, and labels by chemical system beside their forecast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from maggma.core import Store

from aqvolt_builders.base import CountingBuilder, plain_store
from aqvolt_builders.systems import label_costs
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.cost import CostDocument
from aqvolt_flows.stores import collection_store

#: Stage → its collection and the field that holds what a document took, with its unit in hours.
STAGES: dict[str, tuple[str, str | None, float]] = {
    "candidates": ("candidates", None, 0.0),
    "explore": ("trajectories", "seconds", 1 / 3600),
    "sample": ("frames", None, 0.0),
    "label": ("labels", "cost_core_hours", 1.0),
    "train": ("models", "seconds", 1 / 3600),
    "benchmark": ("benchmarks", "seconds", 1 / 3600),
}

_FAILED = frozenset({"failed", "rejected"})
_DATES = ("last_updated", "source_last_updated", "campaigns")


class CostBuilder(CountingBuilder):
    """Makes one document of ``costs`` per stage; written again when its sums changed.

    Parameters
    ----------
    costs
        Store to write, any of maggma's; by default the one that the settings of this machine name.
    chunk_size
        Stages summed at once.
    stages
        Stage → store to sum, for any of :data:`STAGES`; by default those that the settings name, all of them.
    frames
        Store of the frames, which say what environments a label adds; by default the settings' one where ``stages``
        is not given, else none, and environments are not counted.

    Raises
    ------
    InputError
        If there is no such stage.
    """

    def __init__(
        self,
        costs: Store | None = None,
        chunk_size: int = 10,
        stages: dict[str, Store] | None = None,
        frames: Store | None = None,
    ) -> None:
        self.costs = plain_store(costs, collection_store("costs"))
        if unknown := set(stages or {}) - set(STAGES):
            raise InputError(f"There is no stage {min(unknown)!r} to sum; known are {', '.join(STAGES)}.")
        self.stages: dict[str, Store] = dict(stages or {n: collection_store(c) for n, (c, _, _) in STAGES.items()})
        self.frames = collection_store("frames") if frames is None and not stages else frames
        beside = [self.frames] if self.frames is not None else []
        super().__init__([*self.stages.values(), *beside], [self.costs], chunk_size)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Yield, for every stage whose sums changed, the fields to sum of its documents."""
        known = {d["stage"]: d for d in self.costs.query()}
        fields = {"status": 1, "failure.reason": 1, "rejection.reason": 1, "n_atoms": 1, "seconds": 1}
        fields |= {"cost_core_hours": 1, "last_updated": 1, "_id": 0}
        of_labels = {"chemsys": 1, "formula": 1, "frame_id": 1}
        for stage, store in self.stages.items():
            documents = list(store.query({}, fields | (of_labels if stage == "label" else {})))
            before = known.get(stage)
            if not documents and before is None:
                continue
            newest = max((d["last_updated"] for d in documents if d.get("last_updated")), default=None)
            item = {"stage": stage, "documents": documents, "newest": newest}
            if stage == "label" and self.frames is not None:
                found = self.frames.query({"atom_clusters.0": {"$exists": True}}, {"frame_id": 1, "atom_clusters": 1})
                item["environments"] = {d["frame_id"]: len(d["atom_clusters"]) for d in found}
            if before and _sums(before) == _sums(self.process_item(item).model_dump(mode="python")):
                continue
            yield item

    def process_item(self, item: dict[str, Any]) -> CostDocument:
        """Return the sums of one stage."""
        stage = item["stage"]
        collection, field, hours = STAGES[stage]
        documents = item["documents"]
        failed = [d for d in documents if d.get("status") in _FAILED]
        reasons = Counter((d.get("failure") or d.get("rejection") or {}).get("reason", "unknown") for d in failed)
        hours_of = [float(d.get(field) or 0.0) * hours if field else 0.0 for d in documents]
        spent, valid = sum(hours_of), len(documents) - len(failed)
        systems = label_costs(documents, item.get("environments")) if stage == "label" else {}
        environments = systems.get("new_environments")
        key = content_key("costs/1", of=stage)
        return CostDocument(
            key=key,
            cost_id=f"cost-{key}",
            stage=stage,
            collection=collection,
            n_documents=len(documents),
            n_failed=len(failed),
            failures=dict(sorted(reasons.items())),
            n_atoms=sum(int(d.get("n_atoms") or 0) for d in documents),
            core_hours=spent,
            n_valid=valid,
            core_hours_failed=sum(h for h, d in zip(hours_of, documents, strict=True) if d.get("status") in _FAILED),
            per_valid=spent / valid if valid and field else None,
            per_environment=spent / environments if environments else None,
            **systems,
            source_last_updated=item["newest"],
        )

    def update_targets(self, items: list[CostDocument]) -> None:
        """Write the sums."""
        self.write("costs", items, self.costs)


def _sums(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a document of ``costs`` says, without when it was written and of what date the newest source is."""
    return {k: v for k, v in document.items() if k in CostDocument.model_fields and k not in _DATES}
