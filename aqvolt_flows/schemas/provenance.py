"""Pointers, protocols and where things come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aqvolt_flows.identity import content_hash
from aqvolt_flows.schemas.base import Parameters


class ArtifactRef(Parameters):
    """A pointer to a file of the artifact store."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file's bytes.")
    format: str = Field(pattern=r"^[^/\\\x00]{1,100}$", description="Suffix: parquet, npz, tar.gz, …; no path.")
    bytes: int = Field(ge=0, description="Size of the file.")

    @property
    def path(self) -> str:
        """The file's address relative to the store's root."""
        return f"sha256/{self.sha256[:2]}/{self.sha256}.{self.format}"


class Protocol(Parameters):
    """The theory level of a label: what was computed with which code and settings.

    Two labels may stand in one release without a warning only if their :attr:`protocol_id` agree.
    """

    code: str = Field(
        pattern=r"^[a-z][a-z0-9_.-]*$", description="Name of a labeler, or external for published labels."
    )
    version: str = Field(description="Version of the code; never part of the identity of a surrogate.")
    functional: str = Field(description="r2SCAN, PBE, or the model string of a surrogate.")
    settings_hash: str = Field(default="", description="Hash of the INCAR, the GPAW parameters or the model's weights.")
    potcar_hashes: dict[str, str] = Field(default_factory=dict, description="Element → hash of its POTCAR.")

    @property
    def name(self) -> str:
        """What people read, e.g. ``surrogate:MODEL@HASH`` or ``vasp:r2SCAN@HASH``."""
        short = self.settings_hash[:12] or "unknown"
        return f"{self.code}:{self.functional}@{short}"

    @property
    def protocol_id(self) -> str:
        """Hash of code, functional and settings; POTCARs and versions stand beside it, per label."""
        return content_hash({"code": self.code, "functional": self.functional, "settings": self.settings_hash})[:24]


#: Why a frame has no label, in one word; `labeling.reasons` says what each means.
LabelReason = Literal[
    "electronic",
    "wall_time",
    "out_of_memory",
    "no_space_left",
    "signal",
    "interrupted",
    "truncated_vasprun",
    "wrong_structure",
    "wrong_shape",
    "not_finite",
    "no_forces",
    "no_stress",
    "energy_mismatch",
    "force_drift",
    "vasp_error",
    "vasp_not_started",
    "old_vasp",
    "protocol_changed",
    "protocol_drift",
    "missing_vasp",
    "missing_potcar",
    "wrong_potcar",
    "missing_gpaw",
    "missing_setup",
    "bad_structure",
    "bad_input",
    "missing_frame",
    "missing_artifact",
    "key_mismatch",
    "missing_resource",
    "evaluation_failed",
]


class Failure(Parameters):
    """Why a unit of work has no result; failures are documents, not log lines."""

    reason: str = Field(description="A short machine-readable word, e.g. unconverged, lost_atoms, missing_potcar.")
    message: str = Field(default="", description="One sentence for people.")


def failed_because(reason: LabelReason, message: str) -> Failure:
    """Return the failure of a calculation; a type checker refuses a word that the table of reasons does not have."""
    return Failure(reason=reason, message=message)
