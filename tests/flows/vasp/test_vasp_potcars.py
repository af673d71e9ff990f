"""POTCARs looked at by content: present, whole, and those of the theory level."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from fake_vasp.potcars import potcar_text, write_potcars
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.vasp.potcars import (
    WrongPotcarError,
    datasets_in,
    potcar_drift,
    potcar_hashes,
    potcar_report,
    potcar_sha256,
)
from aqvolt_flows.vasp.settings import frozen_potcars


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_potcars(tmp_path / "potcars", ["Li", "Cl", "Y"])


def file_of(folder: Path, symbol: str) -> Path:
    return folder / "POT_PAW_PBE_64" / f"POTCAR.{symbol}"


def test_every_potcar_of_the_map_would_pass():
    """Titles, elements and LEXCH are those of pymatgen's own table of the licensed PBE_64 files."""
    from pymatgen.io.vasp.inputs import _load_potcar_summary_stats

    known = [entry | {"title": t} for t, found in _load_potcar_summary_stats()["PBE_64"].items() for entry in found]
    for element, symbol in frozen_potcars().items():
        entries = [entry for entry in known if entry["symbol"] == symbol]
        assert entries, symbol
        for entry in entries:
            title = entry["title"].replace("PAW_PBE", "PAW_PBE ", 1)  # the table has no blanks in titles
            assert title.startswith(f"PAW_PBE {symbol}")
            (dataset,) = datasets_in(f"TITEL = {title}\nVRHFIN ={entry['VRHFIN']}\nLEXCH = {entry['LEXCH']}\n")
            assert (dataset.element, dataset.lexch) == (element, "PE")


def test_present_ones_are_named_with_their_hash(folder: Path):
    li, y = potcar_report(["Y", "Li", "Y"], folder)
    assert (li.element, li.symbol, li.status, li.title) == ("Li", "Li_sv", "ok", "PAW_PBE Li_sv 01Jan2026")
    assert li.sha256 == potcar_sha256(potcar_text("Li"))
    assert (y.symbol, y.status) == ("Y_sv", "ok")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda text: text.replace("LEXCH  = PE", "LEXCH  = CA"), "wrong_functional"),
        (lambda text: text.replace("Li_sv", "Li"), "wrong_dataset"),
        (lambda text: potcar_text("Cl"), "wrong_element"),
        (lambda text: text[:40], "unreadable"),
        (lambda text: text + potcar_text("Cl"), "unreadable"),
        (lambda text: text.replace("EAUG   =  500", "EAUG   =  501"), "wrong_hash"),
    ],
)
def test_each_fault_has_its_word_and_stops_before_the_queue(folder, monkeypatch, change, status):
    from pymatgen.core import SETTINGS

    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
    expected = potcar_hashes(["Li", "Cl"])
    path = file_of(folder, "Li_sv")
    path.write_text(change(path.read_text()))
    cl, li = potcar_report(["Li", "Cl"], folder, expected)
    assert (cl.status, li.status) == ("ok", status)
    assert li.detail
    with pytest.raises(WrongPotcarError, match="Li_sv: "):
        potcar_hashes(["Li", "Cl"], expected)


def test_missing_ones_are_all_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from pymatgen.core import SETTINGS

    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
    assert [row.status for row in potcar_report(["K", "Li", "Og"], folder)] == ["missing", "ok", "missing"]
    with pytest.raises(ResourceError, match=r"missing for K \(K_sv\), Og \(none in MatPES\)"):
        potcar_hashes(["K", "Li", "Og"])


def test_both_layouts_and_gzip_are_found(tmp_path: Path):
    below = tmp_path / "POT_PAW_PBE_64"
    (below / "Li_sv").mkdir(parents=True)
    (below / "Li_sv" / "POTCAR.gz").write_bytes(gzip.compress(potcar_text("Li").encode()))
    (below / "POTCAR.Cl").write_text(potcar_text("Cl"))
    assert [row.status for row in potcar_report(["Li", "Cl"], tmp_path)] == ["ok", "ok"]
    cut = (below / "Li_sv" / "POTCAR.gz").read_bytes()[:60]
    (below / "Li_sv" / "POTCAR.gz").write_bytes(cut)
    assert [row.status for row in potcar_report(["Li"], tmp_path)] == ["unreadable"]


@given(st.lists(st.sampled_from(["Li", "Cl", "Y", "Na"]), min_size=1, max_size=4), st.integers(0, 3))
def test_a_dataset_hashes_the_same_alone_and_in_a_file_of_several(elements: list[str], blanks: int):
    text = "".join(potcar_text(e).replace("\n", " " * blanks + "\n") for e in elements)
    found = datasets_in(text)
    assert [dataset.element for dataset in found] == elements
    assert [dataset.sha256 for dataset in found] == [potcar_sha256(potcar_text(e)) for e in elements]


def test_drift_names_elements_whose_potcar_changed_since_earlier_labels():
    used = [{"Li": "a", "Cl": "b"}, {"Li": "a"}, {"Na": "c"}]
    assert potcar_drift(used, {"Li": "a", "Cl": "x"}) == {"Cl": ("b", "x")}
