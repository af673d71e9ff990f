"""Rounds of sampling on a database: funnel and lineage, restart by shard, second rounds, covered sets, bad files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from jobflow import run_locally

from aqvolt_flows.chemistry import describe
from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import Frame, read_frame, write_frames
from aqvolt_flows.identity import content_key
from aqvolt_flows.sampling.compare import compare_sets
from aqvolt_flows.sampling.direct.state import SampledSpace
from aqvolt_flows.sampling.earlier import take_again
from aqvolt_flows.sampling.encoders import registry as encoders
from aqvolt_flows.sampling.encoders.base import BatchedEncoder
from aqvolt_flows.sampling.features.encode import Source, shard_pieces
from aqvolt_flows.sampling.features.shards import FeatureShards
from aqvolt_flows.sampling.jobs import ChooseMaker, EncodeMaker
from aqvolt_flows.sampling.plan import plan_rounds
from aqvolt_flows.sampling.rounds import space_key, two_stage
from aqvolt_flows.schemas.frame import FrameDocument
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.stores import Database

PARAMETERS = SamplingParameters(structure_threshold=0.05, atom_threshold=0.05, trajectories_per_job=2)
#: Of which a round over several salts needs fewer frames than rounds over each.
COARSE = PARAMETERS.model_copy(update={"structure_threshold": 0.5, "atom_threshold": 0.5})
FILTERS = ("not_finite", "exploded", "overlapping", "duplicate", "unencodable")


class RadialEncoder(BatchedEncoder):
    """Sums of Gaussians of neighbor distances, by weight of the neighbor: real features, made in no time."""

    name, sha256, layer, cutoff = "chgnet/r2scan", "ab" * 32, "radial", 5.0
    d_structure = d_atom = 6

    def __init__(self) -> None:
        self.frames = 0
        self.stop_after: int | None = None

    def _prepare(self, atoms: Atoms) -> Atoms:
        self.frames += 1
        if self.stop_after is not None and self.frames > self.stop_after:
            raise KeyboardInterrupt
        return atoms

    def _forward(self, prepared):
        rows = []
        for atoms in prepared:
            i, j, d = neighbor_list("ijd", atoms, self.cutoff)
            values = np.exp(-((d[:, None] - np.linspace(1.5, 4.5, 6)) ** 2)) * np.sqrt(atoms.numbers[j])[:, None]
            atom = np.zeros((len(atoms), 6))
            np.add.at(atom, i, values)
            rows.append(atom)
        return np.stack([r.mean(axis=0) for r in rows]), np.concatenate(rows)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> RadialEncoder:
    made = RadialEncoder()
    monkeypatch.setattr(encoders, "load_encoder", lambda name, device="cpu": made)
    monkeypatch.setattr("aqvolt_flows.sampling.plan.encoder_hash", lambda name: made.sha256)
    return made


def run_of(formula: str, a: float, seed: int, n: int = 12) -> list[Atoms]:
    """Return rattled cells, as a run would write them."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk(formula, "rocksalt", a=a * rng.uniform(0.97, 1.03), cubic=True)
        atoms.positions += rng.normal(scale=0.15, size=atoms.positions.shape)
        frames.append(atoms)
    return frames


@pytest.fixture
def explored(database: Database, tmp_path: Path) -> Callable[..., str]:
    """Store frames as the exploration does, and return the trajectory's identity."""

    def store(name: str, frames: list[Atoms], n_frames: int | None = None) -> str:
        path = tmp_path / f"{name}.parquet"
        write_frames(
            path,
            [
                Frame(
                    f"traj-{name}", 10 * step, 300.0, -float(step), a.numbers.astype(np.int16),
                    a.positions.astype(np.float32), a.cell[:].astype(np.float32),
                    np.full((len(a), 3), 0.1 * step, np.float32), np.zeros(6, np.float32),
                )
                for step, a in enumerate(frames)
            ],
        )  # fmt: skip
        document = TrajectoryDocument(
            trajectory_id=f"traj-{name}", key=content_key("t", name=name), candidate_id=f"cand-{name}", engine="mlmd",
            model="m", model_hash="h", ensemble="npt", temperature_k=300.0, pressure_gpa=0.0, timestep_fs=2.0, seed=0,
            n_steps=100, steps_done=100, stride=10, n_frames=n_frames or len(frames), status="completed",
            frames=database.artifacts.put_file(path, "parquet"), **describe(frames[0].get_chemical_symbols()),
        )  # fmt: skip
        database.upsert("trajectories", [document])
        return f"traj-{name}"

    return store


