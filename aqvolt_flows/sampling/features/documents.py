"""Find existing feature shards and create the missing ones."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.sampling.features.encode import (
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

if TYPE_CHECKING:
    from aqvolt_flows.sampling.encoders.base import Encoder
    from aqvolt_flows.stores import Database


class ShardDocuments:
    """Finds existing shards and creates the missing ones.

    Parameters
    ----------
    database
        Where documents and artifacts are.
    parameters
        Encoder, stride, filters, sizes.
    """

    def __init__(self, database: Database, parameters: SamplingParameters) -> None:
        from aqvolt_flows.sampling.encoders.registry import load_encoder

        self._database, self._parameters = database, parameters
        self._encoder: Encoder = load_encoder(parameters.encoder, database.settings.resolve_device())

    def plan(self, sources: Sequence[Source]) -> list[list[Piece]]:
        """Return the pieces of each shard."""
        return shard_pieces(sources, self._parameters.encode_stride, self._parameters.shard_atoms)

    def of_trajectories(self, pieces: list[Piece]) -> FeatureDocument:
        """Return the shard of pieces of trajectories, made now unless it is there."""
        return self._make(pieces, lambda paths: encode_trajectories(pieces, paths, self._encoder, self._parameters))

    def of_set(self, name: str, files: Sequence[dict[str, Any]]) -> list[FeatureDocument]:
        """Return the shards of a set of configurations, those made that are missing; nothing is thinned or filtered.

        Parameters
        ----------
        name
            What the set is called.
        files
            ``artifact``, ``n_rows`` and ``n_atoms`` of each, as
            :func:`~aqvolt_flows.sampling.features.covered.describe_file`.
        """
        plain = SamplingParameters(encoder=self._parameters.encoder)
        sources = [Source(name, ArtifactRef(**f["artifact"]), int(f["n_rows"]), int(f["n_atoms"])) for f in files]
        pieces = [p for shard in shard_pieces(sources, 1, self._parameters.shard_atoms) for p in shard]
        made = []
        for piece in pieces:
            encode = partial(self._encode_configurations, piece)
            made.append(self._make([piece], encode, plain))
        return made

    def _encode_configurations(self, piece: Piece, paths: list[Path]) -> Encoded:
        return encode_configurations(piece, paths[0], self._encoder, self._parameters.max_batch_atoms)

    def _make(
        self, pieces: list[Piece], encode: Callable[[list[Path]], Encoded], parameters: SamplingParameters | None = None
    ) -> FeatureDocument:
        from aqvolt_flows.sampling.features.shards import write_shard

        database, encoder = self._database, self._encoder
        parameters = parameters or self._parameters
        key = shard_key(pieces, encoder.sha256, encoder.layer, parameters)
        stored = database["features"].find_one({"shard_id": f"shard-{key}"}, {"_id": 0})
        if stored is not None:
            document = FeatureDocument(**stored)
            if document.artifact is None or database.artifacts.exists(document.artifact):
                database.adopt("features", [document.shard_id])
                return document
        started = time.monotonic()
        encoded = encode([database.artifacts.local_path(p.file) for p in pieces])
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
            stride=parameters.encode_stride,
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
