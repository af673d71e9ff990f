"""``aqvolt candidates lithiate`` and ``substitute``: structures made from those at hand."""

from __future__ import annotations

import typer

from aqvolt_launch.cli.candidates import candidates
from aqvolt_launch.cli.options import CampaignOption, Json, Limit, RerunFailed
from aqvolt_launch.cli.stages import submit


@candidates.command("lithiate", epilog="Example: aqvolt candidates lithiate --limit 1, after aqvolt plan lithiate")
def lithiate(
    campaign: CampaignOption = None, limit: Limit = None, rerun_failed: RerunFailed = False, as_json: Json = False
) -> None:
    """Submit the stuffing of the pool's empty hosts with Li; 'aqvolt work' runs it."""
    submit("lithiate", campaign=campaign, limit=limit, rerun_failed=rerun_failed, as_json=as_json)


@candidates.command("substitute", epilog="Example: aqvolt candidates substitute, after aqvolt plan substitute")
def substitute(
    campaign: CampaignOption = None, limit: Limit = None, rerun_failed: RerunFailed = False, as_json: Json = False
) -> None:
    """Submit the replacement of halogens (F by Cl, Br, I) in the pool's structures; 'aqvolt work' runs it."""
    submit("substitute", campaign=campaign, limit=limit, rerun_failed=rerun_failed, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add nothing: importing this module added the commands to ``aqvolt candidates``."""
