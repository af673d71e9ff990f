"""``aqvolt release|model push`` and ``pull``: publish on the Hub, on Zenodo or in a folder, and get it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere, in_project
from aqvolt_launch.cli.model import models
from aqvolt_launch.cli.options import Json
from aqvolt_launch.cli.release import find_release, releases

if TYPE_CHECKING:
    from aqvolt_flows.publish.content import Content
    from aqvolt_flows.publish.targets import Plan
    from aqvolt_flows.schemas.publication import Publication

Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without, only the plan is printed.")]
Public = Annotated[
    bool,
    typer.Option("--public", help="New repositories are public; Zenodo publishes, which cannot be undone."),
]
License = Annotated[
    str | None,
    typer.Option("--license", help="For Zenodo, where the manifest names no single one.", show_default=False),
]
Where = Annotated[str, typer.Argument(help="hf:ORG/NAME, zenodo, zenodo:ID, zenodo-sandbox, or a folder.")]


def register(_app: typer.Typer) -> None:
    """Nothing more: the commands joined the groups ``release`` and ``model`` above."""


@releases.command("push", epilog="Example: aqvolt release push hf:my-org/halides halides --yes")
@anywhere
def push(
    target: Where,
    release: Annotated[
        str | None,
        typer.Argument(help="Folder, release_id or name; by default the newest of the campaign.", show_default=False),
    ] = None,
    yes: Yes = False,
    public: Public = False,
    license: License = None,
    as_json: Json = False,
) -> None:
    """Publish a release: first the plan, with --yes the upload; afterwards what arrived is compared by hashes.

    Run it again after an interruption: what is there already is not sent twice. The token is that of HF_TOKEN or of
    'hf auth login', and ZENODO_TOKEN. Commit or DOI are written into the collection releases.
    """
    push_folder(find_release(release) if release else _newest(), target, "releases", yes, public, license, as_json)


def push_folder(
    folder: Path, target: str, collection: str, yes: bool, public: bool, license: str | None, as_json: bool
) -> None:
    """Publish a folder with a card, and print what happened.

    Parameters
    ----------
    folder
        Of a release or of an exported model.
    target
        Where to.
    collection
        ``releases`` or ``models``: where the publication is written, and what the Hub calls it.
    yes, public, license, as_json
        As the options of the command say.
    """
    from aqvolt_flows.publish.content import read_content
    from aqvolt_flows.publish.places import target_named

    place = target_named(target, {"releases": "dataset", "models": "model"}[collection], public, license)
    content = read_content(folder)
    plan = place.plan(content)
    if not as_json:
        _print_plan(plan, content, yes)
    if not yes:
        if as_json:
            output.emit({"plan": _plan_as_dict(plan, content), "done": None})
        return
    done = place.push(content, output.note)
    written = _write(collection, content, done)
    if as_json:
        output.emit({"plan": _plan_as_dict(plan, content), "done": done.model_dump(mode="json"), "recorded": written})
    else:
        _print_done(done, content, written)


@releases.command("pull", epilog="Example: aqvolt release pull hf:my-org/halides")
@anywhere
def pull(
    source: Where,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder; by default NAME-HASH in the project's release root, or here outside a project.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Get a published release, compare it with its manifest, and register it if this is a project with a database.

    An interrupted pull continues when it is run again.
    """
    from aqvolt_flows.datasets.folder import verify
    from aqvolt_flows.publish.places import target_named
    from aqvolt_flows.publish.pull import pull as fetch
    from aqvolt_flows.settings import load_settings

    project = in_project()
    settings = load_settings()
    parent = settings.path(settings.release_root) if project else Path()
    content = fetch(target_named(source), source, parent, out, output.note)
    found = verify(content.folder)
    registered = project and out is None and _registered(content.folder)
    if as_json:
        output.emit({"path": str(content.folder), "registered": registered, **found})
        return
    output.say(
        f"{found['release_id']} is whole: {found['files']} files, {found['counts']['total']} frames, content hash "
        f"{found['content_hash']}"
    )
    output.say(f"written: {content.folder}" + ("; it is in the collection releases" if registered else ""))


