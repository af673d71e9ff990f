"""What every encoder must satisfy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.encoders import encoder_hash, load_encoder


@pytest.fixture(scope="module", params=["chgnet/r2scan"])
def encoder(request):
    return load_encoder(request.param)


def frames():
    salt = bulk("LiCl", "rocksalt", a=5.2, cubic=True)
    salt.rattle(0.1, seed=1)
    return [salt, bulk("LiF", "rocksalt", a=4.0), bulk("LiI", "rocksalt", a=6.0, cubic=True)]


def test_shapes_and_types(encoder):
    features = encoder.encode(frames())
    assert features.n_atoms.tolist() == [8, 2, 8]
    assert features.structures.shape == (3, 64)
    assert features.atoms.shape == (18, 64)
    assert features.structures.dtype == features.atoms.dtype == np.float32
    assert len(encoder.sha256) == 64


def test_a_batch_is_its_members(encoder):
    whole, parts = encoder.encode(frames()), encoder.encode(frames(), max_batch_atoms=1)
    np.testing.assert_allclose(whole.structures, parts.structures, atol=1e-4)
    np.testing.assert_allclose(whole.atoms, parts.atoms, atol=1e-4)


def test_features_do_not_see_translation_rotation_or_order(encoder):
    """Energy models are invariant under these; so are what they pool."""
    [atoms, *_] = frames()
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    turned.translate([0.3, 0.2, 0.1])
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = encoder.encode([atoms]), encoder.encode([turned[order]])
    np.testing.assert_allclose(before.structures, after.structures, atol=2e-3)
    np.testing.assert_allclose(before.atoms[order], after.atoms, atol=2e-3)


def test_no_frame_gives_no_row(encoder):
    assert encoder.encode([]).structures.shape == (0, 64)


def test_an_unknown_encoder_is_named():
    with pytest.raises(InputError, match="no encoder 'm3gnet'"):
        encoder_hash("m3gnet")
