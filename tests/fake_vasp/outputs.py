"""Writing vasprun.xml, OUTCAR, OSZICAR and CONTCAR in the forms that pymatgen, custodian and emmet parse.

The forms follow a real VASP 6.4.1 r2SCAN static. The mesh is named in full; eigenvalues and DOS are given at
one k-point only.
"""

# ruff: noqa: E501 - lines of VASP's own formats
from __future__ import annotations

from pathlib import Path

import numpy as np
from inputs import LOGICAL, Cell, Dataset
from physics import EV_PER_A3_IN_KBAR, VASP_KBAR

RULE = "-" * 104
FERMI, GAP = 1.0, 5.0
ORBITALS = ("s", "py", "pz", "px", "dxy", "dyz", "dz2", "dxz", "x2-y2")


class Growing:
    """A file that grows by flushed pieces, as VASP's do; ``limit`` characters fit on the disk."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w")

    def __call__(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _v(row: np.ndarray, form: str = "%16.8f") -> str:
    return "<v> " + " ".join(form % x for x in row) + " </v>\n"


def varray(name: str, rows: np.ndarray) -> str:
    return f'<varray name="{name}" >\n' + "".join(_v(r) for r in rows) + "</varray>\n"


def xml_structure(lattice: np.ndarray, fractional: np.ndarray, name: str = "") -> str:
    head = f'<structure name="{name}" >\n' if name else "<structure>\n"
    volume = abs(np.linalg.det(lattice))
    return (
        f'{head}<crystal>\n{varray("basis", lattice)}<i name="volume"> {volume:16.8f} </i>\n'
        f"{varray('rec_basis', np.linalg.inv(lattice).T)}</crystal>\n{varray('positions', fractional)}</structure>\n"
    )


def xml_tag(name: str, value: str) -> str:
    if value.upper() in LOGICAL:
        return f'<i type="logical" name="{name}"> {"T" if LOGICAL[value.upper()] else "F"}  </i>\n'
    words = value.split()
    try:
        numbers = [float(w) for w in words]
    except ValueError:
        return f'<i type="string" name="{name}">{value}</i>\n' if "*" not in value else ""
    if len(words) > 1:
        return f'<v name="{name}"> ' + " ".join(f"{x:16.8f}" for x in numbers) + "</v>\n"
    if words[0].lstrip("+-").isdigit():
        return f'<i type="int" name="{name}"> {int(words[0]):6d}</i>\n'
    return f'<i name="{name}"> {numbers[0]:16.8f}</i>\n'


def xml_head(
    tags: dict[str, str], defaults: dict[str, str], cell: Cell, datasets: list[Dataset], mesh: tuple[int, int, int]
) -> str:
    types = cell.types
    used = defaults | tags | ({"ENMAX": tags["ENCUT"]} if "ENCUT" in tags else {})  # VASP's word for the cutoff it used
    atoms = "".join(f"<rc><c>{datasets[t].element:<2}</c><c>{t + 1:4d}</c></rc>\n" for t in types)
    kinds = "".join(
        f"<rc><c>{n:4d}</c><c>{d.element:<2}</c><c>{d.mass:16.8f}</c><c>{d.valence:16.8f}</c><c>  {d.title:<38}</c></rc>\n"
        for n, d in zip(cell.counts, datasets, strict=True)
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>\n<i name="program" type="string">vasp </i>\n'
        '<i name="version" type="string">6.4.1-stand-in  </i>\n<i name="subversion" type="string">stand-in </i>\n'
        '<i name="platform" type="string">stand-in </i>\n<i name="date" type="string">2026 01 01 </i>\n'
        '<i name="time" type="string">00:00:00 </i>\n</generator>\n'
        f"<incar>\n{''.join(xml_tag(k, v) for k, v in tags.items())}</incar>\n"
        '<kpoints>\n<generation param="Gamma">\n'
        f'<v type="int" name="divisions"> {mesh[0]:8d} {mesh[1]:8d} {mesh[2]:8d} </v>\n'
        '<v name="usershift"> 0.0 0.0 0.0 </v>\n<v name="shift"> 0.0 0.0 0.0 </v>\n</generation>\n'
        f'{varray("kpointlist", np.zeros((1, 3)))}<varray name="weights" >\n<v> 1.00000000 </v>\n</varray>\n</kpoints>\n'
        f'<parameters>\n<separator name="electronic" >\n{"".join(xml_tag(k, v) for k, v in used.items())}</separator>\n</parameters>\n'
        f'<atominfo>\n<atoms> {len(types):8d} </atoms>\n<types> {len(datasets):8d} </types>\n<array name="atoms" >\n'
        '<dimension dim="1">ion</dimension>\n<field type="string">element</field>\n<field type="int">atomtype</field>\n'
        f'<set>\n{atoms}</set>\n</array>\n<array name="atomtypes" >\n<dimension dim="1">type</dimension>\n'
        '<field type="int">atomspertype</field>\n<field type="string">element</field>\n<field>mass</field>\n<field>valence</field>\n'
        f'<field type="string">pseudopotential</field>\n<set>\n{kinds}</set>\n</array>\n</atominfo>\n'
        + xml_structure(cell.lattice, cell.fractional, "initialpos")
    )


def xml_energy(energy: float) -> str:
    return (
        "<energy>\n"
        + "".join(f'<i name="{n}"> {energy:16.8f} </i>\n' for n in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
        + "</energy>\n"
    )


def xml_electrons(n_electrons: int) -> str:
    """Bands at one k-point for two spins, and a DOS of three points; the gap is GAP."""
    rows = "".join(f"<r> {e:10.4f} {o:9.4f} </r>\n" for e, o in levels(n_electrons))
    dos = "".join(f"<r> {e:10.4f} 0.0 0.0 </r>\n" for e in (FERMI - 1.5, FERMI, FERMI + 6.0))
    spins = "".join(f'<set comment="spin {s}">\n<set comment="kpoint 1">\n{rows}</set>\n</set>\n' for s in (1, 2))
    totals = "".join(f'<set comment="spin {s}">\n{dos}</set>\n' for s in (1, 2))
    return (
        '<eigenvalues>\n<array>\n<dimension dim="1">band</dimension>\n<dimension dim="2">kpoint</dimension>\n'
        f'<dimension dim="3">spin</dimension>\n<field>eigene</field>\n<field>occ</field>\n<set>\n{spins}</set>\n</array>\n</eigenvalues>\n'
        f'<dos>\n<i name="efermi"> {FERMI:16.8f} </i>\n<total>\n<array>\n<dimension dim="1">gridpoints</dimension>\n'
        '<dimension dim="2">spin</dimension>\n<field>energy</field>\n<field>total</field>\n<field>integrated</field>\n'
        f"<set>\n{totals}</set>\n</array>\n</total>\n</dos>\n"
    )


def outcar_head(tags: dict[str, str], parameters: str, datasets: list[Dataset], cell: Cell, cores: int) -> str:
    titles = "".join(f" POTCAR:    {d.title:<38}\n" for d in datasets)
    headers = "".join(
        f" POTCAR:    {d.title:<38}\n   VRHFIN ={d.element}: \n   LEXCH  = PE\n   TITEL  = {d.title}\n"
        f"   POMASS = {d.mass:8.3f}; ZVAL   = {d.valence:8.3f}    mass and valenz\n"
        for d in datasets
    )
    return (
        " vasp.6.4.1 stand-in (no VASP: numbers of a pair potential) complex\n executed on  stand-in date 2026.01.01  00:00:00\n"
        f" running {cores:4d} mpi-ranks, with    1 threads/rank, on    1 nodes\n\n{RULE}\n\n\n INCAR:\n"
        + "".join(f"   {k} = {v}\n" for k, v in tags.items())
        + f"\n{titles}{headers}\n   ions per type = {' '.join(f'{n:15d}' for n in cell.counts)}\n   NIONS = {len(cell.types)}\n{parameters}\n"
    )


def outcar_step(
    lattice: np.ndarray,
    positions: np.ndarray,
    energy: float,
    forces: np.ndarray,
    stress: np.ndarray,
    n_electrons: int,
    pstress: float = 0.0,
    sphere_moments: list[float] | None = None,
) -> str:
    """One ionic step; with PSTRESS (kbar) the enthalpy stands behind the energies, as in real files of VASP 6."""
    kbar = -stress * EV_PER_A3_IN_KBAR
    voigt = [kbar[0, 0], kbar[1, 1], kbar[2, 2], kbar[0, 1], kbar[1, 2], kbar[2, 0]]
    spheres = sphere_moments or [0.0] * len(positions)
    moments = "".join(f"{i + 1:5d}        0.000   0.000 {m:7.3f} {m:7.3f}\n" for i, m in enumerate(spheres))
    work = pstress / VASP_KBAR * abs(np.linalg.det(lattice))
    enthalpy = f"  enthalpy is  TOTEN    ={energy + work:18.8f} eV   P V={work:18.8f}\n" if pstress else ""
    rows = "".join(
        " " + " ".join(f"{x:12.5f}" for x in p) + "    " + " ".join(f"{x:13.6f}" for x in f) + "\n"
        for p, f in zip(positions, forces, strict=True)
    )
    return (
        f" E-fermi : {FERMI:8.4f}     XC(G=0):  -1.0000     alpha+bet : -1.0000\n\n"
        f" number of electron {n_electrons:15.7f} magnetization {sum(spheres):15.7f}\n"
        f" magnetization (x)\n\n# of ion       s       p       d       tot\n{'-' * 42}\n{moments}{'-' * 50}\n"
        f"tot          0.000   0.000 {sum(spheres):7.3f} {sum(spheres):7.3f}\n\n"
        f"  in kB  {' '.join(f'{x:11.5f}' for x in voigt)}\n  external pressure = {np.trace(kbar) / 3 - pstress:11.2f} kB  Pullay stress = {pstress:11.2f} kB\n\n"
        f" POSITION                                       TOTAL-FORCE (eV/Angst)\n {'-' * 83}\n{rows} {'-' * 83}\n"
        "    total drift:  " + " ".join(f"{x:13.6f}" for x in forces.sum(axis=0)) + "\n\n"
        "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---------------------------------------------------\n"
        f"  free  energy   TOTEN  = {energy:18.8f} eV\n\n  energy  without entropy={energy:18.8f}  energy(sigma->0) ={energy:18.8f}\n{enthalpy}\n\n"
    )


def levels(n_electrons: int) -> list[tuple[float, float]]:
    """Return energy (eV) and occupation of each band: filled ones below FERMI, four empty ones a GAP above."""
    filled = max(1, n_electrons // 2)
    below = [(FERMI - 1.0 - 0.1 * (filled - 1 - b), 1.0) for b in range(filled)]
    return below + [(FERMI - 1.0 + GAP + 0.1 * b, 0.0) for b in range(4)]


def xml_projections(n_electrons: int, n_atoms: int) -> str:
    """Projections of every band on the nine orbitals of every atom, one k-point, two spins: LORBIT = 11."""
    bands = levels(n_electrons)
    share = 1.0 / n_atoms
    row = f"<r>  {share / 2:6.4f}  {share / 2:6.4f}" + "  0.0000" * 7 + " </r>\n"
    fields = "".join(f"<field>{name:>6}</field>\n" for name in ORBITALS)
    band = "".join(f'<set comment="band {b + 1}">\n{row * n_atoms}</set>\n' for b in range(len(bands)))
    spins = "".join(f'<set comment="spin{s}">\n<set comment="kpoint 1">\n{band}</set>\n</set>\n' for s in (1, 2))
    return (
        '<projected>\n<array>\n<dimension dim="1">ion</dimension>\n<dimension dim="2">band</dimension>\n'
        '<dimension dim="3">kpoint</dimension>\n<dimension dim="4">spin</dimension>\n'
        f"{fields}<set>\n{spins}</set>\n</array>\n</projected>\n"
    )


def outcar_bands(n_electrons: int, mesh: tuple[int, int, int]) -> str:
    """Eigenvalues at every irreducible k-point, taken as half of the mesh, as a large NWRITE repeats them each step."""
    rows = "".join(f"{b + 1:7d} {e:11.4f} {o:11.5f}\n" for b, (e, o) in enumerate(levels(n_electrons)))
    n_kpoints = max(1, mesh[0] * mesh[1] * mesh[2] // 2)
    return "".join(
        f" k-point {k + 1:5d} :       0.0000    0.0000    0.0000\n  band No.  band energies     occupation\n{rows}\n"
        for k in range(n_kpoints)
    )


def outcar_foot(elapsed: float) -> str:
    return (
        "\n\n General timing and accounting informations for this job:\n ========================================================\n\n"
        f"                  Total CPU time used (sec): {elapsed:12.3f}\n                            User time (sec): {elapsed:12.3f}\n"
        f"                          System time (sec): {0.0:12.3f}\n                         Elapsed time (sec): {elapsed:12.3f}\n\n"
        f"                   Maximum memory used (kb): {100000.0:12.0f}.\n                   Average memory used (kb):          N/A\n\n"
    )


def poscar(comment: str, lattice: np.ndarray, names: list[str], counts: list[int], fractional: np.ndarray) -> str:
    rows = lambda block: "".join(" " + " ".join(f"{x:19.16f}" for x in r) + "\n" for r in block)  # noqa: E731
    return f"{comment}\n   1.00000000000000\n{rows(lattice)}   {'   '.join(names)}\n   {'   '.join(map(str, counts))}\nDirect\n{rows(fractional)}"
