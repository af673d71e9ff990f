"""``aqvolt candidates``: which structures are in the pool, and why the others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, CampaignOption, Json, OneCampaign

candidates = typer.Typer(help="Structures of the pool: select, import, list.", no_args_is_help=True)


@candidates.command("select", epilog="Example: aqvolt candidates select --campaign demo")
def select(campaign: CampaignOption = None, as_json: Json = False) -> None:
    """Submit the selection of the campaign's structures; 'aqvolt work' runs it."""
    from aqvolt_launch.cli.stages import submit

    submit("candidates", campaign=campaign, as_json=as_json)


@candidates.command(
    "import", epilog="Example: aqvolt candidates import MatPES-R2SCAN-2025.1.json.gz --count-only missing_element"
)
def import_files(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="MatPES JSON(.gz) or Parquet, a Materials Project snapshot (JSON lines), CIF, POSCAR, (ext)xyz, ASE "
            ".traj, pymatgen's or ASE's JSON.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="matpes, mp or structure; default: by content.", show_default=False)
    ] = None,
    judged_as: Annotated[str, typer.Option("--as", help="li-halides, or hosts to lithiate.")] = "li-halides",
    live: Annotated[bool, typer.Option("--from-mp", help="Ask the Materials Project (key in MP_API_KEY).")] = False,
    count_only: Annotated[
        list[str] | None,
        typer.Option("--count-only", help="Do not keep those rejected for this reason, only count them; repeatable."),
    ] = None,
    hull_energies: Annotated[
        Path | None,
        typer.Option(
            "--hull-energies",
            help="CSV (name, e_above_hull_ev_per_atom) or JSON (name: energy) with energies above the hull that the "
            "files do not have; a name is the record's, its identifier, or the file's with or without suffix.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that compare structures.")] = 2,
    campaign: CampaignOption = None,
    as_json: Json = False,
) -> None:
    """Add structures, judged and compared with the pool; broken records are set aside, the rest goes in."""
    from aqvolt_flows.candidates.hull_table import read_hull_table
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import campaign_for, database_of

    table = read_hull_table(hull_energies) if hull_energies else None
    roles = {"li-halides": "candidate", "hosts": "host"}
    if judged_as not in roles:
        raise InputError(f"--as is {judged_as!r}; expected li-halides or hosts.")
    if not files and not live:
        raise InputError("Nothing to import; give files, or --from-mp.")
    settings = load_settings()
    chosen = campaign_for(settings, campaign)
    rules, database = chosen.candidates, database_of(chosen, settings)
    database.ensure_indexes()
    options = {"rules": rules, "role": roles[judged_as], "count_only": set(count_only or ()), "workers": workers}
    options["table"] = table
    reports = [_import_one(path, kind, database, settings, **options) for path in files or []]
    if live:
        reports.append(_import_one(None, kind, database, settings, **options))
    _print_reports(reports, as_json)
    if table is not None and table.unused and not as_json:
        names = f"{', '.join(table.unused[:5])}{', …' if len(table.unused) > 5 else ''}"
        output.say(f"{len(table.unused)} of {len(table.energies)} names of {table.file} fit no record: {names}.")
    if not any(r["read"] - r["quarantined"] > 0 for r in reports):
        why = " ".join(sentence for r in reports for sentence in (r["stopped"] or r["broken"])[:1])
        raise InputError(f"No structure was found in {', '.join(r['file'] for r in reports)}; nothing was added. {why}")


def _import_one(path: Path | None, kind: str | None, database: Any, settings: Any, **options: Any) -> dict[str, Any]:
    """Import one file, or the Materials Project; a file that cannot be opened is reported, not fatal to the others."""
    from aqvolt_flows.candidates.materials_project import stream_live
    from aqvolt_flows.candidates.pool import ImportReport, Intake, add_to_pool
    from aqvolt_flows.candidates.sources import stream_file
    from aqvolt_flows.errors import InputError

    rules, role = options["rules"], options["role"]
    name = path.name if path else "materials-project"
    aside = settings.path("quarantine") / f"{name}.{role}.jsonl"
    intake = Intake(rules, role=role, not_kept=options["count_only"])
    try:
        entries = stream_file(path, kind) if path else stream_live(rules, role)  # type: ignore[arg-type]
        if options["table"] is not None:
            entries = options["table"].applied(entries)
        report = add_to_pool(entries, database, intake, aside, options["workers"])
    except InputError as error:
        report = ImportReport(stopped=[str(error)])
    return {"file": name, **report.as_dict(), "quarantine": str(aside) if report.quarantined else None}


