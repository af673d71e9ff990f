"""Reading what VASP left in a folder: arrays in our units, and how the run ended."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure, LabelReason, failed_because
from aqvolt_flows.vasp.endings import STOPPED, CustodianLog, Ending, custodian_log, ended
from aqvolt_flows.vasp.functional import FunctionalError, functional_of, version_fault
from aqvolt_flows.vasp.incar import plain_value
from aqvolt_flows.vasp.steps import IonicStep, SourcesDisagreeError, ionic_step, pressure_work, same_energies, terms_of
from aqvolt_flows.vasp.used import used_level
from aqvolt_flows.vasp.vasprun import Header, VasprunReader

__all__ = [
    "Array",
    "Calculation",
    "IonicStep",
    "Mesh",
    "ionic_energies",
    "locate",
    "magmoms_in",
    "potcars_in",
    "read_calculation",
    "read_incar",
    "read_text",
    "temperatures_in",
]

Array = NDArray[np.float64]

#: The last lines of a run that came to its end; VASP writes the timing table only then.
_FOOTER = "General timing and accounting informations for this job"
_TAIL_BYTES = 60_000
#: OSZICAR's line of one MD step begins with its number and temperature, which is stars where it has too many digits.
_TEMPERATURE = re.compile(r"^\s*(\d+)\s+T=\s*(\S+)", re.MULTILINE)
#: … and ends with the total moment.
_MAGNETIZATION = re.compile(r"^\s*\d+ T=.*mag=\s*(-?\d+\.\d+)\s*$", re.MULTILINE)
_OSZICAR = re.compile(r"^\s*(\d+)\s+(?:T=.*?)?F=\s*(\S+)\s+E0=\s*(\S+)", re.MULTILINE)
_OUTCAR_FREE = re.compile(r"free  energy   TOTEN\s*=\s*(\S+)")
_OUTCAR_ZERO = re.compile(r"energy  without entropy=\s*\S+.*?energy\(sigma->0\)\s*=\s*(\S+)")


@dataclass(frozen=True)
class Mesh:
    """A regular mesh of k-points without a shift: its divisions, and whether it is centered at Γ."""

    divisions: tuple[int, int, int]
    gamma: bool = True


@dataclass(frozen=True, eq=False)
class Calculation:
    """What one folder says.

    Attributes
    ----------
    ending
        ``finished``; ``killed`` from outside; ``bad_output``: it ended, yet its files cannot be read; ``failed``:
        VASP itself gave up, and said why.
    failure
        The reason where it did not finish, or where VASP stopped with an error.
    incar
        The INCAR that was run last, custodian's corrections included.
    nelm
        Largest allowed number of electronic steps.
    core_hours
        Cores × elapsed time of the last run (VASP's own count); None where it does not say.
    electrons
        NELECT, the valence electrons of the cell.
    temperatures
        Of each ionic step of MD, K; NaN where OSZICAR could not print one.
    magnetizations
        Total moment after each step of MD, μB, as far as OSZICAR tells it.
    kpoints
        The mesh that was used and its kind, for another run with the same; None for another kind of list.
    pressure_doubt
        Why the numbers of a run with PSTRESS cannot be those of labels (:mod:`aqvolt_flows.vasp.pressure`), or empty.
    used
        What VASP says it used (:func:`aqvolt_flows.vasp.used.used_level`).
    functional
        Which functional it is; empty where the run did not finish.
    """

    ending: Ending
    failure: Failure | None = None
    version: str = ""
    incar: dict[str, Any] = field(default_factory=dict)
    nelm: int = 60
    symbols: list[str] = field(default_factory=list)
    steps: list[IonicStep] = field(default_factory=list)
    magmoms: list[float] | None = None
    bandgap: float | None = None
    titles: list[str] = field(default_factory=list)
    cores: int = 1
    core_hours: float | None = None
    electrons: float | None = None
    corrections: list[str] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    magnetizations: list[float] = field(default_factory=list)
    kpoints: Mesh | None = None
    pressure_doubt: str = ""
    used: dict[str, Any] = field(default_factory=dict)
    functional: str = ""

    @property
    def converged(self) -> bool:
        """Whether the run finished with a self-consistent last step."""
        return self.ending == "finished" and bool(self.steps) and self.steps[-1].scf_steps < self.nelm


def locate(folder: Path, name: str) -> Path | None:
    """Return ``name`` or ``name.gz`` in a folder, or None."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def read_text(folder: Path, name: str) -> str:
    """Return the text of a file, gzip-ed or not; empty where it is not there or cut short."""
    path = locate(folder, name)
    if path is None:
        return ""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error):
        return ""
    return data.decode("utf-8", errors="replace")


