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
    assert (report["labels"], report["new"]) == (3, 2)
    assert report["skipped"] == {"repeated": 1}, "the patched run has the numbers of the first"


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


def extxyz(path, *comments, name="forces", atoms="Li 0 0 0 0.1 0 0\nCl 2.5 2.5 2.4 -0.1 0 0\n"):
    head = f'Lattice="5.1 0 0 0 5.1 0 0 0 5.1" Properties=species:S:1:pos:R:3:{name}:R:3'
    path.write_text("".join(f"2\n{head} {comment}\n{atoms}" for comment in comments))
    return path


class TestImportOptions:
    STRESS = 'stress="1 0 0 0 1 0 0 0 1"'

    def run(self, aqvolt, *arguments):
        (report,) = json.loads(aqvolt("labels", "import", *arguments, "--source", "extxyz", "--json"))
        return report

    def test_keys_and_units(self, aqvolt, database, tmp_path):
        path = extxyz(tmp_path / "x.xyz", f"energy=-1 REF_energy=-0.5 my={self.STRESS[7:]}", name="f")
        with pytest.raises(InputError, match=r"two_keys: it has energy -1 and REF_energy -0.5, .* no forces under"):
            self.run(aqvolt, path)
        keys = ("--energy-key", "REF_energy", "--forces-key", "f", "--stress-key", "my")
        report = self.run(aqvolt, path, *keys, "--units", "energy=hartree,forces=hartree/bohr,stress=GPa")
        assert (report["labels"], report["remarks"]) == (1, [
            "The file does not say its functional; the labels are taken as r2SCAN (--functional).",
            "Not read: energy.",
        ])  # fmt: skip
        (label,) = database["labels"].find({})
        assert label["energy"] == pytest.approx(-0.5 * 27.211386246)
        assert label["forces"][0][0] == pytest.approx(0.1 * 27.211386246 / 0.529177211)
        assert label["pressure_gpa"] == pytest.approx(-1.0)

    def test_the_virial_key_decides_the_sign(self, aqvolt, database, tmp_path):
        path = extxyz(tmp_path / "x.xyz", f"energy=-14 {self.STRESS} w={self.STRESS[7:]}")
        self.run(aqvolt, path, "--virial-key", "w")
        (label,) = database["labels"].find({})
        assert label["stress"][0] == pytest.approx(-1 / 5.1**3)

    def test_reasons_are_counted_and_shown(self, aqvolt, database, tmp_path):
        path = extxyz(tmp_path / "x.xyz", f"energy=-14 {self.STRESS}", f'energy=-14 {self.STRESS} pbc="F F F"')
        assert self.run(aqvolt, path)["reasons"] == {"not_periodic": 1}
        assert "not_periodic=1" in aqvolt("labels", "import", path, "--source", "extxyz")

    def test_a_stored_label_is_defended(self, aqvolt, database, tmp_path):
        self.run(aqvolt, extxyz(tmp_path / "x.xyz", f"energy=-14 {self.STRESS}"))
        other = extxyz(tmp_path / "y.xyz", f"energy=-15 {self.STRESS}")
        with pytest.raises(InputError, match="contradicts_stored: The stored label"):
            self.run(aqvolt, other)
        assert self.run(aqvolt, other, "--replace")["labels"] == 1
        assert [d["energy"] for d in database["labels"].find({})] == [-15.0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--units", "energy=furlong"), "The unit of energy 'furlong' is not known"),
            (("--stress-key", "a", "--virial-key", "b"), "name one quantity twice"),
            (("--units", "stress=GPa", "--stress-unit", "kbar"), "leave one out"),
        ],
    )
    def test_bad_options_are_one_sentence(self, aqvolt, tmp_path, arguments, message):
        with pytest.raises(InputError, match=message):
            self.run(aqvolt, extxyz(tmp_path / "x.xyz", f"energy=-14 {self.STRESS}"), *arguments)

    def test_keys_belong_to_extxyz(self, aqvolt):
        with pytest.raises(InputError, match="energy_key is of extxyz files"):
            aqvolt("labels", "import", ELEMENTS, "--source", "matpes", "--energy-key", "e")

    def test_a_folder_is_read_file_by_file(self, aqvolt, database, tmp_path):
        folder = tmp_path / "set"
        (folder / "data").mkdir(parents=True)
        for i, name in enumerate(("train.xyz", "test.extxyz")):
            extxyz(folder / "data" / name, f"energy=-14 {self.STRESS}", atoms=f"Li 0 0 {i}.5 0 0 0\nCl 2 2 2 0 0 0\n")
        (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# A set\n")
        reports = json.loads(aqvolt("labels", "import", folder, "--source", "extxyz", "--json"))
        assert [(r["file"], r["labels"]) for r in reports] == [("data/test.extxyz", 1), ("data/train.xyz", 1)]
        assert {d["provenance"]["file"] for d in database["labels"].find({})} == {"data/test.extxyz", "data/train.xyz"}
        assert {d["provenance"]["license"] for d in database["labels"].find({})} == {"cc0-1.0"}
        with pytest.raises(InputError, match="has no file of lemat"):
            aqvolt("labels", "import", folder, "--source", "lemat")


def test_two_levels_are_aligned(aqvolt, database, tmp_path):
    for dataset, shift in (("one", 0.0), ("two", 0.5)):
        frames = [f"energy={-14 - 0.01 * i + 2 * shift} {TestImportOptions.STRESS}" for i in range(4)]
        path = tmp_path / f"{dataset}.xyz"
        path.write_text(
            "".join(
                extxyz(tmp_path / "f.xyz", c, atoms=f"Li 0 0 0.{i} 0.1 0 0\nCl 2.5 2.5 2.4 -0.1 0 0\n").read_text()
                for i, c in enumerate(frames)
            )
        )
        aqvolt("labels", "import", path, "--source", "extxyz", "--dataset", dataset)
    figure = tmp_path / "a.png"
    found = json.loads(aqvolt("labels", "align", "@one", "@two", "--figure", figure, "--json"))
    assert (found["frames"], found["b"], found["figure"]) == (4, "external:r2SCAN@two", str(figure))
    assert found["shifts"]["Li"]["value"] == pytest.approx(0.5)
    assert found["force_cosine"]["value"] == pytest.approx(1)
    assert figure.read_bytes().startswith(b"\x89PNG")
    shown = aqvolt("labels", "align", "@one", "@two")
    assert "The compositions determine 1 of 2 shifts" in shown
    with pytest.raises(InputError, match="no protocol like 'three'; labels have the protocols: external:r2SCAN@one"):
        aqvolt("labels", "align", "one", "three")


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
