"""What a configuration must fulfill before its numbers are looked at: three periodic directions, a theory level."""

from __future__ import annotations

from typing import Any

import numpy as np

from aqvolt_flows.datasets.importers.published import ImportOptions, RecordError


def periodic(flags: Any) -> None:
    """Refuse a configuration that is not periodic in three directions.

    A label has a stress, which needs the volume of a cell; potentials are trained on it, and MatPES has nothing else.
    The flags are never overwritten: a slab or a molecule that was computed in a periodic box declares it.

    Raises
    ------
    RecordError
        For any other flags.
    """
    try:
        given = np.asarray(flags)
        seen = [bool(f) for f in (np.broadcast_to(given, 3) if given.ndim == 0 else given.reshape(-1))]
    except (TypeError, ValueError):
        seen = []
    if len(seen) != 3 or isinstance(flags, str):
        raise RecordError(f"not_periodic: its pbc is {flags!r}; expected three flags")
    if not all(seen):
        said = " ".join("T" if f else "F" for f in seen)
        raise RecordError(
            f"not_periodic: its pbc is {said}; a label has a stress, which needs a cell that is periodic in three "
            "directions"
        )


#: Names that datasets give functionals, in lower case → ours.
_FUNCTIONALS = {"r2scan": "r2SCAN", "scan": "SCAN", "pbe": "PBE", "pbesol": "PBEsol", "pbe+u": "PBE+U", "lda": "LDA"}


def functional_name(said: str) -> str:
    """Return a functional as protocols write it: ``DFT-PBE`` and ``pbe`` are PBE; an unknown name stays."""
    bare = said.strip()
    bare = bare[4:] if bare.lower().startswith("dft-") else bare
    return _FUNCTIONALS.get(bare.lower(), bare)


def stated_functional(said: str | None, options: ImportOptions, what: str) -> str:
    """Return the functional that a record says, else the one that was asked for by name.

    Raises
    ------
    RecordError
        If neither says one: a default would give labels a theory level that nobody claimed.
    """
    if said:
        return functional_name(said)
    if options.says_functional and options.functional:
        return options.functional
    raise RecordError(
        f"no_functional: {what} does not say with which functional it was computed; give it with --functional (OMat24: "
        "PBE)"
    )
