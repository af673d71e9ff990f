"""Files damaged at random, 500 per format: no exception, a known reason, and the good records beside it kept."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.io import write as ase_write
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from aqvolt_flows.candidates.pool import Intake
from aqvolt_flows.candidates.records import Quarantined, Record
from aqvolt_flows.candidates.refusals import REFUSALS
from aqvolt_flows.candidates.sources import stream_file
from aqvolt_flows.schemas.parameters import CandidateParameters

PIECES = (
    *(
        "",
        " ",
        "\n",
        "0",
        "-",
        ".",
        "?",
        "1e308",
        "-1",
        "nan",
        "inf",
        "x",
        "Li",
        "Qq",
        "'",
        '"',
        ";",
        "\n;\n",
        "loop_",
        "#",
    ),
    *(
        "_cell_length_a",
        "data_y",
        "{",
        "}",
        "[",
        "]",
        ",",
        "null",
        "é",
        "\x00",
        "1e400",
        "999999999999",
        "(",
        "Lattice=",
    ),
)
EVERY = settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """The text with one to three pieces cut out, doubled or replaced; a ``data_`` line parts records and is left."""
    head, body = text.split("\n", 1) if text.startswith("data_") else ("", text)
    text = body
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(text) - 1, 0)))
        end = min(len(text), start + draw(st.sampled_from((0, 1, 1, 2, 5, 20, 80, 10_000))))
        filling = draw(st.sampled_from((*PIECES, text[start:end] * 2)))
        text = text[:start] + filling + text[end:]
    return f"{head}\n{text}" if head else text


def crystal(a: float) -> Structure:
    """A made-up Li2Cl2 at general positions, so that no symmetry repairs what is lost."""
    frac = [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8], [0.15, 0.6, 0.4], [0.65, 0.1, 0.9]]
    return Structure(Lattice.orthorhombic(a, 5.2, 5.5), ["Li", "Li", "Cl", "Cl"], frac)


def cif(structure: Structure, name: str) -> str:
    text = str(CifWriter(structure))
    return "data_" + name + "\n" + text.split("\n", 2)[2]


def extxyz(structure: Structure) -> str:
    text = io.StringIO()
    ase_write(text, AseAtomsAdaptor.get_atoms(structure, msonable=False), format="extxyz")
    return text.getvalue()


INTAKE = Intake(CandidateParameters())


def read(path: Path) -> list[Record | Quarantined]:
    """Return the entries; each record becomes a document, and each reason is a known one."""
    found = list(stream_file(path, "structure"))
    for entry in found:
        if isinstance(entry, Quarantined):
            assert entry.code in REFUSALS
            assert entry.reason
        else:
            INTAKE.document(entry)
    return found


def has(found: list[Record | Quarantined], a: float) -> bool:
    return any(isinstance(e, Record) and abs(e.structure.volume - a * 5.2 * 5.5) < 1e-3 for e in found)


ROW = re.compile(r"\s*[A-Z][a-z]?(\s+[-\d.e]+){3}\s*$", re.MULTILINE)
GOOD = (5.0, 5.1)
BAD = crystal(5.3)
CASES: list[tuple[str, str, Callable[[str], str]]] = [
    ("a.cif", cif(BAD, "bad"), lambda bad: cif(crystal(5.0), "one") + bad + "\n" + cif(crystal(5.1), "two")),
    ("a.extxyz", extxyz(BAD), lambda bad: extxyz(crystal(5.0)) + bad + "\n" + extxyz(crystal(5.1))),
    (
        "a.jsonl",
        json.dumps(BAD.as_dict()),
        lambda bad: "\n".join([json.dumps(crystal(5.0).as_dict()), bad, json.dumps(crystal(5.1).as_dict())]),
    ),
    (
        "a.json",
        json.dumps(BAD.as_dict()),
        lambda bad: f"[{json.dumps(crystal(5.0).as_dict())}, {bad}, {json.dumps(crystal(5.1).as_dict())}]",
    ),
]


@pytest.mark.parametrize(("name", "bad", "together"), CASES, ids=[c[0] for c in CASES])
def test_the_good_records_beside_a_damaged_one_are_kept(
    tmp_path: Path, name: str, bad: str, together: Callable[[str], str]
) -> None:
    path = tmp_path / name

    @given(mutated(bad))
    @EVERY
    def check(damaged: str) -> None:
        # of a frame nothing is left but rows: they could as well be rows too many of the frame before
        assume(name != "a.extxyz" or not ROW.match(damaged.lstrip("\n")))
        path.write_text(together(damaged), encoding="utf-8")
        found = read(path)
        assert has(found, GOOD[0])
        assert has(found, GOOD[1])

    check()


@pytest.mark.parametrize("properties", ["species:S:1:pos:R:999999999999", "species:S:1999999999999"])
def test_a_column_count_beyond_all_measure_is_a_reason_and_takes_no_memory(tmp_path: Path, properties: str) -> None:
    """ASE makes a list entry for each column that is described: 20 GB here."""
    path = tmp_path / "a.extxyz"
    bad = extxyz(BAD).replace("species:S:1:pos:R:3", properties)
    path.write_text(extxyz(crystal(5.0)) + bad + extxyz(crystal(5.1)), encoding="utf-8")
    found = read(path)
    assert has(found, GOOD[0])
    assert has(found, GOOD[1])
    [refused] = [e for e in found if isinstance(e, Quarantined)]
    assert "columns, and its first atom has 4" in refused.reason


def test_a_damaged_poscar_is_a_structure_or_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"

    @given(mutated(Poscar(BAD).get_str()))
    @EVERY
    def check(damaged: str) -> None:
        path.write_text(damaged, encoding="utf-8")
        [_] = read(path)

    check()