def plan(database: Database, parameters: SamplingParameters = PARAMETERS, claimed: frozenset[str] = frozenset()):
    finished = {d["trajectory_id"]: d for d in database["trajectories"].find({}, {"_id": 0})}
    return plan_rounds(parameters, database, finished, claimed=claimed)


def sample(database: Database, parameters: SamplingParameters = PARAMETERS) -> dict:
    """Plan, run and return the round's document."""
    [item] = plan(database, parameters).todo
    flow = item.make()
    responses = run_locally(flow, ensure_success=True)
    output = responses[flow.output.uuid][1].output
    [document] = database["samples"].find({"key": item.key}, {"_id": 0})
    assert output["funnel"] == document["funnel"]
    return document


def test_the_funnel_adds_up_and_every_frame_has_its_lineage(database, explored, encoder):
    odd = run_of("LiCl", 5.13, 0)
    odd[3].positions[1] = odd[3].positions[0] + 0.4
    odd[5].set_cell(odd[5].cell[:] * 1.5, scale_atoms=True)
    odd[7] = odd[6].copy()
    odd[9].positions[2, 0] = np.nan
    for name, frames in (("a", odd), ("b", run_of("LiF", 4.02, 1)), ("c", run_of("LiI", 6.0, 2))):
        explored(name, frames)
    document = sample(database)
    funnel = document["funnel"]
    assert funnel["generated"] == 36
    assert [funnel[f] for f in FILTERS] == [1, 1, 1, 1, 0]
    assert funnel["generated"] == funnel["encoded"] + sum(funnel[f] for f in FILTERS)
    assert funnel["encoded"] >= funnel["atom_clusters"] / 8 > 0
    assert 3 <= funnel["structure_clusters"] <= funnel["selected"] <= funnel["encoded"]
    frames = list(database["frames"].find({}, {"_id": 0}))
    assert len(frames) == funnel["selected"] == document["new_frames"]
    for d in frames:
        trajectory = database["trajectories"].find_one({"trajectory_id": d["trajectory_id"]})
        own = read_frame(database.artifacts.local_path(ArtifactRef(**trajectory["frames"])), d["source_row"])
        copied = read_frame(database.artifacts.local_path(ArtifactRef(**d["artifact"])), d["row"])
        np.testing.assert_array_equal(own.positions, copied.positions)
        assert (own.step, own.trajectory_id) == (d["step"], d["trajectory_id"]) == (copied.step, copied.trajectory_id)
        assert d["surrogate_energy"] == own.energy
        assert d["surrogate_max_force"] == pytest.approx(own.max_force)
        assert d["n_atom_clusters"] == len(d["atom_clusters"]) >= 1
        assert d["structure_distance"] >= 0
        assert len(d["atom_distances"]) == len(d["atom_clusters"])
        assert min(d["atom_distances"]) >= 0
    assert {d["step"] for d in frames if d["trajectory_id"] == "traj-a"}.isdisjoint({30, 50, 70, 90})
    better = document["comparison"]
    assert better["chosen"]["mean"] <= better["random"]["mean"]
    state = SampledSpace.load(database.artifacts.local_path(ArtifactRef(**document["state"])))
    assert len(state.chosen) == funnel["selected"]


def test_a_round_that_ran_is_done_and_run_again_changes_nothing(database, explored, encoder):
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        explored(name, run_of("LiCl", 5.13, seed))
    [item] = plan(database).todo
    sample(database)
    before = {c: list(database[c].find().sort("_id", 1)) for c in ("features", "frames")}
    assert plan(database).facts["already_sampled"] == 3
    assert plan(database).todo == []
    made = encoder.frames
    run_locally(item.make(), ensure_success=True)
    assert encoder.frames == made, "the shards are there"
    assert {c: list(database[c].find().sort("_id", 1)) for c in before} == before
    assert database["samples"].count_documents({}) == 1


