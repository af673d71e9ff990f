"""``aqvolt candidates lithiate`` and ``substitute``: structures made from those at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from aqvolt_launch.cli.candidates import candidates
from aqvolt_launch.cli.stages import CampaignOption, Json, submit

Limit = Annotated[int | None, typer.Option("--limit", help="Maximum number of batches to submit.", show_default=False)]
Rerun = Annotated[bool, typer.Option("--rerun-failed", help="Run failed batches again.")]


@candidates.command("lithiate")
def lithiate(
    campaign: CampaignOption = None, limit: Limit = None, rerun_failed: Rerun = False, json: Json = False
) -> None:
    """Submit the stuffing of the pool's empty hosts with Li; 'aqvolt work' runs it.

    Example: [bold]aqvolt candidates lithiate --limit 1[/bold], after [bold]aqvolt plan lithiate[/bold]
    """
    submit("lithiate", campaign=campaign, limit=limit, rerun_failed=rerun_failed, json=json)


@candidates.command("substitute")
def substitute(
    campaign: CampaignOption = None, limit: Limit = None, rerun_failed: Rerun = False, json: Json = False
) -> None:
    """Submit the replacement of halogens (F by Cl, Br, I) in the pool's structures; 'aqvolt work' runs it.

    Example: [bold]aqvolt candidates substitute[/bold], after [bold]aqvolt plan substitute[/bold]
    """
    submit("substitute", campaign=campaign, limit=limit, rerun_failed=rerun_failed, json=json)


def register(app: typer.Typer) -> None:
    """Add nothing: importing this module added the commands to ``aqvolt candidates``."""
