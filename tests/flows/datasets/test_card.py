"""Card, statistics, pictures and Croissant: recomputed from the Parquet by a script that shares no code, and opened."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct

import numpy as np
import pytest
import recompute_card
from conftest_release import make_labels
from PIL import Image

from aqvolt_flows.datasets import folder, plots
from aqvolt_flows.datasets.columns import BY_NAME, SCHEMA
from aqvolt_flows.datasets.croissant import content_uri
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.datasets.stats import BINS, statistics
from aqvolt_flows.schemas.parameters import ReleaseParameters


@pytest.fixture
def released(labelled, parameters, tmp_path):
    """A release with two sources, a hold-out and pictures."""
    aimd = [label.model_copy(update={"source": "aimd"}) for label in make_labels(range(40, 46))]
    labelled.upsert("labels", [*aimd, *make_labels(range(50, 54), "LiF")])
    labelled["labels"].update_many({"frame_id": {"$gte": "frame-0050"}}, {"$set": {"source": "gnome"}})
    wanted = ReleaseParameters(
        **(parameters.model_dump() | {"hold_out": {"gnome": {"source": "gnome"}}, "published": "2026-11-25"})
    )
    document = create_release(labelled, wanted, tmp_path / "releases")
    return tmp_path / "releases" / document.path


def test_every_table_of_the_card_follows_from_the_parquet(released):
    told, found = recompute_card.printed(released), recompute_card.expected(released)
    assert [row[0] for row in told["Splits"][0]] == ["train", "val", "test", "gnome"]
    assert [row[0] for row in told["Sources"][0]] == ["aimd", "gnome", "sampled", "all"]
    assert [len(table) for table in told["Leakage"]] == [3, 3]
    assert told == found


def test_the_headline_and_the_counts_follow_from_the_parquet(released):
    data = recompute_card.read(released)
    text = (released / "README.md").read_text()
    elements = {e for system in data.chemsys for e in system.split("-")}
    assert (
        f"{len(data)} labelled configurations with {data.n_atoms.sum()} atoms, {data.formula.nunique()} compositions, "
        f"{len(elements)} elements" in text
    )
    stats = json.loads((released / "stats.json").read_text())
    assert stats["elements"] == {e: int(data.chemsys.str.split("-").map(lambda s, e=e: e in s).sum()) for e in elements}
    assert stats["elements_formulas"] == {"Li": 2, "F": 1, "Cl": 1}
    assert stats["n_elements"] == {"2": len(data)}
    assert stats["n_sites"] == {"8": len(data)}
    assert stats["formulas"] == data.formula.value_counts().to_dict()
    assert re.search(r"^size_categories:\n- n<1K$", text, re.MULTILINE)


def test_the_histograms_count_what_numpy_counts(released):
    data = recompute_card.read(released)
    stats = json.loads((released / "stats.json").read_text())
    for source, part in data.groupby("source"):
        wanted = {
            "cohesive_energy_per_atom": part.cohesive_energy_per_atom,
            "force": np.log10(recompute_card.forces(part)),
            "pressure_gpa": part.pressure_gpa,
        }
        for name, values in wanted.items():
            low, high, bins = BINS[name]
            edges = np.linspace(low, high, bins + 1)
            assert stats["histograms"][name]["counts"][source] == np.histogram(values, edges)[0].tolist()


def test_what_lies_outside_the_bins_counts_in_the_outer_ones(database, parameters, tmp_path):
    labels = make_labels(range(6))
    database.upsert("labels", [x.model_copy(update={"pressure_gpa": 1e4}) for x in labels])
    path = tmp_path / create_release(database, parameters, tmp_path).path
    counts = statistics(folder.split_paths(path))["histograms"]["pressure_gpa"]["counts"]["sampled"]
    assert (counts[-1], sum(counts)) == (6, 6)


def test_unknown_cohesive_energies_are_said_to_be_unknown(database, parameters, tmp_path):
    labels = make_labels(range(6))
    database.upsert("labels", [x.model_copy(update={"cohesive_energy_per_atom": None}) for x in labels])
    path = tmp_path / create_release(database, parameters, tmp_path).path
    text = (path / "README.md").read_text()
    assert "| sampled | 6 | 1 | not known |" in text
    assert "The cohesive energy of 6 frames is unknown" in text
    assert recompute_card.printed(path)["Distributions"] == recompute_card.expected(path)["Distributions"]


def test_pictures_are_on_the_card_and_not_empty(released):
    manifest = folder.read_manifest(released)
    text = (released / "README.md").read_text()
    assert manifest["plots"] == [f"plots/{n}" for n in ("distributions.png", "elements.png", "structures.png")]
    for name in manifest["plots"]:
        assert f"]({name})" in text
        image = np.asarray(Image.open(io.BytesIO((released / name).read_bytes())).convert("L"))
        assert min(image.shape) > 300
        assert 0.01 < (image < 128).mean() < 0.5, "ink, and more paper than ink"


def test_pictures_twice_are_the_same_bytes_without_a_date(released):
    stats = json.loads((released / "stats.json").read_text())
    first = plots.pictures(stats)
    assert first == plots.pictures(stats) == {n: (released / "plots" / n).read_bytes() for n in first}
    for data in first.values():
        assert chunks(data) <= {b"IHDR", b"pHYs", b"tEXt", b"IDAT", b"IEND"}
        assert b"Software\0aqvolt-flows" in data


def chunks(png):
    """Return the names of a PNG's chunks; a tIME chunk would carry a date."""
    names, at = set(), 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        names.add(png[at + 4 : at + 8])
        at += length + 12
    return names


