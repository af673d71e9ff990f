"""Frames labeled at two theory levels, compared: a shift per element, what it leaves, and how forces and stress differ.

The energy difference d = E_B − E_A of a frame is written as Σ n_el μ_el + rest; μ minimizes the squared rest per atom,

    min over μ of  Σ_frames ( d/N − Σ_el x_el μ_el )²

with x_el the fraction of the element. Where compositions do not tell elements apart (only LiCl, say), the shifts with
the smallest sum of squares are given, and their number is told. Intervals are percentiles of a bootstrap over groups:
the frames of one trajectory, else of one candidate, else of one formula are drawn together, since they are not
independent. A force cosine is that of one atom, where both forces exceed :data:`SMALL_FORCE`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.datasets.pairs import Pair, find_pairs
from aqvolt_flows.errors import InputError
from aqvolt_flows.stores import Database
from aqvolt_flows.units import EV_PER_A3_IN_GPA

Array = NDArray[np.float64]

#: eV/Å; the direction of a smaller force is noise.
SMALL_FORCE = 0.05
RESAMPLES = 2000
#: Groups beyond this many are drawn in blocks, several groups each.
_BLOCKS = 2000
#: Two-sided level of the intervals.
LEVEL = 0.95
#: Atoms whose cosines a figure shows, and frames.
_SHOWN = 20_000


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval; the interval is None where there is one group only."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass
class Alignment:
    """What two theory levels differ by.

    Attributes
    ----------
    a, b
        Names of the protocols; differences are B − A.
    frames, atoms, groups
        What was compared, and how many groups the bootstrap draws from.
    mismatched
        Frames of one identity whose two labels are of different cells or positions; they are left out.
    shifts
        Element → shift, eV/atom.
    determined
        Independent shifts that the compositions determine; fewer than elements where some go together.
    support
        Element → frames that hold it.
    rmse_before, rmse, mae
        Energy differences per atom without and with the shifts, eV/atom.
    force_cosine, force_cosine_atoms
        Mean over atoms with forces above :data:`SMALL_FORCE`, and how many these are.
    force_mae
        Mean |F_B − F_A| over components, eV/Å.
    stress_mae, pressure_difference
        Mean over components, and mean of p_B − p_A (compression positive), GPa.
    residuals, cosines, pressures
        For figures: eV/atom, dimensionless, (p_A, p_B) in GPa; a sample where there are many.
    """

    a: str
    b: str
    frames: int = 0
    atoms: int = 0
    groups: int = 0
    mismatched: int = 0
    shifts: dict[str, Estimate] = field(default_factory=dict)
    determined: int = 0
    support: dict[str, int] = field(default_factory=dict)
    rmse_before: Estimate = Estimate(0.0)
    rmse: Estimate = Estimate(0.0)
    mae: Estimate = Estimate(0.0)
    force_cosine: Estimate = Estimate(0.0)
    force_cosine_atoms: int = 0
    force_mae: Estimate = Estimate(0.0)
    stress_mae: Estimate = Estimate(0.0)
    pressure_difference: Estimate = Estimate(0.0)
    residuals: Array = field(default_factory=lambda: np.zeros(0))
    cosines: Array = field(default_factory=lambda: np.zeros(0))
    pressures: Array = field(default_factory=lambda: np.zeros((0, 2)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without the samples for figures."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                continue
            if isinstance(value, Estimate):
                found[name] = vars(value)
            elif name == "shifts":
                found[name] = {e: vars(s) for e, s in value.items()}
            else:
                found[name] = value
        return found


def align(database: Database, a: str, b: str, query: Mapping[str, Any] | None = None) -> Alignment:
    """Return how labels of protocol B differ from those of protocol A on the frames that have both.

    Parameters
    ----------
    database
        Holds ``labels``.
    a, b
        Names or identities of protocols.
    query
        Only valid labels that match it.

    Raises
    ------
    InputError
        If a protocol is unknown, both are one, or no frame has both.
    """
    names = [protocol_named(database, given) for given in (a, b)]
    if names[0] == names[1]:
        raise InputError(f"{a!r} and {b!r} are one protocol, {names[0]}; give two.")
    found = compare(find_pairs(database, names[0], names[1], query), *names)
    if not found.frames:
        raise InputError(
            f"No frame has a label of both {names[0]} and {names[1]}; frames are one if they share their identity, or "
            "species, cell and positions within 0.001 Å. Label the frames of one at the other's level first."
        )
    return found


def protocol_named(database: Database, given: str) -> str:
    """Return the name of the protocol that is named, by its name, its identity or a part that only it has.

    Raises
    ------
    InputError
        If there is none, or several have the part.
    """
    counts: Counter[str] = Counter()
    identities: dict[str, str] = {}
    groups = [
        {"$match": database.own("labels").among({"status": "valid"})},
        {"$group": {"_id": {"name": "$protocol_name", "id": "$protocol_id"}, "n": {"$sum": 1}}},
    ]
    for row in database["labels"].aggregate(groups):
        counts[row["_id"]["name"]] += row["n"]
        identities[row["_id"]["id"]] = row["_id"]["name"]
    if given in counts:
        return given
    if given in identities:
        return identities[given]
    like = [name for name in counts if given.lower() in name.lower()]
    if len(like) == 1:
        return like[0]
    listed = ", ".join(f"{name} ({n})" for name, n in sorted(counts.items())) or "none"
    said = "several protocols" if like else "no protocol"
    raise InputError(f"There is {said} like {given!r}; labels have the protocols: {listed}.")


def compare(pairs: Iterable[Pair | None], a: str, b: str) -> Alignment:
    """Return the alignment of pairs of labels; None stands for a frame whose labels are of different geometries."""
    sums = _Sums()
    mismatched = 0
    for pair in pairs:
        if pair is None:
            mismatched += 1
        else:
            sums.add(pair)
    found = sums.alignment(a, b)
    found.mismatched = mismatched
    return found


class _Sums:
    """Sums by group from which every number and its bootstrap follow; frames themselves are not kept."""

    def __init__(self) -> None:
        self._groups: dict[str, int] = {}
        self._owner: list[int] = []
        self._difference: list[float] = []
        self._entries: list[tuple[int, str, float]] = []
        self._plain: list[list[float]] = []
        self.atoms = 0
        self._cosines: list[Array] = []
        self._shown = 0
        self._pressures: list[tuple[float, float]] = []

    def add(self, pair: Pair) -> None:
        n_atoms = len(pair.atomic_numbers)
        self._owner.append(self._groups.setdefault(pair.group, len(self._groups)) % _BLOCKS)
        self._difference.append((pair.energy_b - pair.energy_a) / n_atoms)
        for element, n in Counter(symbols_of(pair.atomic_numbers)).items():
            self._entries.append((len(self._owner) - 1, element, n / n_atoms))
        cosines = _cosines(pair.forces_a, pair.forces_b)
        stress = (pair.stress_b - pair.stress_a) * EV_PER_A3_IN_GPA
        self._plain.append(
            [
                float(cosines.sum()),
                float(len(cosines)),
                float(np.abs(pair.forces_b - pair.forces_a).sum()),
                3.0 * n_atoms,
                float(np.abs(stress).sum()),
                6.0,
                float(-stress[:3].mean()),
                1.0,
            ]
        )
        self.atoms += n_atoms
        if self._shown < _SHOWN:
            self._cosines.append(cosines)
            self._shown += len(cosines)
        if len(self._pressures) < _SHOWN:
            both = (pair.stress_a, pair.stress_b)
            self._pressures.append(tuple(float(-s[:3].mean()) * EV_PER_A3_IN_GPA for s in both))  # type: ignore[arg-type]

    def alignment(self, a: str, b: str) -> Alignment:
        found = Alignment(a, b, frames=len(self._owner), atoms=self.atoms, groups=len(self._groups))
        if not self._owner:
            return found
        support = Counter(element for _, element, _ in self._entries)
        elements = sorted(support)
        fractions = self._fractions(elements)
        difference = np.array(self._difference)
        owner = np.array(self._owner)
        draws = _draws(int(owner.max()) + 1)
        shifts, rank = _solve((fractions.T @ fractions).toarray(), fractions.T @ difference)
        residuals = difference - fractions @ shifts
        found.determined, found.support = rank, dict(sorted(support.items()))
        found.residuals = residuals[:_SHOWN]
        self._energies(found, elements, fractions, difference, shifts, owner, draws)
        found.mae = _ratio(np.abs(residuals), np.ones_like(residuals), owner, draws)
        plain = np.array(self._plain)
        for name, top in (("force_cosine", 0), ("force_mae", 2), ("stress_mae", 4), ("pressure_difference", 6)):
            setattr(found, name, _ratio(plain[:, top], plain[:, top + 1], owner, draws))
        found.force_cosine_atoms = int(plain[:, 1].sum())
        found.cosines = np.concatenate(self._cosines) if self._cosines else np.zeros(0)
        found.pressures = np.array(self._pressures).reshape(-1, 2)
        return found

    def _fractions(self, elements: Sequence[str]) -> csr_matrix:
        """Return the fraction of each element in each frame; most are zero."""
        place = {e: i for i, e in enumerate(elements)}
        rows, names, values = zip(*self._entries, strict=True)
        return csr_matrix((values, (rows, [place[e] for e in names])), shape=(len(self._owner), len(elements)))

    @staticmethod
    def _energies(
        found: Alignment,
        elements: Sequence[str],
        fractions: csr_matrix,
        difference: Array,
        shifts: Array,
        owner: NDArray[np.int64],
        draws: Array | None,
    ) -> None:
        """Fill shifts and root mean squares with their intervals: each draw is fitted again, from sums by group."""
        n_groups = int(owner.max()) + 1
        parts = [np.flatnonzero(owner == g) for g in range(n_groups)]
        squares = np.stack([(fractions[p].T @ fractions[p]).toarray() for p in parts])
        products = np.stack([fractions[p].T @ difference[p] for p in parts])
        totals = np.bincount(owner, difference**2, n_groups)
        sizes = np.bincount(owner, minlength=n_groups).astype(float)
        fitted, after = [], []
        for weights in draws if draws is not None else ():
            matrix = np.tensordot(weights, squares, 1)
            vector = weights @ products
            mu, _ = _solve(matrix, vector)
            fitted.append(mu)
            after.append((weights @ totals - 2 * mu @ vector + mu @ matrix @ mu) / (weights @ sizes))
        spread = np.array(fitted) if fitted else None
        for i, element in enumerate(elements):
            found.shifts[element] = _with_interval(float(shifts[i]), None if spread is None else spread[:, i])
        before = None if draws is None else np.sqrt((draws @ totals) / (draws @ sizes))
        found.rmse_before = _with_interval(float(np.sqrt(np.mean(difference**2))), before)
        residuals = difference - fractions @ shifts
        rmse = np.sqrt(np.maximum(after, 0.0)) if after else None
        found.rmse = _with_interval(float(np.sqrt(np.mean(residuals**2))), rmse)


def _solve(matrix: Array, vector: Array) -> tuple[Array, int]:
    """Return the shortest least-squares solution of the normal equations, and their rank."""
    solution, _, rank, _ = np.linalg.lstsq(matrix, vector, rcond=1e-10)
    return np.asarray(solution, dtype=float), int(rank)


def _draws(n_groups: int) -> Array | None:
    """Return how often each group is drawn, (RESAMPLES, n_groups); None for one group, which has no spread."""
    if n_groups < 2:
        return None
    rng = np.random.default_rng(0)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=RESAMPLES).astype(float)


def _ratio(top: Array, bottom: Array, owner: NDArray[np.int64], draws: Array | None) -> Estimate:
    """Return Σ top / Σ bottom with the interval of its draws; zero where nothing is below."""
    if bottom.sum() == 0:
        return Estimate(0.0)
    if draws is None:
        return Estimate(float(top.sum() / bottom.sum()))
    n_groups = draws.shape[1]
    tops, bottoms = np.bincount(owner, top, n_groups), np.bincount(owner, bottom, n_groups)
    below = draws @ bottoms
    return _with_interval(float(top.sum() / bottom.sum()), (draws @ tops)[below > 0] / below[below > 0])


def _with_interval(value: float, draws: Array | None) -> Estimate:
    if draws is None or not len(draws):
        return Estimate(value)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _cosines(a: Array, b: Array) -> Array:
    """Return the cosine between two forces of each atom where both are larger than :data:`SMALL_FORCE`."""
    norms_a, norms_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    large = (norms_a > SMALL_FORCE) & (norms_b > SMALL_FORCE)
    return np.asarray((a[large] * b[large]).sum(axis=1) / (norms_a[large] * norms_b[large]))
