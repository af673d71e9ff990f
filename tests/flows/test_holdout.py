"""What a training may not contain: copies of a hold-out found by structure, in a database and without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from aqvolt_flows import holdout
from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.holdout import Configuration, is_hold_out, overlap
from aqvolt_flows.schemas.parameters import ReleaseParameters


def salt(x: str = "Cl", a: float = 5.13) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", x], [[0, 0, 0], [0.5, 0.5, 0.5]])


def frame(name: str, structure: Structure, candidate: str | None = None) -> Configuration:
    made = Configuration.of(structure, name)
    return Configuration(name, candidate, made.numbers, made.positions, made.cell)


def shaken(seed: int, x: str = "Cl", size: float = 0.3) -> Structure:
    made = salt(x)
    rng = np.random.default_rng(seed)
    return Structure(
        made.lattice, made.species, made.cart_coords + rng.normal(0, size, (8, 3)), coords_are_cartesian=True
    )


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_origin_orientation_and_cell_do_not_hide_a_copy(seed):
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    given_frame = shaken(seed % 7)
    order = rng.permutation(8)
    turned = Rotation.random(random_state=seed % 1000).as_matrix()
    fractional = given_frame.frac_coords[order] + rng.uniform(size=3)
    species = [given_frame.species[k] for k in order]
    copy = Structure(given_frame.lattice.matrix @ turned, species, fractional) * (1, 1, 2)
    (found,) = overlap([frame("copy", copy)], [frame("held", given_frame)])
    assert (found.frame_id, found.held_out, found.kind) == ("copy", "held", "frame")


def test_other_configurations_of_the_material_are_not_copies():
    """Two frames of one run at 0.3 Å of vibration differ; only where the crystal is given do they belong to it."""
    training, held = [frame("a", shaken(1))], [frame("b", shaken(2))]
    assert overlap(training, held) == []
    near = [frame("relaxed", salt(a=5.3))]
    (found,) = overlap(near, held, [frame("LiCl", salt())])
    assert (found.kind, found.held_out) == ("material", "LiCl")


def test_one_candidate_is_one_whatever_its_frames():
    (found,) = overlap([frame("a", shaken(1), "c1")], [frame("b", shaken(2), "c1")])
    assert (found.kind, found.held_out) == ("candidate", "c1")
    assert overlap([frame("a", shaken(1), None)], [frame("b", shaken(2), None)]) == []


def test_other_formulas_are_never_compared(monkeypatch):
    monkeypatch.setattr(holdout, "MAX_PAIRS", 0)
    assert overlap([frame("a", salt("Br"))], [frame("b", salt("Cl"))], [frame("c", salt("I"))]) == []
    with pytest.raises(InputError, match="More than 0 pairs"):
        overlap([frame("a", salt())], [frame("b", salt())])


def test_hold_out_true_marks_a_release_and_needs_no_training_set():
    p = ReleaseParameters(hold_out=True, train_fraction=0.0, val_fraction=0.0, test_fraction=1.0)
    assert (p.is_hold_out, p.hold_out) == (True, {})
    assert ReleaseParameters(hold_out=False).is_hold_out is False
    assert "is_hold_out" not in ReleaseParameters().model_dump()  # keys of earlier releases stay
    with pytest.raises(ValueError, match="train_fraction is 0"):
        ReleaseParameters(train_fraction=0.0, val_fraction=0.5, test_fraction=0.5)


def test_the_campaign_is_the_papers():
    """2.4: 1300 K, 25 ps; about 200,000 frames of 703 runs."""
    campaign = load_campaign("holdout")
    e = campaign.exploration
    assert (e.temperatures_k, e.n_steps * e.timestep_fs) == ([1300.0], 25_000.0)
    assert 703 * (e.n_steps // e.stride + 1) == pytest.approx(200_000, rel=0.01)
    assert campaign.release.is_hold_out
    assert campaign.candidates.exclude_elements == []  # all Li halides, oxyhalides among them


def write_release(folder, frames):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    rows = [
        {
            "frame_id": f.frame_id,
            "candidate_id": f.candidate_id,
            "atomic_numbers": f.numbers.tolist(),
            "positions": f.positions.tolist(),
            "cell": f.cell.tolist(),
        }
        for f in frames
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "test.parquet")


def put(database, name, frames, **manifest):
    folder = holdout.release_folder.__globals__["release_path"](database, {"path": name})
    write_release(folder, frames)
    document = {
        "key": name, "release_id": f"{name}@1", "name": name, "content_hash": name, "path": name,
        "manifest": manifest, "counts": {}, "protocols": {}, "campaigns": [],
    }  # fmt: skip
    database["releases"].insert_one(dict(document))
    return document, folder


def test_a_training_release_with_a_held_out_structure_is_refused(database):
    held = [frame("h1", shaken(1)), frame("h2", shaken(2, "Br"))]
    _, _ = put(database, "held", held, is_hold_out=True)
    clean = put(database, "clean", [frame("t1", shaken(3)), frame("t2", shaken(4, "I"))])
    holdout.refuse_held_out(database, *clean)
    dirty = put(database, "dirty", [frame("t3", shaken(3)), frame("t4", shaken(2, "Br") * (1, 2, 1))])
    with pytest.raises(InputError, match=r"dirty@1 has 1 frames that belong to the hold-out held@1: t4 \(frame h2\)"):
        holdout.refuse_held_out(database, *dirty)


def test_a_hold_out_itself_is_not_trained_on(database):
    held = put(database, "held", [frame("h1", shaken(1))], is_hold_out=True)
    assert is_hold_out(held[0])
    with pytest.raises(InputError, match="held@1 is a hold-out"):
        holdout.refuse_held_out(database, *held)


def test_materials_of_a_hold_out_are_its_candidates_structures(database):
    """An imported, relaxed LiCl against a hold-out that was sampled from LiCl: no frame is equal, the crystal is."""
    database["candidates"].insert_one({"candidate_id": "c-licl", "structure": salt().as_dict(), "campaigns": []})
    put(database, "held", [frame("h1", shaken(1), "c-licl")], is_hold_out=True)
    imported = put(database, "imported", [frame("t1", salt(a=5.2), None)])
    with pytest.raises(InputError, match=r"t1 \(material c-licl\)"):
        holdout.refuse_held_out(database, *imported)
