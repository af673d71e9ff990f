"""89 real MatPES documents go in, become a release, and come out as they were."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from aqvolt_flows.datasets import folder
from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import import_labels
from aqvolt_flows.datasets.importers.published import ImportOptions
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.schemas.parameters import ReleaseParameters

FILE = Path(__file__).parent / "data" / "matpes_r2scan_elements.json.gz"
KEEP_ALL = {"duplicate_tolerance_a": 0, "max_cohesive_energy_ev": 1e6, "max_force_ev_per_a": 1e6}


@pytest.fixture
def there_and_back(database, tmp_path, monkeypatch):
    """The documents by their identity, before and after."""
    monkeypatch.setattr("aqvolt_flows.datasets.plots.available", lambda: False)
    options = ImportOptions(source="matpes")
    report = import_labels(database, read_labels(FILE, options), options, tmp_path / "quarantine.jsonl")
    assert (report.labels, report.quarantined) == (89, 0)
    document = create_release(database, ReleaseParameters(name="matpes", **KEEP_ALL), tmp_path / "releases")
    assert document.counts["total"] == 89
    written = folder.export(tmp_path / "releases" / document.path, "matpes-json", tmp_path / "out")
    assert written == document.counts["by_split"]
    with gzip.open(FILE) as handle:
        before = {d["matpes_id"]: d for d in json.load(handle).values()}
    after = {}
    for path in (tmp_path / "out").iterdir():
        with gzip.open(path) as handle:
            after |= {d["matpes_id"]: d for d in json.load(handle)}
    return before, after


def test_the_real_documents_return_unchanged_within_rounding(there_and_back):
    before, after = there_and_back
    assert after.keys() == before.keys()
    for name, was in before.items():
        now = after[name]
        first, second = (Structure.from_dict(d["structure"]) for d in (was, now))
        np.testing.assert_allclose(second.lattice.matrix, first.lattice.matrix, atol=1e-12)
        assert [s.specie.symbol for s in second] == [s.specie.symbol for s in first]
        shift = second.frac_coords - first.frac_coords
        assert np.abs(shift - np.rint(shift)).max() < 1e-12
        assert now["energy"] == was["energy"]
        np.testing.assert_array_equal(now["forces"], was["forces"])
        np.testing.assert_allclose(now["abs_forces"], was["abs_forces"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(now["stress"], was["stress"], rtol=1e-12, atol=1e-12)
        assert now["functional"] == was["functional"] == "r2SCAN"
        assert now["bandgap"] == was["bandgap"]
        for field in (
            *("nsites", "nelements", "chemsys", "formula_pretty", "formula_anonymous", "elements"),
            *("composition", "composition_reduced"),
        ):
            assert now[field] == was[field], field
        for field in ("cohesive_energy_per_atom", "energy_per_atom", "volume", "density", "density_atomic"):
            assert now[field] == pytest.approx(was[field], abs=1e-6), field
        for field, value in was["provenance"].items():
            if value is not None:
                assert now["provenance"][field] == value


def test_magnetic_moments_return_with_the_structure(there_and_back):
    before, after = there_and_back
    with_moments = 0
    for name, was in before.items():
        moments = Structure.from_dict(was["structure"]).site_properties.get("magmom")
        if moments is not None:
            with_moments += 1
            assert Structure.from_dict(after[name]["structure"]).site_properties["magmom"] == moments
    assert with_moments > 0
