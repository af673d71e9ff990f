"""Importers of MatPES, MP-ALOE, tables and extended XYZ, against 89 real MatPES documents (shipped with matcalc).

Units are checked against a number from outside the package: 1 eV/Å³ = 1602.1766 kbar.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import ase.io
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import import_labels, label_from_import
from aqvolt_flows.datasets.importers.published import Broken, Imported, ImportOptions, RecordError, Skipped, stress
from aqvolt_flows.datasets.matpes import matpes_document
from aqvolt_flows.datasets.rows import row_from_label
from aqvolt_flows.errors import InputError

KBAR_PER_EV_A3 = 1602.1766
ELEMENTS = Path(__file__).parent / "data" / "matpes_r2scan_elements.json.gz"
MATPES = ImportOptions(source="matpes")


@pytest.fixture(scope="module")
def real():
    """The 89 documents, as matcalc ships them."""
    return json.loads(gzip.decompress(ELEMENTS.read_bytes()))


def document(**changes):
    """A MatPES document of two atoms with numbers of no symmetry."""
    cell = [[4.1, 0.0, 0.0], [0.3, 4.2, 0.0], [0.0, 0.2, 4.3]]
    sites = [
        {"species": [{"element": e, "occu": 1}], "abc": abc, "properties": {"magmom": m}}
        for e, abc, m in (("Li", [0.0, 0.1, 0.0], 0.01), ("Cl", [0.5, 0.5, 0.6], -0.02))
    ]
    made = {
        "matpes_id": "matpes-1",
        "structure": {"lattice": {"matrix": cell}, "sites": sites},
        "energy": -12.5,
        "forces": [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]],
        "stress": [10.0, 20.0, 30.0, 1.0, 2.0, 3.0],
        "bandgap": 5.0,
        "functional": "r2SCAN",
        "provenance": {"original_mp_id": None, "md_temperature": 300.0},
    }
    return made | changes


def entries(path, documents, options=MATPES):
    path.write_text(json.dumps(documents))
    return list(read_labels(path, options))


def only(path, made, options=MATPES):
    (entry,) = entries(path, [made], options)
    return entry


class TestMatPES:
    def test_89_real_documents_come_out_as_they_went_in(self, real):
        found = list(read_labels(ELEMENTS, MATPES))
        assert len(found) == 89
        assert all(isinstance(e, Imported) for e in found)
        for entry, source in zip(found, real.values(), strict=True):
            label = label_from_import(entry, MATPES)
            assert (label.status, label.protocol_name) == ("valid", "external:r2SCAN@MatPES")
            assert label.cohesive_energy_per_atom == pytest.approx(source["cohesive_energy_per_atom"], abs=2e-3)
            again = matpes_document(row_from_label(label.model_dump()))
            for name in ("matpes_id", "energy", "functional", "nsites", "chemsys", "formula_pretty", "bandgap"):
                assert again[name] == source[name], name
            for name in ("forces", "stress", "abs_forces"):
                np.testing.assert_allclose(again[name], source[name], atol=1e-9)
            for before, after in zip(source["structure"]["sites"], again["structure"]["sites"], strict=True):
                np.testing.assert_allclose(after["abc"], before["abc"], atol=1e-9)
                assert after["properties"]["magmom"] == before["properties"]["magmom"]
            np.testing.assert_allclose(
                again["structure"]["lattice"]["matrix"], source["structure"]["lattice"]["matrix"], atol=1e-9
            )

    def test_numbers_and_units(self, tmp_path):
        label = label_from_import(only(tmp_path / "x.json", document()), MATPES)
        expected = -np.array([10.0, 20.0, 30.0, 1.0, 2.0, 3.0]) / KBAR_PER_EV_A3
        np.testing.assert_allclose(label.stress, expected, rtol=1e-7)
        assert label.pressure_gpa == pytest.approx(2.0)  # mean of 10, 20, 30 kbar, compressed
        assert label.max_force == pytest.approx(np.sqrt(0.14))
        assert label.magmoms == [0.01, -0.02]
        assert (label.frame_id, label.source, label.temperature_k) == ("matpes-1", "MatPES", 300.0)
        assert label.provenance["record_id"] == "matpes-1"

    def test_bader_charges_come_back(self, tmp_path):
        label = label_from_import(only(tmp_path / "x.json", document(bader_charges=[0.9, -0.9])), MATPES)
        assert (label.charges, label.provenance["charges"]) == ([0.9, -0.9], "bader")
        again = matpes_document(row_from_label(label.model_dump()))
        assert again["bader_charges"] == [0.9, -0.9]
        assert "charges" not in again["provenance"]
        short = label_from_import(only(tmp_path / "x.json", document(bader_charges=[0.9])), MATPES)
        assert (short.status, short.charges) == ("valid", None)

    def test_the_table_gives_the_same_labels(self, tmp_path):
        rows = []
        for source in (document(), document(matpes_id="matpes-2")):
            structure = source.pop("structure")
            cell = np.array(structure["lattice"]["matrix"])
            rows.append(
                source
                | {
                    "cell": cell.tolist(),
                    "atomic_numbers": [3, 17],
                    "cart_coords": (np.array([s["abc"] for s in structure["sites"]]) @ cell).tolist(),
                    "magmoms": [0.01, -0.02],
                    "provenance": {"md_temperature": 300.0},
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
        from_table = [label_from_import(e, MATPES) for e in read_labels(tmp_path / "x.parquet", MATPES)]
        from_json = label_from_import(only(tmp_path / "x.json", document()), MATPES)
        same = {"exclude": {"provenance", "last_updated"}}
        assert from_table[0].model_dump(**same) == from_json.model_dump(**same)
        assert [label.frame_id for label in from_table] == ["matpes-1", "matpes-2"]

    def test_other_functionals_wait_until_they_are_asked_for(self, tmp_path):
        pbe = document(functional="PBE")
        assert only(tmp_path / "x.json", pbe) == Skipped("other_functional")
        kept = ImportOptions(source="matpes", functional=None)
        assert label_from_import(only(tmp_path / "x.json", pbe, kept), kept).protocol_name == "external:PBE@MatPES"

    def test_mp_aloe_drops_rows_of_the_materials_project(self, tmp_path):
        aloe = ImportOptions(source="mp-aloe")
        both = [
            document(mp_aloe_id="mp-aloe-1", ionic_step_number=2),
            document(mp_aloe_id="mp-aloe-2", provenance={"original_mp_id": "mp-1"}),
        ]
        path = tmp_path / "x.jsonl.gz"
        path.write_bytes(gzip.compress("\n".join(json.dumps(d) for d in both).encode()))
        first, second = read_labels(path, aloe)
        assert second == Skipped("from_materials_project")
        label = label_from_import(first, aloe)
        assert (label.protocol_name, label.frame_id) == ("external:r2SCAN@MP-ALOE", "mp-aloe-1")
        assert label.provenance["ionic_step_number"] == 2
        assert all(
            isinstance(e, Imported) for e in read_labels(path, ImportOptions(source="mp-aloe", keep_mp_rows=True))
        )


class TestBrokenRecords:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"stress": list(range(9))}, "stress is 9 numbers in a row"),
            ({"stress": [[1, 2, 3], [9, 1, 2], [3, 2, 1]]}, "not symmetric"),
            ({"stress": [1, 2, 3]}, r"stress have shape \(3,\)"),
            ({"stress": None}, "no stress"),
            ({"forces": [[0.0, 0.0, 0.0]]}, r"forces have shape \(1, 3\); expected \(2, 3\)"),
            ({"forces": [[0.0, 0.0, 0.0], [0.0]]}, "not an array"),
            ({"forces": [[0.0, 0.0, None]] * 2}, "NaN|not an array"),
            ({"energy": None}, "energy is missing"),
            ({"energy": float("nan")}, "energy is nan"),
            ({"energy": "-3 eV"}, "energy is a str"),
            ({"energy": 10**400}, "energy is a int"),
            ({"forces": [[10**400, 0, 0], [0, 0, 0]]}, "not an array"),
            ({"stress": [10**400, 0, 0, 0, 0, 0]}, "not an array"),
            ({"structure": {"sites": []}}, "not a pymatgen structure"),
            ({"structure": None}, "structure is missing"),
            ({"matpes_id": None}, "no matpes_id"),
        ],
    )
    def test_is_named_and_the_good_one_beside_it_goes_in(self, tmp_path, changes, said):
        good, broken, last = entries(
            tmp_path / "x.json", [document(), document(**changes), document(matpes_id="matpes-3")]
        )
        assert isinstance(broken, Broken)
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(broken.reason)
        assert label_from_import(good, MATPES).status == label_from_import(last, MATPES).status == "valid"

    def test_a_symmetric_matrix_is_a_stress(self):
        matrix = np.array([[10.0, 3.0, 2.0], [3.0, 20.0, 1.0], [2.0, 1.0, 30.0]])
        np.testing.assert_allclose(stress(matrix, "kbar"), stress([10, 20, 30, 1, 2, 3], "kbar"))

    def test_a_cut_archive_keeps_what_came_before(self, tmp_path, database):
        whole = gzip.compress(
            json.dumps([document(matpes_id=f"matpes-{i}", padding="x" * i) for i in range(400)]).encode()
        )
        path = tmp_path / "cut.json.gz"
        path.write_bytes(whole[: len(whole) // 2])
        aside = tmp_path / "quarantine" / "cut.jsonl"
        report = import_labels(database, read_labels(path, MATPES), MATPES, aside)
        assert 0 < report.labels < 400
        assert report.labels == database["labels"].count_documents({})
        assert "damaged or cut off" in report.stopped[0]
        assert json.loads(aside.read_text())["record"] == report.labels + 1

    def test_quarantine_counts_and_a_second_import_is_the_first(self, tmp_path, database):
        path = tmp_path / "x.json"
        path.write_text(json.dumps([document(), document(matpes_id="m-2", energy=None), document(matpes_id="m-3")]))
        aside = tmp_path / "q.jsonl"
        first = import_labels(database, read_labels(path, MATPES), MATPES, aside)
        assert (first.read, first.labels, first.new, first.quarantined) == (3, 2, 2, 1)
        assert json.loads(aside.read_text()) == {
            "file": "x.json", "record": 2, "line": 1, "record_id": "m-2",
            "reason": "its energy is missing; expected a finite number",
        }  # fmt: skip
        before = list(database["labels"].find({}).sort("label_id"))
        second = import_labels(database, read_labels(path, MATPES), MATPES, aside)
        assert (second.labels, second.new) == (2, 0)
        assert list(database["labels"].find({}).sort("label_id")) == before
        path.write_text(json.dumps([document()]))
        import_labels(database, read_labels(path, MATPES), MATPES, aside)
        assert not aside.exists(), "nothing broken, nothing set aside"

    def test_what_our_own_labels_must_pass_imported_ones_pass(self, tmp_path, database):
        flat = document()
        flat["structure"]["lattice"]["matrix"][2] = [0.0, 0.0, 0.0]
        path = tmp_path / "x.json"
        path.write_text(json.dumps([flat, document()]))
        report = import_labels(database, read_labels(path, MATPES), MATPES, tmp_path / "q.jsonl")
        assert (report.labels, report.quarantined) == (1, 1)
        assert "flat_cell" in report.broken[0]

    @given(
        st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda x: st.lists(x, max_size=3))
    )
    @settings(max_examples=60, deadline=None)
    def test_no_stress_escapes_with_an_error_of_another_kind(self, value):
        try:
            found = stress(value, "kbar")
        except RecordError:
            return
        assert found.shape == (6,)
        assert np.isfinite(found).all()


DAMAGE = ("", "x", " ", '"', "{", "}", "[", "]", ",", ":", "-", "9", "1e999", "NaN", "null", "\\", "é", "\x00")


@given(st.randoms(use_true_random=False), st.integers(1, 6))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutated_document_gives_a_traceback_or_costs_the_good_ones(tmp_path, rng, n):
    """Characters of one line of three are changed; the lines beside it come out."""
    text = list(json.dumps(document()))
    for _ in range(n):
        place = rng.randrange(len(text))
        text[place] = rng.choice([*DAMAGE, text[place] * 3])
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([json.dumps(document()), "".join(text), json.dumps(document(matpes_id="matpes-3"))]))
    found = [e for e in read_labels(path, MATPES) if not isinstance(e, Skipped)]
    assert all(isinstance(e, Imported | Broken) for e in found)
    assert isinstance(found[0], Imported)
    assert isinstance(found[-1], Imported)
    assert found[-1].outcome.frame_id == "matpes-3"
    for entry in found:
        if isinstance(entry, Imported):
            label_from_import(entry, MATPES)


def written(path, n=3, **info):
    made = []
    for i in range(n):
        atoms = bulk("LiCl", "rocksalt", a=5.1 + 0.01 * i)
        atoms.calc = SinglePointCalculator(
            atoms, energy=-7.0 - i, forces=np.full((2, 3), 0.01 * i), stress=np.array([1, 2, 3, 4, 5, 6]) * 1e-3
        )
        atoms.info.update(info)
        made.append(atoms)
    ase.io.write(path, made, format="extxyz")
    return made


class TestExtxyz:
    OPTIONS = ImportOptions(source="extxyz", dataset="mine")

    def test_what_ase_writes_is_read(self, tmp_path):
        made = written(tmp_path / "x.xyz")
        labels = [label_from_import(e, self.OPTIONS) for e in read_labels(tmp_path / "x.xyz", self.OPTIONS)]
        assert [label.energy for label in labels] == [-7.0, -8.0, -9.0]
        np.testing.assert_allclose(labels[1].stress, np.array([1, 2, 3, 4, 5, 6]) * 1e-3)
        np.testing.assert_allclose(labels[2].forces, made[2].get_forces())
        assert {label.protocol_name for label in labels} == {"external:r2SCAN@mine"}
        again = [label_from_import(e, self.OPTIONS) for e in read_labels(tmp_path / "x.xyz", self.OPTIONS)]
        assert [label.label_id for label in again] == [label.label_id for label in labels]
        (tmp_path / "x.xyz.gz").write_bytes(gzip.compress((tmp_path / "x.xyz").read_bytes()))
        assert len(list(read_labels(tmp_path / "x.xyz.gz", self.OPTIONS))) == 3

    @pytest.mark.parametrize(("unit", "factor"), [("GPa", 160.21766), ("kbar", -1602.1766)])
    def test_units_of_the_stress(self, tmp_path, unit, factor):
        written(tmp_path / "x.xyz", 1)
        options = self.OPTIONS.model_copy(update={"stress_unit": unit})
        label = label_from_import(next(iter(read_labels(tmp_path / "x.xyz", options))), options)
        assert label.stress[0] == pytest.approx(1e-3 / factor, rel=1e-6)

    def test_an_unknown_unit_is_named(self, tmp_path):
        written(tmp_path / "x.xyz", 1, stress_unit="psi")
        (entry,) = read_labels(tmp_path / "x.xyz", self.OPTIONS)
        assert "stress_unit is 'psi'" in entry.reason
        with pytest.raises(InputError, match=r"stress 'psi' is not known; expected eV/A\^3, GPa, kbar"):
            read_labels(tmp_path / "x.xyz", self.OPTIONS.model_copy(update={"stress_unit": "psi"}))

    def test_broken_blocks_do_not_end_the_rest(self, tmp_path):
        path = tmp_path / "x.xyz"
        written(path)
        lines = path.read_text().splitlines()
        lines[2] = "Li 0.0 zero 0.0"  # first block: a coordinate that is a word
        del lines[7]  # second block: an atom too few
        path.write_text("\n".join(lines) + "\n")
        first, second, third = read_labels(path, self.OPTIONS)
        assert isinstance(first, Broken)
        assert "1 of 2 atoms" in second.reason
        assert label_from_import(third, self.OPTIONS).energy == -9.0

    def test_a_cut_archive_is_told(self, tmp_path):
        written(tmp_path / "x.xyz", 200)
        whole = gzip.compress((tmp_path / "x.xyz").read_bytes())
        (tmp_path / "y.xyz.gz").write_bytes(whole[: len(whole) // 2])
        found = list(read_labels(tmp_path / "y.xyz.gz", self.OPTIONS))
        assert found[-1].fatal
        assert "damaged or cut off" in found[-1].reason
        assert sum(isinstance(e, Imported) for e in found) > 10


class TestTables:
    def test_a_declared_unit_that_is_not_the_formats_is_refused(self, tmp_path):
        given = document()
        structure = json.dumps(given.pop("structure"))
        table = pa.Table.from_pylist([given | {"structure": structure}])
        place = table.schema.get_field_index("stress")
        for unit, good in (("GPa", False), ("kbar", True), ("furlong", False)):
            field = table.schema.field("stress").with_metadata({"unit": unit})
            path = tmp_path / f"{unit}.parquet"
            pq.write_table(table.cast(table.schema.set(place, field)), path)
            if good:
                assert label_from_import(next(iter(read_labels(path, MATPES))), MATPES).status == "valid"
                continue
            with pytest.raises(InputError, match=f"stress is in '{unit}'; expected kbar"):
                list(read_labels(path, MATPES))

    def test_other_columns_and_cut_files_are_named(self, tmp_path):
        pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match="has the columns a; expected those of a release"):
            list(read_labels(tmp_path / "a.parquet", MATPES))
        whole = (tmp_path / "a.parquet").read_bytes()
        (tmp_path / "b.parquet").write_bytes(whole[:-20])
        with pytest.raises(InputError, match="not a whole Parquet file"):
            list(read_labels(tmp_path / "b.parquet", MATPES))
        with pytest.raises(InputError, match="There is no file"):
            read_labels(tmp_path / "c.parquet", MATPES)
