"""Filters before encoding, against ASE's neighbor list and cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aqvolt_flows.frames import Frame, to_table
from aqvolt_flows.sampling.distances import neighborhood
from aqvolt_flows.sampling.features.screen import (
    DUPLICATE,
    EXPLODED,
    KEPT,
    NOT_FINITE,
    OVERLAPPING,
    Block,
    Screen,
    volume_per_atom,
)
from aqvolt_flows.schemas.parameters import SamplingParameters


def frame(atoms: Atoms, step: int = 0, energy: float = -1.0) -> Frame:
    return Frame(
        "t", step, 300.0, energy, atoms.numbers.astype(np.int16), atoms.positions.astype(np.float32),
        atoms.cell[:].astype(np.float32), np.zeros_like(atoms.positions, np.float32), np.zeros(6, np.float32),
    )  # fmt: skip


def block(*frames: Frame) -> Block:
    return Block.of(to_table(frames))


def judge(*frames: Frame, **parameters: float) -> list[int]:
    screen = Screen(SamplingParameters(**parameters))
    screen.start(volume_per_atom(block(frames[0])))
    return screen.judge(block(*frames)).tolist()


def salt(a: float = 5.13, seed: int | None = None) -> Atoms:
    atoms = bulk("LiCl", "rocksalt", a=a, cubic=True)
    if seed is not None:
        atoms.rattle(0.1, seed=seed)
    return atoms


def random_cell(seed: int) -> Atoms:
    """A few atoms in a skewed cell, thin in one direction as often as not."""
    rng = np.random.default_rng(seed)
    cell = rng.normal(scale=2.5, size=(3, 3)) + np.diag(rng.uniform(1.5, 6, 3))
    if abs(np.linalg.det(cell)) < 5:
        cell = np.diag([2.0, 3.0, 4.0])
    n = int(rng.integers(1, 7))
    return Atoms(rng.choice([3, 9, 17, 39], n), scaled_positions=rng.uniform(-1, 2, (n, 3)), cell=cell, pbc=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_overlaps_are_those_of_ases_neighbor_list(seed):
    """ASE's list with cut-offs of half the sum of radii, in double precision on what float32 files hold."""
    atoms = frame(random_cell(seed)).to_atoms()
    [code] = judge(frame(atoms), max_volume_ratio=0, min_packing=0, duplicate_tolerance_a=0)
    found = neighbor_list("d", atoms, list(0.5 * covalent_radii[atoms.numbers]))
    pairs = neighbor_list("ijd", atoms, list(0.51 * covalent_radii[atoms.numbers]))
    radii = covalent_radii[atoms.numbers]
    edge = np.abs(pairs[2] / (radii[pairs[0]] + radii[pairs[1]]) - 0.5)
    if not len(edge) or edge.min() > 1e-6:
        assert (code == OVERLAPPING) == bool(len(found))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
@example(437)  # a flat cell: its nearest image is eight lattice vectors away
def test_the_neighborhood_is_that_of_an_explicit_supercell(seed):
    atoms = random_cell(seed)
    closest, loneliest = neighborhood(atoms.positions, atoms.cell[:], 6.0)
    expected = []
    # all lattice points within 6 Å of a cell: planes of the lattice are 1/|reciprocal vector| apart
    reach = np.ceil(6 * np.linalg.norm(atoms.cell.reciprocal(), axis=1)).astype(int) + 1
    images = np.array(np.meshgrid(*[range(-n, n + 1) for n in reach])).reshape(3, -1).T @ atoms.cell[:]
    for i in range(len(atoms)):
        wrapped = atoms.get_positions(wrap=True)
        _, d = get_distances(wrapped[i], (wrapped[:, None] + images).reshape(-1, 3))
        expected.append(np.sort(d.ravel())[1])
    if max(expected) < 5.9:
        assert closest == pytest.approx(min(expected), abs=1e-6)
        assert loneliest == pytest.approx(max(expected), abs=1e-6)


def test_frames_that_are_not_numbers():
    good = frame(salt(seed=1))
    bad = [
        replace(good, energy=float("nan"), step=1),
        replace(good, positions=np.where(np.arange(24).reshape(8, 3) == 4, np.inf, good.positions), step=2),
        replace(good, cell=good.cell * np.nan, step=3),
        replace(good, forces=good.forces + np.float32(np.nan), step=4),
    ]
    other = frame(salt(seed=2), 5)
    assert judge(good, *bad, other) == [KEPT, *[NOT_FINITE] * 4, KEPT]


def test_cells_that_exploded_or_collapsed():
    """Volume goes with the cube of a: 1.25³ = 1.95 and 1.27³ = 2.05 on either side of the default ratio of 2."""
    a = 5.13
    cells = [salt(a, 1), salt(1.25 * a, 2), salt(1.27 * a, 3), salt(a / 1.25, 4), salt(a / 1.27, 5)]
    frames = [frame(c, i) for i, c in enumerate(cells)]
    assert judge(*frames, min_distance_factor=0.1, max_volume_ratio=2.0) == [KEPT, KEPT, EXPLODED, KEPT, EXPLODED]
    assert judge(*frames, min_distance_factor=0.1, max_volume_ratio=0) == [KEPT] * 5
    flat = frame(salt())
    flat.cell[2] = flat.cell[0] + flat.cell[1]
    assert judge(frame(salt(a, 1)), flat)[1] == EXPLODED


def test_a_run_that_began_as_a_gas_is_found_by_its_packing():
    """Spheres of 1.28 and 1.02 Å fill 39 % of LiCl at 5.13 Å; at 2.2 times that, 39/2.2³ = 3.7 %, under the 5 %."""
    [dense, thin] = [judge(frame(salt(a)))[0] for a in (5.13, 2.2 * 5.13)]
    assert (dense, thin) == (KEPT, EXPLODED)
    assert judge(frame(salt(2.2 * 5.13)), min_packing=0.03) == [KEPT]


def test_duplicates_of_the_frame_before_and_of_other_runs():
    atoms = salt(seed=1)
    nudged, moved, wrapped = atoms.copy(), atoms.copy(), atoms.copy()
    nudged.positions[3] += [5e-4, 0, 0]
    moved.positions[3] += [5e-3, 0, 0]
    wrapped.positions[2] += wrapped.cell[1] - wrapped.cell[0]
    frames = [frame(x, i) for i, x in enumerate([atoms, atoms, nudged, wrapped, moved, moved, atoms])]
    codes = judge(*frames)
    assert codes == [KEPT, DUPLICATE, DUPLICATE, DUPLICATE, KEPT, DUPLICATE, DUPLICATE]
    assert judge(*frames, duplicate_tolerance_a=0) == [KEPT] * 7
    screen = Screen(SamplingParameters())
    for parts, expected in (([frames[0], frames[4]], [KEPT, KEPT]), ([frames[0]], [DUPLICATE])):
        screen.start(volume_per_atom(block(*parts)))  # a second trajectory that begins where the first did
        assert screen.judge(block(*parts)).tolist() == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_blocks_do_not_change_the_judgement(seed, cuts):
    rng = np.random.default_rng(seed)
    pool = [salt(seed=s) for s in range(3)] + [salt(12.0), salt(2.0)]
    frames = [frame(pool[i], step) for step, i in enumerate(rng.integers(0, len(pool), 12))]
    screen, codes, first = Screen(SamplingParameters()), [], 0
    screen.start(volume_per_atom(block(frames[0])))
    for cut in [*cuts, len(frames)]:
        codes += screen.judge(block(*frames[first : first + cut])).tolist() if frames[first : first + cut] else []
        first += cut
    assert codes == judge(*frames)
