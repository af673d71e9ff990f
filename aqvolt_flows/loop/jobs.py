"""Jobs of a round that no stage has: judging its frames, and comparing committees with labels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Maker

from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.loop.calibration import calibrate
from aqvolt_flows.loop.doubt import Doubt, committee_doubt
from aqvolt_flows.loop.selection import Budget, Judged, Offered, near_in, select
from aqvolt_flows.schemas.loop import LoopParameters
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database, by_ids

if TYPE_CHECKING:
    from ase import Atoms

    from aqvolt_flows.frames import Frame
    from aqvolt_flows.sampling.features.shards import FeatureShards

#: Frames evaluated together.
_AT_ONCE = 128
Place = tuple[str, int, int]


@dataclass
class SelectMaker(Maker):
    """Judge the frames of a round and choose which get a label.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        Of the loop; a dict is read.
    labeling
        Of the campaign: whose core-hours are forecast.
    """

    name: str = "judge frames"
    parameters: LoopParameters = field(default_factory=LoopParameters)
    labeling: LabelingParameters = field(default_factory=LabelingParameters)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, LoopParameters)
        self.labeling = typed(self.labeling, LabelingParameters)

    @campaign_job()
    def make(
        self, database: Database, sample_key: str, committee: dict[str, Any] | None, scale: float | None, key: str
    ) -> dict[str, Any]:
        """Write the doubtful frames that are chosen into ``frames``; return all that are chosen, counts and the table.

        Parameters
        ----------
        database
            Given by the decorator.
        sample_key
            Key of the round of 2DIRECT: its encoded frames, which passed the filters, are offered.
        committee
            Pointer to the committee's file; None: nothing doubts.
        scale
            True error over doubt, if it is known.
        key
            Of this unit of work.
        """
        sample = database["samples"].find_one({"key": sample_key}) or {}
        shards = _shards(database, sample)
        places = shards.addresses(range(len(shards))) if shards is not None else []
        doubts = _doubts(database, places, committee)
        offered = self._offered(database, sample, places, doubts, scale)
        p = self.parameters
        near = near_in(*_points(database, sample, shards)) if shards is not None else None
        budget = Budget(p.max_labels, p.budget_core_hours)
        judged = select(offered, p.trust.lower_ev_per_a, p.trust.upper_ev_per_a, budget, p.criterion, near)
        table = _store_table(database, judged, doubts)
        chosen = [j for j in judged if j.verdict == "chosen"]
        doubtful = [o.doubt >= p.trust.lower_ev_per_a for o in offered if not np.isnan(o.doubt)]
        counts = {v: sum(j.verdict == v for j in judged) for v in sorted({j.verdict for j in judged})}
        hours = [j.offered.core_hours for j in chosen]
        return {
            "chosen": _write_frames(database, chosen, key),
            "offered": len(offered),
            "verdicts": counts,
            "doubtful_fraction": float(np.mean(doubtful)) if doubtful else None,
            "doubt": _quantiles([o.doubt for o in offered]),
            "calibrated": scale is not None and committee is not None,
            "forecast_core_hours": None if any(np.isnan(hours)) or not hours else float(sum(hours)),
            "table": table.model_dump(mode="json"),
        }

    def _offered(
        self,
        database: Database,
        sample: Mapping[str, Any],
        places: Sequence[Place],
        doubts: Sequence[Doubt | None],
        scale: float | None,
    ) -> list[Offered]:
        from aqvolt_flows.sampling.earlier import with_outcome

        trajectories = {
            d["trajectory_id"]: d for d in database.find_by_ids("trajectories", sorted({name for name, _, _ in places}))
        }
        clusters = _environments(database, sample)
        labeled, hours = with_outcome(database), self._forecast(database)
        factor = scale if scale is not None and self.parameters.calibrated else 1.0
        found = []
        for (name, row, step), doubt in zip(places, doubts, strict=True):
            t = trajectories[name]
            largest = float("nan") if doubt is None else doubt.largest * factor
            frame_id = frame_id_of(name, step)
            cost = hours(t["formula"], t["n_atoms"])
            found.append(
                Offered(name, row, step, largest, clusters.get(frame_id, 0), cost, t["n_atoms"], frame_id in labeled)
            )
        return found

    def _forecast(self, database: Database) -> Any:
        """Return the forecast of one label's core-hours; NaN where core-hours are no limit, or no run has finished."""
        from aqvolt_flows.campaign import Campaign
        from aqvolt_flows.errors import InputError
        from aqvolt_flows.labeling.plan import cost_model, electrons_of

        if self.parameters.budget_core_hours is None:
            return lambda _formula, _atoms: float("nan")
        try:
            model = cost_model(Campaign(name=database.campaign, labeling=self.labeling), database)
        except InputError:
            return lambda _formula, _atoms: float("nan")
        return lambda formula, atoms: model.predict(atoms, electrons_of(formula, atoms))


