"""ColabFit's and LeMat's Parquet, ASE-LMDB, and dataset folders, on files made in their form.

The columns of ColabFit are those of ``colabfit.tools.vast.schema`` (colabfit-tools) and of its datasets on the Hub,
those of LeMat of ``lematerial_fetcher.push``. LMDBs are written by ASE's own backend and compared with what fairchem's
``AseDBDataset`` reads of them. 1 eV/Å³ = 1602.1766 kbar.
"""

from __future__ import annotations

import json
import random
import zlib

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets.formats import write_aselmdb
from aqvolt_flows.datasets.importers.aselmdb import plain
from aqvolt_flows.datasets.importers.dataset_folder import dataset_files, named
from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import label_from_import
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import Broken, Imported, ImportOptions, RecordError, Skipped
from aqvolt_flows.datasets.rows import row_from_label
from aqvolt_flows.errors import InputError

KBAR_PER_EV_A3 = 1602.1766
MATRIX = [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]
SIX = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
CELL = [[5.1, 0.0, 0.0], [0.0, 5.1, 0.0], [0.0, 0.0, 5.1]]
PLACES = [[0.0, 0.0, 0.0], [2.5, 2.5, 2.4]]
FORCES = [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]]


def colabfit(**changes):
    row = {
        "property_id": "PO_1", "dataset_id": "DS_1", "multiplicity": 1, "software": "VASP 6.2.1",
        "method": "DFT-r2SCAN", "energy": -7.5, "atomic_forces": FORCES,
        "cauchy_stress": MATRIX, "cauchy_stress_volume_normalized": False,
        "electronic_band_gap": 5.5, "formation_energy": None, "configuration_id": "CO_1", "cell": CELL,
        "positions": PLACES, "pbc": [True, True, True], "atomic_numbers": [3, 17], "names": ["x"],
        "structure_hash": "1", "nsites": 2,
    }  # fmt: skip
    return row | changes


def lemat(**changes):
    row = {
        "elements": ["Cl", "Li"], "nsites": 2, "dimension_types": [1, 1, 1], "nperiodic_dimensions": 3,
        "lattice_vectors": CELL, "immutable_id": "mp-1", "cartesian_site_positions": PLACES,
        "species_at_sites": ["Li", "Cl"], "stress_tensor": MATRIX, "energy": -7.5, "energy_corrected": -7.9,
        "magnetic_moments": [0.01, -0.02], "forces": FORCES, "charges": [0.9, -0.9], "band_gap_indirect": 5.5,
        "dos_ef": 1.5, "functional": "r2scan", "cross_compatibility": True,
    }  # fmt: skip
    return row | changes


def table(path, *rows):
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def read(path, source, notes=None, **given):
    return list(read_labels(path, ImportOptions(source=source, **given), notes))


