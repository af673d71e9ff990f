"""The parts of one launch: custodian may start VASP again within it, and keeps what was there as error.N.tar.gz.

A part that was started from the CONTCAR of the one before goes on with the run, perhaps with another time step
(custodian halves POTIM where VASP's diagonalisation fails); one that was started from the same POSCAR repeats it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.vasp.continuation import read_poscar
from aqvolt_flows.vasp.outputs import Calculation, read_calculation, read_text
from aqvolt_flows.vasp.settings import changes, theory
from aqvolt_flows.vasp.used import used_changes

#: Tags that make the run one of this ensemble; the number of steps, their length and the noise may differ.
_DYNAMICS = ["IBRION", "MDALGO", "ISIF", "TEBEG", "TEEND", "LANGEVIN_GAMMA", "LANGEVIN_GAMMA_L", "PMASS", "PSTRESS"]
_ARCHIVE = re.compile(r"error\.(\d+)\.tar(\.gz)?$")
#: Å: geometries nearer than this are one; less than an atom moves in a step of MD.
SAME_A = 1e-5
#: Of an archive nothing larger is read; custodian puts no orbitals there.
_MAX_BYTES = 4 * 1024**3


@dataclass(frozen=True, eq=False)
class Part:
    """One run of VASP within a launch.

    Attributes
    ----------
    folder
        Where its files are.
    found
        What they say.
    corrections
        What custodian met in the part before it and corrected.
    """

    folder: Path
    found: Calculation
    corrections: list[str] = field(default_factory=list)

    @property
    def timestep_fs(self) -> float | None:
        """POTIM of its INCAR, fs; None where there is none."""
        potim = self.found.incar.get("POTIM")
        return None if potim is None else float(potim)


@dataclass(frozen=True, eq=False)
class Launch:
    """What the folder of a launch holds.

    Attributes
    ----------
    parts
        Those that make up the run, in order; each goes on from the one before.
    last
        What was run last, also where its steps were made before and more of them.
    repeated
        Steps that other parts made of the same stretch; no frames.
    corrections
        What custodian met, in order.
    core_hours
        Of all runs of VASP that say so, those that were repeated included; None where none does.
    unread
        Archives that cannot be read, with the reason.
    """

    parts: list[Part]
    last: Calculation
    repeated: int = 0
    corrections: list[str] = field(default_factory=list)
    core_hours: float | None = None
    unread: list[str] = field(default_factory=list)


def read_launch(folder: Path, unpacked: Path) -> Launch:
    """Return the parts of the launch in a folder.

    Parameters
    ----------
    folder
        Whatever state it is in.
    unpacked
        An empty folder for the contents of the archives; must stay as long as the parts are read.
    """
    runs, unread = _runs_of(folder, unpacked)
    said = _corrections(folder)
    acted = [errors for errors, acted in said if acted]
    parts = []
    for index, run in enumerate(runs):
        found = read_calculation(run, eigenvalues=False, partial=True)
        before = acted[index - 1] if index and len(acted) == len(runs) - 1 else []
        parts.append(Part(run, found, before))
    chosen, repeated = joined(parts)
    hours = [p.found.core_hours for p in parts if p.found.core_hours is not None]
    met = [error for errors, _ in said for error in errors]
    return Launch(chosen, parts[-1].found, repeated, met, sum(hours) if hours else None, unread)


def joined(parts: Sequence[Part]) -> tuple[list[Part], int]:
    """Return the longest way through the parts of a launch, and how many steps are not on it.

    Ways part where VASP was started from an earlier beginning again. Of equally long ways the last counts.
    """
    ways: list[list[Part]] = []
    for part in parts:
        way = ways[-1] if ways else []
        if way and _same(part, "POSCAR", way[-1], "CONTCAR"):
            ways.append([*way, part])
            continue
        again = [i for i, earlier in enumerate(way) if _same(part, "POSCAR", earlier, "POSCAR")]
        ways.append([*way[: again[-1]], part] if again else [part])
    best = max(enumerate(ways), key=lambda item: (_n_steps(item[1]), item[0]))[1]
    return best, _n_steps(parts) - _n_steps(best)


def _n_steps(parts: Sequence[Part]) -> int:
    return sum(len(part.found.steps) for part in parts)


def _same(part: Part, name: str, other: Part, other_name: str) -> bool:
    """Whether two files are one geometry, whatever their format and velocities."""
    texts = [read_text(part.folder, name), read_text(other.folder, other_name)]
    try:
        one, two = (read_poscar(text).structure for text in texts)
    except InputError:
        return bool(texts[0].strip()) and texts[0].split() == texts[1].split()
    if len(one) != len(two) or not np.allclose(one.lattice.matrix, two.lattice.matrix, atol=SAME_A):
        return False
    apart = one.frac_coords - two.frac_coords
    return bool(np.allclose((apart - np.round(apart)) @ one.lattice.matrix, 0, atol=SAME_A))


def fault_of(part: Part, asked: Mapping[str, Any], expected: Mapping[str, Any]) -> Failure | None:
    """Return why a part's steps cannot be trusted, or None.

    Parameters
    ----------
    part
        One with steps.
    asked
        The INCAR that the launch was started with.
    expected
        That of the statics; where custodian changed the theory level, the steps are of another protocol.
    """
    found = part.found
    if "MDALGO" in found.incar and not _langevin_npt(read_text(part.folder, "OUTCAR")):
        return Failure(
            reason="no_tbdyn", message="VASP ignored MDALGO = 3; use a VASP that was built with -Dtbdyn for NpT."
        )
    drift = changes(theory(expected), theory({k: v for k, v in found.incar.items() if k in expected}))
    if drift:
        return Failure(reason="protocol_changed", message=f"custodian left the theory level: {_listed(drift)}.")
    # a run that goes on keeps the mesh of its first cell, which is not that of KSPACING any more
    used = {tag: value for tag, value in found.used.items() if tag not in ("MESH", "SCHEME")}
    drift = used_changes(theory(expected), used, None)
    if drift:
        message = f"VASP used another theory level than INCAR says: {_listed(drift)}."
        return Failure(reason="protocol_changed", message=message)
    tags = [tag for tag in _DYNAMICS if tag in asked]
    drift = changes({t: asked[t] for t in tags}, {t: found.incar.get(t) for t in tags})
    if drift:
        return Failure(reason="dynamics_changed", message=f"custodian changed the dynamics: {_listed(drift)}.")
    if found.pressure_doubt:
        return Failure(reason="pressure_in_energy", message=f"No labels: {found.pressure_doubt}.")
    return None


def _listed(drift: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{tag} {old} became {new}" for tag, (old, new) in drift.items())


def _langevin_npt(outcar: str) -> bool:
    """Whether OUTCAR's list of parameters says MDALGO = 3; a VASP without tbdyn does not print it as 3."""
    after = outcar.partition("INCAR:")[2].partition("POTCAR:")[2]
    return re.search(r"^\s*MDALGO\s*=\s*3\b", after, re.MULTILINE) is not None


