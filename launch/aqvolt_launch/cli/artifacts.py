"""``aqvolt artifacts``: the files behind the documents."""

from __future__ import annotations

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import Json

artifacts = typer.Typer(no_args_is_help=True, help="Look after the artifact store.")


@artifacts.callback()
def _root() -> None:
    """Look after the artifact store."""


def register(app: typer.Typer) -> None:
    """Add ``aqvolt artifacts``."""
    app.add_typer(artifacts, name="artifacts")


@artifacts.command(epilog="Example: aqvolt artifacts verify")
def verify(as_json: Json = False) -> None:
    """Read every file of the artifact store and name those that are damaged; exit code 1 if there are any.

    A file's address is the hash of its bytes, so that a single changed bit is found. Needs no database.
    """
    from aqvolt_flows.artifacts import ArtifactStore
    from aqvolt_flows.settings import load_settings

    store = ArtifactStore(load_settings().artifact_url)
    rows = [{"file": path, "fault": fault} for path, fault in store.damaged()]
    damaged = [row for row in rows if "half-written" not in row["fault"]]
    if as_json:
        output.emit({"root": store.root, "files": store.count(), "damaged": len(damaged), "faults": rows})
    else:
        if rows:
            output.table(rows, title=f"Artifact store {store.root}")
        output.say(f"{store.count()} files in {store.root}: {len(damaged)} damaged.")
    if damaged:
        raise typer.Exit(1)
