"""Labels of one campaign come from one set of POTCARs, or the preflight says which element changed."""

from __future__ import annotations

from pathlib import Path

import label_factory
import pytest
from fake_vasp.potcars import write_potcars

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.vasp.potcars import potcar_hashes
from aqvolt_launch.project.preflight import labeler_checks


def test_a_potcar_that_changed_since_earlier_labels_is_named(
    database: Database, settings: AqvoltSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pymatgen.core import SETTINGS

    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(write_potcars(tmp_path / "potcars", ["Li", "Cl"])))
    used = potcar_hashes(["Li", "Cl"])
    protocol = label_factory.VASP.model_copy(update={"potcar_hashes": used})
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(1, protocol=protocol), "uuid-1"))
    campaign = load_campaign("aqvolt26")

    def drifted() -> list[str]:
        checks = labeler_checks(settings, campaign, ["Li", "Cl"])
        return [f"{c.status} {c.check}: {c.detail}" for c in checks if "earlier labels" in c.check]

    assert drifted() == []
    path = tmp_path / "potcars" / "POT_PAW_PBE_64" / "POTCAR.Cl"
    path.write_text(path.read_text().replace("EAUG   =  500", "EAUG   =  501"))
    (row,) = drifted()
    assert row.startswith(f"fail VASP: POTCAR Cl of earlier labels: labels were made with SHA-256 {used['Cl'][:12]}")