def test_a_killed_job_goes_on_with_the_shards_that_are_missing(database, explored, encoder):
    ids = [explored(name, run_of("LiCl", 5.13, seed)) for name, seed in (("a", 0), ("b", 1))]
    parameters = PARAMETERS.model_copy(update={"shard_atoms": 40})  # five frames of eight atoms
    make, maker = EncodeMaker.make.original, EncodeMaker(parameters=parameters.model_dump(mode="json"))
    encoder.stop_after = 13
    with pytest.raises(KeyboardInterrupt):
        make(maker, ids)
    done = database["features"].count_documents({})
    assert done == 2
    encoder.stop_after, encoder.frames = None, 0
    output = make(maker, ids)
    assert encoder.frames == 24 - 5 * done
    assert len(output["shards"]) == database["features"].count_documents({}) == 5
    assert (output["generated"], output["encoded"]) == (24, 24)
    lost = database["features"].find_one({"shard_id": output["shards"][1]})
    database.artifacts.local_path(ArtifactRef(**lost["artifact"])).unlink()
    encoder.frames = 0
    assert make(maker, ids) == output
    assert encoder.frames == 5


def paid_for(database: Database, frame_ids: list[str]) -> None:
    """Store an outcome of each, as a labeling job leaves it."""
    database["outputs"].insert_many(
        {
            "uuid": f"u-{i}",
            "index": 1,
            "metadata": {"aqvolt": {"stage": "label", "key": f"k-{i}"}},
            "output": {"frame_id": i},
        }
        for i in frame_ids
    )


def test_a_second_round_adds_to_labeled_frames_only_what_they_do_not_cover(database, explored, encoder):
    explored("a", run_of("LiCl", 5.13, 0))
    explored("b", run_of("LiI", 6.0, 1))
    first = sample(database)
    frames = {d["frame_id"]: d for d in database["frames"].find({}, {"_id": 0})}
    paid_for(database, list(frames))
    explored("like-a", run_of("LiCl", 5.13, 0)[::-1])
    explored("new", run_of("LiF", 4.02, 3))
    facts = plan(database).facts
    assert (facts["already_sampled"], facts["new_trajectories"], facts["earlier_rounds"]) == (2, 2, 1)
    second = sample(database)
    assert second["previous"] == [first["sample_id"]]
    assert second["trajectory_ids"] == ["traj-like-a", "traj-new"]
    assert second["space_key"] == first["space_key"]
    assert second["funnel"]["covered_before"] >= 10
    assert second["given_back"] == []
    added = [d for d in database["frames"].find({}, {"_id": 0}) if d["frame_id"] not in frames]
    # a frame of LiI that the first round did not need may be near the middle of a cluster in the wider space
    assert {"traj-new"} <= {d["trajectory_id"] for d in added} <= {"traj-new", "traj-b"}
    assert len(added) == second["new_frames"] == second["funnel"]["selected"] >= 1
    assert second["comparison"]["before"]["fraction"] <= second["comparison"]["chosen"]["fraction"]
    assert {i: database["frames"].find_one({"frame_id": i}, {"_id": 0}) for i in frames} == frames
    assert plan(database).todo == []


