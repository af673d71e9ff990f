"""Labels from a tree of VASP runs: statics, relaxations and ab-initio MD, each under the protocol it really has.

Every folder with vasprun.xml or OUTCAR (``.gz`` too, and names such as ``vasprun.xml.relax1.gz``) is a run, and each of
its converged ionic steps a label. vasprun.xml is preferred; OUTCAR is read where there is none, or no whole step in it.
One run that cannot be used, or one step of it, is set aside with the reason; the others go in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Element

from aqvolt_flows.datasets.importers.published import (
    Broken,
    Entry,
    Imported,
    ImportOptions,
    RecordError,
    Skipped,
    array,
    converged,
    finite,
)
from aqvolt_flows.datasets.importers.vasp_level import Level, level_of
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.vasp.endings import STOPPED
from aqvolt_flows.vasp.functional import FunctionalError
from aqvolt_flows.vasp.outcar import OutcarReader
from aqvolt_flows.vasp.outputs import ionic_energies, magmoms_in, read_incar, read_text, temperatures_in
from aqvolt_flows.vasp.steps import IonicStep, SourcesDisagreeError, ionic_step, same_energies
from aqvolt_flows.vasp.vasprun import Header, RawStep, VasprunError, VasprunReader, starts_as_static

_NAME = re.compile(
    r"^(?:(?P<kind>vasprun\.xml|OUTCAR|INCAR|OSZICAR)(?P<tag>\.(?!gz$)[\w-]+)?"
    r"|(?P<xml>vasprun)(?P<middle>\.[\w.-]+)\.xml)(?:\.gz)?$"
)


@dataclass
class Run:
    """The files of one run in a folder.

    Attributes
    ----------
    name
        Path below the folder that was given, for people.
    files
        Kind (``vasprun.xml``, ``OUTCAR``, ``INCAR``, ``OSZICAR``) → path.
    """

    name: str
    files: dict[str, Path] = field(default_factory=dict)

    def text(self, kind: str) -> str:
        """Return a file's text; empty where it is not there."""
        path = self.files.get(kind)
        return read_text(path.parent, path.name) if path is not None else ""


def find_runs(root: Path) -> Iterator[Run]:
    """Yield the runs below a folder in the order of their paths; links to folders are not followed.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}; give the folder of VASP runs to import.")
    for here, folders, names in os.walk(root):
        folders.sort()
        by_tag: dict[str, dict[str, Path]] = {}
        for name in sorted(names):
            found = _NAME.match(name)
            if found:
                kind = found["kind"] or "vasprun.xml"
                by_tag.setdefault(found["tag"] or found["middle"] or "", {}).setdefault(kind, Path(here) / name)
        for _, files in sorted(by_tag.items()):
            main = files.get("vasprun.xml") or files.get("OUTCAR")
            if main is not None:
                yield Run(str(main.relative_to(root)), files)


def vasp_entries(root: Path, options: ImportOptions) -> Iterator[Entry]:
    """Yield the labels of all runs below a folder, one ionic step in memory at a time.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    for run in find_runs(root):
        try:
            yield from run_entries(run, options)
        except (RecordError, FunctionalError, VasprunError, InputError) as error:
            yield Broken(run.name, 0, None, str(error))


def run_entries(run: Run, options: ImportOptions) -> Iterator[Entry]:
    """Yield the labels of one run: every converged step, and what is wrong with the others.

    Raises
    ------
    RecordError, FunctionalError
        If the run as a whole cannot be used.
    """
    problem, seen = "it has no whole ionic step", 0
    for kind in ("vasprun.xml", "OUTCAR"):
        path = run.files.get(kind)
        if path is None:
            continue
        reader = VasprunReader(path, starts_as_static(path)) if kind == "vasprun.xml" else OutcarReader(path)
        for entry in _entries(run, reader, kind, options):
            seen += 1
            yield entry
        problem = reader.problem or problem
        if seen:
            break
    if not seen:
        raise RecordError(problem)
    if reader.problem:
        yield Broken(run.name, 0, None, f"{reader.problem}; the {seen} whole steps before it were read")


