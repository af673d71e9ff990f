"""``aqvolt campaign``: which campaigns there are, whether a file is right, and what its parameters mean."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere
from aqvolt_launch.cli.options import CampaignOption, Json

campaigns = typer.Typer(help="Campaign files: list, explain, check.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(campaigns, name="campaign")


@campaigns.command("list", epilog="Example: aqvolt campaign list")
@anywhere
def list_campaigns(as_json: Json = False) -> None:
    """List the campaigns that are shipped; 'aqvolt init DIR --campaign NAME' copies one to edit."""
    from aqvolt_flows.campaign import load_campaign, shipped_campaigns

    rows = [{"name": name, "description": load_campaign(name).description} for name in shipped_campaigns()]
    output.table(rows, as_json, title="Shipped campaigns")


@campaigns.command(epilog="Example: aqvolt campaign show exploration.temperatures_k")
@anywhere
def show(
    key: Annotated[
        str,
        typer.Argument(help="A parameter, a group such as 'sampling', or nothing: all of them.", show_default=False),
    ] = "",
    campaign: CampaignOption = None,
    as_json: Json = False,
) -> None:
    """Explain parameters: value, default, unit, limits, meaning, and where in the paper the number is."""
    from aqvolt_flows.campaign_keys import parameters_below, value_at
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import campaign_for

    found = parameters_below(key)
    chosen = campaign_for(load_settings(), campaign)
    rows = [{**p.as_dict(), "value": None if p.group else value_at(chosen, p.key)} for p in found]
    if as_json:
        output.emit({"campaign": chosen.name, "parameters": rows})
    elif len(found) == 1:
        _print_one(rows[0], chosen.name)
    else:
        shown = [
            {
                "key": row["key"],
                "value": "" if row["group"] else _written(row["value"]),
                "unit": row["unit"],
                "meaning": row["description"],
            }
            for row in rows
        ]
        output.table(shown, title=f"Campaign {chosen.name}")
        output.say("'aqvolt campaign show KEY' says more about one of them.")


@campaigns.command(epilog="Example: aqvolt campaign check sulfide.yaml")
@anywhere
def check(
    campaign: Annotated[str, typer.Argument(help="Campaign file, or the name of a shipped one.")],
    as_json: Json = False,
) -> None:
    """Read a campaign file; a wrong key or value is named with what was expected."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import campaign_for

    chosen = campaign_for(load_settings(), campaign)
    if as_json:
        output.emit(chosen.model_dump(mode="json"))
    else:
        output.say(f"{campaign} is right: {chosen.name}. {chosen.description}".rstrip())


def _written(value: Any) -> str:
    """Return a value as a campaign file would have it on one line."""
    text = "none" if value is None else json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}…"


def _print_one(row: dict[str, Any], campaign: str) -> None:
    output.say(f"{row['key']}{'  (' + row['unit'] + ')' if row['unit'] else ''}")
    facts = {
        "meaning": row["description"] or "The name says it.",
        f"in {campaign}": _written(row["value"]),
        "default": "none, it must be given" if row["required"] else _written(row["default"]),
        "type": row["type"] + (f", {row['limits']}" if row["limits"] else ""),
        "source": _source(row["source"]),
    }
    width = max(map(len, facts))
    for name, text in facts.items():
        output.say(f"  {name:<{width}}  {text}")


def _source(comment: str) -> str:
    """Return what the paper's campaign file says of a number, for people who have not read its first lines."""
    if not comment:
        return "not commented in aqvolt26"
    if comment.startswith("silent"):
        rest = comment.removeprefix("silent").lstrip(";:, ")
        return "the paper does not say; this project's choice" + (f" ({rest})" if rest else "")
    return f"paper, section {comment}" if comment[0].isdigit() else comment
