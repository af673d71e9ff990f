"""``aqvolt doctor``: what would stop this project, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqvolt_flows.errors import DatabaseError, InputError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database
from aqvolt_launch.project import doctor
from aqvolt_launch.project.doctor import ROLES, Check, campaign_elements, examine


def rows(checks: list[Check]) -> dict[str, Check]:
    return {check.check: check for check in checks}


def test_doctor_on_a_working_database(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VASP_CMD", raising=False)
    monkeypatch.delenv("PMG_VASP_PSP_DIR", raising=False)
    before = sorted(database.mongo.list_collection_names())
    found = rows(examine(settings))
    assert found["database"].status == "ok"
    assert database.mongo.name in found["database"].detail
    assert found["artifact store"].status == "ok"
    assert not Path(settings.artifact_url).exists(), "what was not there before is not left"
    assert sorted(database.mongo.list_collection_names()) == before
    assert found["model: exploration"].status == "ok"
    assert "81791329b37d" in found["model: exploration"].detail  # SHA-256 of sevenn 0.13.0's weights
    assert found["VASP: command"].status == "fail", "the campaign labels with VASP"
    assert "VASP_CMD is not set" in found["VASP: command"].detail
    assert found["VASP: command"].todo


def test_doctor_names_every_potcar_of_the_candidates(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pymatgen.core import SETTINGS

    from aqvolt_flows.campaign import load_campaign

    potcars = tmp_path / "potcars"
    potcars.mkdir()
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(potcars))
    database["candidates"].insert_many(
        [
            {"candidate_id": "a", "key": "a", "status": "accepted", "elements": ["Li", "Cl"]},
            {"candidate_id": "b", "key": "b", "status": "accepted", "elements": ["Li", "Y", "Cl"]},
            {"candidate_id": "c", "key": "c", "status": "rejected", "elements": ["Li", "Ar"]},
        ]
    )
    assert campaign_elements(settings, load_campaign("aqvolt26")) == ["Cl", "Li", "Y"]
    found = rows(examine(settings))
    named = sorted(name for name in found if name.startswith("VASP: POTCAR "))
    assert named == ["VASP: POTCAR Cl", "VASP: POTCAR Li", "VASP: POTCAR Y", "VASP: POTCAR folder"]
    assert found["VASP: POTCAR folder"].status == "ok"
    assert found["VASP: POTCAR Y"].status == "fail"
    assert "PBE_64" in found["VASP: POTCAR Y"].detail
    assert "Y_sv" in found["VASP: POTCAR Y"].detail  # MatPES' choice for Y


def test_doctor_says_what_is_wrong_and_goes_on(project: Path) -> None:
    (project / "artifacts").write_text("a file in the way")
    found = rows(examine(load_settings(campaign="missing.yaml", device="cuda:7")))
    assert found["database"].status == "fail"
    assert "aqvolt db start" in found["database"].todo
    assert found["artifact store"].status == "fail"
    assert found["campaign"].status == "fail"
    assert found["GPU"].status in {"fail", "ok"}


def test_doctor_unreachable_database(project: Path) -> None:
    settings = load_settings(mongo_uri="mongodb://127.0.0.1:9/aqvolt", timeout_s=0.3)
    found = rows(examine(settings))
    assert found["database"].status == "fail"
    assert "No MongoDB answers at mongodb://127.0.0.1:9/aqvolt" in found["database"].detail


def test_doctor_names_a_plugin_that_was_left_out(tmp_path: Path) -> None:
    """An entry that does not load, and one whose name is taken; a new Python sees them as installed packages."""
    from plugins import install, run

    install(tmp_path, "torn_package", "raise OSError('no library')", "aqvolt.labelers", {"torn": "ANY"})
    code = (
        "from aqvolt_flows.benchmark_registry import BenchmarkEntry\nTAKEN = BenchmarkEntry('ev_scan', 'mine', 'a:B')"
    )
    install(tmp_path, "second_scan", code, "aqvolt.benchmarks", {"scan": "TAKEN"})
    said = run(
        tmp_path,
        "from aqvolt_flows.settings import load_settings\n"
        "from aqvolt_launch.project.doctor import examine\n"
        "for c in examine(load_settings()):\n"
        "    if c.check == 'plug-in': print('left out', c.status, c.detail)\n",
    )
    torn, taken = [line for line in said.splitlines() if line.startswith("left out")]
    assert torn.startswith("left out warn The labeler 'torn' of torn-package")
    assert "no library" in torn
    assert taken.startswith("left out warn The benchmark 'scan' of second-scan")
    assert "there is a benchmark 'ev_scan' already" in taken


def test_a_machine_that_only_submits_is_not_broken_without_vasp_and_gpu(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VASP_CMD", raising=False)
    monkeypatch.delenv("PMG_VASP_PSP_DIR", raising=False)
    wants_gpu = settings.model_copy(update={"device": "cuda"})
    monkeypatch.setattr(doctor, "_gpu", lambda _: Check("GPU", "fail", "sees none", "Get one."))
    status = {role: {c.check: c.status for c in examine(wants_gpu, role=role)} for role in ROLES}
    assert status["all"]["GPU"] == status["all"]["VASP: command"] == "fail"
    assert "fail" not in status["submit"].values()
    assert status["submit"]["VASP: command"] == "warn"
    assert status["cpu"]["GPU"] == "warn"
    assert (status["gpu"]["GPU"], status["gpu"]["VASP: command"]) == ("fail", "warn")
    assert (status["vasp"]["GPU"], status["vasp"]["VASP: command"]) == ("warn", "fail")
    with pytest.raises(InputError, match=r"no role 'laptop' of a machine; expected one of all, submit"):
        examine(settings, role="laptop")


def test_doctor_works_when_half_is_down(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No database, an artifact store whose driver breaks, models that cannot be read: every other row is there."""

    def breaks(*_: object) -> None:
        raise RuntimeError("the driver of the store fell over")

    monkeypatch.setattr(doctor.fsspec.core, "url_to_fs", breaks)
    monkeypatch.setattr(doctor, "_potentials", breaks)
    asked = []
    monkeypatch.setattr(doctor.Database, "connect", lambda s: asked.append(s) or breaks_database())

    def breaks_database() -> None:
        raise DatabaseError("No MongoDB answers; expected one: start it.")

    found = rows(examine(load_settings()))
    assert found["database"].status == found["artifact store"].status == found["models"].status == "fail"
    assert "the driver of the store fell over" in found["artifact store"].detail
    assert found["campaign"].status == "ok"
    assert {"GPU", "scratch space", "VASP: command"} <= set(found)
    assert len(asked) == 1, "a database that is away is waited for once"