def _entries(run: Run, reader: VasprunReader | OutcarReader, kind: str, options: ImportOptions) -> Iterator[Entry]:
    incar = read_incar(next(iter(run.files.values())).parent, run.files["INCAR"].name) if "INCAR" in run.files else {}
    oszicar = run.text("OSZICAR")
    outcar = run.text("OUTCAR")
    facts = _Facts(run, kind, options, temperatures_in(oszicar), ionic_energies(outcar, oszicar, kind))
    stopped = re.search(STOPPED, outcar[-60_000:])
    level: Level | None = None
    held: tuple[int, RawStep] | None = None
    for number, raw in enumerate(reader.steps(), 1):
        if level is None:
            level = level_of(reader.header, incar, raw, outcar, options.patched_vasp)
            if options.functional is not None and level.protocol.functional.lower() != options.functional.lower():
                yield Skipped("other_functional")
                return
        if held is not None:
            yield from facts.entry(*held, level, reader.header)
        held = (number, raw)
    # the last step of a run that was stopped within it is as short as a converged one
    if held is not None and level is not None and not (stopped and stopped.group(1) == "hard"):
        gap, moments = reader.bandgap(), magmoms_in(outcar, len(reader.header.symbols))
        yield from facts.entry(*held, level, reader.header, bandgap=gap, magmoms=moments)
    elif held is not None:
        yield Broken(run.name, held[0], None, "a STOPCAR ended the run within the SCF of this step")


@dataclass
class _Facts:
    """What all steps of a run share."""

    run: Run
    kind: str
    options: ImportOptions
    temperatures: list[float]
    energies: Mapping[str, list[tuple[float, float]]]

    def entry(self, number: int, raw: RawStep, level: Level, header: Header, **more: Any) -> Iterator[Entry]:
        """Yield the label of a step, or why it is none; nothing for one that thinning leaves out."""
        if level.kind == "aimd" and (number - 1) % self.options.stride:
            return
        try:
            step = ionic_step(raw, header, level.tags, level.nelm, level.held_work(raw.cell), level.pressure)
            if step.scf_steps >= level.nelm:
                raise RecordError(f"its SCF took {step.scf_steps} steps, as many as NELM allows")
            others = {name: listed[number - 1] for name, listed in self.energies.items() if number <= len(listed)}
            same_energies(step, others, level.work(raw.cell), self.kind)
            _refuse_unprintable(step, len(header.symbols))
        except (SourcesDisagreeError, RecordError) as error:
            yield Broken(self.run.name, number, None, str(error))
            return
        yield self._imported(number, step, level, header, more)

    def _imported(
        self, number: int, step: IonicStep, level: Level, header: Header, more: Mapping[str, Any]
    ) -> Imported:
        numbers = [Element(s).Z for s in header.symbols]
        atoms = {"atomic_numbers": numbers, "positions": step.positions, "cell": step.cell}
        frame_id = f"vasp-{identity_of_step(numbers, step)}"
        where = {"file": self.run.name, "record": number, "database": self.options.name}
        provenance: dict[str, Any] = {**where, "record_id": f"{self.run.name}#{number}", **level.provenance()}
        if level.kind == "aimd" and number <= len(self.temperatures) and np.isfinite(self.temperatures[number - 1]):
            provenance["temperature_of_step_k"] = self.temperatures[number - 1]
        outcome = converged(
            frame_id,
            level.protocol,
            atoms,
            energy=step.energy,
            forces=step.forces,
            stress=step.stress,
            **{name: value for name, value in more.items() if value is not None},
        )
        return Imported(outcome=outcome, provenance=provenance, temperature_k=level.temperature_k)


def _refuse_unprintable(step: IonicStep, n_atoms: int) -> None:
    """Refuse a step with numbers that VASP could not print, or that are not finite."""
    finite(step.energy, "energy")
    shapes = {"positions": (n_atoms, 3), "cell": (3, 3), "forces": (n_atoms, 3), "stress": (6,)}
    for name, shape in shapes.items():
        array(getattr(step, name), shape, name)


def identity_of_step(numbers: list[int], step: IonicStep) -> str:
    """Return an identity of what was computed, the same wherever the run lies."""
    arrays = {"cell": step.cell, "positions": step.fractional, "forces": step.forces}
    rounded = {name: np.round(np.asarray(a, dtype=float), 5).tolist() for name, a in arrays.items()}
    return content_key("vasp-step/1", numbers=numbers, energy=round(step.energy, 5), **rounded)
