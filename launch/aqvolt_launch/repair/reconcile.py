"""Reconciliation: make the LaunchPad, the launch folders and the store agree after whatever happened.

What is certain is repaired, what is not is held (``aqvolt hold list``) or named; a dry run says what would be done.

==========================================================  ==================================================
found                                                       done
==========================================================  ==================================================
a run whose worker on this host is gone                     completed from its output or VASP's files, else rerun
a run elsewhere without a heartbeat                         held: its node may be gone, or only cut off
a Firework that is COMPLETED without an output              made from VASP's files in its folder, else rerun
a queued Firework whose label has an outcome                removed, it would compute it again
a queued Firework whose frame is gone                       removed, it could only fail
a Firework without a workflow (killed submission)           removed
a workflow without any Firework (killed submission)         removed, the next submission makes it anew
a workflow that lacks some of its Fireworks                 held
a frame whose file is not in the artifact store             held: it is not planned until it is back
an output whose raw files are not in the artifact store     held; its label stays
a launch folder that no launch knows                        named
==========================================================  ==================================================

A Firework that was launched before is never removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from aqvolt_flows.labeling.spec import label_spec
from aqvolt_flows.quarantine import guarded
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import KEY_FIELD, ensure_launchpad, fizzled, rerun
from aqvolt_launch.processes import is_dead
from aqvolt_launch.repair.lost_runs import lost_launches, recover_dead
from aqvolt_launch.repair.salvage import settle
from aqvolt_launch.submission.holds import hold

if TYPE_CHECKING:
    from fireworks import LaunchPad

#: A Firework without a workflow may belong to a submission in progress; older ones do not.
ORPHAN_AGE = timedelta(minutes=10)
#: FireWorks pings every hour by default and calls a run lost after four (RUN_EXPIRATION_SECS).
SILENT_AFTER = timedelta(hours=4)
_BATCH = 1000
_QUEUED = ("READY", "PAUSED", "WAITING")


@dataclass(frozen=True)
class ReconcileReport:
    """What was found and, unless it was a dry run, repaired.

    Attributes
    ----------
    dry_run
        Nothing was changed.
    lost
        Fireworks whose worker on this host is gone; completed or rerun.
    recovered
        All that :func:`aqvolt_launch.repair.lost_runs.recover_dead` repaired, by kind; empty in a dry run.
    orphans
        Fireworks without a workflow, left by a killed submission; removed.
    broken
        Keys of workflows with missing Fireworks; held: remove one with ``lpad delete_wflows`` and submit again.
    without_output
        Fireworks that are COMPLETED while ``outputs`` has no document of theirs; salvaged or rerun.
    fizzled
        Fireworks whose job raised, with the exception's last line; only reported.
    salvaged
        Of ``without_output``, those whose output was made from the files in their folder.
    silent
        Fireworks that run on another host without a heartbeat; held.
    labelled_already
        Queued Fireworks whose label has an outcome; removed.
    without_frame
        Queued label Fireworks whose frame is gone; removed.
    empty_workflows
        Keys of workflows without any Firework; removed.
    frames_without_file
        Frames whose artifact is missing; held.
    outputs_without_file
        Jobs (uuid) whose raw files are missing; held.
    unknown_folders
        Launch folders that no launch knows; only reported.
    """

    dry_run: bool
    lost: list[int]
    recovered: dict[str, int]
    orphans: list[int]
    broken: list[str]
    without_output: list[int]
    fizzled: list[dict[str, Any]] = field(default_factory=list)
    salvaged: list[int] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    labelled_already: list[int] = field(default_factory=list)
    without_frame: list[int] = field(default_factory=list)
    empty_workflows: list[str] = field(default_factory=list)
    frames_without_file: list[str] = field(default_factory=list)
    outputs_without_file: list[str] = field(default_factory=list)
    unknown_folders: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a mapping."""
        return asdict(self)


def reconcile(
    settings: AqvoltSettings, dry_run: bool = False, check_files: bool = True, hold_silent: bool = True
) -> ReconcileReport:
    """Find what does not agree, repair what is certain and hold the rest.

    Parameters
    ----------
    settings
        Which database.
    dry_run
        Only look.
    check_files
        Ask the artifact store for every file; slow on a remote one.
    hold_silent
        Hold runs of other machines without a heartbeat; not where somebody watches them
        (:mod:`aqvolt_launch.repair.elsewhere`).
    """
    database = Database.connect(settings)
    launchpad = ensure_launchpad(settings)
    return guarded(lambda: _reconcile(database, launchpad, dry_run, check_files, hold_silent), lambda: database)


