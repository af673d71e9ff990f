"""What every labeler does around its code: load what is to be computed, and make each failure an outcome."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import bson

from aqvolt_flows.errors import AqvoltError, DatabaseError, InputError
from aqvolt_flows.frames import Frame, read_frame
from aqvolt_flows.labeling.configuration import Configuration
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.reasons import REASONS
from aqvolt_flows.labeling.validate import structure_fault
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure, LabelReason, Protocol, failed_because
from aqvolt_flows.stores import Database

#: Details are small facts; more than this is a defect of a code's report, and is replaced by a word.
MAX_DETAILS_BYTES = 64 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}


class LabelError(AqvoltError):
    """A label that cannot be computed, with the machine-readable reason for its outcome."""

    def __init__(self, reason: LabelReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def load_frame(database: Database, frame_id: str) -> Frame:
    """Return a frame by its identity, read from the artifact that its document points to.

    Raises
    ------
    LabelError
        With reason ``missing_frame`` or ``missing_artifact``.
    """
    document = database["frames"].find_one({"frame_id": frame_id}, {"artifact": 1, "row": 1})
    if document is None:
        raise LabelError("missing_frame", f"There is no frame {frame_id} in the collection frames; sample again.")
    try:
        return read_frame(database.artifacts.local_path(ArtifactRef(**document["artifact"])), document["row"])
    except AqvoltError as error:
        raise LabelError("missing_artifact", str(error)) from error


def label_frame(
    database: Database,
    frame_id: str,
    key: str,
    protocol: Protocol,
    evaluate: Callable[[Configuration], LabelOutcome],
) -> dict[str, object]:
    """Return the outcome of labeling one frame as plain JSON types, whatever happened.

    Parameters
    ----------
    database
        Where the frame is.
    frame_id, key
        The frame and its label's key; a key of another protocol is refused, since it would file the result
        under the wrong theory level.
    protocol
        The theory level that this job computes.
    evaluate
        Computes; what it raises becomes a failed outcome.

    Raises
    ------
    DatabaseError
        If no database answers: then there is nowhere to look the frame up, and the Firework may be rerun.
    """

    def load() -> Configuration:
        if key != label_key(frame_id, protocol):
            raise LabelError(
                "key_mismatch",
                f"The job's key {key} is of another protocol than {protocol.name}; plan and submit labeling again.",
            )
        return Configuration.of_frame(load_frame(database, frame_id))

    return bounded(attempt(frame_id, key, protocol, load, evaluate)).model_dump(mode="json")


def attempt(
    frame_id: str,
    key: str,
    protocol: Protocol,
    load: Callable[[], Configuration],
    evaluate: Callable[[Configuration], LabelOutcome],
) -> LabelOutcome:
    """Return the outcome of loading and evaluating a configuration; every failure is an outcome with its reason.

    Raises
    ------
    DatabaseError
        If no database answers.
    """
    loaded: Configuration | None = None
    try:
        loaded = load()
        fault = structure_fault(loaded)
        if fault is not None:
            raise LabelError("bad_structure", fault.message)
        return evaluate(loaded)
    except DatabaseError:
        raise
    except LabelError as error:
        failure = failed_because(error.reason, str(error))
    except InputError as error:
        failure = failed_because("bad_input", str(error))
    except AqvoltError as error:
        failure = failed_because("missing_resource", str(error))
    except OSError as error:
        failure = _of_os_error(error)
    except Exception as error:  # noqa: BLE001 - any code may fail in any way on a strange frame; that is an outcome
        failure = failed_because("evaluation_failed", f"{type(error).__name__}: {error}"[:1000])
    return failed(frame_id, key, protocol, failure, loaded)


def _of_os_error(error: OSError) -> Failure:
    """Return the failure of an operating system's error: a full disk, or something that no one foresaw."""
    if error.errno in _FULL:
        return failed_because("no_space_left", f"{error} while the job wrote its files.")
    return failed_because("evaluation_failed", f"{type(error).__name__}: {error}"[:1000])


def bounded(outcome: LabelOutcome) -> LabelOutcome:
    """Return an outcome whose details fit :data:`MAX_DETAILS_BYTES`: they, not a label's arrays, grow without limit."""
    size = len(bson.encode(outcome.details))
    if size <= MAX_DETAILS_BYTES:
        return outcome
    return outcome.model_copy(update={"details": {"dropped": f"{size} bytes of details; see the raw files"}})


def failed(
    frame_id: str, key: str, protocol: Protocol, failure: Failure, of: Configuration | None = None
) -> LabelOutcome:
    """Return the outcome of a label that could not be computed, with its atoms where they were loaded."""
    status = REASONS[failure.reason].status if failure.reason in REASONS else "failed"
    fields = {"frame_id": frame_id, "key": key, "status": status, "protocol": protocol, "failure": failure}
    return LabelOutcome.model_validate(fields | (of.fields() if of else {}))


def with_facts(outcome: LabelOutcome, facts: dict[str, Any]) -> LabelOutcome:
    """Return an outcome with further fields; those of ``details`` are added to the ones there are."""
    details = outcome.details | facts.get("details", {})
    return outcome.model_copy(update={**facts, "details": details})
