"""Planning of labels: one static a frame, streamed, with priority, holds and a forecast of core-hours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import batched
from typing import Any

import numpy as np
from pymatgen.core import Composition

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.labelers import LABELERS
from aqvolt_flows.labeling.forecast import CostModel, fit_costs, valence_electrons
from aqvolt_flows.labeling.labelers import labeler_maker, protocol_for
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.reasons import worth_rerunning
from aqvolt_flows.stores import Database, by_ids
from aqvolt_flows.work import Plan, Stream, WorkItem

_FIELDS = {
    "_id": 0,
    "frame_id": 1,
    "formula": 1,
    "chemsys": 1,
    "n_atoms": 1,
    "surrogate_max_force": 1,
    "atom_clusters": 1,
}
_CHUNK = 1000
#: Set in an outcome whose Firework runs again; the outcome that replaces it has it no more.
RERUN = "metadata.aqvolt.rerun"
#: Finished runs that a forecast is fitted to, at most; more do not change it.
FORECAST_RUNS = 5000


def plan_label(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return one static per selected frame; the most informative frames come first (:func:`informativeness`).

    The units are streamed from ``frames`` in chunks: memory does not grow with their number but by the keys that
    have an outcome, about 100 bytes each.
    """
    protocol = protocol_for(campaign.labeling)
    frames = database.own("frames").count_documents({})
    facts = {"protocol": protocol.name, "frames": frames}
    missing = [] if frames else ["there is no selected frame yet; run 'aqvolt submit sample' and 'aqvolt work'"]
    return Plan("label", Stream(frames, partial(_read, campaign, database)), missing, facts)


def label_items(campaign: Campaign, database: Database, frame_ids: Sequence[str]) -> list[WorkItem]:
    """Return the units of :func:`plan_label` of some frames only; reads no other frame and no other outcome."""
    return list(_read(campaign, database, False, list(frame_ids)))


def informativeness(frame: Mapping[str, Any]) -> int:
    """Return the priority of a frame, 0 to 999: what its label adds, environments first, then distortion.

    100 for each atomic environment that the frame was chosen for (a cluster of 2DIRECT's stage 2, which no other
    frame stands for; at most 9), and below that 7.6 log2(1 + F / (0.1 eV/Å)) for the largest force F of the exploring
    potential: 7 at 0.1 eV/Å, 26 at 1, 50 at 10, 98 at 800, the paper's limit. A choice of this project.
    """
    clusters = min(len(frame.get("atom_clusters") or ()), 9)
    force = max(float(frame.get("surrogate_max_force") or 0.0), 0.0)
    distortion = 7.6 * math.log2(1.0 + min(force, 1e6) / 0.1)
    return 100 * clusters + min(99, int(distortion))


@lru_cache(maxsize=100_000)
def electrons_of(formula: str, n_atoms: int) -> int:
    """Return the valence electrons of ``n_atoms`` atoms of a (reduced) formula."""
    composition = Composition(formula)
    per_formula = sum(valence_electrons(element.Z) * amount for element, amount in composition.items())
    return round(per_formula * n_atoms / composition.num_atoms)


def _read(
    campaign: Campaign, database: Database, by_priority: bool, only: Sequence[str] | None = None
) -> Iterator[WorkItem]:
    p = campaign.labeling
    protocol = protocol_for(p)
    make = labeler_maker(p).make
    category = LABELERS[p.labeler].category
    outcomes = _outcomes(database, None if only is None else [label_key(i, protocol) for i in only])
    systems, held_frames = held(database)
    found = _frames(database, by_priority) if only is None else by_ids(database["frames"], "frame_id", only, _FIELDS)
    for frame in found:
        frame_id, system = frame["frame_id"], frame["chemsys"]
        key = label_key(frame_id, protocol)
        why = systems.get(system) or held_frames.get(frame_id) or ""
        atoms = frame["n_atoms"]
        yield WorkItem(
            "label",
            key,
            f"{p.labeler} {frame['formula']}",
            partial(make, frame_id, key),
            category=category,
            priority=informativeness(frame),
            done=key in outcomes,
            template=make,
            arguments=(frame_id, key),
            tags={
                "chemsys": system,
                "atoms": atoms,
                "electrons": electrons_of(frame["formula"], atoms),
                "frame_id": frame_id,
                "labeler": p.labeler,
            },
            held=why,
            again=outcomes.get(key, ""),
        )