@dataclass
class EvaluateMaker(Maker):
    """Compare committees with labels.

    Parameters
    ----------
    name
        Name of the job.
    """

    name: str = "compare committees with labels"

    @campaign_job()
    def make(
        self,
        database: Database,
        committee: dict[str, Any],
        before: dict[str, Any] | None,
        hold_out: list[str],
        new: list[str],
        key: str,  # noqa: ARG002 - it identifies the job
    ) -> dict[str, Any]:
        """Return the errors and the calibration of the new committee on the hold-out, of the one before on new labels.

        Parameters
        ----------
        database
            Given by the decorator.
        committee, before
            Pointers to the files of the round's committee, and of the one that explored (None: it was none).
        hold_out, new
            frame_id of the labels that no round trains on, and of those of this round.
        key
            Of this unit of work.
        """
        held = _compare(database, committee, hold_out)
        return {"hold_out": held, "new_labels": _compare(database, before, new) if before else None}


def frame_id_of(trajectory_id: str, step: int) -> str:
    """Return the identity of a frame."""
    from aqvolt_flows.sampling.earlier import frame_key

    return f"frame-{frame_key(trajectory_id, step)}"


def _shards(database: Database, sample: Mapping[str, Any]) -> FeatureShards | None:
    from aqvolt_flows.sampling.features.shards import FeatureShards

    documents = database.find_by_ids("features", sample.get("shards") or [])
    references = [ArtifactRef(**d["artifact"]) for d in documents if d["artifact"]]
    return FeatureShards.of(database.artifacts, references, verify=False) if references else None


def _points(database: Database, sample: Mapping[str, Any], shards: FeatureShards) -> tuple[Any, float]:
    """Return the offered frames in the space of the round, and its structural threshold."""
    from aqvolt_flows.sampling.direct.state import SampledSpace

    state = SampledSpace.load(database.artifacts.local_path(ArtifactRef(**sample["state"])))
    return np.concatenate([state.space.project(block) for block in shards.structures()]), state.threshold


def _environments(database: Database, sample: Mapping[str, Any]) -> dict[str, int]:
    """Return frame_id → atomic clusters that chose it, of the frames that the round of 2DIRECT chose."""
    from aqvolt_flows.frames import read_batches

    if not sample.get("frames"):
        return {}
    ids: list[str] = []
    for _, batch in read_batches(
        database.artifacts.local_path(ArtifactRef(**sample["frames"])), ("trajectory_id", "step")
    ):
        pairs = zip(batch.column("trajectory_id").to_pylist(), batch.column("step").to_pylist(), strict=True)
        ids += [frame_id_of(*pair) for pair in pairs]
    found = by_ids(database["frames"], "frame_id", ids, {"frame_id": 1, "n_atom_clusters": 1, "_id": 0})
    return {d["frame_id"]: max(int(d.get("n_atom_clusters") or 0), 1) for d in found}


def _frames(database: Database, places: Sequence[Place]) -> Iterator[Frame]:
    """Yield the frames at some places, which are grouped by trajectory and in the order of their rows."""
    from aqvolt_flows.sampling.chosen import frames_at

    known = {
        d["trajectory_id"]: d["frames"] for d in database.find_by_ids("trajectories", sorted({p[0] for p in places}))
    }
    for name, group in groupby(places, key=lambda place: place[0]):
        rows = np.array([row for _, row, _ in group], np.int64)
        yield from frames_at(database.artifacts.local_path(ArtifactRef(**known[name])), rows)


def _load(database: Database, committee: Mapping[str, Any]) -> Any:
    from aqvolt_flows.potentials import load_potential

    path = database.artifacts.local_path(ArtifactRef(**committee))
    return load_potential(f"committee:{path}", database.settings.resolve_device())


def _doubts(database: Database, places: Sequence[Place], committee: Mapping[str, Any] | None) -> list[Doubt | None]:
    """Return the doubt about every frame, in the order of the places."""
    if committee is None:
        return [None] * len(places)
    potential = _load(database, committee)
    order = sorted(range(len(places)), key=lambda i: places[i][:2])
    found: list[Doubt | None] = [None] * len(places)
    held: list[Atoms] = []
    done = 0

    def evaluate() -> None:
        nonlocal done
        for each in potential.evaluate_members(held):
            found[order[done]] = committee_doubt(each.energies, each.forces)
            done += 1
        held.clear()

    for frame in _frames(database, [places[i] for i in order]):
        held.append(frame.to_atoms())
        if len(held) == _AT_ONCE:
            evaluate()
    if held:
        evaluate()
    return found


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    known = [v for v in values if not np.isnan(v)]
    if not known:
        return {}
    return {name: float(np.quantile(known, q)) for name, q in (("median", 0.5), ("p90", 0.9), ("max", 1.0))}


