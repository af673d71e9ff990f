"""``aqvolt protocol``: the theory level that a campaign labels at, and what the installed pymatgen makes of it."""

from __future__ import annotations

from typing import Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere
from aqvolt_launch.cli.options import CampaignOption, Json, Labeler


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: aqvolt protocol --labeler vasp")(protocol)


@anywhere
def protocol(
    campaign: CampaignOption = None,
    labeler: Labeler = None,
    as_json: Json = False,
) -> None:
    """Show the theory level of a campaign's labels: name, settings, POTCARs.

    For VASP the frozen MatPES settings are compared with what the installed pymatgen would write; where they differ
    the command ends with code 2 and the difference, as submitting and labeling do.
    """
    from aqvolt_flows.labelers import LABELERS
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch import chain

    parameters = chain.campaign_for(load_settings(), campaign, labeler).labeling
    labeler_of = LABELERS[parameters.labeler]
    said = labeler_of.describe(parameters)
    if as_json:
        output.emit(said)
    else:
        rows = [{"setting": name, "value": value} for name, value in _flat(said)]
        output.table(rows, title=str(said["protocol"]))
    labeler_of.verify(parameters)


def _flat(said: dict[str, Any]) -> list[tuple[str, object]]:
    """Return name and value of every setting; of mappings that name every element, only how many there are."""
    rows: list[tuple[str, object]] = []
    for name, value in said.items():
        if name == "incar":
            rows += [(f"INCAR {tag}", setting) for tag, setting in value.items()]
        elif name in {"potcars", "moments"}:
            rows.append((name, f"of {len(value)} elements; --json lists them"))
        elif name != "protocol":
            rows.append((name, "none" if value is None or value == {} else value))
    return rows
