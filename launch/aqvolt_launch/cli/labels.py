"""``aqvolt labels``: import published labels, sweep a filter, compare two theory levels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, CampaignOption, Json, OneCampaign

#: Where datasets of the Hub are downloaded to, in the project folder.
HUB_CACHE = ".aqvolt/hub"

labels = typer.Typer(
    help="Labels: import published ones, sweep a filter, compare two theory levels.", no_args_is_help=True
)


@labels.command("import", epilog="Example: aqvolt labels import MatPES-R2SCAN-2025.1.json.gz --source matpes")
def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSON(.gz), JSON lines, Parquet, ASE-LMDB, extxyz; folders of datasets or VASP runs; "
            "hf:ORG/NAME or hf:ORG/NAME@REVISION/PATH."
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--source",
            help="matpes, mp-aloe, mp (task documents), vasp (a folder), aqvolt26, extxyz, aselmdb, colabfit or lemat.",
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Name that the labels carry; default: the source's.")
    ] = None,
    functional: Annotated[
        str | None,
        typer.Option(
            "--functional",
            help="Only these labels, or any; r2SCAN by default. For files that do not say theirs, what it is.",
        ),
    ] = None,
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
        str | None,
        typer.Option("--stress-unit", help="extxyz: eV/A^3 (default) or GPa (tension positive), kbar (VASP's sign)."),
    ] = None,
    energy_key: Annotated[str | None, typer.Option("--energy-key", help="extxyz: key of the energy.")] = None,
    forces_key: Annotated[str | None, typer.Option("--forces-key", help="extxyz: column of the forces.")] = None,
    stress_key: Annotated[
        str | None, typer.Option("--stress-key", help="extxyz: key of the stress; virials are then not read.")
    ] = None,
    virial_key: Annotated[
        str | None, typer.Option("--virial-key", help="extxyz: key of the virial, -V·stress; stresses are not read.")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            "--units", help="Units of the file: QUANTITY=UNIT,… (energy=hartree, stress=GPa …), or ase, or atomic."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace stored labels that another file gave otherwise.")
    ] = False,
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

    given: dict[str, Any] = {} if functional is None else {"functional": None if functional == "any" else functional}
    given |= {} if stress_unit is None else {"stress_unit": stress_unit}
    options = _options(
        source=source,
        dataset=dataset,
        keep_mp_rows=keep_mp_rows,
        exclude_potcars=exclude_potcars,
        exclude_elements=tuple(exclude_element or ()),
        energy_key=energy_key,
        forces_key=forces_key,
        stress_key=stress_key,
        virial_key=virial_key,
        units=units,
        replace=replace,
        patched_vasp=patched_vasp,
        stride=stride,
        license=license,
        **given,
    )
    options.named_units()
    settings = load_settings()
    # of the settings without reading the campaign: an import needs none of its parameters
    database = (
        Database.connect(settings) if campaign is None else database_of(campaign_for(settings, campaign), settings)
    )
    database.ensure_indexes()
    reports = _import_all(files, options, database, settings)
    if as_json:
        output.emit(reports)
    else:
        output.imported(reports, ("file", "read", "labels", "new", "skipped", "quarantined", "reasons", "protocols"))
    _refuse_nothing(reports)


def _options(**given: Any) -> Any:
    from pydantic import ValidationError

    from aqvolt_flows.datasets.importers.published import ImportOptions
    from aqvolt_flows.errors import InputError

    try:
        return ImportOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InputError(f"{first['msg'].removeprefix('Value error, ')}; see 'aqvolt labels import -h'.") from None
        name = str(first["loc"][0]).replace("_", "-")
        raise InputError(
            f"--{name} is {first.get('input')!r}: {first['msg']}; see 'aqvolt labels import -h'."
        ) from None


def _import_all(paths: list[Path], options: Any, database: Any, settings: Any) -> list[dict[str, Any]]:
    """Import files and the files of folders; one that cannot be opened is reported, not fatal to the others."""
    from aqvolt_flows.datasets.importers.dataset_folder import dataset_files, license_of
    from aqvolt_flows.datasets.importers.intake import ImportMemory, LabelImportReport
    from aqvolt_flows.errors import InputError

    memory = ImportMemory()
    reports: list[dict[str, Any]] = []
    for path in map(partial(_here, settings=settings), paths):
        try:
            listed = dataset_files(path, options.source)
        except InputError as error:
            stopped = LabelImportReport(stopped=[str(error)])
            reports.append({"file": path.name, **stopped.as_dict(), "quarantine": None})
            continue
        said = license_of(path) if options.license is None else None
        own = options.model_copy(update={"license": said}) if said else options
        reports += [_import_one(file, name, own, database, settings, memory) for file, name in listed]
    return reports


def _here(path: Path, settings: Any) -> Path:
    """Return the path; of a dataset on the Hub, where it was downloaded to."""
    if not str(path).startswith("hf:"):
        return path
    from aqvolt_flows.publish.hub import downloaded_dataset

    output.note(f"Downloading {path}; what is there already is not fetched again.")
    return downloaded_dataset(str(path), settings.path(HUB_CACHE))


def _import_one(path: Path, name: str, options: Any, database: Any, settings: Any, memory: Any) -> dict[str, Any]:
    from aqvolt_flows.datasets.importers.dataset_folder import named
    from aqvolt_flows.datasets.importers.files import read_labels
    from aqvolt_flows.datasets.importers.intake import LabelImportReport, import_labels
    from aqvolt_flows.datasets.importers.notes import Notes
    from aqvolt_flows.errors import InputError

    aside = settings.path("quarantine") / f"{name.replace('/', '_')}.labels.jsonl"
    notes = Notes()
    try:
        entries = read_labels(path, options, notes)
        if path.is_file():  # files of VASP runs have names of their own
            entries = named(entries, name)
        report = import_labels(database, entries, options, aside, notes, memory)
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
    from aqvolt_launch.cli.documents import parse_filter

    filters = make_filters(filter, values or [])
    rows = sweep_labels(view_of(load_settings(), campaign, all_campaigns), filters, parse_filter(query))
    output.table(rows, as_json=as_json, title=f"Sweep of {filter}")


@labels.command("align", epilog="Example: aqvolt labels align PBE@MatPES r2SCAN@MatPES --figure a.png")
def align_levels(
    a: Annotated[str, typer.Argument(help="A protocol: name, identity, or a part of its name that no other has.")],
    b: Annotated[str, typer.Argument(help="Another protocol; differences are B - A.")],
    query: Annotated[str, typer.Option("--query", help="Only labels that match this MongoDB query (JSON).")] = "{}",
    figure: Annotated[Path | None, typer.Option("--figure", help="Write a picture: .png, .pdf or .svg.")] = None,
    campaign: OneCampaign = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Compare two theory levels on the frames that both labeled: shift per element, forces, stress; changes nothing."""
    from aqvolt_flows.datasets.align import align
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import view_of
    from aqvolt_launch.cli.documents import parse_filter

    found = align(view_of(load_settings(), campaign, all_campaigns), a, b, parse_filter(query))
    if figure is not None:
        from aqvolt_flows.datasets.align_plot import draw

        draw(found, figure)
    if as_json:
        output.emit({**found.as_dict(), "figure": None if figure is None else str(figure)})
        return
    shifts = [
        {"element": e, "shift_ev": s.value, "from": s.low, "to": s.high, "frames": found.support[e]}
        for e, s in found.shifts.items()
    ]
    output.table(shifts, title=f"{found.b} - {found.a}: {found.frames} frames, {found.atoms} atoms")
    output.table(_compared(found))
    if found.determined < len(found.shifts):
        output.say(
            f"The compositions determine {found.determined} of {len(found.shifts)} shifts; the others are the smallest "
            "that fit."
        )
    if found.mismatched:
        output.say(f"Left out: {found.mismatched} frames whose labels are of different cells or positions.")
    if figure is not None:
        output.say(f"written: {figure}")


def _compared(found: Any) -> list[dict[str, Any]]:
    rows = (
        ("energy difference, RMSE (eV/atom)", found.rmse_before),
        ("left by the shifts, RMSE (eV/atom)", found.rmse),
        ("left by the shifts, MAE (eV/atom)", found.mae),
        (f"force cosine, mean of {found.force_cosine_atoms} atoms", found.force_cosine),
        ("force, MAE of components (eV/Å)", found.force_mae),
        ("stress, MAE of components (GPa)", found.stress_mae),
        ("pressure, mean difference (GPa)", found.pressure_difference),
    )
    return [{"quantity": name, "value": e.value, "from": e.low, "to": e.high} for name, e in rows]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(labels, name="labels")
