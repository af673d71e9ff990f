"""``aqvolt loop …``: a closed loop of exploring, doubting, labeling and training."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import CampaignOption, Json

looped = typer.Typer(
    help="The closed loop: explore, doubt, label, train, again, until new labels teach nothing.", no_args_is_help=True
)


def _loaded(campaign: str | None) -> tuple[Any, Any]:
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import campaign_for

    settings = load_settings()
    return settings, campaign_for(settings, campaign)


@looped.command("plan", epilog="Example: aqvolt loop plan")
def plan(campaign: CampaignOption = None, as_json: Json = False) -> None:
    """Show what the next tick would submit. Changes nothing."""
    from aqvolt_launch import loop

    rows = loop.plan(*_loaded(campaign))
    if as_json:
        output.emit(rows)
        return
    output.table([{"what": k.replace("_", " "), "value": v} for k, v in rows.items()], title="Loop")


@looped.command("start", epilog="Example: aqvolt loop start, then aqvolt loop tick --watch 60")
def start(campaign: CampaignOption = None, as_json: Json = False) -> None:
    """Begin the loop of a campaign: check it and write its first round. Starting twice is starting once."""
    from aqvolt_launch import loop

    document = loop.start(*_loaded(campaign))
    if as_json:
        output.emit(document.row() | {"loop": document.loop})
        return
    output.say(
        f"Loop {document.loop} is at round {document.round}; run 'aqvolt loop tick' and 'aqvolt work', by turns."
    )


@looped.command("tick", epilog="Example: aqvolt loop tick (from cron), or aqvolt loop tick --watch 60")
def tick(
    campaign: CampaignOption = None,
    watch: Annotated[
        float | None,
        typer.Option(help="Tick again every so many seconds until the loop is held or done.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at the database, submit what is next, and end. Ticking twice is ticking once."""
    from aqvolt_flows.errors import InputError
    from aqvolt_launch import loop

    if watch is not None and watch <= 0:
        raise InputError(f"--watch {watch:g} was given; expected seconds above 0 between two ticks.")
    loaded = _loaded(campaign)
    while True:
        found = loop.tick(*loaded)
        if as_json:
            output.emit(found.as_dict())
        else:
            output.say(f"{found.loop} round {found.round}, {found.status}: {found.said}")
        if watch is None or found.over:
            break
        time.sleep(watch)
    if found.status == "held":
        raise typer.Exit(1)


@looped.command("status", epilog="Example: aqvolt loop status --json")
def status(campaign: CampaignOption = None, as_json: Json = False) -> None:
    """Show every round: where it stands, its labels, costs, errors and the decision after it."""
    from aqvolt_launch import loop

    output.table(loop.status(*_loaded(campaign)), as_json, title="Rounds")


@looped.command("stop", epilog="Example: aqvolt loop stop")
def stop(campaign: CampaignOption = None, as_json: Json = False) -> None:
    """End the loop where it stands; queued jobs run on."""
    from aqvolt_launch import loop

    document = loop.stop(*_loaded(campaign))
    if as_json:
        output.emit(document.row())
        return
    output.say(f"Loop {document.loop} is stopped in round {document.round}; 'aqvolt loop retry' lets it go on.")


@looped.command("retry", epilog="Example: aqvolt loop retry, then aqvolt loop tick")
def retry(campaign: CampaignOption = None, as_json: Json = False) -> None:
    """Let a held or stopped loop go on; the next tick runs failed jobs again."""
    from aqvolt_launch import loop

    document = loop.retry(*_loaded(campaign))
    if as_json:
        output.emit(document.row())
        return
    output.say(f"Loop {document.loop} goes on with {document.step} of round {document.round} at the next tick.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(looped, name="loop")
