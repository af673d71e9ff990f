"""``aqvolt labels import | sweep``, and that every documented query has an index."""

from __future__ import annotations

import json
import re
from pathlib import Path

import label_factory
import numpy as np
import pytest
from conftest_release import make_labels
from in_process import command_of
from vasp_forms import MATPES, Form, write_run

from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import import_labels
from aqvolt_flows.datasets.importers.published import ImportOptions
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import ReleaseParameters
from aqvolt_launch.cli import labels, query

ROOT = Path(__file__).parents[3]
ELEMENTS = ROOT / "tests" / "flows" / "datasets" / "data" / "matpes_r2scan_elements.json.gz"


@pytest.fixture
def aqvolt(database):
    return command_of(labels, query)


def test_import_then_query_then_why(aqvolt, database):
    (report,) = json.loads(aqvolt("labels", "import", ELEMENTS, "--source", "matpes", "--json"))
    assert (report["read"], report["labels"], report["new"], report["quarantined"]) == (89, 89, 89, 0)
    assert report["protocols"] == {"external:r2SCAN@MatPES": 89}
    assert "89" in aqvolt("labels", "import", ELEMENTS, "--source", "matpes")
    assert database["labels"].count_documents({}) == 89
    (ac,) = json.loads(aqvolt("query", "labels", '{"chemsys": "Ac"}', "--format", "json"))
    assert ac["energy"] == -274.54137267  # the file's first document
    assert ac["cohesive_energy_per_atom"] == -3.5496903275000022  # the document's own: our table ends at Bi
    steps = json.loads(aqvolt("why", ac["label_id"], "--json"))
    assert [s["what"] for s in steps] == ["label"]
    assert steps[0]["facts"]["provenance"]["record_id"] == "mp-862690"


def test_an_element_left_out_is_counted(aqvolt):
    (report,) = json.loads(
        aqvolt("labels", "import", ELEMENTS, "--source", "matpes", "--exclude-element", "Yb", "--json")
    )
    assert (report["labels"], report["skipped"]) == (88, {"excluded_element": 1})


