"""VASP task documents (``emmet.core.tasks.TaskDoc``): the Materials Project's r2SCAN tasks, and jobs of atomate2.

The label is the last ionic step of the newest calculation: energy (eV, read as :mod:`aqvolt_flows.vasp.steps` says),
forces (eV/Å) and stress (3 × 3, kbar, VASP's sign) of one geometry. The Materials Project's r2SCAN settings differ from
MatPES' in smearing, k-spacing and, for some elements, pseudopotentials, so imported tasks keep a protocol of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

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
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.vasp.functional import FunctionalError, functional_of, version_fault
from aqvolt_flows.vasp.incar import no_self_consistency, plain_value
from aqvolt_flows.vasp.settings import frozen_incar, potcar_symbol, theory
from aqvolt_flows.vasp.steps import SAME_ENERGY_EV, SourcesDisagreeError, ionic_step, terms_of
from aqvolt_flows.vasp.used import used_changes, used_level
from aqvolt_flows.vasp.vasprun import Header, KPoints, RawStep

_ENERGIES = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
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
    except (RecordError, FunctionalError, SourcesDisagreeError) as error:
        failure = Failure(reason="bad_outcome", message=f"The task document is no label: {error}.")
    return LabelOutcome(frame_id=frame_id, key="", status="bad_output", protocol=protocol, failure=failure)


def _outcome(document: Mapping[str, Any], frame_id: str, protocol: Protocol) -> LabelOutcome:
    calculation = _newest(document)
    final = _mapping(calculation.get("output")) or _mapping(document.get("output"))
    steps = final.get("ionic_steps") or []
    step = _mapping(steps[-1]) if isinstance(steps, list) and steps else {}
    header = _header(document)
    unfit = no_self_consistency(header.incar)
    if unfit:
        raise RecordError(unfit)
    atoms = structure_arrays(step.get("structure") or final.get("structure") or document.get("structure"))
    whole = structure_arrays(document["structure"]) if isinstance(document.get("structure"), Mapping) else atoms
    details: dict[str, Any] = {"potcar_titles": header.titles}
    if header.incar:
        details["incar"] = theory(header.incar)
    _refuse_other_use(document, header)
    used = protocol.model_copy(update={"version": header.version or protocol.version})
    state = _word(document.get("state")) or "successful"
    unconverged = _unconverged(step, state, header)
    if unconverged:
        return LabelOutcome(
            frame_id=frame_id,
            key="",
            status="unconverged",
            protocol=used,
            failure=Failure(reason="unconverged", message=unconverged),
            details=details,
        )
    n_atoms = len(atoms["atomic_numbers"])
    same = whole["atomic_numbers"] == atoms["atomic_numbers"]
    return converged(
        frame_id,
        used,
        atoms | {"magmoms": whole["magmoms"] if same else None},
        energy=_energy(document, step, header, atoms),
        forces=array(_numbers(step.get("forces", final.get("forces"))), (n_atoms, 3), "forces"),
        stress=stress(_numbers(step.get("stress", final.get("stress"))), _STRESS_UNIT),
        bandgap=maybe(final.get("bandgap")),
        details=details,
    )


def _header(document: Mapping[str, Any]) -> Header:
    """Return what a task says of INCAR, of what VASP used, and of the k-points."""
    calculation = _newest(document)
    given = _mapping(calculation.get("input") or document.get("input"))
    incar = {k: v for k, v in _mapping(given.get("incar")).items() if not str(k).startswith("@")}
    points = _mapping(given.get("kpoints"))
    style = _word(points.get("generation_style")) or ""
    rows = points.get("kpoints")
    mesh = rows[0] if style in ("Gamma", "Monkhorst-Pack", "Monkhorst") and isinstance(rows, list) and rows else None
    whole = isinstance(mesh, list) and len(mesh) == 3 and all(isinstance(n, int | float) for n in mesh)
    divisions = (int(mesh[0]), int(mesh[1]), int(mesh[2])) if whole and mesh is not None else None
    return Header(
        version=(text(calculation.get("vasp_version")) or "").split(" ")[0].lower(),
        incar={str(k).upper(): v for k, v in incar.items()},
        parameters={str(k).upper(): v for k, v in _mapping(given.get("parameters")).items()},
        kpoints=KPoints(style.replace("Monkhorst-Pack", "Monkhorst").replace("Monkhorst", "Monkhorst-Pack"), divisions),
        titles=potcar_titles(document),
    )


def _refuse_other_use(document: Mapping[str, Any], header: Header) -> None:
    """Refuse a task whose VASP used another cutoff, smearing or mesh than its INCAR says."""
    given = _mapping(_newest(document).get("input")).get("structure")
    try:
        cell = structure_arrays(given)["cell"] if given else None
    except RecordError:
        cell = None
    found = used_changes(theory(header.incar), used_level(header), cell)
    if found:
        listed = "; ".join(f"{tag} {asked} in INCAR, {seen} used" for tag, (asked, seen) in found.items())
        raise RecordError(f"VASP used another theory level than its INCAR says ({listed})")


def _unconverged(step: Mapping[str, Any], state: str, header: Header) -> str:
    """Return the sentence that says why a task did not converge; empty where it did."""
    count = step.get("num_electronic_steps")
    if count is None and isinstance(step.get("electronic_steps"), list):
        count = len(step["electronic_steps"])
    nelm = maybe(plain_value("NELM", header.incar.get("NELM", header.parameters.get("NELM", 60)))) or 60.0
    reached = isinstance(count, int) and count >= nelm and not _responds(header)
    if state.rpartition(".")[2].lower() in {"successful", "success"} and not reached:
        return ""
    return f"The task's state is {state}" + (f", {count} electronic steps of {nelm:g} allowed." if count else ".")


def _responds(header: Header) -> bool:
    """Return whether linear response adds electronic steps that are none of the SCF."""
    tags = {k: plain_value(k, header.incar.get(k, header.parameters.get(k))) for k in ("LEPSILON", "IBRION")}
    return tags["LEPSILON"] is True or tags["IBRION"] in (7.0, 8.0)


def _energy(document: Mapping[str, Any], step: Mapping[str, Any], header: Header, atoms: Mapping[str, Any]) -> float:
    """Return E₀ (eV) of a task's last step, which its other energies do not contradict.

    Raises
    ------
    RecordError, SourcesDisagreeError
        If there is none, or they do.
    """
    calculation = _newest(document)
    outputs = [_mapping(calculation.get("output")), _mapping(document.get("output"))]
    said = [e for o in outputs for e in (maybe(o.get("energy", o.get("final_energy"))),) if e is not None]
    ionic = {name: float(step[name]) for name in _ENERGIES if maybe(step.get(name)) is not None}
    if not ionic:
        return finite(said[0] if said else None, "energy")
    electronic = [
        {name: float(e[name]) for name in _ENERGIES if maybe(e.get(name)) is not None}
        for e in step.get("electronic_steps") or []
        if isinstance(e, Mapping)
    ]
    electronic = [e for e in electronic if "e_fr_energy" in e]
    if not electronic and said and _before_6_1(header.version):
        return said[0]  # pymatgen had the electronic steps, and repaired it
    cell = atoms["cell"]
    printed = _numbers(step.get("stress"))
    raw = RawStep(cell, cell, cell, array(printed, (3, 3), "stress") if printed else cell, ionic, electronic)
    terms = terms_of([raw], header)
    if terms.doubt:
        raise RecordError(terms.doubt)
    found = ionic_step(raw, header, work=terms.works[0])
    known = [found.energy, found.free_energy, *(electronic[-1].values() if electronic else ionic.values())]
    for other in said:
        # pymatgen before 2022.1 took E without entropy for VASP 6 (pymatgen pull request 2369)
        if min(abs(other - e) for e in known if np.isfinite(e)) > SAME_ENERGY_EV:
            raise SourcesDisagreeError(f"its output says {other:.6f} eV, its last ionic step {found.energy:.6f} eV")
    return finite(found.energy, "energy")


def _before_6_1(version: str) -> bool:
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return not (major.isdigit() and minor.isdigit()) or (int(major), int(minor)) < (6, 1)


def mp_entry(document: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions) -> Entry:
    """Return the label of one task, or why it is left out; a document of a JobStore is unwrapped.

    Raises
    ------
    RecordError
        If it is not a task document, contradicts itself, or its cutoff is below MatPES' 680 eV.
    """
    inner = document.get("output")
    outer = document
    if not is_task(document) and is_task(inner):
        document = _mapping(inner)
    if not is_task(document) and "output" not in document:
        raise RecordError("it has neither calcs_reversed nor output; expected a task document, not a summary")
    try:
        functional = functional_of_task(document)
    except FunctionalError as error:
        raise RecordError(str(error)) from None
    if options.functional is not None and functional.lower() != options.functional.lower():
        return Skipped("other_functional")
    protocol = external_protocol(options.name, functional)
    outcome = outcome_of_task(document, "", protocol)
    if outcome.failure is not None:
        raise RecordError(outcome.failure.message.removeprefix("The task document is no label: ").rstrip("."))
    old = None if options.patched_vasp else version_fault(functional, outcome.protocol.version)
    if old:
        raise RecordError(f"{old}, or --patched-vasp")
    name = identity_of_task(document) or identity_of_task(outer)
    outcome = outcome.model_copy(update={"frame_id": f"mp-task-{name}" if name else _own_identity(outcome)})
    if conflicting(document, symbols_of(outcome.atomic_numbers), options.exclude_potcars):
        return Skipped("conflicting_potcar")
    incar = outcome.details.get("incar", {})
    cutoff = incar.get("ENCUT", used_level(_header(document)).get("ENCUT"))
    if isinstance(cutoff, int | float) and cutoff < frozen_incar()["ENCUT"]:
        raise RecordError(f"its ENCUT is {cutoff:g} eV; expected at least {frozen_incar()['ENCUT']:g}")
    kept = {k: incar[k] for k in ("ENCUT", "ISMEAR", "SIGMA", "KSPACING") if k in incar}
    record = name or text(document.get("dir_name")) or outcome.frame_id
    provenance = {**where, "database": options.name, "record_id": record, "settings": kept}
    provenance |= {k: _word(document[k]) for k in ("task_type", "run_type") if _word(document.get(k))}
    titles = outcome.details["potcar_titles"]
    return Imported(outcome=outcome, provenance=provenance | ({"potcars": titles} if titles else {}))


def identity_of_task(document: Mapping[str, Any]) -> str | None:
    """Return a task's own identity: its task_id, or the uuid of the job that made it; None where it has neither."""
    for name in ("task_id", "uuid"):
        found = _word(document.get(name))
        if found:
            return found
    return None


