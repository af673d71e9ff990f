"""``aqvolt report``: the campaign as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, OneCampaign


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: aqvolt report --out report.html")(report)


def report(
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; by default report.html in the folder.")
    ] = None,
    campaign: OneCampaign = None,
    all_campaigns: AllCampaigns = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print path, hash and size as JSON.")] = False,
) -> None:
    """Write the campaign report, one HTML page that needs no network."""
    from aqvolt_flows.figures.report import DEFAULT_NAME, build_report
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import view_of

    database = view_of(load_settings(), campaign, all_campaigns)
    info = build_report(database, out or database.settings.path(DEFAULT_NAME))
    if as_json:
        output.emit({"path": str(info.path), "sha256": info.sha256, "bytes": info.bytes, "changed": info.changed})
    else:
        output.say(f"{info.path} ({info.bytes / 1000:,.0f} kB, {'written' if info.changed else 'unchanged'})")
