"""VASP as a labeler: theory level, what it needs on a machine, and what the files of a lost run are worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from aqvolt_flows.checks import Check, Status, checked
from aqvolt_flows.errors import AqvoltError
from aqvolt_flows.labeling.vasp import R2scanStaticMaker, outcome_from_directory, run_folder
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.vasp.functional import FIRST_VERSION
from aqvolt_flows.vasp.settings import r2scan_protocol, static_incar

if TYPE_CHECKING:
    from aqvolt_flows.stores import Database


def protocol_of(parameters: LabelingParameters) -> Protocol:
    """Return the protocol of r2SCAN statics with the campaign's INCAR changes."""
    return r2scan_protocol(parameters.incar_updates)


def maker_of(parameters: LabelingParameters) -> R2scanStaticMaker:
    """Return the maker of r2SCAN statics with the campaign's options."""
    return R2scanStaticMaker(
        incar_updates=dict(parameters.incar_updates),
        potcar_hashes=dict(parameters.potcar_hashes),
        max_errors=parameters.max_errors,
        max_restarts=parameters.max_restarts,
        wall_time_s=parameters.wall_time_s,
    )


def check_here(parameters: LabelingParameters, elements: Iterable[str]) -> None:
    """Raise unless VASP, its POTCARs and the frozen theory level are here."""
    from aqvolt_flows.vasp.inputs import vasp_command
    from aqvolt_flows.vasp.level import TheoryLevel
    from aqvolt_flows.vasp.potcars import potcar_folder

    level = TheoryLevel(parameters.incar_updates, parameters.potcar_hashes)
    level.incar  # noqa: B018 - refuses changes that leave r2SCAN
    vasp_command()
    potcar_folder()
    level.check_potcars(elements)
    level.check_installed()


def describe(parameters: LabelingParameters) -> dict[str, Any]:
    """Return the theory level: name, INCAR, POTCARs, moments."""
    from aqvolt_flows.vasp.level import TheoryLevel

    return TheoryLevel(parameters.incar_updates, parameters.potcar_hashes).as_dict()


def verify(_parameters: LabelingParameters) -> None:
    """Raise if the installed pymatgen would write other settings than the frozen ones."""
    from aqvolt_flows.vasp.drift import check_installed

    check_installed()


def doctor_rows(
    parameters: LabelingParameters, elements: list[str], database: Database | None, severity: Status
) -> Iterator[Check]:
    """Yield command, theory level, POTCAR folder, the POTCAR of every element, and those of earlier labels."""
    from aqvolt_flows.vasp.inputs import vasp_command
    from aqvolt_flows.vasp.potcars import potcar_folder, potcar_report
    from aqvolt_flows.vasp.settings import potcar_functional

    def settings_frozen() -> str:
        verify(parameters)
        return "the installed MatPES settings are the frozen ones"

    yield checked("VASP: command", severity, lambda: f"VASP_CMD {vasp_command()!r}")
    yield checked("VASP: theory level", severity, settings_frozen)
    yield _version_row(database, severity)
    folder = checked("VASP: POTCAR folder", severity, lambda: str(potcar_folder()))
    yield folder
    if folder.status != "ok":
        named = f"needed for {', '.join(elements)}" if elements else "the campaign has no candidates yet"
        todo = "Set PMG_VASP_PSP_DIR first."
        yield Check(f"VASP: POTCARs {potcar_functional()}", severity, f"not looked at; {named}", todo)
    else:
        if not elements:
            todo = "Select candidates, then ask again."
            yield Check("VASP: POTCARs", "warn", "the campaign has no candidates yet", todo)
        for found in potcar_report(elements, expected=parameters.potcar_hashes):
            name = f"VASP: POTCAR {found.element}"
            if found.status == "ok":
                yield Check(name, "ok", f"{found.symbol}, SHA-256 {found.sha256[:12]}…")
            else:
                todo = f"Put {found.symbol or 'it'} of {potcar_functional()} into the folder of POTCARs."
                yield Check(name, severity, f"{found.status}: {found.detail}", todo)
    yield from _potcars_of_earlier_labels(database, elements, severity)


def _version_row(database: Database | None, severity: Status) -> Check:
    """Return the row that says which versions know r2SCAN, and whether an earlier run of this database had another.

    VASP tells its version only in the files of a run, so that it is compared there, before a label is made of it.
    """
    first = ".".join(str(part) for part in FIRST_VERSION["r2SCAN"])
    said = f"r2SCAN needs VASP {first} or later; each run is checked"
    query = {"metadata.aqvolt.stage": "label", "output.failure.reason": "old_vasp"}
    try:
        old = None if database is None else database["outputs"].find_one(query, {"output.protocol.version": 1})
    except PyMongoError:
        old = None  # another row says that no database answers
    if old is None:
        return Check("VASP: version", "ok", said)
    seen = old["output"]["protocol"]["version"]
    return Check("VASP: version", severity, f"{said}; a run had {seen}", f"Point VASP_CMD at VASP {first} or later.")


def _potcars_of_earlier_labels(database: Database | None, elements: list[str], severity: Status) -> Iterator[Check]:
    """Yield a row if labels of this database were made with other POTCAR texts than this machine has."""
    from aqvolt_flows.vasp.potcars import potcar_drift, potcar_report

    query = {"metadata.aqvolt.stage": "label", "output.protocol.code": "vasp"}
    try:
        now = {row.element: row.sha256 for row in potcar_report(elements) if row.status == "ok"}
        used = [] if database is None else database["outputs"].distinct("output.protocol.potcar_hashes", query)
    except (AqvoltError, PyMongoError):
        return  # other rows say that there are no POTCARs, or no database
    for element, (earlier, here) in potcar_drift(used, now).items():
        yield Check(
            f"VASP: POTCAR {element} of earlier labels",
            severity,
            f"labels were made with SHA-256 {earlier[:12]}…, here it is {here[:12]}…",
            "Use one file for all labels, and name it in labeling.potcar_hashes.",
        )


def salvage(database: Database, job: Mapping[str, Any], frame_id: str, key: str, folder: Path) -> LabelOutcome | None:
    """Return the outcome that converged VASP files in a launch folder stand for, or None."""
    run = folder / run_folder(key)
    if not run.is_dir():
        return None
    from aqvolt_flows.labeling.configuration import Configuration
    from aqvolt_flows.labeling.outcomes import load_frame, with_facts
    from aqvolt_flows.vasp.inputs import sorted_with_order
    from aqvolt_flows.vasp.run import archive

    try:
        maker = _maker_in(job)
        frame = Configuration.of_frame(load_frame(database, frame_id))
        outcome = outcome_from_directory(
            run,
            frame_id,
            key,
            maker.protocol,
            order=sorted_with_order(frame.to_structure())[1],
            frame=frame,
            incar=static_incar(maker.incar_updates),
        )
        if outcome.status != "converged":
            return None
        return with_facts(outcome, {"raw": archive(run, database.artifacts), "details": {"salvaged": True}})
    except (AqvoltError, OSError, ValueError, TypeError, KeyError, IndexError):
        return None  # files that cannot be read are no result; the run is repeated


def _maker_in(job: Mapping[str, Any]) -> R2scanStaticMaker:
    """Return the maker of statics inside a stored job: the job's own, or nested in the campaign's."""
    bound = job["function"]["@bound"]
    found: R2scanStaticMaker = R2scanStaticMaker.from_dict(bound.get("static_maker", bound))
    return found
