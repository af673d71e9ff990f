"""``aqvolt init`` and ``aqvolt doctor``: set a project folder up, and see whether all is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere
from aqvolt_launch.cli.options import AllCampaigns, CampaignOption, Json


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: aqvolt init sulfides --campaign sulfide --template laptop")(init)
    app.command(epilog="Example: aqvolt doctor --json")(doctor)


@anywhere
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The project folder; made if it is not there.")
    ] = Path(),
    campaign: Annotated[
        str | None,
        typer.Option(
            "--campaign",
            help="Copy this campaign into the folder to edit it: aqvolt26, sulfide, demo, or a file. Without: "
            "aqvolt26 as shipped.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="slurm: with the files for qlaunch, VASP and GPU workers (default). laptop: only what runs here.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
    as_json: Json = False,
) -> None:
    """Write aqvolt.yaml, and the files with which lpad, rlaunch, qlaunch (SLURM), jobflow and atomate2 join in.

    Running it again changes nothing; files that you changed are not overwritten. No password is written.
    """
    from aqvolt_flows.settings import CONFIG_NAME, load_settings
    from aqvolt_launch.project.folder import campaign_copy, init_project

    rows = init_project(folder, force=force, campaign=campaign, template=template, copy_campaign=True)
    output.table(rows, as_json, title="Project folder")
    if as_json:
        return
    named = load_settings(folder / CONFIG_NAME).campaign
    copied = next(iter(campaign_copy(folder.resolve(), campaign)), None) if campaign else None
    if copied is not None and named != copied:
        output.say(
            f"But your {CONFIG_NAME} names the campaign {named}; write 'campaign: {copied}' there to use the copy."
        )
    elif copied is not None:
        output.say(
            f"Edit {folder / copied}; 'aqvolt campaign show KEY' explains a key, 'aqvolt campaign check' reads it."
        )
    there = "" if folder.resolve() == Path.cwd() else f"'cd {folder}', "
    output.say(f"Next: {there}'aqvolt db start' (or set AQVOLT_MONGO_URI), then 'aqvolt doctor'.")


def doctor(
    campaign: CampaignOption = None,
    all_campaigns: AllCampaigns = False,
    role: Annotated[
        str,
        typer.Option(
            "--for", help="What this machine is for: all, submit, cpu, gpu or vasp; other needs are warnings."
        ),
    ] = "all",
    as_json: Json = False,
) -> None:
    """Check database, artifact store, potentials, VASP and its POTCARs, GPAW and GPU.

    Exit code 1 if something is missing that the configured campaign needs.
    """
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.project.doctor import examine

    checks = examine(load_settings(), campaign, all_campaigns, role)
    output.table([check.as_dict() for check in checks], as_json, title="Doctor")
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
