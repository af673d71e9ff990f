"""``aqvolt sweep``: one parameter at several values, from release to benchmark."""

from __future__ import annotations

from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import CampaignOption, Json

#: Release, training, benchmark: what is submitted in turn waits for what was submitted before.
_ROUNDS = 3

sweeps = typer.Typer(help="Release, train and benchmark at several values of a parameter.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(sweeps, name="sweep")
    sweeps.callback()(lambda: None)


@sweeps.command("max-force", epilog="Example: aqvolt sweep max-force 10 50 200 800 --work")
def max_force(
    limits: Annotated[list[float], typer.Argument(help="Largest force of a label, eV/Å; at least two values.")],
    campaign: CampaignOption = None,
    work: Annotated[
        bool, typer.Option("--work", help="Run the jobs here, one after another; else repeat after 'aqvolt work'.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit a release, a training and the force bins for each limit of release.max_force_ev_per_a.

    Every call submits what can be submitted now and prints how far each limit is; all models are tested on the test
    split of the release with the highest limit.
    """
    from aqvolt_flows.errors import ResourceError
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch import chain
    from aqvolt_launch.sweep import advance
    from aqvolt_launch.workers import spawn_worker

    settings = load_settings()
    chosen = chain.campaign_for(settings, campaign)
    rows = advance(settings, chosen, limits)
    for _ in range(_ROUNDS if work else 0):
        if code := spawn_worker(settings).wait():
            raise ResourceError(f"The worker ended with code {code}; see workers.log in {settings.launch_dir}.")
        rows = advance(settings, chosen, limits)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    output.table(rows, as_json, title="Largest force of a training label", columns=None if as_json else columns)
    if not as_json and any(row.get("status") is None for row in rows):
        output.say("Not all are finished; run 'aqvolt work', then this command again.")