@pytest.mark.parametrize("order", ["abc", "cab", "bca"])
def test_three_rounds_without_labels_choose_what_one_round_chooses(database, explored, encoder, order):
    """Number and frames of one 2DIRECT over the shards of all rounds, in their order."""
    runs = {
        "a": run_of("LiCl", 5.13, 0, n=20),
        "b": run_of("LiBr", 5.5, 1, n=20),
        "c": run_of("LiI", 6.0, 2, n=20),
    }
    rounds = []
    for name in order:
        explored(name, runs[name])
        rounds.append(sample(database, COARSE))
    shards = [s for r in rounds for s in r["shards"]]
    references = [ArtifactRef(**d["artifact"]) for d in database.find_by_ids("features", shards)]
    features = FeatureShards.of(database.artifacts, references)
    joint = two_stage(COARSE, "cpu").select(features.structures(), features.atoms(), features.n_atoms)
    expected = {(name, step) for name, _, step in features.addresses(joint.indices)}
    own = list(database.own("frames").find())
    assert {(d["trajectory_id"], d["step"]) for d in own} == expected
    assert database.own("frames").count_documents() == len(joint.indices)
    back = [i for r in rounds for i in r["given_back"]]
    assert len(back) > 0
    there = database["frames"].count_documents({})
    assert there == sum(r["new_frames"] for r in rounds) > len(own)
    gone = {d["frame_id"] for d in database["frames"].find({"given_back": {"$ne": []}})} - {d["frame_id"] for d in own}
    assert gone <= set(back)
    assert rounds[-1]["coverage"]["mean"] == pytest.approx(joint.coverage["mean"], rel=1e-6)
    assert FrameDocument(**database["frames"].find_one({"frame_id": back[0]}, {"_id": 0})).given_back


def test_a_frame_that_was_given_back_is_taken_again_where_it_is_needed(database, explored, encoder):
    explored("a", run_of("LiCl", 5.13, 0, n=20))
    sample(database, COARSE)
    explored("b", run_of("LiI", 6.0, 1, n=20))
    second = sample(database, COARSE)
    [lost] = second["given_back"][:1]
    assert database.own("frames").find_one({"frame_id": lost}) is None
    view = database.in_campaign("other")
    view.adopt("frames", [lost])
    assert view.own("frames").find_one({"frame_id": lost}) is not None, "it was given back by the first campaign only"
    take_again(database, [lost])
    assert database.own("frames").find_one({"frame_id": lost}) is not None


def test_a_campaign_that_takes_over_rounds_gives_back_what_they_gave_back(database, explored, encoder):
    explored("a", run_of("LiCl", 5.13, 0, n=20))
    first = sample(database, COARSE)
    explored("b", run_of("LiI", 6.0, 1, n=20))
    second = sample(database, COARSE)
    assert second["given_back"]
    gamma, finished = database.in_campaign("gamma"), {}
    for document in (first, second):
        finished |= {d["trajectory_id"]: d for d in database.find_by_ids("trajectories", document["trajectory_ids"])}
        shared = plan_rounds(COARSE, gamma, finished)
        assert ([i.key for i in shared.items], shared.todo) == ([document["key"]], [])
        shared.adopt()
    assert {d["frame_id"] for d in gamma.own("frames").find()} == {d["frame_id"] for d in database.own("frames").find()}


def test_a_round_without_new_frames_changes_nothing_and_its_covered_set_counts_later(
    database, explored, encoder, project
):
    explored("a", run_of("LiCl", 5.13, 0))
    first = sample(database)
    before = list(database["frames"].find().sort("_id", 1))
    broken = run_of("LiCl", 5.13, 4, n=3)
    for atoms in broken:
        atoms.positions[1] = atoms.positions[0]
    explored("b", broken)
    explored("known", run_of("LiF", 4.02, 1))
    database["trajectories"].delete_one({"trajectory_id": "traj-known"})
    covered = PARAMETERS.model_copy(update={"covered_by": ["known.parquet"]})
    second = sample(database, covered)
    assert (second["funnel"]["encoded"], second["funnel"]["selected"], second["state"]) == (0, 0, None)
    assert list(database["frames"].find().sort("_id", 1)) == before
    explored("c", run_of("LiF", 4.02, 1))
    third = sample(database, covered)
    assert third["previous"] == [first["sample_id"], second["sample_id"]]
    assert third["funnel"]["covered_before"] >= 10
    assert third["covered"] == []


def test_shards_of_another_layer_among_the_old_ones_are_named(database, explored, encoder, monkeypatch):
    explored("a", run_of("LiCl", 5.13, 0))
    first = sample(database)
    explored("b", run_of("LiF", 4.02, 1))
    [item] = plan(database).todo
    encoder.layer = "another"
    encode, choose = item.make().jobs
    encoded = EncodeMaker.make.original(encode.maker, *encode.function_args)
    arguments = [encoded], choose.function_args[1], [], choose.function_kwargs["previous"]
    with pytest.raises(InputError, match=rf"{first['sample_id']} was encoded by .*layer 'radial'.*layer 'another'"):
        ChooseMaker.make.original(choose.maker, *arguments)


