"""Stuffing a host with Li, one at a time, as far as its redox metals pay (section 2.1).

At each step one more Li goes onto every symmetry-distinct free site; all configurations are relaxed in one batch,
and the one of lowest energy that is still the host (a topotactic insertion) is the start of the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.candidates.framework import Tolerances, compare
from aqvolt_flows.candidates.sites import Sites
from aqvolt_flows.dynamics.relax import Relaxed, Relaxer
from aqvolt_flows.schemas.generation import LithiationParameters
from aqvolt_flows.schemas.provenance import Failure


@dataclass(frozen=True, eq=False)
class Topotaxy:
    """Whether the host survived.

    Attributes
    ----------
    kept
        The structure without its Li is the host within the tolerances (:mod:`aqvolt_flows.candidates.framework`).
    rms, max_displacement_a
        Root mean square and largest displacement of host atoms at equal volume, Å; None without a match.
    volume_change
        V/V₀ − 1 against the empty host.
    length_change, angle_change
        Largest relative change of a length, and of an angle (degrees), of the host's primitive cell at equal volume.
    limit
        Which tolerance was exceeded, with both numbers; empty if none was.
    """

    kept: bool
    rms: float | None
    max_displacement_a: float | None
    volume_change: float
    length_change: float | None = None
    angle_change: float | None = None
    limit: str = ""


@dataclass(frozen=True, eq=False)
class Configuration:
    """One relaxed arrangement of Li: the sites' indices, how its relaxation ended, and what became of the host."""

    occupied: tuple[int, ...]
    site_charge: float
    relaxed: Relaxed
    topotaxy: Topotaxy | None

    @property
    def sound(self) -> bool:
        """Converged, and still the host."""
        return self.relaxed.converged and self.topotaxy is not None and self.topotaxy.kept


@dataclass(frozen=True, eq=False)
class Step:
    """All configurations with one number of Li, and the best of them if one is sound."""

    n_li: int
    configurations: list[Configuration]
    best: Configuration | None
    skipped: int = 0

    def as_decisions(self) -> dict[str, Any]:
        """Return the numbers of every configuration."""
        rows = [
            {
                "sites": list(c.occupied),
                "site_charge_e_per_a3": round(c.site_charge, 6),
                "energy_ev": _rounded(c.relaxed.energy),
                "max_force_ev_per_a": _rounded(c.relaxed.max_force),
                "failure": c.relaxed.failure.reason if c.relaxed.failure else None,
                "topotactic": c.topotaxy.kept if c.topotaxy else None,
                "rms_displacement_a": _rounded(c.topotaxy.rms if c.topotaxy else None),
                "max_displacement_a": _rounded(c.topotaxy.max_displacement_a if c.topotaxy else None),
                "volume_change": _rounded(c.topotaxy.volume_change if c.topotaxy else None),
                "length_change": _rounded(c.topotaxy.length_change if c.topotaxy else None),
                "angle_change_deg": _rounded(c.topotaxy.angle_change if c.topotaxy else None),
                "limit": c.topotaxy.limit or None if c.topotaxy else None,
            }
            for c in self.configurations
        ]
        return {"n_li": self.n_li, "configurations": rows, "skipped_configurations": self.skipped}


@dataclass(frozen=True, eq=False)
class Lithiation:
    """What became of one host.

    Attributes
    ----------
    host
        The relaxed, empty host.
    steps
        One per number of Li that was tried, from 1.
    failure
        Why there is no lithiated structure. Reasons: ``host_unrelaxed``, ``no_site``, ``unconverged``,
        ``not_topotactic``.
    stopped
        Why the last step is the last: ``paid`` (the metals pay for no more), ``no_site``, or a reason as above.
    """

    host: Relaxed
    steps: list[Step] = field(default_factory=list)
    failure: Failure | None = None
    stopped: str = "paid"


