"""``aqvolt work``, ``aqvolt status``, ``aqvolt reconcile``: run what was submitted, and see how it stands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, Json, OneCampaign

if TYPE_CHECKING:
    from aqvolt_flows.settings import AqvoltSettings

_HELD = ("kind", "what", "reason", "message", "since")
_TRAINING = ("model_id", "stage", "step", "loss", "E meV/atom", "F meV/Å")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: aqvolt work --category gpu --until-empty")(work)
    app.command(epilog="Example: aqvolt status --watch")(status)
    app.command(epilog="Example: aqvolt reconcile --dry-run")(reconcile)


def work(
    category: Annotated[str | None, typer.Option(help="Run only Fireworks of this category: cpu, gpu or vasp.")] = None,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="Stop when nothing is left to run.")] = False,
    max_launches: Annotated[int | None, typer.Option(min=1, help="Stop after this many Fireworks.")] = None,
    exit_with_parent: Annotated[
        bool,
        typer.Option(
            "--exit-with-parent", help="End, children included, when the process that started this worker ends."
        ),
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds after SIGTERM for a checkpoint before the job is handed back.")
    ] = 15.0,
    as_json: Json = False,
) -> None:
    """Run queued jobs on this machine; first recover jobs whose worker was killed here.

    Each runs in a folder of its own under launch_dir, with its output in FW_job.out and FW_job.error.
    On a cluster, use FireWorks' qlaunch with the my_qadapter.yaml that 'aqvolt init' wrote.
    """
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch import workers

    report = workers.work(
        load_settings(),
        category,
        until_empty=until_empty,
        exit_with_parent=exit_with_parent,
        max_launches=max_launches,
        grace_s=grace,
    )
    if as_json:
        output.emit(report.as_dict())
        return
    recovered = f", {report.recovered} lost runs recovered" if report.recovered else ""
    output.say(f"{report.completed} completed, {report.fizzled} fizzled{recovered}, {report.seconds:.1f} s.")
    if report.fizzled:
        output.say("See 'aqvolt status' for the reasons.")
    if report.refused:
        output.say(
            f"{report.refused} jobs were left because they must not or cannot run here; 'aqvolt doctor' says why."
        )


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every few seconds until interrupted.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks of --watch.")] = 5.0,
    campaign: OneCampaign = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Show how far each stage is, at what rate, what it has taken, and failures with their reasons.

    Rates are of the last hour. Hours are of workers and include attempts that failed or were lost; what a label took
    comes from 'aqvolt build costs'.
    """
    import time

    from rich.console import Console

    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import view_of
    from aqvolt_launch.project.status import collect_status

    settings = load_settings()
    while True:
        found = collect_status(settings, database=view_of(settings, campaign, all_campaigns))
        if as_json:
            output.emit(found)
        else:
            if watch:
                Console().clear()
            _show(found)
        if not watch:
            return
        time.sleep(interval)


def _show(found: dict[str, Any]) -> None:
    output.table([_progress_row(row) for row in found["progress"]], title=f"Stages of {', '.join(found['campaigns'])}")
    if found["costs"]:
        output.table([_cost_row(row) for row in found["costs"]], title="Costs, as of the last 'aqvolt build costs'")
    output.table([row for row in found["collections"] if row["documents"]], title="Documents")
    if found["reasons"]:
        output.table(found["reasons"], title="Failures, by reason")
    if found["training"]:
        output.table(found["training"], title="Trainings on this machine", columns=_TRAINING)
    if found["held"]:
        output.table(found["held"], title="Held ('aqvolt hold lift NAME' resumes it)", columns=_HELD)
    if found["fizzled"]:
        output.table(found["fizzled"], title="Fizzled jobs", columns=("fw_id", "stage", "name", "reason", "folder"))


