"""The first pass of a release: every label is read once, judged, hashed and written to a spool; identities stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np

from aqvolt_flows.datasets.duplicates import Configuration, DuplicateFinder
from aqvolt_flows.datasets.filters import describe_reason, is_other_protocol, reason_to_drop
from aqvolt_flows.datasets.groups import held_out, label_query, lineage_groups, own_group
from aqvolt_flows.datasets.rows import Row, row_from_label
from aqvolt_flows.datasets.splits import SPLITS, Assignment, assign
from aqvolt_flows.datasets.spool import Spool
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import ReleaseParameters
from aqvolt_flows.stores import Database

#: Labels that the server is asked for at once; larger answers made the embedded server slower, not faster.
READ = 1000
#: Copies of one configuration and protocol whose energies differ by more than this contradict each other, eV/atom.
CONTRADICTION_EV_PER_ATOM = 1e-3


@dataclass(slots=True)
class Entry:
    """What stays in memory of a label: identities, its place in the spool and its hash."""

    place: int
    frame_id: str
    label_id: str
    group: str
    source: str
    protocol: str
    n_atoms: int
    digest: str
    cohesive_known: bool
    license: str | None = None
    split: str = ""


@dataclass
class Survey:
    """The outcome of the first pass.

    Attributes
    ----------
    entries
        Labels of the release, sorted by frame and label.
    dropped, rejected
        Filter → labels it excluded; reason → labels refused when they were built.
    protocols
        Protocol name → the protocol.
    as_of
        Newest ``last_updated`` of the labels that entered.
    """

    entries: list[Entry] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, int] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    as_of: datetime | None = None

    def licenses(self) -> dict[str, set[str | None]]:
        """Return source → the licenses that its labels carry; None for labels that name none."""
        found: dict[str, set[str | None]] = {}
        for entry in self.entries:
            found.setdefault(entry.source, set()).add(entry.license)
        return found

    def splits(self) -> list[str]:
        """Return the names of the sets: train, val, test, then the hold-outs."""
        return [*SPLITS, *sorted({e.split for e in self.entries} - set(SPLITS))]


def base_query(database: Database, parameters: ReleaseParameters) -> dict[str, Any]:
    """Return the query for the labels that may enter: valid, of the campaign, and what ``parameters.query`` asks."""
    valid = database.own("labels").among({"status": "valid"})
    return label_query(database, valid, parameters.query, "the query") if parameters.query else valid


def read_labels(database: Database, parameters: ReleaseParameters, spool: Spool) -> Survey:
    """Read, filter, hash and spool every label; without the repeated ones, and without split yet."""
    survey = Survey()
    finder = DuplicateFinder(parameters.duplicate_tolerance_a)
    places: dict[str, int] = {}
    speakers: dict[str, str] = {}
    groups: dict[str, tuple[str | None, str]] = {}
    for label, row in _judged(database, parameters, survey):
        place = spool.add(row)
        if parameters.duplicate_tolerance_a > 0:
            places[row.label_id] = place
            finder.add(row.label_id, row.atomic_numbers, row.positions, row.cell, kind=label["protocol_id"])
        found, otherwise = own_group(row, parameters.group_by)
        if parameters.group_by in {"parent", "prototype"}:
            groups[row.label_id] = (found, otherwise)
        survey.entries.append(_entry(row, place, found or otherwise, (label.get("provenance") or {}).get("license")))
        spoken = speakers.get(row.protocol)
        if spoken is None or row.label_id < spoken:  # the same label speaks for it, in whatever order they come
            survey.protocols[row.protocol], speakers[row.protocol] = label["protocol"], row.label_id
        survey.as_of = max(survey.as_of or label["last_updated"], label["last_updated"])
    spool.finish()

    def load(ids: Sequence[str]) -> dict[str, Configuration]:
        rows = [spool.row(places[i]) for i in ids]
        return {row.label_id: (row.atomic_numbers, row.positions, row.cell) for row in rows}

    repeats = finder.repeats(load)
    against = _contradicting(repeats, lambda i: spool.row(places[i]), parameters.duplicate_tolerance_a)
    survey.dropped["contradiction"] += len(against)
    survey.dropped["duplicate"] += len(repeats.keys() - against)
    left_out = repeats.keys() | against
    survey.entries = sorted(
        (e for e in survey.entries if e.label_id not in left_out), key=lambda e: (e.frame_id, e.label_id)
    )
    if groups:
        lineage = lineage_groups(database, {c for c, _ in groups.values() if c}, parameters.group_by)
        for entry in survey.entries:
            candidate, otherwise = groups[entry.label_id]
            entry.group = lineage.get(candidate or "", otherwise)
    for label in database.own("labels").find({"status": "rejected"}, {"failure.reason": 1, "_id": 0}):
        reason = label["failure"]["reason"]
        survey.rejected[reason] = survey.rejected.get(reason, 0) + 1
    return survey


def _contradicting(repeats: Mapping[str, str], row: Callable[[str], Row], tolerance_a: float) -> set[str]:
    """Return the labels of configurations whose copies have another energy than their distance allows: none is kept.

    Copies that are at most ``tolerance_a`` apart differ by at most that times Σ |F| (to first order), and by what runs
    of one calculation differ by.
    """
    found: set[str] = set()
    for repeat, first in repeats.items():
        a, b = row(first), row(repeat)
        forces = max(float(np.linalg.norm(r.forces, axis=1).sum()) for r in (a, b))
        if abs(a.energy - b.energy) > CONTRADICTION_EV_PER_ATOM * a.n_atoms + 2 * tolerance_a * forces:
            found |= {first, repeat}
    return found | {repeat for repeat, first in repeats.items() if first in found}


def _judged(database: Database, parameters: ReleaseParameters, survey: Survey) -> Iterator[tuple[dict[str, Any], Row]]:
    # Without a projection: the embedded server needs longer to leave fields out than to send them.
    for label in _ahead(database["labels"].find(base_query(database, parameters), batch_size=READ)):
        if is_other_protocol(label, parameters):
            survey.dropped["other_protocol"] += 1
            continue
        try:
            row = row_from_label(label)
        except InputError:
            survey.dropped["incomplete"] += 1
            continue
        reason = reason_to_drop(row, parameters)
        if reason is None:
            yield label, replace(row, head=row.protocol) if parameters.head else row
        else:
            survey.dropped[reason] += 1


def _ahead(labels: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield labels while the server is already asked for the next ones."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(islice(labels, READ)))
        while block := waiting.result():
            waiting = pool.submit(lambda: list(islice(labels, READ)))
            yield from block


def _entry(row: Row, place: int, group: str, license: str | None) -> Entry:
    known = row.cohesive_energy_per_atom is not None
    identity = (row.frame_id, row.label_id, group, row.source, row.protocol)
    return Entry(place, *identity, row.n_atoms, row.digest(), known, license)


def split_entries(database: Database, parameters: ReleaseParameters, survey: Survey) -> Assignment:
    """Give every entry its split or hold-out and return where the groups went."""
    held = held_out(database, parameters.hold_out, base_query(database, parameters)) if parameters.hold_out else {}
    fractions = {split: getattr(parameters, f"{split}_fraction") for split in SPLITS}
    free = [e for e in survey.entries if e.label_id not in held]
    assignment = assign((e.group for e in free), fractions, parameters.split_salt)
    for entry in survey.entries:
        entry.split = held.get(entry.label_id) or assignment.splits[entry.group]
    return assignment


def refuse_mixture(survey: Survey, parameters: ReleaseParameters) -> None:
    """Raise :class:`InputError` if the labels have several protocols and the parameters do not allow it."""
    counts = Counter(entry.protocol for entry in survey.entries)
    if len(counts) > 1 and not parameters.allow_mixed_protocols:
        listed = ", ".join(f"{name} ({n} labels)" for name, n in sorted(counts.items()))
        raise InputError(
            f"The labels have {len(counts)} protocols: {listed}; a release holds one, so choose it with --filter "
            "protocol=NAME, or set allow_mixed_protocols."
        )


def nothing_left(survey: Survey, parameters: ReleaseParameters) -> str:
    """Return the sentence that says why a release would be empty."""
    reasons = [
        f"{n} by {name} ({describe_reason(name, parameters)})" for name, n in sorted(survey.dropped.items()) if n
    ]
    reasons += [f"{n} rejected as {name}" for name, n in sorted(survey.rejected.items())]
    if parameters.query and not survey.dropped.total():
        return f"No valid label matches the query {parameters.query}; correct it or leave it out."
    if not reasons:
        return "There are no labels to release; run labeling jobs and 'aqvolt build labels' first."
    return f"No label passes the filters, dropped were {'; '.join(reasons)}: relax a filter or label more frames."
