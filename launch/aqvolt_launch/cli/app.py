"""The root of the command line and the one place where errors become sentences."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aqvolt_flows import __version__
from aqvolt_flows.errors import AqvoltError
from aqvolt_launch import logs
from aqvolt_launch.cli import output

app = typer.Typer(
    name="aqvolt",
    help="Workflows that make machine-learning datasets and potentials for solid electrolytes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


#: Packages whose version decides what comes out, in the order in which they are printed; absent ones are left out.
_PACKAGES = (
    "pymatgen", "ase", "numpy", "scikit-learn", "jobflow", "fireworks", "maggma", "atomate2", "custodian",
    "torch", "torch-sim-atomistic", "sevenn", "chgnet", "matgl", "fairchem-core", "gpaw",
    "SecantusDB", "duckdb", "huggingface-hub",
)  # fmt: skip


def _version(value: bool) -> None:
    if value:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        output.say(f"aqvolt-flows {__version__}")
        output.say(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
        for name in _PACKAGES:
            try:
                output.say(f"{name} {version(name)}")
            except PackageNotFoundError:
                continue
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001 - its callback prints
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the versions of what matters and exit."
        ),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level",
            help="Log lines on standard error from here on: debug, info, warning, error. Default: AQVOLT_LOG_LEVEL, or "
            "warning.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Workflows that make machine-learning datasets and potentials for solid electrolytes."""
    logs.configure(log_level)


def main() -> None:
    """Run the command line; a user's mistake prints one sentence on stderr and exits with code 2."""
    from aqvolt_launch.cli import commands

    commands.register(app)
    try:
        app()
    except AqvoltError as error:
        output.complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        output.complain("Interrupted; what was finished is kept, and the same command continues from there.")
        sys.exit(130)