def _reconcile(
    database: Database, launchpad: LaunchPad, dry_run: bool, check_files: bool, hold_silent: bool
) -> ReconcileReport:
    settings = database.settings
    lost = sorted(launch["fw_id"] for launch in lost_launches(launchpad))
    recovered = {} if dry_run else recover_dead(settings).as_dict()
    orphans, broken, empty = _unmatched(launchpad)
    without_output = _without_output(launchpad, database)
    labelled, frameless = _needless(launchpad, database)
    report = ReconcileReport(
        dry_run,
        lost,
        recovered,
        orphans,
        broken,
        without_output,
        fizzled(launchpad),
        silent=_silent(launchpad) if hold_silent else [],
        labelled_already=labelled,
        without_frame=frameless,
        empty_workflows=sorted(empty),
        frames_without_file=_frames_without_file(database) if check_files else [],
        outputs_without_file=_outputs_without_file(database) if check_files else [],
        unknown_folders=_unknown_folders(launchpad, settings),
    )
    if not dry_run:
        _repair(launchpad, database, report, empty)
        _hold(database, report)
    return report


def _repair(launchpad: LaunchPad, database: Database, report: ReconcileReport, empty: dict[str, Any]) -> None:
    if report.orphans:
        launchpad.fireworks.delete_many({"fw_id": {"$in": report.orphans}, "state": "WAITING"})
    if empty:
        launchpad.workflows.delete_many({"_id": {"$in": list(empty.values())}})
    for fw_id in report.without_output:
        if settle(launchpad, database, fw_id):
            report.salvaged.append(fw_id)
        else:
            rerun(launchpad, fw_id, states=("COMPLETED",))
    for fw_id in [*report.labelled_already, *report.without_frame]:
        _remove(launchpad, fw_id)


def _remove(launchpad: LaunchPad, fw_id: int) -> None:
    """Remove a Firework that never ran, with its workflow; one that is checked out meanwhile stays."""
    query = {"fw_id": fw_id, "state": {"$in": _QUEUED}, "launches": [], "archived_launches": []}
    if launchpad.fireworks.delete_one(query).deleted_count:
        launchpad.workflows.delete_one({"nodes": [fw_id]})


def _hold(database: Database, report: ReconcileReport) -> None:
    for key in report.broken:
        message = "Its workflow lacks Fireworks; remove it with lpad delete_wflows and submit again."
        hold(database, "firework", key, "missing_fireworks", message)
    for fw_id in report.silent:
        message = "It runs on another host without a heartbeat; 'aqvolt reconcile --every 600' reruns it."
        hold(database, "firework", str(fw_id), "no_heartbeat", message)
    for frame_id in report.frames_without_file:
        hold(database, "frame", frame_id, "missing_artifact", "Its file is not in the artifact store; restore it.")
    for uuid in report.outputs_without_file:
        hold(database, "output", uuid, "missing_artifact", "Its raw files are not in the artifact store.")


def _unmatched(launchpad: LaunchPad) -> tuple[list[int], list[str], dict[str, Any]]:
    """Return what a killed submission left.

    Fireworks of ours without a workflow; keys of workflows of ours that lack some Fireworks; key → ``_id`` of those
    that lack all, and are old enough not to be of a submission in progress.
    """
    expected: dict[int, str] = {}
    untouched: dict[str, tuple[Any, list[int]]] = {}
    fields = {"nodes": 1, KEY_FIELD: 1, "state": 1}
    for workflow in launchpad.workflows.find({KEY_FIELD: {"$exists": True}}, fields):
        key = workflow["metadata"]["aqvolt"]["key"]
        expected |= dict.fromkeys(workflow["nodes"], key)
        if workflow["state"] in _QUEUED:
            untouched[key] = workflow["_id"], workflow["nodes"]
    young = ObjectId.from_datetime(utc_now() - ORPHAN_AGE)
    orphans = []
    present = set()
    for firework in launchpad.fireworks.find({"spec.aqvolt.key": {"$exists": True}}, {"fw_id": 1, "state": 1}):
        present.add(firework["fw_id"])
        if firework["fw_id"] not in expected and firework["state"] == "WAITING" and firework["_id"] < young:
            orphans.append(firework["fw_id"])
    incomplete = {expected[fw_id] for fw_id in expected.keys() - present}
    never_there = {k: i for k, (i, nodes) in untouched.items() if k in incomplete and not present & set(nodes)}
    empty = {key: identity for key, identity in never_there.items() if identity < young}
    return sorted(orphans), sorted(incomplete - never_there.keys()), empty


