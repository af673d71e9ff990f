"""``aqvolt work``, ``aqvolt status``, ``aqvolt reconcile``: run what was submitted, and see how it stands."""

from __future__ import annotations

from typing import Any

import typer

from aqvolt_launch.cli import output

_HELD = ("kind", "what", "reason", "message", "since")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: aqvolt work --category gpu --until-empty")(work)
    app.command(epilog="Example: aqvolt status --watch")(status)
    app.command(epilog="Example: aqvolt reconcile --dry-run")(reconcile)


def work(
    category: str | None = typer.Option(None, help="Run only Fireworks of this category: cpu, gpu or vasp."),
    until_empty: bool = typer.Option(False, "--until-empty", help="Stop when nothing is left to run."),
    max_launches: int | None = typer.Option(None, min=1, help="Stop after so many Fireworks."),
    exit_with_parent: bool = typer.Option(
        False, "--exit-with-parent", help="End, children included, when the process that started this worker ends."
    ),
    as_json: bool = typer.Option(False, "--json", help=output.JSON_HELP),
) -> None:
    """Run submitted Fireworks here, after putting right what killed workers of this machine left.

    Each runs in a folder of its own under launch_dir, with its output in FW_job.out and FW_job.error.
    On a cluster, use FireWorks' qlaunch with the my_qadapter.yaml that 'aqvolt init' wrote.
    """
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch import workers

    report = workers.work(
        load_settings(), category, until_empty=until_empty, exit_with_parent=exit_with_parent, max_launches=max_launches
    )
    if as_json:
        output.emit(report.as_dict())
        return
    recovered = f", {report.recovered} lost runs put right" if report.recovered else ""
    output.say(f"{report.completed} completed, {report.fizzled} fizzled{recovered}, {report.seconds:.1f} s.")
    if report.fizzled:
        output.say("See 'aqvolt status' for the reasons.")


def status(
    watch: bool = typer.Option(False, "--watch", help="Show it again every few seconds until interrupted."),
    interval: float = typer.Option(5.0, min=0.5, help="Seconds between two looks of --watch."),
    as_json: bool = typer.Option(False, "--json", help=output.JSON_HELP),
) -> None:
    """Show Fireworks per stage and state, documents per collection, and failures with their reasons."""
    import time

    from rich.console import Console

    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.status import collect_status

    settings = load_settings()
    while True:
        found = collect_status(settings)
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
    output.table(found["stages"], title="Fireworks")
    output.table([row for row in found["collections"] if row["documents"]], title="Documents")
    if found["reasons"]:
        output.table(found["reasons"], title="Failures, by reason")
    if found["held"]:
        output.table(found["held"], title="Held ('aqvolt hold lift NAME' lets it go on)", columns=_HELD)
    if found["fizzled"]:
        output.table(found["fizzled"], title="Fizzled jobs", columns=("fw_id", "stage", "name", "reason", "folder"))


def reconcile(
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be done."),
    as_json: bool = typer.Option(False, "--json", help=output.JSON_HELP),
) -> None:
    """Rerun lost runs and finished work without a result, remove leftovers, and name what failed."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.reconcile import reconcile as run

    report = run(load_settings(), dry_run=dry_run)
    if as_json:
        output.emit(report.as_dict())
        return
    would = "would be " if dry_run else ""
    rows = [
        {"found": "runs lost with their worker", "number": len(report.lost), "done": f"{would}rerun"},
        {
            "found": "other leftovers of killed workers",
            "number": sum(report.recovered.values()) - len(report.lost) if report.recovered else 0,
            "done": f"{would}put right",
        },
        {"found": "Fireworks without a workflow", "number": len(report.orphans), "done": f"{would}removed"},
        {"found": "completed without output", "number": len(report.without_output), "done": f"{would}rerun"},
        {"found": "workflows with missing Fireworks", "number": len(report.broken), "done": "delete and submit again"},
        {"found": "fizzled jobs", "number": len(report.fizzled), "done": "listed; submit with --rerun-failed"},
    ]
    output.table(rows, title="Reconciled" if not dry_run else "Dry run: nothing was changed")
    if report.broken:
        output.say("Workflows with missing Fireworks: " + ", ".join(report.broken))
    if report.fizzled:
        output.table(report.fizzled, title="Fizzled jobs", columns=("fw_id", "stage", "name", "reason", "folder"))
