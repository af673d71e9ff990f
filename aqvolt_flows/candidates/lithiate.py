"""Stuffing a host with Li, one at a time, as far as its redox metals pay (section 2.1).

At each step one more Li goes onto every symmetry-distinct free site; all configurations are relaxed in one batch,
and the one of lowest energy that is still the host (a topotactic insertion) is the start of the next step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.framework import Change, Tolerances, compare
from aqvolt_flows.candidates.limits import Host, Insertion, judge_insertion
from aqvolt_flows.candidates.minima import Minimum, Search, alone, check_minimum, find_minima, search_lowest
from aqvolt_flows.candidates.sites import Sites
from aqvolt_flows.dynamics.relax import Relaxed, Relaxer
from aqvolt_flows.schemas.generation import LithiationParameters
from aqvolt_flows.schemas.provenance import Failure

#: V; a voltage that misses its limit by less is not below it.
_ROUNDING_V = 1e-9


@dataclass(frozen=True, eq=False)
class Configuration:
    """One arrangement of Li: the sites' indices, the minimum it relaxed to, and what became of the host."""

    occupied: tuple[int, ...]
    site_charge: float
    minimum: Minimum
    insertion: Insertion | None

    @property
    def relaxed(self) -> Relaxed:
        """How the relaxation that is kept ended."""
        return self.minimum.relaxed

    @property
    def failure(self) -> Failure | None:
        """Why it is left out: no minimum, or no longer the host."""
        return self.minimum.failure or (self.insertion.failure if self.insertion else None)

    def as_decisions(self) -> dict[str, Any]:
        """Return the numbers of this configuration."""
        i, failure = self.insertion, self.failure
        change = i.change if i else None
        return {
            "sites": list(self.occupied),
            "site_charge_e_per_a3": round(self.site_charge, 6),
            "energy_ev": _rounded(self.relaxed.energy),
            "max_force_ev_per_a": _rounded(self.relaxed.max_force),
            **self.minimum.as_decisions(),
            "failure": failure.reason if failure else None,
            "limit": (failure.message or None) if failure else None,
            "topotactic": change.kept if change else None,
            "rms_displacement_a": _rounded(change.rms_a if change else None),
            "max_displacement_a": _rounded(change.max_displacement_a if change else None),
            "volume_change": _rounded(change.volume_change if change else None),
            "length_change": _rounded(change.length_change if change else None),
            "angle_change_deg": _rounded(change.angle_change if change else None),
            "max_bond_stretch": _rounded(i.bond_stretch if i else None),
            "li_distance_a": _rounded(i.li_distance_a if i else None),
        }


@dataclass(frozen=True, eq=False)
class Step:
    """All configurations with one number of Li, and the best of them if one is sound.

    Attributes
    ----------
    voltage_v
        Of the last Li against Li metal; None where the metal's energy is not known or no configuration is sound.
    average_voltage_v
        Of all Li since the empty host.
    since_kept_v
        Of the Li added since the last content that is kept; it decides.
    failure
        ``low_voltage`` if that is below the limit.
    """

    n_li: int
    configurations: list[Configuration]
    best: Configuration | None
    skipped: int = 0
    voltage_v: float | None = None
    average_voltage_v: float | None = None
    since_kept_v: float | None = None
    failure: Failure | None = None

    @property
    def kept(self) -> bool:
        """Whether this content is a candidate."""
        return self.best is not None and self.failure is None

    def as_decisions(self) -> dict[str, Any]:
        """Return the numbers of every configuration, and the voltages."""
        return {
            "n_li": self.n_li,
            "configurations": [c.as_decisions() for c in self.configurations],
            "skipped_configurations": self.skipped,
            "voltage_v": _rounded(self.voltage_v),
            "average_voltage_v": _rounded(self.average_voltage_v),
            "voltage_since_last_kept_v": _rounded(self.since_kept_v),
            "limit": self.failure.message if self.failure else None,
        }


@dataclass(frozen=True, eq=False)
class Lithiation:
    """What became of one host.

    Attributes
    ----------
    host
        The minimum of the empty host.
    host_change
        Of the relaxed host against the given one; None where it did not relax.
    steps
        One per number of Li that was tried, from 1.
    failure
        Why there is no lithiated structure. Reasons: ``host_unrelaxed``, ``host_changed``, ``no_site``,
        ``unconverged``, ``not_a_minimum``, ``low_voltage``, and those of
        :class:`~aqvolt_flows.candidates.limits.Insertion`.
    stopped
        Why the last step is the last: ``paid`` (the metals pay for no more), ``no_site``, or a reason as above.
    """

    host: Minimum
    host_change: Change | None = None
    steps: list[Step] = field(default_factory=list)
    failure: Failure | None = None
    stopped: str = "paid"


