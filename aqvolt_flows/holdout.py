"""Hold-out releases: what no training may contain, checked by structure.

A release is a hold-out where its campaign says ``release: {hold_out: true}``. A training release contains some of it if
one of its frames is the same configuration, if both sampled the same candidate, or if one of its frames has the crystal
structure of a candidate of the hold-out. Names and identities alone would miss a copy that was imported from elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.releases import release_folder
from aqvolt_flows.stores import Database

#: Volumes per atom of two copies of one configuration agree within this fraction.
VOLUME_TOLERANCE = 1e-4
#: ``StructureMatcher`` for configurations: fractions of a length and of (V/N)^(1/3), degrees. 0.005 × 2.5 Å is 0.01 Å.
_TIGHT = {"ltol": 1e-3, "stol": 5e-3, "angle_tol": 0.1, "scale": False}
#: Pairs that are compared atom by atom at most; more are an error, not a silent pass.
MAX_PAIRS = 200_000
#: Overlaps that a message names.
_NAMED = 3
_COLUMNS = ["frame_id", "candidate_id", "atomic_numbers", "positions", "cell"]
Key = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Configuration:
    """One labeled frame, or a candidate's structure.

    Attributes
    ----------
    frame_id
        Its identity.
    candidate_id
        The structure that it was sampled from; None where that is not known.
    numbers, positions, cell
        (n,), (n, 3) Å, (3, 3) Å with vectors as rows.
    """

    frame_id: str
    candidate_id: str | None
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]

    @property
    def formula(self) -> Key:
        """The reduced composition: atomic number and amount, in order."""
        numbers, counts = np.unique(self.numbers, return_counts=True)
        divisor = int(np.gcd.reduce(counts))
        return tuple((int(z), int(n) // divisor) for z, n in zip(numbers, counts, strict=True))

    @property
    def volume(self) -> float:
        """Per atom, Å³."""
        return abs(float(np.linalg.det(self.cell))) / len(self.numbers)

    @property
    def structure(self) -> Structure:
        """As pymatgen has it."""
        species = [Element.from_Z(int(z)) for z in self.numbers]
        return Structure(self.cell, species, self.positions, coords_are_cartesian=True)

    @classmethod
    def of(cls, structure: Structure, name: str) -> Configuration:
        """Return a candidate's structure."""
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
        return cls(name, name, numbers, np.asarray(structure.cart_coords), np.asarray(structure.lattice.matrix))


@dataclass(frozen=True)
class Overlap:
    """One training frame that belongs to a hold-out.

    Attributes
    ----------
    frame_id, held_out
        The training frame, and what of the hold-out it is.
    kind
        ``candidate``: both sampled one candidate; ``frame``: one configuration; ``material``: the frame has the crystal
        structure of a candidate of the hold-out.
    """

    frame_id: str
    held_out: str
    kind: Literal["candidate", "frame", "material"]


def overlap(
    training: Iterable[Configuration], held_out: Iterable[Configuration], materials: Iterable[Configuration] = ()
) -> list[Overlap]:
    """Return the training frames that a hold-out contains, each once.

    Order of atoms, origin, orientation and choice of cell do not matter (pymatgen's ``StructureMatcher``): with tight
    tolerances for frames, with its defaults, scaled to one volume, for crystal structures.

    Parameters
    ----------
    training
        Frames of the training release; read once.
    held_out
        Frames of the hold-out.
    materials
        Structures that the frames of the hold-out were sampled from.

    Raises
    ------
    InputError
        If more pairs than :data:`MAX_PAIRS` would have to be compared.
    """
    frames: dict[Key, list[Configuration]] = defaultdict(list)
    candidates: set[str] = set()
    for one in held_out:
        frames[one.formula].append(one)
        candidates |= {one.candidate_id} if one.candidate_id else set()
    for places in frames.values():
        places.sort(key=lambda c: c.volume)
    crystals: dict[Key, list[Configuration]] = defaultdict(list)
    for one in materials:
        crystals[one.formula].append(one)
    found, pairs = [], 0
    for one in training:
        if one.candidate_id in candidates and one.candidate_id is not None:
            found.append(Overlap(one.frame_id, one.candidate_id, "candidate"))
            continue
        near, alike = _near(frames.get(one.formula, []), one.volume), crystals.get(one.formula, [])
        pairs += len(near) + len(alike)
        if pairs > MAX_PAIRS:
            raise InputError(
                f"More than {MAX_PAIRS:,} pairs of frames have the formula and volume of a hold-out's; leave formulas "
                "of the hold-out out of the training release ('aqvolt release create --query') and try again."
            )
        same = _first_same(one, near, alike)
        if same is not None:
            found.append(same)
    return found


