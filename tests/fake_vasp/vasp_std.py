#!/usr/bin/env python3
"""A stand-in for VASP: reads its inputs, computes with a pair potential, writes its files, fails when told to.

``FAKE_VASP_PLAN`` may name a JSON file that tells how runs end: ``frames`` maps the SHA-256 of a POSCAR's text to a
rule, and ``rules`` are tried in order for all others; the first that applies decides. A rule has

``mode``
    ok, scf (SCF never converges), zbrent, eddrmm (a warning for which custodian starts VASP again), killed (SIGKILL in
    the middle of writing), signal (a segmentation fault that the Fortran runtime reports), truncated (vasprun.xml cut
    short although VASP ended), wall_time (SIGTERM by the scheduler), out_of_memory, no_space.
``fraction``
    Of all POSCARs, chosen by a hash of the file and the plan's ``seed``; fractions of successive rules add up.
``attempts``
    The rule applies only to the first so many runs in a folder, so that a retry succeeds; with ``across`` to the first
    so many runs of the POSCAR in any folder.

``FAKE_VASP_VERBOSE`` makes it write what a large ``NWRITE`` and ``LORBIT = 11`` write: eigenvalues after every
electronic step, and projections on all atoms. ``FAKE_VASP_SECONDS`` is how long ten electronic steps take. A STOPCAR
with LABORT ends a run after the electronic step, unconverged. ``FAKE_VASP_MOMENTS`` are the moments of the atoms that
it prints. ``FAKE_VASP_BASIS`` is the energy (eV/atom) of an incomplete basis: it rises with the logarithm of the volume
over that of the cell which the basis was made for, that of POSCAR or, with ISTART = 2, that in WAVECAR.
With PSTRESS, vasprun.xml has P·V in the energies of ionic steps and P taken off their stress.

Static (NSW = 0) and NpT Langevin MD (IBRION = 0, MDALGO = 3) are known.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
from continuation import read_velocities, report_line, velocity_blocks
from inputs import (
    Cell,
    Dataset,
    VaspError,
    check_incar,
    divisions,
    logical,
    match,
    number,
    read_incar,
    read_poscar,
    read_potcar,
    vector,
)
from outputs import (
    RULE,
    Growing,
    outcar_bands,
    outcar_foot,
    outcar_head,
    outcar_step,
    poscar,
    varray,
    xml_electrons,
    xml_energy,
    xml_head,
    xml_projections,
    xml_structure,
)
from physics import EV_PER_A3_IN_KBAR, VASP_KBAR, NpT, evaluate

DEFAULTS = {
    "NELM": "60",
    "NSW": "0",
    "IBRION": "-1",
    "ISPIN": "1",
    "LORBIT": "0",
    "LDAU": "F",
    "GGA": "--",
    "METAGGA": "--",
    "EDIFF": "0.0001",
    "ISMEAR": "1",
    "SIGMA": "0.2",
    "ENMAX": "300.0",
    "POTIM": "0.5",
    "LHFCALC": "F",
    "NELMIN": "2",
    "NELMDL": "-5",
    "LASPH": "F",
    "ISIF": "2",
    "LUSE_VDW": "F",
}


def planned_mode(folder: Path, poscar_text: str) -> str:
    """Return how this run is to end."""
    attempt = counted(folder / "fake_vasp.attempts")
    plan = os.environ.get("FAKE_VASP_PLAN")
    if not plan:
        return "ok"
    settings = json.loads(Path(plan).read_text())
    poscar_hash = hashlib.sha256(poscar_text.encode()).hexdigest()
    rule = settings.get("frames", {}).get(poscar_hash) or drawn(settings, poscar_text)
    if rule is None:
        return "ok"
    if rule.get("across"):
        attempt = counted(Path(f"{plan}.{poscar_hash[:16]}"))
    return str(rule["mode"]) if attempt < rule.get("attempts", 1_000_000) else "ok"


def drawn(settings: dict, poscar_text: str) -> dict | None:
    """Return the rule that the hash of this POSCAR falls upon."""
    digest = hashlib.sha256(f"{settings.get('seed', 0)}\n{poscar_text}".encode()).digest()
    lot, edge = int.from_bytes(digest[:6], "big") / 2**48, 0.0
    for rule in settings.get("rules", []):
        edge += rule.get("fraction", 1.0)
        if lot < edge:
            return rule
    return None


def counted(counter: Path) -> int:
    """Return how often this was asked before."""
    before = int(counter.read_text()) if counter.is_file() else 0
    counter.write_text(str(before + 1))
    return before


class Run:
    """One run of the stand-in in the working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, time.perf_counter()
        self.tags = read_incar(folder / "INCAR")
        check_incar(self.tags)
        self.cell: Cell = read_poscar(folder / "POSCAR")
        self.datasets: list[Dataset] = read_potcar(folder / "POTCAR")
        self.warnings = match(self.cell, self.datasets)
        self.types = self.cell.types
        self.mesh = divisions(self.cell, self.tags, folder / "KPOINTS")
        if int(number(self.tags, "ISPIN", 1)) == 2:
            vector(self.tags, "MAGMOM", len(self.types))
        self.nelm, self.nsw = int(number(self.tags, "NELM", 60)), int(number(self.tags, "NSW", 0))
        self.n_electrons = round(sum(n * d.valence for n, d in zip(self.cell.counts, self.datasets, strict=True)))
        self.radii = [self.datasets[t].radius for t in self.types]
        self.atom_energies = [self.datasets[t].atom_energy for t in self.types]
        self.verbose = "FAKE_VASP_VERBOSE" in os.environ
        self.pstress = number(self.tags, "PSTRESS", 0.0)
        moments = os.environ.get("FAKE_VASP_MOMENTS")
        self.moments = [float(m) for m in moments.split()] if moments else None
        self.basis_cell = self.cell.lattice
        kept = folder / "WAVECAR"
        if int(number(self.tags, "ISTART", 0)) == 2 and kept.is_file():
            self.basis_cell = np.array(json.loads(kept.read_text().splitlines()[0]))
        self.pause = float(os.environ.get("FAKE_VASP_SECONDS", "0")) / 10
        self.mode = planned_mode(folder, (folder / "POSCAR").read_text())
        self.xml, self.outcar, self.oszicar = (Growing(folder / n) for n in ("vasprun.xml", "OUTCAR", "OSZICAR"))

    def main(self) -> int:
        for line in (*self.warnings, "entering main loop"):
            print(f" {line}", flush=True)
        md = self.nsw > 0
        if md and int(number(self.tags, "IBRION", -1)) != 0:
            raise VaspError("this stand-in relaxes nothing: IBRION must be 0 where NSW is not")
        langevin = md and int(number(self.tags, "MDALGO", 0)) == 3 and "FAKE_VASP_NO_TBDYN" not in os.environ
        bands = max(1, self.n_electrons // 2) + 4
        parameters = (
            "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   "
            f"number of bands    NBANDS= {bands:6d}\n   total plane-waves  NPLWV =  46656\n"
            f"   ISPIN  = {int(number(self.tags, 'ISPIN', 1)):6d}    spin polarized calculation?\n"
            "   LNONCOLLINEAR =      F non collinear calculations\n"
            f" Ionic relaxation\n   NSW    = {self.nsw:6d}\n   IBRION = {0 if md else -1:6d}\n"
        )
        parameters += "   MDALGO =      3\n" if langevin else ""
        for fine, dense in (("", 7), ("F", 14)):  # points per Å of PREC = Accurate at 680 eV, about
            lengths = np.linalg.norm(self.cell.lattice, axis=1)
            grid = [
                int(number(self.tags, f"NG{x}{fine}", np.ceil(dense * a))) for x, a in zip("XYZ", lengths, strict=True)
            ]
            a, b, c = (f"NG{x}{fine or ' '}={n:6d}" for x, n in zip("XYZ", grid, strict=True))
            parameters += f"   dimension x,y,z {a} {b} {c}\n"
        self.xml(
            xml_head(self.tags, DEFAULTS | {"NELECT": f"{self.n_electrons:.8f}"}, self.cell, self.datasets, self.mesh)
        )
        self.outcar(
            outcar_head(self.tags, parameters, self.datasets, self.cell, int(os.environ.get("FAKE_VASP_CORES", "1")))
        )
        if self.mode == "zbrent":
            print(
                " ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR", flush=True
            )
            return 1
        lattice, fractional = self.dynamics() if md else self.static()
        return self.end(lattice, fractional)

    def static(self) -> tuple[np.ndarray, np.ndarray]:
        lattice, fractional = self.cell.lattice, self.cell.fractional
        energy, forces, stress = evaluate(lattice, fractional, self.types, self.radii, self.atom_energies)
        energy = self.ionic_step(1, lattice, fractional, energy, forces, stress, last=True)
        self.oszicar(f"   1 F= {energy:.8E} E0= {energy:.8E}  d E =0.000000E+00  mag=     0.0000\n")
        return lattice, fractional

    def dynamics(self) -> tuple[np.ndarray, np.ndarray]:
        seed, calls = (int(x) for x in (vector(self.tags, "RANDOM_SEED", 2) or [0.0, 0.0]))
        friction = (vector(self.tags, "LANGEVIN_GAMMA", len(self.datasets)) or [10.0])[0]
        run = NpT(
            self.cell.lattice,
            self.cell.fractional,
            self.types,
            [self.datasets[t].mass for t in self.types],
            self.radii,
            self.atom_energies,
            temperature=number(self.tags, "TEBEG", 0.0),
            timestep=number(self.tags, "POTIM", 0.5),
            friction=friction,
            seed=seed,
            calls=calls,
            velocities=read_velocities(self.folder / "POSCAR", len(self.types)),
        )
        report = Growing(self.folder / "REPORT")
        pressure = self.pstress / EV_PER_A3_IN_KBAR
        for step in range(1, self.nsw + 1):
            temperature = run.temperature
            last = step == self.nsw
            e = self.ionic_step(step, run.cell, run.fractional, run.energy, run.forces, run.stress, last=last)
            self.oszicar(
                f"{step:7d} T={temperature:7.0f}. E= {e:.8E} F= {e:.8E} E0= {e:.8E}  "
                "EK= 0.00000E+00 SP= 0.00E+00 SK= 0.00E+00 mag=     0.0000\n"
            )
            run.step(pressure)  # CONTCAR holds the configuration of the next step, as VASP's does
            report(report_line(step, seed, run.calls))
            self.blocks = velocity_blocks(run.cell, run.rate, run.velocities)
            self.contcar(run.cell, run.fractional)
            if (self.folder / "STOPCAR").is_file():
                self.outcar("\n soft stop encountered!  aborting job ...\n")
                break
        return run.cell, run.fractional

    blocks = ""

    def contcar(self, lattice: np.ndarray, fractional: np.ndarray) -> None:
        text = poscar(self.cell.comment, lattice, self.cell.names, self.cell.counts, fractional)
        (self.folder / "CONTCAR").write_text(text + self.blocks)

    def ionic_step(
        self,
        step: int,
        lattice: np.ndarray,
        fractional: np.ndarray,
        energy: float,
        forces: np.ndarray,
        stress: np.ndarray,
        *,
        last: bool,
    ) -> float:
        """Write one ionic step and return its energy; runs that die do so between its pieces."""
        volume = abs(np.linalg.det(lattice))
        lack = float(os.environ.get("FAKE_VASP_BASIS", "0")) * len(self.types)
        energy = energy + lack * float(np.log(volume / abs(np.linalg.det(self.basis_cell))))
        stress = stress + lack / volume * np.eye(3)
        pressed = self.pstress / VASP_KBAR
        self.xml("<calculation>\n")
        converged = self.self_consistency(step, energy)
        self.outcar(f"\n{RULE}\n\n" + (" aborting loop because EDIFF is reached\n" if converged else ""))
        if step >= max(1, (self.nsw + 1) // 2):
            self.die()
        self.outcar(
            outcar_step(
                lattice, fractional @ lattice, energy, forces, stress, self.n_electrons, self.pstress, self.moments
            )
        )
        self.xml(
            xml_structure(lattice, fractional)
            + varray("forces", forces)
            + varray("stress", -stress * EV_PER_A3_IN_KBAR - self.pstress * np.eye(3))
            + xml_energy(energy + pressed * volume)
            + '<time name="totalsc">    0.10    0.10</time>\n'
            + (xml_electrons(self.n_electrons) if last else "")
            + (xml_projections(self.n_electrons, len(self.types)) if last and self.verbose else "")
            + "</calculation>\n"
        )
        return energy

    def self_consistency(self, step: int, energy: float) -> bool:
        """Write electronic steps whose energies fall to the end by e^−1.7 each, or swing for ever (mode scf)."""
        threshold = number(self.tags, "EDIFF", 1e-4)
        self.oszicar("       N       E                     dE             d eps       ncg     rms          rms(c)\n")
        previous = 0.0
        for n in range(1, self.nelm + 1):
            excess = 0.5 * (-1) ** n if self.mode == "scf" else 80.0 * np.exp(-1.7 * n)
            now = energy + excess
            change, previous = now - previous, now
            self.oszicar(f"CG : {n:3d}    {now:.12E}   {change:12.5E}  {change:12.5E}    100   0.100E+00\n")
            self.xml(f"<scstep>\n{xml_energy(now)}</scstep>\n")
            self.outcar(f"\n{RULE}\n\n Iteration {step:6d}({n:4d})\n\n")
            if self.verbose:
                self.outcar(outcar_bands(self.n_electrons, self.mesh))
            time.sleep(self.pause)
            if self.told_to_abort():
                return False
            if abs(change) < threshold and n >= int(number(self.tags, "NELMIN", 2)):
                return True
        return False

    def told_to_abort(self) -> bool:
        stopcar = self.folder / "STOPCAR"
        if not (stopcar.is_file() and re.search(r"LABORT\s*=\s*\.?T", stopcar.read_text(), re.IGNORECASE)):
            return False
        print(" hard stop encountered!  aborting job ...", flush=True)
        self.outcar(" hard stop encountered!  aborting job ...\n")
        return True

    def die(self) -> None:
        """End this process the way the mode says; unfinished files stay as they are."""
        if self.mode == "eddrmm":
            print(" WARNING in EDDRMM: call to ZHEGV failed, returncode =   6  3     10", flush=True)
            os._exit(1)
        said = {
            "wall_time": (
                "slurmstepd: error: *** STEP 1.0 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***",
                signal.SIGTERM,
            ),
            "out_of_memory": ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0.", signal.SIGKILL),
            "killed": ("", signal.SIGKILL),
            "signal": ("forrtl: severe (174): SIGSEGV, segmentation fault occurred", signal.SIGKILL),
        }
        if self.mode == "no_space":
            print(
                "forrtl: No space left on device\nforrtl: severe (38): error during write, unit 20, file OUTCAR",
                file=sys.stderr,
                flush=True,
            )
            os._exit(38)
        if self.mode in said:
            text, number_ = said[self.mode]
            if text:
                print(text, file=sys.stderr, flush=True)
            self.xml('<structure>\n<crystal>\n<varray name="basis" >\n<v>   1.0')
            os.kill(os.getpid(), number_)

    def end(self, lattice: np.ndarray, fractional: np.ndarray) -> int:
        self.xml(xml_structure(lattice, fractional, "finalpos") + "</modeling>\n")
        self.contcar(lattice, fractional)
        self.outcar(outcar_foot(max(time.perf_counter() - self.started, 0.001)))
        for file in (self.xml, self.outcar, self.oszicar):
            file.close()
        if self.mode == "truncated":
            path = self.folder / "vasprun.xml"
            os.truncate(path, path.stat().st_size * 6 // 10)
        if logical(self.tags, "LCHARG", True):
            (self.folder / "CHGCAR").write_text("a charge density is large and is not kept\n")
        if self.nsw > 0 and logical(self.tags, "LWAVE", True):
            (self.folder / "WAVECAR").write_text(json.dumps(self.basis_cell.tolist()) + "\norbitals\n")
        return 0


def main() -> int:
    print(" running    1 mpi-ranks, with    1 threads/rank, on    1 nodes\n vasp.6.4.1 stand-in complex", flush=True)
    try:
        return Run(Path.cwd()).main()
    except VaspError as complaint:
        print(f" {complaint}\n ----> I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!! <----", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
