"""Makers of the sampling stage: encode groups of trajectories, encode what is covered, choose over all of them."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, Maker, job

from aqvolt_flows.sampling.encode import (
    Encoded,
    Source,
    encode_configurations,
    encode_trajectories,
    shard_key,
    shard_pieces,
)
from aqvolt_flows.schemas.feature import FeatureDocument, Piece
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database

if TYPE_CHECKING:
    from aqvolt_flows.sampling.encoders import Encoder


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
        """Write feature shards and their ``features`` documents; return identities and counts.

        A shard that stands already, of this run or of a killed one, is not made again.

        Parameters
        ----------
        trajectory_ids
            Which trajectories; those without a frame are passed over.
        """
        parameters = SamplingParameters(**self.parameters)
        database = Database.connect()
        sources = [
            Source(d["trajectory_id"], ArtifactRef(**d["frames"]), d["n_frames"], d["n_atoms"])
            for d in database.find_by_ids("trajectories", trajectory_ids)
            if d["frames"] and d["n_frames"]
        ]
        shards = Shards(database, parameters)
        return shards.report([shards.of_trajectories(pieces) for pieces in shards.plan(sources)])


@dataclass
class CoverMaker(Maker):
    """Encode a set of configurations that counts as covered, such as an imported dataset.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        ``SamplingParameters`` as plain values.
    """

    name: str = "encode covered"
    parameters: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, source: str, files: list[dict[str, Any]], fingerprint: str = "") -> Job:
        """Write feature shards of a set; return identities and counts.

        Parameters
        ----------
        source
            What the set is called: ``labels:SOURCE`` reads the valid labels of that source; anything else is only a
            name.
        files
            Pointers to Parquet files with ``atomic_numbers``, ``positions`` and ``cell``, and their ``n_rows`` and
            ``n_atoms`` (of a row, on average); empty for labels.
        fingerprint
            Hash of what the set held when this was planned.
        """
        from aqvolt_flows.sampling.covered import label_files

        parameters = SamplingParameters(**self.parameters)
        database = Database.connect()
        described = label_files(database, source) if source.startswith("labels:") else files
        sources = [Source(source, ArtifactRef(**f["artifact"]), int(f["n_rows"]), int(f["n_atoms"])) for f in described]
        shards = Shards(database, parameters.model_copy(update={"encode_stride": 1}))
        made = [shards.of_configurations(piece) for pieces in shards.plan(sources) for piece in pieces]
        return {"source": source, "fingerprint": fingerprint} | shards.report(made)


class Shards:
    """Makes the shards that are missing, and finds those that are there.

    Parameters
    ----------
    database
        Where documents and artifacts are.
    parameters
        Encoder, stride, filters, sizes.
    """

    def __init__(self, database: Database, parameters: SamplingParameters) -> None:
        from aqvolt_flows.sampling.encoders import load_encoder

        self._database, self._parameters = database, parameters
        self._encoder: Encoder = load_encoder(parameters.encoder, database.settings.resolve_device())

    def plan(self, sources: Sequence[Source]) -> list[list[Piece]]:
        """Return the pieces of each shard."""
        return shard_pieces(sources, self._parameters.encode_stride, self._parameters.shard_atoms)

    def of_trajectories(self, pieces: list[Piece]) -> FeatureDocument:
        """Return the shard of pieces of trajectories, made now unless it is there."""
        return self._make(pieces, lambda paths: encode_trajectories(pieces, paths, self._encoder, self._parameters))

    def of_configurations(self, piece: Piece) -> FeatureDocument:
        """Return the shard of rows of a covered set, made now unless it is there."""
        return self._make(
            [piece], lambda paths: encode_configurations(piece, paths[0], self._encoder, self._parameters)
        )

    def _make(self, pieces: list[Piece], encode: Any) -> FeatureDocument:
        from aqvolt_flows.sampling.features import write_shard

        database, encoder = self._database, self._encoder
        key = shard_key(pieces, encoder.sha256, encoder.layer, self._parameters)
        stored = database["features"].find_one({"shard_id": f"shard-{key}"}, {"_id": 0})
        if stored is not None:
            document = FeatureDocument(**stored)
            if document.artifact is None or database.artifacts.exists(document.artifact):
                return document
        started = time.monotonic()
        encoded: Encoded = encode([database.artifacts.local_path(p.file) for p in pieces])
        reference = None
        if encoded.frames is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "features.arrow"
                write_shard(path, encoded.frames, encoder)
                reference = database.artifacts.put_file(path, "arrow")
        n_atoms = encoded.frames.features.n_atoms.tolist() if encoded.frames is not None else []
        document = FeatureDocument(
            key=key,
            shard_id=f"shard-{key}",
            encoder=encoder.name,
            encoder_sha256=encoder.sha256,
            layer=encoder.layer,
            pieces=pieces,
            stride=self._parameters.encode_stride,
            counts=encoded.counts,
            artifact=reference,
            n_frames=len(n_atoms),
            n_atoms=sum(n_atoms),
            d_structure=encoder.d_structure,
            d_atom=encoder.d_atom,
            seconds=time.monotonic() - started,
        )
        database.upsert("features", [document])
        return document

    def report(self, documents: Sequence[FeatureDocument]) -> dict[str, Any]:
        """Return identities and summed counts, as a job's output."""
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(document.counts)
        return {
            "shards": [d.shard_id for d in documents],
            "encoder": self._encoder.name,
            "encoder_sha256": self._encoder.sha256,
            "layer": self._encoder.layer,
            **dict(counts),
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
    def make(
        self,
        encoded: list[dict[str, Any]],
        key: str,
        covered: list[dict[str, Any]] | None = None,
        previous: list[str] | None = None,
    ) -> Job:
        """Write ``frames`` and the round's ``samples`` document; return the funnel, the coverage and the picture.

        Parameters
        ----------
        encoded
            Outputs of :class:`EncodeMaker`.
        key
            Content key of this round.
        covered
            Outputs of :class:`CoverMaker`.
        previous
            sample_id of the rounds that this one extends.
        """
        from aqvolt_flows.sampling.rounds import Round

        round_ = Round(Database.connect(), SamplingParameters(**self.parameters), key)
        return round_.run(encoded, covered or [], previous or [])


@dataclass
class TwoStageSampleMaker(Maker):
    """Encode and choose: one Firework per group of trajectories, one for the choice.

    Parameters
    ----------
    name
        Name of the flow.
    encode_maker, cover_maker, choose_maker
        The kinds of jobs; parameters are set by ``from_parameters``.
    trajectories_per_job
        Size of a group.
    """

    name: str = "sample"
    encode_maker: EncodeMaker = field(default_factory=EncodeMaker)
    choose_maker: ChooseMaker = field(default_factory=ChooseMaker)
    trajectories_per_job: int = 64
    cover_maker: CoverMaker = field(default_factory=CoverMaker)

    @classmethod
    def from_parameters(cls, parameters: SamplingParameters) -> TwoStageSampleMaker:
        """Return the maker of a campaign's sampling parameters."""
        plain = parameters.model_dump(mode="json")
        return cls(
            encode_maker=EncodeMaker(parameters=plain),
            choose_maker=ChooseMaker(parameters=plain),
            trajectories_per_job=parameters.trajectories_per_job,
            cover_maker=CoverMaker(parameters=plain),
        )

    def make(
        self,
        trajectory_ids: Sequence[str],
        key: str,
        covered: Sequence[dict[str, Any]] = (),
        previous: Sequence[str] = (),
    ) -> Flow:
        """Return the flow.

        Parameters
        ----------
        trajectory_ids
            What to choose from.
        key
            Content key of the round.
        covered
            Sets that count as covered: ``source``, ``files``, ``fingerprint``, as :meth:`CoverMaker.make` takes them.
        previous
            sample_id of earlier rounds, whose state this one extends.
        """
        ids, size = sorted(trajectory_ids), self.trajectories_per_job
        encode = [self.encode_maker.make(ids[i : i + size]) for i in range(0, len(ids), size)]
        cover = [self.cover_maker.make(c["source"], list(c["files"]), c["fingerprint"]) for c in covered]
        choose = self.choose_maker.make(
            [e.output for e in encode], key, covered=[c.output for c in cover], previous=list(previous)
        )
        return Flow([*encode, *cover, choose], output=choose.output, name=self.name)
