"""What every labeling job does around its code: load the frame, and make each failure an outcome."""

from __future__ import annotations

import errno
from collections.abc import Callable

import bson

from aqvolt_flows.errors import AqvoltError, DatabaseError, InputError
from aqvolt_flows.frames import Frame, read_frame
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.reasons import REASONS
from aqvolt_flows.labeling.validate import structure_fault
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure, Protocol
from aqvolt_flows.stores import Database

#: Details are small facts; more than this is a defect of a code's report, and is replaced by a word.
MAX_DETAILS_BYTES = 64 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}


class LabelError(AqvoltError):
    """A label that cannot be computed, with the machine-readable reason for its outcome."""

    def __init__(self, reason: str, message: str) -> None:
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
    frame_id: str, key: str, protocol: Protocol, evaluate: Callable[[Database, Frame], LabelOutcome]
) -> dict[str, object]:
    """Return the outcome of labeling one frame as plain JSON types, whatever happened.

    Parameters
    ----------
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
    database = Database.connect()
    frame: Frame | None = None
    try:
        if key != label_key(frame_id, protocol):
            raise LabelError(
                "key_mismatch",
                f"The job's key {key} is of another protocol than {protocol.name}; plan and submit labeling again.",
            )
        frame = load_frame(database, frame_id)
        fault = structure_fault(frame)
        if fault is not None:
            raise LabelError(fault.reason, fault.message)
        outcome = evaluate(database, frame)
    except DatabaseError:
        raise
    except LabelError as error:
        outcome = failed(frame_id, key, protocol, Failure(reason=error.reason, message=str(error)), frame)
    except InputError as error:
        outcome = failed(frame_id, key, protocol, Failure(reason="bad_input", message=str(error)), frame)
    except AqvoltError as error:
        outcome = failed(frame_id, key, protocol, Failure(reason="missing_resource", message=str(error)), frame)
    except OSError as error:
        outcome = failed(frame_id, key, protocol, _of_os_error(error), frame)
    except Exception as error:  # noqa: BLE001 - any code may fail in any way on a strange frame; that is an outcome
        message = f"{type(error).__name__}: {error}"[:1000]
        outcome = failed(frame_id, key, protocol, Failure(reason="evaluation_failed", message=message), frame)
    return bounded(outcome).model_dump(mode="json")


def _of_os_error(error: OSError) -> Failure:
    """Return the failure of an operating system's error: a full disk, or something that no one foresaw."""
    if error.errno in _FULL:
        return Failure(reason="no_space_left", message=f"{error} while the job wrote its files.")
    return Failure(reason="evaluation_failed", message=f"{type(error).__name__}: {error}"[:1000])


def bounded(outcome: LabelOutcome) -> LabelOutcome:
    """Return an outcome whose details fit :data:`MAX_DETAILS_BYTES`: they, not a label's arrays, grow without limit."""
    size = len(bson.encode(outcome.details))
    if size <= MAX_DETAILS_BYTES:
        return outcome
    return outcome.model_copy(update={"details": {"dropped": f"{size} bytes of details; see the raw files"}})


def failed(frame_id: str, key: str, protocol: Protocol, failure: Failure, frame: Frame | None = None) -> LabelOutcome:
    """Return the outcome of a label that could not be computed, with the frame's atoms where it was loaded."""
    atoms = {} if frame is None else atoms_of(frame)
    status = REASONS[failure.reason].status if failure.reason in REASONS else "failed"
    return LabelOutcome.model_validate(
        {"frame_id": frame_id, "key": key, "status": status, "protocol": protocol, "failure": failure} | atoms
    )


def atoms_of(frame: Frame) -> dict[str, object]:
    """Return a frame's atomic numbers, positions and cell (Å) as an outcome's fields."""
    return {
        "atomic_numbers": [int(z) for z in frame.atomic_numbers],
        "positions": frame.positions.astype(float).tolist(),
        "cell": frame.cell.astype(float).tolist(),
    }
