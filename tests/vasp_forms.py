"""VASP's files in the forms that VASP writes them, of numbers that a test chooses: vasprun.xml, OUTCAR, OSZICAR, INCAR.

The forms follow real files: of VASP 5.4.4, 6.1 and 6.4.1. LiCl, rock salt, two atoms; step n has all energies n·10⁻³ eV
higher than the first.
"""

# ruff: noqa: E501 - lines of VASP's own formats
from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CELL = 2.565 * (np.ones((3, 3)) - np.eye(3))
VOLUME = float(abs(np.linalg.det(CELL)))
#: 1 eV/Å³ = 1602.176634 kbar (SI 2019, exact).
KBAR = 1602.176634
#: The same with VASP's own charge of the electron, with which it makes P·V.
VASP_KBAR = 1602.17733
TITLES = ("PAW_PBE Li_sv 10Sep2004", "PAW_PBE Cl 06Sep2000")
#: MatPES r2SCAN, as pymatgen writes it.
MATPES = {
    "ALGO": "All",
    "EDIFF": 1e-5,
    "ENCUT": 680.0,
    "ISMEAR": 0,
    "ISPIN": 2,
    "KSPACING": 0.22,
    "LASPH": True,
    "LMAXMIX": 6,
    "LMIXTAU": True,
    "LREAL": False,
    "METAGGA": "R2scan",
    "NELM": 200,
    "NSW": 0,
    "PREC": "Accurate",
    "SIGMA": 0.05,
}
#: Of the mesh that KSPACING 0.22/Å gives this cell: 2π·|b|/0.22 = 2π·0.33759/0.22 = 9.64.
MESH = (10, 10, 10)