def read_calculation(folder: str | Path, eigenvalues: bool = True, partial: bool = False) -> Calculation:
    """Return what a folder of VASP files says, whatever state it is in.

    Parameters
    ----------
    folder
        Holds vasprun.xml, OUTCAR and what else the run wrote, each gzip-ed or not.
    eigenvalues
        Read eigenvalues, for the band gap.
    partial
        Keep the whole ionic steps of a vasprun.xml that is cut short; the run still counts as killed.
    """
    where = Path(folder)
    outcar = read_text(where, "OUTCAR")
    said = "\n".join(read_text(where, n)[-_TAIL_BYTES:] for n in ("std_err.txt", "vasp.out", "OUTCAR")) + "\n".join(
        p.read_text(errors="replace")[-_TAIL_BYTES:] for p in sorted(where.glob("FW_job*.error"))
    )
    finished = _FOOTER in outcar
    custodian = custodian_log(read_text(where, "custodian.json"))
    oszicar = read_text(where, "OSZICAR")
    common: dict[str, Any] = {
        "cores": _cores(outcar),
        "core_hours": _core_hours(outcar),
        "corrections": custodian.corrections,
        "temperatures": temperatures_in(oszicar),
        "magnetizations": [float(m) for m in _MAGNETIZATION.findall(oszicar)],
    }
    path = locate(where, "vasprun.xml")
    if path is None:
        return Calculation(**_unread(finished, outcar, said, "there is none", custodian), **common)
    reader = VasprunReader(path, eigenvalues)
    incar = read_incar(where)
    steps, wrong, doubt = _steps(reader, incar, outcar)
    head = reader.header
    stopped = re.search(STOPPED, said)
    if finished and stopped:
        finished = False
        if stopped.group(1) == "hard":  # its last step, sound or not, ended in the middle of the SCF
            steps, wrong = (steps, "") if wrong else (steps[:-1], "")
    if not wrong and ((reader.problem and not partial) or not (steps or stopped)):
        problem = reader.problem or "it holds no ionic step"
        return Calculation(**_unread(finished, outcar, said, problem, custodian), **common)
    functional = ""
    found: dict[str, Any] = {"ending": "finished"} if finished else ended(said, custodian=custodian)
    if wrong:
        found = _refused(wrong)
    elif finished:
        found, functional = _judged(steps, head, incar, outcar, oszicar)
    return Calculation(
        **found,
        version=head.version,
        incar=incar or dict(head.incar),
        nelm=_nelm(head),
        symbols=head.symbols,
        steps=steps,
        magmoms=magmoms_in(outcar, len(head.symbols)),
        bandgap=reader.bandgap() if eigenvalues else None,
        titles=head.titles,
        electrons=float(head.parameters["NELECT"]) if "NELECT" in head.parameters else None,
        kpoints=_mesh(head),
        pressure_doubt=doubt,
        used=used_level(head),
        functional=functional,
        **common,
    )


def _nelm(head: Header) -> int:
    return int(head.parameters.get("NELM", 60))


def _judged(
    steps: list[IonicStep], head: Header, incar: dict[str, Any], outcar: str, oszicar: str
) -> tuple[dict[str, Any], str]:
    """Return ending, failure and functional of a run that came to its end."""
    try:
        functional = _cross_checked(steps, head, incar, outcar, oszicar)
    except SourcesDisagreeError as error:
        return _refused(str(error)), ""
    except FunctionalError as error:
        return {"ending": "failed", "failure": failed_because("protocol_changed", _sentence(str(error)))}, ""
    old = version_fault(functional, head.version)
    if old:
        return {"ending": "failed", "failure": failed_because("old_vasp", f"{old}.")}, functional
    return {"ending": "finished"}, functional


def _steps(reader: VasprunReader, incar: dict[str, Any], outcar: str) -> tuple[list[IonicStep], str, str]:
    """Return the steps up to one that contradicts itself, what is wrong with it, and what PSTRESS leaves in doubt."""
    raws = list(reader.steps())
    head = reader.header
    terms = terms_of(raws, head, incar, outcar)
    steps: list[IonicStep] = []
    for raw, work in zip(raws, terms.works, strict=True):
        try:
            steps.append(ionic_step(raw, head, incar, _nelm(head), work, terms.pressure, compare=not terms.doubt))
        except SourcesDisagreeError as error:
            return steps, str(error), terms.doubt
    return steps, "", terms.doubt


def _mesh(head: Header) -> Mesh | None:
    """Return the mesh of a run; None for one that is shifted, or a list of another kind."""
    points = head.kpoints
    if points.divisions is None or points.shifted or points.scheme not in ("Gamma", "Monkhorst-Pack"):
        return None
    return Mesh(points.divisions, points.scheme == "Gamma")