@models.command("push", epilog="Example: aqvolt model push hf:my-org/esen exported --yes")
@anywhere
def push_model(
    target: Where,
    folder: Annotated[Path, typer.Argument(help="Folder that 'aqvolt model export' wrote.")],
    yes: Yes = False,
    public: Public = False,
    license: License = None,
    as_json: Json = False,
) -> None:
    """Publish an exported model with its card: first the plan, with --yes the upload, then a comparison by hashes."""
    push_folder(folder, target, "models", yes, public, license, as_json)


@models.command("pull", epilog="Example: aqvolt model pull hf:my-org/esen --out esen")
@anywhere
def pull_model(
    source: Where,
    out: Annotated[Path | None, typer.Option("--out", help="The folder; by default MODEL_ID here.")] = None,
    as_json: Json = False,
) -> None:
    """Get a published model and compare its files with the hashes in it; the folder is then a model string."""
    from aqvolt_flows.publish.places import target_named
    from aqvolt_flows.publish.pull import pull as fetch

    content = fetch(target_named(source, "model"), source, Path(), out, output.note)
    if as_json:
        output.emit({"path": str(content.folder), "model": content.identity, "files": [f.name for f in content.files]})
    else:
        output.say(f"written: {content.folder} ({content.identity}, {len(content.files)} files)")


def _newest() -> Path:
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.releases import release_folder
    from aqvolt_flows.stores import Database
    from aqvolt_launch.cli.here import require_project

    require_project()
    database = Database.connect()
    found = database.own("releases").find_one({}, {"manifest": 0}, sort=[("last_updated", -1)])
    if found is None:
        raise InputError("There is no release yet; 'aqvolt release create NAME' makes one.")
    return release_folder(database, found)


def _write(collection: str, content: Content, done: Publication) -> bool:
    """Write a publication into the database; return False, and say so, where there is none or it does not know it."""
    from aqvolt_flows.errors import DatabaseError
    from aqvolt_flows.publish.record import write_publication
    from aqvolt_flows.stores import Database

    if not in_project():
        return False
    try:
        return write_publication(Database.connect(), collection, content, done)
    except DatabaseError as error:
        output.note(f"The push is done, but not written into the database: {error}")
        return False


def _registered(folder: Path) -> bool:
    from aqvolt_flows.datasets.release import document_of
    from aqvolt_flows.errors import DatabaseError
    from aqvolt_flows.stores import Database

    try:
        database = Database.connect()
    except DatabaseError as error:
        output.note(f"The release is here, but not registered: {error}")
        return False
    database.ensure_indexes()
    database.upsert("releases", [document_of(database, folder)])
    return True


def _plan_as_dict(plan: Plan, content: Content) -> dict[str, Any]:
    return {
        "what": content.identity,
        "content_hash": content.content_hash,
        "target": plan.target,
        "upload": {f.name: f.bytes for f in plan.upload},
        "keep": [f.name for f in plan.keep],
        "remove": list(plan.remove),
        "notes": list(plan.notes),
    }


def _print_plan(plan: Plan, content: Content, yes: bool) -> None:
    from aqvolt_flows.publish.content import sized

    rows = [{"file": f.name, "size": sized(f.bytes), "what": "upload"} for f in plan.upload]
    rows += [{"file": f.name, "size": sized(f.bytes), "what": "there already"} for f in plan.keep]
    rows += [{"file": name, "size": "", "what": "remove there"} for name in plan.remove]
    output.table(rows, title=f"{content.identity} → {plan.target}")
    for sentence in plan.notes:
        output.say(sentence)
    total = f"{len(plan.upload)} of {len(content.files)} files, {sized(plan.bytes)}"
    output.say(f"To upload: {total}." + ("" if yes else " Nothing was sent; --yes does it."))


def _print_done(done: Publication, content: Content, written: bool) -> None:
    output.say(f"{content.identity} is at {done.target} ({done.state}), compared by hashes: {done.files} files.")
    for name, value in (("Version", done.version), ("DOI", done.doi), ("Page", done.url)):
        if value:
            output.say(f"{name:<8} {value}" + (" (reserved)" if name == "DOI" and done.state == "draft" else ""))
    if not written:
        output.say("No database knows this release, so this is written nowhere else.")