def lithium_metal() -> Structure:
    """Return bcc Li at its measured lattice constant, 3.5093 Å (Wyckoff, Crystal Structures 1, 1963), two atoms."""
    return Structure.from_spacegroup("Im-3m", Lattice.cubic(3.5093), ["Li"], [[0, 0, 0]])


def lithiate(
    host: Structure,
    sites: Sites,
    max_li: int,
    relax: Relaxer,
    parameters: LithiationParameters,
    li_energy: float | None = None,
) -> Lithiation:
    """Insert up to ``max_li`` Li into a host; :func:`lithiation` alone.

    Parameters
    ----------
    relax
        Structures in, relaxed structures out; called once per round with all that is to be relaxed.
    """
    return alone(lithiation(host, sites, max_li, parameters, li_energy), relax)


def lithiation(
    host: Structure, sites: Sites, max_li: int, parameters: LithiationParameters, li_energy: float | None = None
) -> Search[Lithiation]:
    """Search the lithiated structures of one host.

    Parameters
    ----------
    host
        The empty host; the sites' fractional coordinates are those of this cell.
    sites
        Its insertion sites.
    max_li
        Li per cell that the redox metals compensate.
    parameters
        Tolerances and limits.
    li_energy
        eV/atom of Li metal with the same potential; None: no voltages, and no limit on them.
    """
    p = parameters
    empty, change, failure = yield from _relaxed_host(host, p)
    if failure is not None:
        return Lithiation(empty, change, failure=failure, stopped=failure.reason)
    reference = Host(host, empty.relaxed.structure)
    voltages = _Voltages(empty.relaxed.energy, li_energy, p.min_voltage_v)
    steps: list[Step] = []
    occupied: tuple[int, ...] = ()
    current, stopped = empty.relaxed.structure, "paid"
    for n_li in range(1, min(max_li, p.max_li or max_li) + 1):
        step = yield from _next_step(reference, current, sites, occupied, n_li, p)
        if not step.configurations:
            stopped = "no_site"
            break
        steps.append(voltages.judged(step))
        if step.best is None:
            stopped = _why_none(step).reason
            break
        occupied, current = step.best.occupied, step.best.relaxed.structure
    if stopped == "paid" and steps and steps[-1].failure is not None:
        stopped = steps[-1].failure.reason
    return Lithiation(empty, change, steps, _why_nothing(steps), stopped)


def _relaxed_host(host: Structure, p: LithiationParameters) -> Search[tuple[Minimum, Change | None, Failure | None]]:
    """Relax the empty host, and say why it cannot be the reference, or None."""
    tolerances = Tolerances(p.ltol, p.stol, p.angle_tol)

    def same(_: int, relaxed: Relaxed) -> bool:
        return compare(host, relaxed.structure, tolerances).kept

    (empty,) = yield from find_minima([host], same, p.minima)
    empty = yield from check_minimum(empty, 0, same, p.minima)
    if empty.failure is not None:
        said = f"the empty host: {empty.failure.reason} {empty.failure.message}".strip()
        return empty, None, Failure(reason="host_unrelaxed", message=said)
    change = compare(host, empty.relaxed.structure, tolerances)
    if not change.kept:
        said = f"the empty host relaxes to another framework: {change.limit}"
        return empty, change, Failure(reason="host_changed", message=said)
    return empty, change, None


class _Voltages:
    """Judges steps by −ΔE/Δn against Li metal, over the Li added since the last content that is kept."""

    def __init__(self, host_energy: float, li_energy: float | None, least: float | None) -> None:
        self._li, self._least = li_energy, least
        self._empty = self._last = self._kept = (0, host_energy)

    def judged(self, step: Step) -> Step:
        if step.best is None or self._li is None:
            return step
        here = (step.n_li, step.best.relaxed.energy)
        single, average, since = (self._between(start, here) for start in (self._last, self._empty, self._kept))
        self._last = here
        failure = None
        if self._least is not None and since < self._least - _ROUNDING_V:
            n = step.n_li - self._kept[0]
            said = f"{n} Li go in at {since:.3f} V against Li metal on average; at least {self._least:g} V"
            failure = Failure(reason="low_voltage", message=said)
        else:
            self._kept = here
        return Step(step.n_li, step.configurations, step.best, step.skipped, single, average, since, failure)

    def _between(self, start: tuple[int, float], end: tuple[int, float]) -> float:
        assert self._li is not None
        n = end[0] - start[0]
        return -(end[1] - start[1] - n * self._li) / n


