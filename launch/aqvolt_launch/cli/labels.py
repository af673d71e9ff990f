"""``aqvolt labels``: import published labels, sweep a filter, and count what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, CampaignOption, Json, OneCampaign

labels = typer.Typer(help="Labels: import published ones, sweep a filter, count.", no_args_is_help=True)


@labels.command("import", epilog="Example: aqvolt labels import MatPES-R2SCAN-2025.1.json.gz --source matpes")
def import_files(
    files: Annotated[
        list[Path], typer.Argument(help="JSON(.gz), JSON lines, Parquet, extended XYZ, a folder of VASP.")
    ],
    source: Annotated[
        str, typer.Option("--source", help="matpes, mp-aloe, mp (task documents), vasp (a folder), aqvolt26 or extxyz.")
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Name that the labels carry; default: the source's.")
    ] = None,
    functional: Annotated[str, typer.Option("--functional", help="Only these labels, or any.")] = "r2SCAN",
    keep_mp_rows: Annotated[
        bool, typer.Option("--keep-mp-rows", help="mp-aloe: keep rows that were taken from the Materials Project.")
    ] = False,
    exclude_potcars: Annotated[
        str,
        typer.Option(
            "--exclude-potcars", help="mp: leave out conflicting pseudopotentials of lanthanides, of all, or of none."
        ),
    ] = "lanthanides",
    exclude_element: Annotated[
        list[str] | None, typer.Option("--exclude-element", help="Leave structures with it out; repeatable.")
    ] = None,
    stress_unit: Annotated[
        str, typer.Option("--stress-unit", help="extxyz: eV/A^3 or GPa (tension positive), kbar (VASP's sign).")
    ] = "eV/A^3",
    patched_vasp: Annotated[
        bool, typer.Option("--patched-vasp", help="mp, vasp: accept r2SCAN of VASP below 6.2.0, which needed a patch.")
    ] = False,
    license: Annotated[
        str | None, typer.Option("--license", help="License of the labels, for the cards of releases.")
    ] = None,
    stride: Annotated[int, typer.Option("--stride", help="vasp: keep every n-th ionic step of a run of MD.")] = 1,
    campaign: CampaignOption = None,
    as_json: Json = False,
) -> None:
    """Add published labels, each under its own protocol; broken records are set aside, the rest goes in."""
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import Database
    from aqvolt_launch.chain import campaign_for, database_of

    options = _options(
        source=source,
        dataset=dataset,
        functional=None if functional == "any" else functional,
        keep_mp_rows=keep_mp_rows,
        exclude_potcars=exclude_potcars,
        exclude_elements=tuple(exclude_element or ()),
        stress_unit=stress_unit,
        patched_vasp=patched_vasp,
        stride=stride,
        license=license,
    )
    settings = load_settings()
    # of the settings without reading the campaign: an import needs none of its parameters
    database = (
        Database.connect(settings) if campaign is None else database_of(campaign_for(settings, campaign), settings)
    )
    database.ensure_indexes()
    reports = [_import_one(path, options, database, settings) for path in files]
    if as_json:
        output.emit(reports)
    else:
        output.imported(reports, ("file", "read", "labels", "new", "skipped", "quarantined", "protocols"))
    _refuse_nothing(reports)


def _options(**given: Any) -> Any:
    from pydantic import ValidationError

    from aqvolt_flows.datasets.importers.published import ImportOptions
    from aqvolt_flows.errors import InputError

    try:
        return ImportOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise InputError(
            f"--{name} is {first.get('input')!r}: {first['msg']}; see 'aqvolt labels import -h'."
        ) from None


def _import_one(path: Path, options: Any, database: Any, settings: Any) -> dict[str, Any]:
    """Import one file; one that cannot be opened is reported, not fatal to the others."""
    from aqvolt_flows.datasets.importers.files import read_labels
    from aqvolt_flows.datasets.importers.intake import LabelImportReport, import_labels
    from aqvolt_flows.errors import InputError

    name = path.name or path.resolve().name  # of "." and "/"
    aside = settings.path("quarantine") / f"{name}.labels.jsonl"
    try:
        report = import_labels(database, read_labels(path, options), options, aside)
    except InputError as error:
        report = LabelImportReport(stopped=[str(error)])
    return {"file": name, **report.as_dict(), "quarantine": str(aside) if report.quarantined else None}


def _refuse_nothing(reports: list[dict[str, Any]]) -> None:
    from aqvolt_flows.errors import InputError

    if any(report["labels"] or report["skipped"] for report in reports):
        return
    why = " ".join(sentence for report in reports for sentence in (report["stopped"] or report["broken"])[:1])
    raise InputError(f"No label was found in {', '.join(r['file'] for r in reports)}; nothing was added. {why}")


@labels.command(
    "sweep",
    context_settings={"ignore_unknown_options": True},
    epilog="Example: aqvolt labels sweep max_force 5 50 100 400 800",
)
def sweep(
    filter: Annotated[str, typer.Argument(help="max_force, cohesive_energy, duplicate or incomplete.")],
    values: Annotated[
        list[float] | None, typer.Argument(help="Thresholds: eV/Å, eV/atom, Å; none for incomplete.")
    ] = None,
    query: Annotated[str, typer.Option("--query", help="Only labels that match this MongoDB query (JSON).")] = "{}",
    campaign: OneCampaign = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Count what a release's filter would keep and drop at each of several thresholds; changes nothing."""
    from aqvolt_flows.datasets.filters import make_filters
    from aqvolt_flows.datasets.sweep import sweep_labels
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import view_of
    from aqvolt_launch.cli.query import parse_filter

    filters = make_filters(filter, values or [])
    rows = sweep_labels(view_of(load_settings(), campaign, all_campaigns), filters, parse_filter(query))
    output.table(rows, as_json=as_json, title=f"Sweep of {filter}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(labels, name="labels")
