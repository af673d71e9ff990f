"""``aqvolt release``: create, verify, compare, export and describe versioned training sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere, require_project
from aqvolt_launch.cli.options import AllCampaigns, Json, OneCampaign

if TYPE_CHECKING:
    from aqvolt_flows.schemas.parameters import ReleaseParameters

FILTERS = {
    "max_force": "max_force_ev_per_a",
    "max_cohesive_energy": "max_cohesive_energy_ev",
    "duplicates": "duplicate_tolerance_a",
    "protocol": "protocol",
    "mixed": "allow_mixed_protocols",
    "head": "head",
}
_CREATE = """Example: aqvolt release create aqvolt26 --split 90/5/5:candidate --filter max_force=50 --export aselmdb

Example: aqvolt release create aqvolt26 --hold-out 'gnome={"candidate.provenance.database": "gnome"}'
"""
Place = Annotated[str, typer.Argument(help="Folder of a release, its release_id, or a name (the newest of it).")]


releases = typer.Typer(help="Versioned training sets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(releases, name="release")


@releases.command(epilog=_CREATE)
def create(
    name: Annotated[str, typer.Argument(help="Name of the release, e.g. aqvolt26.")],
    parameters_of: Annotated[
        str | None, typer.Option("--from", hidden=True, help="Campaign whose release parameters are used.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Shares and group: 90/5/5, formula, or 80/10/10:candidate.")] = None,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help=f"NAME=VALUE; names: {', '.join(FILTERS)}.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="MongoDB query in JSON; only labels that match it enter.")] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="NAME=QUERY; matching labels are a set of their own.")
    ] = None,
    exports: Annotated[
        list[str] | None, typer.Option("--export", help="aselmdb, extxyz or matpes-json, written into the release.")
    ] = None,
    campaign: OneCampaign = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Write a release of the campaign's labels; the same labels give the same release.

    A hold-out's query may ask the candidate that a label comes from, by fields that begin with 'candidate.'.
    """
    from aqvolt_flows.datasets.release import create_release
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import campaign_for, view_of

    settings = load_settings()
    database = view_of(settings, campaign, all_campaigns)
    other = None if campaign == database.default_campaign else campaign
    base = campaign_for(settings, parameters_of or other).release
    parameters = _parameters(base, name, split, filters or [], exports or [], query, hold_out or [])
    root = settings.path(settings.release_root)
    document = create_release(database, parameters, root)
    new = database.upsert("releases", [document])
    counts = document.counts
    if as_json:
        output.emit(
            {
                "release_id": document.release_id,
                "content_hash": document.content_hash,
                "counts": counts,
                "path": str(root / document.path),
                "new": bool(new),
            }
        )
        return
    output.table([{"split": s, "frames": n} for s, n in counts["by_split"].items()], title=document.release_id)
    for reason, n in {**counts["dropped"], **counts["rejected"]}.items():
        output.say(f"left out: {n} by {reason}")
    output.say(f"{'written' if new else 'unchanged'}: {root / document.path}")


@releases.command(epilog="Example: aqvolt release verify releases/aqvolt26-0f3a5c7e9b1d")
@anywhere
def verify(release: Place, as_json: Json = False) -> None:
    """Rehash every file and recompute the content hash and counts from the data."""
    from aqvolt_flows.datasets.folder import verify as verify_folder

    found = verify_folder(find_release(release))
    if as_json:
        output.emit({"verified": True, **found})
    else:
        output.say(
            f"{found['release_id']} is whole: {found['files']} files, {found['counts']['total']} frames, content hash "
            f"{found['content_hash']}"
        )


@releases.command(epilog="Example: aqvolt release diff aqvolt26@0f3a5c7e9b1d aqvolt26")
@anywhere
def diff(
    a: Place,
    b: Place,
    as_json: Json = False,
) -> None:
    """List frames added, removed, relabelled or moved between splits, and protocols and filters that differ."""
    from aqvolt_flows.datasets.folder import diff as diff_folders

    found = diff_folders(find_release(a), find_release(b))
    if as_json:
        output.emit(found)
        return
    rows = [
        {"change": name, "number": len(found[name]), "first": ", ".join(list(found[name])[:3])}
        for name in ("added", "removed", "relabelled", "moved")
    ]
    rows += [
        {"change": f"protocol {how}", "number": len(names), "first": ", ".join(names)}
        for how, names in found["protocols"].items()
    ]
    rows += [
        {"change": f"filter {name}", "number": 1, "first": f"{was} → {now}"}
        for name, (was, now) in found["filters"].items()
    ]
    output.table(rows, title=f"{found['a']} → {found['b']}{': same content' if found['same'] else ''}")


