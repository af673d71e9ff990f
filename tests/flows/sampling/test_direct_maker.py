"""2DIRECT for any script: MD documents or structures in, a typed selection out, no project."""

from __future__ import annotations

import json
from pathlib import Path

import argon
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.neighborlist import neighbor_list
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, jsanitize

from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.npt_maker import NpTMDMaker
from aqvolt_flows.sampling import TwoStageDirect, direct_maker
from aqvolt_flows.sampling.direct_maker import DirectMaker
from aqvolt_flows.sampling.encoders import BatchedEncoder
from aqvolt_flows.schemas.dynamics import NpTMDDocument
from aqvolt_flows.schemas.selection import DirectDocument
from aqvolt_flows.stores import Database

CHOICES = {"structure_threshold": 0.2, "atom_threshold": 0.2}


class Radial(BatchedEncoder):
    """Gaussians of the distances to neighbors, without torch's models."""

    layer, d_structure, d_atom, cutoff, sha256 = "gaussians", 6, 6, 6.0, "0" * 64

    def _prepare(self, atoms):
        i, distances = neighbor_list("id", atoms, self.cutoff)
        rows = np.zeros((len(atoms), 6))
        np.add.at(rows, i, np.exp(-((distances[:, None] - np.linspace(2.0, 6.0, 6)) ** 2)))
        return rows

    def _forward(self, prepared):
        return np.stack([rows.mean(axis=0) for rows in prepared]), np.concatenate(prepared)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder with a quick encoder; a database would be an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Database, "connect", lambda *_a, **_k: pytest.fail("a database was asked for"))
    monkeypatch.setattr(direct_maker, "load_encoder", lambda name, device: Radial(name, device))


