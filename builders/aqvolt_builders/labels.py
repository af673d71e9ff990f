"""Labels from what the labeling jobs returned, and from ab-initio trajectories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched
from typing import Any

from maggma.core import Store

from aqvolt_builders.base import (
    CountingBuilder,
    by_key,
    frames_with_model,
    latest_outputs,
    of_project,
    outputs_store,
    plain_store,
    read_outputs,
)
from aqvolt_builders.growth import adopt_all_labels
from aqvolt_builders.shifts import Shifts
from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.datasets.aimd_labels import ended_at, labels_from_trajectory, pressure_fault, rejected_trajectory
from aqvolt_flows.datasets.energies import MAX_JUMP_EV_PER_ATOM
from aqvolt_flows.datasets.importers.tasks import is_task, outcome_of_task
from aqvolt_flows.datasets.labels import BUILDER_VERSION, label_from_outcome, merge
from aqvolt_flows.errors import AqvoltError
from aqvolt_flows.frames import Frame, read_frames
from aqvolt_flows.schemas.label import LabelDocument
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.schemas.trajectory import ENDED
from aqvolt_flows.settings import load_settings
from aqvolt_flows.stores import Database, collection_store
from aqvolt_flows.vasp.settings import r2scan_protocol

STAGE = "metadata.aqvolt.stage"
#: Rules, state of the run, stride and number of labels that one label of an AIMD run was made with.
_RunState = tuple[Any, Any, Any, Any]


class LabelBuilder(CountingBuilder):
    """Makes ``labels`` of ``outputs`` (jobs of the stage ``label``), ``frames`` and AIMD ``trajectories``.

    Incremental: a job is taken up when no label remembers it (its uuid and the time that its output says), a trajectory
    when its labels are not all there or of an earlier state of it, and everything when the rules (``builder_version``)
    or the settings changed. All jobs are compared with all labels each time: nothing is concluded from dates, which
    differ between machines and come late, nor from counts. A second run with nothing new writes nothing.

    Parameters
    ----------
    outputs, frames, trajectories, labels
        Stores to read and write, any of maggma's; a JobStore serves as ``outputs``. By default those that the
        settings of this machine name.
    query
        Which documents of ``outputs`` are labels: by default those of our labeling stage. Jobs of atomate2 whose
        output is a VASP task document are understood as well; name them here, e.g. ``{"name": "MatPES meta-GGA
        static"}``.
    aimd_stride
        Keep every n-th ionic step of a trajectory as a label.
    max_energy_jump_ev
        What an energy may be off from what the frame's own potential leads to expect, eV/atom; 0: not checked.
    full
        Without effect, for jobs of version 0.1: every run looks at everything.
    chunk_size
        Outcomes read and written at once.
    campaign
        Whose outcomes and trajectories are read; by default those of the campaign of the job or of the settings.
    all_campaigns
        Read those of all campaigns.
    """

    def __init__(
        self,
        outputs: Store | None = None,
        frames: Store | None = None,
        labels: Store | None = None,
        trajectories: Store | None = None,
        query: dict[str, Any] | None = None,
        aimd_stride: int = 1,
        max_energy_jump_ev: float = MAX_JUMP_EV_PER_ATOM,
        full: bool = False,
        chunk_size: int = 200,
        campaign: str | None = None,
        all_campaigns: bool = False,
    ) -> None:
        self.campaign, self.all_campaigns = campaign, all_campaigns
        self.outputs = plain_store(outputs, outputs_store())
        self.frames = plain_store(frames, collection_store("frames"))
        self.labels = plain_store(labels, collection_store("labels"))
        self.trajectories = plain_store(trajectories, collection_store("trajectories"))
        self.query = query
        self.aimd_stride = aimd_stride
        self.max_energy_jump_ev = max_energy_jump_ev
        self.full = full
        self._complete = False
        super().__init__([self.outputs, self.frames, self.trajectories], [self.labels], chunk_size)

    def _scope(self) -> Database | None:
        """Return the project's database as the campaign sees it; None where a store is not the project's."""
        if not all(of_project(store) for store in (self.outputs, self.trajectories, self.labels)):
            return None
        database = Database.connect()
        database = database if self.campaign is None else database.in_campaign(self.campaign)
        return database.in_all_campaigns() if self.all_campaigns else database

    @property
    def job_query(self) -> dict[str, Any]:
        """Which documents of outputs are labels."""
        return {STAGE: "label"} if self.query is None else self.query

    @property
    def rules(self) -> str:
        """The ``builder_version`` of the labels it makes: the rules, and the energy limit where it is another."""
        changed = self.max_energy_jump_ev != MAX_JUMP_EV_PER_ATOM
        return BUILDER_VERSION + (f"+jump{self.max_energy_jump_ev:g}" if changed else "")

    def _rules_for(self, trajectory: Mapping[str, Any] | None) -> str:
        """Return the rules for a run or a job; labels of runs whose energies hold P·V are made again."""
        pressed = trajectory is not None and pressure_fault(trajectory) is not None
        return self.rules + ("+without-pv" if pressed else "")

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Yield the outcome and the frame of every job, and every AIMD trajectory, that is not built yet."""
        scope = self._scope()
        waiting, runs = self.waiting(scope)
        self.total = len(waiting) + len(runs)
        shifts = Shifts()
        if waiting and self.max_energy_jump_ev > 0:
            shifts = Shifts.of(self.outputs, self.frames, self.trajectories, self.labels, waiting)
        for uuids in batched(waiting, self.chunk_size):
            yield from self._jobs(scope, uuids, shifts)
        for trajectory_id in runs:
            for trajectory in self.trajectories.query({"trajectory_id": trajectory_id}):
                yield {"trajectory": trajectory, "campaigns": _members_of(scope, trajectory)}
        self._complete = True

    def waiting(self, scope: Database | None = None) -> tuple[list[str], list[str]]:
        """Return the jobs (uuid) and the AIMD trajectories (identity) that are not built yet, or not as they are now.

        Parameters
        ----------
        scope
            The project's database as the campaign sees it; by default found as :meth:`get_items` does.
        """
        scope = self._scope() if scope is None else scope
        latest = latest_outputs(self.outputs, self.job_query | _members(scope, "outputs"))
        query: dict[str, Any] = {"engine": "aimd", "status": {"$in": list(ENDED)}}
        wanted = ("trajectory_id", "last_updated", "pressure_gpa", "pressure_removed", "mean_volume_per_atom")
        fields = dict.fromkeys(wanted, 1) | {"_id": 0}
        runs = list(self.trajectories.query(query | _members(scope, "trajectories"), fields))
        jobs, states = self._built() if latest or runs else (set(), {})
        return (
            sorted(uuid for uuid, at in latest.items() if (uuid, at) not in jobs),
            sorted(t["trajectory_id"] for t in runs if not self._is_built(t, states.get(t["trajectory_id"], []))),
        )

    def process_item(self, item: dict[str, Any]) -> list[LabelDocument]:
        """Return the labels of one job or one trajectory, valid or rejected."""
        run = item.get("trajectory")
        labels = self._labels_of_run(run) if run is not None else [self._label_of_job(item)]
        update = {"builder_version": self._rules_for(run), "campaigns": item.get("campaigns") or []}
        return [label.model_copy(update=update) for label in labels]

    def _label_of_job(self, item: dict[str, Any]) -> LabelDocument:
        outcome, at = item["outcome"], item["completed_at"]
        if is_task(outcome):
            outcome = outcome_of_task(outcome, f"task-{item['uuid']}", r2scan_protocol())
        limit = self.max_energy_jump_ev
        return label_from_outcome(
            outcome, item["frame"], item["uuid"], at, shift=item["shift"], max_jump_ev_per_atom=limit
        )

    def update_targets(self, items: list[list[LabelDocument]]) -> None:
        """Write labels; of two jobs for one label the better stays."""
        labels = [label for made in items for label in made]
        ids = [label.label_id for label in labels]
        known = {
            d["label_id"]: LabelDocument(**{k: v for k, v in d.items() if k != "_id"})
            for d in by_key(self.labels, "label_id", ids)
        }
        for label in labels:
            stored = known.get(label.label_id)
            alone = stored is None or label.source == "aimd"  # a step of a run has no second source
            kept = label if alone or stored is None else merge(stored, label)
            known[label.label_id] = kept.model_copy(update={"campaigns": label.campaigns})  # those it has, it keeps
        self.write("labels", [known[label_id] for label_id in dict.fromkeys(ids)], self.labels)

    def finalize(self) -> None:
        """Let labels join the campaigns of their frames and runs, if this run went through; let go of the stores."""
        if self._complete and self._scope() is not None:
            adopt_all_labels(Database.connect())
        super().finalize()

    def _built(self) -> tuple[set[tuple[str, str]], dict[str, list[_RunState]]]:
        """Return the jobs that labels remember, with their time, and of what state each AIMD run's labels are."""
        names = ("source", "source_uuid", "source_completed_at", "other_sources", "builder_version", "trajectory_id")
        fields = dict.fromkeys((*names, "provenance.stride", "provenance.n_labels"), 1) | {"_id": 0}
        jobs: set[tuple[str, str]] = set()
        runs: dict[str, list[_RunState]] = defaultdict(list)
        for label in self.labels.query({}, fields):
            if label.get("source") == "aimd":
                about = label.get("provenance") or {}
                state = (label.get("builder_version"), label.get("source_completed_at"))
                runs[str(label.get("trajectory_id"))].append((*state, about.get("stride"), about.get("n_labels")))
            elif label.get("builder_version") == self.rules:
                jobs.add((str(label.get("source_uuid")), str(label.get("source_completed_at") or "")))
                jobs.update((label.get("other_sources") or {}).items())
        return jobs, runs

    def _is_built(self, trajectory: Mapping[str, Any], labels: Sequence[_RunState]) -> bool:
        """Whether all labels of a run, as many as the first of them says, are there for its state and these rules."""
        now = (self._rules_for(trajectory), ended_at(trajectory), self.aimd_stride)
        found = [number for *state, number in labels if tuple(state) == now]
        return bool(found) and len(found) >= int(found[0] or 1)

    def _jobs(self, scope: Database | None, uuids: Iterable[str], shifts: Shifts) -> Iterator[dict[str, Any]]:
        documents = read_outputs(self.outputs, uuids)
        outputs = [d["output"] if isinstance(d.get("output"), dict) else {} for d in documents]
        ids = [o["frame_id"] for o in outputs if isinstance(o.get("frame_id"), str)]
        frames = frames_with_model(self.frames, self.trajectories, ids)
        for document, output in zip(documents, outputs, strict=True):
            frame_id = output.get("frame_id")
            frame = frames.get(frame_id) if isinstance(frame_id, str) else None
            yield {
                "campaigns": _members_of(scope, frame or _as_member(document)),
                "outcome": output,
                "frame": frame,
                "shift": shifts.expected(output, frame),
                "uuid": document["uuid"],
                "completed_at": str(document.get("completed_at", "")),
            }

    def _labels_of_run(self, trajectory: dict[str, Any]) -> list[LabelDocument]:
        try:
            frames: tuple[Frame, ...] = ()
            if trajectory.get("frames"):
                path = ArtifactStore(load_settings().artifact_url).local_path(ArtifactRef(**trajectory["frames"]))
                frames = tuple(read_frames(path))
            return labels_from_trajectory(trajectory, frames, self.aimd_stride, self.max_energy_jump_ev)
        except AqvoltError as error:
            failure = Failure(reason="missing_artifact", message=str(error))
            return [rejected_trajectory(trajectory, failure, self.aimd_stride)]


def _members(scope: Database | None, name: str) -> dict[str, Any]:
    return {} if scope is None else scope.members(name)


def _members_of(scope: Database | None, document: Mapping[str, Any]) -> list[str]:
    return list(document.get("campaigns") or []) if scope is None else scope.members_of(document)


def _as_member(output: dict[str, Any]) -> dict[str, Any]:
    """Return the campaigns of a job whose frame is not in the database, as a document of a collection has them."""
    about = (output.get("metadata") or {}).get("aqvolt") or {}
    return {"campaigns": about["campaigns"]} if about.get("campaigns") else {}
