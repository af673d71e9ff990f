"""Feature shards: what is written is read back, block by block, and a file that is cut short is named."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.encoders.base import Features
from aqvolt_flows.sampling.features import shards as module
from aqvolt_flows.sampling.features.shards import EncodedFrames, FeatureShards, write_shard

ENCODER = SimpleNamespace(name="fairchem:/some/path.pt", sha256="ab" * 32, layer="a+b")


def encoded(counts: list[int], seed: int = 0, name: str = "t") -> EncodedFrames:
    rng = np.random.default_rng(seed)
    n, total = len(counts), sum(counts)
    features = Features(
        rng.normal(size=(n, 5)).astype(np.float32), rng.normal(size=(total, 3)).astype(np.float32), np.array(counts)
    )
    return EncodedFrames([f"{name}{i // 2}" for i in range(n)], np.arange(n) * 7, np.arange(n) * 14, features)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=3), st.integers(1, 30))
def test_what_is_written_is_read_back_in_blocks(tmp_path_factory, groups, batch_atoms):
    folder = tmp_path_factory.mktemp("shards")
    parts = [encoded(counts, i, f"run{i}-") for i, counts in enumerate(groups)]
    before, module.BATCH_ATOMS = module.BATCH_ATOMS, batch_atoms
    try:
        for i, part in enumerate(parts):
            write_shard(folder / f"{i}.arrow", part, ENCODER)
    finally:
        module.BATCH_ATOMS = before
    shards = FeatureShards(sorted(folder.iterdir()))
    assert shards.n_atoms.tolist() == [n for counts in groups for n in counts]
    for _ in range(2):  # every pass starts afresh
        blocks = list(shards.atoms())
        assert all(b.dtype == np.float32 and b.flags.writeable for b in blocks)
        assert max(map(len, blocks)) <= max(batch_atoms, 9)
        np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate([p.features.atoms for p in parts]))
        np.testing.assert_array_equal(
            np.concatenate(list(shards.structures())), np.concatenate([p.features.structures for p in parts])
        )
    expected = [a for p in parts for a in zip(p.trajectory_ids, p.rows.tolist(), p.steps.tolist(), strict=True)]
    assert shards.addresses(range(len(shards))) == expected
    assert (shards.d_structure, shards.d_atom, shards.layer) == (5, 3, "a+b")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.97, -1])
def test_a_shard_cut_short_is_named(tmp_path, kept):
    whole = tmp_path / "whole.arrow"
    write_shard(whole, encoded([4] * 200), ENCODER)
    data = whole.read_bytes()
    cut = tmp_path / "cut.arrow"
    cut.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"cut\.arrow cannot be read .* cut short"):
        FeatureShards([cut])


def test_the_artifact_is_compared_with_its_pointer(tmp_path):
    path = tmp_path / "a.arrow"
    write_shard(path, encoded([4] * 50), ENCODER)
    store = ArtifactStore(tmp_path / "store")
    reference = store.put_file(path, "arrow")
    assert len(FeatureShards.of(store, [reference])) == 50
    stored = store.local_path(reference)
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(data)
    with pytest.raises(InputError, match="was changed"):
        FeatureShards.of(store, [reference])
    stored.write_bytes(data[:-8])
    with pytest.raises(InputError, match=f"cut short: {len(data) - 8} of {len(data)} bytes"):
        FeatureShards.of(store, [reference])


def test_what_does_not_belong_together_is_refused(tmp_path):
    one, other, none = tmp_path / "1.arrow", tmp_path / "2.arrow", tmp_path / "3.arrow"
    write_shard(one, encoded([2, 2]), ENCODER)
    write_shard(other, encoded([2, 2]), SimpleNamespace(name="x", sha256="cd" * 32, layer="a+b"))
    with pytest.raises(InputError, match=r"2\.arrow was made by the encoder cdcd.*different encoders"):
        FeatureShards([one, other])
    write_shard(other, encoded([2, 2]), SimpleNamespace(name=ENCODER.name, sha256=ENCODER.sha256, layer="a+c"))
    with pytest.raises(
        InputError, match=r"2\.arrow was made by .*a\+c.*before by .*a\+b.* or layers cannot .* encode all"
    ):
        FeatureShards([one, other])
    with pytest.raises(InputError, match="hold no frame"):
        FeatureShards([])

    with pa.OSFile(str(none), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("x", pa.int64())])):
        pass
    with pytest.raises(InputError, match="no feature shard"):
        FeatureShards([none])


def test_nothing_is_left_of_a_write_that_failed(tmp_path):
    bad = encoded([2, 2])
    bad.features.n_atoms[1] = 50
    with pytest.raises((IndexError, ValueError, pa.ArrowInvalid)):
        write_shard(tmp_path / "x.arrow", bad, ENCODER)
    assert list(tmp_path.iterdir()) == []