def _runs_of(folder: Path, unpacked: Path) -> tuple[list[Path], list[str]]:
    """Return a folder for each run of VASP in the launch, in order, and the archives that cannot be read.

    Two handlers that correct one run make two archives of it; it is taken once.
    """
    numbered = [(int(m.group(1)), p) for p in folder.glob("error.*.tar*") if (m := _ARCHIVE.search(p.name))]
    runs, unread, seen = [], [], set()
    for number, path in sorted(numbered):
        target = unpacked / str(number)
        try:
            _unpack(path, target)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            unread.append(f"{path.name} cannot be read, its steps are lost: {error}")
            continue
        mark = _mark(target)
        if mark not in seen:
            runs.append(target)
            seen.add(mark)
    if not runs or _mark(folder) not in seen:
        return [*runs, folder], unread
    (runs[-1] / "REPORT").write_text(read_text(folder, "REPORT"))  # custodian puts no REPORT into its archives
    return runs, unread


def _unpack(path: Path, target: Path) -> None:
    """Write the plain files of an archive into a new folder, by their last names."""
    target.mkdir(parents=True)
    with tarfile.open(path) as archive:
        for member in archive:
            source = archive.extractfile(member) if member.isfile() and member.size <= _MAX_BYTES else None
            if source is not None:
                (target / Path(member.name).name).write_bytes(source.read())


def _mark(folder: Path) -> str:
    """Return what tells one run of VASP from another: a hash of what it wrote."""
    text = read_text(folder, "vasprun.xml") + read_text(folder, "OUTCAR")
    return hashlib.sha256(text.encode()).hexdigest() if text else str(folder)


def _corrections(folder: Path) -> list[tuple[list[str], bool]]:
    """Return what custodian met, in order, each with whether it did anything about it; empty without its log."""
    text = read_text(folder, "custodian.json")
    try:
        runs = json.loads(text) if text else []
        return [
            ([str(e) for e in c.get("errors") or []], bool(c.get("actions")))
            for run in runs
            for c in run.get("corrections") or []
        ]
    except (ValueError, AttributeError, TypeError):
        return []
