"""Reading what VASP left in a folder: arrays in our units, and how the run ended."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure, LabelReason, failed_because
from aqvolt_flows.units import matrix_to_voigt, vasp_stress_to_ase
from aqvolt_flows.vasp.pressure import Printed, Terms, pressure_terms

if TYPE_CHECKING:
    from pymatgen.io.vasp.outputs import Vasprun

Array = NDArray[np.float64]
Ending = Literal["finished", "killed", "bad_output", "failed"]

#: The last lines of a run that came to its end; VASP writes the timing table only then.
_FOOTER = "General timing and accounting informations for this job"
_TAIL_BYTES = 60_000
#: OSZICAR's line of one MD step begins with its number and temperature.
_TEMPERATURE = re.compile(r"^\s*\d+ T=\s*([-+.\dEe]+)", re.MULTILINE)
#: … and ends with the total moment.
_MAGNETIZATION = re.compile(r"^\s*\d+ T=.*mag=\s*(-?\d+\.\d+)\s*$", re.MULTILINE)
#: What schedulers, kernels and VASP say when a run is ended from outside → reason. The first match wins.
_KILL_SIGNS: tuple[tuple[LabelReason, str], ...] = (
    ("no_space_left", r"No space left on device|ENOSPC|Disk quota exceeded"),
    ("out_of_memory", r"oom[-_ ]?kill|Out of memory|Cannot allocate memory|insufficient virtual memory|std::bad_alloc"),
    ("wall_time", r"DUE TO TIME LIMIT|walltime|wall time limit|hard stop encountered|soft stop encountered"),
    ("signal", r"forrtl: severe \(174\)|SIG(TERM|KILL|SEGV)|Segmentation fault|signal (9|15)|Killed|CANCELLED"),
)
#: A STOPCAR ended the run: "hard" (LABORT) in the middle of the last step's SCF, which is as short as a converged one;
#: "soft" (LSTOP) after a whole step (VASP wiki, STOPCAR).
_STOPPED = r"(hard|soft) stop encountered"
#: What VASP says before it stops by itself (its own text; custodian's VaspErrorHandler looks for the same).
_COMPLAINTS = (
    r"ZBRENT: fatal|VERY BAD NEWS|internal error|BRMIX: very serious|Sub-Space-Matrix is not hermitian|EDDDAV: Call to"
    r"|POSMAP internal error|SGRCON|triple product of the basis vectors|LAPACK: Routine ZPOTRF failed"
    r"|number of potentials on File POTCAR|Error reading item|No initial positions|REFUSE TO CONTINUE"
)


@dataclass(frozen=True, eq=False)
class IonicStep:
    """One ionic step.

    Attributes
    ----------
    fractional, cell
        (n_atoms, 3) and (3, 3; Å, rows are vectors).
    energy
        VASP's energy extrapolated to zero smearing (``e_0_energy``), total, eV; without the P·V of PSTRESS.
    forces
        (n_atoms, 3), eV/Å.
    stress
        (6,), eV/Å³, ASE sign, xx yy zz yz xz xy; that of the cell itself, whatever PSTRESS is.
    scf_steps
        Electronic steps made; as many as NELM means not converged.
    """

    fractional: Array
    cell: Array
    energy: float
    forces: Array
    stress: Array
    scf_steps: int

    @property
    def positions(self) -> Array:
        """Cartesian positions, (n_atoms, 3), Å."""
        return np.asarray(self.fractional @ self.cell)


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
    magnetizations
        Total moment after each step of MD, μB, as far as OSZICAR tells it.
    kpoints
        The mesh that was used and its kind, for another run with the same; None for another kind of list.
    pressure_doubt
        Why the numbers of a run with PSTRESS cannot be those of labels (:mod:`aqvolt_flows.vasp.pressure`), or empty.
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

    @property
    def converged(self) -> bool:
        """Whether the run finished with a self-consistent last step."""
        return self.ending == "finished" and bool(self.steps) and self.steps[-1].scf_steps < self.nelm


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pymatgen's advice (POTCAR searches, XML repairs); what matters becomes a reason here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
    except (OSError, EOFError):
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
    oszicar = read_text(where, "OSZICAR")
    common: dict[str, Any] = {
        "cores": _cores(outcar),
        "core_hours": _core_hours(outcar),
        "corrections": _corrections(where),
        "temperatures": [float(t) for t in _TEMPERATURE.findall(oszicar)],
        "magnetizations": [float(m) for m in _MAGNETIZATION.findall(oszicar)],
    }
    try:
        run = _vasprun(where, eigenvalues, partial)
    # An XML parser's error is a SyntaxError, whether of lxml or of the standard library.
    except (SyntaxError, ValueError, KeyError, IndexError, OSError, EOFError, AttributeError, TypeError) as error:
        return Calculation(**_unread(finished, outcar, said, error), **common)
    if not run.ionic_steps:
        return Calculation(**_unread(finished, outcar, said, ValueError("it holds no ionic step")), **common)
    terms = _pressure_terms(run, outcar)
    steps = [_ionic_step(step, work, terms.pressure) for step, work in zip(run.ionic_steps, terms.works, strict=True)]
    stopped = re.search(_STOPPED, said)
    if finished and stopped:
        finished = False
        steps = steps[:-1] if stopped.group(1) == "hard" else steps
    return Calculation(
        **({"ending": "finished"} if finished else _ended(said)),
        version=str(run.vasp_version).split()[0],
        incar=_incar(where) or dict(run.incar),
        nelm=int(run.parameters.get("NELM", 60)),
        symbols=[str(s) for s in run.atomic_symbols],
        steps=steps,
        magmoms=_magmoms(outcar, len(run.atomic_symbols)),
        bandgap=_bandgap(run, outcar) if eigenvalues else None,
        titles=[str(t) for t in run.potcar_symbols],
        electrons=float(run.parameters["NELECT"]) if "NELECT" in run.parameters else None,
        kpoints=_mesh(run),
        pressure_doubt=terms.doubt,
        **common,
    )


def _incar(folder: Path) -> dict[str, Any]:
    """Return INCAR as it lies in the folder; vasprun.xml repeats only tags that VASP knows to print."""
    from pymatgen.io.vasp.inputs import Incar

    with _quiet():
        return dict(Incar.from_str(read_text(folder, "INCAR")))


def _vasprun(folder: Path, eigenvalues: bool, partial: bool) -> Vasprun:
    from pymatgen.io.vasp.outputs import Vasprun

    path = locate(folder, "vasprun.xml")
    if path is None:
        raise FileNotFoundError("there is no vasprun.xml")
    with _quiet():
        return Vasprun(
            path,
            parse_dos=False,
            parse_eigen=eigenvalues,
            parse_projected_eigen=False,
            parse_potcar_file=False,
            exception_on_bad_xml=not partial,
        )


def _unread(finished: bool, outcar: str, said: str, error: Exception) -> dict[str, Any]:
    """Return ending and failure of a run whose vasprun.xml cannot be read."""
    if finished:
        message = f"VASP ended, but vasprun.xml cannot be read ({type(error).__name__}: {error})"
        return {"ending": "bad_output", "failure": failed_because("truncated_vasprun", message[:500])}
    return _ended(said) if outcar else _ended(said, "VASP wrote no OUTCAR", outcar=False)


def _ended(
    said: str, otherwise: str = "OUTCAR has no timing table, VASP did not come to its end", outcar: bool = True
) -> dict[str, Any]:
    """Return ending and failure of a run without an end: killed from outside, given up by VASP, or never started."""
    for reason, pattern in _KILL_SIGNS:
        found = re.search(pattern, said, re.IGNORECASE)
        if found:
            return {"ending": "killed", "failure": failed_because(reason, _line_of(said, found))}
    complaint = re.search(_COMPLAINTS, said)
    if complaint:
        return {"ending": "failed", "failure": failed_because("vasp_error", _line_of(said, complaint))}
    if not outcar and said.strip():
        last = said.strip().splitlines()[-1].strip()[:300]
        return {"ending": "failed", "failure": failed_because("vasp_not_started", f"{otherwise}: {last}")}
    return {"ending": "killed", "failure": failed_because("interrupted", otherwise)}


def _line_of(said: str, found: re.Match[str]) -> str:
    """Return the whole line in which a match stands."""
    start = said.rfind("\n", 0, found.start()) + 1
    end = said.find("\n", found.end())
    return said[start : end if end >= 0 else None].strip(" |\n")[:300]


def _ionic_step(step: dict[str, Any], work: float = 0.0, pressure_kbar: float = 0.0) -> IonicStep:
    structure = step["structure"]
    in_kbar = np.asarray(step["stress"], dtype=float) + pressure_kbar * np.eye(3)
    stress = matrix_to_voigt(vasp_stress_to_ase(in_kbar))
    return IonicStep(
        fractional=np.asarray(structure.frac_coords, dtype=float),
        cell=np.asarray(structure.lattice.matrix, dtype=float),
        energy=float(step["e_0_energy"]) - work,
        forces=np.asarray(step["forces"], dtype=float),
        stress=stress,
        scf_steps=len(step["electronic_steps"]),
    )


def _pressure_terms(run: Vasprun, outcar: str) -> Terms:
    """Return what PSTRESS added to a run's energies and stresses."""
    pstress = float(run.incar.get("PSTRESS") or run.parameters.get("PSTRESS") or 0.0)
    if not pstress:
        return Terms([0.0] * len(run.ionic_steps))
    printed = []
    for step in run.ionic_steps:
        last = step["electronic_steps"][-1] if step["electronic_steps"] else {}
        electronic = last.get("e_fr_energy")
        printed.append(
            Printed(
                volume=float(step["structure"].volume),
                free=float(step["e_fr_energy"]),
                electronic=None if electronic is None else float(electronic),
                pressure=float(np.trace(np.asarray(step["stress"], dtype=float))) / 3,
            )
        )
    return pressure_terms(pstress, printed, len(run.atomic_symbols), outcar)


