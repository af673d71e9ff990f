"""Rounds that stay joint: numbers and gaps of three rounds beside one choice, new environments, what is labeled."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list
from scipy.spatial.distance import cdist

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling import TwoStageDirect
from aqvolt_flows.sampling.direct.known import Known
from aqvolt_flows.sampling.direct.space import Moments, Space
from aqvolt_flows.sampling.encoders.registry import load_encoder

Set = tuple[np.ndarray, np.ndarray, np.ndarray]
#: Lattice constants of the rock salts, Å (Wyckoff 1963).
SALTS = {"LiCl": 5.1295, "LiBr": 5.5013, "LiI": 6.0}
FRAMES = 40


def joined(*sets: Set) -> Set:
    return tuple(np.concatenate([s[i] for s in sets]) for i in range(3))  # type: ignore[return-value]


def rows_of(whole: Set, rows: np.ndarray) -> Set:
    first = np.concatenate([[0], np.cumsum(whole[2])])
    return whole[0][rows], np.concatenate([whole[1][first[i] : first[i + 1]] for i in rows]), whole[2][rows]


@pytest.fixture(scope="module")
def salts() -> Set:
    """CHGNet features of rattled and strained cells of eight atoms, salt after salt."""
    rng, frames = np.random.default_rng(0), []
    for formula, a in SALTS.items():
        for i in range(FRAMES):
            atoms = bulk(formula, "rocksalt", a=a * rng.uniform(0.98, 1.03), cubic=True)
            atoms.positions += rng.normal(scale=0.02 + 0.16 * i / FRAMES, size=atoms.positions.shape)
            frames.append(atoms)
    features = load_encoder("chgnet/r2scan").encode(frames)
    assert not features.failures
    return features.structures, features.atoms, features.n_atoms


def in_rounds(method: TwoStageDirect, whole: Set, parts: list[np.ndarray], labeled: bool, **more) -> np.ndarray:
    """Return the rows that are chosen after all rounds."""
    order, chosen = np.zeros(0, int), np.zeros(0, bool)
    for part in parts:
        order = np.concatenate([order, part])
        chosen = np.concatenate([chosen, np.zeros(len(part), bool)])
        before = chosen.copy()
        found = method.select(*rows_of(whole, order), chosen=before, unlabeled=None if labeled else before, **more)
        assert not before[found.indices].any()
        assert before[found.given_back].all()
        assert not labeled or not len(found.given_back)
        chosen[found.indices], chosen[found.given_back] = True, False
    return np.sort(order[chosen])


def gaps(whole: Set, rows: np.ndarray) -> np.ndarray:
    """Return mean gap of structures, then of atoms, in the spaces of all, by comparing all pairs."""
    spaces = [Space.fit(Moments.of(features)) for features in whole[:2]]
    chosen = rows_of(whole, rows)
    points = [(s.project(w), s.project(c)) for s, w, c in zip(spaces, whole, chosen, strict=False)]
    return np.array([cdist(every, mine).min(axis=1).mean() for every, mine in points])


def parts_of(kind: str) -> list[list[np.ndarray]]:
    blocks = [np.arange(FRAMES * k, FRAMES * (k + 1)) for k in range(3)]
    if kind == "salts":
        return [list(order) for order in permutations(blocks)]
    return [list(np.array_split(np.random.default_rng(seed).permutation(3 * FRAMES), 3)) for seed in range(3)]


@pytest.mark.parametrize("kind", ["salts", "mixed"])
@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
def test_rounds_that_nobody_paid_for_are_the_joint_choice(salts, kind, stage2):
    """Stated: number within 10 % and equal gaps, for any order of rounds; of the same rows it is the same choice."""
    method = TwoStageDirect(0.2, 0.2, stage2=stage2)
    for parts in parts_of(kind):
        order = np.concatenate(parts)
        joint = order[method.select(*rows_of(salts, order)).indices]
        rounds = in_rounds(method, salts, parts, labeled=False)
        assert rounds.tolist() == np.sort(joint).tolist()
    numbers = [len(in_rounds(method, salts, parts, labeled=False)) for parts in parts_of("salts")]
    first = method.select(*salts)
    assert max(numbers) <= 1.1 * len(first.indices) + 1
    assert min(numbers) >= 0.9 * len(first.indices) - 1


def test_labeled_rounds_of_one_mixture_are_as_many_as_a_joint_choice_with_equal_gaps(salts):
    method, ratios = TwoStageDirect(0.2, 0.2), []
    for parts in parts_of("mixed"):
        order = np.concatenate(parts)
        joint = order[method.select(*rows_of(salts, order)).indices]
        rounds = in_rounds(method, salts, parts, labeled=True)
        ratios.append([len(rounds) / len(joint), *(gaps(salts, rounds) / gaps(salts, joint))])
    assert np.mean(ratios, axis=0) == pytest.approx(1, abs=0.15)


def test_a_first_round_of_one_salt_is_too_fine_unless_the_space_knows_the_others(salts):
    """Alone, a salt's own thermal motion is scaled up to the threshold; labels of such a round cannot be undone."""
    method = TwoStageDirect(0.2, 0.2)
    joint = len(method.select(*salts).indices)
    alone = [len(in_rounds(method, salts, parts, labeled=True)) for parts in parts_of("salts")]
    shape = Known.of(*salts)
    shaped = [in_rounds(method, salts, parts, labeled=True, shape=shape) for parts in parts_of("salts")]
    assert min(alone) > 1.5 * joint
    assert np.mean([len(rows) for rows in shaped]) == pytest.approx(joint, rel=0.15)
    # later rounds add what a joint choice takes of theirs, also where the first one took too many
    last = [parts[2] for parts in parts_of("salts")]
    for parts, rows in zip(parts_of("salts"), last, strict=True):
        before = in_rounds(method, salts, parts[:2], labeled=True)
        after = in_rounds(method, salts, parts, labeled=True)
        own = np.isin(method.select(*salts).indices, rows).sum()
        assert len(after) - len(before) <= 1.3 * own + 2