def _own_identity(outcome: LabelOutcome) -> str:
    """Return an identity made from what was computed, for a task that has none of its own."""
    arrays = {k: np.round(np.asarray(getattr(outcome, k)), 6).tolist() for k in ("positions", "cell", "forces")}
    key = content_key("task/1", numbers=outcome.atomic_numbers, energy=round(outcome.energy or 0.0, 6), **arrays)
    return f"task-{key}"


def _word(value: Any) -> str | None:
    """Return a text, also of an enum's or identifier's dict, as monty writes them."""
    if isinstance(value, Mapping):
        return next((text(value[k]) for k in ("value", "string") if value.get(k)), None)
    return text(value)


def _numbers(value: Any) -> Any:
    """Return an array's rows, also of the dict that monty writes for a numpy array."""
    return value["data"] if isinstance(value, Mapping) and "data" in value else value


def functional_of_task(document: Mapping[str, Any]) -> str:
    """Return the functional of a task by all that it says.

    Raises
    ------
    FunctionalError
        If run_type, INCAR, what VASP used and POTCARs contradict each other, or none says anything.
    """
    header = _header(document)
    return functional_of(header.incar, header.parameters, header.titles, document.get("run_type"))


def potcar_titles(document: Mapping[str, Any]) -> list[str]:
    """Return the POTCAR titles that a task names, e.g. ``PAW_PBE Ga_d 06Jul2010``."""
    calculation = _newest(document)
    for holder in (calculation.get("input"), document.get("input"), document.get("orig_inputs")):
        spec = _mapping(holder).get("potcar_spec")
        if isinstance(spec, list) and spec:
            return [str(_mapping(s).get("titel")) for s in spec if _mapping(s).get("titel")]
    for holder in (document.get("input"), calculation.get("input"), document.get("orig_inputs")):
        made = _mapping(_mapping(holder).get("pseudo_potential"))
        kind, functional, labels = (made.get(k) for k in ("pot_type", "functional", "labels"))
        if kind and functional and isinstance(labels, list):
            return [f"{kind}_{functional} {label}".upper().replace(str(label).upper(), str(label)) for label in labels]
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
