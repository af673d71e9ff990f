"""How a run that has no end came to it: ended from outside, given up by VASP or custodian, or never started."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from aqvolt_flows.schemas.provenance import LabelReason, failed_because

Ending = Literal["finished", "unconverged", "killed", "bad_output", "failed"]

#: What schedulers, kernels and libraries say of a resource that ran out → reason. The first match wins.
_RESOURCES: tuple[tuple[LabelReason, str], ...] = (
    ("no_space_left", r"No space left on device|ENOSPC|Disk quota exceeded"),
    ("out_of_memory", r"oom[-_ ]?kill|Out of memory|Cannot allocate memory|insufficient virtual memory|std::bad_alloc"),
    ("wall_time", r"DUE TO TIME LIMIT|walltime|wall time limit|hard stop encountered|soft stop encountered"),
)
_SIGNALS = r"forrtl: severe \(174\)|SIG(TERM|KILL|SEGV)|Segmentation fault|signal (9|15)|Killed|CANCELLED"
#: A STOPCAR ended the run: "hard" (LABORT) in the middle of the last step's SCF, which is as short as a converged one;
#: "soft" (LSTOP) after a whole step (VASP wiki, STOPCAR).
STOPPED = r"(hard|soft) stop encountered"
#: After these VASP ends by itself (its own text; custodian's VaspErrorHandler looks for the same).
_FATAL = (
    r"ZBRENT: fatal|VERY BAD NEWS|EDDDAV: Call to ZHEGV failed|POSMAP internal error|SGRCON"
    r"|triple product of the basis vectors|LAPACK: Routine ZPOTRF failed|number of potentials on File POTCAR"
    r"|Error reading item|No initial positions|non-integer element in rotation matrix|PSSYEVX|PZHEEVX|ERROR RSPHER"
    r"|DENTET|Tetrahedron method fails|inverse of rotation matrix|RHOSYG internal error|REFUSE TO CONTINUE"
)
#: These VASP may survive; they are the reason only where nothing from outside is.
_COMPLAINTS = r"internal error|BRMIX: very serious|Sub-Space-Matrix is not hermitian|EDDDAV: Call to"
_REFUSES = "REFUSE TO CONTINUE"
#: Errors that custodian's handlers name, and that are no error of VASP.
_CUSTODIAN_WALLTIME = "Walltime"
_CUSTODIAN_FROZEN = "Frozen job"
_CUSTODIAN_UNCONVERGED = frozenset({"Unconverged", "Non-converging job"})
_GAVE_UP = ("max_errors", "max_errors_per_job", "max_errors_per_handler", "handler", "nonzero_return_code")


@dataclass(frozen=True)
class CustodianLog:
    """What custodian.json says.

    Attributes
    ----------
    corrections
        Errors that it met, in order.
    last
        Those of its last job.
    gave_up
        It ended the job: no correction was left, or too many were tried.
    """

    corrections: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    gave_up: bool = False


def custodian_log(text: str) -> CustodianLog:
    """Return what custodian.json says; nothing where it is not there or cut short."""
    try:
        runs = json.loads(text) if text else []
    except ValueError:
        return CustodianLog()
    runs = [run for run in (runs if isinstance(runs, list) else [runs]) if isinstance(run, dict)]
    errors = [_errors(run) for run in runs]
    gave_up = bool(runs) and any(runs[-1].get(name) for name in _GAVE_UP)
    return CustodianLog([e for listed in errors for e in listed], errors[-1] if errors else [], gave_up)


def _errors(run: dict[str, Any]) -> list[str]:
    corrections = run.get("corrections")
    found = [c.get("errors") for c in corrections if isinstance(c, dict)] if isinstance(corrections, list) else []
    return [str(e) for listed in found if isinstance(listed, list) for e in listed]


def ended(
    said: str,
    otherwise: str = "OUTCAR has no timing table, VASP did not come to its end",
    outcar: bool = True,
    custodian: CustodianLog | None = None,
) -> dict[str, Any]:
    """Return ending and failure of a run without an end.

    A resource that ran out comes first. Then VASP's own error: custodian that gives up ends VASP by SIGTERM, which the
    Fortran runtime reports too, so that a signal is the reason only where nothing else is.

    Parameters
    ----------
    said
        The last text of VASP, of its standard error and of the scheduler.
    otherwise
        The message where nothing was said.
    outcar
        Whether VASP wrote an OUTCAR.
    custodian
        What custodian.json says.
    """
    for reason, pattern in _RESOURCES:
        found = re.search(pattern, said, re.IGNORECASE)
        if found:
            return _failure("killed", reason, _line_of(said, found))
    log = custodian or CustodianLog()
    fatal = _fatal(said)
    if log.gave_up:
        return _given_up(log, fatal)
    if fatal:
        return _failure("failed", "vasp_error", fatal)
    signal = re.search(_SIGNALS, said, re.IGNORECASE)
    if signal:
        return _failure("killed", "signal", _line_of(said, signal))
    complaint = re.search(_COMPLAINTS, said)
    if complaint:
        return _failure("failed", "vasp_error", _line_of(said, complaint))
    if not outcar and said.strip():
        last = said.strip().splitlines()[-1].strip()[:300]
        return _failure("failed", "vasp_not_started", f"{otherwise}: {last}")
    return _failure("killed", "interrupted", otherwise)


def _given_up(log: CustodianLog, fatal: str) -> dict[str, Any]:
    names = ", ".join(dict.fromkeys(log.last)) or "an error that it does not name"
    if any(_CUSTODIAN_WALLTIME.lower() in e.lower() for e in log.last):
        return _failure("killed", "wall_time", f"custodian ended VASP for its time ({names}).")
    if log.last and set(log.last) <= {_CUSTODIAN_FROZEN}:
        return _failure("killed", "interrupted", "custodian ended VASP, which wrote nothing any more (Frozen job).")
    if log.last and set(log.last) <= _CUSTODIAN_UNCONVERGED:
        return _failure("unconverged", "electronic", f"custodian found no way to converge it ({names}).")
    return _failure("failed", "vasp_error", fatal or f"custodian gave up and ended VASP; it met {names}.")


def _failure(ending: Ending, reason: LabelReason, message: str) -> dict[str, Any]:
    return {"ending": ending, "failure": failed_because(reason, message)}


def _fatal(said: str) -> str:
    """Return the sentence with which VASP stopped, or an empty string."""
    matches = list(re.finditer(_FATAL, said))
    telling = next((m for m in matches if m.group(0) != _REFUSES), None)
    if telling is not None:
        return _line_of(said, telling)
    return _before_refusal(said[: matches[0].start()]) if matches else ""


def _before_refusal(said: str) -> str:
    """Return what the box says above "I REFUSE TO CONTINUE WITH THIS SICK JOB"."""
    lines = [line.strip(" |\n\r") for line in said.splitlines()[:-1]]
    box = _after_border(lines)
    words = [line for line in box if re.search(r"[a-z]", line)]  # the banner above has capitals and # only
    text = " ".join(words) or next((line for line in reversed(lines) if line.strip("-* ")), "")
    return " ".join(text.split())[:300] or "VASP stopped and gave no reason."


def _after_border(lines: list[str]) -> list[str]:
    for place in range(len(lines) - 1, -1, -1):
        if len(lines[place]) > 20 and not lines[place].strip("-*"):
            return lines[place + 1 :]
    return lines[-12:]


def _line_of(said: str, found: re.Match[str]) -> str:
    """Return the whole line in which a match stands."""
    start = said.rfind("\n", 0, found.start()) + 1
    end = said.find("\n", found.end())
    return said[start : end if end >= 0 else None].strip(" |\n")[:300]
