"""``aqvolt query`` and ``aqvolt why``: what the collections hold, and where a frame comes from and went."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import batched
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.documents import dig, parse_filter, print_csv, print_json
from aqvolt_launch.cli.here import anywhere, require_project
from aqvolt_launch.cli.options import AllCampaigns, Json, OneCampaign

#: What a table shows of each collection when nothing else is asked for; of others, identity and indexed fields.
COLUMNS = {
    "candidates": ("candidate_id", "name", "formula", "n_atoms", "source", "status"),
    "trajectories": ("trajectory_id", "formula", "temperature_k", "n_frames", "status"),
    "features": ("shard_id", "encoder", "n_frames", "n_atoms", "stride", "seconds"),
    "samples": ("sample_id", "encoder", "funnel.generated", "funnel.encoded", "funnel.selected", "coverage.p99"),
    "frames": ("frame_id", "formula", "n_atoms", "temperature_k", "step", "surrogate_max_force"),
    "labels": ("label_id", "formula", "energy_per_atom", "max_force", "pressure_gpa", "status", "protocol_name"),
    "releases": ("release_id", "counts.total", "counts.by_split", "path", "last_updated"),
    "models": ("model_id", "architecture", "release_id", "status", "seconds"),
    "benchmarks": ("benchmark", "model", "dataset", "status", "n_items", "n_failed", "metrics"),
    "costs": ("stage", "n_documents", "n_failed", "n_atoms", "core_hours"),
    "builds": ("builder", "builder_version", "cut", "n_labels", "last_updated"),
    "outputs": ("uuid", "name", "completed_at", "metadata.aqvolt.stage"),
    "holds": ("hold_id", "kind", "what", "status", "reason.reason", "since"),
}
FORMATS = ("table", "json", "csv", "extxyz")
#: How far matches are counted for the line below a table; counting reads every one of them.
_COUNTED = 10_000
_SHOWN = 200


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog="""Example: aqvolt query labels '{"chemsys": "Cl-Li-Y", "max_force": {"$lt": 5}}' """
        "--format extxyz > frames.xyz; aqvolt query --release releases/halides-0f3a5c7e9b1d --sql "
        "'SELECT formula, count(*) FROM labels GROUP BY formula'"
    )(query)
    app.command(epilog="Example: aqvolt why frame-0f3a5c7e9b1d2f4a6c8e0a1b")(why)


@anywhere
def query(
    collection: Annotated[str, typer.Argument(help=f"One of {', '.join(COLUMNS)}.")] = "labels",
    filter: Annotated[str, typer.Argument(help="MongoDB query as JSON.")] = "{}",
    release: Annotated[
        str | None,
        typer.Option(
            "--release",
            help="Query the labels of a release folder with DuckDB, without a database; or of a release_id or name.",
            show_default=False,
        ),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option("--sql", help="With --release: a SELECT over labels, train, val, test …", show_default=False),
    ] = None,
    fields: Annotated[str | None, typer.Option(help="Comma-separated fields, dots for nested ones.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of documents; 0: 20 for tables, else all.")] = 0,
    campaign: OneCampaign = None,
    all_campaigns: AllCampaigns = False,
    format: Annotated[
        str, typer.Option("--format", help="table, json, csv, or extxyz (labels, frames, candidates).")
    ] = "table",
    as_json: Json = False,
) -> None:
    """Print documents of a collection, or labels of a release folder.

    A release understands the same filters but $exists, dates, and patterns that look around; it has no rejected labels.
    """
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import IDENTITIES, INDEXES
    from aqvolt_launch.chain import view_of

    wanted = "json" if as_json else format
    if wanted not in FORMATS:
        raise InputError(f"There is no format {wanted!r}; known are {', '.join(FORMATS)}.")
    if release is not None or sql is not None:
        from aqvolt_launch.cli.query_release import query_release

        query_release(release, sql, collection, filter, fields.split(",") if fields else None, limit, wanted)
        return
    require_project()
    criteria = parse_filter(filter)
    database = view_of(load_settings(), campaign, all_campaigns)
    source = database.own(collection)
    if wanted == "extxyz" and collection not in ("labels", "frames", "candidates"):
        raise InputError(f"{collection} hold no structures; extxyz is for labels, frames and candidates.")
    whole = wanted == "extxyz" or (wanted == "json" and not fields)
    names = (
        fields.split(",") if fields else list(COLUMNS.get(collection) or (IDENTITIES[collection], *INDEXES[collection]))
    )
    projection = {"_id": 0} | ({} if whole else dict.fromkeys(names, 1))
    size = limit or (20 if wanted == "table" else 0)
    slow = unindexed(collection, criteria)
    if slow:
        output.note(f"No index serves {', '.join(slow)}; every document of {collection} is read.")
    documents = _stream(source, criteria, projection, IDENTITIES.get(collection, "_id"), size)
    if wanted == "extxyz":
        _print_extxyz(database, collection, documents)
    elif wanted == "json":
        print_json(d if whole else {n: dig(d, n) for n in names} for d in documents)
    elif wanted == "csv":
        print_csv(names, documents)
    else:
        rows = [{n: dig(d, n) for n in names} for d in documents]
        output.table(rows, title=collection, columns=names)
        total = source.count_documents(criteria, limit=_COUNTED) if criteria else source.estimated_document_count()
        if total > len(rows):
            several = f"{_COUNTED} or more" if criteria and total == _COUNTED else str(total)
            output.say(f"{len(rows)} of {several}; --limit shows more")


def _stream(
    source: Any, criteria: dict[str, Any], projection: dict[str, int], identity: str, limit: int
) -> Iterator[dict[str, Any]]:
    """Yield the documents that match, in the order of their identities; memory holds identities and one batch.

    Sorting is done here: the embedded server sorts by holding whole documents, and refuses to hold many.
    """
    from pymongo.errors import OperationFailure

    from aqvolt_flows.errors import InputError
    from aqvolt_flows.stores import IDS_AT_ONCE, by_ids

    try:
        ids = sorted((d[identity] for d in source.find(criteria, {"_id": 0, identity: 1}).limit(limit)), key=str)
    except (OperationFailure, KeyError) as error:
        said = (getattr(error, "details", None) or {}).get("errmsg") or error
        raise InputError(f"The database refused the filter ({str(said)[:_SHOWN]}); correct it.") from None
    wanted = {k: v for k, v in projection.items() if k != "_id"}
    hidden = {} if identity == "_id" else {"_id": 0}
    chosen = hidden | (wanted | {identity: 1} if wanted else {})
    for batch in batched(ids, IDS_AT_ONCE):
        found = {d[identity]: d for d in by_ids(source.collection, identity, batch, chosen)}
        yield from ({k: v for k, v in found[i].items() if k != "_id"} for i in batch if i in found)


def unindexed(collection: str, criteria: dict[str, Any]) -> list[str]:
    """Return the fields of a query if no index serves any of them, so that the server must read every document."""
    from aqvolt_flows.membership import FIELDS
    from aqvolt_flows.stores import IDENTITIES, INDEXES

    known = {
        *INDEXES.get(collection, ()),
        FIELDS.get(collection, "key"),
        "key",
        "_id",
        IDENTITIES.get(collection, "uuid"),
    }
    fields = queried_fields(criteria)
    return sorted(fields) if fields and not fields & known else []


def queried_fields(criteria: dict[str, Any]) -> set[str]:
    """Return the fields that a MongoDB query names, those inside ``$and``, ``$or`` and ``$nor`` included."""
    found: set[str] = set()
    for name, value in criteria.items():
        if name in {"$and", "$or", "$nor"} and isinstance(value, list):
            for part in value:
                found |= queried_fields(part) if isinstance(part, dict) else set()
        elif not name.startswith("$"):
            found.add(name)
    return found


def _print_extxyz(database: Any, collection: str, documents: Any) -> None:
    import ase.io

    for document in documents:
        atoms = _atoms(database, collection, document)
        if atoms is not None:
            ase.io.write(sys.stdout, atoms, format="extxyz")


def _atoms(database: Any, collection: str, document: dict[str, Any]) -> Any:
    """Return ASE Atoms of a document; ``None`` for a rejected label, which has none."""
    if collection == "labels":
        from aqvolt_flows.datasets.rows import row_from_label

        return row_from_label(document).to_atoms() if document["status"] == "valid" else None
    if collection == "frames":
        from aqvolt_flows.frames import read_frame
        from aqvolt_flows.schemas.provenance import ArtifactRef

        path = database.artifacts.local_path(ArtifactRef(**document["artifact"]))
        atoms = read_frame(path, document["row"]).to_atoms()
        atoms.info["frame_id"] = document["frame_id"]
        return atoms
    from pymatgen.core import Structure

    atoms = Structure.from_dict(document["structure"]).to_ase_atoms(msonable=False)
    atoms.info = {"candidate_id": document["candidate_id"]}
    return atoms


def why(
    frame_id: Annotated[str, typer.Argument(help="Identity of a frame or a label, e.g. from a Parquet's columns.")],
    as_json: Json = False,
) -> None:
    """Print a frame's lineage: candidate, trajectory, frame, labels, releases, models, benchmarks.

    Of a frame that a loop was offered it also says why each round chose it for labeling, or did not.
    """
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.stores import Database
    from aqvolt_launch.loop import judgments

    database = Database.connect()
    judged = judgments(database, frame_id)
    try:
        steps = lineage(database, frame_id) + judged
    except InputError:
        if not judged:
            raise
        steps = judged
    if as_json:
        output.emit(steps)
        return
    rows = [{"what": step["what"], "identity": step["identity"], "facts": step["facts"]} for step in steps]
    output.table(rows, title=frame_id)


def lineage(database: Any, frame_id: str) -> list[dict[str, Any]]:
    """Return the steps from candidate to benchmark that involve a frame, each with what, identity and facts.

    Raises
    ------
    InputError
        If neither ``frames`` nor ``labels`` knows the frame.
    """
    from aqvolt_flows.errors import InputError

    if frame_id.startswith("label-"):
        label = database["labels"].find_one({"label_id": frame_id}, {"frame_id": 1})
        frame_id = label["frame_id"] if label else frame_id
    frame = database["frames"].find_one({"frame_id": frame_id}, {"_id": 0})
    labels = list(
        database["labels"].find({"frame_id": frame_id}, {"positions": 0, "forces": 0, "_id": 0}).sort("label_id", 1)
    )
    if frame is None and not labels:
        raise InputError(f"There is no frame {frame_id!r} in frames or labels; see 'aqvolt query frames'.")
    steps: list[dict[str, Any]] = []
    known = frame or labels[0]
    for number, candidate in enumerate(_ancestry(database, known.get("candidate_id"))):
        what = "candidate" if number == 0 else "parent"
        steps.insert(0, _step(what, candidate["candidate_id"], candidate, "name", "formula", "source", "references"))
    run = database["trajectories"].find_one({"trajectory_id": known.get("trajectory_id")})
    if run:
        steps.append(
            _step("trajectory", run["trajectory_id"], run, "model", "ensemble", "temperature_k", "steps_done", "status")
        )
    if frame:
        steps.append(
            _step("frame", frame_id, frame, "formula", "n_atoms", "step", "temperature_k", "structure_cluster")
        )
    for label in labels:
        names = (
            "status",
            "protocol_name",
            "energy_per_atom",
            "max_force",
            "cohesive_energy_per_atom",
            "failure",
            "source",
            "step",
            "provenance",
            "source_uuid",
        )
        steps.append(_step("label", label["label_id"], label, *names))
    return steps + _downstream(database, frame_id)


def _ancestry(database: Any, candidate_id: str | None) -> Iterator[dict[str, Any]]:
    """Yield a candidate, what it was made from, and so on up to a structure that was not made of another."""
    seen: set[str] = set()
    while candidate_id and candidate_id not in seen:
        seen.add(candidate_id)
        found = database["candidates"].find_one({"candidate_id": candidate_id}, {"structure": 0, "decisions": 0})
        if found is None:
            return
        yield found
        candidate_id = found.get("parent_id")


def _step(what: str, identity: str, document: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {
        "what": what,
        "identity": identity,
        "facts": {f: document[f] for f in fields if document.get(f) is not None},
    }


def _downstream(database: Any, frame_id: str) -> list[dict[str, Any]]:
    """Return releases that hold the frame, models trained on their content, and benchmarks of either."""
    from aqvolt_flows.datasets.folder import frame_split
    from aqvolt_flows.releases import release_path

    steps: list[dict[str, Any]] = []
    hashes: set[str] = set()
    ids: list[str] = []
    for release in database["releases"].find({}, {"manifest": 0}).sort("release_id", 1):
        folder = release_path(database, release)
        if not folder.is_dir():
            facts = {"folder": f"{folder} is not on this machine, so whether it holds the frame is unknown"}
            steps.append({"what": "release?", "identity": release["release_id"], "facts": facts})
            continue
        places = frame_split(folder, frame_id)
        if places:
            hashes.add(release["content_hash"])
            ids.append(release["release_id"])
            found = {"split": sorted(set(places.values())), "content_hash": release["content_hash"]}
            steps.append({"what": "release", "identity": release["release_id"], "facts": found})
    models = list(database["models"].find({"content_hash": {"$in": sorted(hashes)}}).sort("model_id", 1))
    steps += [_step("model", m["model_id"], m, "architecture", "release_id", "status") for m in models]
    used = {
        "$or": [
            {"release_id": {"$in": ids}},
            {"model_id": {"$in": [m["model_id"] for m in models]}},
        ]
    }
    for row in database["benchmarks"].find(used).sort("benchmark_id", 1):
        shown = ("benchmark", "model", "dataset", "status", "n_items", "n_failed")
        steps.append(_step("benchmark", row["benchmark_id"], row, *shown))
    return steps
