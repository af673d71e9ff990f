"""A folder to publish, and places to publish it to."""

from __future__ import annotations

from pathlib import Path

import publishable
import pytest
import servers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to publish."""
    return publishable.make(tmp_path / "halides")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A Hub on this machine; the client has a token and uses plain HTTP."""
    from huggingface_hub import constants

    with servers.running(servers.Hub()) as service:
        monkeypatch.setenv("HF_ENDPOINT", service.url)
        monkeypatch.setenv("HF_TOKEN", servers.TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield service


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch):
    with servers.running(servers.Zenodo()) as service:
        monkeypatch.setenv("ZENODO_URL", f"{service.url}/api")
        monkeypatch.setenv("ZENODO_TOKEN", servers.TOKEN)
        yield service
