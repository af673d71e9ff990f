"""GPAW r2SCAN statics: the license-free DFT labeler."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aqvolt_flows.checks import Check, Status
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.labeling.configuration import Configuration
from aqvolt_flows.labeling.outcomes import LabelError, with_facts
from aqvolt_flows.labeling.protocols import gpaw_protocol, gpaw_settings
from aqvolt_flows.labeling.static_maker import Asked, JobFolder, StaticMaker
from aqvolt_flows.labeling.validate import computed
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import Protocol, failed_because
from aqvolt_flows.vasp.settings import element_moment


def kpoint_grid(cell: np.ndarray, kspacing: float) -> tuple[int, int, int]:
    """Return divisions for a spacing by VASP's rule, max(1, ⌈|b_i|/KSPACING⌉) with b_i including 2π.

    Parameters
    ----------
    cell
        (3, 3), Å, rows are lattice vectors.
    kspacing
        1/Å (VASP wiki, KSPACING).
    """
    reciprocal = 2 * np.pi * np.linalg.inv(np.asarray(cell, dtype=float)).T
    divisions = np.maximum(1, np.ceil(np.linalg.norm(reciprocal, axis=1) / kspacing - 1e-8)).astype(int)
    return int(divisions[0]), int(divisions[1]), int(divisions[2])


def missing_setups(elements: Iterable[str]) -> list[str]:
    """Return the elements, sorted, for which the installed GPAW finds no PAW dataset.

    For a meta-GGA GPAW takes the PBE datasets, so that core electrons are PBE's.

    Raises
    ------
    ImportError
        If GPAW is not installed.
    """
    from gpaw.setup_data import search_for_file

    missing = []
    for element in sorted(set(elements)):
        try:
            search_for_file(f"{element}.PBE")
        except (FileNotFoundError, RuntimeError):
            missing.append(element)
    return missing


def evaluate_configuration(
    given: Configuration, ecut_ev: float, kspacing: float, frame_id: str, key: str, protocol: Protocol, log: Path
) -> LabelOutcome:
    """Return the outcome of one GPAW static: energy extrapolated to zero smearing, forces, stress.

    GPAW counts energies from its own reference atoms, not from VASP's; labels of both must not be mixed,
    and cohesive energies from VASP's isolated atoms do not apply to them.

    Raises
    ------
    LabelError
        ``missing_gpaw`` if GPAW is not installed, ``missing_setup`` if it has no dataset for an element.
    """
    try:
        from gpaw import GPAW, PW, FermiDirac, KohnShamConvergenceError
        from gpaw.mpi import world
    except ImportError as error:
        raise LabelError("missing_gpaw", f"GPAW cannot be imported ({error}); install the extra gpaw.") from error

    wanted = gpaw_settings(ecut_ev, kspacing)
    atoms: Any = given.to_atoms()
    absent = missing_setups(atoms.get_chemical_symbols())
    if absent:
        raise LabelError(
            "missing_setup",
            f"GPAW has no PAW dataset for {', '.join(absent)}; expected in gpaw-data or GPAW_SETUP_PATH; or choose "
            "another labeler.",
        )
    moments = [element_moment(s) for s in atoms.get_chemical_symbols()]
    if any(moments):
        atoms.set_initial_magnetic_moments(moments)
    atoms.calc = GPAW(
        mode=PW(wanted["ecut_ev"]),
        xc=wanted["xc"],
        kpts={"size": kpoint_grid(atoms.cell.array, kspacing), "gamma": True},
        occupations=FermiDirac(wanted["width_ev"]),
        convergence={"energy": wanted["energy_convergence_ev_per_electron"]},
        symmetry="off",
        txt=str(log),
    )
    started = time.perf_counter()
    try:
        energy = float(atoms.get_potential_energy())
        forces = np.asarray(atoms.get_forces(), dtype=np.float64)
        stress = np.asarray(atoms.get_stress(voigt=True), dtype=np.float64)
    except KohnShamConvergenceError as error:
        failure = failed_because("electronic", str(error)[:500] or "GPAW's SCF did not converge.")
        asked: dict[str, Any] = {"frame_id": frame_id, "key": key, "protocol": protocol}
        cost = {"cost_core_hours": _hours(started, world.size), "details": _cost(started, world.size)}
        return LabelOutcome.model_validate(
            asked | given.fields() | cost | {"status": "unconverged", "failure": failure}
        )
    return computed(
        frame_id=frame_id,
        key=key,
        protocol=protocol,
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        energy=energy,
        forces=forces,
        stress=stress,
        cost_core_hours=_hours(started, world.size),
        details={"kpoints": list(kpoint_grid(atoms.cell.array, kspacing)), **_cost(started, world.size)},
    )


def _cost(started: float, cores: int) -> dict[str, object]:
    return {"wall_s": round(time.perf_counter() - started, 3), "cores": int(cores)}


def _hours(started: float, cores: int) -> float:
    return (time.perf_counter() - started) * cores / 3600.0


@dataclass
class GpawStaticMaker(StaticMaker):
    """Compute energy, forces and stress of a structure with GPAW r2SCAN.

    Parameters
    ----------
    name
        Job name.
    ecut_ev
        Plane-wave cutoff, eV.
    kspacing
        Largest distance of k-points, 1/Å, VASP's definition (with 2π).
    """

    name: str = "GPAW r2SCAN static"
    ecut_ev: float = 680.0
    kspacing: float = 0.22

    @property
    def protocol(self) -> Protocol:
        """The theory level."""
        return gpaw_protocol(self.ecut_ev, self.kspacing)

    def evaluate(self, given: Configuration, asked: Asked, files: JobFolder) -> LabelOutcome:
        """Return the outcome of GPAW on a configuration; its text is kept."""
        log = Path.cwd() / "gpaw.txt"
        outcome = evaluate_configuration(
            given, self.ecut_ev, self.kspacing, asked.frame_id, asked.key, asked.protocol, log
        )
        return with_facts(outcome, files.keep_file(log, "txt")) if log.is_file() else outcome


def protocol_of(parameters: LabelingParameters) -> Protocol:
    """Return the protocol of GPAW statics with the campaign's options."""
    return gpaw_protocol(parameters.gpaw_ecut_ev, parameters.gpaw_kspacing)


