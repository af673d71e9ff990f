"""``aqvolt db``: the database of a project folder."""

from __future__ import annotations

import os
from pathlib import Path
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
    from aqvolt_launch.embedded import lent
    from aqvolt_launch.embedded import server as embedded

    settings = load_settings()
    info = embedded.start(settings, port)
    lent.keep(settings)
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


@db.command(epilog="Example: aqvolt db copy --to mongodb://user@host:27017/aqvolt?authSource=admin")
def copy(
    to: Annotated[
        str,
        typer.Option(help="URI of the target. '-' reads it from AQVOLT_COPY_TO, so that no password stands in 'ps'."),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from", help="URI of the source; by default the database of this folder. '-': AQVOLT_COPY_FROM."
        ),
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="Copy although jobs run.")] = False,
    as_json: Json = False,
) -> None:
    """Copy the database of this folder to another server, or back, and check counts and hashes of both sides.

    Then set AQVOLT_MONGO_URI (or mongo_uri in aqvolt.yaml) and go on working. Artifacts stay where they are.
    """
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.project.copies import copy_to

    target = _given(to, "AQVOLT_COPY_TO")
    done = copy_to(load_settings(), target, _given(source, "AQVOLT_COPY_FROM") if source else None, running)
    output.table([c.as_dict() for c in done], as_json, title="Copied, both sides agree")


@db.command(epilog="Example: aqvolt db backup backups/2026-11-25")
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")],
    running: Annotated[bool, typer.Option("--running", help="Write it although jobs run.")] = False,
    as_json: Json = False,
) -> None:
    """Write all documents into a folder, with counts and hashes; the artifact store is copied by other means."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.project.copies import backup as run

    done = run(load_settings(), folder, running)
    output.table([c.as_dict() for c in done], as_json, title=f"Backup {folder}")


@db.command(epilog="Example: aqvolt db restore backups/2026-11-25")
def restore(
    folder: Annotated[Path, typer.Argument(help="What 'aqvolt db backup' wrote.")], as_json: Json = False
) -> None:
    """Put a backup into the database of this folder, which must be empty, and check it."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.project.copies import restore as run

    done = run(load_settings(), folder)
    output.table([c.as_dict() for c in done], as_json, title=f"Restored from {folder}")


def _given(uri: str, variable: str) -> str:
    if uri != "-":
        return uri
    from aqvolt_flows.errors import ConfigError

    if not os.environ.get(variable):
        raise ConfigError(f"{variable} is not set; set it to the URI, or give the URI itself.")
    return os.environ[variable]
