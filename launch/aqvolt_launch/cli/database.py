"""``aqvolt db``: the database of a project folder."""

from __future__ import annotations

from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import Json

db = typer.Typer(no_args_is_help=True, help="Start, stop, look at and migrate the database of this folder.")


def register(app: typer.Typer) -> None:
    """Add ``aqvolt db``."""
    app.add_typer(db, name="db")


@db.command(epilog="Example: aqvolt db start --port 27117")
def start(
    port: Annotated[
        int | None, typer.Option(help="TCP port on 127.0.0.1; by default the last one, or a free one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the embedded database, or say that it runs already. It keeps running after this command ends."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.embedded import server as embedded

    settings = load_settings()
    info = embedded.start(settings, port)
    if as_json:
        output.emit(info.as_dict())
        return
    output.say(f"Database {info.uri} runs as process {info.pid}; files in {info.storage}.")
    if settings.mongo_uri:
        output.say("But mongo_uri is set, and commands use that one: unset AQVOLT_MONGO_URI to use this database.")


@db.command(epilog="Example: aqvolt db stop")
def stop(as_json: Json = False) -> None:
    """Stop the embedded database; its data stays."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.embedded import server as embedded

    info = embedded.stop(load_settings())
    if as_json:
        output.emit(info.as_dict())
        return
    output.say(f"Stopped process {info.pid}." if info.pid else info.note or "Stopped.")
    if info.pid and info.note:
        output.say(info.note)


@db.command(epilog="Example: aqvolt db status --json")
def status(as_json: Json = False) -> None:
    """Say whether the embedded database runs and answers; exit code 1 if it does not."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.embedded import server as embedded

    info = embedded.status(load_settings())
    if as_json:
        output.emit(info.as_dict())
    elif info.running:
        state = "answers" if info.answers else "silent"
        output.say(f"Database {info.uri}: process {info.pid} since {info.started}, {state}.")
        if info.note:
            output.say(info.note)
    else:
        output.say(f"No embedded database runs. {info.note or ''}".rstrip())
    if not info.answers:
        raise typer.Exit(1)


@db.command(epilog="Example: aqvolt db migrate")
def migrate(as_json: Json = False) -> None:
    """Give documents that belong to no campaign yet to the campaign of aqvolt.yaml.

    Run it once, before a second campaign uses the database. It can be interrupted and run again; a second run changes
    nothing. Until then such documents count as this campaign's.
    """
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import Database
    from aqvolt_launch.project.migrate import migrate as run

    settings = load_settings()
    counts = run(settings, None if as_json else lambda name, n: output.note(f"{name}: {n} given"))
    if as_json:
        output.emit(counts)
        return
    campaign = Database.connect(settings).default_campaign
    output.table([{"collection": k, "given": n} for k, n in counts.items()], title=f"Given to {campaign}")


@db.command(epilog="Example: aqvolt db quarantine --restore")
def quarantine(
    restore: Annotated[bool, typer.Option("--restore", help="Put back what fits its schema by now.")] = False,
    as_json: Json = False,
) -> None:
    """List documents that were set aside because they do not fit their schema, with the reason."""
    from aqvolt_flows import quarantine as aside
    from aqvolt_flows.stores import Database

    database = Database.connect()
    if restore:
        counts = aside.restore(database)
        if not as_json:
            output.say(f"{counts['restored']} put back, {counts['left']} left.")
            return
        output.emit(counts)
        return
    output.table(aside.listed(database), as_json, title="Quarantine")
