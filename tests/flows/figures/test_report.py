"""The report: complete, self-contained, the same for the same documents, and whole on an empty database."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobflow import run_locally
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.benchmarks.items import Item
from aqvolt_flows.benchmarks.parts import failed_row, row_of
from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.figures import plots
from aqvolt_flows.figures.jobs import ReportMaker
from aqvolt_flows.figures.paper import TABLE_1
from aqvolt_flows.figures.report import build_report, inline_svg
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.schemas.benchmark import BenchmarkDocument
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.label import LabelDocument
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_flows.schemas.sample import SampleDocument
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.stores import Database

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use", "rect"}


class Page(HTMLParser):
    """Collects ids, references and text, and checks that HTML elements close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        fetching = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        self.references += [str(values[a]) for a in fetching if values.get(a)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.handle_starttag(tag, attrs)
            self.open.pop()
        else:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def structure() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.1), ["Li", "Cl"], [[0] * 3, [0.5] * 3])


def candidate(name: str, **fields: Any) -> CandidateDocument:
    salt = structure()
    base = {"source": "user", "status": "accepted", "structure": salt.as_dict(), **describe_structure(salt)}
    return CandidateDocument(key=f"k-{name}", candidate_id=f"candidate-{name}", name=name, **(base | fields))


def trajectory(temperature: float, **fields: Any) -> TrajectoryDocument:
    base = {
        "candidate_id": "candidate-LiCl",
        "engine": "mlmd",
        "model": "7net-mf-0/R2SCAN",
        "model_hash": "0",
        "seed": 0,
        "ensemble": "npt",
        "pressure_gpa": 0.0,
        "timestep_fs": 1.0,
        "n_steps": 10,
        "steps_done": 10,
        "stride": 1,
        "n_frames": 10,
        "status": "completed",
        **describe_structure(structure()),
    }
    name = f"trajectory-{temperature:g}"
    return TrajectoryDocument(key=f"k-{name}", trajectory_id=name, temperature_k=temperature, **(base | fields))


def label(number: int, code: str, status: str = "valid") -> LabelDocument:
    protocol = Protocol(code=code, version="1", functional="chgnet/r2scan", settings_hash="abcdef0123456789")
    return LabelDocument(
        key=f"k-{number}",
        label_id=f"label-{number}",
        frame_id=f"frame-{number}",
        trajectory_id="trajectory-300",
        candidate_id="candidate-LiCl",
        source="sampled",
        status=status,
        protocol=protocol,
        failure=Failure(reason="unconverged") if status == "rejected" else None,
        protocol_id=protocol.protocol_id,
        protocol_name=protocol.name,
        builder_version="1",
        **describe_structure(structure()),
    )


def scan(database: Database, model: str, energies: np.ndarray, failed: bool) -> BenchmarkDocument:
    volumes = np.linspace(50, 150, len(energies))
    row = {
        "candidate_id": "candidate-LiCl",
        "name": "LiCl <rock salt>",
        "formula": "LiCl",
        "n_atoms": 8,
        "volumes": volumes.tolist(),
        "energies": energies.tolist(),
        "failure_reason": "flips" if failed else None,
    }
    path = database.settings.path("row.parquet")
    pq.write_table(pa.Table.from_pylist([row]), path)
    names = [f"spearman_{side}_{what}" for side in ("compression", "tension") for what in ("energy", "derivative")]
    failure = {"candidate_id": "candidate-LiCl", "formula": "LiCl", "reason": "flips", "message": "3 times"}
    return BenchmarkDocument(
        key=f"k-{model}",
        benchmark_id=f"benchmark-{model}",
        benchmark="ev_scan",
        model=model,
        model_hash="f" * 64,
        dataset="1 candidates",
        status="completed",
        n_items=1,
        n_failed=int(failed),
        metrics={"failed_percent": 100.0 * failed, **dict.fromkeys(names, -0.123)},
        failures=[failure] if failed else [],
        details=database.artifacts.put_file(path, "parquet"),
    )


