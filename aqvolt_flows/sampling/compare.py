"""How well one set of configurations covers another, in the space of the newest round of sampling."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.features.covered import find_sets, label_files, store_files
from aqvolt_flows.sampling.rounds import space_key
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef

if TYPE_CHECKING:
    from aqvolt_flows.sampling.features.shards import FeatureShards
    from aqvolt_flows.stores import Database

#: Names of sets that need no file: frames that rounds encoded, and what they chose.
ENCODED, CHOSEN = "encoded", "chosen"


def compare_sets(database: Database, parameters: SamplingParameters, covered: str, by: str) -> dict[str, Any]:
    """Return how well the set ``by`` covers the set ``covered``.

    Parameters
    ----------
    database
        Rounds, features, labels, releases.
    parameters
        The campaign's; encoder and choices name the space.
    covered, by
        ``encoded`` (frames of all rounds of the space), ``chosen`` (of them, and of sets declared covered), or what
        :func:`~aqvolt_flows.sampling.features.covered.find_sets` knows. Files, labels and releases are encoded
        here, once.

    Returns
    -------
    dict
        Names, sizes, share within the structural threshold, and mean, 99th percentile and largest distance to the
        nearest member of ``by``, in weighted principal components.

    Raises
    ------
    InputError
        If there is no round yet, or no such set.
    """
    from aqvolt_flows.sampling.direct.coverage import coverage
    from aqvolt_flows.sampling.direct.state import SampledSpace
    from aqvolt_flows.sampling.encoders.registry import encoder_hash

    if covered == CHOSEN:
        raise InputError("The set 'chosen' is kept as places only; it can cover other sets, give it as the second.")
    query = {"space_key": space_key(encoder_hash(parameters.encoder), parameters), "state": {"$ne": None}}
    rounds = sorted(database.own("samples").find(query, {"_id": 0}), key=lambda r: len(r["previous"]))
    if not rounds:
        raise InputError("No round of sampling has these parameters yet; run 'aqvolt submit sample' and 'aqvolt work'.")
    state = SampledSpace.load(database.artifacts.local_path(ArtifactRef(**rounds[-1]["state"])))
    shards = [s for r in rounds for s in r["shards"]]
    reference: Any
    if by == CHOSEN:
        reference = replace(SampledSpace.empty(state.space, state.threshold), chosen=state.chosen)
    else:
        reference = _features(database, parameters, by, shards).structures()
    rows: Iterable[Any] = _features(database, parameters, covered, shards).structures()
    found = asdict(coverage(rows, reference, state.space, state.threshold))
    return {"covered": covered, "by": by, "encoder": parameters.encoder, **found}


def _features(database: Database, parameters: SamplingParameters, name: str, shards: list[str]) -> FeatureShards:
    """Return the features of a set, encoding what is not encoded yet."""
    from aqvolt_flows.sampling.features.documents import ShardDocuments
    from aqvolt_flows.sampling.features.shards import FeatureShards
    from aqvolt_flows.schemas.feature import FeatureDocument

    if name == ENCODED:
        documents = [FeatureDocument(**d) for d in database.find_by_ids("features", list(dict.fromkeys(shards)))]
    else:
        sets, problems = find_sets(database, [name])
        if problems:
            raise InputError(
                f"There is no set {name!r}; give {ENCODED}, {CHOSEN}, labels:SOURCE, release:NAME or a file."
            )
        files = store_files(database, sets[0].paths) if sets[0].paths else label_files(database, name)
        documents = ShardDocuments(database, parameters).of_set(name, files)
    return FeatureShards.of(database.artifacts, [d.artifact for d in documents if d.artifact is not None])