class TestColabFit:
    def test_numbers_and_what_else_is_kept(self, tmp_path):
        notes = Notes()
        (entry,) = read(table(tmp_path / "co_0.parquet", colabfit()), "colabfit", notes, dataset="CF")
        label = label_from_import(entry, ImportOptions(source="colabfit", dataset="CF"))
        assert (label.status, label.energy, label.protocol_name) == ("valid", -7.5, "external:r2SCAN@CF")
        np.testing.assert_allclose(label.stress, SIX)
        np.testing.assert_allclose(label.forces, FORCES)
        assert (label.bandgap, label.protocol.version) == (5.5, "VASP 6.2.1")
        assert label.provenance["record_id"] == "PO_1"
        assert label.provenance["configuration_id"] == "CO_1"
        assert notes.sentences()[-1] == "Not read: multiplicity, nsites, structure_hash."
        assert "sign" in notes.sentences()[0]

    def test_volume_sign_and_functional(self, tmp_path):
        rows = [
            colabfit(cauchy_stress_volume_normalized=True, positions=[[0.0, 0.0, 0.1], PLACES[1]]),
            colabfit(method="DFT-PBE"),
            colabfit(method=None),
        ]
        path = table(tmp_path / "x.parquet", *rows)
        normal, pbe, unsaid = read(path, "colabfit")
        np.testing.assert_allclose(normal.outcome.stress, SIX / 5.1**3)
        assert pbe == Skipped("other_functional")
        assert unsaid.reason.startswith("no_functional: x.parquet (column method) does not say")
        _, pbe, said = read(path, "colabfit", functional="PBE", units="stress=-GPa")
        np.testing.assert_allclose(pbe.outcome.stress, -SIX / 160.21766, rtol=1e-6)
        assert said.outcome.protocol.functional == "PBE"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"pbc": [True, True, False]}, "not_periodic: its pbc is T T F"),
            ({"pbc": [False] * 3}, "not_periodic"),
            ({"cauchy_stress": []}, "no_stress"),
            ({"cauchy_stress": None}, "no_stress"),
            ({"atomic_forces": [[0.0, 0.0, 0.0]]}, r"atomic_forces have shape (1, 3)"),
            ({"energy": None}, "energy is missing"),
            ({"atomic_numbers": [3, 0]}, "atomic_numbers"),
        ],
    )
    def test_what_is_no_label_has_its_reason(self, tmp_path, changes, said):
        good, bad, last = read(table(tmp_path / "x.parquet", colabfit(), colabfit(**changes), colabfit()), "colabfit")
        assert said in bad.reason
        assert isinstance(good, Imported)
        assert isinstance(last, Imported)

    def test_another_table_is_named_by_its_columns(self, tmp_path):
        with pytest.raises(InputError, match=r"has the columns a; ColabFit's layout has atomic_numbers"):
            read(table(tmp_path / "ds.parquet", {"a": 1}), "colabfit")


class TestLeMat:
    def test_numbers_units_and_identities(self, tmp_path):
        notes = Notes()
        rows = (lemat(), lemat(immutable_id="mp-2", relaxation_number=1, relaxation_step=7))
        first, step = read(table(tmp_path / "x.parquet", *rows), "lemat", notes)
        np.testing.assert_allclose(first.outcome.stress, -SIX / KBAR_PER_EV_A3, rtol=1e-7)
        assert (first.outcome.energy, first.outcome.bandgap) == (-7.5, 5.5)
        assert (first.outcome.magmoms, first.outcome.charges) == ([0.01, -0.02], [0.9, -0.9])
        assert (first.provenance["record_id"], first.provenance["dos_ef"]) == ("mp-1", 1.5)
        assert step.provenance["record_id"] == "mp-2-1-7"
        assert notes.sentences() == ["Not read: elements, energy_corrected, nperiodic_dimensions, nsites."]

    def test_units_that_no_document_says_are_told(self, tmp_path):
        path = table(tmp_path / "x.parquet", lemat(immutable_id="agm1"))
        notes = Notes()
        read(path, "lemat", notes)
        assert "No document says the unit of stress" in notes.sentences()[0]
        notes = Notes()
        (entry,) = read(path, "lemat", notes, units="stress=eV/A^3")
        np.testing.assert_allclose(entry.outcome.stress, SIX)
        assert "No document" not in notes.sentences()[0]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"dimension_types": [1, 1, 0]}, "not_periodic"),
            ({"stress_tensor": None}, "no_stress"),
            ({"forces": None}, "it has no forces"),
            ({"species_at_sites": ["Li", "X1"]}, "not symbols of elements"),
            ({"functional": None}, "no_functional"),
        ],
    )
    def test_what_is_no_label_has_its_reason(self, tmp_path, changes, said):
        good, bad = read(table(tmp_path / "x.parquet", lemat(), lemat(**changes)), "lemat")
        assert said in bad.reason
        assert isinstance(good, Imported)

    def test_other_functionals_wait(self, tmp_path):
        path = table(tmp_path / "x.parquet", lemat(functional="pbe"), lemat(functional="pbesol"))
        assert read(path, "lemat") == [Skipped("other_functional")] * 2
        found = read(path, "lemat", functional=None)
        assert [e.outcome.protocol.functional for e in found] == ["PBE", "PBEsol"]


