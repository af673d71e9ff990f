"""Minima: a made-up double well whose symmetric point is a saddle, and Lennard-Jones crystals that are not minima."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.minima import (
    alone,
    check_minimum,
    displaced,
    find_minima,
    search_lowest,
    together,
)
from aqvolt_flows.dynamics.relax import Relaxed, torchsim_relaxer
from aqvolt_flows.schemas.generation import MinimumParameters, RelaxationParameters
from aqvolt_flows.schemas.provenance import Failure

P = MinimumParameters()
CRYSTAL = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def anything(_: int, __: Relaxed) -> bool:
    return True


def off_center(structure: Structure) -> float:
    """Å by which Cl has left the center of the cube that Cs spans."""
    apart = structure.frac_coords[1] - structure.frac_coords[0] - 0.5
    return float(np.linalg.norm((apart - np.round(apart)) * structure.lattice.a))


def double_well(depth: float = 0.2):
    """Cl rests at the center, and falls by ``depth`` eV to 0.5 Å beside it once it is anywhere else."""

    def relax(structures):
        ends = []
        for s in structures:
            if off_center(s) < 1e-6:
                ends.append(Relaxed(s, 0.0, 0.0, 0.0))
            else:
                ends.append(Relaxed(Structure(s.lattice, s.species, [[0, 0, 0], [0.625, 0.5, 0.5]]), -depth, 0, 0))
        return ends

    return relax


def test_a_saddle_point_is_left_and_the_spread_is_told():
    (found,) = alone(find_minima([CRYSTAL], anything, P), double_well())
    assert off_center(found.relaxed.structure) == pytest.approx(0.5)
    numbers = found.as_decisions()
    assert numbers["gain_mev_per_atom"] == pytest.approx(100)  # 0.2 eV, two atoms
    assert numbers["spread_mev_per_atom"] == pytest.approx(100)
    assert numbers["energies_of_starts_ev_per_atom"] == [0, -0.1, -0.1]


def test_without_displacements_the_saddle_stays_unless_it_is_checked():
    none = P.model_copy(update={"n_rattles": 0})
    (found,) = alone(find_minima([CRYSTAL], anything, none), double_well())
    assert off_center(found.relaxed.structure) == 0
    assert "spread_mev_per_atom" not in found.as_decisions()
    checked = alone(check_minimum(found, 0, anything, none), double_well())
    assert off_center(checked.relaxed.structure) == pytest.approx(0.5)
    assert checked.as_decisions()["drops_when_checked_mev_per_atom"] == [100, 0]
    assert checked.failure is None
    off = MinimumParameters(n_rattles=0, max_checks=0)
    assert off.off
    assert alone(search_lowest([CRYSTAL], anything, off), double_well())[0][0].relaxed.energy == 0


def test_what_falls_at_every_check_is_no_minimum():
    calls = iter(range(1000))

    def slide(structures):
        return [Relaxed(s, -0.1 * next(calls), 0, 0) for s in structures]

    (minimum,), best = alone(search_lowest([CRYSTAL], anything, P), slide)
    assert best is None
    assert minimum.failure is not None
    assert minimum.failure.reason == "not_a_minimum"
    assert len(minimum.drops) == P.max_checks


@pytest.mark.parametrize(("depth", "reason"), [(0.2, None), (0.003, 0)])
def test_the_lowest_is_judged_though_it_is_not_sound_unless_it_is_the_same_minimum(depth, reason):
    """The issue's LiBeF3 to LiBeCl3: at rest nothing changed; displaced it falls, and the framework is another."""

    def centered(_, relaxed):
        return off_center(relaxed.structure) < 0.1

    (minimum,), best = alone(search_lowest([CRYSTAL], centered, P), double_well(depth))
    assert best == reason  # 0.003 eV are 1.5 meV/atom, within the 2 that are one minimum
    assert centered(0, minimum.relaxed) is (reason is not None)


def test_an_unconverged_run_that_is_lower_shows_that_the_others_are_no_minimum():
    def relax(structures):
        stuck = Failure(reason="unconverged", message="")
        return [Relaxed(s, *((0.0, 0, 0) if off_center(s) < 1e-6 else (-1.0, 1, 0, stuck))) for s in structures]

    (minimum,), best = alone(search_lowest([CRYSTAL], anything, P), relax)
    assert best is None
    assert minimum.failure is not None
    assert minimum.failure.reason == "unconverged"
    nan = float("nan")
    broken = [Relaxed(CRYSTAL, nan, nan, nan, Failure(reason="exploded"))] * 3
    (lost,) = alone(find_minima([CRYSTAL], anything, P), lambda _: broken)
    assert lost.as_decisions() == {
        "energies_of_starts_ev_per_atom": [None] * 3,
        "spread_mev_per_atom": None,
        "gain_mev_per_atom": None,
    }