def force_bins(model: str) -> BenchmarkDocument:
    numbers = {
        "n_items": 2,
        "n_failed": 0,
        "failed_percent": 0.0,
        "energy_mae_mev_per_atom": 12.5,
        "energy_mean_error_mev_per_atom": -12.5,
        "force_mae_mev_per_a": 50.0,
        "stress_mae_gpa": None,
    }
    bins = [{"low_ev_per_a": 0.0, "high_ev_per_a": 1.0, **numbers}]
    return BenchmarkDocument(
        key=f"kf-{model}",
        benchmark_id=f"benchmark-f-{model}",
        benchmark="force_bins",
        model=model,
        model_hash="f" * 64,
        dataset="demo@0123456789ab test",
        status="completed",
        n_items=2,
        n_failed=0,
        metrics={"overall": numbers, "bins": bins, "n_outside": 1},
    )


def sampling_round(database: Database) -> SampleDocument:
    """A round whose picture has one dense cell and two chosen frames."""
    path, density = database.settings.path("picture.npz"), np.zeros((4, 4), int)
    density[1, 2] = 70
    edges, chosen = np.linspace(-1, 1, 5), np.array([[0.1, 0.2], [-0.4, 0.3]], np.float32)
    np.savez(path, density=density, x_edges=edges, y_edges=edges, chosen=chosen, n_chosen=np.array(2))
    covers = {"mean": 0.0123, "p99": 0.0456, "max": 0.1, "fraction": 0.987, "n_rows": 70.0, "n_reference": 2.0}
    return SampleDocument(
        key="ks",
        sample_id="sample-1",
        encoder="chgnet/r2scan",
        encoder_sha256="0" * 64,
        layer="l",
        space_key="s",
        offer_key="o",
        parameters={},
        trajectory_ids=[],
        shards=[],
        funnel={"generated": 90, "overlapping": 17, "duplicate": 3, "encoded": 70, "selected": 2},
        new_frames=2,
        comparison={"chosen": covers, "random": covers | {"fraction": 0.5}},
        picture=database.artifacts.put_file(path, "npz"),
    )


