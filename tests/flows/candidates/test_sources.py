"""Importers: what they read, what they set aside, and that memory does not grow with the file."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.materials_project import queries, stream_live
from aqvolt_flows.candidates.records import Quarantined, Record
from aqvolt_flows.candidates.sources import detect_format, stream_file
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.schemas.parameters import CandidateParameters
from aqvolt_flows.streams import stream_documents, stream_lines


def salt(a: float = 5.13, halogen: str = "Cl") -> Structure:
    """Rock salt from its eight sites; building it from the space group takes 25 ms."""
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    others = [[(x + 0.5) % 1 for x in c] for c in corners]
    return Structure(Lattice.cubic(a), ["Li"] * 4 + [halogen] * 4, corners + others)


def matpes(i: int, structure: Structure | None = None, **more) -> dict:
    """A document with the keys and their order of MatPES 2025.1."""
    return {
        "builder_meta": {"emmet_version": "0.84", "database_version": None},
        "nsites": 8,
        "structure": (structure or salt(5.0 + 0.001 * i)).as_dict(),
        "energy": -30.5,
        "forces": [[0.0, 0.0, 0.0]] * 8,
        "matpes_id": f"mp-{i}",
        "bandgap": float("nan"),  # Python's json writes NaN, and so does MatPES' maker
        "functional": "r2SCAN",
        "provenance": {"original_mp_id": f"mp-{i}", "materials_project_version": "v2023.11.1", "md_temperature": 300.0},
        **more,
    }


def summary(i: int, structure: Structure | None = None, **more) -> dict:
    """A Materials Project summary document."""
    return {
        "builder_meta": {"database_version": "2025.06.09"},
        "material_id": f"mp-{i}",
        "structure": (structure or salt()).as_dict(),
        "energy_above_hull": 0.01,
        "possible_species": ["Li+", "Cl-"],
        "theoretical": False,
        "task_ids": ["mp-99"],
        **more,
    }


def split(path, kind=None):
    entries = list(stream_file(path, kind))
    return [e for e in entries if isinstance(e, Record)], [e for e in entries if isinstance(e, Quarantined)]


@pytest.mark.parametrize("keyed", [False, True], ids=["list", "mapping"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("zipped", [False, True])
def test_matpes_json_comes_back_as_written(tmp_path, keyed, indent, zipped):
    documents = [matpes(i) for i in range(5)]
    text = json.dumps({d["matpes_id"]: d for d in documents} if keyed else documents, indent=indent)
    path = tmp_path / ("a.json.gz" if zipped else "a.json")
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert detect_format(path) == "matpes"
    records, broken = split(path)
    assert not broken
    assert [r.structure.volume for r in records] == pytest.approx([(5.0 + 0.001 * i) ** 3 for i in range(5)])
    assert records[3].provenance == {
        "file": path.name,
        "record": 4,
        "database": "MatPES",
        "record_id": "mp-3",
        "functional": "r2SCAN",
        "energy_ev": -30.5,
        "mp_id": "mp-3",
        "materials_project_version": "v2023.11.1",
        "md_temperature_k": 300.0,
    }


def broken_matpes() -> list[str]:
    """Texts of nine records; the second to the eighth are wrong in one way each."""
    good = [json.dumps(matpes(i)) for i in range(9)]
    no_atoms = salt().as_dict() | {"sites": []}
    nan_cell = salt().as_dict()
    nan_cell["lattice"] = nan_cell["lattice"] | {"matrix": [[float("nan"), 0, 0], [0, 5, 0], [0, 0, 5]]}
    unknown = json.loads(json.dumps(salt().as_dict()).replace('"Cl"', '"Qq"'))
    good[1] = good[1].replace('"energy":', '"energy"')  # not JSON
    good[2] = good[2][:-400]  # cut short inside a list of documents
    good[3] = json.dumps({k: v for k, v in matpes(3).items() if k != "structure"})
    good[4] = json.dumps(matpes(4) | {"structure": no_atoms})
    good[5] = json.dumps(matpes(5) | {"structure": nan_cell})
    good[6] = json.dumps(matpes(6) | {"structure": unknown})
    good[7] = "17"
    return good


def test_broken_records_are_set_aside_with_line_and_reason_and_the_rest_goes_in(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[\n" + ",\n".join(broken_matpes()) + "\n]")
    records, broken = split(path, "matpes")
    assert [r.provenance["record_id"] for r in records] == ["mp-0", "mp-8"]
    assert [(b.record, b.line) for b in broken] == [(i + 1, i + 2) for i in range(1, 8)]
    said = ["not JSON", "not JSON", "missing", "no atoms", "NaN", "not an element", "it is a int"]
    for entry, words in zip(broken, said, strict=True):
        assert any(w in entry.reason for w in words.split("|")), entry
    assert broken[2].record_id == "mp-3"
    assert not any(b.fatal for b in broken)


def test_two_broken_documents_side_by_side_are_two(tmp_path):
    texts = [json.dumps(matpes(i)) for i in range(6)]
    texts[2], texts[3] = (t.replace(":", "", 1) for t in texts[2:4])
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join(texts) + "]")
    records, broken = split(path, "matpes")
    assert [r.provenance["record"] for r in records] == [1, 2, 5, 6]
    assert [b.record for b in broken] == [3, 4]


@pytest.mark.parametrize("stray", ['"', "[", "[[", '["'])
def test_a_stray_quote_or_bracket_swallows_no_later_document(tmp_path, stray):
    texts = [json.dumps(matpes(i)) for i in range(4)]
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join([texts[0], stray, *texts[1:]]) + "]")
    records, broken = split(path, "matpes")
    assert {r.provenance["record_id"] for r in records} >= {"mp-0", "mp-2", "mp-3"}
    assert broken
    path.write_text("[" + ", ".join([texts[0], stray + texts[1], *texts[2:]]) + "]")
    records, broken = split(path, "matpes")
    assert [r.provenance["record_id"] for r in records] == ["mp-0", "mp-2", "mp-3"]
    assert not any(b.fatal for b in broken)


def test_the_same_in_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(broken_matpes()) + "\n")
    records, broken = split(path, "matpes")
    assert [r.provenance["record"] for r in records] == [1, 9]
    assert [b.line for b in broken] == list(range(2, 9))


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz"])
def test_of_a_truncated_archive_what_was_there_comes_and_then_a_sentence(tmp_path, name):
    documents = [matpes(i, note=f"{i * 7919 % 1000003}") for i in range(400)]
    text = json.dumps(documents) if name == "a.json.gz" else "\n".join(map(json.dumps, documents))
    whole = gzip.compress(text.encode())
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2])
    records, broken = split(path, "matpes")
    assert 100 < len(records) < 300
    assert [r.provenance["record"] for r in records] == list(range(1, len(records) + 1))
    assert [b.fatal for b in broken] == [True]
    assert "damaged or cut off" in broken[0].reason
    assert broken[0].record == len(records) + 1


def test_a_list_without_its_end_is_said(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join(json.dumps(matpes(i)) for i in range(3)))
    records, broken = split(path)
    assert len(records) == 3
    assert broken[0].fatal
    assert "closing" in broken[0].reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("hello", "begins with 'h'"),
        ('[{"a": 1}]', "neither 'matpes_id'"),
        ('{"a": {"b": 1}}', "neither"),
    ],
)
def test_wrong_json_is_named(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_text(content)
    if said.startswith("neither"):
        path = path.rename(tmp_path / "a.json.gz")
        path.write_bytes(gzip.compress(content.encode()))
    with pytest.raises(InputError, match=said):
        list(stream_file(path))


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        stream_file(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match="There is no format"):
        stream_file(tmp_path / "a.json", "vasp")  # type: ignore[arg-type]


def parquet(path, n=600, **replaced):
    """A MatPES table: cell (rows, Å), atomic_numbers and cart_coords (Å)."""
    structures = [salt(5.0 + 0.001 * i) for i in range(n)]
    columns = {
        "matpes_id": [f"mp-{i}" for i in range(n)],
        "cell": [s.lattice.matrix.tolist() for s in structures],
        "atomic_numbers": [list(s.atomic_numbers) for s in structures],
        "cart_coords": [s.cart_coords.tolist() for s in structures],
        "functional": ["r2SCAN"] * n,
        "forces": [[[0.0] * 3] * 8] * n,
        "provenance": [{"original_mp_id": "mp-1", "md_step": None}] * n,
    }
    pq.write_table(pa.table(columns | replaced), path)


def test_parquet_gives_the_same_crystals(tmp_path):
    path = tmp_path / "a.parquet"
    parquet(path)
    records, broken = split(path)
    assert not broken
    assert len(records) == 600
    assert records[300].structure.matches(salt(5.3), scale=False)
    assert records[300].structure.volume == pytest.approx(5.3**3)
    assert records[300].provenance["mp_id"] == "mp-1"


def test_parquet_rows_that_are_broken_and_files_that_are_no_table(tmp_path):
    path = tmp_path / "a.parquet"
    parquet(path, n=3, atomic_numbers=[[3] * 4 + [17] * 4, None, [3, 17]])
    records, broken = split(path)
    assert [r.provenance["record_id"] for r in records] == ["mp-0"]
    assert [b.record for b in broken] == [2, 3]
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="not a whole Parquet"):
        list(stream_file(tmp_path / "cut.parquet"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="has the columns x"):
        list(stream_file(tmp_path / "other.parquet"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"])
def test_a_materials_project_snapshot(tmp_path, name):
    documents = [summary(1), summary(2, energy_above_hull=None), summary(3, energy_above_hull="?")]
    text = json.dumps(documents) if ".json" in name and "jsonl" not in name else "\n".join(map(json.dumps, documents))
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert detect_format(path) == "mp"
    records, broken = split(path)
    assert not broken
    assert [r.provenance.get("e_above_hull_ev_per_atom") for r in records] == [0.01, None, None]
    assert records[0].provenance["e_above_hull_reference"] == "Materials Project 2025.06.09"
    assert records[0].provenance["possible_species"] == ["Li+", "Cl-"]
    assert records[0].name == "mp-1 LiCl"


def test_structure_files_come_through_the_same_door(tmp_path):
    salt().to(tmp_path / "a.cif")
    (tmp_path / "b.cif").write_text("data_x\nloop_\n")
    [record], _ = split(tmp_path / "a.cif")
    assert record.provenance == {"file": "a.cif", "record": 1}
    _, [broken] = split(tmp_path / "b.cif")
    assert (broken.code, "no block of 1" in broken.reason) == ("no_structure", True)


def test_what_a_reader_remarks_is_kept_and_not_printed(tmp_path, recwarn):
    """pymatgen takes 0.3333 for one third, and says so."""
    layered = Structure(Lattice.hexagonal(4, 6), ["Li", "Cl"], [[1 / 3, 2 / 3, 0], [0, 0, 0.5]])
    layered.to(tmp_path / "a.cif")
    text = (tmp_path / "a.cif").read_text()
    (tmp_path / "a.cif").write_text(re.sub(r"0\.3333\d*", "0.3333", re.sub(r"0\.6666\d*", "0.6667", text)))
    [record], _ = split(tmp_path / "a.cif")
    assert any("rounded to ideal values" in remark for remark in record.provenance["remarks"])
    assert record.structure.frac_coords[0][0] == pytest.approx(1 / 3, abs=1e-8)
    assert not recwarn.list


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=8), st.sampled_from([None, 0, 2]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_json_list_streams_to_what_json_loads(tmp_path_factory, values, indent, ascii_only):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(
        json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", errors="surrogatepass"
    )
    expected = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    assert [i.value for i in stream_documents(path)] == expected


@given(st.lists(JSON.filter(lambda v: v is not None), max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_json_lines_stream_to_what_json_loads(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text("\n".join(json.dumps(v) for v in values))
    assert [i.value for i in stream_lines(path)] == values


@given(st.integers(0, 5), st.integers(2, 400))
@settings(max_examples=40, deadline=None)
def test_one_record_cut_anywhere_leaves_the_others(tmp_path_factory, which, cut):
    texts = [json.dumps(matpes(i)) for i in range(6)]
    texts[which] = texts[which][:-cut]
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text("[" + ", ".join(texts) + "]")
    records, broken = split(path, "matpes")
    assert [r.provenance["record_id"] for r in records] == [f"mp-{i}" for i in range(6) if i != which]
    assert [b.record for b in broken] == [which + 1]


MEMORY = """
import resource, sys
from pathlib import Path
from aqvolt_flows.candidates.sources import stream_file
n = 0
for entry in stream_file(Path(sys.argv[1])):
    n += 1
    if n == 200:
        first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first)