def test_the_next_is_tried_where_the_lowest_falls_to_something_unsound():
    """Two starts; the lower one passes until it is checked, and then collapses."""
    other = Structure(Lattice.cubic(5.0), ["Cs", "Cl"], CRYSTAL.frac_coords)
    rounds = []

    def relax(structures):
        rounds.append(len(structures))
        ends = []
        for s in structures:
            energy = -1.0 if s.lattice.a == 4 else -0.5
            collapsed = len(rounds) > 1 and s.lattice.a == 4
            ends.append(Relaxed(Structure(Lattice.cubic(2.0), s.species, s.frac_coords), -3.0, 0, 0) if collapsed else Relaxed(s, energy, 0, 0))  # fmt: skip  # noqa: E501
        return ends

    def large(_, relaxed):
        return relaxed.structure.lattice.a > 3

    minima, best = alone(search_lowest([CRYSTAL, other], large, P), relax)
    assert best == 1
    assert minima[0].relaxed.energy == -3
    assert rounds[0] == 6


def test_displacements_have_their_size_their_seed_and_no_drift():
    big = CRYSTAL * (8, 8, 8)
    moved = displaced(big, 0.05, 1, 2)
    shift = moved.cart_coords - big.cart_coords
    assert np.sqrt((shift**2).mean()) == pytest.approx(0.05, rel=0.05)
    assert shift.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
    np.testing.assert_array_equal(displaced(big, 0.05, 1, 2).cart_coords, moved.cart_coords)
    assert np.abs(displaced(big, 0.05, 1, 3).cart_coords - moved.cart_coords).max() > 0.05


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=5))
def test_searches_in_step_are_sent_what_they_asked_for(asks):
    """Each search asks for n structures per round; every structure carries its search and number in its cell."""

    def search(index):
        for round_, n in enumerate(asks[index]):
            asked = [Structure(Lattice.cubic(1 + index + 10 * round_ + 100 * k), ["H"], [[0, 0, 0]]) for k in range(n)]
            ends = yield asked
            assert [e.structure for e in ends] == asked
        return index

    calls = []

    def relax(structures):
        calls.append(len(structures))
        return [Relaxed(s, 0.0, 0.0, 0.0) for s in structures]

    assert sorted(together([search(i) for i in range(len(asks))], relax)) == [(i, i) for i in range(len(asks))]
    assert len(calls) == max((len(a) for a in asks), default=0)
    assert sum(calls) == sum(map(sum, asks))


def test_a_simple_cubic_lennard_jones_crystal_is_a_saddle_and_falls_to_a_denser_one():
    """At rest E = −A6²/2A12 ε: simple cubic −5.69 ε (A12 = 6.20215, A6 = 8.40192), fcc −8.61 ε (12.13188, 14.45392).

    The cutoff of 2.5 σ misses 8/3 π ρσ³ (σ/rc)³ ε: 0.44 ε of simple cubic (ρσ³ = 0.8215 at a = 1.0677 σ), 0.58 of fcc.
    """
    import torch
    from torch_sim.models.lennard_jones import LennardJonesModel

    model = LennardJonesModel(sigma=3.4, epsilon=0.01, cutoff=8.5, compute_stress=True, dtype=torch.float64)

    class Argon:
        def torchsim_model(self):
            return model

    relax = torchsim_relaxer(Argon(), RelaxationParameters(force_tolerance_ev_per_a=2e-3, max_steps=150))
    cubic = Structure(Lattice.cubic(3.62), ["Ar"], [[0, 0, 0]]) * (2, 2, 1)
    fcc = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.25), ["Ar"], [[0, 0, 0]])
    p = MinimumParameters(same_within_ev_per_atom=0.001, n_rattles=1, max_checks=1)

    def search(start):
        (found,) = yield from find_minima([start], anything, p)
        return (yield from check_minimum(found, 0, anything, p))

    (_, saddle), (_, dense) = sorted(together([search(cubic), search(fcc)], relax))
    assert saddle.energies[0] == pytest.approx((-5.69 + 0.44) * 0.01, rel=0.02)
    assert saddle.relaxed.energy_per_atom < -7.0 * 0.01
    assert dense.relaxed.energy_per_atom == pytest.approx((-8.61 + 0.58) * 0.01, rel=0.02)
    assert dense.as_decisions()["gain_mev_per_atom"] == pytest.approx(0, abs=0.3)
    assert dense.settled