def _print_reports(reports: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.emit(reports)
        return
    columns = ("file", "read", "new", "accepted", "rejected", "not_kept", "repeated", "quarantined")
    output.imported(reports, columns)
    if len(reports) > 1:
        _print_totals(reports)


def _print_totals(reports: list[dict[str, Any]]) -> None:
    """Print the sums over files: counts, then why structures were rejected or could not be read."""
    from collections import Counter

    from aqvolt_flows.candidates.refusals import REFUSALS

    summed: dict[str, Counter[str]] = {}
    for name in ("accepted", "rejected", "not_kept", "quarantined_for"):
        summed[name] = sum((Counter(r[name]) for r in reports), Counter())
    counts: dict[str, Any] = {"files": len(reports)}
    counts |= {name: sum(r[name] for r in reports) for name in ("read", "new", "repeated", "quarantined")}
    counts |= {name: summed[name].total() for name in ("accepted", "rejected", "not_kept")}
    output.table([counts], title="Total")
    reasons = [
        {
            "outcome": outcome,
            "reason": reason,
            "n": n,
            "meaning": REFUSALS.get(reason, "") if outcome == "unread" else "",
        }
        for outcome, name in (("rejected", "rejected"), ("not kept", "not_kept"), ("unread", "quarantined_for"))
        for reason, n in summed[name].most_common()
    ]
    if reasons:
        output.table(reasons, title="Reasons")


@candidates.command("list", epilog="Example: aqvolt candidates list --rejected --reason duplicate")
def list_candidates(
    rejected: Annotated[bool, typer.Option("--rejected", help="Those left out, with the reason.")] = False,
    hosts: Annotated[bool, typer.Option("--hosts", help="Empty hosts instead of candidates.")] = False,
    source: Annotated[
        str | None, typer.Option("--source", help="matpes, stuffed, substituted or user.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Only those rejected for this reason.", show_default=False)
    ] = None,
    counts: Annotated[bool, typer.Option("--counts", help="Only the counts by source and reason.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows at most; 0: all.")] = 50,
    campaign: OneCampaign = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """List accepted candidates, or the rejected ones with the reason, and count both by source and reason."""
    from aqvolt_flows.candidates.pool import pool_counts
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import view_of

    database = view_of(load_settings(), campaign, all_campaigns)
    found = pool_counts(database)
    if counts:
        output.table(found, as_json=as_json, title="Pool")
        return
    query: dict[str, Any] = {"status": "rejected" if rejected or reason else "accepted"}
    query["role"] = "host" if hosts else {"$ne": "host"}
    query |= ({"source": source} if source else {}) | ({"rejection.reason": reason} if reason else {})
    total = database.own("candidates").count_documents(query)
    fields = {"_id": 0, "structure": 0}
    cursor = database.own("candidates").find(query, fields).sort([("name", 1), ("candidate_id", 1)])
    rows = [_row(d) for d in (cursor if as_json or not limit else cursor.limit(limit))]
    title = ("Rejected " if rejected or reason else "") + ("hosts" if hosts else "candidates")
    output.table(rows, as_json=as_json, title=title.capitalize())
    if as_json:
        return
    if len(rows) < total:
        output.say(f"{len(rows)} of {total}; --limit 0 lists all.")
    output.table(found, title="Pool")


def _row(d: dict[str, Any]) -> dict[str, Any]:
    """Return what a person asks of one document: what it is, where it is from, and why it is not in."""
    row = {k: d[k] for k in ("candidate_id", "name", "formula", "n_atoms", "source")}
    if parent := d.get("parent_id"):
        row["parent_id"] = parent
    if d.get("rejection"):
        row |= {"reason": d["rejection"]["reason"], "message": d["rejection"]["message"]}
    return row


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(candidates, name="candidates")