def selected(source, **parameters) -> DirectDocument:
    job, store = DirectMaker(parameters=CHOICES | parameters).make(source), JobStore(MemoryStore())
    run_locally(job, store=store, ensure_success=True)
    return DirectDocument(**store.get_output(job.uuid))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[NpTMDDocument]:
    """MD of argon at two temperatures, and of another cell, in documents that hold their frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("md"))
        lj = LennardJones(sigma=argon.SIGMA, epsilon=argon.EPSILON, rc=argon.CUTOFF, smooth=True)
        maker = NpTMDMaker(lj, parameters=argon.parameters(n_steps=60, stride=5))
        cubic = bulk("Ar", cubic=True)
        jobs = [maker.make([cubic], temperatures_k=[40, 80]), maker.make([bulk("Ar"), cubic * (2, 1, 1)])]
        store = JobStore(MemoryStore())
        for one in jobs:
            run_locally(one, store=store, ensure_success=True)
        return [NpTMDDocument(**store.get_output(j.uuid)) for j in jobs]


def test_frames_of_the_equilibration_are_left_out_unless_asked_for(documents):
    """Twelve of sixty steps, every fifth a frame: rows 0, 1 and 2 of 13 in each of three runs with a frame."""
    runs = [t for d in documents for t in d.trajectories if t.frames]
    assert {t.n_equilibration_frames for t in runs} == {3}
    without, with_all = selected(documents), selected(documents, equilibration=True)
    assert (without.funnel["generated"], with_all.funnel["generated"]) == (10 * len(runs), 13 * len(runs))
    assert min(f.step for f in without.selected) >= 15
    assert min(f.step for f in with_all.selected) == 0


def test_the_selection_is_that_of_the_arrays(documents):
    found = selected(documents, equilibration=True)
    frames = documents[0].to_frames() + documents[1].to_frames()
    assert found.funnel["generated"] == len(frames) == 39
    del frames[13]  # where the second run starts, as the first one did
    assert found.funnel["duplicate"] == 1
    features = Radial("radial").encode([f.to_atoms() for f in frames])
    method = TwoStageDirect(**CHOICES)
    expected = method.select(features.structures, features.atoms, features.n_atoms)
    assert found.n_encoded == found.funnel["encoded"] == 38
    assert found.funnel["selected"] == len(found.structures) == len(expected.indices)
    assert 1 < len(found.structures) < 39
    assert found.coverage == pytest.approx(expected.coverage)
    for place, structure, index in zip(found.selected, found.structures, expected.indices, strict=True):
        run = documents[place.document_index].trajectories[place.trajectory_index]
        frame = run.to_frames()[place.row]
        assert frame.step == place.step == frames[index].step
        assert place.energy == frame.energy
        assert (place.temperature_k, place.structure_index) == (run.temperature_k, run.structure_index)
        assert place.structure_cluster == expected.structure_clusters[index]
        np.testing.assert_allclose(structure.cart_coords, frame.positions, atol=1e-5)
    assert (found.encoder, found.encoder_sha256, found.layer) == ("chgnet/r2scan", "0" * 64, "gaussians")


def test_files_serve_where_documents_do_not_hold_the_frames(documents):
    bare = [d.model_copy(deep=True) for d in documents]
    for t in (t for d in bare for t in d.trajectories if t.frames):
        t.frames.columns = None
    one, other = selected(documents, encode_stride=2), selected(bare, encode_stride=2)
    assert one.funnel["generated"] == 15  # rows 3, 5 … 11 of three runs
    assert one.model_dump() == other.model_dump()
    assert {s.row % 2 for s in one.selected} == {1}


def test_structures_are_selected_by_their_place_and_duplicates_are_left_out():
    crystals = [bulk("LiCl", "rocksalt", a=a, cubic=True) for a in (4.8, 5.0, 5.0, 5.2, 5.4, 6.4)]
    found = selected(crystals, structure_threshold=0.5, atom_threshold=0.5)
    assert (found.funnel["generated"], found.funnel["duplicate"], found.n_encoded) == (6, 1, 5)
    assert found.funnel["exploded"] == 0  # another volume is no explosion between unrelated structures
    places = [s.structure_index for s in found.selected]
    assert places == sorted(places)
    assert 2 not in places
    for s, structure in zip(found.selected, found.structures, strict=True):
        assert structure.volume == pytest.approx(crystals[s.structure_index].get_volume())
        assert (s.document_index, s.step, s.energy) == (None, None, None)


def test_engines_agree(documents):
    ours, reference = selected(documents), selected(documents, engine="sklearn")
    assert [s.model_dump(include={"document_index", "trajectory_index", "row"}) for s in ours.selected] == [
        s.model_dump(include={"document_index", "trajectory_index", "row"}) for s in reference.selected
    ]
    assert ours.coverage["max"] == pytest.approx(reference.coverage["max"], rel=1e-4)


def test_md_and_selection_are_one_flow_and_json(documents):
    lj = LennardJones(sigma=argon.SIGMA, epsilon=argon.EPSILON, rc=argon.CUTOFF, smooth=True)
    md = NpTMDMaker(lj, parameters=argon.parameters(n_steps=10, stride=5)).make([bulk("Ar", cubic=True)])
    direct = DirectMaker(parameters=CHOICES).make([md.output])
    again = MontyDecoder().process_decoded(json.loads(json.dumps(jsanitize(Flow([md, direct]).as_dict(), strict=True))))
    store = JobStore(MemoryStore())
    run_locally(again, store=store, ensure_success=True)
    assert DirectDocument(**store.get_output(direct.uuid)).n_encoded == 2  # steps 5 and 10; step 0 is equilibration


def test_nothing_to_choose_from_is_said(documents):
    [failed] = [t for t in documents[1].trajectories if t.failure]
    with pytest.raises(InputError, match="None of 0 frames can be encoded"):
        DirectMaker.make.original(
            DirectMaker(), documents[1].model_copy(update={"trajectories": [failed]})
        )  # fmt: skip
    crystals = [bulk("LiCl", "rocksalt", a=a) for a in (2.0, 2.1)]
    with pytest.raises(InputError, match=r"None of 2 frames .*2 overlapping"):
        DirectMaker.make.original(DirectMaker(), crystals)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: DirectMaker().make("frames.xyz"), "A path was given .* DirectMaker expected the output of NpTMDMaker"),
        (lambda: DirectMaker().make(3), "is a int; .* DirectMaker expected"),
        (lambda: DirectMaker().make([]), "is empty"),
        (lambda: DirectMaker().make([{"trajectories": [{}]}]), "not one that NpTMDMaker wrote"),
        (lambda: DirectMaker().make([{"trajectories": []}, bulk("Cu")]), "given in one list"),
        (lambda: DirectMaker("chgnet").make(bulk("Cu")), "There is no encoder 'chgnet'.*did you mean"),
        (lambda: DirectMaker(LennardJones()).make(bulk("Cu")), "The encoder is a LennardJones"),
        (lambda: DirectMaker(parameters={"n_stepz": 1}), "SamplingParameters has no field 'n_stepz'"),
        (lambda: DirectMaker(parameters={"covered_by": ["labels:x"]}).make(bulk("Cu")), "covered_by"),
    ],
    ids=range(9),
)
def test_what_is_wrong_is_said_when_the_job_is_made(call, said):
    with pytest.raises(InputError, match=said):
        call()
