"""Compare the frozen theory level with what the installed pymatgen would write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aqvolt_flows.errors import ConfigError
from aqvolt_flows.vasp.settings import changes, frozen_incar, frozen_settings, potcar_functional


def diff_with_installed() -> dict[str, tuple[Any, Any]]:
    """Return name → (frozen, written by the installed pymatgen) for every setting that differs.

    Names are INCAR tags, ``POTCAR <element>``, ``MAGMOM <species>`` and ``POTCAR release``.
    """
    from pymatgen.core import Structure

    from aqvolt_flows.vasp.inputs import matpes_static_set

    cell = 5.13 / 2 * (np.ones((3, 3)) - np.eye(3))  # rock salt, primitive
    rock_salt = Structure(cell, ["Li", "Cl"], np.array([[0, 0, 0], [0.5, 0.5, 0.5]]))
    written = matpes_static_set().get_input_set(rock_salt, potcar_spec=True)
    incar = {k: v for k, v in dict(written.incar).items() if k != "MAGMOM"}
    config = matpes_static_set().CONFIG
    found = changes(frozen_incar(), incar)
    for name, key, now in (
        ("POTCAR", "potcar", config["POTCAR"]),
        ("MAGMOM", "magmom", config["INCAR"].get("MAGMOM", {})),
    ):
        found |= {f"{name} {k}": v for k, v in _differences(frozen_settings()[key], now).items()}
    release = str(matpes_static_set().user_potcar_functional)
    if release != potcar_functional():
        found["POTCAR release"] = (potcar_functional(), release)
    return found


def _differences(expected: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(expected.keys() | seen.keys())
    return {k: (expected.get(k), seen.get(k)) for k in names if expected.get(k) != seen.get(k)}


def check_installed() -> None:
    """Raise :class:`ConfigError` with the difference if the installed pymatgen writes another theory level."""
    found = diff_with_installed()
    if found:
        listed = "; ".join(f"{name}: {old!r} is now {new!r}" for name, (old, new) in found.items())
        raise ConfigError(
            f"The installed pymatgen writes MatPES r2SCAN settings that differ from the frozen ones ({listed}); "
            "install the pymatgen-core that the lock file pins, or start a new campaign with new frozen settings."
        )
