"""Known D recovered, vibrating ions never taken for moving ones; pymatgen's numbers from its own way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Structure
from walks import EDGE_A, track

pytest.importorskip("pymatgen.analysis.diffusion")
pytest.importorskip("kinisi")

from aqvolt_flows.benchmarks.transport import (
    FLOOR_CM2_S,
    Track,
    analyzer_of,
    detection_limit,
    diffusion_of,
    framework_of,
    nernst_einstein,
    upper_hops,
)
from aqvolt_flows.errors import InputError

HOP, LEAST = 3.0, 10.0


@pytest.mark.parametrize(("d", "seeds"), [(1e-5, 20), (3e-6, 10)])
def test_random_walks_lie_in_the_interval_in_nine_of_ten_seeds(d, seeds):
    """Interval of 95 %: nine of ten seeds are asked for; the mean of the estimates is unbiased within 12 %."""
    found = [diffusion_of([track(d, s, n_frames=301)], 500.0, HOP, LEAST, seed=s) for s in range(seeds)]
    covered = sum(f.interval_cm2_s[0] <= d <= f.interval_cm2_s[1] for f in found)
    assert covered >= 0.9 * seeds
    assert all(f.resolved for f in found)
    assert np.mean([f.d_cm2_s for f in found]) == pytest.approx(d, rel=0.12)  # 12 % each, 3 to 4 % of the mean


def test_vibrating_ions_are_not_resolved_in_any_of_50_seeds():
    """Their slope is noise, never a fifth of a hop; what is excluded is what no hop excludes, 3.7."""
    for seed in range(50):
        vibrating = track(0.0, seed, n_frames=501, vibration_a=0.3)
        analyzer = analyzer_of(vibrating, 500.0)
        found = diffusion_of([vibrating], 500.0, HOP, LEAST, analyzers=[analyzer])
        assert not found.resolved
        assert found.hops < 0.2
        assert 3.6 * found.limit_cm2_s < found.upper_cm2_s < 4.0 * found.limit_cm2_s
        assert found.interval_cm2_s is None


def test_displacements_and_d_are_those_of_pymatgen_from_structures():
    """The package's own way from structures, in a cell that breathes, with a drift."""
    from pymatgen.analysis.diffusion.analyzer import DiffusionAnalyzer

    moving = track(5e-6, 4, n_frames=151, breathing=0.01, drift_a=0.02)
    species = [Element.from_Z(int(z)) for z in moving.numbers]
    structures = [
        Structure(Lattice(c), species, p, coords_are_cartesian=True)
        for c, p in zip(moving.cells, moving.positions, strict=True)
    ]
    reference = DiffusionAnalyzer.from_structures(structures, "Li", 500.0, 100, 1, smoothed="max")
    drift = reference.disp[~moving.mobile].mean(axis=0)
    np.testing.assert_allclose(moving.displacements, reference.disp - drift, atol=1e-8)
    assert float(analyzer_of(moving, 500.0).diffusivity) == pytest.approx(float(reference.diffusivity), rel=1e-9)


def test_two_runs_are_one_ensemble():
    """Twice the ions: half the variance, the interval narrows by √2 (25 % allowed), hops add up."""
    one, other = track(5e-6, 1), track(5e-6, 2)
    alone, both = (diffusion_of(t, 500.0, HOP, LEAST) for t in ([one], [one, other]))
    widths = [f.interval_cm2_s[1] - f.interval_cm2_s[0] for f in (alone, both)]
    assert widths[0] / widths[1] == pytest.approx(2**0.5, rel=0.25)
    assert both.d_cm2_s == pytest.approx(np.mean(both.each_cm2_s))
    assert both.time_ps == pytest.approx(2 * alone.time_ps)
    assert both.hops == pytest.approx(6 * 64 * both.d_cm2_s * 10 * 1e5 / HOP**2)  # 6 N D t / a²


def test_the_interval_is_reproducible_and_leaves_numpys_generator_alone():
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (diffusion_of([track(5e-6, 1)], 500.0, HOP, LEAST, seed=3) for _ in range(2))
    assert first.draws_cm2_s == second.draws_cm2_s
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@given(d=st.floats(1e-9, 1e-4), n=st.integers(1, 500), volume=st.floats(100, 1e5), temperature=st.floats(200, 1500))
def test_nernst_einstein_is_pymatgens(d, n, volume, temperature):
    from pymatgen.analysis.diffusion.analyzer import get_conversion_factor

    cell = Structure(Lattice.cubic(volume ** (1 / 3)), ["Li"] * n, np.zeros((n, 3)))
    expected = get_conversion_factor(cell, "Li", temperature) * d
    assert nernst_einstein(d, n, volume, temperature) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("volume", "limit"), [(547.0, 17.0), (1388.0, 6.7), (2817.0, 3.3)])
