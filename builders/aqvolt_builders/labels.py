"""Labels from what the labeling jobs returned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import batched
from typing import Any

from maggma.core import Store

from aqvolt_builders.base import CountingBuilder, latest_outputs, outputs_store, plain_store, read_outputs
from aqvolt_flows.datasets.labels import BUILDER_VERSION, label_from_outcome, merge
from aqvolt_flows.schemas.label import LabelDocument
from aqvolt_flows.stores import collection_store


class LabelBuilder(CountingBuilder):
    """Makes ``labels`` of ``outputs`` (jobs of the stage ``label``) and ``frames``.

    Incremental: a job is taken up when no label remembers it with the time it ended, or when the label was made under
    other rules (``builder_version``). A second run with nothing new reads identities only and writes nothing.

    Parameters
    ----------
    outputs, frames, labels
        Stores; by default those that the settings of this machine name.
    chunk_size
        Outcomes read and written at once.
    """

    def __init__(
        self,
        outputs: Store | None = None,
        frames: Store | None = None,
        labels: Store | None = None,
        chunk_size: int = 200,
    ) -> None:
        self.outputs = plain_store(outputs, outputs_store())
        self.frames = plain_store(frames, collection_store("frames"))
        self.labels = plain_store(labels, collection_store("labels"))
        super().__init__([self.outputs, self.frames], [self.labels], chunk_size)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Yield the outcome and the frame of every job that is not built yet."""
        built = self._built()
        waiting = sorted(uuid for uuid, at in latest_outputs(self.outputs, "label").items() if (uuid, at) not in built)
        self.total = len(waiting)
        for uuids in batched(waiting, self.chunk_size):
            documents = read_outputs(self.outputs, uuids)
            ids = [
                d["output"]["frame_id"]
                for d in documents
                if isinstance(d.get("output"), dict) and "frame_id" in d["output"]
            ]
            frames = {f["frame_id"]: f for f in self.frames.query({"frame_id": {"$in": ids}})}
            for document in documents:
                output = document.get("output")
                frame_id = output.get("frame_id") if isinstance(output, dict) else None
                yield {
                    "outcome": output if isinstance(output, dict) else {},
                    "frame": frames.get(frame_id) if isinstance(frame_id, str) else None,
                    "uuid": document["uuid"],
                    "completed_at": str(document.get("completed_at", "")),
                }

    def process_item(self, item: dict[str, Any]) -> LabelDocument:
        """Return the label, valid or rejected."""
        return label_from_outcome(item["outcome"], item["frame"], item["uuid"], item["completed_at"])

    def update_targets(self, items: list[LabelDocument]) -> None:
        """Write labels; of two jobs for one label the better stays."""
        ids = [label.label_id for label in items]
        known = {
            d["label_id"]: LabelDocument(**{k: v for k, v in d.items() if k != "_id"})
            for d in self.labels.query({"label_id": {"$in": ids}})
        }
        for label in items:
            stored = known.get(label.label_id)
            known[label.label_id] = label if stored is None else merge(stored, label)
        self.write("labels", [known[label_id] for label_id in dict.fromkeys(ids)])

    def _built(self) -> set[tuple[str, str]]:
        fields = {"source_uuid": 1, "source_completed_at": 1, "other_sources": 1, "_id": 0}
        found = set()
        for label in self.labels.query({"builder_version": BUILDER_VERSION}, fields):
            found.add((label.get("source_uuid"), label.get("source_completed_at")))
            found.update(label.get("other_sources", {}).items())
        return found