def _progress_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a table: what can be read at a glance."""
    lost = (
        f"{row['attempts_lost']} of {row['attempts']}, {row['core_hours_lost']:.3g} h" if row["attempts_lost"] else ""
    )
    return {
        **{name: row[name] for name in ("stage", "waiting", "running", "done", "failed", "per_hour")},
        "time left": _hours(row["eta_h"]),
        "core-hours": row["core_hours"],
        "GPU-hours": row["gpu_hours"],
        "failed attempts": lost,
    }


def _cost_row(row: dict[str, Any]) -> dict[str, Any]:
    forecast, actual = row.get("forecast_core_hours"), row.get("forecast_actual")
    return {
        "stage": row["stage"],
        "documents": row["n_documents"],
        "failed": row["n_failed"],
        "hours": row["core_hours"],
        "per valid": row.get("per_valid"),
        "per environment": row.get("per_environment"),
        "forecast / actual": f"{forecast:.4g} / {actual:.4g}" if forecast and actual else None,
        "as of": row.get("last_updated"),
    }


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"


def _again_and_again(settings: AqvoltSettings, every: float, dry_run: bool, check_files: bool) -> None:
    """Reconcile until interrupted, one line each time; a database that is away is waited for."""
    import time

    from pymongo.errors import PyMongoError

    from aqvolt_flows.errors import DatabaseError
    from aqvolt_launch.repair.elsewhere import Watcher
    from aqvolt_launch.repair.reconcile import reconcile as run

    watcher = Watcher(settings)
    while True:
        try:
            lost = [d["fw_id"] for d in watcher.lost()] if dry_run else watcher.rerun()
            report = run(settings, dry_run=dry_run, check_files=check_files, hold_silent=False)
            found = {k: len(v) for k, v in report.as_dict().items() if isinstance(v, list) and v}
            found |= {"lost_elsewhere": len(lost)} if lost else {}
            said = ", ".join(f"{k.replace('_', ' ')} {n}" for k, n in found.items()) or "all agrees"
        except (DatabaseError, PyMongoError) as error:
            said = f"waits for the database: {error}"
        output.say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {said}")
        sys.stdout.flush()
        time.sleep(every)


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    check_files: Annotated[
        bool, typer.Option(help="Ask the artifact store for every file that documents name.")
    ] = True,
    every: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Do it again after so many seconds, until interrupted, and rerun jobs of other machines that gave no "
            "sign of life for half an hour.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare LaunchPad, launch folders and store; repair what is certain, hold the rest. Look with --dry-run first."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.repair.reconcile import reconcile as run

    if every is not None:
        _again_and_again(load_settings(), every, dry_run, check_files)
        return
    report = run(load_settings(), dry_run=dry_run, check_files=check_files)
    if as_json:
        output.emit(report.as_dict())
        return
    would = "would be " if dry_run else ""
    others = sum(report.recovered.values()) - len(report.lost) if report.recovered else 0
    rows: list[tuple[str, Any, str]] = [
        ("runs lost with their worker", report.lost, f"{would}completed from their result, or rerun"),
        ("other leftovers of killed workers", max(others, 0), f"{would}repaired"),
        ("running elsewhere without a heartbeat", report.silent, f"{would}held"),
        ("completed without output", report.without_output, f"{would}made from VASP's files, or rerun"),
        ("queued although labelled", report.labelled_already, f"{would}removed"),
        ("queued without a frame", report.without_frame, f"{would}removed"),
        ("Fireworks without a workflow", report.orphans, f"{would}removed"),
        ("workflows without Fireworks", report.empty_workflows, f"{would}removed; submit again"),
        ("workflows with missing Fireworks", report.broken, f"{would}held; delete and submit again"),
        ("frames without their file", report.frames_without_file, f"{would}held"),
        ("outputs without their raw files", report.outputs_without_file, f"{would}held"),
        ("launch folders of no launch", report.unknown_folders, "named with --json"),
        ("fizzled jobs", report.fizzled, "listed; submit with --rerun-failed"),
    ]
    table = [
        {"found": what, "number": found if isinstance(found, int) else len(found), "done": done}
        for what, found, done in rows
    ]
    output.table(table, title="Reconciled" if not dry_run else "Dry run: nothing was changed")
    if report.broken:
        output.say("Workflows with missing Fireworks: " + ", ".join(report.broken))
    if report.fizzled:
        output.table(report.fizzled, title="Fizzled jobs", columns=("fw_id", "stage", "name", "reason", "folder"))
