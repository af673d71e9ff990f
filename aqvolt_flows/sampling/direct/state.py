"""What a round of sampling leaves for the next: what is chosen, with its features, and the statistics of all rows.

A space fitted on the rows of one round is too fine for the next: it blows up whatever those rows happened to differ in.
So the next round fits it again, over all rows of all rounds. Their moments add up, so that no row need be read again,
and the features of what is chosen let it take its place in the new space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.forms import as_features
from aqvolt_flows.sampling.direct.known import Known
from aqvolt_flows.sampling.direct.robust import RowSample, Statistics
from aqvolt_flows.sampling.direct.rows import Rows, Shards
from aqvolt_flows.sampling.direct.space import Moments, Space

Points = NDArray[np.float32]

#: Without and with what a later round needs to fit the space again.
_FORMATS = ("aqvolt-sampled-space/1", "aqvolt-sampled-space/2")
_SPACE = ("mean", "scale", "components", "variances", "ratios", "weights")
#: Name in the file → attribute; the file keeps the spelling of the first release.
_ARRAYS = {"centres": "centers", "radii": "radii", "counts": "counts", "chosen": "chosen"}
_KNOWN = ("structures", "atoms", "n_atoms", "names")


@dataclass(frozen=True, eq=False)
class SampledSpace:
    """A space and the part of it that is covered.

    Attributes
    ----------
    space
        Scaler, principal components and weights; fitted over the rows of all rounds so far.
    threshold
        Of the structural level, in the weighted space.
    centers, radii, counts
        (m, n_components), (m,), (m,): the sub-clusters of the last round, around what was chosen before it.
    chosen
        (c, n_components): chosen rows of all rounds, and rows of datasets put in as covered.
    parameters
        Choices of the last round.
    known
        The rows of ``chosen`` as features, with their atoms; None in states that version 0.1 wrote.
    structures, atoms
        Statistics of all structures and of all atoms of all rounds.
    """

    space: Space
    threshold: float
    centers: Points
    radii: NDArray[np.float64]
    counts: NDArray[np.int64]
    chosen: Points
    parameters: dict[str, Any] = field(default_factory=dict)
    known: Known | None = None
    structures: Statistics | None = None
    atoms: Statistics | None = None

    @classmethod
    def empty(cls, space: Space, threshold: float, parameters: dict[str, Any] | None = None) -> Self:
        """Return a space in which nothing is covered yet."""
        none = np.empty((0, len(space.weights)), np.float32)
        return cls(space, threshold, none, np.empty(0), np.empty(0, np.int64), none, parameters or {})

    @property
    def reference(self) -> Points:
        """Centers and chosen rows, (m + c, n_components)."""
        return np.concatenate([self.centers, self.chosen])

    def with_covered(self, features: Rows | Iterable[Rows]) -> Self:
        """Return the space with rows of another dataset (features, not points) counted as chosen.

        They cover in the structural space alone, as nothing is known of their atoms.

        Raises
        ------
        InputError
            If they have other columns than the rows the space was fitted on, or are not finite.
        """
        rows = Known.of(rows_of(self.space, features, "covered features"))
        known = None if self.known is None else self.known + rows
        return replace(self, chosen=np.concatenate([self.chosen, self.space.project(rows.structures)]), known=known)

    @property
    def hash(self) -> str:
        """SHA-256 over format, threshold, parameters and the bytes of all arrays."""
        digest = hashlib.sha256(_header(self).encode())
        for name, array in _arrays(self).items():
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> str:
        """Write an ``.npz`` without pickles and return the hash that it holds."""
        digest = self.hash
        stored: dict[str, Any] = {"header": np.array(_header(self)), "hash": np.array(digest), **_arrays(self)}
        with written_aside(path) as aside, aside.open("wb") as handle:
            np.savez(handle, **stored)
        return digest

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is not one of ours, was cut short, or does not have its hash any more.
        """
        try:
            with Path(path).open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files if name not in ("header", "hash")}
                missing = [name for name in (*_SPACE, *_ARRAYS) if name not in arrays]
                if missing:
                    raise KeyError(missing[0])
                header, digest = str(stored["header"]), str(stored["hash"])
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; give a sampled space that a round of sampling saved.") from None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(
                f"{path} is not a sampled space ({type(error).__name__}: {error}); it may have been cut short, "
                "restore it from a copy."
            ) from error
        known = json.loads(header)
        if known.get("format") not in _FORMATS:
            raise InputError(f"{path} has format {known.get('format')!r}; expected {' or '.join(_FORMATS)}.")
        space = Space(**{name: arrays[name] for name in _SPACE})
        covered: dict[str, Any] = {attribute: arrays[name] for name, attribute in _ARRAYS.items()}
        found = cls(space, known["threshold"], **covered, parameters=known["parameters"])
        if known["format"] == _FORMATS[1]:
            found = replace(
                found,
                known=Known(**{name: arrays[f"known_{name}"] for name in _KNOWN}),
                structures=_statistics(arrays, "structures"),
                atoms=_statistics(arrays, "atoms"),
            )
        if found.hash != digest:
            raise InputError(f"{path} was changed: its arrays hash to {found.hash[:12]}…, it says {digest[:12]}….")
        return found


def rows_of(space: Space, features: Rows | Iterable[Rows], what: str) -> Iterable[Rows]:
    """Yield features in checked blocks that have the columns of a space; one pass, nothing is copied to disk."""
    given = as_features(features, what)
    shards = Shards(given if isinstance(given, np.ndarray) else (b for b in given), what, None)
    for block in shards.blocks():
        if block.shape[1] != len(space.mean):
            raise InputError(
                f"{what} has {block.shape[1]} columns, the space was fitted on {len(space.mean)}; use the same encoder."
            )
        yield block


def _header(state: SampledSpace) -> str:
    form = _FORMATS[state.known is not None]
    known = {"format": form, "threshold": float(state.threshold), "parameters": state.parameters}
    return json.dumps(known, sort_keys=True)


def _arrays(state: SampledSpace) -> dict[str, NDArray]:
    found = {n: getattr(state.space, n) for n in _SPACE} | {n: getattr(state, a) for n, a in _ARRAYS.items()}
    if state.known is not None:
        found |= {f"known_{n}": getattr(state.known, n) for n in _KNOWN}
        for name, one in (("structures", state.structures), ("atoms", state.atoms)):
            found |= {f"{name}_{n}": a for n, a in (_statistics_arrays(one) if one is not None else {}).items()}
    return found


def _statistics_arrays(one: Statistics) -> dict[str, NDArray]:
    m, sample = one.moments, one.sample
    if sample is not None:
        return {"sample": sample.rows, "sample_keys": sample.keys, "sample_count": np.array(sample.count)}
    if m is None:
        return {}
    return {"count": np.array(m.count), "mean": m.mean, "scatter": m.scatter, "resolution": np.array(m.resolution)}


def _statistics(arrays: dict[str, NDArray], name: str) -> Statistics | None:
    if f"{name}_sample" in arrays:
        rows, keys, seen = (arrays[f"{name}_{n}"] for n in ("sample", "sample_keys", "sample_count"))
        return Statistics(sample=RowSample(rows, keys, int(seen)))
    if f"{name}_mean" not in arrays:
        return None
    count, mean, scatter, resolution = (arrays[f"{name}_{n}"] for n in ("count", "mean", "scatter", "resolution"))
    return Statistics(Moments(int(count), mean, scatter, float(resolution)))
