"""Makers of the sampling stage: encode groups of trajectories, then choose over all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Flow, Job, Maker, job

from aqvolt_flows.frames import Frame, read_frames, write_frames
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.frame import FrameDocument
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct import Selection
    from aqvolt_flows.sampling.features import EncodedFrames


@dataclass
class EncodeMaker(Maker):
    """Encode the frames of a group of trajectories in one Firework.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        ``SamplingParameters`` as plain values.
    """

    name: str = "encode"
    parameters: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, trajectory_ids: list[str]) -> Job:
        """Write a feature file to the artifact store and return its pointer and counts.

        Parameters
        ----------
        trajectory_ids
            Which trajectories; frames with overlapping atoms are counted and left out.
        """
        from aqvolt_flows.sampling.encoders import Features, load_encoder
        from aqvolt_flows.sampling.features import EncodedFrames, write_features
        from aqvolt_flows.sampling.screen import overlaps

        parameters = SamplingParameters(**self.parameters)
        database = Database.connect()
        encoder = load_encoder(parameters.encoder, database.settings.resolve_device())
        ids, rows, parts = [], [], []
        generated = 0
        for document in database.find_by_ids("trajectories", trajectory_ids):
            if not document["frames"]:
                continue
            kept = []
            for row, frame in enumerate(read_frames(database.artifacts.local_path(ArtifactRef(**document["frames"])))):
                generated += 1
                atoms = frame.to_atoms()
                if not overlaps(atoms, parameters.min_distance_factor):
                    kept.append(atoms)
                    ids.append(document["trajectory_id"])
                    rows.append(row)
            if kept:
                parts.append(encoder.encode(kept))
        features = (
            Features(
                *(np.concatenate([getattr(p, name) for p in parts]) for name in ("structures", "atoms", "n_atoms"))
            )
            if parts
            else None
        )
        reference = None
        if features is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "features.parquet"
                write_features(path, EncodedFrames(ids, np.array(rows), features))
                reference = database.artifacts.put_file(path, "parquet").model_dump()
        return {
            "features": reference,
            "encoder": encoder.name,
            "encoder_sha256": encoder.sha256,
            "generated": generated,
            "overlapping": generated - len(ids),
            "encoded": len(ids),
        }


@dataclass
class ChooseMaker(Maker):
    """Choose frames over all encoded ones by 2DIRECT.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        ``SamplingParameters`` as plain values.
    """

    name: str = "2DIRECT"
    parameters: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, encoded: list[dict[str, Any]], key: str) -> Job:
        """Write ``frames`` and return the funnel, the coverage and the picture's data.

        Parameters
        ----------
        encoded
            Outputs of :class:`EncodeMaker`.
        key
            Content key of this round.
        """
        from aqvolt_flows.sampling.direct import TwoStageDirect
        from aqvolt_flows.sampling.features import read_features

        p = SamplingParameters(**self.parameters)
        database = Database.connect()
        shards = [ArtifactRef(**e["features"]) for e in encoded if e["features"]]
        frames = read_features([database.artifacts.local_path(s) for s in shards])
        method = TwoStageDirect(p.structure_threshold, p.atom_threshold, p.k, p.weight_components, p.seed)
        features = frames.features
        selection = method.select(features.structures, features.atoms, features.n_atoms)
        documents = frame_documents(database, frames, selection, key)
        new = database.upsert("frames", documents)
        funnel = {name: sum(e[name] for e in encoded) for name in ("generated", "overlapping", "encoded")}
        return {
            "key": key,
            "funnel": funnel
            | {
                "structure_clusters": int(selection.coverage["structure_clusters"]),
                "atom_clusters": int(selection.coverage["atom_clusters"]),
                "selected": len(selection.indices),
            },
            "new": new,
            "coverage": selection.coverage,
            "parameters": selection.parameters,
            "map": _picture(database, selection).model_dump(),
        }


def frame_documents(database: Database, encoded: EncodedFrames, selection: Selection, key: str) -> list[FrameDocument]:
    """Copy the chosen frames into one Parquet file of the artifact store and return their documents."""
    chosen = [(encoded.trajectory_ids[i], int(encoded.rows[i]), int(i)) for i in selection.indices]
    trajectories = {t["trajectory_id"]: t for t in database.find_by_ids("trajectories", sorted({c[0] for c in chosen}))}
    frames: list[Frame] = []
    for trajectory_id, document in sorted(trajectories.items()):
        wanted = {row for t, row, _ in chosen if t == trajectory_id}
        path = database.artifacts.local_path(ArtifactRef(**document["frames"]))
        found = {row: frame for row, frame in enumerate(read_frames(path)) if row in wanted}
        frames += [found[row] for row in sorted(wanted)]
    ordered = sorted(chosen)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.parquet"
        write_frames(path, frames)
        artifact = database.artifacts.put_file(path, "parquet")
    return [
        _frame_document(trajectories[t], frame, artifact, row, selection, index, key)
        for row, ((t, _, index), frame) in enumerate(zip(ordered, frames, strict=True))
    ]


def _frame_document(
    trajectory: dict[str, Any],
    frame: Frame,
    artifact: ArtifactRef,
    row: int,
    selection: Selection,
    index: int,
    key: str,
) -> FrameDocument:
    identity = content_key("frame/1", trajectory_id=frame.trajectory_id, step=frame.step)
    return FrameDocument(
        frame_id=f"frame-{identity}",
        key=identity,
        trajectory_id=frame.trajectory_id,
        candidate_id=trajectory["candidate_id"],
        sample_key=key,
        step=frame.step,
        formula=trajectory["formula"],
        chemsys=trajectory["chemsys"],
        elements=trajectory["elements"],
        n_atoms=trajectory["n_atoms"],
        temperature_k=trajectory["temperature_k"],
        artifact=artifact,
        row=row,
        surrogate_energy=frame.energy,
        surrogate_max_force=frame.max_force,
        structure_cluster=int(selection.structure_clusters[index]),
        structure_distance=float(selection.structure_distances[index]),
        atom_clusters=selection.atom_clusters[index],
    )


def _picture(database: Database, selection: Selection) -> ArtifactRef:
    """Store what the coverage picture needs: two components of every frame, and which were chosen."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = np.zeros(len(selection.components), bool)
    chosen[selection.indices] = True
    table = pa.table({"x": selection.components[:, 0], "y": selection.components[:, 1], "chosen": chosen})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.parquet"
        pq.write_table(table, path, compression="zstd")
        return database.artifacts.put_file(path, "parquet")