def frames(n=12, pbc=True):
    rng = np.random.default_rng(3)
    made = []
    for i in range(n):
        atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
        atoms.rattle(0.05, rng=rng)
        atoms.pbc = pbc
        forces = rng.normal(size=(8, 3))
        forces -= forces.mean(axis=0)
        results = {"energy": -28 - 0.01 * i, "free_energy": -28.5, "magmoms": rng.normal(size=8)}
        atoms.calc = SinglePointCalculator(atoms, forces=forces, stress=rng.normal(size=6), **results)
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def omat(tmp_path_factory):
    """An LMDB as fairchem's sets are written: by ASE's backend, one row deleted, one slab, metadata."""
    path = tmp_path_factory.mktemp("omat") / "data.aselmdb"
    with connect(str(path), type="aselmdb") as database:
        for i, atoms in enumerate(frames()):
            if i == 5:
                atoms.set_constraint(FixAtoms([0]))
            database.write(atoms, data={"sid": f"s{i}", "calc_id": i, "bandgap": 3.0, "odd": [1, 2]})
        database.write(frames(1, (True, True, False))[0], data={"sid": "slab"})
        del database[4]
        database.metadata = {"version": 1}
    return path


class TestLMDB:
    OPTIONS = ImportOptions(source="aselmdb", functional="PBE", dataset="OMat24")

    def test_records_are_those_that_fairchem_reads(self, omat):
        from fairchem.core.datasets import AseDBDataset

        notes = Notes()
        found = list(read_labels(omat, self.OPTIONS, notes))
        by_name = {e.provenance["record_id"]: e.outcome for e in found if isinstance(e, Imported)}
        slabs = [e for e in found if isinstance(e, Broken)]
        assert [e.reason.partition(";")[0] for e in slabs] == ["not_periodic: its pbc is T T F"]
        assert notes.sentences() == ["Not read: odd."]
        dataset = AseDBDataset({"src": str(omat)})
        assert len(dataset) == len(found) == 12  # 13 written, one deleted
        for i in range(len(dataset)):
            atoms = dataset.get_atoms(i)
            if atoms.info["sid"] == "slab":
                continue
            outcome = by_name[atoms.info["sid"]]
            assert outcome.energy == atoms.get_potential_energy()
            np.testing.assert_array_equal(outcome.positions, atoms.positions)
            np.testing.assert_array_equal(outcome.forces, atoms.get_forces(apply_constraint=False))
            np.testing.assert_array_equal(outcome.stress, atoms.get_stress(apply_constraint=False))
            np.testing.assert_array_equal(outcome.magmoms, atoms.get_magnetic_moments())
            assert (outcome.bandgap, outcome.protocol.name) == (3.0, "external:PBE@OMat24")
        assert [e.provenance.get("constrained") for e in found if e not in slabs].count(True) == 1

    def test_nobody_said_the_functional(self, omat):
        found = read(omat, "aselmdb")
        assert all("give it with --functional (OMat24: PBE)" in e.reason for e in found)

    def test_our_own_export_comes_back(self, omat, tmp_path):
        labels = [
            label_from_import(e, self.OPTIONS) for e in read_labels(omat, self.OPTIONS) if isinstance(e, Imported)
        ]
        write_aselmdb(tmp_path / "out", [row_from_label(label.model_dump()) for label in labels])
        back = read(tmp_path / "out" / "data.0000.aselmdb", "aselmdb", functional=None)
        assert {e.outcome.frame_id for e in back} == {label.frame_id for label in labels}
        assert {e.outcome.protocol.name for e in back} == {"external:PBE@OMat24"}

    def test_a_cut_file_and_another_lmdb_are_refused(self, omat, tmp_path):
        cut = tmp_path / "cut.aselmdb"
        cut.write_bytes(omat.read_bytes()[: omat.stat().st_size // 2])
        with pytest.raises(InputError, match=r"cut short|no LMDB"):
            read(cut, "aselmdb", functional="PBE")
        (tmp_path / "x.aselmdb").write_text("no database" * 1000)
        with pytest.raises(InputError, match="is not an LMDB database"):
            read(tmp_path / "x.aselmdb", "aselmdb")
        other = tmp_path / "other.aselmdb"
        with lmdb.open(str(other), subdir=False, lock=False) as env, env.begin(write=True) as transaction:
            transaction.put(b"0", b"\x80\x04pickle")
            transaction.put(b"length", b"1")
        notes = Notes()
        (entry,) = read(other, "aselmdb", notes, functional="PBE")
        assert "pickled objects" in entry.reason
        assert notes.sentences() == ["other.aselmdb has the key 'length', which is no record."]

    @given(st.randoms(use_true_random=False), st.integers(1, 8), st.booleans())
    @settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_mutation_of_a_record_gives_a_traceback(self, omat_values, tmp_path, rng: random.Random, n, packed):
        """Bytes of one record are changed, before or after compression; the good ones beside it come out."""
        good = omat_values[0]
        damaged = bytearray(good if packed else zlib.decompress(good))
        for _ in range(n):
            place = rng.randrange(len(damaged))
            damaged[place] = rng.randrange(256) if packed else rng.choice(b'0189.-+eE"[]{},:n \x00')
        path = tmp_path / "x.aselmdb"
        path.unlink(missing_ok=True)
        with lmdb.open(str(path), subdir=False, lock=False, sync=False) as env, env.begin(write=True) as transaction:
            for key, value in (
                (b"1", good),
                (b"2", bytes(damaged) if packed else zlib.compress(damaged)),
                (b"3", good),
            ):
                transaction.put(key, value)
        found = list(read_labels(path, self.OPTIONS))
        assert len(found) == 3
        assert isinstance(found[0], Imported)
        assert isinstance(found[2], Imported)
        if isinstance(found[1], Imported):
            label_from_import(found[1], self.OPTIONS)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda x: (
                st.lists(x, max_size=3) | st.dictionaries(st.just("__ndarray__") | st.text(max_size=2), x, max_size=2)
            ),
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_ases_json_is_read_or_refused(self, value):
        try:
            plain(value)
        except RecordError:
            return


@pytest.fixture(scope="module")
def omat_values(omat):
    with lmdb.open(str(omat), subdir=False, lock=False, readonly=True) as env, env.begin() as transaction:
        return [bytes(value) for key, value in transaction.cursor() if key.isdigit()]


@pytest.mark.parametrize("source", ["colabfit", "lemat"])
@given(st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutated_row_of_a_table_gives_a_traceback(source, tmp_path, rng: random.Random, n):
    """Cells of one row are emptied, cut, doubled or made of NaN; the good rows beside it come out."""
    make = colabfit if source == "colabfit" else lemat
    bad = make()
    for _ in range(n):
        name = rng.choice(list(bad))
        value = bad[name]
        options = [None]
        if isinstance(value, list):
            nested = bool(value) and isinstance(value[0], list)
            options += [[], value[:-1], value + value]
            options += [[row[:-1] for row in value], [[float("nan")] * 3 for _ in value], [[]]] if nested else []
        if isinstance(value, float):
            options += [float("nan"), float("inf"), 1e308]
        if isinstance(value, str):
            options += ["", "é", "nan"]
        bad[name] = rng.choice(options)
    found = read(table(tmp_path / "x.parquet", make(), bad, make()), source)
    assert len(found) == 3
    assert isinstance(found[0], Imported)
    assert isinstance(found[2], Imported)
    if isinstance(found[1], Imported):
        label_from_import(found[1], ImportOptions(source=source))


@given(st.randoms(use_true_random=False), st.integers(1, 20))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damaged_parquet_file_gives_a_traceback(tmp_path, rng: random.Random, n):
    path = tmp_path / "whole.parquet"
    if not path.exists():
        table(path, *[colabfit() for _ in range(20)])
    damaged = bytearray(path.read_bytes())
    for _ in range(n):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    (tmp_path / "x.parquet").write_bytes(damaged[: rng.choice([len(damaged), len(damaged) // 2])])
    try:
        found = read(tmp_path / "x.parquet", "colabfit", functional=None)
    except InputError:
        return
    assert all(isinstance(e, Imported | Broken | Skipped) for e in found)


class TestFolders:
    def snapshot(self, folder):
        (folder / "co").mkdir(parents=True)
        table(folder / "co" / "co_0.parquet", colabfit())
        table(folder / "co" / "co_1.parquet", colabfit(property_id="PO_2"))
        table(folder / "ds.parquet", {"a": 1})
        front = {"configs": [{"config_name": "default", "data_files": "co/*.parquet"}], "license": "cc-by-4.0"}
        (folder / "README.md").write_text(f"---\n{json.dumps(front)}\n---\n# A card\n")
        (folder / ".cache").mkdir()
        table(folder / ".cache" / "y.parquet", {"a": 1})

    def test_the_default_configuration_of_a_card(self, tmp_path):
        self.snapshot(tmp_path)
        assert [name for _, name in dataset_files(tmp_path, "colabfit")] == ["co/co_0.parquet", "co/co_1.parquet"]
        ((path, name), _) = dataset_files(tmp_path, "colabfit")
        (entry,) = named(read_labels(path, ImportOptions(source="colabfit")), name)
        assert entry.provenance["file"] == "co/co_0.parquet"

    def test_the_cache_of_the_hub_is_entered(self, tmp_path):
        self.snapshot(tmp_path / "snapshots" / "abc")
        assert len(dataset_files(tmp_path, "colabfit")) == 2
        self.snapshot(tmp_path / "snapshots" / "def")
        with pytest.raises(InputError, match="holds the commits abc, def"):
            dataset_files(tmp_path, "colabfit")
        (tmp_path / "refs").mkdir()
        (tmp_path / "refs" / "main").write_text("def\n")
        assert dataset_files(tmp_path, "colabfit")[0][0].is_relative_to(tmp_path / "snapshots" / "def")

    def test_save_to_disk_of_datasets(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        made = datasets.Dataset.from_list([lemat(), lemat(immutable_id="mp-2", energy=-8.5)])
        datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(str(tmp_path / "d"))
        files = dataset_files(tmp_path / "d", "lemat")
        assert [name.split("/")[0] for _, name in files] == ["test", "train"]
        found = [e for path, name in files for e in named(read_labels(path, ImportOptions(source="lemat")), name)]
        assert [e.outcome.energy for e in found] == [-7.5, -7.5, -8.5]

    def test_what_is_not_there_is_told(self, tmp_path):
        (tmp_path / "x.txt").write_text("")
        with pytest.raises(InputError, match=r"no file of lemat \(.parquet, .arrow\); it holds .txt"):
            dataset_files(tmp_path, "lemat")
        pointer = tmp_path / "x.parquet"
        pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with pytest.raises(InputError, match="is a pointer of Git LFS"):
            read(pointer, "lemat")


def test_the_layout_of_aqvolt26_is_said_to_be_unverified(tmp_path):
    row = {
        "frame_id": "f-1", "protocol": "external:r2SCAN@AQVolt26", "atomic_numbers": [3, 17], "positions": PLACES,
        "cell": CELL, "energy": -7.5, "forces": FORCES, "stress": SIX.tolist(), "novel": 1,
    }  # fmt: skip
    notes = Notes()
    (entry,) = read(table(tmp_path / "x.parquet", row), "aqvolt26", notes)
    assert isinstance(entry, Imported)
    assert not entry.judged
    assert notes.sentences()[0].startswith("The layout of the published AQVolt26 could not be verified")
    assert notes.sentences()[1] == "Not read: novel."
