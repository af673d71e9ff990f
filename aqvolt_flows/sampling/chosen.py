"""What a round chose, and the frames that it writes: one Parquet file and a document each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aqvolt_flows.frames import SCHEMA, Frame, from_table, read_batches, write_frames
from aqvolt_flows.sampling.earlier import Marked, frame_key, take_again
from aqvolt_flows.schemas.feature import FeatureDocument
from aqvolt_flows.schemas.frame import FrameDocument
from aqvolt_flows.schemas.provenance import ArtifactRef

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct.selection import Selection
    from aqvolt_flows.sampling.features.shards import FeatureShards
    from aqvolt_flows.stores import Database

#: Documents written to the database together.
_DOCUMENTS = 500


@dataclass(frozen=True, eq=False)
class Choice:
    """What a round chose.

    Attributes
    ----------
    shards, documents
        Frames of all rounds, this one's last, and their documents.
    shards_of_round
        Frames of this round.
    marked
        Which rows earlier rounds chose.
    selection
        The choice among all of them.
    """

    shards: FeatureShards
    shards_of_round: FeatureShards
    marked: Marked
    selection: Selection
    documents: Sequence[FeatureDocument]

    @property
    def before(self) -> NDArray[np.float32]:
        """Points of what is chosen or covered without this round's choice, (c, n_components)."""
        stays = self.marked.chosen
        stays[self.selection.given_back] = False
        rows = np.union1d(np.flatnonzero(stays), self.selection.indices)
        new = np.isin(rows, self.selection.indices)
        points = self.selection.state.chosen
        sets = len(points) - len(rows)
        return np.concatenate([points[:sets], points[sets:][~new]])

    @property
    def funnel(self) -> dict[str, int]:
        """Clusters over all rounds, and how many of this round's frames are covered by earlier ones."""
        first = len(self.shards) - len(self.shards_of_round)
        covered = self.marked.chosen | (self.selection.structure_clusters < 0)
        return {
            "covered_before": int(covered[first:].sum()),
            "structure_clusters": int(self.selection.coverage["structure_clusters"]),
            "atom_clusters": int(self.selection.coverage["atom_clusters"]),
        }


@dataclass
class FrameWriter:
    """Writes the frames of a round.

    Parameters
    ----------
    database
        Where documents and artifacts are.
    key
        Content key of the round.
    """

    database: Database
    key: str

    def write(self, choice: Choice) -> tuple[list[str], ArtifactRef | None, int]:
        """Copy the chosen frames into one Parquet file and write their documents.

        Returns identities, the file, and how many are new. A frame that another round chose keeps its document, which
        then belongs to the campaigns of both.
        """
        shards, selection, documents = choice.shards, choice.selection, choice.documents
        places = sorted(zip(shards.addresses(selection.indices), selection.indices.tolist(), strict=True))
        if not places:
            return [], None, 0
        files = {p.source: p.file for d in documents for p in d.pieces}
        names = sorted({address[0] for address, _ in places})
        known = {t["trajectory_id"]: t for t in self.database.find_by_ids("trajectories", names)}
        seen: list[tuple[str, int, float, float]] = []

        def chosen() -> Iterator[Frame]:
            for name, group in groupby(places, key=lambda place: place[0][0]):
                rows = np.array([row for (_, row, _), _ in group], np.int64)
                for frame in frames_at(self.database.artifacts.local_path(files[name]), rows):
                    seen.append((name, frame.step, frame.energy, frame.max_force))
                    yield frame

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frames.parquet"
            write_frames(path, chosen())
            artifact = self.database.artifacts.put_file(path, "parquet")
        made = (
            self._frame(known[name], artifact, row, (place, index), values, selection, shards.encoder_sha256)
            for row, ((place, index), (name, *values)) in enumerate(zip(places, seen, strict=True))
        )
        ids, new = [], 0
        for group in batched(made, _DOCUMENTS):
            ids += [d.frame_id for d in group]
            query = {"frame_id": {"$in": [d.frame_id for d in group]}, "sample_key": {"$ne": self.key}}
            others = {d["frame_id"] for d in self.database["frames"].find(query, {"frame_id": 1})}
            new += self.database.upsert("frames", [d for d in group if d.frame_id not in others])
            self.database.adopt("frames", sorted(others))
            take_again(self.database, sorted(others))
        return ids, artifact, new

    def _frame(
        self,
        trajectory: dict[str, Any],
        artifact: ArtifactRef,
        row: int,
        place: tuple[tuple[str, int, int], int],
        values: Sequence[Any],
        selection: Selection,
        encoder_sha256: str,
    ) -> FrameDocument:
        (name, source_row, _), index = place
        step, energy, max_force = values
        identity = frame_key(name, step)
        clusters = selection.atom_clusters[index]
        return FrameDocument(
            frame_id=f"frame-{identity}",
            key=identity,
            trajectory_id=name,
            candidate_id=trajectory["candidate_id"],
            sample_key=self.key,
            step=step,
            formula=trajectory["formula"],
            chemsys=trajectory["chemsys"],
            elements=trajectory["elements"],
            n_atoms=trajectory["n_atoms"],
            temperature_k=trajectory["temperature_k"],
            artifact=artifact,
            row=row,
            surrogate_energy=energy,
            surrogate_max_force=max_force,
            structure_cluster=int(selection.structure_clusters[index]),
            structure_distance=float(selection.structure_distances[index]),
            atom_clusters=clusters,
            source_row=source_row,
            n_atom_clusters=len(clusters),
            atom_distances=selection.atom_clusters.distances(index),
            encoder_sha256=encoder_sha256,
        )


def frames_at(path: Path, rows: NDArray[np.int64]) -> Iterator[Frame]:
    """Yield the frames at some rows (sorted) of a trajectory's file, reading only the row groups that hold them."""
    if not len(rows):
        return
    for numbers, batch in read_batches(path, SCHEMA.names, int(rows[0]), int(rows[-1]) + 1):
        here = np.flatnonzero(np.isin(numbers, rows))
        if len(here):
            yield from from_table(batch.take(pa.array(here)))
