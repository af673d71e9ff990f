"""``aqvolt candidates``: which structures are in the pool, and why the others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.stages import CampaignOption, Json

candidates = typer.Typer(help="Structures of the pool: select, import, list.", no_args_is_help=True)


@candidates.command("select")
def select(campaign: CampaignOption = None, json: Json = False) -> None:
    """Submit the selection of the campaign's structures; 'aqvolt work' runs it.

    Example: [bold]aqvolt candidates select --campaign demo[/bold]
    """
    from aqvolt_launch.cli.stages import submit

    submit("candidates", campaign=campaign, json=json)


@candidates.command("import")
def import_files(
    files: Annotated[list[Path], typer.Argument(help="CIF, POSCAR or (ext)xyz files.", show_default=False)],
    campaign: CampaignOption = None,
    json: Json = False,
) -> None:
    """Add structures from files, judged by the campaign's rules; broken files are named, the rest goes in.

    Example: [bold]aqvolt candidates import structures/*.cif[/bold]
    """
    from aqvolt_flows.candidates.files import read_structures
    from aqvolt_flows.candidates.select import candidate_document
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import Database
    from aqvolt_launch.chain import campaign_for

    settings = load_settings()
    rules = campaign_for(settings, campaign).candidates
    documents, rows = [], []
    for path in files:
        try:
            found = read_structures(path)
        except InputError as error:
            rows.append({"file": path.name, "formula": None, "status": "broken", "reason": str(error)})
            continue
        for name, structure in found:
            document = candidate_document(structure, rules, name, source="user", references=[path.name])
            documents.append(document)
            reason = document.rejection.message if document.rejection else ""
            rows.append({"file": name, "formula": document.formula, "status": document.status, "reason": reason})
    database = Database.connect(settings)
    database.ensure_indexes()
    new = database.upsert("candidates", documents)
    output.table(rows, as_json=json, title=f"Imported: {new} new of {len(documents)} structures")
    if not documents:
        raise InputError(f"None of {len(files)} files held a structure; nothing was added.")


@candidates.command("list")
def list_candidates(
    rejected: Annotated[bool, typer.Option("--rejected", help="Those left out, with the reason.")] = False,
    json: Json = False,
) -> None:
    """List accepted candidates, or the rejected ones with the reason.

    Example: [bold]aqvolt candidates list --rejected[/bold]
    """
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import Database

    database = Database.connect(load_settings())
    rows = []
    for d in database["candidates"].find({"status": "rejected" if rejected else "accepted"}).sort("name", 1):
        row = {
            "candidate_id": d["candidate_id"],
            "name": d["name"],
            "formula": d["formula"],
            "n_atoms": d["n_atoms"],
            "source": d["source"],
        }
        rows.append(
            row | ({"reason": d["rejection"]["reason"], "message": d["rejection"]["message"]} if rejected else {})
        )
    output.table(rows, as_json=json, title="Rejected candidates" if rejected else "Candidates")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(candidates, name="candidates")