def _next_step(
    host: Host, current: Structure, sites: Sites, occupied: tuple[int, ...], n_li: int, p: LithiationParameters
) -> Search[Step]:
    """Relax every distinct configuration with one more Li than ``current`` has."""
    drift = _drift(host.given, current)
    free = [
        i
        for i in range(len(sites))
        if i not in occupied and _is_free(current, sites.frac[i] + drift, p.min_distance_a, p.min_li_distance_a)
    ]
    distinct = sites.distinct(occupied, free)
    chosen = distinct[: p.max_configurations]
    starts = []
    for index in chosen:
        start = current.copy()
        start.append("Li", sites.frac[index] + drift)
        starts.append(start)

    def sound(_: int, relaxed: Relaxed) -> bool:
        return judge_insertion(host, relaxed.structure, p).kept

    minima, best = yield from search_lowest(starts, sound, p.minima, n_li)
    configurations = [
        Configuration(
            (*occupied, index),
            float(sites.charges[index]),
            minimum,
            judge_insertion(host, minimum.relaxed.structure, p) if np.isfinite(minimum.relaxed.energy) else None,
        )
        for index, minimum in zip(chosen, minima, strict=True)
    ]
    return Step(n_li, configurations, None if best is None else configurations[best], len(distinct) - len(chosen))


def _drift(host: Structure, current: Structure) -> NDArray[np.float64]:
    """Return the mean shift of the host's atoms, fractional: a relaxation may move the crystal as a whole."""
    difference = np.array(current.frac_coords)[: len(host)] - np.array(host.frac_coords)
    shift: NDArray[np.float64] = (difference - np.round(difference)).mean(axis=0)
    return shift


def _is_free(structure: Structure, frac: NDArray[np.float64], min_distance_a: float, min_li_distance_a: float) -> bool:
    distances = structure.lattice.get_all_distances([frac], structure.frac_coords)[0]
    limits = [min_li_distance_a if s.specie.symbol == "Li" else min_distance_a for s in structure]
    return bool((distances >= limits).all())


def _why_nothing(steps: Sequence[Step]) -> Failure | None:
    """Return why no content is kept, or None if one is."""
    if not steps:
        return Failure(reason="no_site", message="no site for Li in the charge density within the limits")
    if any(s.kept for s in steps):
        return None
    return next((s.failure for s in reversed(steps) if s.failure is not None), None) or _why_none(steps[0])


def _why_none(step: Step) -> Failure:
    """Return why no configuration of a step is sound: the reason of the lowest one, and how many have which."""
    failed = [(c, c.failure) for c in step.configurations if c.failure is not None]
    n = len(step.configurations)
    unconverged = [why for c, why in failed if not c.relaxed.converged]
    if len(unconverged) == n:
        seen = sorted({why.reason for why in unconverged})
        said = f"none of {n} configurations with {step.n_li} Li relaxed: {', '.join(seen)}"
        return Failure(reason="unconverged", message=said)
    lowest = min((c for c, _ in failed if c.relaxed.converged), key=lambda c: c.relaxed.energy)
    assert lowest.failure is not None
    counts = Counter(why.reason for _, why in failed)
    if len(counts) == 1:
        said = f"all of {n} configurations with {step.n_li} Li; the lowest: {lowest.failure.message}"
    else:
        others = ", ".join(f"{reason} {k}" for reason, k in counts.most_common())
        said = f"{n} configurations with {step.n_li} Li ({others}); the lowest: {lowest.failure.message}"
    return Failure(reason=lowest.failure.reason, message=said)


def kept_steps(found: Lithiation, keep: str) -> Sequence[Step]:
    """Return the steps that become candidates: every one that is kept, or the fullest."""
    kept = [s for s in found.steps if s.kept]
    return kept if keep == "every_step" else kept[-1:]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 6)
