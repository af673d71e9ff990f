"""``aqvolt init`` and ``aqvolt doctor``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from aqvolt_flows.errors import ConfigError, ResourceError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import project as project_commands
from aqvolt_launch.project.doctor import Check, campaign_elements, examine
from aqvolt_launch.project.folder import FILES, init_project, summary, without_credentials


def rows(checks: list[Check]) -> dict[str, Check]:
    return {check.check: check for check in checks}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_init_writes_files_that_their_programs_read(project: Path) -> None:
    folder = project / "halides"
    assert summary(init_project(folder)) == {"written": len(FILES), "replaced": 0, "unchanged": 0}
    settings = load_settings(folder / "aqvolt.yaml")
    assert settings.campaign == "aqvolt26"
    assert settings.path(settings.launch_dir) == folder / ".aqvolt" / "launches"
    code = """
import json
from fireworks import FWorker, LaunchPad
from fireworks.fw_config import CONFIG_FILE_DIR, LAUNCHPAD_LOC
from fireworks.utilities.fw_serializers import load_object_from_file
import jobflow, atomate2
lp = LaunchPad.from_file(LAUNCHPAD_LOC)
q = load_object_from_file(CONFIG_FILE_DIR + "/my_qadapter.yaml")
script = q.get_script_str(CONFIG_FILE_DIR)
store = jobflow.SETTINGS.JOB_STORE.docs_store
print(json.dumps([lp.name, lp.host, FWorker.from_file(CONFIG_FILE_DIR + "/my_fworker_gpu.yaml").category, script,
                  type(store).__name__, store.collection_name, atomate2.SETTINGS.VASP_CMD]))
lp.connection.close()
"""
    environment = os.environ | {
        "FW_CONFIG_FILE": str(folder / "FW_config.yaml"),
        "JOBFLOW_CONFIG_FILE": str(folder / "jobflow.yaml"),
        "ATOMATE2_CONFIG_FILE": str(folder / "atomate2.yaml"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, host, category, script, store, collection, vasp = yaml.safe_load(done.stdout.splitlines()[-1])
    assert (name, category, store, collection) == ("aqvolt", "gpu", "ConfiguredMongoStore", "outputs")
    assert host.startswith("mongodb://127.0.0.1:")
    assert vasp == "srun vasp_std"
    assert "#SBATCH --ntasks=32" in script
    assert f"export AQVOLT_CONFIG_FILE={folder}/aqvolt.yaml" in script
    assert f"{sys.executable} -m aqvolt_launch work --category vasp --until-empty" in script
    assert "$${" not in script


def test_init_again_changes_nothing_and_overwrites_nothing(project: Path) -> None:
    init_project(project)
    before = contents(project)
    assert summary(init_project(project)) == {"written": 0, "replaced": 0, "unchanged": len(FILES)}
    (project / "aqvolt.yaml").write_text("campaign: demo\n")
    assert summary(init_project(project))["unchanged"] == len(FILES), "aqvolt.yaml is the user's"
    (project / "my_qadapter.yaml").write_text("nodes: 9\n")
    (project / "my_fworker_cpu.yaml").unlink()
    with pytest.raises(ConfigError, match=r"my_qadapter.yaml in .*nothing was written; .*--force"):
        init_project(project)
    assert not (project / "my_fworker_cpu.yaml").exists()
    assert (project / "my_qadapter.yaml").read_text() == "nodes: 9\n"
    assert summary(init_project(project, force=True)) == {"written": 1, "replaced": 2, "unchanged": len(FILES) - 3}
    assert contents(project).keys() == before.keys()
    assert contents(project)["my_qadapter.yaml"] == before["my_qadapter.yaml"]


def test_no_password_is_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQVOLT_MONGO_URI", "mongodb://ann:s3cret%40x@db.example.org:27017/halides?authSource=admin")
    init_project(project)
    text = b"".join(contents(project).values()).decode()
    assert "s3cret" not in text
    assert "ann" not in yaml.safe_load((project / "my_launchpad.yaml").read_text())["host"]
    launchpad = yaml.safe_load((project / "my_launchpad.yaml").read_text())
    assert launchpad["host"] == "mongodb://db.example.org:27017/halides?authSource=admin"
    assert launchpad["name"] == "halides"
    assert without_credentials("mongodb+srv://a:b@c/d") == "mongodb+srv://c/d"


def test_address_of_the_embedded_database_is_kept_up_to_date(project: Path) -> None:
    init_project(project)
    settings = load_settings()
    settings.server_file.parent.mkdir(parents=True)
    settings.server_file.write_text('{"uri": "mongodb://127.0.0.1:4321/aqvolt?directConnection=true"}')
    assert summary(init_project(project)) == {"written": 0, "replaced": 1, "unchanged": len(FILES) - 1}
    assert yaml.safe_load((project / "my_launchpad.yaml").read_text())["host"] == settings.database_uri()


def test_init_refuses_what_it_cannot_use(project: Path) -> None:
    (project / "file").touch()
    with pytest.raises(ResourceError, match="choose another folder"):
        init_project(project / "file" / "x")
    with pytest.raises(ConfigError, match="no campaign file nonsense"):
        init_project(project / "x", campaign="nonsense")
    assert [path.name for path in project.iterdir()] == ["file"]


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


def test_doctor_exit_code(project: Path) -> None:
    app = typer.Typer()
    project_commands.register(app)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert {row["status"] for row in yaml.safe_load(done.stdout)} >= {"ok", "fail"}
