"""What earlier rounds of a space read, chose and counted as covered: a later round chooses jointly with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import read_batches
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.sample import CoveredSource

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct.known import Known
    from aqvolt_flows.sampling.direct.selection import Selection
    from aqvolt_flows.sampling.features.shards import FeatureShards
    from aqvolt_flows.stores import Database

Mask = NDArray[np.bool_]


def frame_key(trajectory_id: str, step: int) -> str:
    """Return the content key of a frame."""
    return content_key("frame/1", trajectory_id=trajectory_id, step=step)


@dataclass(frozen=True, eq=False)
class EarlierRounds:
    """Rounds in their order.

    Attributes
    ----------
    shards
        shard_id of what they read, each once.
    chosen
        (trajectory_id, step) of the frames that they chose and did not give back.
    covered
        Sets that they counted as covered, by name, each as the last of them held it.
    encoders
        (weights, layer) of those that read anything, with the round.
    """

    shards: tuple[str, ...]
    chosen: tuple[tuple[str, int], ...]
    covered: dict[str, CoveredSource]
    encoders: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, database: Database, previous: Sequence[str]) -> EarlierRounds:
        """Return what rounds (sample_id, the first one first) left."""
        shards: dict[str, None] = {}
        chosen: dict[tuple[str, int], None] = {}
        covered: dict[str, CoveredSource] = {}
        encoders = []
        for document in database.find_by_ids("samples", previous):
            shards |= dict.fromkeys(document["shards"])
            back = set(document.get("given_back") or ())
            chosen = {c: None for c in chosen if f"frame-{frame_key(*c)}" not in back} if back else chosen
            if document["frames"]:
                path = database.artifacts.local_path(ArtifactRef(**document["frames"]))
                for _, batch in read_batches(path, ("trajectory_id", "step")):
                    names, steps = batch.column("trajectory_id").to_pylist(), batch.column("step").to_pylist()
                    chosen |= dict.fromkeys(zip(names, steps, strict=True))
            covered |= {c["source"]: CoveredSource(**c) for c in document.get("covered") or ()}
            if document["shards"]:
                encoders.append((document["encoder_sha256"], document["layer"], document["sample_id"]))
        return cls(tuple(shards), tuple(chosen), covered, tuple(encoders))

    def check_encoder(self, sha256: str, layer: str) -> None:
        """Raise :class:`InputError` unless rounds were encoded by these weights and this layer."""
        for other, level, round_ in self.encoders:
            if (other, level) != (sha256, layer):
                raise InputError(
                    f"{round_} was encoded by the weights {other[:12]}… (layer {level!r}), this round by "
                    f"{sha256[:12]}… (layer {layer!r}); rounds that build on each other share both: give the "
                    "encoder of the earlier ones, or start a campaign of its own."
                )


@dataclass(frozen=True, eq=False)
class Marked:
    """Which rows of shards earlier rounds chose.

    Attributes
    ----------
    frames
        (trajectory_id, step) of what they chose.
    which
        (n,), number of each row's frame among them; −1: not chosen before. A frame that was offered under two filters
        has two rows.
    unlabeled
        (frames,), those without an outcome: nobody has paid for them yet.
    """

    frames: tuple[tuple[str, int], ...]
    which: NDArray[np.int64]
    unlabeled: Mask

    @classmethod
    def of(cls, shards: FeatureShards, frames: Iterable[tuple[str, int]], labeled: set[str]) -> Marked:
        """Return the marks of rows, given the frame_id of those that have an outcome."""
        chosen = tuple(frames)
        free = np.array([f"frame-{frame_key(*f)}" not in labeled for f in chosen], np.bool_)
        return cls(chosen, shards.places(chosen), free)

    @property
    def chosen(self) -> Mask:
        """(n,), rows of frames that were chosen."""
        return np.asarray(self.which >= 0)

    @property
    def rows_unlabeled(self) -> Mask:
        """(n,), rows of frames that may be given back."""
        return self.chosen & self.unlabeled[self.which] if len(self.frames) else self.chosen

    def given_back(self, selection: Selection) -> list[str]:
        """Return the frame_id of frames of which no row stays chosen."""
        back = np.zeros(len(self.which), np.bool_)
        back[selection.given_back] = True
        stays = np.zeros(len(self.frames), np.bool_)
        stays[self.which[self.chosen & ~back]] = True
        seen = np.zeros(len(self.frames), np.bool_)
        seen[self.which[self.chosen]] = True
        return [f"frame-{frame_key(*self.frames[i])}" for i in np.flatnonzero(seen & ~stays)]


def with_outcome(database: Database) -> set[str]:
    """Return the frame_id of all frames with the outcome of a label, whatever it is; jobs that run again have none."""
    fields = {"output.frame_id": 1, "metadata.aqvolt.rerun": 1, "_id": 0}
    found: set[str] = set()
    for document in database["outputs"].find({"metadata.aqvolt.stage": "label"}, fields).batch_size(5000):
        frame = (document.get("output") or {}).get("frame_id")
        if frame and not document["metadata"]["aqvolt"].get("rerun"):
            found.add(str(frame))
    return found


def give_back(database: Database, frame_ids: Sequence[str]) -> None:
    """Let frames leave the campaign's choice: :meth:`Database.own` lists them no more, and no label is planned."""
    _mark(database, frame_ids, "$addToSet")


def take_again(database: Database, frame_ids: Sequence[str]) -> None:
    """Undo :func:`give_back` for frames that a round chooses again."""
    _mark(database, frame_ids, "$pull")


def _mark(database: Database, frame_ids: Sequence[str], operator: str) -> None:
    for start in range(0, len(frame_ids), 500):
        ids = list(frame_ids[start : start + 500])
        database["frames"].update_many({"frame_id": {"$in": ids}}, {operator: {"given_back": database.campaign}})


def known_of(shards: FeatureShards) -> Known:
    """Return the frames of shards as known structures, in memory."""
    from aqvolt_flows.sampling.direct.known import Known

    return Known.of(shards.structures(), shards.atoms(), shards.n_atoms)
