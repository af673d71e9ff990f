"""VASP r2SCAN statics through atomate2 and custodian; the outcome is a document whatever happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Element

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.errors import ConfigError, ResourceError
from aqvolt_flows.labeling.configuration import Configuration
from aqvolt_flows.labeling.outcomes import LabelError, with_facts
from aqvolt_flows.labeling.reasons import restarted_here
from aqvolt_flows.labeling.static_maker import Asked, JobFolder, StaticMaker
from aqvolt_flows.labeling.validate import computed
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import LabelReason, Protocol, failed_because
from aqvolt_flows.vasp.outputs import Calculation, locate, potcars_in, read_calculation
from aqvolt_flows.vasp.settings import changes, r2scan_protocol, static_incar, theory
from aqvolt_flows.vasp.used import used_changes

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Å; VASP prints fractional coordinates with 8 decimals, 10⁻⁸ of 100 Å.
SAME_POSITION_A = 1e-5


def outcome_from_directory(
    folder: str | Path,
    frame_id: str,
    key: str,
    protocol: Protocol,
    order: Sequence[int] | None = None,
    frame: Configuration | None = None,
    incar: dict[str, Any] | None = None,
) -> LabelOutcome:
    """Return the outcome that a folder of VASP files stands for.

    Parameters
    ----------
    folder
        The run's folder, its files gzip-ed or not, complete or not.
    frame_id, key, protocol
        What was asked for; version and POTCAR hashes of the protocol are replaced by those that were used.
    order
        Site ``i`` of VASP's POSCAR is atom ``order[i]`` of the frame; the outcome is in the frame's order.
    frame
        If given, a result for other atoms or positions is refused (``wrong_structure``).
    incar
        If given, a last INCAR of another theory level is refused (``protocol_changed``), custodian may have changed
        it; and so is a run that used other cutoffs, another functional or other k-points than it says.
    """
    found = read_calculation(folder)
    used = protocol.model_copy(update={"version": found.version, "potcar_hashes": potcars_in(folder)})
    cost = {} if found.core_hours is None else {"cost_core_hours": found.core_hours}
    fields: dict[str, Any] = {"frame_id": frame_id, "key": key, "protocol": used, "details": _details(found), **cost}
    if frame is not None:
        fields |= frame.fields()

    def refused(status: str, reason: LabelReason, message: str) -> LabelOutcome:
        failure = failed_because(reason, message)
        return LabelOutcome.model_validate(fields | {"status": status, "failure": failure})

    if found.failure is not None:
        return LabelOutcome.model_validate(fields | {"status": found.ending, "failure": found.failure})
    last = found.steps[-1]
    rank = np.argsort(order) if order is not None else np.arange(len(found.symbols))
    numbers = np.array([Element(s).Z for s in found.symbols])
    if len(rank) != len(numbers):
        message = f"VASP computed {len(numbers)} atoms, {len(rank)} were asked for."
        return refused("bad_output", "wrong_structure", message)
    numbers, positions = numbers[rank], last.positions[rank]
    moved = _displacement(frame, numbers, last.fractional[rank], last.cell) if frame is not None else 0.0
    if moved > SAME_POSITION_A:
        return refused("bad_output", "wrong_structure", f"VASP's atoms differ from the frame's by {moved:.3g} Å.")
    if not found.converged:
        message = f"The SCF took {last.scf_steps} steps, as many as NELM allows, without reaching EDIFF."
        return refused("unconverged", "electronic", message)
    if incar is not None:
        message = _other_level(found, protocol, incar)
        if message:
            return refused("failed", "protocol_changed", message)
    result: dict[str, Any] = {
        "magmoms": [found.magmoms[i] for i in rank] if found.magmoms else None,
        "bandgap": found.bandgap,
        "atomic_numbers": numbers,
        "positions": positions,
        "cell": last.cell,
        "energy": last.energy,
        "forces": last.forces[rank],
        "stress": last.stress,
    }
    return computed(**(fields | result))


def _other_level(found: Calculation, protocol: Protocol, incar: dict[str, Any]) -> str:
    """Return the sentence that says why a run is of another theory level than asked for; empty where it is not."""
    if found.functional != protocol.functional:
        return f"VASP computed {found.functional}; expected {protocol.functional}."
    expected = theory(incar)
    changed = changes(expected, theory(found.incar))
    if changed:
        listed = "; ".join(f"{tag}: {old!r} → {new!r}" for tag, (old, new) in changed.items())
        return f"The last INCAR is of another theory level ({listed})."
    used = used_changes(expected, found.used, found.steps[0].cell)
    if used:
        listed = "; ".join(f"{tag}: {old} → {new}" for tag, (old, new) in used.items())
        return f"INCAR is right, but VASP used another theory level ({listed}); remove KPOINTS, correct the tags."
    return ""


def _displacement(frame: Configuration, numbers: np.ndarray, fractional: np.ndarray, cell: np.ndarray) -> float:
    """Return the largest displacement (Å) between a frame and what VASP computed; infinite for other elements."""
    if list(numbers) != [int(z) for z in frame.atomic_numbers]:
        return float("inf")
    given: Any = frame.to_atoms()
    shift = np.asarray(fractional) - given.get_scaled_positions(wrap=False)
    moved = np.linalg.norm((shift - np.round(shift)) @ given.cell.array, axis=1).max()
    return float(max(moved, np.abs(np.asarray(cell) - given.cell.array).max()))


def _details(found: Calculation) -> dict[str, Any]:
    """Return the small facts of a run; nothing here grows with the number of atoms."""
    facts: dict[str, Any] = {"scf_steps": found.steps[-1].scf_steps} if found.steps else {}
    if found.corrections:
        facts["corrections"] = found.corrections[:20]
    if found.titles:
        facts["potcar_titles"] = found.titles
    if found.electrons is not None:
        facts["electrons"] = found.electrons
    if found.incar:
        facts["incar"] = theory(found.incar)
    if found.used:
        facts["used"] = found.used
    return facts | {"cores": found.cores}


@dataclass
class R2scanStaticMaker(StaticMaker):
    """Compute energy, forces and stress of a structure with VASP: MatPES r2SCAN, no PBE pre-step (section 2.2).

    Parameters
    ----------
    name
        Job name.
    incar_updates
        Changes to MatPESStaticSet; the paper has none.
    potcar_hashes
        Element → SHA-256 that its POTCAR must have; elements that are not named may have any of the right symbol.
    vasp_cmd
        Command that starts VASP; by default that of ``VASP_CMD`` where the job runs.
    max_errors
        Corrections that custodian may try on one run.
    max_restarts
        Fresh starts after an end that may be an accident (:func:`aqvolt_flows.labeling.reasons.restarted_here`).
    polling_s
        Seconds between custodian's looks whether VASP has ended; half of it is lost on average.
    wall_time_s
        If given, custodian stops VASP shortly before this many seconds.
    """

    name: str = "r2SCAN static"
    incar_updates: dict[str, Any] = field(default_factory=dict)
    potcar_hashes: dict[str, str] = field(default_factory=dict)
    vasp_cmd: str | None = None
    max_errors: int = 5
    max_restarts: int = 1
    polling_s: float = 0.1
    wall_time_s: int | None = None

    @property
    def protocol(self) -> Protocol:
        """The theory level."""
        return r2scan_protocol(self.incar_updates)

    def evaluate(self, given: Configuration, asked: Asked, files: JobFolder) -> LabelOutcome:
        """Return the outcome of running VASP, each attempt in a fresh folder below the working directory.

        Raises
        ------
        LabelError
            If VASP or a POTCAR is missing or wrong, or the installed pymatgen would write another theory level.
        """
        from aqvolt_flows.vasp.inputs import sorted_with_order
        from aqvolt_flows.vasp.run import check_machine_updates

        check_machine_updates()
        command = self._checked(given)
        structure, order = sorted_with_order(given.to_structure())
        fields = {"frame_id": asked.frame_id, "key": asked.key, "protocol": asked.protocol}
        outcomes: list[LabelOutcome] = []
        for _ in range(self.max_restarts + 1):
            try:
                outcomes.append(self._attempt(files, structure, command, fields | {"order": order, "frame": given}))
            except LabelError:
                if not outcomes:
                    raise
                break  # what the first attempt was, and its cost, stays
            failure = outcomes[-1].failure
            if failure is None or not restarted_here(failure.reason):
                break
        return _summed(outcomes)

    def _checked(self, given: Configuration) -> str:
        """Return the command that starts VASP, after everything was looked at that would make the run worthless."""
        from aqvolt_flows.vasp.inputs import vasp_command
        from aqvolt_flows.vasp.level import TheoryLevel
        from aqvolt_flows.vasp.potcars import WrongPotcarError

        try:
            command = vasp_command(self.vasp_cmd)
        except ResourceError as error:
            raise LabelError("missing_vasp", str(error)) from None
        level = TheoryLevel(self.incar_updates, self.potcar_hashes)
        elements = symbols_of(given.atomic_numbers)
        try:
            level.check_potcars(elements)
        except WrongPotcarError as error:
            raise LabelError("wrong_potcar", str(error)) from None
        except ResourceError as error:
            raise LabelError("missing_potcar", str(error)) from None
        try:
            level.check_installed()
        except ConfigError as error:
            raise LabelError("protocol_drift", str(error)) from None
        return command

    def _attempt(self, files: JobFolder, structure: Structure, command: str, asked: Mapping[str, Any]) -> LabelOutcome:
        """Return the outcome of one start of VASP under custodian, its files stored."""
        from aqvolt_flows.labeling.vasp_inputs import static_maker
        from aqvolt_flows.vasp.run import fresh_folder, run_maker

        maker = static_maker(self.incar_updates, command, self.max_errors, self.polling_s, self.wall_time_s)
        with fresh_folder(run_folder(asked["key"])) as folder:
            ended = run_maker(maker, structure)
            outcome = outcome_from_directory(folder, **asked, incar=static_incar(self.incar_updates))
            started = locate(folder, "vasp.out") is not None
            kept = files.keep_run(folder)
        if ended.error and not started:
            full = "No space left" in ended.error or "Disk quota" in ended.error
            raise LabelError("no_space_left" if full else "vasp_not_started", ended.error)
        cores = int(outcome.details.get("cores", 1))
        facts = {
            "custodian": ended.error,
            "task": ended.task,
            "leftover_processes": len(ended.leftovers),
            "wall_s": round(ended.seconds, 3),
        }
        facts = {name: value for name, value in facts.items() if value}
        found = with_facts(outcome, {"details": facts, "cost_core_hours": cores * ended.seconds / 3600.0})
        return with_facts(found, kept)


def run_folder(key: str) -> str:
    """Return the name of a run's folder below the job's."""
    return f"vasp-{key[:12]}"


def _summed(outcomes: list[LabelOutcome]) -> LabelOutcome:
    """Return the last outcome with the cost of all attempts; earlier ones are named in its details."""
    last = outcomes[-1]
    if len(outcomes) == 1:
        return last
    earlier = [
        {"status": o.status, "reason": o.failure.reason if o.failure else None, "wall_s": o.details.get("wall_s")}
        for o in outcomes[:-1]
    ]
    return last.model_copy(
        update={
            "details": last.details
            | {"earlier_attempts": earlier, "wall_s": round(sum(o.details.get("wall_s", 0.0) for o in outcomes), 3)},
            "cost_core_hours": sum(o.cost_core_hours for o in outcomes),
        }
    )
