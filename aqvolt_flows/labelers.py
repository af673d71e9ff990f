"""The registry of labelers: everything that differs between VASP, GPAW, a surrogate and other packages' codes.

A labeler is an entry of :data:`LABELERS` and a module with functions, imported when they are asked for:

===========================================  ========================================================================
``protocol_of(parameters)``                  the protocol of its labels; by default the maker's; optional
``maker_of(parameters)``                     a :class:`~aqvolt_flows.labeling.static_maker.StaticMaker`
``check_here(parameters, elements)``         raises where it cannot run here; optional
``doctor_rows(parameters, elements, …)``     yields :class:`~aqvolt_flows.checks.Check` rows; optional
``describe(parameters)``                     the theory level as a mapping; optional
``verify(parameters)``                       raises where the theory level is not the promised one; optional
``salvage(database, maker, …)``              an outcome from the files of a lost run, or None; optional
===========================================  ========================================================================

Other packages add theirs through the entry-point group ``aqvolt.labelers`` (docs/extending.md).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.checks import Check, Status, problem
from aqvolt_flows.errors import AqvoltError, DatabaseError, ResourceError
from aqvolt_flows.registries import Registry
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.work import Category

if TYPE_CHECKING:
    from aqvolt_flows.stores import Database

logger = logging.getLogger(__name__)

#: Labels of published datasets carry this code; no labeler computes them.
EXTERNAL = "external"


@dataclass(frozen=True)
class Labeler:
    """One way to compute labels.

    Attributes
    ----------
    name
        In campaigns, on the command line, and as ``code`` of its protocols.
    help
        What it is, in one phrase.
    module
        Module with the functions that the table above names.
    category
        Workers that run it.
    references
        Functional in small letters → table of isolated-atom energies
        (:func:`aqvolt_flows.chemistry.atomic_energies`) that its total energies count from; a functional that is not
        named has none.
    named_by_model
        Its functional is a model string, which tells whose energies the model was trained on.
    scratch_gib
        Free space that one run may need, GiB.
    """

    name: str
    help: str
    module: str
    category: Category = "cpu"
    references: Mapping[str, str] = field(default_factory=dict)
    named_by_model: bool = False
    scratch_gib: float = 0.0

    def _function(self, name: str) -> Callable[..., Any] | None:
        try:
            found: Callable[..., Any] | None = getattr(importlib.import_module(self.module), name, None)
        except Exception as error:  # a foreign module may fail in any way; the labeler is named
            raise ResourceError(
                f"The labeler {self.name!r} cannot be used, its module {self.module} does not import "
                f"({type(error).__name__}: {error}); mend or uninstall its package, or choose another labeler."
            ) from error
        return found

    def protocol(self, parameters: LabelingParameters) -> Protocol:
        """Return the protocol that its labels carry."""
        look = self._function("protocol_of")
        found: Protocol = look(parameters) if look is not None else self.maker(parameters).protocol
        return found

    def maker(self, parameters: LabelingParameters) -> Any:
        """Return the maker of its statics."""
        make = self._function("maker_of")
        if make is None:
            raise ResourceError(
                f"The labeler {self.name!r} cannot be used, its module {self.module} has no function maker_of; mend "
                "or uninstall its package, or choose another labeler."
            )
        return make(parameters)

    def check(self, parameters: LabelingParameters, elements: Iterable[str] = ()) -> None:
        """Raise unless it can run here; each element needs its pseudopotential.

        Raises
        ------
        ResourceError
            One sentence that says what is missing and what to do.
        ConfigError
            If the installed packages would compute another theory level.
        """
        look = self._function("check_here")
        if look is not None:
            look(parameters, elements)

    def doctor_rows(
        self, parameters: LabelingParameters, elements: list[str], database: Database | None
    ) -> Iterator[Check]:
        """Yield a row for each thing it needs here: failures where the campaign labels with it, else warnings."""
        severity: Status = "fail" if parameters.labeler == self.name else "warn"
        try:
            look = self._function("doctor_rows")
            if look is not None:
                yield from look(parameters, elements, database, severity)
        except AqvoltError as error:
            yield problem(f"labeler: {self.name}", severity, error)
        except Exception as error:  # noqa: BLE001 - a labeler that fails is a row; the others are still looked at
            said = f"its check-up failed ({type(error).__name__}: {error})"
            yield Check(f"labeler: {self.name}", severity, said, "Mend or uninstall its package.")

    def describe(self, parameters: LabelingParameters) -> dict[str, Any]:
        """Return its theory level as a mapping: name, code, functional, settings."""
        look = self._function("describe")
        if look is not None:
            return dict(look(parameters))
        chosen = self.protocol(parameters)
        return {"protocol": chosen.name, "code": chosen.code, "functional": chosen.functional}

    def verify(self, parameters: LabelingParameters) -> None:
        """Raise :class:`ConfigError` if the installed packages would compute another theory level than the promised."""
        look = self._function("verify")
        if look is not None:
            look(parameters)

    def salvage(
        self, database: Database, job: Mapping[str, Any], frame_id: str, key: str, folder: Path
    ) -> LabelOutcome | None:
        """Return the converged outcome that a lost run's files stand for, or None."""
        try:
            look = self._function("salvage")
            return None if look is None else look(database, job, frame_id, key, folder)
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - files that a labeler cannot read are no result; the run is repeated
            logger.warning("%s in %s was not salvaged: %s: %s", key, folder, type(error).__name__, error)
            return None

    def reference_functional(self, protocol: Protocol) -> str | None:
        """Return which table of isolated-atom energies belongs to a protocol of this labeler, or None."""
        said = protocol.functional.lower()
        if self.named_by_model:
            return next((table for functional, table in self.references.items() if functional in said), None)
        return self.references.get(said)


#: MatPES 2025.1's tables are VASP energies. A model trained on such energies shares them, and says so in its name.
#: GPAW counts from its setups' own reference atoms (spin-paired, spherical): no table applies.
_VASP_TABLES = {"r2scan": "r2SCAN", "pbe": "PBE"}
LABELERS: Registry[Labeler] = Registry(
    "labeler",
    Labeler,
    [
        Labeler(
            "vasp",
            "VASP with MatPES r2SCAN settings",
            "aqvolt_flows.labeling.vasp_labeler",
            category="vasp",
            references=_VASP_TABLES,
            scratch_gib=5.0,  # WAVECAR and CHGCAR of one large static, while it runs
        ),
        Labeler("gpaw", "GPAW r2SCAN with plane waves", "aqvolt_flows.labeling.gpaw"),
        Labeler(
            "surrogate",
            "a machine-learning potential",
            "aqvolt_flows.labeling.surrogate",
            references=_VASP_TABLES,
            named_by_model=True,
        ),
    ],
    group="aqvolt.labelers",
)


def known_code(code: object) -> bool:
    """Return whether a protocol may have this code: that of a labeler, or of published labels."""
    return code == EXTERNAL or code in LABELERS


def reference_functional(protocol: Protocol) -> str | None:
    """Return which table of isolated-atom energies belongs to a protocol, or None.

    Published labels (code ``external``) are VASP's; a code that no labeler has gets no table, because all-electron or
    other pseudopotential energies count from other atoms.
    """
    if protocol.code == EXTERNAL:
        return _VASP_TABLES.get(protocol.functional.lower())
    return LABELERS[protocol.code].reference_functional(protocol) if protocol.code in LABELERS else None
