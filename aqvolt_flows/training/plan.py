"""Plan a campaign's trainings on the newest release, or on a mixture, and say how long eSEN's is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import AqvoltError
from aqvolt_flows.holdout import is_hold_out
from aqvolt_flows.jobs import typed
from aqvolt_flows.releases import latest_release, release_path
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.stores import Database
from aqvolt_flows.trainers import NamedTraining, trainings_of
from aqvolt_flows.training.data import open_split, some_frames
from aqvolt_flows.training.edges import EdgeCount, count_edges
from aqvolt_flows.training.jobs import TwoStageTrainMaker, train_key
from aqvolt_flows.training.lengths import STAGES, StageLength, too_short, training_lengths
from aqvolt_flows.training.preflight import edge_sample
from aqvolt_flows.training.releases import check_protocols, folder_here, mixed_releases, sources_of
from aqvolt_flows.training.trainer_job import training_items
from aqvolt_flows.work import Plan, WorkItem, bind


def plan_train(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the campaign's trainings on the newest release, or on its mixture, with the length of eSEN in numbers.

    What is too short for its averaged weights or its warm-up, and a mixture of theory levels, stand in the way.
    """
    items: list[WorkItem] = []
    missing: list[str] = []
    facts: dict[str, object] = {}
    for named in trainings_of(campaign.trainings, campaign.training):
        found = _plan_esen(named, campaign, database) if named.is_esen else _plan_other(named, campaign, database)
        items += found.items
        missing += [said for said in found.missing if said not in missing]
        facts |= {name: value for name, value in found.facts.items() if name not in facts}
    return Plan("train", items, missing, facts, partial(database.adopt, "models", [i.key for i in items], "key"))


def _plan_other(named: NamedTraining, campaign: Campaign, database: Database) -> Plan:
    """Return a training that needs one job, on the newest release."""
    release = latest_release(database, campaign.release.name)
    if release is None:
        return Plan("train", [], _no_release(campaign))
    if is_hold_out(release):
        return Plan("train", [], [_held_out(release)])
    facts = {"release": release["release_id"], "counts": release["counts"]}
    return Plan("train", training_items([named], release, database), [], facts)


def _plan_esen(named: NamedTraining, campaign: Campaign, database: Database) -> Plan:
    p = typed(named.parameters, TrainingParameters)
    documents, missing = _releases(p, campaign, database)
    if missing:
        return Plan("train", [], missing)
    held = [_held_out(d) for d in documents if is_hold_out(d)]
    if held:
        return Plan("train", [], held)
    try:
        check_protocols(documents, p.allow_mixed_protocols)
        sources = sources_of(documents, p) if p.mixture else []
        seen = look_at(database, documents, p)
    except AqvoltError as error:
        return Plan("train", [], [str(error).rstrip(".")])
    main = next((d for d in documents if d["name"] == campaign.release.name), documents[0])
    key = train_key(p, main["content_hash"], sources)
    maker = TwoStageTrainMaker(parameters=p, model_name=named.model_name({"name": campaign.release.name}))
    together = " + ".join(d["release_id"] for d in documents)
    more = [sources] if sources else []
    done = database["models"].find_one({"key": key}) is not None
    item = WorkItem(
        "train",
        key,
        f"{p.architecture} on {together}",
        bind(maker.make, main["release_id"], main["content_hash"], key, *more),
        category="gpu",
        done=done,
    )
    facts: dict[str, object] = {"release": together, "counts": main["counts"]}
    if len(documents) > 1:
        facts["counts"] = {d["release_id"]: d["counts"].get("total") for d in documents}
        facts["weights"] = {s["release_id"]: s["weight"] for s in sources}
    facts |= seen.facts()
    return Plan("train", [item], [] if done else too_short(p, seen.lengths), facts)


def _held_out(release: Mapping[str, Any]) -> str:
    return f"the release {release['release_id']} is a hold-out, which nothing is trained on"


def _no_release(campaign: Campaign) -> list[str]:
    name = campaign.release.name
    return [f"there is no release {name!r} yet; run 'aqvolt release create {name}'"]


def _releases(p: TrainingParameters, campaign: Campaign, database: Database) -> tuple[list[dict[str, Any]], list[str]]:
    if p.mixture:
        return mixed_releases(database, p)
    release = latest_release(database, campaign.release.name)
    return ([], _no_release(campaign)) if release is None else ([release], [])


@dataclass(frozen=True)
class Seen:
    """What planning saw of the releases.

    Attributes
    ----------
    lengths
        Both stages; none where sizes are not known.
    remark
        What the numbers are from.
    """

    lengths: Sequence[StageLength] = field(default_factory=list)
    remark: str = ""

    def facts(self) -> dict[str, object]:
        """Return what ``aqvolt plan train`` prints."""
        if not self.lengths:
            return {"lengths_from": self.remark}
        return {
            "lengths": {length.stage: length.as_dict() for length in self.lengths},
            "gpu_hours": float(f"{sum(length.gpu_hours for length in self.lengths):.3g}"),
            "lengths_from": self.remark,
        }


def look_at(database: Database, documents: Sequence[Mapping[str, Any]], parameters: TrainingParameters) -> Seen:
    """Return the length of a training: from the exports where they are on this machine, else from the counts."""
    natoms: list[NDArray[np.int64]] = []
    counted: dict[str, EdgeCount] = {}
    folders = [release_path(database, d) for d in documents]
    if all(folder_here(folder) for folder in folders):
        splits = [open_split(folder, "train") for folder in folders]
        natoms = [split.natoms for split in splits]
        structures = [
            frame.atoms() for split in splits for frame in some_frames(split, edge_sample(np.arange(len(split))))
        ]
        caps = [getattr(parameters, stage).max_neighbors for stage in STAGES]
        counted = dict(zip(STAGES, count_edges(structures, parameters.cutoff_a, caps), strict=True))
        remark = f"sizes of all training frames; edges of {len(structures)} of them"
    else:
        natoms = [_from_counts(d["counts"]) for d in documents]
        remark = "counts of the releases; their exports are not on this machine, edges were not counted"
    if not any(len(n) for n in natoms):
        return Seen(remark="the releases say nothing of their sizes")
    return Seen(training_lengths(parameters, natoms, counted), remark)


def _from_counts(counts: Mapping[str, Any]) -> NDArray[np.int64]:
    total, atoms = counts.get("total") or 0, counts.get("atoms") or 0
    train = (counts.get("by_split") or {}).get("train", total)
    if not (total and atoms and train):
        return np.zeros(0, dtype=np.int64)
    ends = np.round(np.arange(1, train + 1) * (atoms / total)).astype(np.int64)
    return np.diff(ends, prepend=0)