def test_a_folder_of_vasp_runs(aqvolt, database, tmp_path, monkeypatch):
    write_run(tmp_path / "a", Form())
    write_run(tmp_path / "b", Form("6.1.1"))
    write_run(tmp_path / "c", Form(incar={k: v for k, v in MATPES.items() if k != "METAGGA"} | {"NSW": 3}, steps=2))
    monkeypatch.chdir(tmp_path)
    (report,) = json.loads(aqvolt("labels", "import", ".", "--source", "vasp", "--license", "mit", "--json"))
    assert (report["labels"], report["quarantined"], report["skipped"]) == (1, 1, {"other_functional": 1})
    assert report["file"] == tmp_path.name
    label = database["labels"].find_one({})
    assert (label["source"], label["provenance"]["license"]) == ("VASP", "mit")
    assert label["provenance"]["file"] == "a/vasprun.xml", "no path of this machine is kept"
    more = ("--functional", "any", "--patched-vasp", "--json")
    (report,) = json.loads(aqvolt("labels", "import", tmp_path, "--source", "vasp", *more))
    assert (report["labels"], report["new"]) == (4, 2), "the patched run has the numbers of the first"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ELEMENTS, "--source", "matpas"), "--source is 'matpas'"),
        (("nowhere.json", "--source", "matpes"), "There is no file nowhere.json"),
        (("nowhere", "--source", "vasp"), "There is no folder nowhere"),
        ((ELEMENTS.parent, "--source", "vasp"), "nothing was added"),
        ((ELEMENTS, "--source", "vasp", "--stride", "0"), "--stride is 0"),
        ((ELEMENTS, "--source", "mp"), "nothing was added"),
        ((ELEMENTS, "--source", "aqvolt26"), "is not Parquet"),
        ((ELEMENTS, "--source", "extxyz", "--stress-unit", "psi"), "The unit of stress 'psi' is not known"),
    ],
)
def test_bad_input_is_one_sentence(aqvolt, arguments, message):
    with pytest.raises(InputError) as error:
        aqvolt("labels", "import", *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_release_comes_back_with_its_identities_and_protocol(database, tmp_path):
    made = make_labels(range(20))
    database.upsert("labels", made)
    release = create_release(database, ReleaseParameters(name="x"), tmp_path / "releases")
    database["labels"].delete_many({})
    options = ImportOptions(source="aqvolt26")
    for path in sorted((tmp_path / "releases" / release.path / "data").glob("*.parquet")):
        import_labels(database, read_labels(path, options), options, tmp_path / "q.jsonl")
    found = {d["label_id"]: d for d in database["labels"].find({})}
    assert set(found) == {label.label_id for label in made}
    for label in made:
        again = found[label.label_id]
        assert again["protocol"] == label.protocol.model_dump()
        assert (again["energy"], again["candidate_id"], again["source"]) == (
            label.energy,
            label.candidate_id,
            "AQVolt26",
        )
        np.testing.assert_array_equal(again["forces"], label.forces)


class TestSweep:
    @pytest.fixture
    def stored(self, database):
        made = make_labels(range(12))
        copies = [m.model_copy(update={"label_id": f"{m.label_id}-again", "key": f"{m.key}-again"}) for m in made[:3]]
        database.upsert("labels", made + copies)
        return [*made, *copies]

    def test_counts_are_those_of_numpy(self, aqvolt, stored):
        forces = np.array([label.max_force for label in stored])
        values = [0.3, float(np.median(forces)), 800.0]
        rows = json.loads(aqvolt("labels", "sweep", "max_force", *values, "--json"))
        assert [(r["value"], r["kept"]) for r in rows] == [(v, int((forces <= v).sum())) for v in values]
        energies = np.array([label.cohesive_energy_per_atom for label in stored])
        rows = json.loads(aqvolt("labels", "sweep", "cohesive_energy", "-2.9", "0", "--json"))
        assert [r["dropped"] for r in rows] == [int((energies > v).sum()) for v in (-2.9, 0.0)]

    def test_duplicates_and_incomplete_ones(self, aqvolt, stored, database):
        assert [r["dropped"] for r in json.loads(aqvolt("labels", "sweep", "duplicate", "0.001", "--json"))] == [3]
        database["labels"].update_one({"label_id": stored[5].label_id}, {"$set": {"forces": None}})
        assert [r["dropped"] for r in json.loads(aqvolt("labels", "sweep", "incomplete", "--json"))] == [1]
        (asked,) = json.loads(aqvolt("labels", "sweep", "max_force", "1", "--query", '{"chemsys": "K"}', "--json"))
        assert (asked["kept"], asked["dropped"]) == (0, 0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(("max_farce", "1"), "no filter 'max_farce'"), (("max_force", "-1"), "greater than 0")],
    )
    def test_bad_input_is_one_sentence(self, aqvolt, arguments, message):
        with pytest.raises(InputError, match=message):
            aqvolt("labels", "sweep", *arguments)


def documented_queries():
    """Every ``aqvolt query COLLECTION 'JSON'`` of the docs and the command's own help."""
    pattern = re.compile(r"aqvolt query (\w+) '(\{.*?\})'")
    texts = [path.read_text() for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]]
    texts.append(query.query.__doc__ or "")
    return sorted({found for text in texts for found in pattern.findall(text)})


def test_every_documented_query_has_an_index():
    found = documented_queries()
    assert len(found) > 3
    for collection, criteria in found:
        assert query.unindexed(collection, query.parse_filter(criteria)) == [], (collection, criteria)


def test_a_query_that_no_index_serves_says_so(database):
    label_factory.fill(database, 1)
    assert query.unindexed("labels", {"bandgap": {"$gt": 1}, "$or": [{"volume": 1}]}) == ["bandgap", "volume"]
    assert query.unindexed("labels", {"bandgap": 1, "chemsys": "Cl-Li"}) == []
    assert query.unindexed("outputs", {"uuid": "x"}) == query.unindexed("labels", {}) == []
