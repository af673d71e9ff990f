"""Makers of the sampling stage: encode groups of trajectories, encode what is covered, choose over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Maker

from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.sampling.features.documents import ShardDocuments
from aqvolt_flows.sampling.features.encode import Source
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database


@dataclass
class EncodeMaker(Maker):
    """Encode the frames of a group of trajectories in one Firework.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        Of the campaign; a dict of their values is read.
    """

    name: str = "encode"
    parameters: SamplingParameters = field(default_factory=SamplingParameters)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, SamplingParameters)

    @campaign_job()
    def make(self, database: Database, trajectory_ids: list[str]) -> dict[str, Any]:
        """Write feature shards and their ``features`` documents; return identities and counts.

        A shard that is there already, made by this run or by a killed one, is not made again.

        Parameters
        ----------
        trajectory_ids
            Which trajectories; those without a frame are passed over.
        """
        sources = [
            Source(
                d["trajectory_id"],
                ArtifactRef(**d["frames"]),
                d["n_frames"],
                d["n_atoms"],
                first_row=self.parameters.first_row(d.get("n_equilibration_frames", 0)),
            )
            for d in database.find_by_ids("trajectories", trajectory_ids)
            if d["frames"] and d["n_frames"]
        ]
        shards = ShardDocuments(database, self.parameters)
        return shards.report([shards.of_trajectories(pieces) for pieces in shards.plan(sources)])


@dataclass
class CoverMaker(Maker):
    """Encode a set of configurations that counts as covered, such as an imported dataset.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        Of the campaign; a dict of their values is read.
    """

    name: str = "encode covered"
    parameters: SamplingParameters = field(default_factory=SamplingParameters)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, SamplingParameters)

    @campaign_job()
    def make(
        self, database: Database, source: str, files: list[dict[str, Any]], fingerprint: str = ""
    ) -> dict[str, Any]:
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
        from aqvolt_flows.sampling.features.covered import label_files

        described = label_files(database, source) if source.startswith("labels:") else files
        shards = ShardDocuments(database, self.parameters)
        made = shards.of_set(source, described)
        return {"source": source, "fingerprint": fingerprint} | shards.report(made)


@dataclass
class ChooseMaker(Maker):
    """Choose frames over all encoded ones by 2DIRECT.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        Of the campaign; a dict of their values is read.
    """

    name: str = "2DIRECT"
    parameters: SamplingParameters = field(default_factory=SamplingParameters)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, SamplingParameters)

    @campaign_job()
    def make(
        self,
        database: Database,
        encoded: list[dict[str, Any]],
        key: str,
        covered: list[dict[str, Any]] | None = None,
        previous: list[str] | None = None,
        shape: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
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
            sample_id of the rounds whose frames it chooses jointly with its own.
        shape
            Outputs of :class:`CoverMaker` for sets that only shape the space.
        """
        from aqvolt_flows.sampling.rounds import Round

        return Round(database, self.parameters, key).run(encoded, covered or [], previous or [], shape or [])


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
        return cls(
            encode_maker=EncodeMaker(parameters=parameters),
            choose_maker=ChooseMaker(parameters=parameters),
            trajectories_per_job=parameters.trajectories_per_job,
            cover_maker=CoverMaker(parameters=parameters),
        )

    def make(
        self,
        trajectory_ids: Sequence[str],
        key: str,
        covered: Sequence[dict[str, Any]] = (),
        previous: Sequence[str] = (),
        shape: Sequence[dict[str, Any]] = (),
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
            sample_id of earlier rounds, whose frames this one chooses jointly with its own.
        shape
            Sets that only shape the space, like ``covered``.
        """
        ids, size = sorted(trajectory_ids), self.trajectories_per_job
        encode = [self.encode_maker.make(ids[i : i + size]) for i in range(0, len(ids), size)]
        cover, around = (
            [self.cover_maker.make(c["source"], list(c["files"]), c["fingerprint"]) for c in sets]
            for sets in (covered, shape)
        )
        more = {"shape": [c.output for c in around]} if around else {}
        choose = self.choose_maker.make(
            [e.output for e in encode], key, covered=[c.output for c in cover], previous=list(previous), **more
        )
        return Flow([*encode, *cover, *around, choose], output=choose.output, name=self.name)
