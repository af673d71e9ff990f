"""VASP task documents (``emmet.core.tasks.TaskDoc``): the Materials Project's r2SCAN tasks, and jobs of atomate2.

The label is the last ionic step of the newest calculation: ``e_0_energy`` (eV), forces (eV/Å) and stress (3 × 3, kbar,
VASP's sign) of one geometry. The Materials Project's r2SCAN settings differ from MatPES' in smearing, k-spacing and,
for some elements, pseudopotentials, so imported tasks keep a protocol of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.datasets.importers.published import (
    Entry,
    Imported,
    ImportOptions,
    RecordError,
    Skipped,
    array,
    converged,
    external_protocol,
    finite,
    maybe,
    stress,
    structure_arrays,
    text,
)
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.vasp.settings import frozen_incar, potcar_symbol, theory

#: Elements for which the Materials Project's r2SCAN input set (pymatgen ``MPScanRelaxSet``) names another POTCAR than
#: MatPES: the 4f electrons are frozen in the core there (``_3``) and valence here (``_h``); Ba and Xe by version.
MP_POTCARS = {
    **{e: f"{e}_3" for e in ("Pr", "Nd", "Pm", "Sm", "Tb", "Dy", "Ho", "Er", "Tm", "Yb")},
    "Ba": "Ba_sv",
    "Xe": "Xe",
}
LANTHANIDES = frozenset(["La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu"])
_STRESS_UNIT = "kbar"


def is_task(document: Any) -> bool:
    """Return whether an output is a VASP task document and not an outcome of ours."""
    return isinstance(document, Mapping) and ("calcs_reversed" in document or "orig_inputs" in document)


def outcome_of_task(document: Mapping[str, Any], frame_id: str, protocol: Protocol) -> LabelOutcome:
    """Return the outcome that a task document stands for; what is wrong with it becomes its ``failure``.

    ``details`` hold the INCAR's theory tags and the POTCAR titles, with which
    :func:`aqvolt_flows.datasets.faults.protocol_fault` judges a protocol of code vasp.
    """
    try:
        return _outcome(document, frame_id, protocol)
    except RecordError as error:
        failure = Failure(reason="bad_outcome", message=f"The task document is no label: {error}.")
    return LabelOutcome(frame_id=frame_id, key="", status="bad_output", protocol=protocol, failure=failure)


def _outcome(document: Mapping[str, Any], frame_id: str, protocol: Protocol) -> LabelOutcome:
    calculation = _newest(document)
    final = _mapping(calculation.get("output")) or _mapping(document.get("output"))
    steps = final.get("ionic_steps") or []
    step = _mapping(steps[-1]) if isinstance(steps, list) and steps else {}
    incar = _mapping(_mapping(calculation.get("input") or document.get("input")).get("incar"))
    atoms = structure_arrays(step.get("structure") or final.get("structure") or document.get("structure"))
    whole = structure_arrays(document["structure"]) if isinstance(document.get("structure"), Mapping) else atoms
    details: dict[str, Any] = {"potcar_titles": potcar_titles(document)} | ({"incar": theory(incar)} if incar else {})
    used = protocol.model_copy(update={"version": text(calculation.get("vasp_version")) or protocol.version})
    state = text(document.get("state")) or "successful"
    n_steps, nelm = step.get("num_electronic_steps"), incar.get("NELM", 60)
    if n_steps is None and isinstance(step.get("electronic_steps"), list):
        n_steps = len(step["electronic_steps"])
    if state not in {"successful", "TaskState.SUCCESS"} or (isinstance(n_steps, int) and n_steps >= nelm):
        said = f"The task's state is {state}" + (f", {n_steps} electronic steps of {nelm} allowed." if n_steps else ".")
        failure = Failure(reason="unconverged", message=said)
        return LabelOutcome(
            frame_id=frame_id, key="", status="unconverged", protocol=used, failure=failure, details=details
        )
    n_atoms = len(atoms["atomic_numbers"])
    same = whole["atomic_numbers"] == atoms["atomic_numbers"]
    return converged(
        frame_id,
        used,
        atoms | {"magmoms": whole["magmoms"] if same else None},
        energy=finite(step.get("e_0_energy", final.get("energy")), "energy"),
        forces=array(step.get("forces", final.get("forces")), (n_atoms, 3), "forces"),
        stress=stress(step.get("stress", final.get("stress")), _STRESS_UNIT),
        bandgap=maybe(final.get("bandgap")),
        details=details,
    )


def mp_entry(document: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions) -> Entry:
    """Return the label of one Materials Project task, or why it is left out.

    Raises
    ------
    RecordError
        If it is not a task document, or its cutoff is below MatPES' 680 eV.
    """
    if not is_task(document) and "output" not in document:
        raise RecordError("it has neither calcs_reversed nor output; expected a task document, not a summary")
    functional = functional_of(document)
    if options.functional is not None and functional.lower() != options.functional.lower():
        return Skipped("other_functional")
    name = text(document.get("task_id"))
    if name is None:
        raise RecordError("it has no task_id; a label needs an identity of its own")
    protocol = external_protocol(options.name, functional)
    outcome = outcome_of_task(document, f"mp-task-{name}", protocol)
    if outcome.failure is not None:
        raise RecordError(outcome.failure.message.removeprefix("The task document is no label: ").rstrip("."))
    if conflicting(document, symbols_of(outcome.atomic_numbers), options.exclude_potcars):
        return Skipped("conflicting_potcar")
    incar = outcome.details.get("incar", {})
    cutoff = incar.get("ENCUT")
    if isinstance(cutoff, int | float) and cutoff < frozen_incar()["ENCUT"]:
        raise RecordError(f"its ENCUT is {cutoff:g} eV; expected at least {frozen_incar()['ENCUT']:g}")
    kept = {k: incar[k] for k in ("ENCUT", "ISMEAR", "SIGMA", "KSPACING") if k in incar}
    provenance = {**where, "database": options.name, "record_id": name, "settings": kept}
    provenance |= {k: str(document[k]) for k in ("task_type", "run_type") if document.get(k)}
    titles = outcome.details["potcar_titles"]
    return Imported(outcome=outcome, provenance=provenance | ({"potcars": titles} if titles else {}))


def functional_of(document: Mapping[str, Any]) -> str:
    """Return the functional of a task: its run_type, or what its INCAR says.

    Raises
    ------
    RecordError
        If neither says anything.
    """
    said = text(document.get("run_type"))
    if said:
        return said.removeprefix("RunType.")
    calculation = _newest(document)
    incar = _mapping(_mapping(calculation.get("input") or document.get("input")).get("incar"))
    meta = text(incar.get("METAGGA"))
    if meta:
        return {"R2SCAN": "r2SCAN", "SCAN": "SCAN"}.get(meta.upper(), meta)
    if incar:
        return {"PE": "PBE", "PS": "PBEsol"}.get(text(incar.get("GGA")) or "PE", str(incar.get("GGA")))
    raise RecordError("it has neither run_type nor INCAR; the functional is unknown")


def potcar_titles(document: Mapping[str, Any]) -> list[str]:
    """Return the POTCAR titles that a task names, e.g. ``PAW_PBE Ga_d 06Jul2010``."""
    calculation = _newest(document)
    for holder in (calculation.get("input"), document.get("input"), document.get("orig_inputs")):
        spec = _mapping(holder).get("potcar_spec")
        if isinstance(spec, list) and spec:
            return [str(_mapping(s).get("titel")) for s in spec if _mapping(s).get("titel")]
    return []


def conflicting(document: Mapping[str, Any], elements: Iterable[str], scope: str) -> bool:
    """Return whether a task used another pseudopotential than MatPES for an element in scope.

    Parameters
    ----------
    document
        A task document; where it names no POTCAR, :data:`MP_POTCARS` stands for what the Materials Project used.
    elements
        Those of its structure.
    scope
        ``none``, ``lanthanides`` or ``all``.
    """
    if scope == "none":
        return False
    symbols = [t.split()[1] if len(t.split()) > 1 else t for t in potcar_titles(document)]
    used = {s.partition("_")[0]: s for s in symbols}
    for element in sorted(set(elements)):
        if scope == "lanthanides" and element not in LANTHANIDES:
            continue
        symbol = used.get(element) or MP_POTCARS.get(element)
        if symbol is None:
            continue
        try:
            if symbol != potcar_symbol(element):
                return True
        except InputError:  # MatPES has none for this element
            return True
    return False


def _newest(document: Mapping[str, Any]) -> Mapping[str, Any]:
    calculations = document.get("calcs_reversed")
    return _mapping(calculations[0]) if isinstance(calculations, list) and calculations else {}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
