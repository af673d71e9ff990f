"""The state between rounds and coverage: sets whose distances are known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling import TwoStageDirect
from aqvolt_flows.sampling.direct.coverage import coverage, picture
from aqvolt_flows.sampling.direct.engines import load_engine
from aqvolt_flows.sampling.direct.space import Moments, Space
from aqvolt_flows.sampling.direct.state import SampledSpace


def rounds(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six groups of ten structures of four atoms; features of structures and atoms."""
    rng = np.random.default_rng(seed)
    groups = np.random.default_rng(7).normal(scale=5, size=(6, 4))
    features = np.repeat(groups, 10, axis=0) + rng.normal(scale=1e-3, size=(60, 4))
    return features, np.repeat(features, 4, axis=0) + rng.normal(scale=1e-3, size=(240, 4)), np.full(60, 4)


@pytest.fixture
def first():
    features, atoms, n_atoms = rounds()
    return TwoStageDirect(0.05, 0.05).select(features, atoms, n_atoms)


def test_a_saved_state_is_the_same_state(first, tmp_path):
    path = tmp_path / "state.npz"
    assert first.state.save(path) == first.state.hash
    loaded = SampledSpace.load(path)
    assert loaded.hash == first.state.hash
    np.testing.assert_array_equal(loaded.reference, first.state.reference)
    assert loaded.space.hash == first.parameters["space"]
    assert loaded.parameters == first.state.parameters
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("damage", ["cut", "changed", "other", "missing"])
def test_a_damaged_state_is_refused(first, tmp_path, damage):
    path = tmp_path / "state.npz"
    first.state.save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "changed":
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["centres"] = arrays["centres"] + 1
        np.savez(path, **arrays)
    elif damage == "other":
        np.savez(path, rows=np.zeros(3))
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"state\.npz (is not|was changed|does not exist)"):
        SampledSpace.load(path)


def test_a_second_round_takes_only_what_is_new():
    """All atoms share one space: one for each structural cluster would tell the rows of a group apart."""
    method = TwoStageDirect(0.05, 0.05, stage2="global")
    first = method.select(*rounds())
    features, atoms, n_atoms = rounds(seed=1)  # the same groups, other rows
    again = method.extend(first.state, features, atoms, n_atoms)
    assert again.indices.tolist() == []
    assert again.coverage["covered_before"] == 60
    assert again.coverage["max"] < 0.05
    features[50:] += 3.0  # one group moves away
    atoms[200:] += 3.0
    new = method.extend(first.state, features, atoms, n_atoms)
    assert len(new.indices) >= 1
    assert (new.indices >= 50).all()
    assert new.coverage["covered_before"] >= 50
    assert (new.structure_clusters[:50] == -1).all()
    assert (new.structure_clusters[new.indices] >= 0).all()
    assert method.extend(new.state, features, atoms, n_atoms).indices.tolist() == []
    whole = Space.fit(Moments.of(np.concatenate([rounds()[0], features])))
    np.testing.assert_allclose(new.state.space.mean, whole.mean)
    np.testing.assert_allclose(new.state.space.variances, whole.variances)


def test_what_another_dataset_covers_is_not_sampled():
    features, atoms, n_atoms = rounds()
    method = TwoStageDirect(0.05, 0.05)
    selection = method.select(features, atoms, n_atoms, covered=iter([features[:20] + 1e-4, features[30:40]]))
    assert (selection.structure_clusters == -1).sum() == 30
    assert set(selection.indices // 10) == {2, 4, 5}
    assert method.select(features, atoms, n_atoms, covered=features).indices.tolist() == []


def test_a_state_of_another_threshold_or_encoder_is_refused(first):
    features, atoms, n_atoms = rounds()
    with pytest.raises(InputError, match=r"sampled at threshold 0\.05, this round asks for 0\.1"):
        TwoStageDirect(0.1).extend(first.state, features, atoms, n_atoms)
    with pytest.raises(InputError, match="expected 4"):
        TwoStageDirect(0.05).extend(first.state, features[:, :3], atoms, n_atoms)
    with pytest.raises(InputError, match="3 columns"):
        first.state.with_covered(features[:, :3])


def test_what_a_beam_counts_as_covered_is_within_the_threshold():
    """A narrow beam over more rows than are searched exactly misses some neighbors: it samples more, never less."""
    rng = np.random.default_rng(3)
    known, new = np.float32(rng.normal(size=(6000, 6))), np.float32(rng.normal(size=(3000, 6)))
    space = Space.fit(Moments.of(known))
    found = TwoStageDirect(0.08, 0.5, beam=1).select(new, new, np.ones(3000, int), covered=known)
    space = found.state.space
    apart = cdist(space.project(new), space.project(known)).min(axis=1)
    covered = found.structure_clusters < 0
    assert 500 < covered.sum() < (apart <= 0.08).sum()
    assert (apart[covered] <= 0.08 * (1 + 1e-5)).all()
    assert covered.sum() > 0.9 * (apart <= 0.08).sum()
    exact = coverage(new, known, space, 0.08, load_engine(search="exact"))
    assert exact.fraction == pytest.approx(np.mean(apart <= 0.08), abs=1e-3)
    assert exact.mean == pytest.approx(apart.mean(), rel=1e-4)
    assert exact.mean <= coverage(new, known, space, 0.08).mean < 1.01 * exact.mean


def test_coverage_is_the_distance_to_the_nearest():
    """One component with unit scale: distances are differences of numbers."""
    line = np.arange(0.0, 10.0)[:, None]
    space = Space.fit(Moments.of(line), weight_components=False)
    unit = 1 / line.std()
    found = coverage(line, line[::2], space, threshold=0.5 * unit)
    assert found.fraction == 0.5
    assert found.mean == pytest.approx(0.5 * unit)
    assert found.max == pytest.approx(unit)
    assert (found.n_rows, found.n_reference) == (10, 5)
    assert coverage(iter([line[:3], line[3:]]), line[:1], space, 1e9).fraction == 1
    back = coverage(line[::2], line, space)
    assert (back.fraction, back.max) == (1, 0)


def test_coverage_by_a_state(first):
    features, _, _ = rounds(seed=2)
    assert coverage(features, first.state, first.state.space, 0.05).fraction == 1
    assert coverage(features + 3, first.state, first.state.space, 0.05).fraction < 0.5
    with pytest.raises(InputError, match="neither centers nor chosen"):
        coverage(features, SampledSpace.empty(first.state.space, 0.05), first.state.space)
    with pytest.raises(InputError, match="positive length"):
        coverage(features, features, first.state.space, 0)


def test_the_picture_counts_all_and_shows_the_chosen(first):
    drawn = picture(first.components, first.indices, bins=16)
    assert drawn.density.sum() == 60
    assert drawn.density.shape == (16, 16)
    np.testing.assert_allclose(drawn.chosen, first.components[first.indices])
    assert drawn.x_edges[0] <= drawn.chosen[:, 0].min()
    thinned = picture(np.random.default_rng(0).normal(size=(500, 1)), np.arange(400), most_dots=30)
    assert thinned.chosen.shape == (30, 2)
    assert thinned.n_chosen == 400