def test_sets_that_shape_the_space_are_not_chosen_and_make_the_first_round_coarser(
    database, explored, encoder, project
):
    explored("a", run_of("LiCl", 5.13, 0, n=20))
    others = run_of("LiF", 4.02, 1, n=20) + run_of("LiI", 6.0, 2, n=20)
    explored("others", others)
    database["trajectories"].delete_one({"trajectory_id": "traj-others"})
    alone = sample_for("alone", database)[0]
    shaped = PARAMETERS.model_copy(update={"space_from": ["others.parquet"]})
    document = sample(database.in_campaign("shaped"), shaped)
    assert document["shape"][0]["n_frames"] == 40
    assert document["covered"] == []
    assert document["funnel"]["structure_clusters"] < alone["funnel"]["structure_clusters"]
    assert {d["trajectory_id"] for d in database["frames"].find()} == {"traj-a"}
    gone = PARAMETERS.model_copy(update={"space_from": ["nowhere.parquet"]})
    assert "nowhere.parquet is to shape the space" in plan(database, gone).missing[0]


def test_keys_of_rounds_are_those_of_version_0_1():
    """Computed at 8f05404, before there were other scalings and sets that shape the space."""
    assert space_key("ab" * 32, SamplingParameters()) == "73b9a1e618778b7469e0d369"
    assert space_key("ab" * 32, SamplingParameters(scaling="robust")) != space_key("ab" * 32, SamplingParameters())


def test_a_queued_round_comes_before_one_that_adds_to_it(database, explored, encoder):
    explored("a", run_of("LiCl", 5.13, 0))
    [item] = plan(database).todo
    claimed = frozenset(item.units)
    again = plan(database, claimed=claimed)
    assert [i.key for i in again.items] == [item.key], "submitting it again finds it queued"
    assert (again.missing, again.facts["queued"]) == ([], 1)
    explored("b", run_of("LiF", 4.02, 1))
    assert "a round over 1 trajectories is queued" in plan(database, claimed=claimed).missing[0]
    assert plan(database).missing == []


def test_thinning_and_filters_offer_a_trajectory_again_and_what_is_covered_stays_out(database, explored, encoder):
    explored("a", run_of("LiCl", 5.13, 0, n=24))
    thin = PARAMETERS.model_copy(update={"encode_stride": 6})
    first = sample(database, thin)
    assert first["funnel"]["generated"] == 4
    assert plan(database).facts["new_trajectories"] == 1
    second = sample(database)
    assert second["funnel"]["generated"] == 24
    assert second["funnel"]["covered_before"] >= 4
    steps = {d["step"] for d in database["frames"].find({"sample_key": second["key"]})}
    assert steps.isdisjoint({0, 60, 120, 180})


def test_sets_that_are_declared_covered(database, explored, encoder, tmp_path, project):
    explored("a", run_of("LiCl", 5.13, 0))
    shutil.copy(tmp_path / "a.parquet", project / "known.parquet")
    explored("b", run_of("LiF", 4.02, 1))
    covered = PARAMETERS.model_copy(update={"covered_by": ["known.parquet"]})
    document = sample(database, covered)
    assert document["covered"][0]["source"] == "known.parquet"
    assert document["covered"][0]["n_frames"] == 12
    assert document["funnel"]["covered_before"] >= 12
    assert {d["trajectory_id"] for d in database["frames"].find()} == {"traj-b"}
    nothing = PARAMETERS.model_copy(update={"covered_by": ["release:none", "labels:none", "nowhere.parquet"]})
    missing = plan(database, nothing).missing
    assert ["release:none" in missing[0], "labels:none" in missing[1], "nowhere.parquet" in missing[2]] == [True] * 3