def test_elements_have_their_place_in_the_table():
    assert [plots.place(e) for e in ("H", "Li", "Cl", "I")] == [(1, 1), (1, 2), (17, 3), (17, 5)]
    assert plots.place("Ce")[1] == plots.place("Lu")[1] > 7
    assert len({plots.place(e) for e in ("La", "Ce", "Y", "Hf", "Ac", "U", "Lr")}) == 7


def test_without_matplotlib_a_release_has_no_pictures_and_is_whole(labelled, parameters, tmp_path, monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / create_release(labelled, parameters, tmp_path).path
    assert folder.verify(path)["counts"]["total"] == 30
    assert not (path / "plots").exists()
    assert "![" not in (path / "README.md").read_text()


class TestCroissant:
    def test_it_has_what_the_specification_requires(self, released):
        told = json.loads((released / "croissant.json").read_text())
        required = {"@context", "@type", "conformsTo", "name", "description", "license", "url", "creator"}
        assert required | {"distribution", "recordSet"} <= told.keys()
        assert told["datePublished"] == "2026-11-25"
        assert told["@type"] == "sc:Dataset"
        assert told["license"] == ["https://spdx.org/licenses/CC-BY-4.0.html", "unknown"], "of gnome nothing is known"
        files = {f["@id"]: f for f in told["distribution"]}
        assert list(files) == [f"{n}.parquet" for n in ("train", "val", "test", "gnome")]
        for file in files.values():
            data = (released / file["contentUrl"]).read_bytes()
            assert (file["sha256"], file["contentSize"]) == (hashlib.sha256(data).hexdigest(), f"{len(data)} B")
        assert set(BY_NAME) == set(SCHEMA.names)
        for records in told["recordSet"][1:]:
            assert [f["source"]["extract"]["column"] for f in records["field"]] == SCHEMA.names
            assert {f["source"]["fileObject"]["@id"] for f in records["field"]} == {f"{records['@id']}.parquet"}

    def test_the_uri_names_the_hash_as_rfc_6920_does(self):
        # RFC 6920 section 8.1: the SHA-256 of "Hello World!".
        digest = hashlib.sha256(b"Hello World!").hexdigest()
        assert content_uri(digest) == "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
    def test_mlcroissant_accepts_it_and_reads_the_records(self, released):
        mlc = pytest.importorskip("mlcroissant")
        dataset = mlc.Dataset(str(released / "croissant.json"))
        assert not dataset.metadata.issues.errors
        assert not dataset.metadata.issues.warnings
        data = recompute_card.read(released)
        wanted = data[data.split == "gnome"].set_index("label_id")
        records = list(dataset.records("gnome"))
        assert len(records) == len(wanted) == 4
        for record in records:
            row = wanted.loc[record["gnome/label_id"].decode()]
            assert record["gnome/energy"] == row.energy
            np.testing.assert_array_equal(np.stack(list(record["gnome/forces"])), np.stack(row.forces))
