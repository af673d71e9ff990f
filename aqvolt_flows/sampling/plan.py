"""Plan sampling: find new trajectories, earlier rounds, and the sets that count as covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aqvolt_flows.identity import content_key
from aqvolt_flows.sampling.earlier import give_back
from aqvolt_flows.sampling.encoders.registry import encoder_hash, path_schemes
from aqvolt_flows.sampling.features.covered import CoveredSet, find_sets, store_files
from aqvolt_flows.sampling.jobs import TwoStageSampleMaker
from aqvolt_flows.sampling.rounds import LATER, offer_key, space_key
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem

#: Fields that decide how the work is cut, not what is chosen; the encoder is there by its hash.
_WAYS = {"trajectories_per_job", "max_batch_atoms", "engine", "encoder"}


def plan_rounds(
    parameters: SamplingParameters,
    database: Database,
    finished: Mapping[str, Mapping[str, Any]],
    missing: Sequence[str] = (),
    claimed: frozenset[str] = frozenset(),
) -> Plan:
    """Return the next round of sampling over finished trajectories: what earlier rounds did not see.

    Parameters
    ----------
    parameters
        Of the campaign.
    database
        Where earlier rounds are.
    finished
        ``trajectories`` documents by identity.
    missing
        Why sampling cannot run yet, one sentence each.
    claimed
        Units of queued work. A round that is queued must run before one that adds trajectories to it: the next
        one builds on what it chose.
    """
    p = with_local_encoder(parameters, database)
    encoder = encoder_hash(p.encoder)
    ids = sorted(t for t, d in finished.items() if d["n_frames"])
    space, offered = space_key(encoder, p), offer_key(p)
    rounds = _rounds(database, space)
    sampled = {t for r in rounds if r["offer_key"] == offered for t in r["trajectory_ids"]}
    new = [t for t in ids if t not in sampled]
    units = [content_key("sample-unit/1", space=space, offer=offered, trajectory=t) for t in new]
    queued = sum(unit in claimed for unit in units)
    sources, problems = find_sets(database, p.covered_by)
    shape, lacking = find_sets(database, p.space_from)
    problems += [problem.replace("count as covered", "shape the space") for problem in lacking]
    if 0 < queued < len(new):
        problems.append(f"a round over {queued} trajectories is queued, run 'aqvolt work'; the next builds on it")
    deciding = p.model_dump(mode="json", exclude=_WAYS | {"space_from"})
    deciding = {name: value for name, value in deciding.items() if LATER.get(name, ...) != value}
    covered = {s.name: s.fingerprint for s in sources}
    about: dict[str, Any] = {"trajectories": ids, "parameters": deciding, "encoder": encoder, "covered": covered}
    if shape:
        about["shape"] = {s.name: s.fingerprint for s in shape}
    key = content_key("sample/2", **about)
    earlier = [r["sample_id"] for r in rounds]
    own = any(r["key"] == key for r in rounds)
    shared = not own and _is_same_round(database, key, earlier)
    if not own and not shared and not queued and _is_ambiguous(database, key, earlier):
        key = content_key("sample/3", **about, previous=earlier, campaign=database.campaign)
    done = shared or any(r["key"] == key for r in rounds)
    known = {(c["source"], c["fingerprint"]) for r in rounds for c in r["covered"]}
    unknown = [s for s in sources if (s.name, s.fingerprint) not in known]
    make = partial(_make, p, database, new, key, unknown, rounds, shape)
    item = WorkItem(
        "sample", key, f"2DIRECT over {len(new)} trajectories", make, category="gpu", done=done, units=tuple(units)
    )
    facts: dict[str, Any] = {
        "trajectories": len(ids),
        "frames": sum(d["n_frames"] for d in finished.values()),
        "already_sampled": len(ids) - len(new),
        "new_trajectories": len(new),
        "queued": queued,
        "frames_to_encode": sum(_rows_offered(finished[t], p) for t in new),
        "earlier_rounds": len(rounds),
        "covered_sets": len(sources),
        "sets_that_shape_the_space": len(shape),
        "encoder": f"{p.encoder}@{encoder[:12]}",
    }
    adopt = partial(_adopt, database, key) if shared else None
    waits = bool(rounds) and queued == len(new) > 0 and not database.is_alone()  # the next round is in the queue
    items = [item] if ids and (new or done) and not waits else []
    return Plan("sample", items, [*missing, *problems], facts, adopt)


def _rows_offered(trajectory: Mapping[str, Any], p: SamplingParameters) -> int:
    """Return how many frames of a run are encoded: every n-th, without its equilibration unless asked for."""
    left = trajectory["n_frames"] - p.first_row(trajectory.get("n_equilibration_frames", 0))
    return -(-int(left) // int(p.encode_stride))


def with_local_encoder(p: SamplingParameters, database: Database) -> SamplingParameters:
    """Return the parameters with the encoder's path relative to the project folder made absolute, if it is there."""
    for family in path_schemes():
        if p.encoder.startswith(family):
            given = p.encoder.removeprefix(family)
            folder, mark, layers = given.rpartition("#")
            for path, rest in ((given, ""), (folder, f"{mark}{layers}")):
                if path and (absolute := database.settings.path(path)).exists():
                    return p.model_copy(update={"encoder": f"{family}{absolute}{rest}"})
    return p


def _rounds(database: Database, space: str) -> list[dict[str, Any]]:
    """Return the rounds of a space, the first one first: a round knows all that came before it."""
    fields = {"_id": 0, "sample_id": 1, "key": 1, "offer_key": 1, "trajectory_ids": 1, "previous": 1, "covered": 1}
    found = list(database.own("samples").find({"space_key": space}, fields))
    return sorted(found, key=lambda r: (len(r["previous"]), r["sample_id"]))


def _is_ambiguous(database: Database, key: str, earlier: Sequence[str]) -> bool:
    """Whether a key that names only what is offered may mean another campaign's choice, made after other rounds."""
    if database.is_alone():
        return False
    return bool(earlier) or database["samples"].find_one({"key": key}, {"_id": 1}) is not None


def _is_same_round(database: Database, key: str, earlier: Sequence[str]) -> bool:
    """Whether another campaign has made this round, after the same earlier rounds and with all its frames its own."""
    if database.is_alone():
        return False
    fields = {"_id": 0, "previous": 1, "new_frames": 1, "funnel.selected": 1}
    found = database["samples"].find_one({"key": key}, fields)
    return found is not None and found["previous"] == earlier and found["new_frames"] == found["funnel"]["selected"]


def _adopt(database: Database, key: str) -> int:
    """Take over a round of another campaign, with its shards and frames, and with what it gave back."""
    found = database["samples"].find_one({"key": key}, {"shards": 1, "given_back": 1}) or {"shards": []}
    grown = database.adopt("features", found["shards"]) + database.adopt("frames", [key], "sample_key")
    give_back(database, found.get("given_back") or [])
    return grown + database.adopt("samples", [key], "key")


def _make(
    p: SamplingParameters,
    database: Database,
    new: Sequence[str],
    key: str,
    sources: Sequence[CoveredSet],
    rounds: Sequence[Mapping[str, Any]],
    shape: Sequence[CoveredSet],
) -> Any:
    """Return the flow; files that count as covered go into the artifact store, where every worker finds them."""
    covered, around = (
        [{"source": s.name, "fingerprint": s.fingerprint, "files": store_files(database, s.paths)} for s in sets]
        for sets in (sources, shape)
    )
    previous = [r["sample_id"] for r in rounds]
    return TwoStageSampleMaker.from_parameters(p).make(new, key, covered, previous, around)