def _frames(database: Database, by_priority: bool) -> Iterator[dict[str, Any]]:
    frames = database.own("frames")
    if not by_priority:
        yield from frames.find({}, _FIELDS).batch_size(2000)
        return
    ids: list[str] = []
    priorities: list[int] = []
    for frame in frames.find({}, _FIELDS).batch_size(2000):
        ids.append(frame["frame_id"])
        priorities.append(informativeness(frame))
    order = np.lexsort((np.array(ids), -np.array(priorities, dtype=int))).tolist()
    for chunk in batched(order, _CHUNK):
        wanted = [ids[i] for i in chunk]
        found = {f["frame_id"]: f for f in database["frames"].find({"frame_id": {"$in": wanted}}, _FIELDS)}
        yield from (found[i] for i in wanted if i in found)


def _outcomes(database: Database, keys: Sequence[str] | None = None) -> dict[str, str]:
    """Return the keys that have an outcome, with the reason of a failure that another run may cure.

    An outcome that ``--rerun-failed`` has given up (:data:`RERUN`) is none.
    """
    fields = {"metadata.aqvolt.key": 1, RERUN: 1, "output.failure.reason": 1, "_id": 0}
    found: dict[str, str] = {}
    documents: Iterable[dict[str, Any]]
    if keys is None:
        documents = database["outputs"].find({"metadata.aqvolt.stage": "label"}, fields).batch_size(5000)
    else:
        documents = by_ids(database["outputs"], "metadata.aqvolt.key", keys, fields)
    for document in documents:
        about = document["metadata"]["aqvolt"]
        if about.get("rerun"):
            continue
        reason, key = ((document.get("output") or {}).get("failure") or {}).get("reason", ""), about["key"]
        again = reason if worth_rerunning(reason) else ""
        found[key] = again if key not in found else found[key] and again  # a result or a final failure stands
    return found


def held(database: Database) -> tuple[dict[str, str], dict[str, str]]:
    """Return chemical system → reason and frame_id → reason of what must not be labeled now."""
    found: dict[str, dict[str, str]] = {"chemsys": {}, "frame": {}}
    query = {"status": "held", "kind": {"$in": list(found)}}
    for document in database["holds"].find(query, {"kind": 1, "what": 1, "reason": 1}):
        found[document["kind"]][document["what"]] = document["reason"]["reason"]
    return found["chemsys"], found["frame"]


def cost_model(campaign: Campaign, database: Database) -> CostModel:
    """Return the cost of a label by atoms and electrons, from the campaign's labeler's own finished runs.

    Raises
    ------
    InputError
        If none has finished.
    """
    query = {
        "metadata.aqvolt.stage": "label",
        "output.protocol.code": campaign.labeling.labeler,
        "output.cost_core_hours": {"$gt": 0},
    }
    fields = {"output.atomic_numbers": 1, "output.cost_core_hours": 1, "_id": 0}
    atoms, electrons, hours = [], [], []
    for document in database["outputs"].find(query, fields).limit(FORECAST_RUNS):
        numbers = document["output"].get("atomic_numbers") or []
        if numbers:
            counts = Counter(numbers)
            atoms.append(len(numbers))
            electrons.append(sum(valence_electrons(z) * n for z, n in counts.items()))
            hours.append(float(document["output"]["cost_core_hours"]))
    if not hours:
        raise InputError(
            f"No {campaign.labeling.labeler} run has finished yet, so core-hours cannot be forecast; submit a first "
            "few with --limit and run them."
        )
    return fit_costs(atoms, electrons, hours)
