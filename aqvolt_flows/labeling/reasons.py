"""Every reason for which a frame has no label: what it means, and whether trying again can help.

A reason is a word in ``outputs.output.failure.reason``. Failure tables group by it, the plan of labels asks
:func:`worth_rerunning` for ``--rerun-failed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["unconverged", "killed", "bad_output", "failed"]
#: ``here``: the job itself starts the code once more. ``later``: after somebody changed something (more time, memory,
#: space, an installation). ``never``: the same frame will end the same way.
Again = Literal["here", "later", "never"]


@dataclass(frozen=True)
class Reason:
    """One reason: the status that it comes with, its meaning in a sentence, whether trying again can help."""

    status: Status
    meaning: str
    again: Again


REASONS: dict[str, Reason] = {
    "electronic": Reason("unconverged", "The SCF used all its steps without reaching EDIFF.", "never"),
    "wall_time": Reason("killed", "The scheduler, or custodian before it, ended the run for its time.", "later"),
    "out_of_memory": Reason("killed", "The kernel or the scheduler ended the run for its memory.", "later"),
    "no_space_left": Reason("killed", "A file system or quota was full.", "later"),
    "signal": Reason("killed", "A signal ended the run, and something said so.", "here"),
    "interrupted": Reason("killed", "The run stopped in the middle of its files, and nothing says why.", "here"),
    "truncated_vasprun": Reason("bad_output", "VASP came to its end, but vasprun.xml cannot be read.", "here"),
    "wrong_structure": Reason("bad_output", "The output is of other atoms than the frame's.", "never"),
    "wrong_shape": Reason("bad_output", "Forces or stress have the wrong shape.", "never"),
    "not_finite": Reason("bad_output", "Energy, forces or stress hold NaN or infinity.", "never"),
    "no_forces": Reason("bad_output", "VASP wrote no forces.", "never"),
    "no_stress": Reason("bad_output", "VASP wrote no stress, as with ISIF = 0.", "later"),
    "energy_mismatch": Reason("bad_output", "The files of the run contradict each other about its energy.", "here"),
    "force_drift": Reason("bad_output", "The forces do not sum to zero.", "never"),
    "vasp_error": Reason("failed", "VASP stopped with an error of its own that custodian could not cure.", "never"),
    "vasp_not_started": Reason(
        "failed", "VASP wrote nothing: inputs could not be written or the command failed.", "later"
    ),
    "old_vasp": Reason("failed", "The version of VASP does not know r2SCAN without a patch.", "later"),
    "protocol_changed": Reason("failed", "The last INCAR, or what VASP used, is another level.", "never"),
    "protocol_drift": Reason("failed", "The pymatgen installed here writes other settings than the frozen.", "later"),
    "missing_vasp": Reason("failed", "VASP_CMD is not set or names no executable where the job ran.", "later"),
    "missing_potcar": Reason("failed", "A POTCAR is not there.", "later"),
    "wrong_potcar": Reason("failed", "A POTCAR is of another element, dataset, functional or hash.", "later"),
    "missing_gpaw": Reason("failed", "GPAW cannot be imported where the job ran.", "later"),
    "missing_setup": Reason("failed", "GPAW has no dataset for an element.", "later"),
    "bad_structure": Reason("failed", "Overlapping atoms, mostly vacuum, a flat or left-handed cell, NaN.", "never"),
    "bad_input": Reason("failed", "The frame or an option cannot be used.", "never"),
    "missing_frame": Reason("failed", "The frame has no document.", "later"),
    "missing_artifact": Reason("failed", "The file that holds the frame is not in the artifact store.", "later"),
    "key_mismatch": Reason("failed", "The job was planned for another protocol.", "never"),
    "missing_resource": Reason("failed", "Weights, an extra or a folder are not there.", "later"),
    "evaluation_failed": Reason("failed", "The code raised something that is none of these.", "never"),
}


def restarted_here(reason: str) -> bool:
    """Return whether a labeling job starts its code once more for this reason."""
    return reason in REASONS and REASONS[reason].again == "here"


def worth_rerunning(reason: str) -> bool:
    """Return whether labeling the same frame again can end otherwise; an unknown reason counts as not."""
    return reason in REASONS and REASONS[reason].again != "never"
