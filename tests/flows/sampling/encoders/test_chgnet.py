"""CHGNet as an encoder against chgnet's own ``predict_structure``, whatever the frame; and what cannot be encoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.sampling.encoders import pairs
from aqvolt_flows.sampling.encoders.registry import load_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("chgnet/r2scan")


def rattled(atoms: Atoms, seed: int = 0, by: float = 0.1) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(by, seed=seed)
    return atoms


def salt(repeat: int = 1) -> Atoms:
    return rattled(bulk("LiCl", "rocksalt", a=5.2, cubic=True) * repeat)


def frames() -> dict[str, Atoms]:
    """Cells smaller than the cutoff and larger, without angles, and given in unusual ways."""
    skewed = salt()
    skewed.set_cell(np.array([[1, 30, 0], [0, 1, -20], [0, 0, 1]]) @ skewed.cell[:])
    far = salt()
    far.positions[::2] += 7 * far.cell[0] - 3 * far.cell[2]
    left = salt()
    left.set_cell(left.cell[[1, 0, 2]])
    return {
        "one atom": bulk("Li", "bcc", a=3.3),
        "no bond below 3 Å": bulk("Li", "bcc", a=5.0),
        "two atoms, dense": rattled(bulk("LiF", "rocksalt", a=3.6)),
        "flat": rattled(make_supercell(bulk("NaCl", "rocksalt", a=5.6), np.diag([1, 1, 7]))),
        "big": rattled(bulk("YCl", "rocksalt", a=5.5, cubic=True) * 3),
        "skewed": skewed,
        "not wrapped": far,
        "left-handed": left,
        "hydrogen": rattled(bulk("LiH", "rocksalt", a=4.0, cubic=True)),
    }


def reference(encoder, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Return the features as chgnet's documentation says to get them."""
    out = encoder._model.network.predict_structure(
        AseAtomsAdaptor.get_structure(atoms), task="e", return_crystal_feas=True, return_atom_feas=True
    )
    return np.ravel(out["crystal_fea"]) / len(atoms), np.asarray(out["atom_fea"])


def test_features_are_chgnets_own(encoder):
    given = frames()
    features = encoder.encode(list(given.values()))
    assert features.failures == {}
    ends = features.offsets
    for i, (name, atoms) in enumerate(given.items()):
        # chgnet rounds fractional coordinates of long vectors to single precision: the usual cell of the same crystal
        structure, rows = reference(encoder, salt() if name == "skewed" else atoms)
        np.testing.assert_allclose(features.structures[i], structure, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(features.atoms[ends[i] : ends[i + 1]], rows, atol=1e-4, err_msg=name)


def test_portions_of_a_batch_are_the_batch(encoder, monkeypatch):
    given = list(frames().values())
    bad = salt()
    bad.positions[1] = bad.positions[0]
    given.insert(2, bad)
    monkeypatch.setitem(pairs.MAX_ROWS, "cpu", 10**9)
    whole = encoder.encode(given)
    monkeypatch.setitem(pairs.MAX_ROWS, "cpu", 1)
    calls = []
    features = encoder._features
    monkeypatch.setattr(encoder, "_features", lambda *a: calls.append(a[2]) or features(*a))
    parts = encoder.encode(given)
    assert calls == [1] * (len(given) - 1)
    assert whole.failures == parts.failures == {2: "close_atoms"}
    np.testing.assert_allclose(whole.structures, parts.structures, atol=1e-5)
    np.testing.assert_allclose(whole.atoms, parts.atoms, atol=5e-5)


def test_rows_are_those_of_the_graph(encoder):
    """Counted before the graph is made; the graph itself has as many."""
    given = pairs.FlatFrames.of(list(frames().values()))
    owners = torch.as_tensor(np.repeat(np.arange(len(given)), given.n_atoms))
    seen = given.reduced(encoder.cutoff)
    found = encoder._pairs(seen, owners)
    rows = encoder._rows(found, len(owners), len(given))
    graph = encoder._model.batched_graph(torch.as_tensor(given.numbers), owners, found, found.vectors)
    of_frame = torch.bincount(owners[graph.batched_bond_graph[:, 0]], minlength=len(given))
    assert rows.tolist() == of_frame.tolist()
    assert of_frame[1] == 0
    assert of_frame.sum() > 100


def test_bad_frames_are_reasons_and_the_rest_keeps_its_features(encoder):
    same, lonely, thin, none = salt(), salt(), salt(), salt()
    same.positions[3] = same.positions[5] + 2 * same.cell[1]  # on top of another, two cells away
    lonely.set_cell(np.eye(3) * 60)
    lonely.positions[4] += 30
    thin.set_cell(thin.cell[:] * [[1e-4], [1], [1]])
    none.set_cell(np.zeros((3, 3)))
    good = [salt(), bulk("LiF", "rocksalt", a=4.0)]
    features = encoder.encode([same, good[0], lonely, thin, good[1], none])
    assert features.failures == {0: "close_atoms", 2: "isolated_atom", 3: "close_atoms", 5: "close_atoms"}
    expected = encoder.encode(good)
    np.testing.assert_allclose(features.structures, expected.structures, atol=1e-6)
    np.testing.assert_allclose(features.atoms, expected.atoms, atol=2e-5)
    assert encoder.encode([lonely, same]).structures.shape == (0, 64)


def test_a_frame_that_does_not_fit_is_left_out_alone(encoder, monkeypatch):
    """The processor's allocator raises no OutOfMemoryError; the message here is torch's own, of a petabyte."""
    features = encoder._features

    def small_memory(numbers, system_idx, n_systems, found):
        if len(numbers) > 20:
            torch.empty(10**15, dtype=torch.uint8)
        return features(numbers, system_idx, n_systems, found)

    monkeypatch.setattr(encoder, "_features", small_memory)
    found = encoder.encode([salt(), salt(2), salt(), salt()])
    assert found.failures == {1: "out_of_memory"}
    assert found.n_atoms.tolist() == [8, 8, 8]

    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(encoder, "_features", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        encoder.encode([salt()])


def test_a_frame_of_many_atoms_goes_through_linked_cells(encoder, monkeypatch):
    usual = encoder.encode([salt(2), salt()])
    monkeypatch.setattr(pairs, "_MANY_ATOMS", 10)
    cells = encoder.encode([salt(2), salt()])
    np.testing.assert_allclose(usual.atoms, cells.atoms, atol=2e-5)
