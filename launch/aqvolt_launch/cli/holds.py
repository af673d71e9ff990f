"""``aqvolt hold list`` and ``aqvolt hold lift``: what is held back, and letting it go on."""

from __future__ import annotations

from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import Json

held = typer.Typer(
    help="What is held back: chemical systems over their failure budget, frames and runs to look at.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(held, name="hold")


@held.command("list", epilog="Example: aqvolt hold list --json")
def list_holds(as_json: Json = False) -> None:
    """Show what is held, since when and why."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import Database
    from aqvolt_launch.submission.holds import held_now

    output.table(held_now(Database.connect(load_settings())), as_json, title="Held")


@held.command("lift", epilog="Example: aqvolt hold lift Cl-Li-Y")
def lift(
    what: Annotated[str, typer.Argument(help="A chemical system, frame_id, Firework number, job uuid or hold_id.")],
    as_json: Json = False,
) -> None:
    """Lift a hold: a chemical system resumes and its failure count is reset."""
    from aqvolt_launch.open_project import Project
    from aqvolt_launch.submission import holds

    resumed = holds.lift(Project(), what)
    if as_json:
        output.emit({"lifted": what, "resumed_fireworks": resumed})
        return
    output.say(f"{what} is no longer held; {resumed} Fireworks may run again. Submit again for what was left out.")
