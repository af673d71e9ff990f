"""``aqvolt init``: files that their programs read, and that nobody's edits are lost to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trivial_jobs
import yaml

import aqvolt_flows
from aqvolt_flows.errors import ConfigError, ResourceError
from aqvolt_flows.settings import load_settings
from aqvolt_flows.stores import close_clients
from aqvolt_launch.chain import campaign_for
from aqvolt_launch.embedded import server as embedded
from aqvolt_launch.launchpad import close_launchpads, get_launchpad
from aqvolt_launch.project.folder import FILES, TEMPLATE_FILES, init_project, summary, without_credentials
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


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
    assert (
        f'exec {sys.executable} -m aqvolt_launch work --category "${{AQVOLT_CATEGORY:-vasp}}" --until-empty' in script
    )
    assert "#SBATCH --signal=B:TERM@120" in script
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
    settings.server_file.write_text('{"uri": "mongodb://127.0.0.1:4321/aqvolt?directConnection=true"}')
    assert summary(init_project(project)) == {"written": 0, "replaced": 1, "unchanged": len(FILES) - 1}
    assert yaml.safe_load((project / "my_launchpad.yaml").read_text())["host"] == settings.database_uri()


def test_files_as_version_0_1_wrote_them_are_brought_up_to_date(project: Path) -> None:
    """The text of 0.1's FW_config.yaml; one that the user changed stays."""
    init_project(project)
    now = (project / "FW_config.yaml").read_text()
    private = project / ".aqvolt/db/my_launchpad.yaml"
    before = now.replace(str(private), f"{project}/my_launchpad.yaml").partition("# A sign of life")[0]
    assert before != now
    assert private.stat().st_mode & 0o777 == 0o600
    (project / "FW_config.yaml").write_text(before)
    assert summary(init_project(project)) == {"written": 0, "replaced": 1, "unchanged": len(FILES) - 1}
    assert (project / "FW_config.yaml").read_text() == now
    (project / "FW_config.yaml").write_text(before + "RAPIDFIRE_SLEEP_SECS: 9\n")
    with pytest.raises(ConfigError, match=r"FW_config.yaml in .*--force"):
        init_project(project)


def test_init_refuses_what_it_cannot_use(project: Path) -> None:
    (project / "file").touch()
    with pytest.raises(ResourceError, match="choose another folder"):
        init_project(project / "file" / "x")
    with pytest.raises(ConfigError, match="no campaign file nonsense"):
        init_project(project / "x", campaign="nonsense")
    assert [path.name for path in project.iterdir()] == ["file"]


def test_a_campaign_is_copied_and_named(project: Path) -> None:
    rows = init_project(project / "s", campaign="sulfide", copy_campaign=True)
    assert Path(rows[-1]["file"]).name == "sulfide.yaml"
    settings = load_settings(project / "s" / "aqvolt.yaml")
    assert settings.campaign == "sulfide.yaml"
    shipped = (Path(aqvolt_flows.__file__).parent / "campaigns" / "sulfide.yaml").read_text()
    copy = project / "s" / "sulfide.yaml"
    assert copy.read_text() == shipped
    assert campaign_for(settings).name == "sulfide"
    copy.write_text(shipped.replace("n_steps: 50000", "n_steps: 7"))
    for force in (False, True):
        init_project(project / "s", campaign="sulfide", copy_campaign=True, force=force)
        assert campaign_for(settings).exploration.n_steps == 7, "an edited campaign is never replaced"


def test_a_campaign_file_from_elsewhere_is_copied_and_one_inside_is_named(project: Path) -> None:
    mine = project / "mine.yaml"
    mine.write_text("name: mine\n")
    init_project(project / "p", campaign="mine.yaml", copy_campaign=True)
    assert (project / "p" / "mine.yaml").read_text() == "name: mine\n"
    assert campaign_for(load_settings(project / "p" / "aqvolt.yaml")).name == "mine"
    (project / "q" / "campaigns").mkdir(parents=True)
    (project / "q" / "campaigns" / "own.yaml").write_text("name: own\n")
    init_project(project / "q", campaign="q/campaigns/own.yaml", copy_campaign=True)
    assert load_settings(project / "q" / "aqvolt.yaml").campaign == "campaigns/own.yaml"
    assert not (project / "q" / "own.yaml").exists()


def test_a_folder_for_a_laptop_has_no_queue_and_stays_one(project: Path) -> None:
    init_project(project, template="laptop")
    assert set(contents(project)) == set(TEMPLATE_FILES["laptop"])
    config = yaml.safe_load((project / "FW_config.yaml").read_text())
    assert Path(config["FWORKER_LOC"]).is_file()
    assert "QUEUEADAPTER_LOC" not in config
    assert summary(init_project(project))["unchanged"] == len(TEMPLATE_FILES["laptop"])
    init_project(project, template="slurm", force=True)
    assert set(contents(project)) == set(FILES)
    config = yaml.safe_load((project / "FW_config.yaml").read_text())
    assert Path(config["QUEUEADAPTER_LOC"]).is_file()
    with pytest.raises(ConfigError, match="no template 'pc'; expected slurm or laptop"):
        init_project(project / "x", template="pc")


def test_a_new_folder_takes_nothing_from_a_project_above_it(project: Path) -> None:
    (project / "aqvolt.yaml").write_text("campaign: demo\nmongo_uri: mongodb://above.example.org/outer\n")
    init_project(project / "below")
    assert load_settings(project / "below" / "aqvolt.yaml").campaign == "aqvolt26"
    assert "above.example.org" not in (project / "below" / "my_launchpad.yaml").read_text()


def test_a_folder_that_was_moved_is_brought_up_to_date_and_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database, its Fireworks and its artifacts come along; nothing in it names the old place afterwards."""
    here, there = project / "here", project / "elsewhere" / "there"
    monkeypatch.setenv("AQVOLT_JOB_PACKAGES", "trivial_jobs")
    init_project(here)
    monkeypatch.chdir(here)
    settings = load_settings()
    embedded.start(settings)
    submit([trivial_jobs.add_item(n) for n in range(2)], settings)
    assert work(settings, max_launches=1).completed == 1
    close_clients()
    close_launchpads()
    embedded.stop(settings)
    there.parent.mkdir()
    monkeypatch.chdir(project)
    here.rename(there)
    monkeypatch.chdir(there)
    moved = load_settings()
    try:
        embedded.start(moved)
        assert work(moved, until_empty=True).completed == 1
        assert submit([trivial_jobs.add_item(n) for n in range(2)], moved).submitted == 0
        assert get_launchpad(moved).workflows.count_documents({"state": "COMPLETED"}) == 2
        assert summary(init_project(there))["replaced"] >= 5, "without --force"
        assert not any(str(here).encode() in text for text in contents(there).values())
        (there / "workers_laptop.sh").write_text("mine")
        with pytest.raises(ConfigError, match=r"workers_laptop.sh in"):
            init_project(there)
    finally:
        close_clients()
        close_launchpads()
        embedded.stop(moved)