def _store_table(database: Database, judged: Sequence[Judged], doubts: Sequence[Doubt | None]) -> ArtifactRef:
    """Store what became of every frame, for ``aqvolt why`` and the report."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "frame_id": [frame_id_of(j.offered.trajectory_id, j.offered.step) for j in judged],
        "trajectory_id": [j.offered.trajectory_id for j in judged],
        "row": [j.offered.row for j in judged],
        "step": [j.offered.step for j in judged],
        "verdict": [j.verdict for j in judged],
        "why": [j.sentence for j in judged],
        "doubt": [j.offered.doubt for j in judged],
        "force_sigma_max": [None if d is None else d.largest for d in doubts],
        "force_sigma_mean": [None if d is None else d.mean for d in doubts],
        "energy_sigma_per_atom": [None if d is None else d.energy for d in doubts],
        "environments": [j.offered.environments for j in judged],
        "core_hours": [j.offered.core_hours for j in judged],
        "gain": [j.gain for j in judged],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "judged.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")
        return database.artifacts.put_file(path, "parquet")


def _write_frames(database: Database, chosen: Sequence[Judged], key: str) -> list[str]:
    """Write documents of chosen frames that 2DIRECT did not choose, and return all identities, sorted."""
    from aqvolt_flows.frames import write_frames
    from aqvolt_flows.sampling.earlier import frame_key, take_again
    from aqvolt_flows.schemas.frame import FrameDocument

    ids = [frame_id_of(j.offered.trajectory_id, j.offered.step) for j in chosen]
    there = {d["frame_id"] for d in by_ids(database["frames"], "frame_id", ids, {"frame_id": 1, "_id": 0})}
    fresh = sorted(
        (o.trajectory_id, o.row, o.step)
        for j, i in zip(chosen, ids, strict=True)
        if i not in there
        for o in [j.offered]
    )
    database.adopt("frames", sorted(there))
    take_again(database, sorted(there))
    if not fresh:
        return sorted(ids)
    frames = list(_frames(database, fresh))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.parquet"
        write_frames(path, frames)
        artifact = database.artifacts.put_file(path, "parquet")
    known = {d["trajectory_id"]: d for d in database.find_by_ids("trajectories", sorted({p[0] for p in fresh}))}
    documents = []
    for number, ((name, row, step), frame) in enumerate(zip(fresh, frames, strict=True)):
        identity, about = frame_key(name, step), known[name]
        copied = {k: about[k] for k in ("candidate_id", "formula", "chemsys", "elements", "n_atoms", "temperature_k")}
        documents.append(
            FrameDocument(
                frame_id=f"frame-{identity}",
                key=identity,
                trajectory_id=name,
                sample_key=key,
                step=step,
                artifact=artifact,
                row=number,
                surrogate_energy=frame.energy,
                surrogate_max_force=frame.max_force,
                structure_cluster=-1,
                structure_distance=0.0,
                atom_clusters=[],
                source_row=row,
                n_atom_clusters=0,
                **copied,
            )
        )
    database.upsert("frames", documents)
    return sorted(ids)


def _compare(database: Database, committee: Mapping[str, Any], frame_ids: Sequence[str]) -> dict[str, Any]:
    """Return force and energy errors of a committee's mean on labels, with intervals, and its calibration."""
    from ase import Atoms

    from aqvolt_flows.benchmarks.bootstrap import ratio_intervals

    own = database.own("labels").among({"status": "valid"})
    labels = sorted(
        (d for d in by_ids(database["labels"], "frame_id", sorted(set(frame_ids))) if _matches(d, database, own)),
        key=lambda d: d["label_id"],
    )
    if not labels:
        return {"n_labels": 0, "calibration": calibrate([], []).as_dict()}
    potential = _load(database, committee)
    systems = [Atoms(numbers=d["atomic_numbers"], positions=d["positions"], cell=d["cell"], pbc=True) for d in labels]
    doubts, errors, energies = [], [], []
    sums: dict[str, list[float]] = {}
    for label, each in zip(labels, potential.evaluate_members(systems), strict=True):
        reference = np.asarray(label["forces"], dtype=np.float64)
        mean = each.mean
        doubts.append(committee_doubt(each.energies, each.forces).atoms)
        errors.append(np.linalg.norm(mean.forces - reference, axis=1))
        energies.append(abs(mean.energy - label["energy"]) / len(reference))
        row = sums.setdefault(label["trajectory_id"] or label["candidate_id"] or label["label_id"], [0.0, 0.0])
        row[0] += float(np.abs(mean.forces - reference).sum())
        row[1] += float(reference.size)
    table = np.array(list(sums.values()))
    (interval,) = ratio_intervals(table[:, :1], table[:, 1:], 1000)
    return {
        "n_labels": len(labels),
        "n_groups": len(table),
        "force_mae_ev_per_a": float(table[:, 0].sum() / table[:, 1].sum()),
        "force_mae_interval_ev_per_a": list(interval) if interval else None,
        "energy_mae_ev_per_atom": float(np.mean(energies)),
        "calibration": calibrate(doubts, errors).as_dict(),
    }


def _matches(label: Mapping[str, Any], database: Database, query: Mapping[str, Any]) -> bool:
    if label["status"] != "valid":
        return False
    return not query.keys() - {"status"} or database.campaign in database.members_of(label)
