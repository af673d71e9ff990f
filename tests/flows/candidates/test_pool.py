"""From records to documents: judged, deduplicated against the pool, counted, the broken set aside."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from aqvolt_flows.campaign import Campaign, load_campaign
from aqvolt_flows.candidates.jobs import SelectMaker
from aqvolt_flows.candidates.plan import plan_candidates
from aqvolt_flows.candidates.pool import MAX_SITES, ImportReport, Intake, add_to_pool, pool_counts
from aqvolt_flows.candidates.records import Quarantined, Record
from aqvolt_flows.candidates.refusals import REFUSALS
from aqvolt_flows.candidates.select import build_structure, candidate_document
from aqvolt_flows.candidates.sources import stream_file
from aqvolt_flows.exploration.plan import plan_explore
from aqvolt_flows.schemas.parameters import CandidateParameters
from aqvolt_flows.stores import Database

RULES = CandidateParameters()


def salt(a: float = 5.13, halogen: str = "Cl", cation: str = "Li") -> Structure:
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    others = [[(x + 0.5) % 1 for x in c] for c in corners]
    return Structure(Lattice.cubic(a), [cation] * 4 + [halogen] * 4, corners + others)


def caesium_chloride(a: float = 3.2, halogen: str = "Cl") -> Structure:
    """Li in a cage of eight: the other AB structure, which no matcher may call rock salt."""
    return Structure(Lattice.cubic(a), ["Li", halogen], [[0, 0, 0], [0.5, 0.5, 0.5]])


def record(name: str, structure: Structure, **provenance: Any) -> Record:
    return Record(name, structure, {"record_id": name, **provenance}, (f"doi of {name}",))


def matpes(name: str, structure: Structure) -> Record:
    return record(name, structure, database="MatPES")


def stored(database: Database, **query: Any) -> list[dict[str, Any]]:
    return list(database["candidates"].find(query, {"_id": 0}).sort("candidate_id", 1))


def without_dates(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in d.items() if k != "last_updated"} for d in documents]


MIXED = [
    matpes("m-1", salt()),
    matpes("m-2", caesium_chloride()),
    matpes("m-3", salt(4.02, "F")),
    matpes("m-4", salt(5.64, "Cl", "Na")),
    matpes("m-5", salt(5.2)),
]


def test_importing_twice_adds_nothing(database: Database) -> None:
    first = add_to_pool(MIXED, database, Intake(RULES))
    before = without_dates(stored(database))
    again = add_to_pool(MIXED, database, Intake(RULES))
    assert (first.read, first.new, again.read, again.new) == (5, 5, 5, 0)
    assert without_dates(stored(database)) == before
    # rock salt and CsCl are two LiCl; the rock salt at 5.2 Å is the first at another volume; NaCl has no Li
    assert first.accepted == again.accepted == {"matpes": 3}
    assert first.rejected == again.rejected == {"duplicate": 1, "missing_element": 1}


def test_order_and_pieces_of_an_import_do_not_matter_to_what_is_in_twice(database: Database) -> None:
    for entry in (*MIXED, *reversed(MIXED)):
        add_to_pool([entry], database, Intake(RULES))
    assert {d["name"] for d in stored(database, status="accepted")} == {"m-1", "m-2", "m-3"}
    assert len(stored(database)) == 5


def test_a_duplicate_of_another_source_is_kept_rejected_and_names_the_first(database: Database) -> None:
    add_to_pool([matpes("mp-22905 LiCl", salt())], database, Intake(RULES))
    report = add_to_pool([record("mine", salt(5.0)), record("mine, exact", salt())], database, Intake(RULES))
    assert report.accepted == {}
    assert report.rejected == {"duplicate": 2}
    [kept] = stored(database, status="accepted")
    rejected = {d["name"]: d for d in stored(database, status="rejected")}
    assert set(rejected) == {"mine", "mine, exact"}
    for document in rejected.values():
        assert document["source"] == "user"
        assert document["rejection"]["reason"] == "duplicate"
        assert kept["candidate_id"] in document["rejection"]["message"]
        assert "mp-22905 LiCl" in document["rejection"]["message"]
        assert document["decisions"]["duplicate_of"] == kept["candidate_id"]
    ratio = rejected["mine"]["decisions"]["volume_ratio"]
    assert ratio == pytest.approx((5.0 / 5.13) ** 3, abs=1e-4)  # of two cubes


def test_the_same_structure_again_is_one_document_with_the_first_name(database: Database) -> None:
    both = [matpes("first", salt()), matpes("second", salt())]
    report = add_to_pool(both, database, Intake(RULES))
    assert (report.read, report.new, report.repeated) == (2, 1, 1)
    add_to_pool([matpes("third", salt())], database, Intake(RULES))
    [document] = stored(database)
    assert (document["name"], document["references"]) == ("first", ["doi of first"])
    assert document["provenance"]["record_id"] == "first"


def matpes_json(i: int, structure: Structure) -> str:
    value = {"structure": structure.as_dict(), "energy": -30.5, "matpes_id": f"mp-{i}", "functional": "r2SCAN"}
    return json.dumps(value)


def test_broken_records_of_a_gzipped_file_are_set_aside_with_their_number(database: Database, tmp_path: Path) -> None:
    good = [matpes_json(1, salt()), matpes_json(4, salt(4.02, "F"))]
    not_json = matpes_json(2, salt(5.5, "Br")).replace('"matrix": [', '"matrix": [,', 1)
    no_lattice = json.dumps({"structure": {"sites": []}, "matpes_id": "mp-3"})
    path = tmp_path / "pool.json.gz"
    path.write_bytes(gzip.compress(("[\n" + ",\n".join([good[0], not_json, no_lattice, good[1]]) + "\n]").encode()))
    aside = tmp_path / "quarantine" / "pool.jsonl"
    report = add_to_pool(stream_file(path), database, Intake(RULES), aside)
    assert (report.read, report.new, report.quarantined) == (4, 2, 2)
    assert report.stopped == []
    assert {d["formula"] for d in stored(database)} == {"LiCl", "LiF"}
    lines = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [(e["file"], e["record"], e["line"]) for e in lines] == [("pool.json.gz", 2, 3), ("pool.json.gz", 3, 4)]
    assert all(e["reason"] for e in lines)
    assert lines[1]["record_id"] == "mp-3"
    assert "record 2, line 3" in report.broken[0]
    assert [p.name for p in aside.parent.iterdir()] == ["pool.jsonl"]  # nothing half-written beside it


def test_a_list_inside_a_broken_document_does_not_end_the_file(database: Database, tmp_path: Path) -> None:
    """A summary document lists what it decomposes to, and each item begins as the document does."""

    def summary(i: int, structure: Structure) -> str:
        parts = [{"material_id": f"mp-{i}{n}", "amount": 0.5} for n in range(2)]
        value = {"material_id": f"mp-{i}", "decomposes_to": parts, "structure": structure.as_dict()}
        return json.dumps(value)

    broken = summary(2, salt(5.5, "Br")).replace('"decomposes_to"', ', "decomposes_to"')
    path = tmp_path / "snapshot.json"
    path.write_text("[" + ",\n".join([summary(1, salt()), broken, summary(3, salt(4.02, "F"))]) + "]\n")
    report = add_to_pool(stream_file(path), database, Intake(RULES), tmp_path / "aside.jsonl")
    assert {d["formula"] for d in stored(database)} == {"LiCl", "LiF"}
    assert report.quarantined >= 1
    assert report.stopped == []


def test_a_cell_too_large_for_a_document_is_set_aside(database: Database, tmp_path: Path) -> None:
    n = MAX_SITES + 1
    chain = Structure(Lattice.orthorhombic(5, 5, 4 * n), ["Li"] * n, [[0, 0, i / n] for i in range(n)])
    entries = [record("chain", chain, file="a.cif", record=7), record("good", salt())]
    report = add_to_pool(entries, database, Intake(RULES), tmp_path / "aside.jsonl")
    assert (report.read, report.quarantined, report.new) == (2, 1, 1)
    assert "a.cif, record 7" in report.broken[0]
    assert f"{n} atoms" in report.broken[0]


def test_a_file_that_ends_early_keeps_what_was_before(database: Database) -> None:
    def cut() -> Iterator[Record | Quarantined]:
        yield record("good", salt())
        yield Quarantined("a.json.gz", 2, 9, "cut off", fatal=True)

    report = add_to_pool(cut(), database, Intake(RULES))
    assert (report.read, report.new, report.quarantined) == (1, 1, 1)
    assert "a.json.gz, record 2, line 9: cut off" in report.stopped[0]


def test_reasons_that_are_only_counted_leave_no_document(database: Database) -> None:
    report = add_to_pool(MIXED, database, Intake(RULES, not_kept={"missing_element"}))
    assert report.not_kept == {"missing_element": 1}
    assert report.rejected == {"duplicate": 1}
    assert len(stored(database)) == report.new == 4


def test_counts_by_role_source_status_and_reason(database: Database) -> None:
    add_to_pool(MIXED, database, Intake(RULES))
    add_to_pool([record("LiBr", salt(5.5, "Br")), record("again", salt())], database, Intake(RULES))
    hosts = [
        record("AgCl", salt(5.55, "Cl", "Ag"), e_above_hull_ev_per_atom=0.0),
        record("AgBr", salt(5.77, "Br", "Ag"), e_above_hull_ev_per_atom=0.06),
        record("NaCl", salt(5.64, "Cl", "Na"), e_above_hull_ev_per_atom=0.0),
    ]
    add_to_pool(hosts, database, Intake(RULES, role="host"))
    rows = {(r["role"], r["source"], r["status"], r["reason"]): r["n"] for r in pool_counts(database)}
    assert rows == {
        ("candidate", "matpes", "accepted", ""): 3,
        ("candidate", "user", "accepted", ""): 1,
        ("candidate", "matpes", "rejected", "duplicate"): 1,
        ("candidate", "matpes", "rejected", "missing_element"): 1,
        ("candidate", "user", "rejected", "duplicate"): 1,
        ("host", "user", "accepted", ""): 1,
        ("host", "user", "rejected", "above_hull"): 1,
        ("host", "user", "rejected", "no_redox_metal"): 1,
    }
    facts = plan_candidates(Campaign(name="none"), database).facts
    assert facts["pool_candidates"] == {"matpes": 3, "user": 1}
    assert facts["left_out_candidates"] == {"duplicate": 2, "missing_element": 1}
    assert facts["pool_hosts"] == {"user": 1}


def test_hosts_are_never_explored_and_are_compared_with_hosts_only(database: Database) -> None:
    campaign = load_campaign("demo")
    silver = [record("AgCl", salt(5.55, "Cl", "Ag"), e_above_hull_ev_per_atom=0.0)]
    add_to_pool(silver, database, Intake(RULES, role="host"))
    plan = plan_explore(campaign, database)
    assert plan.items == []
    assert plan.facts["runs"] == 0
    assert "no accepted candidate" in plan.missing[0]
    no_rules = CandidateParameters(require_elements=[])
    assert add_to_pool(silver, database, Intake(no_rules)).accepted == {"user": 1}  # no duplicate of the host
    assert plan_explore(campaign, database).facts["runs"] == len(campaign.exploration.temperatures_k)


def test_the_demos_selection_is_five_accepted_and_one_rejected_as_their_documents_say(database: Database) -> None:
    campaign = load_campaign("demo")
    rules = campaign.candidates
    maker = SelectMaker(parameters=rules.model_dump(mode="json"))
    first, again = (SelectMaker.make.original(maker, "key") for _ in range(2))
    expected = [
        candidate_document(build_structure(p), rules, p.name, "user", p.references).candidate_id
        for p in rules.prototypes
    ]
    assert first == {
        "key": "key",
        "new": 6,
        "accepted": 5,
        "rejected": {"excluded_element": 1},
        "candidate_ids": expected,
    }
    assert again == first | {"new": 0}
    assert sorted(d["candidate_id"] for d in stored(database)) == sorted(expected)
    [item] = plan_candidates(campaign, database).items
    assert item.done


def test_a_report_is_plain_values() -> None:
    report = ImportReport(read=1)
    report.accepted["user"] += 1
    assert json.loads(json.dumps(report.as_dict()))["accepted"] == {"user": 1}


def added_up(report: ImportReport) -> int:
    """Return how many records the outcomes of a report account for; those behind a fatal one were never read."""
    outcomes = report.accepted.total() + report.rejected.total() + report.not_kept.total()
    return outcomes + report.repeated + report.quarantined - len(report.stopped)


def test_every_record_of_a_mixed_file_ends_in_one_outcome(database: Database, tmp_path: Path) -> None:
    """Good, repeated, duplicate, without Li, disordered, overlapping, sparse, and six kinds that cannot be read."""
    half = Structure(Lattice.cubic(5.13), [{"Li": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    close = Structure(Lattice.cubic(5.13), ["Li", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
    sparse = Structure(Lattice.cubic(30), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    good = [salt(), salt(), salt(5.2), salt(5.64, "Cl", "Na"), half, close, sparse]
    broken: list[Any] = [
        None,
        {"energy": 1.0},
        json.loads(json.dumps(salt().as_dict()).replace('"Cl"', '"Qq"')),
        salt().as_dict() | {"lattice": {"matrix": [[1e308, 0, 0], [0, 1e308, 0], [0, 0, 1e308]]}},
        salt().as_dict() | {"lattice": {"matrix": [[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]]}},
        salt().as_dict() | {"lattice": {"matrix": salt().lattice.matrix.tolist(), "pbc": [True, True, False]}},
    ]
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps(s.as_dict()) for s in good] + [json.dumps(b) for b in broken] + ["{"]
    path.write_text("\n".join(lines))
    report = add_to_pool(stream_file(path), database, Intake(RULES), tmp_path / "aside.jsonl")
    assert report.accepted == {"user": 1}
    assert report.rejected == {
        "duplicate": 1,
        "missing_element": 1,
        "disordered": 1,
        "overlap": 1,
        "implausible_volume": 1,
    }
    assert report.repeated == 1
    assert report.quarantined_for == {
        "not_json": 2,
        "no_structure": 1,
        "unknown_element": 1,
        "number": 1,
        "cell": 1,
        "not_periodic": 1,
    }
    assert report.read == added_up(report) == 14
    aside = [json.loads(line) for line in (tmp_path / "aside.jsonl").read_text().splitlines()]
    assert [e["line"] for e in aside] == list(range(8, 15))
    assert all(e["code"] in REFUSALS for e in aside)


def test_what_a_database_cannot_encode_does_not_end_an_import(database: Database, tmp_path: Path) -> None:
    """A lone surrogate and a number beyond 64 bits, in identifiers that are kept as provenance."""
    odd = {"structure": salt().as_dict(), "matpes_id": "mp-\ud800", "functional": "\udcff"}
    path = tmp_path / "odd.json"
    broken = {"structure": {"sites": []}, "matpes_id": "mp-\udfff"}
    plain = {"structure": salt(4.02, "F").as_dict(), "matpes_id": "mp-2", "energy": 10**400}
    path.write_text(json.dumps([odd, broken, plain]))
    report = add_to_pool(stream_file(path), database, Intake(RULES), tmp_path / "aside.jsonl")
    assert (report.read, report.new, report.quarantined) == (3, 2, 1)
    assert {d["provenance"]["record_id"] for d in stored(database)} == {"mp-\\ud800", "mp-2"}
    assert json.loads((tmp_path / "aside.jsonl").read_text())["record_id"] == "mp-\udfff"


def test_a_structure_that_breaks_a_rule_or_the_reduction_is_one_record(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aqvolt_flows.candidates import duplicates, pool

    def judge(structure: Structure, *args: Any, **kwargs: Any) -> Any:
        if structure.volume > 140:
            raise FloatingPointError("overflow")
        return candidate_document(structure, *args, **kwargs)

    def reduce(structure: Structure) -> Structure:
        if structure.volume < 100:
            raise ValueError("no Niggli cell")
        return structure.get_primitive_structure()

    monkeypatch.setattr(pool, "candidate_document", judge)
    monkeypatch.setattr(duplicates, "reduce_structure", reduce)
    entries = [record("wide", salt(5.3)), record("good", salt()), record("odd", salt(4.02, "F"))]
    report = add_to_pool(entries, database, Intake(RULES), tmp_path / "aside.jsonl")
    assert report.accepted == {"user": 1}
    assert report.rejected == {"not_comparable": 1}
    assert report.quarantined_for == {"unreadable": 1}
    assert report.read == added_up(report) == 3
    assert "FloatingPointError: overflow" in (tmp_path / "aside.jsonl").read_text()
    [document] = stored(database, status="rejected")
    assert "no Niggli cell" in document["rejection"]["message"]
