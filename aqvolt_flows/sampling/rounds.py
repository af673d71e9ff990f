"""One round of sampling on a database: shards in, chosen frames, state and picture out."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import batched, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aqvolt_flows.frames import SCHEMA, Frame, from_table, read_batches, write_frames
from aqvolt_flows.identity import content_key
from aqvolt_flows.sampling.features.encode import FILTERS
from aqvolt_flows.schemas.feature import FeatureDocument
from aqvolt_flows.schemas.frame import FrameDocument
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.sample import CoveredSource, SampleDocument

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct.method import TwoStageDirect
    from aqvolt_flows.sampling.direct.selection import Selection
    from aqvolt_flows.sampling.direct.state import SampledSpace
    from aqvolt_flows.sampling.features.shards import FeatureShards
    from aqvolt_flows.stores import Database

#: Fields that decide a selection; rounds that agree in them and in the encoder share a state.
CHOICES = (
    "structure_threshold",
    "atom_threshold",
    "k",
    "weight_components",
    "seed",
    "stage1",
    "stage2",
    "pick",
    "order",
    "search",
    "beam",
)
#: Documents written to the database together.
_DOCUMENTS = 500


def space_key(encoder_sha256: str, parameters: SamplingParameters) -> str:
    """Return the key that rounds share whose states continue each other.

    The encoder's layers follow from its weights; filters and thinning decide what is offered, not where it lies, and
    may differ between rounds (:func:`offer_key`).
    """
    choices = parameters.model_dump(mode="json", include=set(CHOICES))
    return content_key("space/1", encoder=encoder_sha256, choices=choices)


def offer_key(parameters: SamplingParameters) -> str:
    """Return the key of what is offered of a trajectory: thinning and filters.

    A trajectory that a round of the same space saw under the same key is not looked at again.
    """
    return content_key(
        "offer/1",
        stride=parameters.encode_stride,
        filters=parameters.model_dump(mode="json", include=set(FILTERS)),
    )


def two_stage(parameters: SamplingParameters, device: str) -> TwoStageDirect:
    """Return the selection that parameters ask for.

    Parameters
    ----------
    parameters
        Choices and engine; ``auto`` is torch where the device is a GPU.
    device
        torch device.
    """
    from aqvolt_flows.sampling.direct.method import TwoStageDirect

    engine = parameters.engine
    if engine == "auto":
        engine = "torch" if device.startswith("cuda") else "cpu"
    return TwoStageDirect(**{name: getattr(parameters, name) for name in CHOICES}, engine=engine, device=device)


@dataclass
class Round:
    """One round.

    Parameters
    ----------
    database
        Where documents and artifacts are.
    parameters
        Choices of the selection.
    key
        Content key of the round.
    """

    database: Database
    parameters: SamplingParameters
    key: str

    def run(
        self, encoded: Sequence[dict[str, Any]], covered: Sequence[dict[str, Any]], previous: Sequence[str]
    ) -> dict[str, Any]:
        """Choose, write ``frames`` and the ``samples`` document, and return what people read of it.

        Parameters
        ----------
        encoded, covered
            Outputs of the encoding jobs.
        previous
            sample_id of earlier rounds, the last one with the state to extend.
        """
        started = time.monotonic()
        documents = self._shards([s for e in encoded for s in e["shards"]])
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(document.counts)
        shards = self._features(documents)
        before = self._state(previous)
        selection = self._select(shards, covered, before) if shards is not None else None
        found = (shards, selection) if shards is not None and selection is not None else None
        chosen = self._write_frames(*found, documents) if found else ([], None, 0)
        funnel = dict(counts) | {
            "covered_before": int(selection.coverage["covered_before"]) if selection else 0,
            "structure_clusters": int(selection.coverage["structure_clusters"]) if selection else 0,
            "atom_clusters": int(selection.coverage["atom_clusters"]) if selection else 0,
            "selected": len(chosen[0]),
        }
        about = documents[0] if documents else None
        sample = SampleDocument(
            key=self.key,
            sample_id=f"sample-{self.key}",
            encoder=self.parameters.encoder,
            encoder_sha256=about.encoder_sha256 if about else "",
            layer=about.layer if about else "",
            space_key=space_key(about.encoder_sha256, self.parameters) if about else "",
            offer_key=offer_key(self.parameters),
            parameters=selection.parameters if selection else self.parameters.model_dump(mode="json"),
            trajectory_ids=sorted({p.source for d in documents for p in d.pieces}),
            shards=[d.shard_id for d in documents],
            previous=list(previous),
            covered=[self._covered_source(c) for c in covered],
            funnel=funnel,
            new_frames=chosen[2],
            coverage=selection.coverage if selection else {},
            comparison=self._compare(*found) if found else {},
            frames=chosen[1],
            state=self._store_state(selection) if selection else None,
            picture=self._store_picture(selection) if selection else None,
            seconds=time.monotonic() - started,
        )
        self.database.upsert("samples", [sample])
        return sample.model_dump(
            mode="json",
            include={"sample_id", "key", "funnel", "coverage", "comparison", "parameters", "new_frames", "picture"},
        )

    def _shards(self, ids: Sequence[str]) -> list[FeatureDocument]:
        return [FeatureDocument(**d) for d in self.database.find_by_ids("features", ids)]

    def _features(self, documents: Iterable[FeatureDocument]) -> FeatureShards | None:
        from aqvolt_flows.sampling.features.shards import FeatureShards

        references = [d.artifact for d in documents if d.artifact is not None]
        return FeatureShards.of(self.database.artifacts, references) if references else None

    def _state(self, previous: Sequence[str]) -> SampledSpace | None:
        """Return the state of the last earlier round that has one."""
        from aqvolt_flows.sampling.direct.state import SampledSpace

        for document in reversed(self.database.find_by_ids("samples", previous)):
            if document["state"]:
                return SampledSpace.load(self.database.artifacts.local_path(ArtifactRef(**document["state"])))
        return None

    def _covered_source(self, output: dict[str, Any]) -> CoveredSource:
        n_frames = sum(d.n_frames for d in self._shards(output["shards"]))
        return CoveredSource(
            source=output["source"], fingerprint=output["fingerprint"], n_frames=n_frames, shards=output["shards"]
        )

    def _select(
        self, shards: FeatureShards, covered: Sequence[dict[str, Any]], before: SampledSpace | None
    ) -> Selection:
        method = two_stage(self.parameters, self.database.settings.resolve_device())
        sets = self._features([d for c in covered for d in self._shards(c["shards"])])
        there = sets.structures() if sets is not None else None
        arguments = (shards.structures(), shards.atoms(), shards.n_atoms)
        if before is not None:
            return method.extend(before, *arguments, covered=there)
        return method.select(*arguments, covered=there)

    def _compare(self, shards: FeatureShards, selection: Selection) -> dict[str, dict[str, float]]:
        """Return how well the chosen, as many random frames, and earlier rounds alone cover this round's frames."""
        from aqvolt_flows.sampling.direct.coverage import coverage
        from aqvolt_flows.sampling.direct.state import SampledSpace

        if not len(selection.indices):
            return {}
        state, n = selection.state, len(shards)
        earlier = state.chosen[: len(state.chosen) - len(selection.indices)]
        drawn = np.sort(np.random.default_rng(self.parameters.seed).choice(n, len(selection.indices), replace=False))
        random = state.space.project(rows_at(shards.structures(), drawn))
        sets = {
            "chosen": state.chosen,
            "random": np.concatenate([earlier, random]),
        } | ({"before": earlier} if len(earlier) else {})
        found = {}
        for name, points in sets.items():
            there = replace(SampledSpace.empty(state.space, state.threshold), chosen=points.astype(np.float32))
            result = asdict(coverage(shards.structures(), there, state.space, state.threshold))
            found[name] = {k: float(v) for k, v in result.items() if k != "threshold"}
        return found

    def _store_state(self, selection: Selection) -> ArtifactRef:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.npz"
            selection.state.save(path)
            return self.database.artifacts.put_file(path, "npz")

    def _store_picture(self, selection: Selection) -> ArtifactRef:
        from aqvolt_flows.sampling.direct.coverage import picture

        bins = int(np.clip(1.2 * np.sqrt(len(selection.components)), 16, 256))
        drawn = picture(selection.components, selection.indices, bins=bins)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.npz"
            arrays: dict[str, Any] = {k: np.asarray(v) for k, v in vars(drawn).items()}
            np.savez_compressed(path, **arrays)
            return self.database.artifacts.put_file(path, "npz")

    def _write_frames(
        self, shards: FeatureShards, selection: Selection, documents: Sequence[FeatureDocument]
    ) -> tuple[list[str], ArtifactRef | None, int]:
        """Copy the chosen frames into one Parquet file and write their documents.

        Returns identities, the file, and how many are new. A frame that another round chose keeps its document, which
        then belongs to the campaigns of both.
        """
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
        identity = content_key("frame/1", trajectory_id=name, step=step)
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


def rows_at(blocks: Iterable[NDArray[np.float32]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return some rows (sorted numbers) of a set that is read in blocks."""
    found, first = [], 0
    for block in blocks:
        here = rows[(rows >= first) & (rows < first + len(block))] - first
        found.append(block[here])
        first += len(block)
    return np.concatenate(found)


def frames_at(path: Path, rows: NDArray[np.int64]) -> Iterator[Frame]:
    """Yield the frames at some rows (sorted) of a trajectory's file, reading only the row groups that hold them."""
    if not len(rows):
        return
    for numbers, batch in read_batches(path, SCHEMA.names, int(rows[0]), int(rows[-1]) + 1):
        here = np.flatnonzero(np.isin(numbers, rows))
        if len(here):
            yield from from_table(batch.take(pa.array(here)))