def lithiate(
    host: Structure, sites: Sites, max_li: int, relax: Relaxer, parameters: LithiationParameters
) -> Lithiation:
    """Insert up to ``max_li`` Li into a host.

    Parameters
    ----------
    host
        The empty host; the sites' fractional coordinates are those of this cell.
    sites
        Its insertion sites.
    max_li
        Li per cell that the redox metals compensate.
    relax
        Structures in, relaxed structures out; called once per step with all configurations of the step.
    parameters
        Tolerances and limits.
    """
    empty = relax([host])[0]
    if not empty.converged:
        reason = empty.failure.reason if empty.failure else ""
        return Lithiation(empty, failure=Failure(reason="host_unrelaxed", message=f"the empty host: {reason}"))
    limit = min(max_li, parameters.max_li or max_li)
    steps: list[Step] = []
    occupied: tuple[int, ...] = ()
    current, stopped = empty.structure, "paid"
    for n_li in range(1, limit + 1):
        step = _next_step(host, current, sites, occupied, n_li, relax, parameters)
        if not step.configurations:
            stopped = "no_site"
            break
        steps.append(step)
        if step.best is None:
            stopped = _why_none(step).reason
            break
        occupied, current = step.best.occupied, step.best.relaxed.structure
    failure = None
    if not steps:
        failure = Failure(reason="no_site", message="no site for Li in the charge density within the limits")
    elif steps[0].best is None:
        failure = _why_none(steps[0])
    return Lithiation(empty, steps, failure, stopped)


def _next_step(
    host: Structure,
    current: Structure,
    sites: Sites,
    occupied: tuple[int, ...],
    n_li: int,
    relax: Relaxer,
    p: LithiationParameters,
) -> Step:
    """Relax every distinct configuration with one more Li than ``current`` has."""
    drift = _drift(host, current)
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
    configurations = [
        Configuration((*occupied, index), float(sites.charges[index]), relaxed, topotaxy(host, relaxed, p))
        for index, relaxed in zip(chosen, relax(starts) if starts else [], strict=True)
    ]
    sound = [c for c in configurations if c.sound]
    best = min(sound, key=lambda c: c.relaxed.energy, default=None)
    return Step(n_li, configurations, best, skipped=len(distinct) - len(chosen))


def _drift(host: Structure, current: Structure) -> NDArray[np.float64]:
    """Return the mean shift of the host's atoms, fractional: a relaxation may move the crystal as a whole."""
    difference = np.array(current.frac_coords)[: len(host)] - np.array(host.frac_coords)
    shift: NDArray[np.float64] = (difference - np.round(difference)).mean(axis=0)
    return shift


def _is_free(structure: Structure, frac: NDArray[np.float64], min_distance_a: float, min_li_distance_a: float) -> bool:
    distances = structure.lattice.get_all_distances([frac], structure.frac_coords)[0]
    limits = [min_li_distance_a if s.specie.symbol == "Li" else min_distance_a for s in structure]
    return bool((distances >= limits).all())


def topotaxy(host: Structure, relaxed: Relaxed, parameters: LithiationParameters) -> Topotaxy | None:
    """Compare the lithiated structure without its Li with the empty host; None where the relaxation failed badly."""
    if not np.isfinite(relaxed.energy):
        return None
    bare = relaxed.structure.copy()
    bare.remove_species(["Li"])
    change = compare(host, bare, Tolerances(parameters.ltol, parameters.stol, parameters.angle_tol))
    return Topotaxy(
        change.kept,
        change.rms_a,
        change.max_displacement_a,
        change.volume_change,
        change.length_change,
        change.angle_change,
        change.limit,
    )


def _why_none(step: Step) -> Failure:
    """Return why no configuration of a step is sound."""
    unconverged = [c for c in step.configurations if not c.relaxed.converged]
    if len(unconverged) == len(step.configurations):
        seen = sorted({c.relaxed.failure.reason for c in unconverged if c.relaxed.failure})
        return Failure(
            reason="unconverged",
            message=f"none of {len(unconverged)} configurations with {step.n_li} Li relaxed: {', '.join(seen)}",
        )
    n = len(step.configurations)
    limits = list(dict.fromkeys(c.topotaxy.limit for c in step.configurations if c.topotaxy and c.topotaxy.limit))
    why = f": {'; '.join(limits[:3])}" if limits else ""
    return Failure(
        reason="not_topotactic",
        message=f"the host's framework changed in all of {n} configurations with {step.n_li} Li{why}",
    )


def kept_steps(found: Lithiation, keep: str) -> Sequence[Step]:
    """Return the steps that become candidates: every sound one, or the fullest."""
    sound = [s for s in found.steps if s.best is not None]
    return sound if keep == "every_step" else sound[-1:]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 6)
