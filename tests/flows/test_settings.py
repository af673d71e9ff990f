"""Settings: precedence, discovery, and mistakes in one sentence."""

from __future__ import annotations

import json

import pytest

from aqvolt_flows.errors import ConfigError, DatabaseError
from aqvolt_flows.settings import find_config, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in ("AQVOLT_CONFIG_FILE", "AQVOLT_MONGO_URI", "AQVOLT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_nearest_file_upwards_counts_and_paths_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "aqvolt.yaml").write_text("campaign: demo\nartifact_root: things\n")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_config() == tmp_path / "aqvolt.yaml"
    settings = load_settings()
    assert settings.campaign == "demo"
    assert settings.artifact_url == str(tmp_path / "things")


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    (tmp_path / "aqvolt.yaml").write_text("mongo_uri: mongodb://file/\n")
    monkeypatch.setenv("AQVOLT_MONGO_URI", "mongodb://environment/")
    assert load_settings().database_uri() == "mongodb://environment/"


def test_without_a_uri_the_embedded_servers_record_is_read(tmp_path):
    settings = load_settings(None, root=tmp_path)
    with pytest.raises(DatabaseError, match="aqvolt db start"):
        settings.database_uri()
    settings.server_file.parent.mkdir(parents=True)
    settings.server_file.write_text(json.dumps({"uri": "mongodb://127.0.0.1:1/aqvolt"}))
    assert settings.database_uri() == "mongodb://127.0.0.1:1/aqvolt"
    settings.server_file.write_text("{")
    with pytest.raises(DatabaseError, match="not a server record"):
        settings.database_uri()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mongo_url: x\n", "mongo_url is not a setting"),
        ("timeout_s: -1\n", "timeout_s is wrong"),
        ("- x\n", "holds a list"),
        ("a: [", "YAML"),
    ],
)
def test_mistakes_in_the_file_are_one_sentence(tmp_path, text, said):
    (tmp_path / "aqvolt.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_variable_that_names_nothing_is_said(monkeypatch):
    monkeypatch.setenv("AQVOLT_CONFIG_FILE", "/nowhere/aqvolt.yaml")
    with pytest.raises(ConfigError, match="not a file"):
        load_settings()