def _cross_checked(steps: list[IonicStep], head: Header, incar: dict[str, Any], outcar: str, oszicar: str) -> str:
    """Return the functional of a finished run whose files agree about its last energy.

    Raises
    ------
    SourcesDisagreeError, FunctionalError
        Naming what contradicts.
    """
    last, count = steps[-1], len(steps)
    others = {n: e[count - 1] for n, e in ionic_energies(outcar, oszicar).items() if len(e) == count}
    same_energies(last, others, pressure_work(head.parameters.get("PSTRESS"), last.cell))
    ran = dict(head.parameters)
    meta = re.search(r"^\s*METAGGA\s*=\s*([A-Z0-9]{3,}\w*)\s+LMAXTAU", outcar, re.MULTILINE)
    if meta:
        ran["METAGGA"] = meta.group(1)
    return functional_of({**head.incar, **incar}, ran, head.titles)


def ionic_energies(outcar: str, oszicar: str, read: str = "vasprun.xml") -> dict[str, list[tuple[float, float]]]:
    """Return file → (F, E₀) in eV of each ionic step, for those that say it and are not the file that was read.

    Parameters
    ----------
    outcar, oszicar
        Texts.
    read
        The file that the steps come from.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    free, zero = _OUTCAR_FREE.findall(outcar), _OUTCAR_ZERO.findall(outcar)
    if read != "OUTCAR" and len(free) == len(zero) and free:
        found["OUTCAR"] = [(_number(f), _number(z)) for f, z in zip(free, zero, strict=True)]
    printed = {int(n): (_number(f), _number(z)) for n, f, z in _OSZICAR.findall(oszicar)}
    if printed and sorted(printed) == list(range(1, len(printed) + 1)):
        found["OSZICAR"] = [printed[n] for n in range(1, len(printed) + 1)]
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _refused(message: str) -> dict[str, Any]:
    reason: LabelReason = "energy_mismatch"
    if message.startswith("VASP wrote no"):
        reason = "no_stress" if "stress" in message else "no_forces"
    return {"ending": "bad_output", "failure": failed_because(reason, _sentence(message))}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def temperatures_in(oszicar: str) -> list[float]:
    """Return the temperature (K) of each ionic step of MD by its number; NaN where it is not printed as a number."""
    found = {int(number): _number(text) for number, text in _TEMPERATURE.findall(oszicar)}
    return [found.get(step, float("nan")) for step in range(1, max(found, default=0) + 1)]


def read_incar(folder: Path, name: str = "INCAR") -> dict[str, Any]:
    """Return the tags of an INCAR as text, upper-case names; empty where there is none.

    Lines end at ``#`` or ``!``; ``;`` separates tags, a backslash continues a line (VASP wiki, INCAR).
    """
    text = read_text(folder, name).replace("\\\n", " ")
    tags: dict[str, Any] = {}
    for line in text.splitlines():
        for part in re.split(r"[#!]", line, maxsplit=1)[0].split(";"):
            tag, equals, value = part.partition("=")
            if equals and re.fullmatch(r"[A-Z][A-Z0-9_]*", tag.strip().upper()):
                tags.setdefault(tag.strip().upper(), plain_value(tag.strip(), value.strip()))
    return tags


def _unread(finished: bool, outcar: str, said: str, problem: str, custodian: CustodianLog) -> dict[str, Any]:
    """Return ending and failure of a run whose vasprun.xml cannot be read."""
    if finished:
        message = f"VASP ended, but vasprun.xml cannot be read: {problem}"
        return {"ending": "bad_output", "failure": failed_because("truncated_vasprun", message[:500])}
    if outcar:
        return ended(said, custodian=custodian)
    return ended(said, "VASP wrote no OUTCAR", outcar=False, custodian=custodian)


def magmoms_in(outcar: str, n_atoms: int) -> list[float] | None:
    """Return the total moment in each atom's sphere from OUTCAR's last ``magnetization (x)`` table."""
    _, found, rest = outcar.rpartition(" magnetization (x)")
    if not found:
        return None
    table = rest.split("tot", 2)[1] if "tot" in rest else rest
    rows = re.findall(r"^\s*\d+((?:\s+-?\d+\.\d+)+)\s*$", table, re.MULTILINE)
    moments = [float(row.split()[-1]) for row in rows[:n_atoms]]
    return moments if len(moments) == n_atoms else None


def _cores(outcar: str) -> int:
    found = re.search(r"running\s+(\d+)\s+mpi-ranks, with\s+(\d+)\s+threads", outcar[:20_000])
    if found:
        return int(found.group(1)) * int(found.group(2))
    older = re.search(r"running on\s+(\d+)\s+total cores", outcar[:20_000])
    return int(older.group(1)) if older else 1


def _core_hours(outcar: str) -> float | None:
    found = re.search(r"Elapsed time \(sec\):\s*([\d.]+)", outcar)
    return _cores(outcar) * float(found.group(1)) / 3600.0 if found else None


def potcars_in(folder: str | Path) -> dict[str, str]:
    """Return element → SHA-256 of the POTCAR text in a folder; empty where there is no POTCAR, or no whole one."""
    from aqvolt_flows.vasp.potcars import datasets_in

    try:
        return {dataset.element: dataset.sha256 for dataset in datasets_in(read_text(Path(folder), "POTCAR"))}
    except InputError:
        return {}