def _near(places: Sequence[Configuration], volume: float) -> Sequence[Configuration]:
    volumes = [p.volume for p in places]
    first = bisect_left(volumes, volume * (1 - VOLUME_TOLERANCE))
    last = bisect_left(volumes, volume * (1 + VOLUME_TOLERANCE))
    return places[first:last]


def _first_same(one: Configuration, near: Sequence[Configuration], alike: Sequence[Configuration]) -> Overlap | None:
    if not near and not alike:
        return None
    from pymatgen.analysis.structure_matcher import StructureMatcher

    own = one.structure
    tight, loose = StructureMatcher(primitive_cell=True, **_TIGHT), StructureMatcher()  # type: ignore[arg-type]
    for other in near:
        if other.frame_id == one.frame_id or tight.fit(own, other.structure):
            return Overlap(one.frame_id, other.frame_id, "frame")
    for other in alike:
        if loose.fit(own, other.structure):
            return Overlap(one.frame_id, other.frame_id, "material")
    return None


def read_configurations(folder: Path) -> Iterator[Configuration]:
    """Yield the frames of every set of a release's folder."""
    import pyarrow.parquet as pq

    for path in sorted((folder / "data").glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=_COLUMNS):
                for row in batch.to_pylist():
                    yield Configuration(
                        row["frame_id"],
                        row["candidate_id"],
                        np.asarray(row["atomic_numbers"], dtype=np.int64),
                        np.asarray(row["positions"], dtype=float).reshape(-1, 3),
                        np.asarray(row["cell"], dtype=float).reshape(3, 3),
                    )


def is_hold_out(release: Mapping[str, Any]) -> bool:
    """Return whether a release's document, or its manifest, says that it is a hold-out."""
    return bool((release.get("manifest") or release).get("is_hold_out"))


def hold_outs(database: Database) -> list[dict[str, Any]]:
    """Return the documents of all hold-out releases of a database, whichever campaign made them."""
    return list(database["releases"].find({"manifest.is_hold_out": True}, {"_id": 0}).sort("release_id", 1))


def refuse_held_out(database: Database, release: Mapping[str, Any], folder: Path) -> None:
    """Raise if a release that is to be trained on is a hold-out or contains some of one.

    Parameters
    ----------
    database
        All of its hold-outs count, those of other campaigns, too.
    release
        The training release's document.
    folder
        Where it is on this machine.

    Raises
    ------
    InputError
        Naming frames and the hold-out.
    ResourceError
        If a hold-out's files are nowhere.
    """
    if is_hold_out(release):
        raise InputError(
            f"Release {release['release_id']} is a hold-out, which nothing is trained on; name another release."
        )
    for held in hold_outs(database):
        frames = list(read_configurations(release_folder(database, held)))
        ids = sorted({f.candidate_id for f in frames if f.candidate_id})
        stored = database["candidates"].find(
            {"candidate_id": {"$in": ids}}, {"_id": 0, "candidate_id": 1, "structure": 1}
        )
        materials = [Configuration.of(Structure.from_dict(c["structure"]), c["candidate_id"]) for c in stored]
        found = overlap(read_configurations(folder), frames, materials)
        if found:
            named = ", ".join(f"{o.frame_id} ({o.kind} {o.held_out})" for o in found[:_NAMED])
            more = ", …" if len(found) > _NAMED else ""
            raise InputError(
                f"Release {release['release_id']} has {len(found)} frames that belong to the hold-out "
                f"{held['release_id']}: {named}{more}. Make a release without them: give their formulas or candidates "
                "to 'aqvolt release create --query' to exclude."
            )
