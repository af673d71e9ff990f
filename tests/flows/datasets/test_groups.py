"""Lineage, prototypes, queries and hold-outs."""

from __future__ import annotations

import pytest
from conftest_release import make_labels
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from aqvolt_flows.datasets import folder
from aqvolt_flows.datasets.groups import anonymous, held_out, label_query, prototype_of, root_of
from aqvolt_flows.datasets.release import create_release, labels_fingerprint
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.parameters import ReleaseParameters

VALID = {"status": "valid"}

pytestmark = pytest.mark.usefixtures("no_pictures")


def rock_salt(cation, anion, a):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def candidate(name, structure, parent=None, **provenance):
    return CandidateDocument(
        key=f"key-{name}",
        candidate_id=name,
        name=name,
        source="user",
        status="accepted",
        formula=structure.composition.reduced_formula,
        chemsys=structure.composition.chemical_system,
        elements=sorted(e.symbol for e in structure.elements),
        n_atoms=len(structure),
        structure=structure.as_dict(),
        parent_id=parent,
        provenance=provenance,
    )


def test_prototypes_of_known_crystals():
    # Rock salt is AB_cF8_225 (AFLOW), caesium chloride AB_cP2_221; elements and lattice constants do not matter.
    salt = prototype_of(rock_salt("Li", "Cl", 5.13).as_dict())
    assert salt == prototype_of(rock_salt("Na", "F", 4.6).get_primitive_structure().as_dict())
    assert salt.startswith("AB_cF8_225_")
    caesium = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    assert prototype_of(caesium.as_dict()).startswith("AB_cP2_221_")


def test_anonymous_formulas():
    assert anonymous("Li3YCl6") == anonymous("Na3InBr6") == "formula:AB3C6"


@given(st.dictionaries(st.sampled_from("abcdef"), st.one_of(st.none(), st.sampled_from("abcdefx")), min_size=1))
def test_a_line_has_one_root_and_circles_end(parents):
    for name in parents:
        root = root_of(name, parents)
        line = [name]
        while (up := parents.get(line[-1])) is not None and up not in line:
            line.append(up)
        assert root in line
        assert {root_of(member, parents) for member in line} == {root}


def test_substituted_candidates_go_where_their_parent_goes(database, tmp_path):
    salt = rock_salt("Li", "Cl", 5.13)
    database.upsert(
        "candidates",
        [
            candidate("host", salt),
            candidate("candidate-LiCl", salt, "host"),
            candidate("candidate-LiF", salt, "candidate-LiCl"),
        ],
    )
    database.upsert("labels", make_labels(range(20)) + make_labels(range(20, 40), "LiF"))
    for group_by in ("parent", "prototype", "candidate"):
        wanted = ReleaseParameters(name="lineage", group_by=group_by, split_salt="s")
        document = create_release(database, wanted, tmp_path / group_by)
        together = {
            "parent": {"train": 1, "val": 0, "test": 0},
            "prototype": {"train": 1, "val": 0, "test": 0},
            "candidate": {"train": 2, "val": 0, "test": 0},
        }[group_by]
        assert sum(document.manifest["splits"]["groups"].values()) == sum(together.values())
        if group_by != "candidate":
            assert max(document.counts["by_split"].values()) == 40


def test_frames_without_candidate_are_alone_or_with_their_formula(database, tmp_path):
    labels = [x.model_copy(update={"candidate_id": None}) for x in make_labels(range(12))]
    database.upsert("labels", labels)
    for group_by, groups in (("parent", 12), ("prototype", 1)):
        document = create_release(database, ReleaseParameters(name="x", group_by=group_by), tmp_path / group_by)
        assert sum(document.manifest["splits"]["groups"].values()) == groups


class TestHoldOuts:
    @pytest.fixture
    def parameters(self):
        return ReleaseParameters(
            name="held", train_fraction=0.6, val_fraction=0.2, test_fraction=0.2, hold_out={"gnome": {"formula": "LiF"}}
        )

    def test_they_are_a_set_of_their_own(self, labelled, parameters, tmp_path):
        document = create_release(labelled, parameters, tmp_path)
        path = tmp_path / document.path
        without = ReleaseParameters(**(parameters.model_dump() | {"hold_out": {}, "name": "all"}))
        before = {
            r.frame_id: s for s, r in folder.read_release(tmp_path / create_release(labelled, without, tmp_path).path)
        }
        seen = {r.frame_id: (s, r.formula) for s, r in folder.read_release(path)}
        assert document.counts["by_split"]["gnome"] == 10
        assert {f for s, f in seen.values() if s == "gnome"} == {"LiF"}
        assert {f for s, f in seen.values() if s != "gnome"} == {"LiCl"}
        assert all(before[frame] == split for frame, (split, _) in seen.items() if split != "gnome")
        assert folder.verify(path)["counts"] == document.counts
        assert "`gnome` is held out" in (path / "README.md").read_text()
        assert document.manifest["splits"]["hold_out"] == {"gnome": '{"formula": "LiF"}'}
        assert folder.export(path, "extxyz", tmp_path / "out") == document.counts["by_split"]
        assert folder.frame_split(path, "frame-0020") == {next(iter(folder.frame_split(path, "frame-0020"))): "gnome"}

    def test_a_rule_may_ask_the_candidate(self, labelled):
        salt = rock_salt("Li", "F", 4.03)
        labelled.upsert("candidates", [candidate("candidate-LiF", salt, database="gnome")])
        found = held_out(labelled, {"gnome": {"candidate.provenance.database": "gnome", "n_atoms": 8}}, VALID)
        assert set(found.values()) == {"gnome"}
        assert len(found) == 10

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ({"a": {"formula": "NaCl"}}, "'a'.*matches no valid label"),
            ({"a": {}}, "The rule of hold-out 'a' is empty"),
            ({"a": {"formula": "LiF"}, "b": {"chemsys": "F-Li"}}, "in the hold-outs 'a' and 'b'"),
            ({"a": {"formula": {"$nonsense": 1}}}, "MongoDB does not understand the rule of hold-out 'a'"),
        ],
    )
    def test_what_is_wrong_is_said(self, labelled, rules, message):
        with pytest.raises(InputError, match=message):
            held_out(labelled, rules, VALID)

    @pytest.mark.parametrize("name", ["train", "all", "a-b", ""])
    def test_names_that_are_taken_or_unfit_for_the_hub(self, name):
        with pytest.raises(ValueError, match="hold"):
            ReleaseParameters(hold_out={name: {"formula": "LiF"}})


def test_a_query_restricts_release_and_fingerprint(labelled, tmp_path):
    wanted = ReleaseParameters(name="q", query={"formula": "LiF"})
    document = create_release(labelled, wanted, tmp_path)
    assert document.counts["total"] == 10
    assert document.manifest["query"] == '{"formula": "LiF"}'
    assert "Only labels that match" in (tmp_path / document.path / "README.md").read_text()
    before = labels_fingerprint(labelled, wanted)
    labelled.upsert("labels", make_labels([60]))
    assert labels_fingerprint(labelled, wanted) == before
    labelled.upsert("labels", make_labels([61], "LiF"))
    assert labels_fingerprint(labelled, wanted) != before
    with pytest.raises(InputError, match="No valid label matches the query"):
        create_release(labelled, ReleaseParameters(name="q", query={"formula": "NaI"}), tmp_path)
    assert label_query(labelled, VALID, {"formula": "LiF"}, "the query") == {"$and": [VALID, {"formula": "LiF"}]}