"""


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    """A 60 MB text, or 20,000 rows, must not need more than 12 MB over the first 200 documents."""
    path, n = tmp_path / name, 4000
    if name == "a.parquet":
        n = 6000
        parquet(path, n, forces=[[[0.1, 0.2, 0.3]] * 8] * n)
    else:
        between, ends = (", ", "[]") if name == "a.json.gz" else ("\n", ("", ""))
        padding = {"padding": "x" * 12_000}
        with gzip.open(path, "wt", compresslevel=1) as handle:
            handle.write(ends[0])
            for i in range(n):
                handle.write((between if i else "") + json.dumps(matpes(i, **padding)))
            handle.write(ends[1])
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == n
    assert grown < 12_000  # kB


def test_what_is_asked_of_the_materials_project():
    hosts = queries(CandidateParameters(), "host")
    assert [q["elements"] for q in hosts] == [["F"], ["Cl"], ["Br"], ["I"]]
    assert all(q["energy_above_hull"] == (0.0, 0.05) and "Li" in q["exclude_elements"] for q in hosts)
    assert all(len(",".join(q["exclude_elements"])) <= 60 for q in hosts)  # the service's own limit
    halides = queries(CandidateParameters(), "candidate")
    assert [q["elements"] for q in halides] == [["Li", x] for x in ("F", "Cl", "Br", "I")]
    assert "energy_above_hull" not in halides[0]


def test_without_a_key_the_sentence_says_what_to_do(monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(ResourceError, match="MP_API_KEY"):
        stream_live(CandidateParameters(), "host")


def test_without_mp_api_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(ResourceError, match=r"aqvolt-flows\[mp\]"):
        list(stream_live(CandidateParameters(), "host", "k"))


def fake_service(monkeypatch, documents):
    class MPRestError(Exception):
        pass

    class MPRester:
        def __init__(self, key, **options):
            self.key = key
            self.materials = types.SimpleNamespace(summary=types.SimpleNamespace(search=self.search))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def get_database_version(self):
            return "2025.06.09"

        def search(self, elements, **arguments):
            if self.key == "wrong":
                raise MPRestError("REST query returned with error status code 401: Invalid authentication")
            return [d for d in documents if elements[-1] in str(d["structure"])]

    client = types.ModuleType("mp_api.client")
    client.MPRester = MPRester
    core = types.ModuleType("mp_api.client.core.exceptions")
    core.MPRestError = MPRestError
    monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", client)
    monkeypatch.setitem(sys.modules, "mp_api.client.core", types.ModuleType("mp_api.client.core"))
    monkeypatch.setitem(sys.modules, "mp_api.client.core.exceptions", core)


def test_live_documents_are_read_like_saved_ones(monkeypatch):
    mixed = Structure(Lattice.cubic(6), ["Ti", "Cl", "Br"], [[0, 0, 0], [0.5] * 3, [0.5, 0, 0.5]])
    broken = summary(3) | {"structure": {"lattice": "Cl"}}
    fake_service(monkeypatch, [summary(1), summary(2, mixed), broken])
    entries = list(stream_live(CandidateParameters(), "host", "k"))
    records = [e for e in entries if isinstance(e, Record)]
    assert [r.provenance["record_id"] for r in records] == ["mp-1", "mp-2"], "mp-2 comes with Cl and Br, once"
    assert records[0].provenance["e_above_hull_reference"] == "Materials Project 2025.06.09"
    assert [e.record_id for e in entries if isinstance(e, Quarantined)] == ["mp-3"]
    with pytest.raises(ResourceError, match="401"):
        list(stream_live(CandidateParameters(), "host", "wrong"))
