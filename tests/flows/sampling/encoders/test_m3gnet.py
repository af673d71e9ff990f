"""M3GNet's layers by name, against matgl's own features of one structure; and what identifies the choice."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor
from saved_models import save_m3gnet

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.encoders.m3gnet_checkpoint import checkpoint_hash, layers_of
from aqvolt_flows.sampling.encoders.registry import check_encoder, encoder_hash
from aqvolt_flows.sampling.plan import with_local_encoder
from aqvolt_flows.schemas.parameters import SamplingParameters

pytest.importorskip("matgl")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*lightning.*"),
]


@pytest.fixture(scope="module", params=["property", "potential"])
def checkpoint(request, tmp_path_factory) -> str:
    """A folder with an M3GNet of random weights, as matgl saves it: of a property, or a potential."""
    folder = tmp_path_factory.mktemp("model") / request.param
    return save_m3gnet(folder, intensive=request.param == "property")


def frames() -> list[Atoms]:
    found = [bulk("LiCl", "rocksalt", a=5.2, cubic=True), bulk("LiF", "rocksalt", a=4.0), bulk("Li", "bcc", a=5.0)]
    for seed, atoms in enumerate(found[:2]):
        atoms.rattle(0.1, seed=seed)
    return found


def loaded(name: str):
    from aqvolt_flows.sampling.encoders.m3gnet import M3GNetEncoder

    return M3GNetEncoder(name, "cpu", gate=False)  # never trained


@pytest.mark.parametrize("atom", ["embedding", "gc_1", "gc_3"])
def test_features_are_those_of_matgl(checkpoint, atom):
    encoder = loaded(f"{checkpoint}#{atom}")
    has_readout = checkpoint.endswith("property")
    assert encoder.layer == f"readout+{atom}" if has_readout else f"mean({atom})+{atom}"
    features = encoder.encode(frames())
    ends = features.offsets
    for i, atoms in enumerate(frames()):
        encoder._net.predict_structure(AseAtomsAdaptor.get_structure(atoms))
        layers = encoder._net.feature_dict
        rows = layers[atom]["node_feat"].detach().numpy()
        pooled = layers["readout"].detach().numpy().ravel() if has_readout else rows.mean(axis=0)
        np.testing.assert_allclose(features.atoms[ends[i] : ends[i + 1]], rows, atol=2e-5)
        np.testing.assert_allclose(features.structures[i], pooled, atol=2e-5)


def test_a_layer_is_part_of_the_identity_and_the_default_by_name_is_the_default(checkpoint):
    has_readout = checkpoint.endswith("property")
    default = "readout+gc_3" if has_readout else "mean(gc_3)+gc_3"
    assert str(layers_of(checkpoint)) == default
    for same in ("gc_3", default):
        assert checkpoint_hash(f"{checkpoint}#{same}") == checkpoint_hash(checkpoint)
    others = ["gc_1", "gc_2", "embedding", "mean(gc_1)+gc_3", "mean(gc_1)+gc_2"]
    hashes = {encoder_hash(f"{checkpoint}#{other}") for other in ["gc_3", *others]}
    assert len(hashes) == 6
    encoder = loaded(f"{checkpoint}#mean(gc_1)+gc_2")
    assert (encoder.layer, encoder.d_structure, encoder.d_atom) == ("mean(gc_1)+gc_2", 64, 64)
    assert encoder.sha256 == encoder_hash(encoder.name)
    check_encoder(f"{checkpoint}#gc_1")


@pytest.mark.parametrize("wrong", ["gc_4", "gc_0", "readout", "gc_1+readout", "mean()+gc_1", "sum(gc_1)+gc_1", "x"])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(checkpoint, wrong):
    with pytest.raises(InputError, match=r"has no layers .*embedding, gc_1, gc_2, gc_3.*write m3gnet:PATH#gc_1"):
        check_encoder(f"{checkpoint}#{wrong}")
    if checkpoint.endswith("potential"):
        with pytest.raises(InputError, match="has no layers 'readout"):
            encoder_hash(f"{checkpoint}#readout+gc_1")


def test_a_path_of_the_project_may_be_followed_by_layers(checkpoint, database):
    folder = database.settings.path("models/a#b")
    folder.mkdir(parents=True)
    for given, meant in (
        ("models/a#b", f"{folder}"),
        ("models/a#b#gc_1", f"{folder}#gc_1"),
        (str(folder), str(folder)),
        ("by_name#gc_1", "by_name#gc_1"),
    ):
        found = with_local_encoder(SamplingParameters(encoder=f"m3gnet:{given}"), database)
        assert found.encoder == f"m3gnet:{meant}"
