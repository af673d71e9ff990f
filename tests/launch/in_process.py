"""Commands run in the process of a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.testing import CliRunner


def command_of(*modules: Any) -> Callable[..., str]:
    """Return what runs a command of these modules, and returns what it printed or raises its one-sentence error."""
    app = typer.Typer(pretty_exceptions_enable=False)
    for module in modules:
        module.register(app)

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run
