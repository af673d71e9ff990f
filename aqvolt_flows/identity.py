"""Identity is content: the key of a unit of work is a hash of everything that decides its result.

Keys are the first 24 hexadecimal digits (96 bits) of a SHA-256 over canonical JSON: sorted keys, no
white space, floats as Python's shortest round-trip representation, ``-0.0`` as ``0.0``. With 96 bits
the chance of one collision among 10⁹ keys is about 10⁻¹¹ (birthday bound).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aqvolt_flows.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

KEY_LENGTH = 24
#: Å and fractions; two structures that differ by less than this everywhere have one identity.
STRUCTURE_DECIMALS = 6


def canonical(value: Any) -> Any:
    """Reduce ``value`` to JSON types with one spelling each; raise :class:`InputError` if it has none."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise InputError(f"A key cannot be made from {value!r}: only finite numbers identify work.")
        return float(value) + 0.0
    if isinstance(value, np.ndarray):
        return canonical(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(canonical(v) for v in value)
    if isinstance(value, Sequence):
        return [canonical(v) for v in value]
    if hasattr(value, "model_dump"):
        return canonical(value.model_dump(mode="json"))
    raise InputError(
        f"A key cannot be made from a {type(value).__name__}; give plain numbers, text, lists or mappings."
    )


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of ``value`` (see the module's docstring)."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """Return the full SHA-256 (64 hexadecimal digits) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def content_key(stage: str, **parts: Any) -> str:
    """Return the key of one unit of work.

    Parameters
    ----------
    stage
        The stage's name, with its protocol version where it has one, e.g. ``"explore/1"``.
    **parts
        Inputs, parameters, and hashes of models or POTCARs: all that decides the result, nothing else.

    Examples
    --------
    >>> content_key("label/1", frame_id="frame-1", protocol="surrogate:x@1") == content_key(
    ...     "label/1", protocol="surrogate:x@1", frame_id="frame-1")
    True
    """
    return content_hash({"stage": stage, "parts": parts})[:KEY_LENGTH]


def structure_hash(structure: Structure) -> str:
    """Return the hash of a periodic structure as given: cell, species and positions in their order.

    The cell is rounded to 10⁻⁶ Å and fractional coordinates, wrapped into [0, 1), to 10⁻⁶. Symmetry
    equivalents and supercells are different structures here; finding those is deduplication's work.
    """
    frac = np.round(np.mod(np.asarray(structure.frac_coords), 1.0), STRUCTURE_DECIMALS)
    frac[frac >= 1.0] = 0.0
    return content_hash(
        {
            "cell": np.round(np.asarray(structure.lattice.matrix), STRUCTURE_DECIMALS) + 0.0,
            "species": [str(site.species) if not site.is_ordered else site.specie.symbol for site in structure],
            "positions": frac + 0.0,
        }
    )[:KEY_LENGTH]


def file_sha256(path: str | Path, chunk_bytes: int = 1 << 20) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while chunk := handle.read(chunk_bytes):
            digest.update(chunk)
    return digest.hexdigest()