@releases.command(epilog="Example: aqvolt release export aqvolt26 --format aselmdb --out train_data")
@anywhere
def export(
    release: Place,
    format: Annotated[str, typer.Option("--format", help="aselmdb, extxyz, matpes-json or parquet.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    as_json: Json = False,
) -> None:
    """Write a release in another format."""
    from aqvolt_flows.datasets.folder import export as export_folder

    written = export_folder(find_release(release), format, out)
    output.table([{"split": s, "frames": n} for s, n in written.items()], as_json, title=f"{out} ({format})")


@releases.command(epilog="Example: aqvolt release card aqvolt26")
@anywhere
def card(release: Place) -> None:
    """Print the dataset card, computed again from the data."""
    from aqvolt_flows.datasets.card import render
    from aqvolt_flows.datasets.folder import read_manifest, split_paths
    from aqvolt_flows.datasets.stats import statistics

    path = find_release(release)
    output.say(render(read_manifest(path), statistics(split_paths(path))).rstrip("\n"))


def find_release(text: str) -> Path:
    """Return the folder that a path, a release_id or a name means.

    Raises
    ------
    InputError
        If neither a folder nor the collection ``releases`` knows it.
    """
    if Path(text).is_dir():
        return Path(text)
    require_project()
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.releases import release_folder
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import Database

    if "/" in text:
        raise InputError(f"There is no folder {text}; give the folder of a release, a release_id or a name.")
    query = {"release_id": text} if "@" in text else {"name": text}
    database = Database.connect(load_settings())
    document = database["releases"].find_one(query, {"manifest": 0}, sort=[("last_updated", -1)])
    if document is None:
        raise InputError(
            f"There is no release {text!r}, neither as a folder nor in the database; see 'aqvolt query releases'."
        )
    return release_folder(database, document)


def _parameters(
    base: ReleaseParameters,
    name: str,
    split: str | None,
    filters: list[str],
    exports: list[str],
    query: str | None,
    hold_out: list[str],
) -> ReleaseParameters:
    from pydantic import ValidationError

    from aqvolt_flows.errors import InputError

    values: dict[str, Any] = base.model_dump() | {"name": name}
    if exports:
        values["exports"] = sorted({*base.exports, *exports})
    if split:
        values |= _split(split)
    if query is not None:
        values["query"] = _query("--query", query)
    for text in hold_out:
        held, _, rule = text.partition("=")
        values["hold_out"] = values["hold_out"] | {held: _query(f"--hold-out {held}", rule)}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or key not in FILTERS:
            raise InputError(f"--filter {text!r} is not NAME=VALUE with a known name; names are {', '.join(FILTERS)}.")
        values[FILTERS[key]] = (
            value if key == "protocol" else _boolean(text, value) if key in {"mixed", "head"} else _number(text, value)
        )
    try:
        return type(base)(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the release"
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where} is {first.get('input')!r}: {message}; correct the option.") from None


def _number(text: str, value: str) -> float:
    from aqvolt_flows.errors import InputError

    try:
        return float(value)
    except ValueError:
        raise InputError(f"--filter {text!r} needs a number after '='.") from None


def _query(option: str, text: str) -> dict[str, Any]:
    import json

    from aqvolt_flows.errors import InputError

    try:
        query = json.loads(text)
    except ValueError as error:
        raise InputError(f'{option} {text!r} is not JSON ({error}); write e.g. \'{{"source": "gnome"}}\'.') from None
    if not isinstance(query, dict):
        raise InputError(f'{option} {text!r} is not a query; write e.g. \'{{"source": "gnome"}}\'.')
    return query


def _boolean(text: str, value: str) -> bool:
    from aqvolt_flows.errors import InputError

    if value not in {"true", "false"}:
        raise InputError(f"--filter {text!r} needs true or false after '='.")
    return value == "true"


def _split(text: str) -> dict[str, Any]:
    from aqvolt_flows.errors import InputError

    shares, colon, group = text.partition(":")
    if not colon and "/" not in shares:
        return {"group_by": shares}
    try:
        numbers = [float(part) for part in shares.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or sum(numbers) <= 0:
        raise InputError(
            f"--split {text!r} is not understood; give shares like 90/5/5, a group like formula, or 90/5/5:formula."
        )
    total = sum(numbers)
    values: dict[str, Any] = dict(
        zip(("train_fraction", "val_fraction", "test_fraction"), (n / total for n in numbers), strict=True)
    )
    return values | ({"group_by": group} if colon else {})
