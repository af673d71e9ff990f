"""What the test and validation sets share with the training set: ancestors, and near copies.

Near copies are found by average minimum distances: AMD_k of an element is the mean, over its atoms, of the distance to
the k-th nearest atom of any kind (Widdowson, Mosca, Pulido, Cooper and Kurlin, MATCH Commun. Math. Comput. Chem. 87,
529 (2022), doi:10.46793/match.87-3.529W, there for all atoms at once). It depends on neither the choice of cell nor
rotation, wrapping or the order of atoms, and changes by at most 2 ε when every atom moves by at most ε. The distance
of two frames of one reduced formula is the largest difference of any AMD_k, k = 1 … 12, of any element, in Å; frames of
different formulas are not compared.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from aqvolt_flows.datasets.formats import arrays_of

Array = NDArray[np.float64]
#: Atomic numbers (n_atoms), positions (n_atoms, 3) and cell (3, 3) in Å.
Frame = tuple[NDArray[np.integer[Any]], Array, Array]

#: Ancestors that two frames may share.
ANCESTORS = ("candidate_id", "trajectory_id", "formula", "chemsys")
#: Neighbors of an atom that are looked at.
NEIGHBOURS = 12
#: Å; how many frames have a training frame within each is counted.
WITHIN = (0.01, 0.03, 0.1, 0.3)
#: Frames of a set, and of train, that are described at most; those with the smallest hash of their identity.
MAX_FRAMES, MAX_TRAIN = 20_000, 400_000
#: Pairs of frames that are compared at most for one set.
MAX_PAIRS = 200_000_000
#: Distances computed at once; more no longer fit into a core's cache.
_CHUNK_DISTANCES = 250_000


def leakage(paths: Mapping[str, Path]) -> dict[str, Any]:
    """Return what every set but train shares with train.

    Parameters
    ----------
    paths
        Set → Parquet file of a release; without ``train`` nothing is compared.

    Returns
    -------
    dict
        For every other set ``shared``: ancestor → groups in the set, of these in train, and frames that belong to
        those; and ``neighbours``: frames of the set, compared (their formula is in train), ``train_frames`` compared
        with, quantiles of the distance to the nearest (Å), and how many frames have one within :data:`WITHIN`.
    """
    if "train" not in paths:
        return {}
    identities = {name: _identities(path) for name, path in paths.items()}
    train = identities["train"]
    sets = [name for name in paths if name != "train"]
    formulas = set(train["formula"])
    wanted = {name: _chosen(identities[name], lambda formula: formula in formulas, MAX_FRAMES) for name in sets}
    asked = {identities[name]["formula"][i] for name in sets for i in wanted[name]}
    described = _by_formula(paths["train"], train, _chosen(train, lambda formula: formula in asked, MAX_TRAIN))
    return {
        name: {
            "shared": {field: _shared(identities[name][field], train[field]) for field in ANCESTORS},
            "neighbours": _nearest_in_train(
                _by_formula(paths[name], identities[name], wanted[name]), described, len(identities[name]["formula"])
            ),
        }
        for name in sets
    }


def _identities(path: Path) -> dict[str, list[str | None]]:
    table = pq.read_table(path, columns=["frame_id", *ANCESTORS])
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _shared(own: Sequence[str | None], train: Iterable[str | None]) -> dict[str, int]:
    groups = {g for g in own if g is not None}
    common = groups & set(train)
    return {"groups": len(groups), "in_train": len(common), "frames": sum(g in common for g in own)}


def _chosen(identities: Mapping[str, Sequence[Any]], wanted: Any, most: int) -> list[int]:
    """Return the rows whose formula is wanted, at most ``most``: those with the smallest hash of their frame."""
    rows = [i for i, formula in enumerate(identities["formula"]) if wanted(formula)]
    if len(rows) > most:
        names = identities["frame_id"]
        rows = sorted(sorted(rows, key=lambda i: hashlib.sha256(names[i].encode()).digest())[:most])
    return rows


def _by_formula(path: Path, identities: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> dict[str, Array]:
    """Return formula → descriptors (frames, elements × :data:`NEIGHBOURS`) of some rows of a file, in file order."""
    chosen = set(rows)
    found: dict[str, list[Array]] = defaultdict(list)
    frames = (frame for i, frame in enumerate(_frames(path)) if i in chosen)
    for i, vector in zip(rows, describe_all(frames), strict=True):
        found[identities["formula"][i]].append(vector)
    return {formula: np.array(vectors) for formula, vectors in found.items()}


def _frames(path: Path) -> Iterator[Frame]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["atomic_numbers", "positions", "cell"]):
            yield from zip(*(arrays_of(column) for column in batch.columns), strict=True)


def _nearest_in_train(own: Mapping[str, Array], train: Mapping[str, Array], frames: int) -> dict[str, Any]:
    nearest: list[Array] = []
    left = MAX_PAIRS
    pairs_with = 0
    for formula in sorted(own.keys() & train.keys()):
        there = train[formula]
        here = own[formula][: max(left // len(there), 0)]
        left -= len(here) * len(there)
        pairs_with += len(there)
        step = max(1, 5_000_000 // len(there))
        nearest += [cdist(here[i : i + step], there, "chebyshev").min(axis=1) for i in range(0, len(here), step)]
    distances = np.concatenate(nearest) if nearest else np.zeros(0)
    result: dict[str, Any] = {"frames": frames, "compared": len(distances), "train_frames": pairs_with}
    if len(distances):
        cuts = np.quantile(distances, [0.0, 0.05, 0.5, 0.95, 1.0])
        result["distance_a"] = dict(zip(("min", "p05", "median", "p95", "max"), map(float, cuts), strict=True))
        result["within_a"] = {f"{limit:g}": int((distances <= limit).sum()) for limit in WITHIN}
    return result


def describe_all(frames: Iterable[Frame], block: int = 4096) -> Iterator[Array]:
    """Yield :func:`average_minimum_distances` of every frame, computed for many of one size at once."""
    waiting: list[Frame] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == block:
            yield from _describe_block(waiting)
            waiting = []
    yield from _describe_block(waiting)


def average_minimum_distances(numbers: NDArray[np.integer[Any]], positions: Array, cell: Array) -> Array:
    """Return AMD_1 … AMD_12 (Å) of every element, elements by atomic number, as one vector.

    Parameters
    ----------
    numbers
        Atomic numbers (n_atoms).
    positions, cell
        (n_atoms, 3) and (3, 3), Å; periodic in all directions.
    """
    return next(describe_all([(numbers, positions, cell)]))


def _describe_block(frames: Sequence[Frame]) -> list[Array]:
    result: list[Array] = [np.zeros(0)] * len(frames)
    cells = np.array([cell for _, _, cell in frames], dtype=float).reshape(-1, 3, 3)
    sizes = np.array([len(numbers) for numbers, _, _ in frames])
    heights = 1 / np.linalg.norm(np.linalg.inv(cells), axis=1)
    # The sphere that holds the neighbors at the mean density, half as wide again; checked afterwards.
    radius = 1.5 * np.cbrt(3 * NEIGHBOURS * np.abs(np.linalg.det(cells)) / np.maximum(sizes, 1) / (4 * np.pi))
    images = np.maximum(np.ceil(radius[:, None] / heights).astype(int), 1)
    waiting = list(range(len(frames)))
    while waiting:
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i in waiting:
            alike[(int(sizes[i]), *map(int, images[i]))].append(i)
        waiting = []
        for (n_atoms, *repeats), members in alike.items():
            step = max(1, _CHUNK_DISTANCES // (n_atoms**2 * int(np.prod(2 * np.array(repeats) + 1))))
            for first in range(0, len(members), step):
                some = members[first : first + step]
                near = _nearest(np.array([frames[i][1] for i in some]), cells[some], np.array(repeats))
                for i, distances in zip(some, near, strict=True):
                    farthest = distances[:, -1].max()
                    if farthest > (images[i] * heights[i]).min():
                        images[i] = np.maximum(np.ceil(farthest / heights[i]).astype(int), 1)
                        waiting.append(i)
                    else:
                        result[i] = _mean_by_element(np.asarray(frames[i][0]), distances)
    return result


def _nearest(positions: Array, cells: Array, repeats: NDArray[np.int_]) -> Array:
    """Return the sorted distances (frames, n_atoms, NEIGHBOURS) of every atom to its nearest images within repeats."""
    fractional = positions @ np.linalg.inv(cells)
    fractional -= np.floor(fractional)
    ranges = [np.arange(-r, r + 1) for r in repeats]
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    home = fractional @ cells
    others = (fractional[:, None, :, :] + shifts[None, :, None, :]).reshape(len(cells), -1, 3) @ cells
    # |a|² + |b|² − 2 a·b as one product of matrices
    left = np.concatenate([-2 * home, _squares(home), np.ones((*home.shape[:2], 1))], axis=-1)
    right = np.concatenate([others, np.ones((*others.shape[:2], 1)), _squares(others)], axis=-1)
    squares = left @ right.transpose(0, 2, 1)
    n_atoms = positions.shape[1]
    atoms = np.arange(n_atoms)
    squares[:, atoms, len(shifts) // 2 * n_atoms + atoms] = np.inf  # the atom itself
    squares.partition(NEIGHBOURS - 1, axis=-1)
    return np.sqrt(np.maximum(np.sort(squares[..., :NEIGHBOURS], axis=-1), 0.0))


def _squares(vectors: Array) -> Array:
    return np.einsum("bni,bni->bn", vectors, vectors)[..., None]


def _mean_by_element(numbers: NDArray[np.integer[Any]], distances: Array) -> Array:
    order = np.argsort(numbers, kind="stable")
    first = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    counts = np.diff(first, append=len(numbers))
    return np.asarray(np.add.reduceat(distances[order], first, axis=0) / counts[:, None]).ravel()
