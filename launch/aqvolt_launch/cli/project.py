"""``aqvolt init`` and ``aqvolt doctor``: set a project folder up, and see whether all is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, CampaignOption, Json


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: aqvolt init halides --campaign aqvolt26")(init)
    app.command(epilog="Example: aqvolt doctor --json")(doctor)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The project folder; made if it is not there.")
    ] = Path(),
    campaign: Annotated[str | None, typer.Option(help="Campaign file, or the name of a shipped one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
    as_json: Json = False,
) -> None:
    """Write aqvolt.yaml, and the files with which lpad, rlaunch, qlaunch (SLURM), jobflow and atomate2 join in.

    Running it again changes nothing; files that you changed are not overwritten. No password is written.
    """
    from aqvolt_launch.project.folder import init_project

    rows = init_project(folder, force=force, campaign=campaign)
    output.table(rows, as_json, title="Project folder")
    if not as_json:
        output.say("Next: 'aqvolt db start' (or set AQVOLT_MONGO_URI), then 'aqvolt doctor'.")


def doctor(
    campaign: CampaignOption = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Check database, artifact store, potentials, VASP and its POTCARs, GPAW and GPU.

    Exit code 1 if something is missing that the configured campaign needs.
    """
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.project.doctor import examine

    checks = examine(load_settings(), campaign, all_campaigns)
    output.table([check.as_dict() for check in checks], as_json, title="Doctor")
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