@dataclass
class Form:
    """One run.

    Attributes
    ----------
    free, without, zero
        F, E and E₀ of the last electronic step, eV.
    ionic
        The three energies of the ionic step under their names; by default those of the electronic one.
    """

    version: str = "6.4.1"
    incar: Mapping[str, Any] = field(default_factory=lambda: dict(MATPES))
    used: Mapping[str, Any] = field(default_factory=dict)
    titles: Sequence[str] = TITLES
    mesh: tuple[int, int, int] | None = MESH
    scheme: str = "Gamma"
    steps: int = 1
    scf: int = 9
    free: float = -9.25
    without: float = -9.15
    zero: float = -9.20
    ionic: Mapping[str, float] | None = None
    stress: bool = True
    forces: bool = True
    pressed: bool = True

    @property
    def pstress(self) -> float:
        """PSTRESS, kbar; vasprun.xml takes it off the stress where ``pressed``."""
        return float(self.incar.get("PSTRESS", 0.0))

    def energies(self, step: int) -> dict[str, float]:
        """Return the energies of the last electronic step."""
        return {
            "e_fr_energy": self.free + step * 1e-3,
            "e_wo_entrp": self.without + step * 1e-3,
            "e_0_energy": self.zero + step * 1e-3,
        }

    def positions(self, step: int) -> np.ndarray:
        """Return fractional positions."""
        return np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5 + 0.001 * step]])

    def numbers(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return forces (eV/Å) and stress (kbar)."""
        forces = np.array([[0.0, 0.0, 0.1 + 0.01 * step], [0.0, 0.0, -0.1 - 0.01 * step]])
        stress = np.array([[10.0, 1.0, 2.0], [1.0, 20.0, 3.0], [2.0, 3.0, 30.0 + step]])
        return forces, stress


def _tag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f'<i type="logical" name="{name}"> {"T" if value else "F"}  </i>\n'
    if isinstance(value, int):
        return f'<i type="int" name="{name}"> {value:6d}</i>\n'
    if isinstance(value, float):
        return f'<i name="{name}"> {value:16.8f}</i>\n'
    if isinstance(value, list):
        return f'<v name="{name}"> ' + " ".join(f"{float(x):16.8f}" for x in value) + "</v>\n"
    return f'<i type="string" name="{name}">{value}</i>\n'


def _rows(name: str, rows: np.ndarray) -> str:
    return (
        f'<varray name="{name}" >\n'
        + "".join("<v> " + " ".join(f"{x:16.8f}" for x in r) + " </v>\n" for r in rows)
        + "</varray>\n"
    )


def _energy(values: Mapping[str, float]) -> str:
    return "<energy>\n" + "".join(f'<i name="{n}"> {v:16.8f} </i>\n' for n, v in values.items()) + "</energy>\n"


def vasprun(form: Form) -> str:
    """Return the text of vasprun.xml."""
    defaults = {
        "ENMAX": form.incar.get("ENCUT", 400.0),
        "NELM": form.incar.get("NELM", 60),
        "PREC": "accura",
        "ISMEAR": 0,
        "SIGMA": 0.05,
    }
    used = {**defaults, **{k: v for k, v in form.incar.items() if k != "METAGGA"}, **form.used}
    species = [title.split()[1].partition("_")[0] for title in form.titles]
    atoms = "".join(f"<rc><c>{s:<2}</c><c>{i + 1:4d}</c></rc>\n" for i, s in enumerate(species))
    kinds = "".join(
        f"<rc><c>   1</c><c>{s:<2}</c><c> 1.0</c><c> 1.0</c><c>  {t:<38}</c></rc>\n"
        for s, t in zip(species, form.titles, strict=True)
    )
    points = ""
    if form.mesh is not None:
        points = f'<generation param="{form.scheme}">\n<v type="int" name="divisions"> {form.mesh[0]:8d} {form.mesh[1]:8d} {form.mesh[2]:8d} </v>\n</generation>\n'
    head = (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>\n<i name="program" type="string">vasp </i>\n'
        f'<i name="version" type="string">{form.version}  </i>\n</generator>\n<incar>\n{"".join(_tag(k, v) for k, v in form.incar.items())}</incar>\n'
        f'<kpoints>\n{points}{_rows("kpointlist", np.zeros((2, 3)))}<varray name="weights" >\n<v> 0.5 </v>\n<v> 0.5 </v>\n</varray>\n</kpoints>\n'
        f'<parameters>\n<separator name="electronic" >\n{"".join(_tag(k, v) for k, v in used.items())}</separator>\n'
        # VASP repeats this tag in another sense
        f'<separator name="response functions" >\n{_tag("NELM", 1)}</separator>\n</parameters>\n'
        f'<atominfo>\n<atoms> {len(species)} </atoms>\n<types> {len(species)} </types>\n<array name="atoms" >\n<set>\n{atoms}</set>\n</array>\n'
        f'<array name="atomtypes" >\n<set>\n{kinds}</set>\n</array>\n</atominfo>\n{_structure(form.positions(0), "initialpos")}'
    )
    return (
        head
        + "".join(_calculation(form, n) for n in range(form.steps))
        + f"{_structure(form.positions(0), 'finalpos')}</modeling>\n"
    )


def _structure(positions: np.ndarray, name: str = "") -> str:
    named = f' name="{name}"' if name else ""
    return f"<structure{named} >\n<crystal>\n{_rows('basis', CELL)}</crystal>\n{_rows('positions', positions)}</structure>\n"


def _calculation(form: Form, step: int) -> str:
    last = form.energies(step)
    forces, stress = form.numbers(step)
    far = [{k: v + 5.0 * 0.1**n for k, v in last.items()} for n in range(form.scf - 1)]
    scf = "".join(f"<scstep>\n{_energy(e)}</scstep>\n" for e in ([*far, last] if form.scf else []))
    ionic = last if form.ionic is None else {k: v + step * 1e-3 for k, v in form.ionic.items()}
    return (
        f"<calculation>\n{scf}{_structure(form.positions(step))}"
        + (_rows("forces", forces) if form.forces else "")
        + (_rows("stress", stress - form.pstress * form.pressed * np.eye(3)) if form.stress else "")
        + _energy(ionic)
        + "<dos>\n<total>\n<array>\n<set>\n<r> 1.0 2.0 3.0 </r>\n</set>\n</array>\n</total>\n</dos>\n</calculation>\n"
    )


def outcar(form: Form, foot: bool = True) -> str:
    """Return the text of OUTCAR."""
    species = [title.split()[1].partition("_")[0] for title in form.titles]
    echo = "".join(f"   {k} = {v}\n" for k, v in form.incar.items())
    datasets = "".join(
        f"   VRHFIN ={s}: \n   LEXCH  = PE\n   TITEL  = {t}\n" for s, t in zip(species, form.titles, strict=True)
    )
    mesh = f"  generate k-points for: {form.mesh[0]:4d} {form.mesh[1]:4d} {form.mesh[2]:4d}\n" if form.mesh else ""
    cell = "      direct lattice vectors                 reciprocal lattice vectors\n" + "".join(
        f"   {r[0]:13.9f}{r[1]:13.9f}{r[2]:13.9f}   {b[0]:13.9f}{b[1]:13.9f}{b[2]:13.9f}\n"
        for r, b in zip(CELL, np.linalg.inv(CELL).T, strict=True)
    )
    head = (
        f" vasp.{form.version} 05Apr23 (build May 18 2023 13:19:41) complex\n running    4 mpi-ranks, with    1 threads/rank, on    1 nodes\n\n INCAR:\n{echo}"
        + "".join(f" POTCAR:    {t}\n" for t in form.titles)
        + f"{datasets}{cell}{mesh}   k-points           NKPTS =     35   k-points in BZ     NKDIM =     35   number of bands    NBANDS=     16\n"
        f"   ions per type =               1   1\n   ENCUT  =  {form.incar.get('ENCUT', 400.0)} eV\n   NELM   = {form.incar.get('NELM', 60):6d};   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
        f"   ISMEAR = {form.incar.get('ISMEAR', 0):5d};   SIGMA  =   0.05  broadening in eV\n"
    )
    text = head
    for step in range(form.steps):
        last = form.energies(step)
        forces, stress = form.numbers(step)
        for n in range(form.scf):
            e = {k: v + (5.0 * 0.1**n if n < form.scf - 1 else 0.0) for k, v in last.items()}
            text += (
                f"--------------------------------------- Iteration {step + 1:6d}({n + 1:4d})  ---------------------------------------\n"
                f"  free energy    TOTEN  = {e['e_fr_energy']:18.8f} eV\n\n  energy without entropy = {e['e_wo_entrp']:17.8f}  energy(sigma->0) = {e['e_0_energy']:17.8f}\n"
            )
        six = [stress[0, 0], stress[1, 1], stress[2, 2], stress[0, 1], stress[1, 2], stress[2, 0]]
        if form.stress:
            text += "  in kB  " + " ".join(f"{x:11.5f}" for x in six) + "\n"
            beyond = np.trace(stress) / 3 - form.pstress
            text += f"  external pressure = {beyond:11.2f} kB  Pullay stress = {form.pstress:11.2f} kB\n"
        text += cell + f" POSITION                                       TOTAL-FORCE (eV/Angst)\n {'-' * 83}\n"
        for at, f in zip(form.positions(step) @ CELL, forces, strict=True):
            text += " " + " ".join(f"{x:12.5f}" for x in at) + "    " + " ".join(f"{x:13.6f}" for x in f) + "\n"
        text += (
            f" {'-' * 83}\n  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  free  energy   TOTEN  = {last['e_fr_energy']:18.8f} eV\n\n"
            f"  energy  without entropy={last['e_wo_entrp']:18.8f}  energy(sigma->0) ={last['e_0_energy']:18.8f}\n"
        )
        if form.pstress:
            work = form.pstress * VOLUME / VASP_KBAR
            text += f"  enthalpy is  TOTEN    ={last['e_fr_energy'] + work:18.8f} eV   P V={work:18.8f}\n"
    return text + (
        "\n\n General timing and accounting informations for this job:\n                         Elapsed time (sec):       23.571\n"
        if foot
        else ""
    )


def oszicar(form: Form, temperatures: Sequence[str] = ()) -> str:
    """Return the text of OSZICAR; with temperatures, of MD."""
    lines = []
    for step in range(form.steps):
        e = form.energies(step)
        lines.append("DAV:   1    -0.270439798596E+02   -0.15454E-05   -0.38370E-05  2736   0.710E-02")
        md = f" T={temperatures[step]:>6} E= {e['e_fr_energy']:.8E}" if temperatures else ""
        lines.append(f"{step + 1:4d}{md} F= {e['e_fr_energy']:.7E} E0= {e['e_0_energy']:.7E}  d E =0.000000E+00")
    return "\n".join(lines) + "\n"


def incar(tags: Mapping[str, Any]) -> str:
    """Return the text of INCAR."""
    word = {True: ".TRUE.", False: ".FALSE."}
    return "".join(f"{k} = {word[v] if isinstance(v, bool) else v}\n" for k, v in tags.items())


def write_run(folder: Path, form: Form, zipped: bool = False, **further: str) -> Path:
    """Write a run's files; ``further`` adds or replaces texts by name (with ``_`` for ``.``), None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"vasprun.xml": vasprun(form), "OUTCAR": outcar(form), "OSZICAR": oszicar(form), "INCAR": incar(form.incar)}
    texts |= {name.replace("__", "."): text for name, text in further.items()}
    for name, text in texts.items():
        if text is None:
            continue
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    return folder