def maker_of(parameters: LabelingParameters) -> GpawStaticMaker:
    """Return the maker of GPAW statics with the campaign's options."""
    return GpawStaticMaker(ecut_ev=parameters.gpaw_ecut_ev, kspacing=parameters.gpaw_kspacing)


def check_here(_parameters: LabelingParameters, elements: Iterable[str]) -> None:
    """Raise unless GPAW is installed and has a dataset for every element."""
    if importlib.util.find_spec("gpaw") is None:
        raise ResourceError(
            "The labeler gpaw needs GPAW, which is not installed; install the extra gpaw (docs tell how libxc is "
            "found), or choose another labeler."
        )
    absent = missing_setups(elements)
    if absent:
        raise ResourceError(
            f"GPAW has no PAW dataset for {', '.join(absent)}; expected them in gpaw-data or GPAW_SETUP_PATH, or "
            "choose another labeler."
        )


def describe(parameters: LabelingParameters) -> dict[str, Any]:
    """Return the theory level: name and GPAW's settings."""
    chosen = protocol_of(parameters)
    said = {"protocol": chosen.name, "code": chosen.code, "functional": chosen.functional}
    return said | gpaw_settings(parameters.gpaw_ecut_ev, parameters.gpaw_kspacing)


def doctor_rows(
    _parameters: LabelingParameters, _elements: list[str], _database: object, severity: Status
) -> Iterator[Check]:
    """Yield whether GPAW can be imported."""
    if importlib.util.find_spec("gpaw") is not None:
        yield Check("GPAW", "ok", "importable")
        return
    unused = "" if severity == "fail" else "; only labeler gpaw needs it"
    yield Check("GPAW", severity, f"not installed{unused}", "pip install 'aqvolt-flows[gpaw]'.")
