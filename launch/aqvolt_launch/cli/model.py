"""``aqvolt model``: trained potentials, listed, described, and written out as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, Json, OneCampaign

models = typer.Typer(help="Trained potentials, and which checkpoints are trusted.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of a model (the newest trained of it) or its model_id.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(models, name="model")


@models.command("list", epilog="Example: aqvolt model list --json")
def list_models(campaign: OneCampaign = None, all_campaigns: AllCampaigns = False, as_json: Json = False) -> None:
    """List trained models and failed trainings, newest first, with their errors on the test split."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import view_of

    database = view_of(load_settings(), campaign, all_campaigns)
    found = database.own("models").find({}, {"_id": 0})
    rows = [_row(d) for d in sorted(found, key=lambda d: (d["last_updated"], d["model_id"]), reverse=True)]
    output.table(rows, as_json, title="Models")


@models.command(epilog="Example: aqvolt model show demo-sevennet")
def show(model: Name, as_json: Json = False) -> None:
    """Print the card of a model: what it learned from, its errors, how it is loaded; with --json its document."""
    from aqvolt_flows.potentials.trained import find_document
    from aqvolt_flows.stores import Database
    from aqvolt_flows.training.export import card_of

    database = Database.connect()
    document = find_document(database, model)
    if as_json:
        output.emit(dict(document))
    else:
        output.say(card_of(database, document).rstrip("\n"))


@models.command(epilog="Example: aqvolt model export demo-sevennet ~/models/demo-sevennet")
def export(
    model: Name,
    folder: Annotated[Path, typer.Argument(help="A new folder.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Write a model into a folder: weights, configuration, references, curves, hashes, versions and a card.

    The package that trained it loads the weights without aqvolt-flows; here the folder is a model string.
    """
    from aqvolt_flows.stores import Database
    from aqvolt_flows.training.export import export_model

    written = export_model(Database.connect(), model, folder)
    if as_json:
        output.emit({"model": model, "path": str(written), "files": sorted(p.name for p in written.iterdir())})
    else:
        output.say(f"written: {written}")


def _row(document: dict[str, Any]) -> dict[str, Any]:
    from aqvolt_flows.schemas.model import model_name_of

    held_out = (document.get("held_out") or {}).get("trained") or {}
    factors = {"energy_per_atom_mae": ("E meV/atom", 1e3), "forces_mae": ("F meV/Å", 1e3)}
    errors = {
        said: round(held_out[name] * factor, 3) if name in held_out else None
        for name, (said, factor) in factors.items()
    }
    return {
        "name": model_name_of(document),
        "model_id": document["model_id"],
        "trainer": document.get("trainer", "esen"),
        "status": document["status"],
        "release": document["release_id"],
        **errors,
    }