def fill(database: Database, code: str = "surrogate") -> None:
    folder = database.settings.path("releases") / "demo"
    (folder / "data").mkdir(parents=True)
    rows = [
        {"source": "sampled", "chemsys": "Cl-Li", "cohesive_energy_per_atom": -3.5, "max_force": f, "pressure_gpa": 0.1}
        for f in (0.1, 2.0, 30.0)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train.parquet")
    reason = Failure(reason="missing_halogen", message="No <halogen>.")
    rejected = candidate("Li2O", status="rejected", rejection=reason)
    lost = trajectory(900.0, status="failed", failure=Failure(reason="lost_atoms"), steps_done=4, n_frames=4)
    database.upsert("candidates", [candidate("LiCl"), rejected])
    database.upsert("trajectories", [trajectory(300.0), lost])
    database.upsert("samples", [sampling_round(database)])
    database.upsert("labels", [label(1, code), label(2, code), label(3, code, "rejected")])
    release = ReleaseDocument(
        key="kr",
        release_id="demo@0123456789ab",
        name="demo",
        content_hash="0123456789ab",
        counts={},
        protocols={"p": 3},
        path="demo",
        manifest={},
    )
    model = ModelDocument(
        key="km",
        model_id="model-00aa",
        status="trained",
        release_id="demo@0123456789ab",
        content_hash="0123456789ab",
        architecture="eSEN-L1",
        n_parameters=1234,
        stages=[{"name": "direct", "steps": 4, "losses": [[1, 3.0], [2, 1.0]]}],
    )
    database.upsert("releases", [release])
    database.upsert("models", [model])
    curve = (np.linspace(50, 150, 11) - 100) ** 2 / 1000
    database.upsert(
        "benchmarks",
        [
            scan(database, "chgnet/r2scan", curve, False),
            scan(database, "model-00aa", np.sin(curve), True),
            force_bins("chgnet/r2scan"),
        ],
    )


def build(database: Database, name: str = "report.html") -> tuple[str, Page]:
    html = build_report(database, database.settings.path(name)).path.read_text()
    return html, Page(html)


def check_self_contained(html: str, page: Page) -> None:
    assert not page.open, "every element is closed"
    assert all(r.startswith(("#", "data:")) for r in page.references)
    assert not re.search(r"url\((?!#)", html)
    assert not re.search(r"@import|<script|<link|<iframe", html)
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(page.ids)


def test_a_campaign_is_told_whole(database: Database) -> None:
    fill(database)
    html, page = build(database)
    check_self_contained(html, page)
    assert len(set(page.ids)) == len(page.ids)
    for text in (
        "Surrogate labels",
        "missing_halogen",
        "No <halogen>.",
        "lost_atoms",
        "unconverged",
        "demo@0123456789ab",
        "eSEN-L1 00aa",
        "1,234",
        "LiCl <rock salt>",
        "chgnet/r2scan made labels",
        "overlapping × 17",
        "0.0456",
        "98.7",
    ):
        assert text in page.text, text
    for row in TABLE_1:
        assert row.model in page.text
    assert "They are not computed here" in page.text
    assert "−0.123" in page.text
    # funnel, map, three distributions, elements, training, one E–V panel, three force panels
    assert html.count("<svg ") == 11


def test_a_model_says_what_it_was_trained_and_validated_on(database: Database) -> None:
    fill(database)
    model = ModelDocument(
        key="km2",
        model_id="model-00bb",
        status="trained",
        release_id="a@1",
        content_hash="01",
        architecture="eSEN-L1",
        sources=[
            {"release_id": "a@1", "content_hash": "01", "name": "a", "weight": 1.0},
            {"release_id": "b@2", "content_hash": "02", "name": "b", "weight": 0.25},
        ],
        validated_on="train",
        preflight={
            "findings": [{"fate": "dropped", "sentence": "3 of 9 train labels of b have no stress: x, y, z"}],
            "references": {"undetermined": ["Li - F - Cl"]},
        },
    )
    database.upsert("models", [model])
    html, page = build(database)
    check_self_contained(html, page)
    for text in (
        "a@1 + b@2 × 0.25",
        "training frames: there was no validation frame",
        "3 of 9 train labels of b have no stress: x, y, z",
        "Li - F - Cl is left open by the compositions",
    ):
        assert text in page.text, text


def test_the_same_documents_give_the_same_page_which_is_kept(database: Database) -> None:
    fill(database)
    path = database.settings.path("report.html")
    first = build_report(database, path)
    before = path.stat().st_mtime_ns
    second = build_report(database, path)
    assert (first.changed, second.changed) == (True, False)
    assert second.sha256 == first.sha256
    assert path.stat().st_mtime_ns == before
    database["labels"].update_many({}, {"$set": {"protocol.code": "vasp"}})
    assert build_report(database, path).changed
    # labels of DFT are not announced as surrogate
    assert "Surrogate labels" not in path.read_text()


def test_an_empty_database_gives_a_whole_page(database: Database) -> None:
    html, page = build(database)
    check_self_contained(html, page)
    for what in ("labels", "candidates", "trajectories", "release", "model", "benchmarks"):
        assert f"No {what} yet" in page.text
    assert "Surrogate" not in page.text


def test_missing_files_do_not_hide_the_rest(database: Database) -> None:
    fill(database)
    for path in Path(database.settings.path("artifacts")).rglob("*.parquet"):
        path.unlink()
    for path in Path(database.settings.path("artifacts")).rglob("*.npz"):
        path.write_bytes(b"PK cut short")
    (database.settings.path("releases") / "demo" / "data" / "train.parquet").write_bytes(b"PAR1 cut short")
    html, page = build(database)
    check_self_contained(html, page)
    assert "demo@0123456789ab" in page.text


def test_a_failed_benchmark_says_why(database: Database) -> None:
    failure = Failure(reason="cannot_run", message="The split is empty.")
    failed = force_bins("chgnet/r2scan").model_copy(update={"status": "failed", "metrics": {}, "failure": failure})
    database.upsert("benchmarks", [failed])
    assert "The split is empty." in build(database)[1].text


def test_the_job_writes_into_the_project(database: Database) -> None:
    job = ReportMaker().make("key")
    output = run_locally(job, ensure_success=True, log=False)[job.uuid][1].output
    assert Path(output["path"]) == database.settings.path("report.html")
    assert Path(output["path"]).stat().st_size == output["bytes"]


def test_a_place_that_cannot_be_written_is_a_sentence(database: Database) -> None:
    (database.settings.path(".") / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        build_report(database, database.settings.path("file") / "report.html")
    assert not list(database.settings.path(".").glob(".report*"))


def test_figures_take_the_page_s_colours_and_their_own_ids() -> None:
    svg = inline_svg(plots.distribution({"train": [1, 2]}, "x"), "one", 'a "b" <c>')
    assert "var(--ink)" in svg
    assert "#1d2733" not in svg
    assert 'aria-label="a &quot;b&quot; &lt;c>"' in svg
    other = inline_svg(plots.distribution({"train": [1, 2]}, "x"), "two", "")
    assert not set(Page(svg).ids) & set(Page(other).ids)


def relaxations(database: Database, model: str, distances: list[float | None]) -> BenchmarkDocument:
    """The document of relaxations of some crystals, the last of which has an element that the model does not know."""
    benchmark = benchmark_named("relaxation")
    salt = Structure(Lattice.cubic(4), ["Li", "Cl"], [[0] * 3, [0.5] * 3])
    items = [Item(f"LiCl {i}", f"item-{i}", salt, source="user") for i in range(len(distances) + 1)]
    rows = [
        row_of(item, distance=d, distance_displaced=0.4)
        if d is not None
        else failed_row(item, Failure(reason="exploded", message="the volume doubled"))
        for item, d in zip(items, distances, strict=False)
    ]
    rows.append(failed_row(items[-1], Failure(reason="not_covered", message="no Cl")))
    table = pa.Table.from_pylist(rows, schema=benchmark.table_schema())
    path = database.settings.path(f"{model.replace('/', '-')}.parquet")
    pq.write_table(table, path)
    resolved = ResolvedModel(model, model, "f" * 64)
    document = benchmark.document(
        f"kr-{model}", resolved, "crystals.cif", None, table.to_pylist(), benchmark.parameters()
    )
    document.details = database.artifacts.put_file(path, "parquet")
    return document


def test_benchmarks_of_rows_have_distributions_and_models_are_compared(database: Database) -> None:
    documents = [
        relaxations(database, "chgnet/r2scan", [0.1, 0.2, None]),
        relaxations(database, "7net-mf-0/R2SCAN", [0.3, 0.5, 0.4]),
    ]
    database.upsert("benchmarks", documents)
    html, page = build(database)
    check_self_contained(html, page)
    assert "Relaxation of displaced structures" in page.text
    assert "fingerprint distance, crystals.cif" in page.text
    assert "chgnet/r2scan (2 of 3)" in page.text, "what is not covered is in no share"
    assert "exploded 1" in page.text
    assert "Models on the same structures" in page.text
    # 7net first: 0.1 − 0.3 and 0.2 − 0.5 on the two that both relaxed
    assert "−0.25" in page.text
    assert len(page.ids) == len(set(page.ids))


def test_force_bins_have_a_figure_per_set_and_source(database: Database) -> None:
    first, second = force_bins("chgnet/r2scan"), force_bins("7net-mf-0/R2SCAN")
    part = {"overall": first.metrics["overall"], "bins": first.metrics["bins"], "n_outside": 0}
    second.metrics["by_source"] = [part | {"name": "sampled"}, part | {"name": "aimd.json"}]
    other = force_bins("chgnet/r2scan")
    other.key, other.benchmark_id, other.dataset = "k-other", "benchmark-other", "other.extxyz"
    database.upsert("benchmarks", [first, second, other])
    html, page = build(database)
    check_self_contained(html, page)
    for said in ("sampled", "aimd.json", "other.extxyz"):
        assert f"energy MAE (meV/atom)\n{said}" in page.text or said in page.text
    assert len(page.ids) == len(set(page.ids))
