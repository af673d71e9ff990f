"""The theory level as one object: code, functional, INCAR, k-spacing, POTCAR map and hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.vasp.drift import check_installed
from aqvolt_flows.vasp.potcars import potcar_hashes
from aqvolt_flows.vasp.settings import (
    changes,
    frozen_moments,
    frozen_potcars,
    potcar_functional,
    r2scan_protocol,
    static_incar,
    theory,
)


@dataclass(frozen=True)
class TheoryLevel:
    """MatPES r2SCAN, single step: what AQVolt26's VASP labels are computed with (section 2.2, no PBE pre-step).

    Parameters
    ----------
    incar_updates
        A campaign's changes to the frozen INCAR; the paper has none. ``{"ENAUG": 1360}`` is what older pymatgen wrote.
    potcar_sha256
        Element → SHA-256 that its POTCAR must have (:func:`aqvolt_flows.vasp.potcars.potcar_sha256`). Elements that are
        not named may have any POTCAR of the right symbol; each label says which one it had.

    Examples
    --------
    >>> level = TheoryLevel({"ENAUG": 1360})
    >>> level.incar["METAGGA"], level.kspacing, level.potcars["Li"], level.protocol().functional
    ('R2scan', 0.22, 'Li_sv', 'r2SCAN')
    """

    incar_updates: Mapping[str, Any] = field(default_factory=dict)
    potcar_sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """``vasp``."""
        return self.protocol().code

    @property
    def functional(self) -> str:
        """``r2SCAN``."""
        return self.protocol().functional

    @property
    def incar(self) -> dict[str, Any]:
        """The INCAR, tag → value, without the structure's own MAGMOM."""
        return static_incar(self.incar_updates)

    @property
    def kspacing(self) -> float:
        """Largest distance of k-points, 1/Å, with 2π (VASP wiki, KSPACING)."""
        return float(self.incar["KSPACING"])

    @property
    def potcar_release(self) -> str:
        """``PBE_64``."""
        return potcar_functional()

    @property
    def potcars(self) -> dict[str, str]:
        """Element → POTCAR symbol."""
        return frozen_potcars()

    @property
    def moments(self) -> dict[str, float]:
        """Element → the moment (μB) that it starts with; others start with 0.6."""
        return frozen_moments()

    def protocol(self, version: str = "", hashes: Mapping[str, str] | None = None) -> Protocol:
        """Return what labels carry; ``version`` and ``hashes`` are those of one run."""
        return r2scan_protocol(self.incar_updates, version, hashes)

    def changes(self, incar: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return tag → (here, there) for the tags in which an INCAR leaves this potential-energy surface."""
        return changes(theory(self.incar), theory(incar))

    def check_installed(self) -> None:
        """Raise :class:`aqvolt_flows.errors.ConfigError` with the difference if pymatgen would write another one."""
        check_installed()

    def check_potcars(self, elements: Iterable[str]) -> dict[str, str]:
        """Return element → SHA-256 of its POTCAR, all present and right.

        Raises
        ------
        ResourceError
            Naming those that are missing, of another dataset or functional, or with another hash.
        """
        return potcar_hashes(elements, self.potcar_sha256)

    def as_dict(self) -> dict[str, Any]:
        """Return everything that is fixed, as JSON types."""
        return {
            "protocol": self.protocol().name,
            "code": self.code,
            "functional": self.functional,
            "pre_step": None,
            "incar": self.incar,
            "kspacing": self.kspacing,
            "potcar_release": self.potcar_release,
            "potcars": self.potcars,
            "potcar_sha256": dict(self.potcar_sha256),
            "moments": self.moments,
        }
