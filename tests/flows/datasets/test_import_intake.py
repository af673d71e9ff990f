"""What becomes of labels that contradict each other or cannot be true: refused with a reason, counted, never silent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets.importers.contradictions import AGREE
from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import ImportMemory, import_labels, label_from_import
from aqvolt_flows.datasets.importers.plausible import CompositionEnergies, _compact, _nearest, find_implausible
from aqvolt_flows.datasets.importers.published import ImportOptions

OPTIONS = ImportOptions(source="extxyz", dataset="mine", functional="r2SCAN")


def block(energy=-14.0, shift=0.0, forces=((0.1, 0.2, 0.3), (-0.1, -0.2, -0.3)), stress="1 0 0 0 1 0 0 0 1", extra=""):
    rows = [f"Li 0 0 {shift:.7f}", "Cl 2.5 2.5 2.4"]
    lines = [f"{row} {' '.join(map(str, f))}" for row, f in zip(rows, forces, strict=True)]
    comment = f'Lattice="5.1 0 0 0 5.1 0 0 0 5.1" Properties=species:S:1:pos:R:3:forces:R:3 energy={energy}'
    return f'2\n{comment} stress="{stress}" {extra}\n' + "\n".join(lines) + "\n"


@pytest.fixture
def imports(tmp_path, database):
    """Import texts as files, in turn or as one command, and return the reports."""

    def run(*texts, name="x.xyz", options=OPTIONS, together=False):
        memory = ImportMemory() if together else None
        reports = []
        for number, text in enumerate(texts):
            path = tmp_path / (f"{number}.xyz" if together else name)
            path.write_text(text)
            entries = read_labels(path, options)
            reports.append(import_labels(database, entries, options, tmp_path / "q.jsonl", None, memory))
        return reports

    return run


def stored(database):
    return {d["energy"]: d["status"] for d in database["labels"].find({})}


class TestContradictions:
    @pytest.mark.parametrize(
        ("changed", "how"),
        [
            ({"energy": -15.0}, "energies -14 and -15 eV"),
            ({"forces": ((0.1, 0.2, 0.4), (-0.1, -0.2, -0.4))}, "forces that differ by up to 0.1 eV/Å"),
            ({"stress": "2 0 0 0 1 0 0 0 1"}, "stress that differ by up to 1 eV/Å³"),
        ],
    )
    def test_neither_of_two_is_believed(self, imports, database, tmp_path, changed, how):
        (report,) = imports(block() + block(**changed) + block(shift=0.1))
        assert (report.read, report.labels, report.new, report.quarantined) == (3, 1, 1, 2)
        assert report.reasons == {"contradicting_labels": 2}
        rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
        assert sorted(r["record"] for r in rows) == [1, 2]
        assert all(how in r["reason"] for r in rows)
        assert "Record 2 of x.xyz" in next(r["reason"] for r in rows if r["record"] == 1)
        assert [d["failure"]["reason"] for d in database["labels"].find({"status": "rejected"})] == [
            "contradicting_labels"
        ]
        assert database["labels"].count_documents({"status": "valid"}) == 1

    def test_a_third_is_refused_too_and_again_is_the_same(self, imports, database):
        text = block() + block(-15.0) + block() + block(shift=0.1)
        first, second = imports(text, text)
        assert (first.labels, first.quarantined, first.reasons) == (1, 3, {"contradicting_labels": 3})
        assert (second.labels, second.new, second.quarantined) == (1, 0, 3)
        assert database["labels"].count_documents({"status": "valid"}) == 1

    def test_what_an_earlier_batch_stored_is_taken_back(self, imports, database):
        """The first record is stored long before the record that contradicts it comes."""
        others = "".join(block(shift=0.001 * i) for i in range(1, 1201))
        (report,) = imports(block() + others + block(-15.0))
        assert (report.labels, report.new, report.quarantined) == (1200, 1200, 2)
        (taken,) = database["labels"].find({"status": "rejected"})
        assert taken["failure"]["reason"] == "contradicting_labels"
        assert taken["energy"] is None
        assert database["labels"].count_documents({"status": "valid"}) == 1200

    def test_repetitions_that_agree_are_counted(self, imports, database):
        (report,) = imports(block() + block(-14.0 + AGREE["energy"]))
        assert (report.labels, report.skipped, report.quarantined) == (1, {"repeated": 1}, 0)
        assert stored(database) == {-14.0: "valid"}

    def test_two_files_of_one_import(self, imports, database):
        first, second = imports(block(), block(-15.0), together=True)
        assert (first.labels, second.labels, second.withdrawn, second.quarantined) == (1, 0, 1, 2)
        assert "1 labels of files before it were taken back" in second.remarks[0]
        assert database["labels"].count_documents({"status": "valid"}) == 0

    def test_a_later_import_does_not_overwrite_until_it_is_told(self, imports, database):
        imports(block())
        (report,) = imports(block(-15.0), name="y.xyz")
        assert report.reasons == {"contradicts_stored": 1}
        assert "The stored label (record 1 of x.xyz) says otherwise" in report.broken[0]
        assert stored(database) == {-14.0: "valid"}
        (report,) = imports(block(-15.0), name="y.xyz", options=OPTIONS.model_copy(update={"replace": True}))
        assert (report.labels, report.quarantined) == (1, 0)
        assert stored(database) == {-15.0: "valid"}

    def test_a_corrected_file_replaces_its_own_labels(self, imports, database):
        imports(block())
        (report,) = imports(block(-15.0))
        assert (report.labels, report.new, stored(database)) == (1, 0, {-15.0: "valid"})

    def test_one_identity_of_two_configurations(self, imports, tmp_path, database):
        document = {
            "matpes_id": "matpes-1",
            "cell": np.diag([5.1] * 3).tolist(),
            "atomic_numbers": [3, 17],
            "cart_coords": [[0, 0, 0], [2.5, 2.5, 2.4]],
            "energy": -14.0,
            "forces": [[0.0] * 3] * 2,
            "stress": [0.0] * 6,
        }
        moved = document | {"cart_coords": [[0, 0, 0.1], [2.5, 2.5, 2.4]]}
        path = tmp_path / "x.json"
        path.write_text(json.dumps([document, moved]))
        options = ImportOptions(source="matpes")
        report = import_labels(database, read_labels(path, options), options, tmp_path / "q.jsonl")
        assert (report.labels, report.reasons) == (0, {"contradicting_labels": 2})
        assert "another configuration" in report.broken[0]


def label(atoms, energy=-1.0, forces=None, **changes):
    """Return the label of ASE Atoms, through the importer."""
    n_atoms = len(atoms)
    forces = np.zeros((n_atoms, 3)) if forces is None else forces
    document = {
        "matpes_id": "matpes-1",
        "cell": atoms.cell.array.tolist(),
        "atomic_numbers": atoms.numbers.tolist(),
        "cart_coords": atoms.positions.tolist(),
        "energy": float(energy),
        "forces": np.asarray(forces).tolist(),
        "stress": [0.0] * 6,
    }
    from aqvolt_flows.datasets.importers.matpes import matpes_entry

    options = ImportOptions(source="matpes")
    return label_from_import(matpes_entry(document | changes, {"file": "x", "record": 1}, options), options)


def reason(atoms, **given):
    found = find_implausible(label(atoms, **given))
    return None if found is None else found.reason


class TestPlausibility:
    def test_good_ones_pass(self):
        rock = bulk("LiCl", "rocksalt", a=5.1)
        assert reason(rock) is None
        assert reason(rock, forces=[[50.0, 0, 0], [-50.0, 0, 0]]) is None
        assert reason(Atoms("H2", [[0, 0, 0], [0, 0, 0.5]], cell=np.eye(3) * 6, pbc=True)) is None
        assert reason(bulk("Cs", "bcc", a=6.15)) is None  # the largest distance between neighbors of any element
        assert reason(bulk("C", "diamond", a=3.0)) is None  # beyond the pressure of the center of the sun's planets

    @pytest.mark.parametrize(
        ("atoms", "forces", "expected"),
        [
            (bulk("LiCl", "rocksalt", a=5.1), [[0.5, 0, 0], [0, 0, 0]], "net_force"),
            (bulk("LiCl", "rocksalt", a=5.1), [[1.0, 0, 0], [1.0, 0, 0]], "net_force"),
            (Atoms("Si", cell=np.eye(3) * 20, pbc=True), None, "isolated_atom"),
            (Atoms("Si", cell=np.eye(3) * 8, pbc=True), None, "isolated_atom"),
            (Atoms("LiCl", [[0, 0, 0], [0, 0, 0.1]], cell=np.eye(3) * 5, pbc=True), None, "overlapping_atoms"),
            (Atoms("LiCl", [[0, 0, 0.05], [0, 0, 4.99]], cell=np.eye(3) * 5, pbc=True), None, "overlapping_atoms"),
            (Atoms("Li", cell=[[0.3, 0, 0], [0, 5, 0], [0, 0, 5]], pbc=True), None, "overlapping_atoms"),
            (Atoms("Li", cell=[[5, 0, 0], [5.1, 0.05, 0], [0, 0, 9]], pbc=True), None, "overlapping_atoms"),
            (Atoms("Li", cell=np.eye(3) * 0.5, pbc=True), None, "overlapping_atoms"),
        ],
    )
    def test_what_cannot_be_has_its_reason(self, atoms, forces, expected):
        assert reason(atoms, forces=forces) == expected

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=100, deadline=None)
    def test_nearest_distances_are_those_of_all_images(self, seed):
        rng = np.random.default_rng(seed)
        cell = rng.normal(size=(3, 3)) * 3
        if abs(np.linalg.det(cell)) < 1:
            return
        positions = rng.random((int(rng.integers(1, 6)), 3)) @ cell * 3
        # every image that may lie within 2 Å, by the spacing of lattice planes
        fractional = positions @ np.linalg.inv(cell)
        gaps = fractional[:, None] - fractional[None]
        gaps -= np.rint(gaps)
        reach = np.ceil(2 * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int) + 1
        images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3)
        distances = np.linalg.norm((gaps[:, :, None] + images) @ cell, axis=-1)
        expected = distances[distances > 1e-9].min()
        found = _nearest(positions, _compact(cell), 2.0)
        assert found == (pytest.approx(expected) if expected < 2 else None)

    def test_far_energies_are_found_in_a_set_and_good_ones_are_not(self):
        """200 labels of LiCl, Li and Cl2 near −4 eV/atom of formation; five energies are wrong in five ways."""
        rng = np.random.default_rng(0)
        made = []
        for i in range(200):
            kind = ("LiCl", "Li", "Cl2")[i % 3]
            atoms = {"LiCl": bulk("LiCl", "rocksalt", a=5.1), "Li": bulk("Li", "bcc", a=3.4, cubic=True)}.get(
                kind, Atoms("Cl2", [[0, 0, 0], [0, 0, 2.0]], cell=np.eye(3) * 5, pbc=True)
            )
            per_atom = {"LiCl": -7.0, "Li": -3.0, "Cl2": -5.0}[kind] + rng.normal(scale=0.3)
            made.append(label(atoms, per_atom * len(atoms)))
        wrong = [
            label(bulk("LiCl", "rocksalt", a=5.1), -14.0 / 27.2114 * 2),  # hartree read as eV: above, +6.5 eV/atom
            label(bulk("LiCl", "rocksalt", a=5.1), -14.0 * 27.2114),
            label(bulk("LiCl", "rocksalt", a=5.1), -14.0 * 23.06),  # kcal/mol
            label(bulk("LiCl", "rocksalt", a=5.1, cubic=True), -14.0 * 1.0 * 16),  # of another cell
            label(bulk("LiCl", "rocksalt", a=5.1), 2122.0),
        ]
        energies = CompositionEnergies()
        energies.learn(made + wrong)
        assert [energies.far(one) for one in made] == [None] * 200
        found = [energies.far(one) for one in wrong]
        assert [f is not None and f.reason == "far_energy" for f in found] == [False, True, True, True, True]
        assert "for LiCl; expected between -6.34 and +10" in found[1].message

    def test_elements_of_few_labels_are_not_judged(self):
        energies = CompositionEnergies()
        few = [label(bulk("Na", "bcc", a=4.2), e) for e in (-1.0, -100.0, -1.0)]
        energies.learn(few)
        assert [energies.far(one) for one in few] == [None] * 3

    def test_forces_widen_the_limit_above_only(self):
        energies = CompositionEnergies()
        rock = bulk("LiCl", "rocksalt", a=5.1)
        energies.learn([label(rock, -14.0) for _ in range(20)])
        strong = [[100.0, 0, 0], [-100.0, 0, 0]]
        assert energies.far(label(rock, 20.0)) is not None
        assert energies.far(label(rock, 20.0, forces=strong)) is None
        assert energies.far(label(rock, -30.0, forces=strong)) is not None

    def test_an_import_counts_them_all(self, imports):
        good = "".join(block(-14.0, 0.001 * i) for i in range(30))
        alone = block(forces=((0, 0, 0), (0, 0, 0))).replace("2\n", "1\n", 1).replace("5.1", "15")
        lonely = alone.replace("Cl 2.5 2.5 2.4 0 0 0\n", "")
        text = good + block(-900.0, 0.05) + block(shift=0.06, forces=((1, 0, 0), (1, 0, 0))) + lonely
        text += block(extra='pbc="F F F"') + "2\nno\n\n\n" + block(-14.0, 0.07)
        (report,) = imports(text)
        assert (report.read, report.labels) == (36, 31)
        assert report.quarantined == report.reasons.total() == 5
        words = ("far_energy", "net_force", "isolated_atom", "not_periodic", "unreadable")
        assert report.reasons == dict.fromkeys(words, 1)