@dataclass
class TwoStageSampleMaker(Maker):
    """Encode and choose: one Firework per group of trajectories, one for the choice.

    Parameters
    ----------
    name
        Name of the flow.
    encode_maker, choose_maker
        The two kinds of jobs; parameters are set by ``parameters`` unless given.
    trajectories_per_job
        Size of a group.
    """

    name: str = "sample"
    encode_maker: EncodeMaker = field(default_factory=EncodeMaker)
    choose_maker: ChooseMaker = field(default_factory=ChooseMaker)
    trajectories_per_job: int = 64

    @classmethod
    def from_parameters(cls, parameters: SamplingParameters) -> TwoStageSampleMaker:
        """Return the maker of a campaign's sampling parameters."""
        plain = parameters.model_dump(mode="json")
        return cls(
            encode_maker=EncodeMaker(parameters=plain),
            choose_maker=ChooseMaker(parameters=plain),
            trajectories_per_job=parameters.trajectories_per_job,
        )

    def make(self, trajectory_ids: Sequence[str], key: str) -> Flow:
        """Return the flow.

        Parameters
        ----------
        trajectory_ids
            What to choose from.
        key
            Content key of the round.
        """
        ids, size = sorted(trajectory_ids), self.trajectories_per_job
        encode = [self.encode_maker.make(ids[i : i + size]) for i in range(0, len(ids), size)]
        choose = self.choose_maker.make([e.output for e in encode], key)
        return Flow([*encode, choose], output=choose.output, name=self.name)
