"""Which commands need a project folder, and the one sentence for people who are not in one."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer

#: Either of these makes an environment a project without a file, as in containers.
_VARIABLES = ("AQVOLT_MONGO_URI", "AQVOLT_ROOT")
_ANYWHERE = "__aqvolt_anywhere__"


def anywhere[Command: Callable[..., Any]](command: Command) -> Command:
    """Mark a command that works outside a project, or asks :func:`require_project` itself when it needs one."""
    setattr(command, _ANYWHERE, True)
    return command


def in_project() -> bool:
    """Return whether an ``aqvolt.yaml`` is found from here, or the environment names database or folder."""
    from aqvolt_flows.settings import find_config

    return find_config() is not None or any(os.environ.get(name) for name in _VARIABLES)


def require_project() -> None:
    """Raise where there is no project, before anything is written.

    Raises
    ------
    ConfigError
        If no ``aqvolt.yaml`` is in the working directory or above it, and the environment names no database or folder.
    """
    from aqvolt_flows.errors import ConfigError
    from aqvolt_flows.settings import CONFIG_NAME

    if in_project():
        return
    here = Path.cwd()
    below = sorted(path.parent.name for path in here.glob(f"*/{CONFIG_NAME}"))
    hint = f"run 'cd {below[0]}' first" if below else "run 'aqvolt init DIR' and 'cd DIR' first"
    raise ConfigError(f"This is not a project: no {CONFIG_NAME} in {here} or above it; {hint}.")


def guard(app: typer.Typer) -> None:
    """Make every command of an application ask for a project before it runs, but those marked :func:`anywhere`.

    Groups are copied: their modules share them with other applications.
    """
    app.registered_commands = [_guarded(info) for info in app.registered_commands]
    app.registered_groups = [copy.copy(group) for group in app.registered_groups]
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.typer_instance = copy.copy(group.typer_instance)
            guard(group.typer_instance)


def _guarded(info: Any) -> Any:
    """Return a command's entry whose callback asks for a project first."""
    command = info.callback
    if command is None or hasattr(command, _ANYWHERE):
        return info

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        require_project()
        return command(*args, **kwargs)

    made = copy.copy(info)
    made.callback = run
    return made