def test_one_hop_in_100_ps_is_no_small_conductivity(volume, limit):
    """e² a²/(6 V t k T): the number of ions cancels, the volume is left. By hand: 9300 / V mS/cm at 300 K, V in Å³."""
    for n_li in (6, 32, 128):
        d = detection_limit(n_li, 100.0, HOP)
        assert d == pytest.approx(9 / (6 * n_li * 1e5) / 10)
        assert nernst_einstein(d, n_li, volume, 300.0) == pytest.approx(limit, rel=0.01)


def test_poisson_limit_is_that_of_garwood():
    assert upper_hops(0) == pytest.approx(3.6889, abs=1e-3)  # −ln 0.025
    assert upper_hops(10) == pytest.approx(18.39, abs=0.01)  # Garwood 1936, table I: 95 % interval 4.80 … 18.39


def test_melts_and_broken_frameworks_are_told_from_turning_groups():
    solid = track(1e-5, 1)
    assert framework_of(solid, analyzer_of(solid, 500.0), 1.5, 3.5, HOP, LEAST).state == "solid"
    molten = track(1e-5, 1, framework_d_cm2_s=1e-5)
    found = framework_of(molten, analyzer_of(molten, 500.0), 1.5, 3.5, HOP, LEAST)
    assert found.state == "molten"
    assert found.rms_a["Cl"] == pytest.approx(
        (6 * 1e-5 * 10 * 0.95 * 1e5) ** 0.5, rel=0.2
    )  # √(6 D t), a twentieth less
    turning = _with_groups(turn=True)
    found = framework_of(turning, analyzer_of(turning, 500.0), 1.5, 3.5, HOP, LEAST)
    assert found.rms_a["S"] > 2.0
    assert found.state == "solid"
    broken = _with_groups(turn=False)
    assert framework_of(broken, analyzer_of(broken, 500.0), 1.5, 3.5, HOP, LEAST).state == "broken"


def _with_groups(turn: bool) -> Track:
    """Eight P with four S each, 2.05 Å apart, that are thrown into a random orientation now and then, or S diffuse."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(2)
    base = track(1e-5, 1)
    n = len(base.positions)
    centers = rng.uniform(0, EDGE_A, (8, 3))
    corners = 2.05 / 3**0.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    turned = Rotation.random(8 * 12, random_state=3).as_matrix().reshape(12, 8, 3, 3)
    arms = np.einsum("pgij,cj->pgci", turned, corners)
    place = np.minimum(np.arange(n) * 12 // n, 11)
    s = centers[:, None] + (arms[place] if turn else arms[np.zeros(n, dtype=int)])
    s = s.reshape(n, 32, 3)
    if not turn:
        s = s + np.cumsum(rng.normal(0, np.sqrt(2 * 1e-5 * 10 * 100.0), s.shape), axis=0)
    p = np.broadcast_to(centers, (n, 8, 3)) + rng.normal(0, 0.05, (n, 8, 3))
    li = base.positions[:, base.mobile]
    return Track(np.array([3] * 32 + [15] * 8 + [16] * 32), np.concatenate([li, p, s], axis=1), base.cells, 100.0)


def test_no_lithium_lithium_alone_and_too_few_frames_are_said():
    moving = track(1e-5, 1, n_frames=31)
    no_li = Track(np.where(moving.numbers == 3, 11, 17), moving.positions, moving.cells, 100.0)
    with pytest.raises(InputError, match="no Li in it"):
        analyzer_of(no_li, 500.0)
    alone = Track(np.full(64, 3), moving.positions, moving.cells, 100.0)
    with pytest.raises(InputError, match="lithium alone"):
        analyzer_of(alone, 500.0)
    short = Track(moving.numbers[31:], moving.positions[:5, 31:], moving.cells[:5], 100.0)
    with pytest.raises(InputError, match="5 frames of 1 Li are too few"):
        analyzer_of(short, 500.0)
    with pytest.raises(InputError, match="no run"):
        diffusion_of([], 500.0, HOP, LEAST)


def test_an_analyzer_at_its_floor_is_never_a_measurement():
    """Half of the slopes of ions that only vibrate are negative; the analyzer replaces these by its floor."""
    tracks = [track(0.0, seed, n_frames=301, vibration_a=0.3) for seed in range(12)]
    analyzers = [analyzer_of(t, 500.0) for t in tracks]
    at_floor = [k for k, a in enumerate(analyzers) if a.diffusivity < 1.0001 * FLOOR_CM2_S]
    assert 2 <= len(at_floor) <= 10  # 6 are expected; fewer than 2 or more than 10 have a probability of 0.6 %
    for k in at_floor:
        found = diffusion_of([tracks[k]], 500.0, HOP, 1e-30, analyzers=[analyzers[k]])
        assert (found.floored, found.resolved) == (1, False)
        assert found.d_cm2_s == pytest.approx(FLOOR_CM2_S)
