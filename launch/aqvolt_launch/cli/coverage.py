"""``aqvolt coverage``: how well one set of configurations covers another."""

from __future__ import annotations

from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import CampaignOption, Json

SETS = "encoded, chosen, labels:SOURCE, release:NAME or a Parquet file with atomic_numbers, positions and cell"


def coverage(
    covered: Annotated[str, typer.Argument(help=f"What should be covered: {SETS}; not chosen.", show_default=False)],
    by: Annotated[str, typer.Argument(help="By what; the same names, and chosen.")] = "chosen",
    campaign: CampaignOption = None,
    as_json: Json = False,
) -> None:
    """Compare two sets in the space of the newest round of sampling; encodes files and labels once, here."""
    from aqvolt_flows.sampling.compare import compare_sets
    from aqvolt_flows.sampling.plan import with_local_encoder
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch import chain

    settings = load_settings()
    chosen = chain.campaign_for(settings, campaign)
    database = chain.database_of(chosen, settings)
    parameters = with_local_encoder(chosen.sampling, database)
    found = compare_sets(database, parameters, covered, by)
    if as_json:
        output.emit(found)
        return
    output.table(
        [found], title="Coverage", columns=["covered", "by", "n_rows", "n_reference", "fraction", "mean", "p99", "max"]
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: aqvolt coverage encoded release:aqvolt")(coverage)
