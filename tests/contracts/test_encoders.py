"""What every encoder must satisfy: shapes, invariances, batches, and reasons for what it cannot see."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from saved_models import save_esen, save_m3gnet

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling.encoders.base import halving
from aqvolt_flows.sampling.encoders.registry import check_encoder, encoder_hash, load_encoder

#: pynvml's successor, torch_geometric and warp, which matgl imports
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*lightning.*"),
]


@pytest.fixture(scope="module", params=["chgnet", "m3gnet property", "m3gnet potential", "fairchem"])
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    if request.param == "chgnet":
        return load_encoder("chgnet/r2scan")
    if request.param == "fairchem":
        return load_encoder(save_esen(folder / "inference_ckpt.pt"))
    if request.param == "m3gnet property":
        return load_encoder(save_m3gnet(folder, intensive=True))
    from aqvolt_flows.sampling.encoders.m3gnet import M3GNetEncoder

    return M3GNetEncoder(save_m3gnet(folder, intensive=False), "cpu", gate=False)  # never trained


def frames() -> list[Atoms]:
    salt = bulk("LiCl", "rocksalt", a=5.2, cubic=True)
    salt.rattle(0.1, seed=1)
    return [salt, bulk("LiF", "rocksalt", a=4.0), bulk("LiI", "rocksalt", a=6.0, cubic=True)]


def test_shapes_and_types(encoder):
    features = encoder.encode(frames())
    expected = {"chgnet": (64, 64), "m3gnet": (128, 64), "fairchem": (8, 8)}[
        encoder.name.partition(":")[0].split("/")[0]
    ]
    if "mean" in encoder.layer and "gc_3" in encoder.layer:
        expected = (64, 64)
    assert (encoder.d_structure, encoder.d_atom) == expected
    assert features.n_atoms.tolist() == [8, 2, 8]
    assert features.offsets.tolist() == [0, 8, 10, 18]
    assert features.structures.shape == (3, expected[0])
    assert features.atoms.shape == (18, expected[1])
    assert features.structures.dtype == features.atoms.dtype == np.float32
    assert features.failures == {}
    assert np.ptp(features.structures, axis=0).max() > 1e-3, "different salts have different vectors"


def test_a_batch_is_its_members(encoder):
    whole, parts = encoder.encode(frames()), encoder.encode(frames(), max_batch_atoms=1)
    np.testing.assert_allclose(whole.structures, parts.structures, atol=1e-4)
    np.testing.assert_allclose(whole.atoms, parts.atoms, atol=1e-4)


def test_features_do_not_see_translation_rotation_order_or_repetition(encoder):
    """Energy models are invariant under these; so are their node features, and an average over atoms."""
    [atoms, *_] = frames()
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    turned.translate([0.3, 0.2, 0.1])
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = encoder.encode([atoms]), encoder.encode([turned[order]])
    np.testing.assert_allclose(before.structures, after.structures, atol=2e-3)
    np.testing.assert_allclose(before.atoms[order], after.atoms, atol=2e-3)
    twice = encoder.encode([atoms * (2, 1, 1)])
    np.testing.assert_allclose(twice.structures, before.structures, atol=2e-3)


def test_what_cannot_be_encoded_is_a_reason_beside_the_others_features(encoder):
    good, *_ = frames()
    close, lonely, nan = good.copy(), good.copy(), good.copy()
    close.positions[1] = close.positions[0] + 0.05
    lonely.set_cell(np.eye(3) * 40)
    lonely.positions[0] += [20, 20, 20]
    nan.positions[3, 1] = np.nan
    features = encoder.encode([close, good, lonely, nan, Atoms(cell=np.eye(3), pbc=True)])
    assert features.failures == {0: "close_atoms", 2: "isolated_atom", 3: "not_finite", 4: "no_atoms"}
    np.testing.assert_allclose(features.structures, encoder.encode([good]).structures, atol=1e-5)
    assert features.n_atoms.tolist() == [8]
    if encoder.known is not None and 54 not in encoder.known:
        xenon = bulk("LiI", "rocksalt", a=6.0)
        xenon.numbers[:] = 54
        assert encoder.encode([xenon]).failures == {0: "unknown_element"}


def test_no_frame_gives_no_row(encoder):
    assert encoder.encode([]).structures.shape == (0, encoder.d_structure)
    assert encoder.encode([]).atoms.shape == (0, encoder.d_atom)


def test_the_hash_is_that_of_the_weights(encoder):
    assert encoder.sha256 == encoder_hash(encoder.name)
    assert len(encoder.sha256) == 64


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    import torch

    calls = []

    def compute(part):
        calls.append(len(part))
        if len(part) > 2 or 5 in part:
            raise torch.OutOfMemoryError
        return part

    found = list(halving(list(range(7)), compute))
    assert [i for part, _ in found for i in part] == list(range(7))
    assert [part for part, result in found if result is None] == [[5]]
    assert max(len(part) for part, result in found if result) == 2
    assert calls[0] == 7


def test_an_unknown_encoder_is_named():
    with pytest.raises(InputError, match="no encoder 'm3gnet'"):
        encoder_hash("m3gnet")
    with pytest.raises(ResourceError, match=r"has no model.json.*matgl.load_model"):
        encoder_hash("m3gnet:nowhere")
    with pytest.raises(ResourceError, match="no checkpoint"):
        encoder_hash("fairchem:nowhere.pt")


def test_an_older_m3gnet_is_refused(tmp_path):
    """matgl itself only warns, and then computes wrong numbers."""
    name = save_m3gnet(tmp_path, intensive=False)
    saved = json.loads((tmp_path / "model.json").read_text())
    for change, said in (
        ({"@model_version": saved["@model_version"] - 1}, "holds Potential of version"),
        (
            {"kwargs": saved["kwargs"] | {"model": saved["kwargs"]["model"] | {"@model_version": 1}}},
            "M3GNet of version 1",
        ),
        ({"kwargs": {}}, "expected an M3GNet"),
    ):
        (tmp_path / "model.json").write_text(json.dumps(saved | change))
        with pytest.raises(InputError, match=said):
            check_encoder(name)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match="not what matgl writes"):
        load_encoder(name)


def test_a_potential_without_licls_minimum_is_refused(tmp_path):
    """Random weights have no reason to put a minimum at 5.1 Å, and those of this seed do not."""
    with pytest.raises(InputError, match="LiCl has"):
        load_encoder(save_m3gnet(tmp_path, intensive=False))