def _mesh(run: Vasprun) -> Mesh | None:
    """Return the mesh of a run; None for one that is shifted, or a list of another kind."""
    from pymatgen.io.vasp.inputs import KpointsSupportedModes

    styles = {KpointsSupportedModes.Gamma: True, KpointsSupportedModes.Monkhorst: False}
    found = run.kpoints
    if found is None or found.style not in styles or any(found.kpts_shift or ()):
        return None
    a, b, c = (int(n) for n in found.kpts[0])
    return Mesh((a, b, c), styles[found.style])


def _bandgap(run: Vasprun, outcar: str) -> float | None:
    """Return the gap in eV; the Fermi level is OUTCAR's last, vasprun.xml keeps it in the unread DOS."""
    levels = re.findall(r"E-fermi :\s*(-?[\d.]+)", outcar)
    if not run.eigenvalues or not levels:
        return None
    run.efermi = float(levels[-1])
    with _quiet():
        return float(np.min(run.eigenvalue_band_properties[0]))


def _magmoms(outcar: str, n_atoms: int) -> list[float] | None:
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


def _corrections(folder: Path) -> list[str]:
    """Return the errors that custodian met, in order."""
    text = read_text(folder, "custodian.json")
    try:
        runs = json.loads(text) if text else []
    except ValueError:
        return []
    return [str(e) for run in runs for c in run.get("corrections", []) for e in c.get("errors", [])]


def potcars_in(folder: str | Path) -> dict[str, str]:
    """Return element → SHA-256 of the POTCAR text in a folder; empty where there is no POTCAR, or no whole one."""
    from aqvolt_flows.vasp.potcars import datasets_in

    try:
        return {dataset.element: dataset.sha256 for dataset in datasets_in(read_text(Path(folder), "POTCAR"))}
    except InputError:
        return {}
