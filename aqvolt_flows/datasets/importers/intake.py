"""From a stream of published labels to ``labels``: validated like our own, broken ones set aside with the reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path
from typing import IO, Any

from aqvolt_flows.aside import written_aside
from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.datasets.importers.contradictions import Seen
from aqvolt_flows.datasets.importers.gate import Gate, broken_label
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.plausible import CompositionEnergies, find_implausible
from aqvolt_flows.datasets.importers.published import Broken, Entry, Imported, ImportOptions, Skipped
from aqvolt_flows.datasets.labels import label_from_outcome
from aqvolt_flows.schemas.label import LabelDocument
from aqvolt_flows.stores import Database

BATCH = 500
#: Labels that are held while energies are compared with each other.
LEARN = 1000
_WORD = re.compile(r"([a-z][a-z0-9_]*): ")
#: Broken records that a report quotes; the quarantine file has all.
QUOTED = 5


@dataclass
class LabelImportReport:
    """What an import did.

    Attributes
    ----------
    read
        Records seen.
    labels
        Sound labels, and how many of them were not there before (``new``).
    skipped
        Left out by a rule, by its name.
    quarantined
        Records that are no labels; ``broken`` quotes the first few.
    stopped
        Why a file could not be read to its end; what came before it stands.
    withdrawn
        Labels that other files of the import had given and that a record of this one contradicts.
    protocols
        Labels by protocol.
    reasons
        Quarantined records by the word of their reason.
    remarks
        What is to be known of the file beside its labels: columns that were not read, what could not be verified.
    """

    read: int = 0
    labels: int = 0
    new: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    quarantined: int = 0
    withdrawn: int = 0
    broken: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    protocols: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {k: dict(v) if isinstance(v, Counter) else v for k, v in vars(self).items()}


def label_from_import(entry: Imported, options: ImportOptions) -> LabelDocument:
    """Return the label of an imported record, valid or rejected, under the rules that our own labels pass."""
    label = label_from_outcome(entry.outcome, None, None, source=options.name)
    update: dict[str, Any] = {
        "provenance": entry.provenance | ({"license": options.license} if options.license else {}),
        "temperature_k": entry.temperature_k,
        "candidate_id": entry.candidate_id,
        "trajectory_id": entry.trajectory_id,
    }
    if label.status == "valid" and label.cohesive_energy_per_atom is None:
        update["cohesive_energy_per_atom"] = entry.cohesive_energy
    return label.model_copy(update=update)


@dataclass
class ImportMemory:
    """What the files of one import have in common: the configurations met, and what energies to expect."""

    seen: Seen = field(default_factory=Seen)
    energies: CompositionEnergies = field(default_factory=CompositionEnergies)


def import_labels(
    database: Database,
    entries: Iterable[Entry],
    options: ImportOptions,
    quarantine: Path,
    notes: Notes | None = None,
    memory: ImportMemory | None = None,
) -> LabelImportReport:
    """Write the sound labels of a stream by identity, the broken ones to a file, and return what was done.

    Parameters
    ----------
    database
        Holds ``labels``; importing the same file again writes nothing.
    entries
        From :func:`aqvolt_flows.datasets.importers.files.read_labels`.
    options
        What they were read with.
    quarantine
        JSON lines of broken records; written aside and renamed, absent if there are none.
    notes
        What the readers filled; its sentences end up in the report.
    memory
        Of the import that this file is a part of.
    """
    report = LabelImportReport()
    memory = memory if memory is not None else ImportMemory()
    with ExitStack() as stack:
        aside = _Quarantine(quarantine, stack, report)
        sound = _expected(_sound(entries, options, report, aside), memory.energies, aside)
        gate = Gate(database, options, memory.seen)
        for batch in batched(sound, BATCH):
            passed = gate.judge(batch)
            for broken in passed.broken:
                aside.take(broken)
            report.labels += len(passed.labels) - passed.withdrawn.total()
            report.withdrawn += passed.withdrawn_elsewhere
            report.skipped.update(passed.skipped)
            report.protocols.update(label.protocol_name for label in passed.labels)
            report.protocols.subtract(passed.withdrawn)
            report.new += database.upsert("labels", passed.labels) - passed.withdrawn_new
            database.upsert("labels", passed.rejected)
    report.protocols = +report.protocols
    report.remarks = notes.sentences() if notes is not None else []
    if report.withdrawn:
        report.remarks.append(f"{report.withdrawn} labels of files before it were taken back: they were contradicted.")
    if not report.quarantined:
        quarantine.unlink(missing_ok=True)
    return report


class _Quarantine:
    """The file of broken records, opened with the first of them."""

    def __init__(self, path: Path, stack: ExitStack, report: LabelImportReport) -> None:
        self.path, self.stack, self.report = path, stack, report
        self.handle: IO[str] | None = None

    def take(self, broken: Broken) -> None:
        if self.handle is None:
            aside = self.stack.enter_context(written_aside(self.path))
            self.handle = self.stack.enter_context(aside.open("w"))
        row = {k: getattr(broken, k) for k in ("file", "record", "line", "record_id", "reason")}
        self.handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.report.quarantined += 1
        word = _WORD.match(broken.reason)
        self.report.reasons[word[1] if word else "unreadable"] += 1
        place = f"{broken.file} record {broken.record}" + (f" (line {broken.line})" if broken.line else "")
        sentence = f"{place}: {broken.reason}."
        if broken.fatal:
            self.report.stopped.append(sentence)
        elif len(self.report.broken) < QUOTED:
            self.report.broken.append(sentence)


def _sound(
    entries: Iterable[Entry], options: ImportOptions, report: LabelImportReport, aside: _Quarantine
) -> Iterator[tuple[Imported, LabelDocument]]:
    excluded = set(options.exclude_elements)
    for entry in entries:
        report.read += 1
        if isinstance(entry, Broken):
            aside.take(entry)
            continue
        if isinstance(entry, Skipped):
            report.skipped[entry.reason] += 1
            continue
        if excluded & set(symbols_of(entry.outcome.atomic_numbers)):
            report.skipped["excluded_element"] += 1
            continue
        label = label_from_import(entry, options)
        failure = label.failure or (None if entry.judged else find_implausible(label))
        if failure is not None:
            aside.take(broken_label(label, failure))
            continue
        yield entry, label


def _expected(
    labels: Iterable[tuple[Imported, LabelDocument]], energies: CompositionEnergies, aside: _Quarantine
) -> Iterator[LabelDocument]:
    """Yield the labels whose energy is that of their composition, as the labels before and around them have it."""
    for block in batched(labels, LEARN):
        energies.learn([label for entry, label in block if not entry.judged])
        for entry, label in block:
            failure = None if entry.judged else energies.far(label)
            if failure is not None:
                aside.take(broken_label(label, failure))
                continue
            yield label