def _without_output(launchpad: LaunchPad, database: Database) -> list[int]:
    """Return COMPLETED Fireworks of ours whose job (uuid and index) has no document in ``outputs``."""
    fields = {"fw_id": 1, "spec._tasks.job.uuid": 1, "spec._tasks.job.index": 1}
    missing = []
    cursor = launchpad.fireworks.find({"state": "COMPLETED", "spec.aqvolt.key": {"$exists": True}}, fields)
    for batch in batched(cursor, _BATCH):
        jobs = {}
        for firework in batch:
            job = firework["spec"]["_tasks"][0].get("job", {})
            jobs[firework["fw_id"]] = (job.get("uuid"), job.get("index", 1))
        query = {"uuid": {"$in": [uuid for uuid, _ in jobs.values()]}}
        found = {(d["uuid"], d["index"]) for d in database["outputs"].find(query, {"uuid": 1, "index": 1})}
        missing += [fw_id for fw_id, job in jobs.items() if job not in found]
    return sorted(missing)


def _needless(launchpad: LaunchPad, database: Database) -> tuple[list[int], list[int]]:
    """Return queued label Fireworks, never launched: those with an outcome already, and those without a frame."""
    query = {"spec.aqvolt.stage": "label", "state": {"$in": _QUEUED}, "launches": [], "archived_launches": []}
    fields = {"fw_id": 1, "spec.aqvolt": 1, "spec._tasks.job.function_args": 1}
    labelled, frameless = [], []
    for batch in batched(launchpad.fireworks.find(query, fields), _BATCH):
        keys = {f["spec"]["aqvolt"]["key"]: f["fw_id"] for f in batch}
        done = database["outputs"].find({"metadata.aqvolt.key": {"$in": list(keys)}}, {"metadata.aqvolt.key": 1})
        known = {d["metadata"]["aqvolt"]["key"] for d in done}
        labelled += [fw_id for key, fw_id in keys.items() if key in known]
        said = {f["fw_id"]: label_spec(f["spec"]) for f in batch if f["spec"]["aqvolt"]["key"] not in known}
        frames = {fw_id: about.frame_id for fw_id, about in said.items() if about}
        wanted = sorted(set(frames.values()))
        there = {d["frame_id"] for d in database["frames"].find({"frame_id": {"$in": wanted}}, {"frame_id": 1})}
        frameless += [fw_id for fw_id, frame_id in frames.items() if frame_id not in there]
    return sorted(labelled), sorted(frameless)


def _silent(launchpad: LaunchPad) -> list[int]:
    """Return running Fireworks that this host cannot judge and that gave no sign of life for :data:`SILENT_AFTER`."""
    limit = datetime.now(UTC) - SILENT_AFTER
    fields = {"fw_id": 1, "fworker.name": 1, "state_history": 1}
    return sorted(
        launch["fw_id"]
        for launch in launchpad.launches.find({"state": "RUNNING"}, fields)
        if is_dead(launch["fworker"]["name"]) is None and _last_sign(launch) < limit
    )


def _last_sign(launch: dict[str, Any]) -> datetime:
    times = [entry.get("updated_on") or entry.get("created_on") for entry in launch.get("state_history", ())]
    found = [datetime.fromisoformat(t) if isinstance(t, str) else t for t in times if t is not None]
    return max((t.replace(tzinfo=t.tzinfo or UTC) for t in found), default=datetime(1970, 1, 1, tzinfo=UTC))


def _frames_without_file(database: Database) -> list[str]:
    found = database["frames"].find({}, {"frame_id": 1, "artifact": 1})
    return sorted(_missing(database, ((d["frame_id"], d["artifact"]) for d in found)))


def _outputs_without_file(database: Database) -> list[str]:
    query = {"output.raw.sha256": {"$exists": True}}
    found = database["outputs"].find(query, {"uuid": 1, "output.raw": 1})
    return sorted(_missing(database, ((d["uuid"], d["output"]["raw"]) for d in found)))


def _missing(database: Database, pairs: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield the names whose file is not in the artifact store with its full size; each file is asked for once."""
    known: dict[str, bool] = {}
    for name, artifact in pairs:
        reference = ArtifactRef(**artifact)
        if reference.path not in known:
            known[reference.path] = database.artifacts.exists(reference)
        if not known[reference.path]:
            yield name


def _unknown_folders(launchpad: LaunchPad, settings: AqvoltSettings) -> list[str]:
    """Return folders of FireWorks' naming below launch_dir that no launch names."""
    root = settings.path(settings.launch_dir)
    if not root.is_dir():
        return []
    folders = {str(path) for path in root.rglob("launcher_*") if path.is_dir() and path.name.count("-") >= 5}
    known = {d["launch_dir"] for d in launchpad.launches.find({}, {"launch_dir": 1})} if folders else set()
    return sorted(folders - known)
