"""A release asked without a database answers as the database does, and as SQL says."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest_release import create, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets.release_tables import ReleaseTables
from aqvolt_flows.errors import InputError

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def varied(labelled):
    """Labels of which some have magnetic moments, a gap and a provenance, and some have not."""
    for number, label in enumerate(labelled["labels"].find({"status": "valid"}, sort=[("label_id", 1)])):
        change = {
            "provenance": {"record_id": f"mp-{number}", "step": number, "converged": bool(number % 2), "note": None}
            if number % 3
            else {},
            "bandgap": [None, 0.0, 1.5][number % 3],
            "magmoms": None if number % 4 else [float(number % 5), *[0.0] * 7],
            "temperature_k": [300.0, None, 900.0][number % 3],
        }
        labelled["labels"].update_one({"label_id": label["label_id"]}, {"$set": change})
    return labelled


@pytest.fixture
def tables(varied, parameters, tmp_path):
    _, path = create(varied, parameters, tmp_path / "releases")
    with ReleaseTables(path) as opened:
        yield opened


def in_database(database, query):
    cursor = database["labels"].find({"$and": [{"status": "valid"}, query]}, {"label_id": 1})
    return sorted(d["label_id"] for d in cursor)


def in_release(tables, query):
    return [row["label_id"] for row in tables.find(query, ["label_id"])]


TEXTS = st.sampled_from(["LiCl", "LiF", "Cl-Li", "Li", "", "mp-4", "sampled", "frame-0007"])
NUMBERS = st.one_of(st.sampled_from([0, 1, 3, 8, 9, 17, 0.0, 1.5, 300.0, 900.0, -0.5, 0.3]), st.floats(-5, 5))
ANYTHING = st.one_of(TEXTS, NUMBERS, st.none(), st.booleans())
FIELDS = st.sampled_from(
    [
        "formula", "chemsys", "source", "frame_id", "n_atoms", "temperature_k", "max_force", "energy_per_atom",
        "pressure_gpa", "bandgap", "atomic_numbers", "magmoms", "stress", "stress.0", "atomic_numbers.7", "elements",
        "provenance.record_id", "provenance.step", "provenance.converged", "provenance.note", "provenance.missing",
    ]
)  # fmt: skip
SINGLE = st.one_of(
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.one_of(NUMBERS, TEXTS)),
    st.tuples(st.sampled_from(["$eq", "$ne"]), ANYTHING),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(ANYTHING, max_size=3)),
    st.tuples(st.just("$regex"), st.sampled_from(["^Li", "Cl", "l$", "^f.*7$", "[0-9]"])),
).map(lambda pair: {pair[0]: pair[1]})
OPERATIONS = st.one_of(
    ANYTHING,
    SINGLE,
    SINGLE.map(lambda operation: {"$not": operation}),
    st.tuples(NUMBERS, NUMBERS).map(lambda pair: {"$gte": min(pair), "$lt": max(pair)}),
)
ARRAYS = st.one_of(
    st.tuples(st.just("$all"), st.lists(NUMBERS, min_size=1, max_size=2)),
    st.tuples(st.just("$size"), st.integers(0, 9)),
    st.tuples(
        st.just("$elemMatch"), st.tuples(NUMBERS, NUMBERS).map(lambda pair: {"$gt": min(pair), "$lte": max(pair)})
    ),
).map(lambda pair: {pair[0]: pair[1]})
CONDITIONS = st.one_of(
    st.tuples(FIELDS, OPERATIONS), st.tuples(st.sampled_from(["atomic_numbers", "magmoms", "stress"]), ARRAYS)
).map(lambda pair: {pair[0]: pair[1]})
QUERIES = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, min_size=1, max_size=2)).map(
            lambda pair: {pair[0]: pair[1]}
        ),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
def test_a_filter_finds_what_the_database_finds(varied, tables, query):
    assert in_release(tables, query) == in_database(varied, query), query


COUNTED = [
    ({}, 30),
    ({"formula": "LiF"}, 10),
    ({"chemsys": {"$regex": "^cl", "$options": "i"}}, 20),
    ({"atomic_numbers": [3, 9, 3, 9, 3, 9, 3, 9]}, 10),
    ({"elements": "F"}, 10),
    ({"split": {"$in": ["train", "val", "test"]}, "status": "valid"}, 30),
    ({"protocol_name": {"$regex": "surrogate"}}, 30),
    ({"bandgap": {"$ne": None}}, 20),
    ({"provenance.step": {"$gte": 25}}, 4),  # 25, 26, 28, 29: every third has no provenance
    ({"forces": {"$size": 8}}, 30),
    ({"cell.0.0": {"$gt": 5}}, 20),  # LiCl has 5.13 Å, LiF 4.03
]


def test_filters_counted_by_hand(tables):
    for query, expected in COUNTED:
        assert tables.count(query) == expected == len(list(tables.find(query, ["label_id"]))), query


REFUSED = [
    ({"formla": "LiF"}, "no field 'formla'; did you mean 'formula'"),
    ({"bandgap": {"$exists": True}}, r"\$exists has no meaning in a release; known are \$eq.*--sql"),
    ({"$where": "1"}, r"\$where has no meaning"),
    ({"$and": {"formula": "LiF"}}, "expected a list of filters"),
    ({"formula": {"$in": "LiF"}}, "need a list"),
    ({"formula": {"$regex": "("}}, "not a regular expression"),
    ({"formula": {"$regex": "(?=Li)"}}, "looks around"),
    ({"formula": {"$regex": "Li", "$options": "x"}}, r"\$options i, m and s"),
    ({"formula.0": "L"}, "leads nowhere in a release; formula is a single value"),
    ({"provenance": "x"}, "must name a field inside provenance"),
    ({"positions": [[0, 0, 0]]}, "whole arrays only"),
    ({"stress": {"$elemMatch": 3}}, "needs operators"),
    ({"last_updated": {"$gt": 1}}, "no field 'last_updated'"),
]


def test_what_cannot_be_asked_is_explained(tables):
    for query, message in REFUSED:
        with pytest.raises(InputError, match=message):
            tables.count(query)


def test_rows_are_those_of_the_parquet(tables, varied, tmp_path):
    [path] = (tmp_path / "releases").iterdir()
    stored = {r["label_id"]: r for split in rows_of(path).values() for r in split}
    found = list(tables.rows({"formula": "LiF"}))
    assert len(found) == 10
    for row in found:
        atoms = row.to_atoms()
        np.testing.assert_array_equal(atoms.get_forces(), stored[row.label_id]["forces"])
        assert atoms.get_potential_energy() == stored[row.label_id]["energy"]
        assert row.magmoms is None or row.magmoms.tolist() == stored[row.label_id]["magmoms"]


def test_sql_reads_and_does_nothing_else(tables, varied, tmp_path):
    [path] = (tmp_path / "releases").iterdir()
    counts = {s: len(r) for s, r in rows_of(path).items()}
    rows = tables.sql("SELECT split, count(*) AS n, max(max_force) AS f FROM labels GROUP BY split ORDER BY split")
    assert {r["split"]: r["n"] for r in rows} == counts
    [row] = tables.sql("SELECT avg(energy / n_atoms) AS e FROM train")
    assert row["e"] == pytest.approx(np.mean([r["energy"] / r["n_atoms"] for r in rows_of(path)["train"]]))
    before = {p: p.read_bytes() for p in path.rglob("*.parquet")}
    for text in (
        f"COPY (SELECT 1) TO '{path}/data/train.parquet'",
        "CREATE TABLE x AS SELECT 1",
        "SET enable_external_access = true",
        "SELECT 1; DROP VIEW labels",
        "",
    ):
        with pytest.raises(InputError, match="one SELECT"):
            list(tables.sql(text))
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for text in (
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        f"SELECT * FROM '{tmp_path}/secret.csv'",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        "SELECT nothing FROM labels",
        "SELECT * FROM",
    ):
        with pytest.raises(InputError, match="The query was refused: ") as refused:
            list(tables.sql(text))
        assert "\n" not in str(refused.value)
    assert {p: p.read_bytes() for p in path.rglob("*.parquet")} == before


def test_a_release_of_an_earlier_version_lacks_columns(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    for file in (path / "data").glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.drop_columns(["magmoms", "provenance", "head", "charges"]), file)
    with ReleaseTables(path) as tables:
        assert tables.count({"magmoms": None, "provenance.record_id": None, "head": None}) == 30
        assert len(list(tables.rows({"formula": "LiF"}))) == 10


def test_broken_folders_are_named(labelled, parameters, tmp_path):
    with pytest.raises(InputError, match="is not a release"):
        ReleaseTables(tmp_path)
    _, path = create(labelled, parameters, tmp_path / "it's a release")
    with ReleaseTables(path) as tables:
        assert tables.count({}) == 30, "also below a folder with a quote in its name"
    (path / "data" / "train.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match=r"train.parquet is not a readable Parquet file"):
        ReleaseTables(path)
    for file in (path / "data").glob("*.parquet"):
        file.unlink()
    with pytest.raises(InputError, match="no Parquet files"):
        ReleaseTables(path)


def test_fields_inside_provenance_and_arrays_can_be_printed(tables):
    names = ["frame_id", "provenance.record_id", "stress.0", "provenance"]
    rows = list(tables.find({"provenance.record_id": "mp-4"}, names))
    assert [r["provenance.record_id"] for r in rows] == ["mp-4"]
    assert json.loads(rows[0]["provenance"])["step"] == 4
    assert isinstance(rows[0]["stress.0"], float)