def cells(n: int, seed: int, moved: bool) -> Set:
    """Rattled 64-atom LiCl at many volumes, with one Li at a tetrahedral site if asked; Gaussians of neighbors."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        a = 5.13 * rng.uniform(0.92, 1.08)
        atoms = bulk("LiCl", "rocksalt", a=a, cubic=True) * (2, 2, 2)
        if moved:
            lithium = np.flatnonzero(atoms.numbers == 3)
            away, near = rng.choice(lithium, 2, replace=False)
            atoms.positions[away] = atoms.positions[near] + a / 4
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        frames.append(atoms)
    atoms = []
    for frame in frames:
        i, j, d = neighbor_list("ijd", frame, 4.5)
        values = np.exp(-(((d[:, None] - np.linspace(1.5, 4.5, 8)) / 0.4) ** 2)) * np.sqrt(frame.numbers[j])[:, None]
        one = np.zeros((64, 8))
        np.add.at(one, i, values)
        atoms.append(one)
    return np.stack([a.mean(axis=0) for a in atoms]), np.concatenate(atoms), np.full(n, 64)


@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
def test_new_environments_are_found_in_structures_whose_mean_is_covered(stage2):
    """Six cells with one Li of 32 at an interstitial, as a later round, an extended state, or beside a covered set."""
    plain, moved = cells(40, 0, moved=False), cells(6, 1, moved=True)
    both, six = joined(plain, moved), list(range(6))
    method = TwoStageDirect(0.5, 0.1, stage2=stage2)
    first = method.select(*plain)
    assert cdist(first.state.space.project(moved[0]), first.state.chosen).min(axis=1).max() < 0.5, "means are covered"
    assert [i - 40 for i in method.select(*both).indices if i >= 40] == six
    later = method.select(*both, chosen=np.isin(np.arange(46), first.indices))
    assert [i - 40 for i in later.indices if i >= 40] == six
    assert method.extend(first.state, *moved).indices.tolist() == six
    assert method.select(*moved, covered=Known.of(*plain)).indices.tolist() == six
    assert method.select(*moved, covered=plain[0]).indices.tolist() == [], "structure features alone cannot tell"
    coarse = TwoStageDirect(0.5, 0.2, stage2=stage2)  # some of the six stand for others
    before = np.isin(np.arange(46), coarse.select(*plain).indices)
    joint, later = coarse.select(*both), coarse.select(*both, chosen=before)
    assert (later.indices >= 40).sum() == (joint.indices >= 40).sum() < 6


@pytest.mark.parametrize("engine", ["cpu", "torch", "sklearn"])
@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
@pytest.mark.parametrize("stage1", ["partition", "selection"])
@pytest.mark.parametrize("order", ["given", "shuffled"])
def test_the_same_frames_again_add_nothing(salts, engine, stage2, stage1, order):
    method = TwoStageDirect(0.2, 0.2, engine=engine, device="cpu", stage2=stage2, stage1=stage1, order=order)
    first = method.select(*salts)
    mine = np.isin(np.arange(3 * FRAMES), first.indices)
    for unlabeled in (None, mine):
        again = method.select(*salts, chosen=mine, unlabeled=unlabeled)
        assert (again.indices.tolist(), again.given_back.tolist()) == ([], [])
        np.testing.assert_array_equal(again.state.chosen, first.state.chosen)
        assert (again.structure_clusters[~mine] < 0).sum() == again.coverage["covered_before"]
        assert (again.structure_clusters[mine] >= 0).all()
        if stage1 == "partition":
            assert again.coverage["covered_before"] == (~mine).sum()


@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
@pytest.mark.parametrize("scaling", ["standard", "robust"])
@pytest.mark.parametrize("k", [1, 2])
def test_engines_agree_on_rounds(salts, stage2, scaling, k):
    """Contract: every engine chooses the same with earlier choices, covered sets and either scaling."""
    rng = np.random.default_rng(2)
    chosen, unlabeled = rng.random(3 * FRAMES) < 0.3, rng.random(3 * FRAMES) < 0.5
    known = Known.of(*rows_of(salts, np.arange(0, 3 * FRAMES, 9)))
    found = [
        TwoStageDirect(0.2, 0.2, k=k, engine=engine, device="cpu", stage2=stage2, scaling=scaling).select(
            *salts, covered=known, chosen=chosen, unlabeled=unlabeled
        )
        for engine in ("cpu", "torch", "sklearn")
    ]
    for other in found[1:]:
        assert len(np.intersect1d(found[0].indices, other.indices)) >= 0.95 * len(found[0].indices)
        assert abs(len(other.given_back) - len(found[0].given_back)) <= 1
        assert other.coverage == pytest.approx(found[0].coverage, rel=0.02, abs=0.01)


def test_labeled_structures_stay_and_only_unlabeled_ones_are_given_back(salts):
    method = TwoStageDirect(0.5, 0.5)
    every = np.ones(3 * FRAMES, bool)
    kept = method.select(*salts, chosen=every)
    assert (kept.indices.tolist(), kept.given_back.tolist()) == ([], [])
    half = np.arange(3 * FRAMES) % 2 == 0
    found = method.select(*salts, chosen=every, unlabeled=half)
    assert half[found.given_back].all()
    assert 0 < len(found.given_back) <= half.sum()
    assert len(found.state.chosen) == 3 * FRAMES - len(found.given_back)
    free = method.select(*salts, chosen=every, unlabeled=every)
    expected = np.setdiff1d(np.arange(3 * FRAMES), method.select(*salts).indices)
    assert free.given_back.tolist() == expected.tolist()


def test_a_covered_set_stands_for_what_its_atoms_stand_for(salts):
    method = TwoStageDirect(0.2, 0.2)
    known = Known.of(*rows_of(salts, np.arange(FRAMES)))
    found = method.select(*salts, covered=known)
    assert (found.indices >= FRAMES).mean() > 0.9, "nearly nothing of the salt that is there"
    assert len(found.state.chosen) == FRAMES + len(found.indices)
    # bare structure features keep out what is near in the structural space, as they always did
    bare = method.select(*salts, covered=salts[0][:FRAMES])
    assert (bare.structure_clusters[:FRAMES] == -1).all()
    with pytest.raises(InputError, match=r"2 covered structures came with n_atoms .* 3 in all, and 5 rows of atoms"):
        Known.of(np.zeros((2, 3)), np.zeros((5, 3)), np.array([1, 2]))


def test_a_state_carries_what_the_next_round_needs(salts, tmp_path):
    method = TwoStageDirect(0.2, 0.2, stage2="global")
    one, two = (rows_of(salts, np.arange(FRAMES * k, FRAMES * (k + 1))) for k in range(2))
    first = method.select(*one)
    first.state.save(tmp_path / "s.npz")
    loaded = type(first.state).load(tmp_path / "s.npz")
    again, same = method.extend(loaded, *two), method.extend(first.state, *two)
    assert again.indices.tolist() == same.indices.tolist()
    whole = Space.fit(Moments.of(joined(one, two)[0]))
    np.testing.assert_allclose(again.state.space.scale, whole.scale, rtol=1e-6)
    np.testing.assert_allclose(np.abs(again.state.space.variances), whole.variances, rtol=1e-5)
    assert len(again.state.known) == len(again.state.chosen) == len(first.indices) + len(again.indices)
    np.testing.assert_allclose(again.state.chosen, whole.project(again.state.known.structures), atol=1e-4)
    free = method.extend(loaded, *two, unlabeled=np.ones(len(loaded.known), bool))
    assert len(free.state.known) == len(loaded.known) - len(free.given_back) + len(free.indices)
    robust = replace(method, scaling="robust")
    sampled = robust.select(*one).state
    sampled.save(tmp_path / "r.npz")
    back = type(sampled).load(tmp_path / "r.npz")
    assert back.structures.sample.count == FRAMES
    assert robust.extend(back, *two).state.structures.sample.count == 2 * FRAMES
    with pytest.raises(InputError, match="was not sampled with scaling 'standard'"):
        method.extend(back, *two)
    bare = replace(method, remember=False).select(*one).state
    bare.save(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"holds no features of what it chose .*covered=Known"):
        method.extend(type(bare).load(tmp_path / "b.npz"), *two)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"chosen": np.zeros(3, bool)}, r"chosen has shape \(3,\) .* each of 120 structures"),
        ({"chosen": np.zeros(120)}, r"chosen has shape \(120,\) and type float64; expected a flag"),
        ({"unlabeled": np.zeros(3, bool)}, r"unlabeled has shape \(3,\)"),
        ({"covered": Known.of(np.zeros((2, 3)), np.ones((2, 64)), np.array([1, 1]))}, "64 columns .*expected 3"),
        ({"covered": Known.of(np.zeros((2, 64)), np.ones((2, 3)), np.array([1, 1]))}, "64 columns .*expected 3"),
        ({"covered": np.full((2, 64), np.nan)}, "covered features has 2 rows with NaN"),
    ],
)
def test_marks_that_do_not_fit_are_named(salts, more, said):
    with pytest.raises(InputError, match=said):
        TwoStageDirect(0.2, 0.2).select(*salts, **more)