def large_cells(n: int, seed: int, moved: bool) -> list[Atoms]:
    """Rattled 64-atom LiCl at many volumes, with one Li at a tetrahedral site if asked."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        a = 5.13 * rng.uniform(0.92, 1.08)
        atoms = bulk("LiCl", "rocksalt", a=a, cubic=True) * (2, 2, 2)
        if moved:
            away, near = rng.choice(np.flatnonzero(atoms.numbers == 3), 2, replace=False)
            atoms.positions[away] = atoms.positions[near] + a / 4
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        frames.append(atoms)
    return frames


def test_one_new_environment_among_64_atoms_is_found_beside_a_covered_file(database, explored, encoder, project):
    explored("known", large_cells(20, 0, moved=False))
    database["trajectories"].delete_one({"trajectory_id": "traj-known"})
    explored("plain", large_cells(20, 0, moved=False)[::-1])
    explored("moved", large_cells(6, 1, moved=True))
    update = {"covered_by": ["known.parquet"], "structure_threshold": 0.5, "atom_threshold": 0.05, "stage2": "global"}
    document = sample(database, PARAMETERS.model_copy(update=update))
    assert document["covered"][0]["n_frames"] == 20
    assert document["funnel"]["covered_before"] >= 12, (
        "an atom of the others is in a cluster that a moved cell stands for"
    )
    found = [d["trajectory_id"] for d in database.own("frames").find()]
    assert found.count("traj-moved") == 6
    assert found.count("traj-plain") <= 2


def test_labels_that_are_there_are_covered(database, explored, encoder):
    frames = run_of("LiCl", 5.13, 0)
    explored("a", frames)
    database["labels"].insert_many(
        [
            {
                "label_id": f"label-{i}", "key": f"k{i}", "status": "valid", "source": "matpes",
                "atomic_numbers": a.numbers.tolist(), "positions": a.positions.tolist(), "cell": a.cell[:].tolist(),
            }
            for i, a in enumerate(frames)
        ]
    )  # fmt: skip
    document = sample(database, PARAMETERS.model_copy(update={"covered_by": ["labels:matpes"]}))
    assert document["covered"][0]["n_frames"] == 12
    assert (document["funnel"]["covered_before"], document["funnel"]["selected"]) == (12, 0)
    assert database["frames"].count_documents({}) == 0


def test_a_round_with_nothing_to_encode_is_a_document(database, explored, encoder):
    frames = run_of("LiCl", 5.13, 0, n=3)
    for atoms in frames:
        atoms.positions[1] = atoms.positions[0]
    explored("a", frames)
    document = sample(database)
    assert (document["funnel"]["overlapping"], document["funnel"]["encoded"], document["frames"]) == (3, 0, None)
    assert plan(database).todo == []


def test_a_trajectory_cut_short_is_named(database, explored, encoder):
    ids = [explored("a", run_of("LiCl", 5.13, 0), n_frames=20)]
    with pytest.raises(InputError, match=r"traj-a gave 12 of the 20 frames"):
        EncodeMaker.make.original(EncodeMaker(parameters=PARAMETERS.model_dump(mode="json")), ids)
    assert database["features"].count_documents({}) == 0


def test_shards_are_bounded_and_lose_nothing():
    reference = ArtifactRef(sha256="a" * 64, format="parquet", bytes=1)
    sources = [Source("a", reference, 10, 30), Source("b", reference, 1, 500), Source("c", reference, 7, 20)]
    shards = shard_pieces(sources, 2, 100)
    rows = [(p.source, r) for pieces in shards for p in pieces for r in range(p.start, p.stop, 2)]
    assert rows == [(s.name, r) for s in sources for r in range(0, s.n_frames, 2)]
    size = {"a": 30, "b": 500, "c": 20}
    atoms = [sum(size[p.source] * len(range(p.start, p.stop, 2)) for p in pieces) for pieces in shards]
    assert all(a <= 100 or len(pieces) == 1 for a, pieces in zip(atoms, shards, strict=True))


def test_a_shard_begins_after_the_equilibration_of_a_run():
    reference = ArtifactRef(sha256="a" * 64, format="parquet", bytes=1)
    sources = [Source("a", reference, 10, 30, first_row=3), Source("all", reference, 4, 30, first_row=4)]
    rows = [
        (p.source, r) for pieces in shard_pieces(sources, 2, 100) for p in pieces for r in range(p.start, p.stop, 2)
    ]
    assert rows == [("a", 3), ("a", 5), ("a", 7), ("a", 9)]


def test_sets_are_compared_in_the_space_of_the_newest_round(
    database, explored, encoder, tmp_path, project, monkeypatch
):
    monkeypatch.setattr(encoders, "encoder_hash", lambda name: encoder.sha256)
    with pytest.raises(InputError, match="No round of sampling"):
        compare_sets(database, PARAMETERS, "encoded", "chosen")
    explored("a", run_of("LiCl", 5.13, 0))
    explored("far", run_of("LiI", 6.0, 1))
    document = sample(database)
    shutil.copy(tmp_path / "a.parquet", project / "a-copy.parquet")
    chosen = compare_sets(database, PARAMETERS, "encoded", "chosen")
    assert (chosen["n_rows"], chosen["n_reference"]) == (24, document["funnel"]["selected"])
    assert chosen["mean"] == pytest.approx(document["comparison"]["chosen"]["mean"])
    half = compare_sets(database, PARAMETERS, "encoded", "a-copy.parquet")
    assert 0.5 <= half["fraction"] < 1
    assert half["max"] > 10 * chosen["max"] or chosen["max"] < 1e-6
    itself = compare_sets(database, PARAMETERS, "a-copy.parquet", "encoded")
    assert (itself["fraction"], itself["n_rows"]) == (1, 12)
    assert itself["max"] < 1e-3
    made = encoder.frames
    compare_sets(database, PARAMETERS, "a-copy.parquet", "chosen")
    assert encoder.frames == made, "encoded once"
    for covered, by, said in (
        ("nothing", "chosen", "no set 'nothing'"),
        ("chosen", "encoded", "give it as the second"),
    ):
        with pytest.raises(InputError, match=said):
            compare_sets(database, PARAMETERS, covered, by)


def sample_for(name: str, database: Database) -> tuple[dict, Database]:
    """Plan and run a round of a campaign; return its document and the database as the campaign sees it."""
    view = database.in_campaign(name)
    [item] = plan(view).todo
    flow = item.make()
    flow.update_metadata({"aqvolt": {"campaigns": [name]}})
    run_locally(flow, ensure_success=True)
    [document] = database["samples"].find({"key": item.key}, {"_id": 0})
    return document, view


def test_rounds_are_a_campaigns_own_and_a_frame_of_two_is_one_document(database, explored, encoder):
    for name, seed in (("a", 0), ("b", 1)):
        explored(name, run_of("LiCl", 5.13, seed))
    first, alpha = sample_for("alpha", database)
    frames_of_first = {d["frame_id"] for d in alpha.own("frames").find()}

    late = database.in_campaign("gamma")
    same = plan(late)
    assert (same.todo, [i.key for i in same.items], same.facts["earlier_rounds"]) == ([], [first["key"]], 0)
    assert late.own("frames").count_documents() == 0
    same.adopt()
    assert {d["frame_id"] for d in late.own("frames").find()} == frames_of_first
    assert plan(late).facts["earlier_rounds"] == 1
    assert plan(late).facts["already_sampled"] == 2

    explored("c", run_of("LiI", 6.0, 2))
    second, _ = sample_for("alpha", database)
    assert second["previous"] == [first["sample_id"]]
    beta_plan = plan(database.in_campaign("beta"))
    assert (beta_plan.facts["earlier_rounds"], beta_plan.facts["new_trajectories"]) == (0, 3)
    third, beta = sample_for("beta", database)
    assert third["previous"] == []
    assert third["key"] not in {first["key"], second["key"]}
    own = list(beta.own("frames").find())
    assert len(own) == third["funnel"]["selected"]
    both = [d for d in own if "alpha" in d["campaigns"]]
    assert len(both) == len(own) - third["new_frames"] > 0
    assert {d["sample_key"] for d in both} <= {first["key"], second["key"]}
    assert database["frames"].count_documents({}) == len(database["frames"].distinct("frame_id"))
    assert plan(alpha).todo == plan(beta).todo == []
